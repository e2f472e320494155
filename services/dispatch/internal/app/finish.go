package app

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"
	"google.golang.org/protobuf/types/known/timestamppb"

	dispatchv1 "github.com/pratique-io/pratique/gen/pratique/dispatch/v1"
	eventv1 "github.com/pratique-io/pratique/gen/pratique/event/v1"
	"github.com/pratique-io/pratique/services/dispatch/internal/domain"
	"github.com/pratique-io/pratique/services/dispatch/internal/store"
)

// Advance records the steps as the runner reports them, when they changed.
func (a *App) Advance(ctx context.Context, tx pgx.Tx, record domain.Record, run domain.Attempt, reported []domain.StepOf) (
	domain.Record, domain.Attempt, error) {
	steps, changed := domain.MergeSteps(run.Steps, reported)
	if !changed {
		return record, run, nil
	}
	run.Steps = steps
	if err := store.SaveRun(ctx, tx, run); err != nil {
		return record, run, err
	}
	record, err := a.move(ctx, tx, record, step{verb: domain.Step, reason: "steps moved", event: &dispatchv1.RunStepChanged{
		ImportId: record.ID.String(), TenantId: record.Tenant.String(), RunId: run.ID.String(), Steps: StepMessages(steps)}})
	return record, run, err
}

// Succeed ends a run of which every step ended well.
func (a *App) Succeed(ctx context.Context, tx pgx.Tx, record domain.Record, run domain.Attempt, results domain.Results, ended time.Time) error {
	run.State, run.Results, run.EndedAt = domain.RunSucceeded, results, ended
	if err := store.SaveRun(ctx, tx, run); err != nil {
		return err
	}
	_, err := a.move(ctx, tx, record, step{verb: domain.Succeed, reason: "every step ended well", change: unleased,
		event: &dispatchv1.RunSucceeded{
			ImportId: record.ID.String(), TenantId: record.Tenant.String(), RunId: run.ID.String(), Attempt: int32(run.Number),
			QuarantineRepository: record.QuarantineTarget, ImageDigest: results.Image, Documents: results.Documents,
			FinishedAt: timestamppb.New(ended)}})
	return err
}

// Fail ends a record with a failure; at is the step it happened in, if it was one.
func (a *App) Fail(ctx context.Context, tx pgx.Tx, record domain.Record, run domain.Attempt, failure *domain.Failure, at string, ended time.Time) error {
	run.State, run.Failure, run.EndedAt = domain.RunFailed, failure, ended
	run.Steps = domain.CloseSteps(run.Steps, ended, failure.Message)
	if err := store.SaveRun(ctx, tx, run); err != nil {
		return err
	}
	_, err := a.move(ctx, tx, record, step{verb: domain.Fail, reason: failure.Class + "/" + failure.Code,
		change: func(r *domain.Record) { unleased(r); r.Failure = failure },
		event: &dispatchv1.RunFailed{
			ImportId: record.ID.String(), TenantId: record.Tenant.String(), RunId: run.ID.String(), Attempt: int32(run.Number),
			Failure:    &eventv1.Failure{FailureClass: failure.Class, FailureCode: failure.Code, Message: failure.Message},
			FinishedAt: timestamppb.New(ended), QuarantineRepository: record.QuarantineTarget, Step: at}})
	return err
}

// Cancelled ends a record whose run is over after cancellation was asked for.
func (a *App) Cancelled(ctx context.Context, tx pgx.Tx, record domain.Record) error {
	_, err := a.cancel(ctx, tx, record, actor, record.CancelReason)
	return err
}

// Again ends an attempt that never started or was lost, and queues the next one, not before due. After the last attempt the record
// fails. Nothing of the ended attempt may run any more: that is for the caller to have proven.
func (a *App) Again(ctx context.Context, tx pgx.Tx, record domain.Record, run domain.Attempt, failure *domain.Failure, due time.Time) error {
	now := a.Now()
	if run.Number >= domain.MaxAttempts {
		return a.Fail(ctx, tx, record, run, failure, "", now)
	}
	run.State, run.Failure, run.EndedAt = domain.RunFailed, failure, now
	run.Steps = domain.CloseSteps(run.Steps, now, failure.Message)
	if err := store.SaveRun(ctx, tx, run); err != nil {
		return err
	}
	next := record
	next.Attempt, next.QueuedAt = record.Attempt+1, now
	record, err := a.move(ctx, tx, record, step{verb: domain.Requeue, reason: failure.Message, event: queuedEvent(next),
		change: func(r *domain.Record) {
			unleased(r)
			r.Attempt, r.QueuedAt, r.DueAt, r.ExpiresAt = next.Attempt, now, due, time.Time{}
		}})
	if err != nil {
		return err
	}
	return a.addRun(ctx, tx, record, run.Steps)
}

func cancelledEvent(record domain.Record, run domain.Attempt, at time.Time) *dispatchv1.RunCancelled {
	return &dispatchv1.RunCancelled{ImportId: record.ID.String(), TenantId: record.Tenant.String(), RunId: run.ID.String(),
		Attempt: int32(run.Number), QuarantineRepository: record.QuarantineTarget, FinishedAt: timestamppb.New(at)}
}

// StepMessages renders steps.
func StepMessages(steps []domain.StepOf) []*dispatchv1.RunStep {
	out := make([]*dispatchv1.RunStep, 0, len(steps))
	for _, s := range steps {
		m := &dispatchv1.RunStep{StepKey: s.Key, Status: string(s.State), Attempts: int32(s.Attempts)}
		if s.LastError != "" {
			m.LastError = &s.LastError
		}
		if !s.StartedAt.IsZero() {
			m.StartedAt = timestamppb.New(s.StartedAt)
		}
		if !s.EndedAt.IsZero() {
			m.CompletedAt = timestamppb.New(s.EndedAt)
		}
		out = append(out, m)
	}
	return out
}
