package auth

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"
)

const (
	defaultSkew = 30 * time.Second
	maxSkew     = 5 * time.Minute
	// verified tokens are remembered this long at most, so that a withdrawn key stops working soon.
	rememberToken = time.Minute
	// rememberTokens bounds the memory; reaching it forgets all, which costs one signature check each.
	rememberTokens = 4096
)

// Issuer is one OIDC issuer whose tokens are accepted.
type Issuer struct {
	URL       string   `yaml:"url"`       // exactly as in `iss`
	Audiences []string `yaml:"audiences"` // one of these must be in `aud`
	Claims    ClaimMap `yaml:"claims"`
}

// Config is what NewVerifier needs.
type Config struct {
	Issuers  []Issuer
	Services ServiceKeys      // nil: no service may call
	Client   *http.Client     // egress of purpose oidc
	Skew     time.Duration    // tolerated difference of clocks; 0 = 30 s, at most 5 min
	Now      func() time.Time // nil = time.Now
}

// NewVerifier checks the configuration and asks nobody yet: issuers are read at their first token.
func NewVerifier(cfg Config) (*Verifiers, error) {
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Skew == 0 {
		cfg.Skew = defaultSkew
	}
	if cfg.Skew < 0 || cfg.Skew > maxSkew {
		return nil, fmt.Errorf("clock skew %s is not within 0 and %s", cfg.Skew, maxSkew)
	}
	if cfg.Client == nil && len(cfg.Issuers) > 0 {
		return nil, errors.New("issuers need an http client")
	}
	v := &Verifiers{issuers: map[string]*issuer{}, now: cfg.Now, skew: cfg.Skew, known: map[[sha256.Size]byte]knownToken{}}
	for _, i := range cfg.Issuers {
		if err := i.Check(); err != nil {
			return nil, err
		}
		if _, twice := v.issuers[i.URL]; twice {
			return nil, fmt.Errorf("issuer %s is configured twice", i.URL)
		}
		v.issuers[i.URL] = newIssuer(i, cfg.Client, cfg.Now, cfg.Skew)
	}
	if len(cfg.Services) > 0 {
		v.services = newServiceVerifier(cfg.Services, cfg.Now, cfg.Skew)
	}
	return v, nil
}

// Check says what is wrong with the configuration of an issuer.
func (i Issuer) Check() error {
	u, err := url.Parse(i.URL)
	if err != nil || u.Host == "" || (u.Scheme != "https" && u.Scheme != "http") || u.User != nil || u.RawQuery != "" || u.Fragment != "" {
		return fmt.Errorf("issuer %q is no http(s) URL without user, query and fragment", i.URL)
	}
	if strings.Contains(i.URL, "|") {
		return fmt.Errorf("issuer %q holds the character that separates issuer and subject", i.URL)
	}
	if len(i.Audiences) == 0 {
		return fmt.Errorf("issuer %s needs an audience: without one, tokens meant for others would be accepted", i.URL)
	}
	for _, a := range i.Audiences {
		if a == "" {
			return fmt.Errorf("issuer %s has an empty audience", i.URL)
		}
	}
	return nil
}

// Verifiers verifies tokens of people and workloads (OIDC) and of Pratique's services, told apart by issuer. Safe for
// concurrent use.
type Verifiers struct {
	issuers  map[string]*issuer
	services *serviceVerifier
	now      func() time.Time
	skew     time.Duration

	mu    sync.Mutex
	known map[[sha256.Size]byte]knownToken
}

type knownToken struct {
	principal Principal
	until     time.Time
}

var _ Verifier = (*Verifiers)(nil)

// Verify implements Verifier. Every refusal is `unauthorized` with a constant text; the cause is for the log.
func (v *Verifiers) Verify(ctx context.Context, token string) (Principal, error) {
	if len(token) > MaxToken {
		return Principal{}, refused(fmt.Errorf("token has %d bytes", len(token)))
	}
	key := sha256.Sum256([]byte(token))
	if p, ok := v.recall(key); ok {
		return p, nil
	}
	p, err := v.verify(ctx, token)
	if err != nil {
		return Principal{}, err
	}
	v.note(key, p)
	return p, nil
}

func (v *Verifiers) verify(ctx context.Context, token string) (Principal, error) {
	iss, err := issuerOf(token)
	if err != nil {
		return Principal{}, refused(err)
	}
	if iss == ServiceIssuer {
		if v.services == nil {
			return Principal{}, refused(errors.New("no service keys are configured"))
		}
		return v.services.verify(token)
	}
	known, ok := v.issuers[iss]
	if !ok {
		return Principal{}, refused(errors.New("issuer is not configured"))
	}
	return known.verify(ctx, token)
}

func (v *Verifiers) recall(key [sha256.Size]byte) (Principal, bool) {
	v.mu.Lock()
	defer v.mu.Unlock()
	k, ok := v.known[key]
	if !ok || !v.now().Before(k.until) {
		return Principal{}, false
	}
	return k.principal, true
}

func (v *Verifiers) note(key [sha256.Size]byte, p Principal) {
	until := v.now().Add(rememberToken)
	if end := p.Expires.Add(v.skew); end.Before(until) {
		until = end
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	if len(v.known) >= rememberTokens {
		clear(v.known)
	}
	v.known[key] = knownToken{principal: p, until: until}
}
