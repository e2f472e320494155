package auth

import (
	"context"
	"time"
)

// Principal is who a verified token says is calling; roles are not in it.
type Principal struct {
	Subject string // "iss|sub"; empty for a service
	Name    string
	Email   string
	Groups  []string
	Tenant  string // the token's tenant claim (UUID or slug), which only preselects
	Service string // a Pratique service
	Expires time.Time
}

// Verifier turns a bearer token into a principal: `unauthorized` when the token is no good, `dependency_unavailable` when the
// issuer could not be asked for its keys.
type Verifier interface {
	Verify(ctx context.Context, token string) (Principal, error)
}

type principalKey struct{}

// WithPrincipal keeps the verified principal beside the caller.
func WithPrincipal(ctx context.Context, p Principal) context.Context {
	return context.WithValue(ctx, principalKey{}, p)
}

// PrincipalFrom is the verified principal of this call; false when none.
func PrincipalFrom(ctx context.Context) (Principal, bool) {
	p, ok := ctx.Value(principalKey{}).(Principal)
	return p, ok
}
