package store

import (
	"context"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/pratique-io/pratique/services/evidence/internal/domain"
)

// An approval stays known whatever order the events come in.
const upsertRequest = `
insert into request as r (id, tenant_id, request_type, digest, approved, intake_sequence, updated_at)
values (@id, @tenant, @type, @digest, @approved, @sequence, @now)
on conflict (id) do update
set request_type = excluded.request_type, digest = excluded.digest, approved = r.approved or excluded.approved,
	intake_sequence = excluded.intake_sequence, updated_at = excluded.updated_at
where r.intake_sequence < excluded.intake_sequence`

const insertBundle = `
insert into bundle (id, tenant_id, state, version, digest, created_at, updated_at)
values (@id, @tenant, 'awaiting', 0, @digest, @now, @now)
on conflict (id) do nothing`

// PutRequest notes what intake says about a request and gives it a bundle; news is false when something newer is known.
func PutRequest(ctx context.Context, tx pgx.Tx, r domain.Request, sequence int64, now time.Time) (news bool, err error) {
	args := pgx.NamedArgs{"id": r.ID, "tenant": r.Tenant, "type": r.Type, "digest": r.Digest, "approved": r.Approved, "sequence": sequence, "now": now}
	tag, err := tx.Exec(ctx, upsertRequest, args)
	if err != nil {
		return false, fmt.Errorf("put request: %w", err)
	}
	if tag.RowsAffected() == 0 {
		return false, nil
	}
	if _, err := tx.Exec(ctx, insertBundle, args); err != nil {
		return false, fmt.Errorf("make bundle: %w", err)
	}
	return true, nil
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

const selectRequest = `select id, tenant_id, request_type, digest, approved, outcome from request where id = @id`

// Request reads the projection; ErrNone when intake's event has not arrived. For loops and consumers.
func Request(ctx context.Context, tx pgx.Tx, id uuid.UUID) (domain.Request, error) {
	var r domain.Request
	err := tx.QueryRow(ctx, selectRequest, pgx.NamedArgs{"id": id}).Scan(&r.ID, &r.Tenant, &r.Type, &r.Digest, &r.Approved, &r.Outcome)
	return r, found("read request", err)
}
