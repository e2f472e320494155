package store

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/pratique-io/pratique/internal/pg"
	"github.com/pratique-io/pratique/services/intake/internal/domain"
)

const requestColumns = `
id, tenant_id, request_type, artifact_type, requested_by, epr_record_id, epr_basis, source_registry, source_image_ref, source_image_digest,
platforms, destination_image_ref, justification, chain_id, chain_requesters, chain_position,
retry_of, cloned_from, status, execution_state, release_state, facts, execution_state_at, concluded_at, version, created_at, updated_at`

func scanRequest(row pgx.CollectableRow) (*domain.Request, error) {
	var r domain.Request
	var platforms, facts []byte
	var retryOf, clonedFrom *uuid.UUID
	err := row.Scan(&r.ID, &r.Tenant, &r.Type, &r.ArtifactType, &r.RequestedBy, &r.EprRecordID, &r.EprBasis, &r.SourceRegistry, &r.SourceImageRef,
		&r.SourceDigest, &platforms, &r.DestinationRef, &r.Justification, &r.ChainID, &r.ChainRequesters, &r.ChainPosition,
		&retryOf, &clonedFrom, &r.State.Status, &r.State.Execution, &r.State.Release, &facts, &r.ExecutionAt, &r.ConcludedAt, &r.Version, &r.CreatedAt, &r.UpdatedAt)
	if err != nil {
		return nil, err
	}
	r.RetryOf, r.ClonedFrom = orNil(retryOf), orNil(clonedFrom)
	utc(&r.ExecutionAt, r.ConcludedAt, &r.CreatedAt, &r.UpdatedAt)
	if err := json.Unmarshal(platforms, &r.Platforms); err != nil {
		return nil, fmt.Errorf("platforms of %s: %w", r.ID, err)
	}
	if err := json.Unmarshal(facts, &r.Facts); err != nil {
		return nil, fmt.Errorf("facts of %s: %w", r.ID, err)
	}
	return &r, nil
}

const insertRequest = `
insert into request (id, tenant_id, request_type, artifact_type, requested_by, epr_record_id, epr_basis, source_registry, source_image_ref,
	source_image_digest, platforms, destination_image_ref, justification, chain_id, chain_requesters, chain_position, retry_of,
	cloned_from, status, execution_state, release_state, release_blocker_reason, failure_class, failure_code, policy_decision, facts, execution_state_at, concluded_at, version, created_at, updated_at)
values (@id, @tenant, @type, @artifact, @requester, @epr, @basis, @registry, @ref, @digest, @platforms, @destination, @justification, @chain,
	@requesters, @position, @retry_of, @cloned_from, @status, @execution, @release, '', '', '', '', @facts, @execution_at, null, @version, @created, @updated)
on conflict (tenant_id, request_type, source_image_digest) where status in ('pending', 'approved', 'importing') do nothing`

// InsertRequest stores a new request; false when an open one of the same tenant, type and digest stands in its way.
func InsertRequest(ctx context.Context, tx pgx.Tx, r *domain.Request) (bool, error) {
	platforms, err := toJSON(r.Platforms)
	if err != nil {
		return false, err
	}
	facts, err := toJSON(r.Facts)
	if err != nil {
		return false, err
	}
	tag, err := tx.Exec(ctx, insertRequest, pgx.NamedArgs{
		"id": r.ID, "tenant": r.Tenant, "type": r.Type, "artifact": r.ArtifactType, "requester": r.RequestedBy, "epr": r.EprRecordID,
		"basis": r.EprBasis, "registry": r.SourceRegistry, "ref": r.SourceImageRef, "digest": r.SourceDigest, "platforms": platforms,
		"destination": r.DestinationRef, "justification": r.Justification, "chain": r.ChainID, "requesters": r.ChainRequesters,
		"position": r.ChainPosition, "retry_of": orNull(r.RetryOf), "cloned_from": orNull(r.ClonedFrom),
		"status": r.State.Status, "execution": r.State.Execution, "release": r.State.Release, "facts": facts,
		"execution_at": r.ExecutionAt, "version": r.Version, "created": r.CreatedAt, "updated": r.UpdatedAt,
	})
	if err != nil {
		return false, fmt.Errorf("insert request: %w", err)
	}
	return tag.RowsAffected() == 1, nil
}

const selectOpen = `
select id from request
where tenant_id = @tenant and request_type = @type and source_image_digest = @digest and status in ('pending', 'approved', 'importing')`

// OpenRequest finds the open request of a tenant, type and digest; ErrNone when there is none.
func OpenRequest(ctx context.Context, tx pgx.Tx, tenant uuid.UUID, kind domain.Type, digest string) (uuid.UUID, error) {
	var id uuid.UUID
	err := tx.QueryRow(ctx, selectOpen, pgx.NamedArgs{"tenant": tenant, "type": kind, "digest": digest}).Scan(&id)
	return id, found("open request", err)
}

