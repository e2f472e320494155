package oci

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pratique-io/pratique/internal/egress"
)

// internet is a round tripper over handlers per "scheme://host"; it records what was sent where.
type internet struct {
	mu    sync.Mutex
	hosts map[string]http.HandlerFunc
	sent  []*http.Request
}

func (n *internet) RoundTrip(req *http.Request) (*http.Response, error) {
	n.mu.Lock()
	n.sent = append(n.sent, req)
	h := n.hosts[req.URL.Scheme+"://"+req.URL.Host]
	n.mu.Unlock()
	if h == nil {
		return nil, fmt.Errorf("no route to %s", req.URL.Host)
	}
	if req.Body == nil {
		req.Body = http.NoBody
	}
	rec := httptest.NewRecorder()
	h(rec, req)
	_ = req.Body.Close()
	return rec.Result(), nil
}

func (n *internet) at(host string) (out []*http.Request) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, r := range n.sent {
		if r.URL.Host == host {
			out = append(out, r)
		}
	}
	return out
}

// repo gives a repository "app" at https://reg.example with a credential, and the waits it would have made.
func (n *internet) repo(cred Credential, opts ...Option) (*Repository, *[]time.Duration) {
	c, waits := quick(opts...)
	c.rt = n
	return c.Repository("reg.example", "app", cred), waits
}

const secretUser, secretPass = "up-user", "hunter2-canary"

var secret = Credential{Username: secretUser, Password: secretPass}

func serveManifest(w http.ResponseWriter) {
	w.Header().Set("Content-Type", MediaTypeImage)
	_, _ = io.WriteString(w, goodImage)
}

func redirectTo(location string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Location", location)
		w.WriteHeader(http.StatusTemporaryRedirect)
	}
}

// asks answers 401 with the challenge until the authorization is as wanted.
func asks(challenge, wanted string, then http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") == wanted {
			then(w, r)
			return
		}
		w.Header().Set("WWW-Authenticate", challenge)
		w.WriteHeader(http.StatusUnauthorized)
	}
}

func TestRetriesAreBoundedAndHonourRetryAfter(t *testing.T) {
	t.Parallel()
	answer := func(status int, after string, times int) (*internet, *Repository, *[]time.Duration) {
		n := &internet{}
		n.hosts = map[string]http.HandlerFunc{"https://reg.example": func(w http.ResponseWriter, _ *http.Request) {
			if len(n.sent) > times {
				serveManifest(w)
				return
			}
			if after != "" {
				w.Header().Set("Retry-After", after)
			}
			w.WriteHeader(status)
			_, _ = io.WriteString(w, `{"errors":[{"code":"TOOMANYREQUESTS","message":"\u001b[31m"}]}`)
		}}
		r, waits := n.repo(Credential{})
		return n, r, waits
	}
	_, r, waits := answer(429, "7", 2)
	_, _, err := r.Resolve(t.Context(), "v1")
	require.NoError(t, err)
	require.Equal(t, []time.Duration{7 * time.Second, 7 * time.Second}, *waits)

	n, r, waits := answer(429, "3600", 99)
	_, _, err = r.Resolve(t.Context(), "v1")
	var limited ErrRateLimited
	require.ErrorAs(t, err, &limited)
	require.Equal(t, time.Hour, limited.RetryAfter)
	require.ErrorIs(t, err, ErrRateLimited{})
	require.Len(t, n.sent, 1, "too long to wait for")
	require.Empty(t, *waits)
	var failure *Failure
	require.ErrorAs(t, err, &failure)
	require.Equal(t, "TOOMANYREQUESTS", failure.Code)

	for _, status := range []int{500, 502, 503, 504} {
		n, r, waits = answer(status, "", 99)
		_, _, err = r.Resolve(t.Context(), "v1")
		require.ErrorIs(t, err, ErrUnavailable)
		require.Len(t, n.sent, 4)
		require.Len(t, *waits, 3)
	}
	for status, want := range map[int]error{404: ErrNotFound, 403: ErrUnauthorized, 400: ErrProtocol, 405: ErrUnsupported, 418: ErrProtocol} {
		n, r, _ = answer(status, "1", 99)
		_, _, err = r.Resolve(t.Context(), "v1")
		require.ErrorIs(t, err, want)
		require.Len(t, n.sent, 1)
	}

	_, r, _ = answer(503, "", 99)
	ctx, cancel := context.WithCancel(t.Context())
	r.client.sleep = func(ctx context.Context, _ time.Duration) error { cancel(); return ctx.Err() }
	_, _, err = r.Resolve(ctx, "v1")
	require.ErrorIs(t, err, context.Canceled)

	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	for v, want := range map[string]time.Duration{
		"": 0, "-5": 0, "x": 0, "5": 5 * time.Second, "99999999": 24 * time.Hour, "99999999999999999999": 0,
		"Thu, 01 Jan 2026 00:01:00 GMT": time.Minute, "Wed, 31 Dec 2025 00:00:00 GMT": 0, "Thu, 01 Jan 2099 00:00:00 GMT": 24 * time.Hour,
	} {
		require.Equal(t, want, retryAfter(http.Header{"Retry-After": {v}}, now), v)
	}
}

