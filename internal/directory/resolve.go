package directory

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/pratique-io/pratique/internal/auth"
	"github.com/pratique-io/pratique/internal/pg"
)

const (
	statusActive   = "active"
	statusDisabled = "disabled"

	// remember is how long an answer is reused; a role taken away holds this much longer than the projection.
	remember = 500 * time.Millisecond
	// remembered bounds the memory; reaching it forgets everything, which costs one query each.
	remembered = 4096
)

// Tenant is a tenant as last heard.
type Tenant struct {
	ID       uuid.UUID
	Slug     string
	Name     string
	Disabled bool
}

// Resolver answers roles and tenants for the interceptor. It is safe for concurrent use.
type Resolver struct {
	db  *pg.DB
	now func() time.Time

	mu    sync.Mutex
	known map[string]answer
}

type answer struct {
	roles auth.Roleset
	until time.Time
}

// NewResolver reads the projection in the service's own schema.
func NewResolver(db *pg.DB) *Resolver {
	return &Resolver{db: db, now: time.Now, known: map[string]answer{}}
}

const selectRoles = `
select b.role, b.tenant_id, t.slug, t.status
from directory_binding b
left join directory_tenant t on t.tenant_id = b.tenant_id
where b.active and ((b.subject <> '' and b.subject = @subject) or (b.group_name <> '' and b.group_name = any(@groups)))`

// Resolve finds the roles of a principal, by its subject and by the groups of its token. Tenants not heard of yet do not count.
func (r *Resolver) Resolve(ctx context.Context, p auth.Principal) (auth.Roleset, error) {
	key := cacheKey(p)
	if roles, ok := r.recall(key); ok {
		return roles, nil
	}
	groups := p.Groups
	if groups == nil {
		groups = []string{}
	}
	roles := auth.Roleset{Tenants: map[uuid.UUID]auth.TenantRoles{}}
	err := r.db.Read(ctx, pg.AllTenants(), func(tx pgx.Tx) error {
		rows, err := tx.Query(ctx, selectRoles, pgx.NamedArgs{"subject": p.Subject, "groups": groups})
		if err != nil {
			return err
		}
		var role string
		var tenant *uuid.UUID
		var slug, status *string
		_, err = pgx.ForEachRow(rows, []any{&role, &tenant, &slug, &status}, func() error {
			collect(&roles, auth.Role(role), tenant, slug, status)
			return nil
		})
		if err != nil {
			return err
		}
		person, known, err := PersonBySubject(ctx, tx, p.Subject)
		if known {
			roles.Person = person.ID
		}
		return err
	})
	if err != nil {
		return auth.Roleset{}, fmt.Errorf("resolve roles: %w", err)
	}
	r.note(key, roles)
	return roles, nil
}

const countBindings = `select count(*) from directory_binding`

// Bindings counts the role bindings ever heard of, taken back ones included: what a service waits for before it calls itself ready, since an
// empty directory denies everybody.
func (r *Resolver) Bindings(ctx context.Context) (n int, err error) {
	err = r.db.Read(ctx, pg.AllTenants(), func(tx pgx.Tx) error { return tx.QueryRow(ctx, countBindings).Scan(&n) })
	if err != nil {
		return 0, fmt.Errorf("count role bindings: %w", err)
	}
	return n, nil
}

func collect(roles *auth.Roleset, role auth.Role, tenant *uuid.UUID, slug, status *string) {
	if tenant == nil {
		roles.AddSystem(role)
		return
	}
	if slug == nil || status == nil {
		return // a binding that overtook its tenant
	}
	roles.AddTenant(*tenant, role, *slug, *status != statusActive)
}

// cacheKey separates principals by subject and groups; no two lists of strings share a key.
func cacheKey(p auth.Principal) string { return fmt.Sprintf("%q%q", p.Subject, p.Groups) }

func (r *Resolver) recall(key string) (auth.Roleset, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	a, ok := r.known[key]
	if !ok || r.now().After(a.until) {
		return auth.Roleset{}, false
	}
	return a.roles, true
}

func (r *Resolver) note(key string, roles auth.Roleset) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.known) >= remembered {
		clear(r.known)
	}
	r.known[key] = answer{roles: roles, until: r.now().Add(remember)}
}
