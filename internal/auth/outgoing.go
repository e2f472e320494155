package auth

import (
	"context"

	"github.com/google/uuid"
)

// Metadata keys that travel with a call.
const (
	HeaderAuthorization = "authorization"
	HeaderTenant        = "x-tenant-id"
	HeaderRequestID     = "x-request-id"
	HeaderIdempotency   = "idempotency-key"
)

type bearerKey struct{}

// WithBearer keeps the caller's own token (without "Bearer ") for ForwardCaller. The server interceptor does this; the
// gateway does it for tokens that come from a session cookie. The tenant is what X-Tenant-ID said, empty for none.
func WithBearer(ctx context.Context, token, tenant string) context.Context {
	return context.WithValue(ctx, bearerKey{}, bearer{token: token, tenant: tenant})
}

type bearer struct{ token, tenant string }

type outgoingKey struct{}

// Outgoing is what a call to another service carries; rpc.Dial's interceptor turns it into metadata.
type Outgoing struct {
	Bearer  string // the forwarded token
	Service bool   // sign as ourselves instead
	Tenant  string // UUID or slug; empty for none
}

// ForwardCaller gives a context whose outgoing calls carry the caller's own bearer token and selected tenant: the other
// service decides by the same person. Without an incoming token the calls carry none and are answered `unauthorized`.
func ForwardCaller(ctx context.Context) context.Context {
	b, _ := ctx.Value(bearerKey{}).(bearer)
	out := Outgoing{Bearer: b.token, Tenant: b.tenant}
	if c := From(ctx); c.Tenant != uuid.Nil {
		out.Tenant = c.Tenant.String()
	}
	return context.WithValue(ctx, outgoingKey{}, out)
}

// AsService gives a context whose outgoing calls carry this service's own token (the signer is given to rpc.Dial).
func AsService(ctx context.Context) context.Context {
	return context.WithValue(ctx, outgoingKey{}, Outgoing{Service: true})
}

// ForTenant selects the tenant of the outgoing calls of a context made by ForwardCaller or AsService.
func ForTenant(ctx context.Context, tenant uuid.UUID) context.Context {
	out := OutgoingFrom(ctx)
	out.Tenant = tenant.String()
	return context.WithValue(ctx, outgoingKey{}, out)
}

// OutgoingFrom is what the calls of this context carry; the zero value carries no credential.
func OutgoingFrom(ctx context.Context) Outgoing {
	out, _ := ctx.Value(outgoingKey{}).(Outgoing)
	return out
}
