package auth

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"
	"golang.org/x/sync/singleflight"

	errorsv1 "github.com/pratique-io/pratique/gen/pratique/errors/v1"
	"github.com/pratique-io/pratique/internal/fault"
)

const (
	// discoveryTimeout bounds one attempt to read an issuer's configuration; it outlives the call that started it.
	discoveryTimeout = 10 * time.Second
	// discoveryPause keeps a dead issuer from being asked by every call.
	discoveryPause = 2 * time.Second
)

// algorithms are the only ones accepted, whatever the token or the issuer says: asymmetric, so that a public key is never
// mistaken for a shared secret.
var algorithms = []string{oidc.RS256, oidc.ES256}

// issuer verifies the tokens of one OIDC issuer. Its configuration and keys are read at the first token, so that a service
// starts before its issuer does.
type issuer struct {
	cfg    Issuer
	client *http.Client
	now    func() time.Time
	skew   time.Duration

	group singleflight.Group
	mu    sync.Mutex
	ready *oidc.IDTokenVerifier
	fault error     // of the last discovery
	retry time.Time // not before
}

func newIssuer(cfg Issuer, client *http.Client, now func() time.Time, skew time.Duration) *issuer {
	return &issuer{cfg: cfg, client: boundClient(client, now), now: now, skew: skew}
}

type standardClaims struct {
	NotBefore *json.Number `json:"nbf"`
	IssuedAt  *json.Number `json:"iat"`
}

func (i *issuer) verify(ctx context.Context, token string) (Principal, error) {
	verifier, err := i.verifier(ctx)
	if err != nil {
		return Principal{}, unreachable(err)
	}
	var keys keyOutcome
	verified, err := verifier.Verify(context.WithValue(ctx, keyOutcomeKey{}, &keys), token)
	if err != nil {
		if keys.err != nil {
			return Principal{}, unreachable(keys.err)
		}
		return Principal{}, refused(err)
	}
	if err := i.checkTimes(verified); err != nil {
		return Principal{}, refused(err)
	}
	if !slices.ContainsFunc(verified.Audience, func(a string) bool { return slices.Contains(i.cfg.Audiences, a) }) {
		return Principal{}, refused(errors.New("audience is not ours"))
	}
	claims := map[string]any{}
	if err := verified.Claims(&claims); err != nil {
		return Principal{}, refused(err)
	}
	p, err := i.cfg.Claims.principal(i.cfg.URL, claims)
	if err != nil {
		return Principal{}, refused(err)
	}
	p.Expires = verified.Expiry
	return p, nil
}

func (i *issuer) checkTimes(t *oidc.IDToken) error {
	now := i.now()
	if t.Expiry.IsZero() || !now.Before(t.Expiry.Add(i.skew)) {
		return errors.New("token has ended or has no end")
	}
	var claims standardClaims
	if err := t.Claims(&claims); err != nil {
		return err
	}
	for name, at := range map[string]*json.Number{"nbf": claims.NotBefore, "iat": claims.IssuedAt} {
		if at == nil {
			continue
		}
		seconds, err := at.Float64()
		if err != nil {
			return fmt.Errorf("%s is no number: %w", name, err)
		}
		if seconds > float64(now.Add(i.skew).Unix()) {
			return fmt.Errorf("%s lies in the future", name)
		}
	}
	return nil
}

// verifier reads the issuer's configuration once; concurrent calls share the attempt, a failed one is repeated after a pause.
func (i *issuer) verifier(ctx context.Context) (*oidc.IDTokenVerifier, error) {
	i.mu.Lock()
	ready, last, wait := i.ready, i.fault, i.now().Before(i.retry)
	i.mu.Unlock()
	if ready != nil {
		return ready, nil
	}
	if wait && last != nil {
		return nil, last
	}
	attempt := i.group.DoChan("discover", func() (any, error) { return i.discover() })
	select {
	case <-ctx.Done():
		return nil, ctx.Err()
	case result := <-attempt:
		if result.Err != nil {
			return nil, result.Err
		}
		return result.Val.(*oidc.IDTokenVerifier), nil
	}
}

func (i *issuer) discover() (*oidc.IDTokenVerifier, error) {
	ctx, cancel := context.WithTimeout(oidc.ClientContext(context.Background(), i.client), discoveryTimeout)
	defer cancel()
	verifier, err := i.newVerifier(ctx)
	i.mu.Lock()
	defer i.mu.Unlock()
	if err != nil {
		i.fault, i.retry = err, i.now().Add(discoveryPause)
		return nil, err
	}
	i.ready, i.fault = verifier, nil
	return verifier, nil
}

func (i *issuer) newVerifier(ctx context.Context) (*oidc.IDTokenVerifier, error) {
	provider, err := oidc.NewProvider(ctx, i.cfg.URL)
	if err != nil {
		return nil, fmt.Errorf("read the configuration of issuer %s: %w", i.cfg.URL, err)
	}
	var found struct {
		JWKS string `json:"jwks_uri"`
	}
	if err := provider.Claims(&found); err != nil || found.JWKS == "" {
		return nil, fmt.Errorf("issuer %s names no jwks_uri: %w", i.cfg.URL, err)
	}
	keys := &keySet{remote: oidc.NewRemoteKeySet(ctx, found.JWKS)}
	return oidc.NewVerifier(i.cfg.URL, keys, &oidc.Config{
		SupportedSigningAlgs: algorithms,
		SkipClientIDCheck:    true, // several audiences: checked by verify
		SkipExpiryCheck:      true, // with our clock and skew: checked by checkTimes
	}), nil
}

// keySet tells "the keys could not be fetched" from "no key made this signature"; go-oidc answers both with text only.
type keySet struct{ remote *oidc.RemoteKeySet }

type keyOutcomeKey struct{}

type keyOutcome struct{ err error }

func (k *keySet) VerifySignature(ctx context.Context, token string) ([]byte, error) {
	payload, err := k.remote.VerifySignature(ctx, token)
	if err != nil && (errors.Is(err, errFetch) || ctx.Err() != nil) {
		if outcome, ok := ctx.Value(keyOutcomeKey{}).(*keyOutcome); ok {
			outcome.err = err
		}
	}
	return payload, err
}

func unreachable(cause error) error {
	if errors.Is(cause, context.DeadlineExceeded) {
		return fault.New(errorsv1.Reason_REASON_DEADLINE_EXCEEDED, "the token's issuer did not answer in time", fault.Cause(cause))
	}
	return fault.New(errorsv1.Reason_REASON_DEPENDENCY_UNAVAILABLE, "the token's issuer cannot be asked for its keys", fault.Cause(cause))
}
