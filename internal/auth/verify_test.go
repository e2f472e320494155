package auth_test

import (
	"context"

	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"math/big"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/stretchr/testify/require"

	errorsv1 "github.com/pratique-io/pratique/gen/pratique/errors/v1"
	"github.com/pratique-io/pratique/internal/auth"
	"github.com/pratique-io/pratique/internal/auth/devissuer"
	"github.com/pratique-io/pratique/internal/fault"
)

// testIssuer is an OIDC issuer over HTTP whose keys, answers and count of fetches the test controls.
type testIssuer struct {
	url     string
	ec      *ecdsa.PrivateKey
	fetches atomic.Int64
	down    atomic.Bool
	handler atomic.Pointer[http.Handler]
}

func newKey(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	return key
}

func newTestIssuer(t *testing.T) *testIssuer {
	t.Helper()
	i := &testIssuer{ec: newKey(t)}
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		i.fetches.Add(1)
		if i.down.Load() {
			http.Error(w, "down", http.StatusBadGateway)
			return
		}
		(*i.handler.Load()).ServeHTTP(w, r)
	}))
	t.Cleanup(srv.Close)
	i.url = srv.URL
	h, err := devissuer.Handler(i.url, &i.ec.PublicKey)
	require.NoError(t, err)
	i.handler.Store(&h)
	return i
}

func (i *testIssuer) claims() jwt.MapClaims {
	now := time.Now()
	return jwt.MapClaims{"iss": i.url, "sub": "ann", "aud": "pratique", "iat": now.Unix(), "exp": now.Add(time.Hour).Unix()}
}

func newVerifier(t *testing.T, cfg auth.Config) *auth.Verifiers {
	t.Helper()
	if cfg.Client == nil {
		cfg.Client = http.DefaultClient
	}
	v, err := auth.NewVerifier(cfg)
	require.NoError(t, err)
	return v
}

func (i *testIssuer) verifier(t *testing.T) *auth.Verifiers {
	return newVerifier(t, auth.Config{Issuers: []auth.Issuer{{URL: i.url, Audiences: []string{"pratique"}}}})
}

func TestAGoodTokenNamesItsPrincipal(t *testing.T) {
	t.Parallel()
	i := newTestIssuer(t)
	token, err := devissuer.Mint(i.ec, i.url, "ann", "Ann", "ann@example.org", []string{"team-a", "team-b"}, time.Hour)
	require.NoError(t, err)
	v := i.verifier(t)
	require.Zero(t, i.fetches.Load(), "nothing is asked before the first token")
	p, err := v.Verify(t.Context(), token)
	require.NoError(t, err)
	require.Equal(t, i.url+"|ann", p.Subject)
	require.Equal(t, "Ann", p.Name)
	require.Equal(t, "ann@example.org", p.Email)
	require.Equal(t, []string{"team-a", "team-b"}, p.Groups)
	require.Empty(t, p.Service)
	require.WithinDuration(t, time.Now().Add(time.Hour), p.Expires, 5*time.Second)
	before := i.fetches.Load()
	_, err = v.Verify(t.Context(), token)
	require.NoError(t, err)
	require.Equal(t, before, i.fetches.Load())
}

func TestClaimsAreMappedPerIssuer(t *testing.T) {
	t.Parallel()
	i := newTestIssuer(t)
	v := newVerifier(t, auth.Config{Issuers: []auth.Issuer{{
		URL: i.url, Audiences: []string{"other", "ci"},
		Claims: auth.ClaimMap{Subject: "workload", Name: "job.name", Email: "mail", Groups: "realm.roles", Tenant: "team"},
	}}})
	claims := i.claims()
	claims["aud"] = []string{"x", "ci"}
	claims["workload"], claims["mail"], claims["team"] = "repo:acme/app", "ci@example.org", "blue"
	claims["job"] = map[string]any{"name": "build\x00\n me"}
	claims["realm"] = map[string]any{"roles": []any{"one", 2, "", "bad\x00", "three"}}
	token, err := devissuer.Sign(i.ec, claims)
	require.NoError(t, err)
	p, err := v.Verify(t.Context(), token)
	require.NoError(t, err)
	require.Equal(t, auth.Principal{
		Subject: i.url + "|repo:acme/app", Name: "build me", Email: "ci@example.org", Groups: []string{"one", "three"}, Tenant: "blue",
		Expires: p.Expires,
	}, p)
}

