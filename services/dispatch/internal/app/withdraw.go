package app

import (
	"context"
	"errors"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/pratique-io/pratique/services/dispatch/internal/domain"
	"github.com/pratique-io/pratique/services/dispatch/internal/store"
)

// Withdraw ends what waits, asks for the end of what runs, and leaves a tombstone where nothing is yet, so that an approval that comes
// late starts nothing. False when the request had ended before.
func (a *App) Withdraw(ctx context.Context, tx pgx.Tx, request, tenant uuid.UUID, by, reason string) (bool, error) {
	now := a.Now()
	record, err := store.LockRecord(ctx, tx, request)
	if errors.Is(err, store.ErrNone) {
		return store.InsertRecord(ctx, tx, domain.Record{ID: request, Tenant: tenant, State: domain.Cancelled, CreatedAt: now, QueuedAt: now,
			DueAt: now, Tombstone: true})
	}
	if err != nil {
		return false, err
	}
	switch {
	case record.State.Terminal():
		return false, nil
	case record.State.Active():
		return true, store.AskCancel(ctx, tx, request, reason, now)
	}
	_, err = a.cancel(ctx, tx, record, by, reason)
	return err == nil, err
}

// cancel ends a record of which nothing runs.
func (a *App) cancel(ctx context.Context, tx pgx.Tx, record domain.Record, by, reason string) (domain.Record, error) {
	run, err := store.NewestRun(ctx, tx, record.ID)
	if err != nil {
		return record, err
	}
	now := a.Now()
	run.State, run.EndedAt = domain.RunCancelled, now
	run.Steps = domain.CloseSteps(run.Steps, now, "cancelled")
	if err := store.SaveRun(ctx, tx, run); err != nil {
		return record, err
	}
	return a.move(ctx, tx, record, step{verb: domain.Cancel, actor: by, reason: reason, event: cancelledEvent(record, run, now),
		change: unleased})
}