const (
	selectRequest = `select ` + requestColumns + ` from request where id = @id and (@tenant::uuid is null or tenant_id = @tenant)`
	lockRequest   = selectRequest + ` for update`
	lockRequests  = `select ` + requestColumns + ` from request where id = any(@ids) order by id for update`
)

// Request reads one; ErrNone when the scope does not hold it.
func Request(ctx context.Context, tx pgx.Tx, scope pg.Scope, id uuid.UUID) (*domain.Request, error) {
	return oneRequest(ctx, tx, selectRequest, scope, id)
}

// LockRequest is Request that holds the row until the transaction ends.
func LockRequest(ctx context.Context, tx pgx.Tx, scope pg.Scope, id uuid.UUID) (*domain.Request, error) {
	return oneRequest(ctx, tx, lockRequest, scope, id)
}

func oneRequest(ctx context.Context, tx pgx.Tx, query string, scope pg.Scope, id uuid.UUID) (*domain.Request, error) {
	rows, err := tx.Query(ctx, query, pgx.NamedArgs{"id": id, "tenant": tenantArg(scope)})
	if err != nil {
		return nil, fmt.Errorf("read request: %w", err)
	}
	r, err := pgx.CollectExactlyOneRow(rows, scanRequest)
	return r, found("read request", err)
}

// LockRequests reads and holds several, in the order of their ids so that two batches cannot wait for each other.
func LockRequests(ctx context.Context, tx pgx.Tx, ids []uuid.UUID) (map[uuid.UUID]*domain.Request, error) {
	rows, err := tx.Query(ctx, lockRequests, pgx.NamedArgs{"ids": ids})
	if err != nil {
		return nil, fmt.Errorf("lock requests: %w", err)
	}
	list, err := pgx.CollectRows(rows, scanRequest)
	if err != nil {
		return nil, fmt.Errorf("lock requests: %w", err)
	}
	out := make(map[uuid.UUID]*domain.Request, len(list))
	for _, r := range list {
		out[r.ID] = r
	}
	return out, nil
}

// Changed is a request as it shall be, with the version it was read at.
type Changed struct {
	Request *domain.Request
	Was     int64
}

const updateRequests = `
update request as r
set status = n.status, execution_state = n.execution, release_state = n.release, release_blocker_reason = n.blocker, failure_class = n.class,
	failure_code = n.code, policy_decision = n.verdict, facts = n.facts, execution_state_at = n.execution_at, concluded_at = n.concluded,
	version = n.version, updated_at = n.updated
from unnest(@ids::uuid[], @was::bigint[], @status::text[], @execution::text[], @release::text[], @blocker::text[], @class::text[], @code::text[],
	@verdict::text[], @facts::jsonb[], @execution_at::timestamptz[], @concluded::timestamptz[], @version::bigint[], @updated::timestamptz[])
	as n (id, was, status, execution, release, blocker, class, code, verdict, facts, execution_at, concluded, version, updated)
where r.id = n.id and r.version = n.was`

// SaveRequests writes the changed requests in one statement, each guarded by the version it was read at.
func SaveRequests(ctx context.Context, tx pgx.Tx, changed []Changed) error {
	if len(changed) == 0 {
		return nil
	}
	n := len(changed)
	ids, was, version := make([]uuid.UUID, n), make([]int64, n), make([]int64, n)
	status, execution, release := make([]string, n), make([]string, n), make([]string, n)
	blocker, class, code, verdict := make([]string, n), make([]string, n), make([]string, n), make([]string, n)
	facts := make([][]byte, n)
	executionAt, updated, concluded := make([]time.Time, n), make([]time.Time, n), make([]*time.Time, n)
	for i, c := range changed {
		r := c.Request
		raw, err := toJSON(r.Facts)
		if err != nil {
			return err
		}
		ids[i], was[i], version[i], facts[i] = r.ID, c.Was, r.Version, raw
		status[i], execution[i], release[i] = string(r.State.Status), string(r.State.Execution), string(r.State.Release)
		blocker[i], executionAt[i], updated[i], concluded[i] = r.Blocker(), r.ExecutionAt, r.UpdatedAt, r.ConcludedAt
		if f := r.Failure(); f != nil {
			class[i], code[i] = f.Class, f.Code
		}
		if r.Facts.Judged != nil {
			verdict[i] = r.Facts.Judged.Verdict
		}
	}
	tag, err := tx.Exec(ctx, updateRequests, pgx.NamedArgs{
		"ids": ids, "was": was, "status": status, "execution": execution, "release": release, "blocker": blocker, "class": class, "code": code,
		"verdict": verdict, "facts": facts, "execution_at": executionAt, "concluded": concluded, "version": version, "updated": updated,
	})
	if err != nil {
		return fmt.Errorf("save requests: %w", err)
	}
	if int(tag.RowsAffected()) != n {
		return conflict("the request")
	}
	return nil
}