func TestBadTokensAreRefused(t *testing.T) {
	t.Parallel()
	i := newTestIssuer(t)
	v := newVerifier(t, auth.Config{
		Issuers:  []auth.Issuer{{URL: i.url, Audiences: []string{"pratique"}}},
		Services: auth.ServiceKeys{"dispatch": {&newKey(t).PublicKey}},
	})
	for _, a := range attacks() {
		t.Run("a token "+a.name, func(t *testing.T) {
			token := a.make(t, i, i.claims())
			p, err := v.Verify(t.Context(), token)
			require.True(t, fault.Is(err, errorsv1.Reason_REASON_UNAUTHORIZED), "%v", err)
			require.Zero(t, p)
			if token != "" {
				require.NotContains(t, err.Error(), token)
			}
		})
	}
	good, err := devissuer.Sign(i.ec, i.claims())
	require.NoError(t, err)
	_, err = v.Verify(t.Context(), good)
	require.NoError(t, err, "the honest token still passes")
}

func TestTheSameKidOfAnotherIssuerProvesNothing(t *testing.T) {
	t.Parallel()
	one, two := newTestIssuer(t), newTestIssuer(t)
	v := newVerifier(t, auth.Config{Issuers: []auth.Issuer{
		{URL: one.url, Audiences: []string{"pratique"}}, {URL: two.url, Audiences: []string{"pratique"}},
	}})
	forged := signed(t, jwt.SigningMethodES256, auth.KeyID(&one.ec.PublicKey), one.claims(), two.ec)
	_, err := v.Verify(t.Context(), forged)
	require.True(t, fault.Is(err, errorsv1.Reason_REASON_UNAUTHORIZED))
	swapped := signed(t, jwt.SigningMethodES256, auth.KeyID(&two.ec.PublicKey), one.claims(), two.ec)
	_, err = v.Verify(t.Context(), swapped)
	require.True(t, fault.Is(err, errorsv1.Reason_REASON_UNAUTHORIZED))
}

func TestRS256IsAcceptedAndItsWeakerCousinsAreNot(t *testing.T) {
	t.Parallel()
	i := newTestIssuer(t)
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	require.NoError(t, err)
	var h http.Handler = rsaIssuer(i.url, &key.PublicKey)
	i.handler.Store(&h)
	v := i.verifier(t)
	_, err = v.Verify(t.Context(), signed(t, jwt.SigningMethodRS256, "rsa-1", i.claims(), key))
	require.NoError(t, err)
	for _, method := range []jwt.SigningMethod{jwt.SigningMethodRS384, jwt.SigningMethodRS512, jwt.SigningMethodPS256} {
		_, err = v.Verify(t.Context(), signed(t, method, "rsa-1", i.claims(), key))
		require.True(t, fault.Is(err, errorsv1.Reason_REASON_UNAUTHORIZED), method.Alg())
	}
	der, err := x509.MarshalPKIXPublicKey(&key.PublicKey)
	require.NoError(t, err)
	secret := pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})
	_, err = v.Verify(t.Context(), signed(t, jwt.SigningMethodHS256, "rsa-1", i.claims(), secret))
	require.True(t, fault.Is(err, errorsv1.Reason_REASON_UNAUTHORIZED))
}

func rsaIssuer(url string, key *rsa.PublicKey) http.Handler {
	e := base64.RawURLEncoding.EncodeToString
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var body any = map[string]any{"issuer": url, "jwks_uri": url + "/keys"}
		if r.URL.Path == "/keys" {
			body = map[string]any{"keys": []any{map[string]string{
				"kty": "RSA", "kid": "rsa-1", "n": e(key.N.Bytes()), "e": e(big.NewInt(int64(key.E)).Bytes()),
			}}}
		}
		_ = json.NewEncoder(w).Encode(body)
	})
}

func TestAnIssuerThatIsDownIsNotTheCallersFault(t *testing.T) {
	t.Parallel()
	i := newTestIssuer(t)
	i.down.Store(true)
	now := time.Now()
	v := newVerifier(t, auth.Config{
		Issuers: []auth.Issuer{{URL: i.url, Audiences: []string{"pratique"}}}, Now: func() time.Time { return now },
	})
	token, err := devissuer.Sign(i.ec, i.claims())
	require.NoError(t, err)
	for range 20 {
		_, err = v.Verify(t.Context(), token)
		require.True(t, fault.Is(err, errorsv1.Reason_REASON_DEPENDENCY_UNAVAILABLE), "%v", err)
	}
	require.EqualValues(t, 1, i.fetches.Load(), "a dead issuer is not asked by every call")
	i.down.Store(false)
	now = now.Add(5 * time.Second)
	_, err = v.Verify(t.Context(), token)
	require.NoError(t, err, "it is found again by itself")

	cancelled, cancel := context.WithCancel(t.Context())
	cancel()
	fresh := i.verifier(t)
	_, err = fresh.Verify(cancelled, token)
	require.False(t, fault.Is(err, errorsv1.Reason_REASON_UNAUTHORIZED), "giving up is no verdict about the token: %v", err)
}

