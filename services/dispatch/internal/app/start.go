package app

import (
	"context"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"google.golang.org/protobuf/types/known/timestamppb"

	dispatchv1 "github.com/pratique-io/pratique/gen/pratique/dispatch/v1"
	"github.com/pratique-io/pratique/services/dispatch/internal/domain"
	"github.com/pratique-io/pratique/services/dispatch/internal/store"
)

// Wait tells that no provider takes the record now, once per period.
func (a *App) Wait(ctx context.Context, tx pgx.Tx, record domain.Record, message string) error {
	_, err := a.move(ctx, tx, record, step{verb: domain.Wait, reason: message, event: &dispatchv1.RunWaiting{
		ImportId: record.ID.String(), TenantId: record.Tenant.String(), FailureCode: domain.CodeUnavailable, Message: message,
		Since: timestamppb.New(record.QueuedAt)}})
	return err
}

// Begin records the intent to start, before the runner hears of it: where, until when its credentials hold, and what it writes to.
func (a *App) Begin(ctx context.Context, tx pgx.Tx, record domain.Record, provider uuid.UUID, target string, expires time.Time) (
	domain.Record, domain.Attempt, error) {
	run, err := store.NewestRun(ctx, tx, record.ID)
	if err != nil {
		return record, run, err
	}
	run.State, run.Provider = domain.RunStarting, provider
	if err := store.SaveRun(ctx, tx, run); err != nil {
		return record, run, err
	}
	record, err = a.move(ctx, tx, record, step{verb: domain.Start, reason: "permitted", change: func(r *domain.Record) {
		r.Provider, r.QuarantineTarget, r.ExpiresAt = provider, target, expires
	}})
	return record, run, err
}

// Started records that the runner has the run.
func (a *App) Started(ctx context.Context, tx pgx.Tx, record domain.Record, run domain.Attempt, started time.Time) (
	domain.Record, domain.Attempt, error) {
	run.State, run.StartedAt = domain.RunRunning, started
	if err := store.SaveRun(ctx, tx, run); err != nil {
		return record, run, err
	}
	record, err := a.move(ctx, tx, record, step{verb: domain.Run, reason: "taken by the runner", event: &dispatchv1.RunStarted{
		ImportId: record.ID.String(), TenantId: record.Tenant.String(), RunId: run.ID.String(), Attempt: int32(run.Number),
		ProviderId: run.Provider.String(), PipelineRunName: run.Name, PipelineNamespace: run.Namespace,
		StartedAt: timestamppb.New(started), QuarantineRepository: record.QuarantineTarget}})
	return record, run, err
}

// Refused ends a record that intake does not permit to run; intake has moved the request itself.
func (a *App) Refused(ctx context.Context, tx pgx.Tx, record domain.Record, reason string) error {
	_, err := a.cancel(ctx, tx, record, "service:intake", "no permit: "+reason)
	return err
}
