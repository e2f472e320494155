package store

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pratique-io/pratique/internal/lease"
	"github.com/pratique-io/pratique/services/evidence/internal/domain"
)

// Execer is a transaction or a pool.
type Execer interface {
	Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error)
}

func guarded(ctx context.Context, db Execer, query string, args pgx.NamedArgs) error {
	tag, err := db.Exec(ctx, query, args)
	if err != nil {
		return fmt.Errorf("guarded write: %w", err)
	}
	if tag.RowsAffected() == 0 {
		return fmt.Errorf("guarded write: %w", ErrLost)
	}
	return nil
}

const insertCopies = `
insert into quarantine_copy (id, tenant_id, repository, digest, state, created_at, updated_at)
select id, tenant_id, repository, digest, 'present', @now, @now
from unnest(@ids::uuid[], @tenants::uuid[], @repositories::text[], @digests::text[]) as n (id, tenant_id, repository, digest)
order by id
on conflict (id) do nothing`

// MakeCopies makes the rows of the copies of requests, where there are none.
func MakeCopies(ctx context.Context, tx pgx.Tx, list []domain.Request, now time.Time) error {
	if len(list) == 0 {
		return nil
	}
	n := len(list)
	ids, tenants, repositories, digests := make([]uuid.UUID, n), make([]uuid.UUID, n), make([]string, n), make([]string, n)
	for i, r := range list {
		ids[i], tenants[i], repositories[i], digests[i] = r.ID, r.Tenant, domain.Repository(r.Tenant, r.ID), r.Digest
	}
	_, err := tx.Exec(ctx, insertCopies, pgx.NamedArgs{"ids": ids, "tenants": tenants, "repositories": repositories, "digests": digests, "now": now})
	if err != nil {
		return fmt.Errorf("make copies: %w", err)
	}
	return nil
}

const lockCopies = `
select id, tenant_id, repository, digest, state, reason, inventory, told_at is not null
from quarantine_copy where id = any(@ids) order by id for update`

// LockCopies reads copies and holds them, in the order of their ids so that two batches cannot wait for each other.
func LockCopies(ctx context.Context, tx pgx.Tx, ids []uuid.UUID) ([]*domain.Copy, error) {
	rows, err := tx.Query(ctx, lockCopies, pgx.NamedArgs{"ids": ids})
	if err != nil {
		return nil, fmt.Errorf("lock copies: %w", err)
	}
	list, err := pgx.CollectRows(rows, scanCopy)
	if err != nil {
		return nil, fmt.Errorf("lock copies: %w", err)
	}
	return list, nil
}

func scanCopy(row pgx.CollectableRow) (*domain.Copy, error) {
	c := new(domain.Copy)
	var inventory []byte
	err := row.Scan(&c.ID, &c.Tenant, &c.Repository, &c.Digest, &c.State, &c.Reason, &inventory, &c.Told)
	if err != nil {
		return nil, err
	}
	if err := json.Unmarshal(inventory, &c.Inventory); err != nil {
		return nil, fmt.Errorf("inventory: %w", err)
	}
	return c, nil
}

// readCopy reads one and holds it; ErrNone when there is none.
func readCopy(ctx context.Context, tx pgx.Tx, id uuid.UUID) (*domain.Copy, error) {
	list, err := LockCopies(ctx, tx, []uuid.UUID{id})
	if err != nil {
		return nil, err
	}
	if len(list) == 0 {
		return nil, fmt.Errorf("read copy: %w", ErrNone)
	}
	return list[0], nil
}

// The lease token is raised: whoever was removing the copy has looked at it before it was condemned again.
const condemnCopies = `
update quarantine_copy as c
set state = n.state, reason = n.reason, due_at = @now, tries = 0, lease_token = c.lease_token + 1, leased_until = '-infinity', updated_at = @now
from unnest(@ids::uuid[], @states::text[], @reasons::text[]) as n (id, state, reason)
where c.id = n.id`

// CondemnCopies writes that copies have to go.
func CondemnCopies(ctx context.Context, tx pgx.Tx, list []*domain.Copy, now time.Time) error {
	if len(list) == 0 {
		return nil
	}
	n := len(list)
	ids, states, reasons := make([]uuid.UUID, n), make([]string, n), make([]string, n)
	for i, c := range list {
		ids[i], states[i], reasons[i] = c.ID, string(c.State), c.Reason
	}
	_, err := tx.Exec(ctx, condemnCopies, pgx.NamedArgs{"ids": ids, "states": states, "reasons": reasons, "now": now})
	if err != nil {
		return fmt.Errorf("condemn copies: %w", err)
	}
	return nil
}

const retainCopy = `update quarantine_copy set retain_until = @until, updated_at = @now where id = @id`