func TestKeysRotateAndInventedKidsDoNotHammerTheIssuer(t *testing.T) {
	t.Parallel()
	i := newTestIssuer(t)
	now := time.Now()
	v := newVerifier(t, auth.Config{
		Issuers: []auth.Issuer{{URL: i.url, Audiences: []string{"pratique"}}}, Now: func() time.Time { return now },
	})
	token, err := devissuer.Sign(i.ec, i.claims())
	require.NoError(t, err)
	_, err = v.Verify(t.Context(), token)
	require.NoError(t, err)
	before := i.fetches.Load()
	for n := range 50 {
		_, err = v.Verify(t.Context(), signed(t, jwt.SigningMethodES256, fmt.Sprint("kid", n), i.claims(), i.ec))
		require.True(t, fault.Is(err, errorsv1.Reason_REASON_UNAUTHORIZED))
	}
	require.Equal(t, before, i.fetches.Load())

	next := newKey(t)
	h, err := devissuer.Handler(i.url, &next.PublicKey)
	require.NoError(t, err)
	i.handler.Store(&h)
	now = now.Add(10 * time.Second)
	rotated, err := devissuer.Sign(next, i.claims())
	require.NoError(t, err)
	_, err = v.Verify(t.Context(), rotated)
	require.NoError(t, err)
	now = now.Add(2 * time.Minute)
	_, err = v.Verify(t.Context(), token)
	require.True(t, fault.Is(err, errorsv1.Reason_REASON_UNAUTHORIZED), "a withdrawn key stops working")
}

func TestARememberedTokenEndsWhenItEnds(t *testing.T) {
	t.Parallel()
	i := newTestIssuer(t)
	now := time.Now()
	v := newVerifier(t, auth.Config{
		Issuers: []auth.Issuer{{URL: i.url, Audiences: []string{"pratique"}}}, Now: func() time.Time { return now }, Skew: time.Second,
	})
	claims := i.claims()
	claims["exp"] = now.Add(10 * time.Second).Unix()
	token, err := devissuer.Sign(i.ec, claims)
	require.NoError(t, err)
	_, err = v.Verify(t.Context(), token)
	require.NoError(t, err)
	now = now.Add(12 * time.Second)
	_, err = v.Verify(t.Context(), token)
	require.True(t, fault.Is(err, errorsv1.Reason_REASON_UNAUTHORIZED))
}

func TestIssuersThatCannotBeTrustedAreRefusedAtStart(t *testing.T) {
	t.Parallel()
	for name, i := range map[string]auth.Issuer{
		"no audience":     {URL: "https://a.example"},
		"empty audience":  {URL: "https://a.example", Audiences: []string{""}},
		"no URL":          {URL: auth.ServiceIssuer, Audiences: []string{"x"}},
		"a separator":     {URL: "https://a.example/|b", Audiences: []string{"x"}},
		"a user":          {URL: "https://u:p@a.example", Audiences: []string{"x"}},
		"a query":         {URL: "https://a.example?x=1", Audiences: []string{"x"}},
		"another scheme":  {URL: "file:///etc/passwd", Audiences: []string{"x"}},
		"nothing at all":  {},
		"a fragment only": {URL: "#x", Audiences: []string{"x"}},
	} {
		_, err := auth.NewVerifier(auth.Config{Issuers: []auth.Issuer{i}, Client: http.DefaultClient})
		require.Error(t, err, name)
	}
	twice := auth.Issuer{URL: "https://a.example", Audiences: []string{"x"}}
	_, err := auth.NewVerifier(auth.Config{Issuers: []auth.Issuer{twice, twice}, Client: http.DefaultClient})
	require.ErrorContains(t, err, "twice")
	_, err = auth.NewVerifier(auth.Config{Issuers: []auth.Issuer{twice}})
	require.Error(t, err, "no client, no way around the dialer")
	_, err = auth.NewVerifier(auth.Config{Skew: time.Hour})
	require.Error(t, err)
}
