package app

import (
	"context"
	"fmt"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"google.golang.org/protobuf/types/known/timestamppb"

	dispatchv1 "github.com/pratique-io/pratique/gen/pratique/dispatch/v1"
	"github.com/pratique-io/pratique/internal/outbox"
	"github.com/pratique-io/pratique/services/dispatch/internal/domain"
	"github.com/pratique-io/pratique/services/dispatch/internal/store"
)

// Approval is what dispatch takes from RequestApproved.
type Approval struct {
	Request, Tenant uuid.UUID
	RequestType     string
	SourceRegistry  string
	SourceImageRef  string
	SourceDigest    string
	RegistryAuth    string
	DecidedBy       string
}

// Queue takes an approved request in: a record, its first run, RunQueued. False when the request is known already, be it as withdrawn.
func (a *App) Queue(ctx context.Context, tx pgx.Tx, approved Approval) (bool, error) {
	now := a.Now()
	record := domain.Record{
		ID: approved.Request, Tenant: approved.Tenant, State: domain.Queued, Version: 1, Attempt: 1, RequestType: approved.RequestType,
		SourceRegistry: approved.SourceRegistry, SourceImageRef: approved.SourceImageRef, SourceDigest: approved.SourceDigest,
		RegistryAuth: approved.RegistryAuth, CreatedAt: now, QueuedAt: now, DueAt: now,
	}
	added, err := store.InsertRecord(ctx, tx, record)
	if err != nil || !added {
		return false, err
	}
	if err := a.addRun(ctx, tx, record, nil); err != nil {
		return false, err
	}
	e, err := envelope(ctx, queuedEvent(record), record.ID, record.Tenant, record.Version)
	if err != nil {
		return false, err
	}
	t := domain.Transition{To: domain.Queued, Verb: "queue", Version: 1, Actor: actor, Reason: "approved by " + approved.DecidedBy, At: now}
	if t.Event, err = uuid.Parse(e.ID); err != nil {
		return false, fmt.Errorf("event id: %w", err)
	}
	if err := store.FirstTransition(ctx, tx, record, t); err != nil {
		return false, err
	}
	return true, outbox.Append(ctx, tx, e)
}

// addRun adds the attempt that the record now waits for.
func (a *App) addRun(ctx context.Context, tx pgx.Tx, record domain.Record, earlier []domain.StepOf) error {
	id, err := uuid.NewV7()
	if err != nil {
		return fmt.Errorf("run id: %w", err)
	}
	return store.InsertRun(ctx, tx, domain.Attempt{
		ID: id, Request: record.ID, Tenant: record.Tenant, Number: record.Attempt, State: domain.RunQueued,
		Name: domain.RunName(record.ID, record.Attempt), Steps: domain.PendingSteps(earlier), QueuedAt: record.QueuedAt,
	})
}

func queuedEvent(record domain.Record) *dispatchv1.RunQueued {
	return &dispatchv1.RunQueued{ImportId: record.ID.String(), TenantId: record.Tenant.String(),
		QueuedAt: timestamppb.New(record.QueuedAt)}
}
