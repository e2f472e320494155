package store

import (
	"context"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/pratique-io/pratique/services/dispatch/internal/domain"
)

// The tenants that have something in the queue are found one by one along the index, and each names its oldest record, so a tenant with
// a hundred thousand of them costs the others nothing. Served first: the tenant with the fewest runs, then the oldest record.
const leaseNextSQL = `with recursive tenant as (
	(select tenant_id from dispatch_record where state in ('queued', 'waiting') order by tenant_id limit 1)
	union all
	select (select r.tenant_id from dispatch_record r where r.state in ('queued', 'waiting') and r.tenant_id > t.tenant_id
		order by r.tenant_id limit 1) from tenant t where t.tenant_id is not null
), busy as (
	select tenant_id, count(*) as runs from dispatch_record where state in ('starting', 'running') group by tenant_id
), head as (
	select f.id, f.created_at, coalesce(b.runs, 0) as runs
	from tenant t
	cross join lateral (
		select r.id, r.created_at from dispatch_record r
		where r.tenant_id = t.tenant_id and r.state in ('queued', 'waiting') and r.due_at <= @now and r.leased_until <= @now
		order by r.created_at, r.id limit 1
	) f
	left join busy b on b.tenant_id = t.tenant_id
	where t.tenant_id is not null
), chosen as (
	select r.id from dispatch_record r join head h on h.id = r.id
	where r.state in ('queued', 'waiting') and r.leased_until <= @now
	order by h.runs, h.created_at, h.id
	limit 1 for update of r skip locked
)
update dispatch_record set lease_token = lease_token + 1, leased_until = @until
where id = (select id from chosen)
returning ` + recordColumns

// LeaseNext claims the record to start next; ErrNone when nothing is due.
func LeaseNext(ctx context.Context, tx pgx.Tx, now, until time.Time) (domain.Record, error) {
	r, err := collectRecord(tx.Query(ctx, leaseNextSQL, pgx.NamedArgs{"now": now, "until": until}))
	if err != nil {
		return r, fmt.Errorf("lease next record: %w", err)
	}
	return r, nil
}

const leaseActiveSQL = `update dispatch_record set lease_token = lease_token + 1, leased_until = @until
where id in (
	select id from dispatch_record
	where state in ('starting', 'running') and provider_id = @provider_id and due_at <= @now and leased_until <= @now
	order by due_at limit @limit for update skip locked
)
returning ` + recordColumns

// LeaseActive claims records that a provider of ours runs and that are due to be looked at.
func LeaseActive(ctx context.Context, tx pgx.Tx, provider uuid.UUID, now, until time.Time, limit int) ([]domain.Record, error) {
	rows, err := tx.Query(ctx, leaseActiveSQL, pgx.NamedArgs{"provider_id": provider, "now": now, "until": until, "limit": limit})
	if err != nil {
		return nil, fmt.Errorf("lease active records: %w", err)
	}
	out, err := pgx.CollectRows(rows, scanRecord)
	if err != nil {
		return nil, fmt.Errorf("lease active records: %w", err)
	}
	return out, nil
}

// A record of a provider that nobody looks after any more: what the run may write with has expired, so it is as good as dead.
const leaseAbandonedSQL = `update dispatch_record set lease_token = lease_token + 1, leased_until = @until
where id in (
	select id from dispatch_record
	where state in ('starting', 'running') and provider_id <> @provider_id and expires_at < @before and leased_until <= @now
	order by expires_at limit @limit for update skip locked
)
returning ` + recordColumns

// LeaseAbandoned claims records of other providers whose credentials expired before a time.
func LeaseAbandoned(ctx context.Context, tx pgx.Tx, mine uuid.UUID, before, now, until time.Time, limit int) ([]domain.Record, error) {
	rows, err := tx.Query(ctx, leaseAbandonedSQL,
		pgx.NamedArgs{"provider_id": mine, "before": before, "now": now, "until": until, "limit": limit})
	if err != nil {
		return nil, fmt.Errorf("lease abandoned records: %w", err)
	}
	out, err := pgx.CollectRows(rows, scanRecord)
	if err != nil {
		return nil, fmt.Errorf("lease abandoned records: %w", err)
	}
	return out, nil
}

const releaseSQL = `update dispatch_record set leased_until = '-infinity', due_at = @due_at where id = @id and lease_token = @lease_token`

// Release gives a claimed record back, to be looked at again at due. It is no error when the lease is somebody else's by now.
func Release(ctx context.Context, tx pgx.Tx, r domain.Record, due time.Time) error {
	_, err := tx.Exec(ctx, releaseSQL, pgx.NamedArgs{"id": r.ID, "lease_token": r.LeaseToken, "due_at": due})
	if err != nil {
		return fmt.Errorf("release dispatch record: %w", err)
	}
	return nil
}

const reclaimSQL = `update dispatch_record set lease_token = lease_token + 1, leased_until = '-infinity', due_at = least(due_at, @now)
where state in ('starting', 'running') and provider_id = @provider_id`

// Reclaim voids the leases on what a provider runs. Only whoever alone hosts the provider may, before it does anything else.
func Reclaim(ctx context.Context, tx pgx.Tx, provider uuid.UUID, now time.Time) error {
	_, err := tx.Exec(ctx, reclaimSQL, pgx.NamedArgs{"provider_id": provider, "now": now})
	if err != nil {
		return fmt.Errorf("reclaim records: %w", err)
	}
	return nil
}

const lockOwedSQL = `select ` + recordColumns + ` from dispatch_record
where state = any(@states) and queued_at <= @before and leased_until <= @now
order by queued_at limit @limit for update skip locked`

// LockQueued locks records that entered the queue before a time and have not been told to wait.
func LockQueued(ctx context.Context, tx pgx.Tx, before, now time.Time, limit int) ([]domain.Record, error) {
	return lockOwed(ctx, tx, []domain.State{domain.Queued}, before, now, limit)
}

// LockOverdue locks records that have been in the queue since before a time.
func LockOverdue(ctx context.Context, tx pgx.Tx, before, now time.Time, limit int) ([]domain.Record, error) {
	return lockOwed(ctx, tx, []domain.State{domain.Queued, domain.Waiting}, before, now, limit)
}

func lockOwed(ctx context.Context, tx pgx.Tx, states []domain.State, before, now time.Time, limit int) ([]domain.Record, error) {
	rows, err := tx.Query(ctx, lockOwedSQL, pgx.NamedArgs{"states": states, "before": before, "now": now, "limit": limit})
	if err != nil {
		return nil, fmt.Errorf("lock queued records: %w", err)
	}
	out, err := pgx.CollectRows(rows, scanRecord)
	if err != nil {
		return nil, fmt.Errorf("lock queued records: %w", err)
	}
	return out, nil
}

const countActiveSQL = `select count(*) from dispatch_record where state in ('starting', 'running') and provider_id = @provider_id`

// CountActive is how many runs a provider has.
func CountActive(ctx context.Context, tx pgx.Tx, provider uuid.UUID) (int, error) {
	var n int
	if err := tx.QueryRow(ctx, countActiveSQL, pgx.NamedArgs{"provider_id": provider}).Scan(&n); err != nil {
		return 0, fmt.Errorf("count active records: %w", err)
	}
	return n, nil
}
