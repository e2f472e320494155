package store

import (
	"context"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/pratique-io/pratique/services/dispatch/internal/domain"
)

const saveProviderSQL = `insert into provider as p (id, name, type, status, enabled, priority, max_runs, seen_at, created_at)
values (@id, @name, @type, @status, @enabled, @priority, @max_runs, @now, @now)
on conflict (id) do update set name = excluded.name, type = excluded.type, status = excluded.status, enabled = excluded.enabled,
	priority = excluded.priority, max_runs = excluded.max_runs, seen_at = excluded.seen_at
returning version, readiness, created_at`

// SaveProvider writes a provider as its configuration has it, and answers it with what the table knew.
func SaveProvider(ctx context.Context, tx pgx.Tx, p domain.Provider, now time.Time) (domain.Provider, error) {
	err := tx.QueryRow(ctx, saveProviderSQL, pgx.NamedArgs{"id": p.ID, "name": p.Name, "type": p.Type, "status": p.Status,
		"enabled": p.Enabled, "priority": p.Priority, "max_runs": p.MaxRuns, "now": now}).Scan(&p.Version, &p.Readiness, &p.CreatedAt)
	if err != nil {
		return p, fmt.Errorf("save provider: %w", err)
	}
	p.SeenAt, p.Uncertain = now, len(p.Readiness.Checks) == 0
	return p, nil
}

const saveReadinessSQL = `update provider set readiness = @readiness, ready = @ready, version = @version where id = @id`

// SaveReadiness writes what the checks came to.
func SaveReadiness(ctx context.Context, tx pgx.Tx, p domain.Provider) error {
	_, err := tx.Exec(ctx, saveReadinessSQL,
		pgx.NamedArgs{"id": p.ID, "readiness": p.Readiness, "ready": p.Readiness.Ready(), "version": p.Version})
	if err != nil {
		return fmt.Errorf("save readiness: %w", err)
	}
	return nil
}

const providerColumns = `p.id, p.name, p.type, p.status, p.enabled, p.priority, p.max_runs, p.version, p.readiness, p.seen_at, p.created_at,
	(select count(*) from dispatch_record r where r.provider_id = p.id and r.state in ('starting', 'running'))`

func scanProvider(row pgx.CollectableRow) (domain.Provider, error) {
	var p domain.Provider
	err := row.Scan(&p.ID, &p.Name, &p.Type, &p.Status, &p.Enabled, &p.Priority, &p.MaxRuns, &p.Version, &p.Readiness, &p.SeenAt,
		&p.CreatedAt, &p.Running)
	p.Uncertain = len(p.Readiness.Checks) == 0
	return p, err
}

const getProviderSQL = `select ` + providerColumns + ` from provider p where p.id = @id`

// GetProvider reads a provider; ErrNone when there is none.
func GetProvider(ctx context.Context, tx pgx.Tx, id uuid.UUID) (domain.Provider, error) {
	rows, err := tx.Query(ctx, getProviderSQL, pgx.NamedArgs{"id": id})
	if err != nil {
		return domain.Provider{}, fmt.Errorf("read provider: %w", err)
	}
	p, err := pgx.CollectExactlyOneRow(rows, scanProvider)
	if err != nil {
		return p, fmt.Errorf("read provider: %w", none(err))
	}
	return p, nil
}

const listProvidersSQL = `select ` + providerColumns + ` from provider p
where @after_id::uuid is null or (p.created_at, p.id) < (@after_at::timestamptz, @after_id::uuid)
order by p.created_at desc, p.id desc limit @limit offset @offset`

const countProvidersSQL = `select count(*) from (select 1 from provider limit 10001) as counted`

// Page is a cut of a list: After is the zero value when Offset counts.
type Page struct {
	Limit, Offset int
	AfterAt       time.Time
	AfterID       uuid.UUID
}

// ListProviders reads a page of providers, newest first, and how many there are.
func ListProviders(ctx context.Context, tx pgx.Tx, page Page) ([]domain.Provider, int, error) {
	var total int
	if err := tx.QueryRow(ctx, countProvidersSQL).Scan(&total); err != nil {
		return nil, 0, fmt.Errorf("count providers: %w", err)
	}
	rows, err := tx.Query(ctx, listProvidersSQL, pgx.NamedArgs{"after_id": nullID(page.AfterID), "after_at": nullTime(page.AfterAt),
		"limit": page.Limit, "offset": page.Offset})
	if err != nil {
		return nil, 0, fmt.Errorf("list providers: %w", err)
	}
	out, err := pgx.CollectRows(rows, scanProvider)
	if err != nil {
		return nil, 0, fmt.Errorf("list providers: %w", err)
	}
	return out, total, nil
}
