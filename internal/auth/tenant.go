package auth

import (
	"context"
	"fmt"
	"maps"
	"regexp"
	"slices"

	"github.com/google/uuid"

	errorsv1 "github.com/pratique-io/pratique/gen/pratique/errors/v1"
	"github.com/pratique-io/pratique/internal/fault"
)

// Roleset is what the directory knows of a principal; the zero value holds nothing.
type Roleset struct {
	Person  uuid.UUID // the directory's id of the principal; Nil when it has not heard of the person yet
	System  []Role
	Tenants map[uuid.UUID]TenantRoles
}

// TenantRoles are the roles in one tenant.
type TenantRoles struct {
	Slug     string
	Disabled bool
	Roles    []Role
}

// AddSystem adds a system role once; a tenant role is ignored.
func (s *Roleset) AddSystem(role Role) {
	if role.System() && !slices.Contains(s.System, role) {
		s.System = append(s.System, role)
	}
}

// AddTenant adds a tenant role once; a system role is ignored.
func (s *Roleset) AddTenant(tenant uuid.UUID, role Role, slug string, disabled bool) {
	if role.System() || !role.Valid() {
		return
	}
	if s.Tenants == nil {
		s.Tenants = map[uuid.UUID]TenantRoles{}
	}
	t := s.Tenants[tenant]
	t.Slug, t.Disabled = slug, disabled
	if !slices.Contains(t.Roles, role) {
		t.Roles = append(t.Roles, role)
	}
	s.Tenants[tenant] = t
}

// Directory answers roles; internal/directory implements it on the service's projection.
type Directory interface {
	Resolve(ctx context.Context, p Principal) (Roleset, error)
	// Tenant finds any tenant by id or slug, for system callers and services.
	Tenant(ctx context.Context, ref TenantRef) (id uuid.UUID, found bool, err error)
}

// TenantRef is a tenant as a caller names it: one of the two is set.
type TenantRef struct {
	ID   uuid.UUID
	Slug string
}

// slugForm bounds what is looked up; intake decides which slugs tenants may have within it.
var slugForm = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$`)

const uuidLength = 36

// ParseTenant reads X-Tenant-ID: a UUID in its usual form, or a slug. Anything else is invalid_tenant.
func ParseTenant(text string) (TenantRef, error) {
	if len(text) == uuidLength {
		if id, err := uuid.Parse(text); err == nil && id != uuid.Nil {
			return TenantRef{ID: id}, nil
		}
	}
	if !slugForm.MatchString(text) || text == uuid.Nil.String() {
		return TenantRef{}, fault.New(errorsv1.Reason_REASON_INVALID_TENANT, "X-Tenant-ID is neither a UUID nor a slug")
	}
	return TenantRef{Slug: text}, nil
}

// Identify makes the caller of one call to fullMethod: it asks the directory for the principal's roles and selects the tenant
// named by header (X-Tenant-ID, empty for none). Whether the caller may call the method is Admit's business. With tenant_disabled comes who
// called and which tenant, without any role, for the record of the denial; every other error comes with the zero Caller.
func (t *Table) Identify(ctx context.Context, dir Directory, p Principal, header, fullMethod string) (Caller, error) {
	c := Caller{Subject: p.Subject, Name: p.Name, Email: p.Email, Groups: p.Groups, Service: p.Service}
	var roles Roleset
	if p.Service == "" {
		var err error
		if roles, err = dir.Resolve(ctx, p); err != nil {
			return Caller{}, fmt.Errorf("roles of the caller: %w", err)
		}
	}
	c.PersonID, c.SystemRoles = roles.Person, roles.System
	c.Tenants = make(map[uuid.UUID][]Role, len(roles.Tenants))
	for id, tenant := range roles.Tenants {
		c.Tenants[id] = tenant.Roles
	}
	rule := t.rules[fullMethod]
	tenant, err := choose(ctx, dir, c, roles, rule, header, p.Tenant)
	if err != nil {
		return Caller{}, err
	}
	if c.wide(rule) || !roles.Tenants[tenant].Disabled || rule.Authenticated {
		c.Tenant = tenant
		return c, nil
	}
	known := Caller{Subject: c.Subject, PersonID: c.PersonID, Name: c.Name, Email: c.Email, Groups: c.Groups, Tenant: tenant}
	return known, fault.New(errorsv1.Reason_REASON_TENANT_DISABLED, "the tenant is disabled", fault.D("tenant_id", tenant))
}

// wide says whether the call stands on more than tenant roles: a service, or a system role that the method asks for.
func (c Caller) wide(rule Rule) bool {
	return c.Service != "" || slices.ContainsFunc(c.SystemRoles, func(r Role) bool { return slices.Contains(rule.Roles, r) })
}

// choose selects the tenant. Named: own ones for everybody, any existing one for system roles and services. Not named: the
// only one, or the one the token prefers; with several left open, invalid_tenant, unless the method needs none.
func choose(ctx context.Context, dir Directory, c Caller, roles Roleset, rule Rule, header, preferred string) (uuid.UUID, error) {
	if header != "" {
		ref, err := ParseTenant(header)
		if err != nil {
			return uuid.Nil, err
		}
		return named(ctx, dir, c, roles, ref)
	}
	if c.wide(rule) && !rule.TenantRequired {
		return uuid.Nil, nil
	}
	if own := slices.Collect(maps.Keys(roles.Tenants)); len(own) <= 1 {
		return append(own, uuid.Nil)[0], nil
	}
	if ref, err := ParseTenant(preferred); err == nil {
		if id, ok := ownTenant(roles, ref); ok {
			return id, nil
		}
	}
	if c.wide(rule) || (rule.Authenticated && !rule.TenantRequired) {
		return uuid.Nil, nil
	}
	return uuid.Nil, fault.New(errorsv1.Reason_REASON_INVALID_TENANT, "you belong to several tenants: select one with X-Tenant-ID")
}

func named(ctx context.Context, dir Directory, c Caller, roles Roleset, ref TenantRef) (uuid.UUID, error) {
	if id, ok := ownTenant(roles, ref); ok {
		return id, nil
	}
	if c.Service != "" || len(c.SystemRoles) > 0 {
		id, found, err := dir.Tenant(ctx, ref)
		if err != nil {
			return uuid.Nil, fmt.Errorf("find the named tenant: %w", err)
		}
		if found {
			return id, nil
		}
	}
	return uuid.Nil, fault.New(errorsv1.Reason_REASON_TENANT_CONTEXT_MISMATCH, "the named tenant is not one of yours")
}

func ownTenant(roles Roleset, ref TenantRef) (uuid.UUID, bool) {
	if _, ok := roles.Tenants[ref.ID]; ok && ref.ID != uuid.Nil {
		return ref.ID, true
	}
	found, count := uuid.Nil, 0
	for id, tenant := range roles.Tenants {
		if ref.Slug != "" && tenant.Slug == ref.Slug {
			found, count = id, count+1
		}
	}
	return found, count == 1
}
