package app

import (
	"context"
	"maps"
	"slices"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/pratique-io/pratique/internal/bus"
	"github.com/pratique-io/pratique/internal/event"
	"github.com/pratique-io/pratique/internal/failpoint"
	"github.com/pratique-io/pratique/services/intake/internal/domain"
	"github.com/pratique-io/pratique/services/intake/internal/store"
)

// FactTypes are the events that Fold handles.
func FactTypes() []string { return slices.Sorted(maps.Keys(readers)) }

// Fold handles a batch of other services' facts about requests: one read, one write, one outcome per event. The order within the batch does
// not matter, since facts fold the same way in any order.
func (a *App) Fold(ctx context.Context, tx pgx.Tx, batch []event.Envelope) []error {
	outcomes := make([]error, len(batch))
	facts := make([]any, len(batch))
	subjects := make([]uuid.UUID, len(batch))
	wanted := map[uuid.UUID]bool{}
	for i, e := range batch {
		id, fact, err := factOf(e)
		if err != nil {
			outcomes[i] = bus.Poison(err)
			continue
		}
		subjects[i], facts[i], wanted[id] = id, fact, true
	}
	requests, err := store.LockRequests(ctx, tx, slices.Collect(maps.Keys(wanted)))
	if err != nil {
		return all(outcomes, err)
	}
	change := newChange(a.now())
	for i, e := range batch {
		if outcomes[i] == nil {
			outcomes[i] = fold(event.WithCause(ctx, e), change, requests[subjects[i]], facts[i], e)
		}
	}
	if err := change.save(ctx, tx); err != nil {
		return all(outcomes, err)
	}
	failpoint.Hit("intake.before_commit_fold")
	return outcomes
}

func fold(ctx context.Context, change *change, r *domain.Request, fact any, e event.Envelope) error {
	if r == nil {
		return bus.Early("no_request")
	}
	if r.State.Status == domain.Pending {
		return bus.Early("not_decided") // only RequestApproved starts a run, so the approval is on its way
	}
	was := r.Version
	steps, known := r.Hear(fact, change.now)
	if !known {
		return bus.Discard("old") // nothing was learned: the row stays as it is
	}
	change.touchAt(r, was)
	return change.steps(ctx, r, steps, act{Actor: e.Actor, Reason: shortName(e.Type), Cause: parse(e.ID)})
}

// all answers one error for every event: the transaction is lost.
func all(outcomes []error, err error) []error {
	for i := range outcomes {
		outcomes[i] = err
	}
	return outcomes
}
