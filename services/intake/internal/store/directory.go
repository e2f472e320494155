package store

import (
	"context"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
)

// Tenant is a team or business unit.
type Tenant struct {
	ID      uuid.UUID
	Slug    string
	Name    string
	Status  string // active | disabled
	Version int64
}

// TenantActive is the status of a tenant that may start things.
const TenantActive = "active"

const selectTenants = `select tenant_id, slug, name, status, version from tenant where tenant_id = any(@ids) order by slug`

// Tenants reads several, by id.
func Tenants(ctx context.Context, tx pgx.Tx, ids []uuid.UUID) ([]Tenant, error) {
	rows, err := tx.Query(ctx, selectTenants, pgx.NamedArgs{"ids": ids})
	if err != nil {
		return nil, fmt.Errorf("read tenants: %w", err)
	}
	out, err := pgx.CollectRows(rows, pgx.RowToStructByPos[Tenant])
	if err != nil {
		return nil, fmt.Errorf("read tenants: %w", err)
	}
	return out, nil
}

const selectTenantBySlug = `select tenant_id, slug, name, status, version from tenant where slug = @slug`

// TenantBySlug reads one; ErrNone when there is none.
func TenantBySlug(ctx context.Context, tx pgx.Tx, slug string) (Tenant, error) {
	rows, err := tx.Query(ctx, selectTenantBySlug, pgx.NamedArgs{"slug": slug})
	if err != nil {
		return Tenant{}, fmt.Errorf("read tenant: %w", err)
	}
	t, err := pgx.CollectExactlyOneRow(rows, pgx.RowToStructByPos[Tenant])
	return t, found("read tenant", err)
}

const insertTenant = `
insert into tenant (tenant_id, slug, name, status, version, created_at, updated_at)
values (@id, @slug, @name, 'active', 1, @now, @now)
on conflict (slug) do nothing`

// InsertTenant makes a tenant; false when its slug is taken.
func InsertTenant(ctx context.Context, tx pgx.Tx, t Tenant, now time.Time) (bool, error) {
	tag, err := tx.Exec(ctx, insertTenant, pgx.NamedArgs{"id": t.ID, "slug": t.Slug, "name": t.Name, "now": now})
	if err != nil {
		return false, fmt.Errorf("insert tenant %s: %w", t.Slug, err)
	}
	return tag.RowsAffected() == 1, nil
}

// Person is somebody known.
type Person struct {
	ID      uuid.UUID
	Subject string // "issuer|subject"
	Name    string
	Email   string
	Groups  []string
	Version int64
}

const insertPerson = `
insert into person (id, subject, name, email, groups, version, created_at, last_seen_at)
values (@id, @subject, @name, @email, @groups, 1, @now, @seen)
on conflict (subject) do nothing`

const selectPerson = `select id, subject, name, email, groups, version from person where subject = @subject`

// EnsurePerson makes somebody known, once per subject: the stored person, and whether this call made it. seen says that they are calling now.
func EnsurePerson(ctx context.Context, tx pgx.Tx, p Person, seen bool, now time.Time) (Person, bool, error) {
	if p.Groups == nil {
		p.Groups = []string{}
	}
	args := pgx.NamedArgs{"id": p.ID, "subject": p.Subject, "name": p.Name, "email": p.Email, "groups": p.Groups, "now": now, "seen": (*time.Time)(nil)}
	if seen {
		args["seen"] = now
	}
	tag, err := tx.Exec(ctx, insertPerson, args)
	if err != nil {
		return Person{}, false, fmt.Errorf("insert person: %w", err)
	}
	if tag.RowsAffected() == 1 {
		p.Version = 1
		return p, true, nil
	}
	stored, err := PersonBySubject(ctx, tx, p.Subject)
	return stored, false, err
}

// PersonBySubject reads one; ErrNone when not known.
func PersonBySubject(ctx context.Context, tx pgx.Tx, subject string) (Person, error) {
	rows, err := tx.Query(ctx, selectPerson, pgx.NamedArgs{"subject": subject})
	if err != nil {
		return Person{}, fmt.Errorf("read person: %w", err)
	}
	p, err := pgx.CollectExactlyOneRow(rows, pgx.RowToStructByPos[Person])
	return p, found("read person", err)
}

// A call a minute after the last is news enough: the row is not rewritten by every call.
const updateSeen = `
update person set last_seen_at = @now
where subject = @subject and (last_seen_at is null or last_seen_at < @now::timestamptz - interval '1 minute')`

// SeePerson notes that somebody called.
func SeePerson(ctx context.Context, tx pgx.Tx, subject string, now time.Time) error {
	if _, err := tx.Exec(ctx, updateSeen, pgx.NamedArgs{"subject": subject, "now": now}); err != nil {
		return fmt.Errorf("note last seen: %w", err)
	}
	return nil
}

const updatePerson = `
update person set name = @name, email = @email, groups = @groups, version = version + 1
where subject = @subject and (name, email, groups) is distinct from (@name, @email, @groups::text[])
returning id, subject, name, email, groups, version`

// RenamePerson takes over what the newest token says; ErrNone when that is nothing new.
func RenamePerson(ctx context.Context, tx pgx.Tx, p Person) (Person, error) {
	if p.Groups == nil {
		p.Groups = []string{}
	}
	rows, err := tx.Query(ctx, updatePerson, pgx.NamedArgs{"subject": p.Subject, "name": p.Name, "email": p.Email, "groups": p.Groups})
	if err != nil {
		return Person{}, fmt.Errorf("update person: %w", err)
	}
	out, err := pgx.CollectExactlyOneRow(rows, pgx.RowToStructByPos[Person])
	return out, found("update person", err)
}

// Binding gives a role to a subject or a group.
type Binding struct {
	ID      uuid.UUID
	Tenant  uuid.UUID // Nil for system roles
	Subject string
	Group   string
	Role    string
}

const insertBinding = `
insert into role_binding (id, tenant_id, subject, group_name, role, version, created_at)
values (@id, @tenant, @subject, @group, @role, 1, @now)
on conflict (tenant_id, subject, group_name, role) do nothing`

// InsertBinding gives a role; false when it was given before.
func InsertBinding(ctx context.Context, tx pgx.Tx, b Binding, now time.Time) (bool, error) {
	tag, err := tx.Exec(ctx, insertBinding, pgx.NamedArgs{
		"id": b.ID, "tenant": orNull(b.Tenant), "subject": b.Subject, "group": b.Group, "role": b.Role, "now": now,
	})
	if err != nil {
		return false, fmt.Errorf("insert role binding: %w", err)
	}
	return tag.RowsAffected() == 1, nil
}

// bootstrapLock serialises replicas that start at once; released with the transaction.
const bootstrapLock = `select pg_advisory_xact_lock(hashtext(current_schema() || '.bootstrap'))`

// LockBootstrap waits for any other program that applies its configuration.
func LockBootstrap(ctx context.Context, tx pgx.Tx) error {
	if _, err := tx.Exec(ctx, bootstrapLock); err != nil {
		return fmt.Errorf("lock bootstrap: %w", err)
	}
	return nil
}
