package app

import (
	"context"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"google.golang.org/protobuf/types/known/timestamppb"

	dispatchv1 "github.com/pratique-io/pratique/gen/pratique/dispatch/v1"
	"github.com/pratique-io/pratique/internal/event"
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
	Cause           event.Envelope // zero: no event
}

// Queue is QueueAll for one.
func (a *App) Queue(ctx context.Context, tx pgx.Tx, approved Approval) (bool, error) {
	added, err := a.QueueAll(ctx, tx, []Approval{approved})
	return err == nil && added[0], err
}

// QueueAll takes approved requests in, each of them once in the list: a record, its first run, RunQueued. False for a request that is known
// already, be it as withdrawn.
func (a *App) QueueAll(ctx context.Context, tx pgx.Tx, list []Approval) ([]bool, error) {
	if len(list) == 0 {
		return nil, nil
	}
	now := a.Now()
	news, events := make([]store.News, len(list)), make([]event.Envelope, len(list))
	for i, approved := range list {
		because := ctx
		if approved.Cause.ID != "" {
			because = event.WithCause(ctx, approved.Cause)
		}
		var err error
		if news[i], events[i], err = fresh(because, approved, now); err != nil {
			return nil, err
		}
	}
	known, err := store.InsertQueued(ctx, tx, news)
	if err != nil {
		return nil, err
	}
	added := make([]bool, len(list))
	var told []event.Envelope
	for i := range list {
		if added[i] = known[list[i].Request]; added[i] {
			told = append(told, events[i])
		}
	}
	return added, outbox.Append(ctx, tx, told...)
}

// fresh makes all that an approved request begins with.
func fresh(ctx context.Context, approved Approval, now time.Time) (store.News, event.Envelope, error) {
	record := domain.Record{
		ID: approved.Request, Tenant: approved.Tenant, State: domain.Queued, Version: 1, Attempt: 1, RequestType: approved.RequestType,
		SourceRegistry: approved.SourceRegistry, SourceImageRef: approved.SourceImageRef, SourceDigest: approved.SourceDigest,
		RegistryAuth: approved.RegistryAuth, CreatedAt: now, QueuedAt: now, DueAt: now,
	}
	run, err := attempt(record, nil)
	if err != nil {
		return store.News{}, event.Envelope{}, err
	}
	e, err := envelope(ctx, queuedEvent(record), record.ID, record.Tenant, record.Version)
	if err != nil {
		return store.News{}, e, err
	}
	t := domain.Transition{To: domain.Queued, Verb: "queue", Version: 1, Actor: actor, Reason: "approved by " + approved.DecidedBy, At: now}
	if t.Event, err = uuid.Parse(e.ID); err != nil {
		return store.News{}, e, fmt.Errorf("event id: %w", err)
	}
	return store.News{Record: record, Run: run, Transition: t}, e, nil
}

// addRun adds the attempt that the record now waits for.
func (a *App) addRun(ctx context.Context, tx pgx.Tx, record domain.Record, earlier []domain.StepOf) error {
	run, err := attempt(record, earlier)
	if err != nil {
		return err
	}
	return store.InsertRun(ctx, tx, run)
}

// attempt makes the run that a queued record waits for.
func attempt(record domain.Record, earlier []domain.StepOf) (domain.Attempt, error) {
	id, err := uuid.NewV7()
	if err != nil {
		return domain.Attempt{}, fmt.Errorf("run id: %w", err)
	}
	return domain.Attempt{
		ID: id, Request: record.ID, Tenant: record.Tenant, Number: record.Attempt, State: domain.RunQueued,
		Name: domain.RunName(record.ID, record.Attempt), Steps: domain.PendingSteps(earlier), QueuedAt: record.QueuedAt,
	}, nil
}

func queuedEvent(record domain.Record) *dispatchv1.RunQueued {
	return &dispatchv1.RunQueued{ImportId: record.ID.String(), TenantId: record.Tenant.String(),
		QueuedAt: timestamppb.New(record.QueuedAt)}
}
