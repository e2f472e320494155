package app

import (
	"context"
	"errors"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/pratique-io/pratique/services/approval/internal/domain"
	"github.com/pratique-io/pratique/services/approval/internal/store"
)

// Void ends the open case of a subject that is gone. When the ask has not arrived yet, a void case is left in its place, so that it never
// opens. A case that was decided keeps its decision.
func (a *App) Void(ctx context.Context, tx pgx.Tx, tenant uuid.UUID, kind domain.Kind, subject uuid.UUID, requester, reason, actor string) error {
	c, err := store.LockSubject(ctx, tx, kind, subject)
	if errors.Is(err, store.ErrNone) {
		return a.tombstone(ctx, tx, tenant, kind, subject, requester, reason, actor)
	}
	if err != nil {
		return err
	}
	to, ok := domain.Next(c.State, domain.Lapse)
	if !ok {
		return nil
	}
	return a.finish(ctx, tx, c, to, domain.Lapse, system, reason, actor)
}

func (a *App) tombstone(ctx context.Context, tx pgx.Tx, tenant uuid.UUID, kind domain.Kind, subject uuid.UUID, requester, reason, actor string) error {
	id, err := uuid.NewV7()
	if err != nil {
		return err
	}
	now := a.Now().UTC()
	c := &domain.Case{
		ID: id, Tenant: tenant, Kind: kind, Subject: subject, Requester: requester, State: domain.Void, Required: 1, Facts: map[string]string{},
		CreatedAt: now, DecidedAt: &now, DecidedBy: system, Reason: reason, Version: 1,
	}
	fresh, err := store.Insert(ctx, tx, []*domain.Case{c})
	if err != nil {
		return err
	}
	if !fresh[c.ID] { // the ask came in between, in a transaction that has just committed: its case is there now
		return a.Void(ctx, tx, tenant, kind, subject, requester, reason, actor)
	}
	eventID, err := tell(ctx, tx, ended(c), head(c, c.Version, actor))
	if err != nil {
		return err
	}
	return store.Note(ctx, tx, []store.Transition{{Case: c, Verb: string(domain.Lapse), Actor: actor, Reason: reason, Event: eventID, At: now}})
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
