package store

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/pratique-io/pratique/internal/lease"
	"github.com/pratique-io/pratique/internal/pg"
	"github.com/pratique-io/pratique/services/evidence/internal/domain"
)

const bundleColumns = `id, tenant_id, state, version, digest, run_id, attempt, image_digest, repository, artifacts, evidence_hash, facts,
	recorded_at, expires_at, run_state, dispatch_sequence, decision_version, collect_since_at, tries, lease_token, created_at, updated_at`

const selectBundle = `select ` + bundleColumns + ` from bundle where id = @id and (@tenant::uuid is null or tenant_id = @tenant)`

const (
	lockBundle  = `select ` + bundleColumns + ` from bundle where id = @id for update`
	lockBundles = `select ` + bundleColumns + ` from bundle where id = any(@ids) order by id for update`
)

func scanBundle(row pgx.CollectableRow) (*domain.Bundle, error) {
	b := new(domain.Bundle)
	var artifacts, facts []byte
	var recorded, expires, since *time.Time
	err := row.Scan(&b.ID, &b.Tenant, &b.State, &b.Version, &b.Digest, &b.Run, &b.Attempt, &b.Image, &b.Repository, &artifacts, &b.Hash, &facts,
		&recorded, &expires, &b.RunState, &b.DispatchSequence, &b.DecisionVersion, &since, &b.Tries, &b.Lease, &b.CreatedAt, &b.UpdatedAt)
	if err != nil {
		return nil, err
	}
	if err := json.Unmarshal(artifacts, &b.Artifacts); err != nil {
		return nil, fmt.Errorf("artifacts: %w", err)
	}
	if err := json.Unmarshal(facts, &b.Evidence); err != nil {
		return nil, fmt.Errorf("facts: %w", err)
	}
	b.RecordedAt, b.ExpiresAt, b.Since = orZero(recorded), orZero(expires), orZero(since)
	return b, nil
}

func oneBundle(ctx context.Context, tx pgx.Tx, query string, args pgx.NamedArgs) (*domain.Bundle, error) {
	rows, err := tx.Query(ctx, query, args)
	if err != nil {
		return nil, fmt.Errorf("read bundle: %w", err)
	}
	b, err := pgx.CollectExactlyOneRow(rows, scanBundle)
	return b, found("read bundle", err)
}

// Bundle reads one in the scope, without its findings.
func Bundle(ctx context.Context, tx pgx.Tx, scope pg.Scope, id uuid.UUID) (*domain.Bundle, error) {
	return oneBundle(ctx, tx, selectBundle, pgx.NamedArgs{"id": id, "tenant": tenantArg(scope)})
}

// LockBundle reads one and holds it until the transaction ends. For loops and consumers.
func LockBundle(ctx context.Context, tx pgx.Tx, id uuid.UUID) (*domain.Bundle, error) {
	return oneBundle(ctx, tx, lockBundle, pgx.NamedArgs{"id": id})
}

// LockBundles reads several and holds them, in the order of their ids so that two batches cannot wait for each other.
func LockBundles(ctx context.Context, tx pgx.Tx, ids []uuid.UUID) (map[uuid.UUID]*domain.Bundle, error) {
	rows, err := tx.Query(ctx, lockBundles, pgx.NamedArgs{"ids": ids})
	if err != nil {
		return nil, fmt.Errorf("lock bundles: %w", err)
	}
	list, err := pgx.CollectRows(rows, scanBundle)
	if err != nil {
		return nil, fmt.Errorf("lock bundles: %w", err)
	}
	out := make(map[uuid.UUID]*domain.Bundle, len(list))
	for _, b := range list {
		out[b.ID] = b
	}
	return out, nil
}

func idOrNull(id uuid.UUID) *uuid.UUID {
	if id == uuid.Nil {
		return nil
	}
	return &id
}

const leaseBundle = `
update bundle set lease_token = lease_token + 1, leased_until = @until
where id in (select id from bundle where state = 'collecting' and due_at <= @now and leased_until < @now
	order by due_at limit 1 for update skip locked)
returning id, lease_token, leased_until`

// LeaseBundle takes the bundle that has waited longest to be collected; ErrNone when none is due.
func LeaseBundle(ctx context.Context, tx pgx.Tx, now, until time.Time) (*domain.Bundle, lease.Term, error) {
	return leaseRow(ctx, tx, leaseBundle, now, until, func(id uuid.UUID) (*domain.Bundle, error) { return LockBundle(ctx, tx, id) })
}

// leaseRow runs a leasing statement and reads the row that it took.
func leaseRow[T any](ctx context.Context, tx pgx.Tx, query string, now, until time.Time, read func(uuid.UUID) (T, error)) (row T, term lease.Term, err error) {
	var id uuid.UUID
	err = tx.QueryRow(ctx, query, pgx.NamedArgs{"now": now, "until": until}).Scan(&id, &term.Token, &term.Until)
	if err := found("lease", err); err != nil {
		return row, term, err
	}
	row, err = read(id)
	return row, term, err
}

const renewBundle = `update bundle set leased_until = @until where id = @id and lease_token = @token and state = 'collecting'`

// RenewBundle keeps a lease; ErrLost when it has passed on.
func RenewBundle(ctx context.Context, db Execer, id uuid.UUID, token int64, until time.Time) error {
	return guarded(ctx, db, renewBundle, pgx.NamedArgs{"id": id, "token": token, "until": until})
}

const postponeBundle = `
update bundle set tries = tries + 1, last_error = @error, due_at = @due, leased_until = '-infinity'
where id = @id and lease_token = @token and state = 'collecting'`

// PostponeBundle gives the lease back with what went wrong and when to try again.
func PostponeBundle(ctx context.Context, tx pgx.Tx, id uuid.UUID, token int64, due time.Time, cause string) error {
	return guarded(ctx, tx, postponeBundle, pgx.NamedArgs{"id": id, "token": token, "due": due, "error": cause})
}

const releaseBundle = `update bundle set leased_until = '-infinity' where id = @id and lease_token = @token`

// ReleaseBundle gives the lease back untouched, for a program that shuts down.
func ReleaseBundle(ctx context.Context, db Execer, id uuid.UUID, token int64) error {
	return guarded(ctx, db, releaseBundle, pgx.NamedArgs{"id": id, "token": token})
}

const expiredBundles = `
select id from bundle where state = 'judged' and expires_at <= @now order by expires_at limit @limit for update skip locked`

// ExpiredBundles holds judged bundles whose evidence is too old by now.
func ExpiredBundles(ctx context.Context, tx pgx.Tx, now time.Time, limit int) ([]uuid.UUID, error) {
	rows, err := tx.Query(ctx, expiredBundles, pgx.NamedArgs{"now": now, "limit": limit})
	if err != nil {
		return nil, fmt.Errorf("expired bundles: %w", err)
	}
	ids, err := pgx.CollectRows(rows, pgx.RowTo[uuid.UUID])
	if err != nil {
		return nil, fmt.Errorf("expired bundles: %w", err)
	}
	return ids, nil
}
