package store

import (
	"context"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"

	"github.com/pratique-io/pratique/services/dispatch/internal/domain"
)

const recordColumns = `id, tenant_id, state, version, attempt, request_type, source_registry, source_image_ref, source_digest, registry_auth,
	provider_id, quarantine_target, cancel_at, cancel_reason, failure_class, failure_code, failure_message, created_at, queued_at,
	expires_at, due_at, lease_token, leased_until, tombstone`

func scanRecord(row pgx.CollectableRow) (domain.Record, error) {
	var r domain.Record
	var failure domain.Failure
	var provider *uuid.UUID
	var cancel, expires *time.Time
	var leased pgtype.Timestamptz
	err := row.Scan(&r.ID, &r.Tenant, &r.State, &r.Version, &r.Attempt, &r.RequestType, &r.SourceRegistry, &r.SourceImageRef,
		&r.SourceDigest, &r.RegistryAuth, &provider, &r.QuarantineTarget, &cancel, &r.CancelReason, &failure.Class, &failure.Code,
		&failure.Message, &r.CreatedAt, &r.QueuedAt, &expires, &r.DueAt, &r.LeaseToken, &leased, &r.Tombstone)
	if err != nil {
		return domain.Record{}, err
	}
	if provider != nil {
		r.Provider = *provider
	}
	if failure.Code != "" {
		r.Failure = &failure
	}
	if leased.InfinityModifier == pgtype.Finite {
		r.LeasedUntil = leased.Time.UTC()
	}
	r.CancelAt, r.ExpiresAt = timeOf(cancel), timeOf(expires)
	return r, nil
}

func collectRecord(rows pgx.Rows, err error) (domain.Record, error) {
	if err != nil {
		return domain.Record{}, err
	}
	r, err := pgx.CollectExactlyOneRow(rows, scanRecord)
	return r, none(err)
}

const getRecordSQL = `select ` + recordColumns + ` from dispatch_record where id = @id`

// GetRecord reads a record; ErrNone when there is none in this scope.
func GetRecord(ctx context.Context, tx pgx.Tx, id uuid.UUID) (domain.Record, error) {
	r, err := collectRecord(tx.Query(ctx, getRecordSQL, pgx.NamedArgs{"id": id}))
	if err != nil {
		return r, fmt.Errorf("read dispatch record: %w", err)
	}
	return r, nil
}

// LockRecord is GetRecord that keeps others from changing it until the transaction ends.
func LockRecord(ctx context.Context, tx pgx.Tx, id uuid.UUID) (domain.Record, error) {
	r, err := collectRecord(tx.Query(ctx, getRecordSQL+` for update`, pgx.NamedArgs{"id": id}))
	if err != nil {
		return r, fmt.Errorf("lock dispatch record: %w", err)
	}
	return r, nil
}

const insertRecordSQL = `insert into dispatch_record (id, tenant_id, state, version, attempt, request_type, source_registry,
	source_image_ref, source_digest, registry_auth, created_at, queued_at, due_at, tombstone)
values (@id, @tenant_id, @state, @version, @attempt, @request_type, @source_registry, @source_image_ref, @source_digest, @registry_auth,
	@created_at, @queued_at, @due_at, @tombstone)
on conflict (id) do nothing`

// InsertRecord adds a record; false when one is there already.
func InsertRecord(ctx context.Context, tx pgx.Tx, r domain.Record) (bool, error) {
	tag, err := tx.Exec(ctx, insertRecordSQL, pgx.NamedArgs{
		"id": r.ID, "tenant_id": r.Tenant, "state": r.State, "version": r.Version, "attempt": r.Attempt, "request_type": r.RequestType,
		"source_registry": r.SourceRegistry, "source_image_ref": r.SourceImageRef, "source_digest": r.SourceDigest,
		"registry_auth": r.RegistryAuth, "created_at": r.CreatedAt, "queued_at": r.QueuedAt, "due_at": r.DueAt, "tombstone": r.Tombstone,
	})
	if err != nil {
		return false, fmt.Errorf("insert dispatch record: %w", err)
	}
	return tag.RowsAffected() == 1, nil
}

const moveRecordSQL = `with moved as (
	update dispatch_record set state = @state, version = @version, attempt = @attempt, provider_id = @provider_id,
		quarantine_target = @quarantine_target, failure_class = @failure_class, failure_code = @failure_code,
		failure_message = @failure_message, queued_at = @queued_at, expires_at = @expires_at, due_at = @due_at,
		leased_until = coalesce(@leased_until::timestamptz, '-infinity')
	where id = @id and state = @from_state and version = @from_version and lease_token = @lease_token
	returning tenant_id, id
)
insert into transition (tenant_id, import_id, version, from_state, to_state, verb, actor, reason, event_id, at)
select tenant_id, id, @version, @from_state, @state, @verb, @actor, @reason, @event_id, @at from moved`

// Move saves a record that went through one verb, with its transition. before is the record as it was read: its state, version and lease
// token must still hold, else ErrConflict and nothing is changed.
func Move(ctx context.Context, tx pgx.Tx, before, after domain.Record, t domain.Transition) error {
	failure := domain.Failure{}
	if after.Failure != nil {
		failure = *after.Failure
	}
	tag, err := tx.Exec(ctx, moveRecordSQL, pgx.NamedArgs{
		"id": before.ID, "from_state": before.State, "from_version": before.Version, "lease_token": before.LeaseToken,
		"state": after.State, "version": after.Version, "attempt": after.Attempt, "provider_id": nullID(after.Provider),
		"quarantine_target": after.QuarantineTarget, "failure_class": failure.Class, "failure_code": failure.Code,
		"failure_message": failure.Message, "queued_at": after.QueuedAt, "expires_at": nullTime(after.ExpiresAt), "due_at": after.DueAt,
		"leased_until": nullTime(after.LeasedUntil),
		"verb":         t.Verb, "actor": t.Actor, "reason": t.Reason, "event_id": nullID(t.Event), "at": t.At,
	})
	if err != nil {
		return fmt.Errorf("move dispatch record: %w", err)
	}
	if tag.RowsAffected() != 1 {
		return ErrConflict
	}
	return nil
}

func nullID(id uuid.UUID) *uuid.UUID {
	if id == uuid.Nil {
		return nil
	}
	return &id
}

const askCancelSQL = `update dispatch_record set cancel_at = @at, cancel_reason = @reason, due_at = least(due_at, @at)
where id = @id and cancel_at is null and state in ('starting', 'running')`

// AskCancel notes that an active record shall end; whoever supervises it does the rest.
func AskCancel(ctx context.Context, tx pgx.Tx, id uuid.UUID, reason string, at time.Time) error {
	_, err := tx.Exec(ctx, askCancelSQL, pgx.NamedArgs{"id": id, "reason": reason, "at": at})
	if err != nil {
		return fmt.Errorf("ask for cancellation: %w", err)
	}
	return nil
}