// fixed resolves every name to one address.
type fixed netip.Addr

func (f fixed) LookupNetIP(context.Context, string, string) ([]netip.Addr, error) {
	return []netip.Addr{netip.Addr(f)}, nil
}

func TestEverySeamGoesThroughEgress(t *testing.T) {
	t.Parallel()
	reg := newRegistry(t, nil)
	private := []string{"http://127.0.0.1:1/x", "http://localhost:22/x", "http://[::1]:80/x", "https://10.0.0.1/x", "https://169.254.169.254/x",
		"https://192.168.1.1/x", "https://100.64.0.1/x", "https://[fd00::1]/x", "https://[::ffff:127.0.0.1]/x", "https://[64:ff9b::7f00:1]/x", "https://rebound.example/x"}
	for _, location := range private {
		for _, seam := range []string{"manifest redirect", "blob redirect", "upload", "realm"} {
			var dialled []string
			e, err := egress.New(egress.Config{
				Policies: map[egress.Purpose]egress.Policy{egress.Source: {Allowed: []string{reg.host()}}},
				Resolver: fixed(netip.MustParseAddr("10.0.0.9")),
				Dial: func(ctx context.Context, network, address string) (net.Conn, error) {
					dialled = append(dialled, address)
					return (&net.Dialer{}).DialContext(ctx, network, address)
				},
			})
			require.NoError(t, err)
			reg.intercept(func(w http.ResponseWriter, r *http.Request) bool {
				switch {
				case seam == "realm":
					w.Header().Set("WWW-Authenticate", `Bearer realm="`+location+`"`)
					w.WriteHeader(http.StatusUnauthorized)
				case r.Method == http.MethodPost:
					w.Header().Set("Location", location)
					w.WriteHeader(http.StatusAccepted)
				default:
					redirectTo(location)(w, r)
				}
				return true
			})
			c := NewClient(e.Transport(egress.Source), WithRealm(reg.host(), strings.Split(location, "/")[2]))
			c.sleep = func(context.Context, time.Duration) error { t.Error("a refusal is not retried"); return nil }
			r := c.Repository(reg.host(), "app", secret)
			d := Descriptor{Digest: FromBytes([]byte("x")), Size: 1}
			switch seam {
			case "blob redirect":
				_, err = r.Blob(t.Context(), d)
			case "upload":
				err = r.PushBlob(t.Context(), d, strings.NewReader("x"))
			default:
				_, _, err = r.Resolve(t.Context(), "v1")
			}
			var refused *egress.Refused
			require.ErrorAs(t, err, &refused, "%s to %s", seam, location)
			require.False(t, errors.Is(err, ErrUnavailable))
			require.Equal(t, []string{reg.host()}, dialled, "%s to %s", seam, location)
		}
	}
}
