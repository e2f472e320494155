package app

import (
	"context"
	"errors"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/pratique-io/pratique/services/approval/internal/domain"
	"github.com/pratique-io/pratique/services/approval/internal/store"
)

// Gone is a subject that was withdrawn.
type Gone struct {
	Tenant    uuid.UUID
	Kind      domain.Kind
	Subject   uuid.UUID
	Requester string
	Reason    string
	Actor     string
	// Untaken says that the subject still waited for its decision: an approval, if there is one, came too late for intake to take it.
	Untaken bool
}

// Void ends the case of a subject that is gone: an open one, and an approved one whose approval was never taken. Any other decision stays. When
// the ask has not arrived yet, a void case is left in its place, so that it never opens.
func (a *App) Void(ctx context.Context, tx pgx.Tx, g Gone) error {
	c, err := store.LockSubject(ctx, tx, g.Kind, g.Subject)
	if errors.Is(err, store.ErrNone) {
		return a.tombstone(ctx, tx, g)
	}
	if err != nil {
		return err
	}
	to, ok := domain.Next(c.State, domain.Lapse)
	if !ok || (c.State == domain.Approved && !g.Untaken) {
		return nil
	}
	return a.finish(ctx, tx, c, to, domain.Lapse, system, g.Reason, g.Actor)
}

func (a *App) tombstone(ctx context.Context, tx pgx.Tx, g Gone) error {
	id, err := uuid.NewV7()
	if err != nil {
		return err
	}
	now := a.Now().UTC()
	c := &domain.Case{
		ID: id, Tenant: g.Tenant, Kind: g.Kind, Subject: g.Subject, Requester: g.Requester, State: domain.Void, Required: 1,
		Facts: map[string]string{}, CreatedAt: now, DecidedAt: &now, DecidedBy: system, Reason: g.Reason, Version: 1,
	}
	fresh, err := store.Insert(ctx, tx, []*domain.Case{c})
	if err != nil {
		return err
	}
	if !fresh[c.ID] { // the ask came in between, in a transaction that has just committed: its case is there now
		return a.Void(ctx, tx, g)
	}
	eventID, err := tell(ctx, tx, ended(c), head(c, c.Version, g.Actor))
	if err != nil {
		return err
	}
	return store.Note(ctx, tx, []store.Transition{{Case: c, Verb: string(domain.Lapse), Actor: g.Actor, Reason: g.Reason, Event: eventID, At: now}})
}

// finish moves a locked case to its end and tells of it.
func (a *App) finish(ctx context.Context, tx pgx.Tx, c *domain.Case, to domain.State, verb domain.Verb, by, reason, actor string) error {
	now := a.Now().UTC()
	from := c.State
	c.State, c.DecidedAt, c.DecidedBy, c.Reason = to, &now, by, reason
	eventID, err := tell(ctx, tx, ended(c), head(c, c.Version+1, actor))
	if err != nil {
		return err
	}
	return store.Move(ctx, tx, store.Transition{Case: c, Verb: string(verb), From: from, Actor: actor, Reason: reason, Event: eventID, At: now})
}
