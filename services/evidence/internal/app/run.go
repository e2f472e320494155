package app

import (
	"context"
	"errors"
	"fmt"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	dispatchv1 "github.com/pratique-io/pratique/gen/pratique/dispatch/v1"
	"github.com/pratique-io/pratique/internal/bus"
	"github.com/pratique-io/pratique/internal/event"
	"github.com/pratique-io/pratique/services/evidence/internal/domain"
	"github.com/pratique-io/pratique/services/evidence/internal/store"
)

// RunChanged is RunsChanged for one event.
func (a *App) RunChanged(ctx context.Context, tx pgx.Tx, e event.Envelope) error {
	return a.RunsChanged(ctx, tx, []event.Envelope{e})[0]
}

// RunsChanged takes a batch of RunStarted, RunSucceeded, RunFailed and RunCancelled, one outcome per event: one read, the events in the order
// of the batch, one write. A database error is the outcome of all.
func (a *App) RunsChanged(ctx context.Context, tx pgx.Tx, batch []event.Envelope) []error {
	outcomes := make([]error, len(batch))
	s, err := openRuns(ctx, tx, batch)
	if err != nil {
		return spread(outcomes, err)
	}
	for i, e := range batch {
		outcomes[i] = a.runChanged(s, e)
	}
	if err := a.saveRuns(ctx, tx, s); err != nil {
		return spread(outcomes, err)
	}
	return outcomes
}

// runs is what a batch of run events builds on and what it does.
type runs struct {
	requests map[uuid.UUID]domain.Request
	bundles  map[uuid.UUID]*domain.Bundle
	changed  []domain.Request // in the order of their first change
	moves    map[uuid.UUID][]store.Move
	condemn  map[uuid.UUID]string // the first reason of the batch stays, as it does in the row
}

func openRuns(ctx context.Context, tx pgx.Tx, batch []event.Envelope) (*runs, error) {
	ids := make([]uuid.UUID, len(batch))
	for i, e := range batch {
		ids[i] = e.Aggregate()
	}
	s := &runs{moves: map[uuid.UUID][]store.Move{}, condemn: map[uuid.UUID]string{}}
	var err error
	if s.requests, err = store.Requests(ctx, tx, ids); err != nil {
		return nil, err
	}
	s.bundles, err = store.LockBundles(ctx, tx, ids)
	return s, err
}

// saveRuns writes everything. Each request that a run was heard of may have a copy from now on.
func (a *App) saveRuns(ctx context.Context, tx pgx.Tx, s *runs) error {
	saved := make([]store.Saved, 0, len(s.changed))
	for _, r := range s.changed {
		saved = append(saved, store.Saved{Bundle: s.bundles[r.ID], Moves: s.moves[r.ID]})
	}
	if err := store.SaveBundles(ctx, tx, saved); err != nil {
		return err
	}
	return a.condemnAll(ctx, tx, s.changed, s.condemn)
}

// runChanged judges one event. Only an event without an outcome of its own leaves a trace.
func (a *App) runChanged(s *runs, e event.Envelope) error {
	r, known := s.requests[e.Aggregate()]
	if !known {
		return bus.Early(unknown)
	}
	if r.Tenant != e.Tenant() {
		return bus.Poison(fmt.Errorf("request %s belongs to another tenant", r.ID))
	}
	b := s.bundles[r.ID]
	if b == nil {
		return fmt.Errorf("bundle of request %s: %w", r.ID, store.ErrNone)
	}
	if e.Sequence <= b.DispatchSequence {
		return bus.Discard(older)
	}
	next := *b
	next.DispatchSequence, next.RunState, next.UpdatedAt = e.Sequence, domain.Ended, a.now()
	moves, condemn, err := a.turn(r, &next, e)
	if err != nil {
		return err
	}
	if _, before := s.moves[r.ID]; !before {
		s.changed, s.moves[r.ID] = append(s.changed, r), nil
	}
	for _, m := range moves {
		s.moves[r.ID] = append(s.moves[r.ID], store.Move{Transition: m, Cause: causeOf(e)})
	}
	if condemn != "" && s.condemn[r.ID] == "" {
		s.condemn[r.ID] = condemn
	}
	*b = next
	return nil
}

// turn applies one event to a bundle: what moved it, and the reason for which the copy has to go, if it has to.
func (a *App) turn(r domain.Request, b *domain.Bundle, e event.Envelope) (moves []domain.Transition, condemn string, err error) {
	reason := domain.ReasonFailed
	if r.Outcome != "" {
		reason = r.Outcome
	}
	switch e.Type {
	case typeOf(&dispatchv1.RunStarted{}):
		b.RunState = domain.Running
		return nil, "", nil
	case typeOf(&dispatchv1.RunSucceeded{}):
		return a.succeeded(r, b, e, reason)
	}
	if b.State != domain.Awaiting && b.State != domain.Abandoned {
		return nil, "", bus.Discard(collected)
	}
	moves, err = a.abandoned(b, reason)
	return moves, reason, err
}

// succeeded notes what has to be collected. Only an approved request is: the approval is intake's word, and it may still be on its way.
func (a *App) succeeded(r domain.Request, b *domain.Bundle, e event.Envelope, reason string) ([]domain.Transition, string, error) {
	var m dispatchv1.RunSucceeded
	if err := e.Decode(&m); err != nil {
		return nil, "", bus.Poison(err)
	}
	switch {
	case b.State == domain.Abandoned: // withdrawn while it ran
		return nil, reason, nil
	case b.State != domain.Awaiting:
		return nil, "", bus.Discard(collected)
	case !r.Approved:
		return nil, "", bus.Early(notYes)
	case m.GetRunId() == "":
		return nil, "", bus.Poison(errors.New("a run without an id succeeded"))
	}
	b.Digest, b.Run, b.Attempt, b.Image, b.Repository = r.Digest, m.GetRunId(), int(m.GetAttempt()), m.GetImageDigest(), m.GetQuarantineRepository()
	b.Artifacts, b.Since, b.Tries = m.GetDocuments(), a.now(), 0
	move, err := b.Move(domain.Collect, actor, "", a.now())
	return []domain.Transition{move}, "", err
}
