package oci

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"sync"
	"time"

	"golang.org/x/net/publicsuffix"
)

const (
	maxTokenAnswer = 64 << 10
	maxToken       = 16 << 10
)

type token struct {
	header  string
	expires time.Time
}

// authorizer turns challenges of one registry into Authorization headers, once per scope.
type authorizer struct {
	client   *Client
	host     string // as named by the caller
	endpoint *url.URL
	cred     Credential
	mu       *sync.Mutex // held while a token is fetched: workers wait for one token instead of asking for eight
	tokens   map[string]token
	basic    bool // the registry asked for Basic
}

// mayConfide reports whether a credential may be sent to u: never in plain HTTP, but on this machine.
func mayConfide(u *url.URL) bool { return u.Scheme == "https" || isLoopback(u.Host) }

func (a *authorizer) anonymous() bool { return a.cred == Credential{} }

func (a *authorizer) basicHeader() string {
	return "Basic " + base64.StdEncoding.EncodeToString([]byte(a.cred.Username+":"+a.cred.Password))
}

// ready returns the header to send at once, or "".
func (a *authorizer) ready(scopes []string) string {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.cached(strings.Join(scopes, " "))
}

func (a *authorizer) cached(key string) string {
	if a.cred.Username == "" && a.cred.Password != "" && mayConfide(a.endpoint) {
		return "Bearer " + a.cred.Password
	}
	if a.basic {
		return a.basicHeader()
	}
	if t, ok := a.tokens[key]; ok && a.client.now().Before(t.expires) {
		return t.header
	}
	return ""
}

// forget drops a token that was refused.
func (a *authorizer) forget(scopes []string, refused string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if key := strings.Join(scopes, " "); a.tokens[key].header == refused {
		delete(a.tokens, key)
	}
}

// answer returns a header that answers the challenges; refused is what was sent before and did not suffice.
func (a *authorizer) answer(ctx context.Context, challenges []challenge, scopes []string, refused string) (string, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	key := strings.Join(scopes, " ")
	if h := a.cached(key); h != "" && h != refused {
		return h, nil // another worker was faster
	}
	delete(a.tokens, key)
	if refused != "" && (a.basic || a.cred.Username == "" && a.cred.Password != "") {
		return "", a.unauthorized("it was refused")
	}
	for _, c := range challenges {
		if c.scheme == "bearer" {
			t, err := a.fetch(ctx, c, scopes)
			if err != nil {
				return "", err
			}
			a.tokens[key] = t
			return t.header, nil
		}
	}
	for _, c := range challenges {
		if c.scheme != "basic" {
			continue
		}
		if a.anonymous() || !mayConfide(a.endpoint) {
			return "", a.unauthorized("it needs one, over HTTPS")
		}
		a.basic = true
		return a.basicHeader(), nil
	}
	return "", a.unauthorized("it asks for no scheme we know")
}

func (a *authorizer) unauthorized(why string) error {
	return &Failure{Op: "authorize", Host: a.host, Status: http.StatusUnauthorized, Err: fmt.Errorf("%w: %s", ErrUnauthorized, why)}
}

// fetch asks the token service. The scope is ours, not the challenge's: a registry must not choose what our credential
// is used for.
func (a *authorizer) fetch(ctx context.Context, c challenge, scopes []string) (token, error) {
	realm, err := a.realm(c.params["realm"])
	if err != nil {
		return token{}, &Failure{Op: "authorize", Host: a.host, Err: err}
	}
	q := realm.Query()
	if s := c.params["service"]; s != "" {
		q.Set("service", s)
	}
	q["scope"] = scopes
	realm.RawQuery = q.Encode()
	req := &http.Request{Method: http.MethodGet, URL: realm, Host: realm.Host, Header: http.Header{"User-Agent": {userAgent}, "Accept": {"application/json"}}}
	if !a.anonymous() {
		if !mayConfide(realm) || !mayConfide(a.endpoint) {
			return token{}, a.unauthorized("a credential is not sent over plain HTTP")
		}
		req.Header.Set("Authorization", a.basicHeader())
	}
	r := &Repository{client: a.client, host: a.host, endpoint: a.endpoint}
	resp, err := a.client.rt.RoundTrip(req.WithContext(ctx))
	if err != nil {
		return token{}, r.transportError(ctx, "fetch token", err)
	}
	if resp.StatusCode != http.StatusOK {
		return token{}, r.statusError("fetch token", resp, retryAfter(resp.Header, a.client.now()))
	}
	defer resp.Body.Close()
	return a.read(resp.Body)
}

func (a *authorizer) read(body io.Reader) (token, error) {
	var answer struct {
		Token       string  `json:"token"`
		AccessToken string  `json:"access_token"`
		ExpiresIn   float64 `json:"expires_in"` // seconds
	}
	raw, err := io.ReadAll(io.LimitReader(body, maxTokenAnswer+1))
	if err != nil {
		return token{}, &Failure{Op: "fetch token", Host: a.host, Err: fmt.Errorf("%w: %w", ErrUnavailable, err)}
	}
	malformed := &Failure{Op: "fetch token", Host: a.host, Err: fmt.Errorf("%w: a malformed token", ErrProtocol)}
	if len(raw) > maxTokenAnswer || json.Unmarshal(raw, &answer) != nil {
		return token{}, malformed
	}
	value := answer.Token
	if value == "" {
		value = answer.AccessToken
	}
	if value == "" || len(value) > maxToken {
		return token{}, malformed
	}
	for _, c := range []byte(value) {
		if c <= ' ' || c >= 0x7f {
			return token{}, malformed
		}
	}
	life := 60 * time.Second // the specification's default
	if answer.ExpiresIn >= 1 {
		life = time.Duration(min(answer.ExpiresIn, 3600)) * time.Second
	}
	life -= min(life/4, 15*time.Second) // so that it does not end on the way
	return token{header: "Bearer " + value, expires: a.client.now().Add(life)}, nil
}

// realm accepts a token service on the registry's own host or registrable domain, or one configured for it.
func (a *authorizer) realm(s string) (*url.URL, error) {
	refused := fmt.Errorf("%w: token realm %s does not belong to the registry", ErrProtocol, clip(s))
	if s == "" || len(s) > maxLocation {
		return nil, refused
	}
	u, err := url.Parse(s)
	if err != nil || u.User != nil || u.Fragment != "" || u.Opaque != "" {
		return nil, refused
	}
	host, err := parseHost(u.Host)
	if err != nil {
		return nil, refused
	}
	u.Host = host
	if u.Scheme != "https" && (u.Scheme != "http" || a.endpoint.Scheme == "https" || !a.client.plain(host)) {
		return nil, refused
	}
	if host == a.endpoint.Host || a.configured(host) || kin(host, a.endpoint.Host) {
		return u, nil
	}
	return nil, refused
}

func (a *authorizer) configured(realm string) bool {
	for _, of := range []string{a.host, a.endpoint.Host} {
		for _, h := range a.client.realms[of] {
			if strings.EqualFold(h, realm) {
				return true
			}
		}
	}
	return false
}

// kin reports whether two hosts share a registrable domain. Addresses and single labels have none: there only the exact
// host and port is kin to itself.
func kin(a, b string) bool {
	a, b = hostOnly(a), hostOnly(b)
	for _, h := range []string{a, b} {
		if _, err := netip.ParseAddr(h); err == nil || isLoopback(h) {
			return false
		}
	}
	da, errA := publicsuffix.EffectiveTLDPlusOne(a)
	db, errB := publicsuffix.EffectiveTLDPlusOne(b)
	return errA == nil && errB == nil && da == db
}