// RetainCopy sets until when a copy is kept; zero is for ever.
func RetainCopy(ctx context.Context, tx pgx.Tx, id uuid.UUID, until, now time.Time) error {
	_, err := tx.Exec(ctx, retainCopy, pgx.NamedArgs{"id": id, "until": orNull(until), "now": now})
	if err != nil {
		return fmt.Errorf("retain copy: %w", err)
	}
	return nil
}

const retiredCopies = `
select id from quarantine_copy where state = 'present' and retain_until <= @now order by retain_until limit @limit for update skip locked`

// RetiredCopies holds copies that were kept long enough.
func RetiredCopies(ctx context.Context, tx pgx.Tx, now time.Time, limit int) ([]uuid.UUID, error) {
	rows, err := tx.Query(ctx, retiredCopies, pgx.NamedArgs{"now": now, "limit": limit})
	if err != nil {
		return nil, fmt.Errorf("retired copies: %w", err)
	}
	ids, err := pgx.CollectRows(rows, pgx.RowTo[uuid.UUID])
	if err != nil {
		return nil, fmt.Errorf("retired copies: %w", err)
	}
	return ids, nil
}

// Nothing is removed while documents are still fetched from it, or while a run may still write into it.
const leaseCopy = `
update quarantine_copy set lease_token = lease_token + 1, leased_until = @until
where id in (select c.id from quarantine_copy c join bundle b on b.id = c.id
	where c.state = 'to_remove' and c.due_at <= @now and c.leased_until < @now
		and b.state not in ('awaiting', 'collecting', 'recorded') and b.run_state <> 'running'
	order by c.due_at limit 1 for update of c skip locked)
returning id, lease_token, leased_until`

// LeaseCopy takes the copy that has waited longest to be removed; ErrNone when none is due.
func LeaseCopy(ctx context.Context, tx pgx.Tx, now, until time.Time) (*domain.Copy, lease.Term, error) {
	return leaseRow(ctx, tx, leaseCopy, now, until, func(id uuid.UUID) (*domain.Copy, error) { return readCopy(ctx, tx, id) })
}

const renewCopy = `update quarantine_copy set leased_until = @until where id = @id and lease_token = @token and state = 'to_remove'`

// RenewCopy keeps a lease; ErrLost when it has passed on.
func RenewCopy(ctx context.Context, db Execer, id uuid.UUID, token int64, until time.Time) error {
	return guarded(ctx, db, renewCopy, pgx.NamedArgs{"id": id, "token": token, "until": until})
}

const releaseCopy = `update quarantine_copy set leased_until = '-infinity' where id = @id and lease_token = @token`

// ReleaseCopy gives the lease back untouched.
func ReleaseCopy(ctx context.Context, db Execer, id uuid.UUID, token int64) error {
	return guarded(ctx, db, releaseCopy, pgx.NamedArgs{"id": id, "token": token})
}

const inventoryCopy = `
update quarantine_copy set inventory = @inventory where id = @id and lease_token = @token and state = 'to_remove'`

// KeepInventory writes what is going to be deleted.
func KeepInventory(ctx context.Context, tx pgx.Tx, id uuid.UUID, token int64, inventory domain.Inventory) error {
	raw, err := toJSON(inventory)
	if err != nil {
		return err
	}
	return guarded(ctx, tx, inventoryCopy, pgx.NamedArgs{"id": id, "token": token, "inventory": raw})
}

const postponeCopy = `
update quarantine_copy set tries = tries + 1, last_error = @error, due_at = @now::timestamptz + least(interval '1 second' * power(2, least(tries, 9)), interval '5 minutes'),
	leased_until = '-infinity'
where id = @id and lease_token = @token and state = 'to_remove'`

// PostponeCopy gives the lease back with what went wrong; the next try comes after 1 s, 2 s, ... 5 min.
func PostponeCopy(ctx context.Context, tx pgx.Tx, id uuid.UUID, token int64, now time.Time, cause string) error {
	return guarded(ctx, tx, postponeCopy, pgx.NamedArgs{"id": id, "token": token, "now": now, "error": cause})
}

const removeCopy = `
update quarantine_copy
set state = @state, inventory = '{}', told_at = coalesce(told_at, @told), leased_until = '-infinity', last_error = '', updated_at = @now
where id = @id and lease_token = @token and state = 'to_remove'`

// RemoveCopy writes that the copy is gone, and, with told, that it was said.
func RemoveCopy(ctx context.Context, tx pgx.Tx, c *domain.Copy, token int64, told bool, now time.Time) error {
	var at *time.Time
	if told {
		at = &now
	}
	return guarded(ctx, tx, removeCopy, pgx.NamedArgs{"id": c.ID, "token": token, "state": string(c.State), "told": at, "now": now})
}
