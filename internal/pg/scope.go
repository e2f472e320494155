package pg

import "github.com/google/uuid"

// Scope is what a caller may see. The zero Scope sees no tenant's rows, only
// tables that are shared by all.
type Scope struct {
	Tenant uuid.UUID
	All    bool // explicit cross-tenant scope; only authorisation sets it
}

// OneTenant limits a transaction to one tenant's rows.
func OneTenant(id uuid.UUID) Scope { return Scope{Tenant: id} }

// AllTenants lifts the limit.
func AllTenants() Scope { return Scope{All: true} }

// settings renders the scope as statements that end with the transaction. They
// ride on BEGIN, which saves a round trip. Nothing here comes from outside: a
// UUID and a constant.
func (s Scope) settings() string {
	tenant, all := "", "off"
	if s.Tenant != uuid.Nil {
		tenant = s.Tenant.String()
	}
	if s.All {
		all = "on"
	}
	return "set local pratique.tenant_id = '" + tenant + "'; set local pratique.all_tenants = '" + all + "'"
}
