// Package auth owns who is calling and what they may do: it verifies tokens of the configured issuers and of Pratique's own
// services, carries the caller through a call, and decides by exact gRPC method from the rules in the protos (default deny).
// Roles come from internal/directory, never from a token. It knows no service and keeps no table.
package auth

import (
	"context"
	"slices"

	"github.com/google/uuid"

	"github.com/pratique-io/pratique/internal/pg"
)

// Role is one of the six roles of the contract. System roles hold everywhere, tenant roles in one tenant.
type Role string

// The roles, in the words of the contract.
const (
	SystemAdmin      Role = "system_admin"
	SecurityReviewer Role = "security_reviewer"
	Auditor          Role = "auditor"
	TenantAdmin      Role = "tenant_admin"
	TenantMember     Role = "tenant_member"
	TenantViewer     Role = "tenant_viewer"
)

// Roles lists all roles, system roles first.
func Roles() []Role {
	return []Role{SystemAdmin, SecurityReviewer, Auditor, TenantAdmin, TenantMember, TenantViewer}
}

// System says whether the role holds in the whole system.
func (r Role) System() bool { return r == SystemAdmin || r == SecurityReviewer || r == Auditor }

// Valid says whether the role is one of the six.
func (r Role) Valid() bool { return slices.Contains(Roles(), r) }

// Caller is who calls, with the roles found in the directory and the tenant selected for this call.
type Caller struct {
	Subject string // "iss|sub", the stable key of a person or workload; empty for a service
	// PersonID is the directory's id of the person, what records and events name people by. Nil for a service, and for somebody
	// whose first call is still on its way into the directory. The resolver (internal/directory) fills it.
	PersonID    uuid.UUID
	Name, Email string
	Groups      []string // as the token says
	SystemRoles []Role
	Tenants     map[uuid.UUID][]Role
	Tenant      uuid.UUID // the selected tenant; Nil when none is
	Service     string    // name of the Pratique service that calls; empty for people and workloads
}

// Scope is what row-level security lets the caller touch: a system role or a service all tenants, else the selected one.
// In a handler the system roles are already cut down to those the method asks for, so an auditor acting as a tenant's
// member is held to that tenant.
func (c Caller) Scope() pg.Scope {
	if c.Service != "" || len(c.SystemRoles) > 0 {
		return pg.AllTenants()
	}
	return pg.OneTenant(c.Tenant)
}

// Has says whether the caller holds the role: a system role, or a tenant role in the selected tenant.
func (c Caller) Has(role Role) bool {
	if slices.Contains(c.SystemRoles, role) {
		return true
	}
	return c.Tenant != uuid.Nil && !role.System() && slices.Contains(c.Tenants[c.Tenant], role)
}

// HasAny says whether the caller holds one of the roles.
func (c Caller) HasAny(roles ...Role) bool { return slices.ContainsFunc(roles, c.Has) }

// Actor names the caller in records and events: "user:<person id>" ("user:<subject>" until the directory knows the person) or
// "service:<name>"; "anonymous" for the zero Caller.
func (c Caller) Actor() string {
	switch {
	case c.Service != "":
		return "service:" + c.Service
	case c.PersonID != uuid.Nil:
		return "user:" + c.PersonID.String()
	case c.Subject != "":
		return "user:" + c.Subject
	}
	return "anonymous"
}

type callerKey struct{}

// With gives a context that carries the caller. The interceptor does this; tests may.
func With(ctx context.Context, c Caller) context.Context {
	return context.WithValue(ctx, callerKey{}, c)
}

// From is the caller of this call; the zero Caller, which may do nothing, when there is none.
func From(ctx context.Context) Caller {
	c, _ := ctx.Value(callerKey{}).(Caller)
	return c
}
