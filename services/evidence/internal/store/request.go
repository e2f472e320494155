package store

import (
	"context"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/pratique-io/pratique/services/evidence/internal/domain"
)

// Heard is what one of intake's events says about a request.
type Heard struct {
	Request  domain.Request
	Sequence int64
}

// An approval stays known whatever order the events come in. Rows are taken in the order of their ids, so that two batches cannot wait for
// each other.
const putRequests = `
with news as (
	insert into request as r (id, tenant_id, request_type, digest, approved, intake_sequence, updated_at)
	select id, tenant_id, request_type, digest, approved, sequence, @now
	from unnest(@ids::uuid[], @tenants::uuid[], @types::text[], @digests::text[], @approved::boolean[], @sequences::bigint[])
		as n (id, tenant_id, request_type, digest, approved, sequence)
	order by id
	on conflict (id) do update
	set request_type = excluded.request_type, digest = excluded.digest, approved = r.approved or excluded.approved,
		intake_sequence = excluded.intake_sequence, updated_at = excluded.updated_at
	where r.intake_sequence < excluded.intake_sequence
	returning r.id, r.tenant_id, r.digest
), made as (
	insert into bundle (id, tenant_id, state, version, digest, created_at, updated_at)
	select id, tenant_id, 'awaiting', 0, digest, @now, @now from news
	on conflict (id) do nothing
)
select id from news`

// PutRequests notes what intake says about requests, each of them once in the list, and gives each a bundle. It answers the ids of those
// that were news; of the others something newer is known.
func PutRequests(ctx context.Context, tx pgx.Tx, list []Heard, now time.Time) (map[uuid.UUID]bool, error) {
	n := len(list)
	ids, tenants, approved, sequences := make([]uuid.UUID, n), make([]uuid.UUID, n), make([]bool, n), make([]int64, n)
	types, digests := make([]string, n), make([]string, n)
	for i, h := range list {
		r := h.Request
		ids[i], tenants[i], types[i], digests[i], approved[i], sequences[i] = r.ID, r.Tenant, r.Type, r.Digest, r.Approved, h.Sequence
	}
	rows, err := tx.Query(ctx, putRequests, pgx.NamedArgs{"ids": ids, "tenants": tenants, "types": types, "digests": digests,
		"approved": approved, "sequences": sequences, "now": now})
	if err != nil {
		return nil, fmt.Errorf("put requests: %w", err)
	}
	news := map[uuid.UUID]bool{}
	var id uuid.UUID
	if _, err := pgx.ForEachRow(rows, []any{&id}, func() error { news[id] = true; return nil }); err != nil {
		return nil, fmt.Errorf("put requests: %w", err)
	}
	return news, nil
}

const endRequest = `
update request set outcome = @outcome, intake_sequence = @sequence, updated_at = @now
where id = @id and intake_sequence < @sequence`

// EndRequest notes that intake rejected or withdrew a request; news is false when something newer is known.
func EndRequest(ctx context.Context, tx pgx.Tx, id uuid.UUID, outcome string, sequence int64, now time.Time) (news bool, err error) {
	tag, err := tx.Exec(ctx, endRequest, pgx.NamedArgs{"id": id, "outcome": outcome, "sequence": sequence, "now": now})
	if err != nil {
		return false, fmt.Errorf("end request: %w", err)
	}
	return tag.RowsAffected() == 1, nil
}

const (
	requestColumns = `id, tenant_id, request_type, digest, approved, outcome`
	selectRequest  = `select ` + requestColumns + ` from request where id = @id`
	selectRequests = `select ` + requestColumns + ` from request where id = any(@ids)`
)

func scanRequest(row pgx.CollectableRow) (r domain.Request, err error) {
	err = row.Scan(&r.ID, &r.Tenant, &r.Type, &r.Digest, &r.Approved, &r.Outcome)
	return r, err
}

// Request reads the projection; ErrNone when intake's event has not arrived. For loops and consumers.
func Request(ctx context.Context, tx pgx.Tx, id uuid.UUID) (domain.Request, error) {
	rows, err := tx.Query(ctx, selectRequest, pgx.NamedArgs{"id": id})
	if err != nil {
		return domain.Request{}, fmt.Errorf("read request: %w", err)
	}
	r, err := pgx.CollectExactlyOneRow(rows, scanRequest)
	return r, found("read request", err)
}

// Requests reads those that intake's events have arrived of.
func Requests(ctx context.Context, tx pgx.Tx, ids []uuid.UUID) (map[uuid.UUID]domain.Request, error) {
	rows, err := tx.Query(ctx, selectRequests, pgx.NamedArgs{"ids": ids})
	if err != nil {
		return nil, fmt.Errorf("read requests: %w", err)
	}
	list, err := pgx.CollectRows(rows, scanRequest)
	if err != nil {
		return nil, fmt.Errorf("read requests: %w", err)
	}
	out := make(map[uuid.UUID]domain.Request, len(list))
	for _, r := range list {
		out[r.ID] = r
	}
	return out, nil
}
