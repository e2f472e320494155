package app

import (
	"context"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/pratique-io/pratique/internal/event"
	"github.com/pratique-io/pratique/internal/outbox"
	"github.com/pratique-io/pratique/services/approval/internal/domain"
	"github.com/pratique-io/pratique/services/approval/internal/store"
)

// Ask is a subject that waits for a decision.
type Ask struct {
	Tenant          uuid.UUID
	Kind            domain.Kind
	Subject         uuid.UUID
	Requester       string
	ChainRequesters []string
	Digest          string
	Facts           map[string]string
	Cause           event.Envelope
}

// Open opens a case for each subject that has none, all in one statement, and says CaseOpened for each. A subject that was withdrawn before
// its ask arrived has a void case already and stays so.
func (a *App) Open(ctx context.Context, tx pgx.Tx, asks []Ask) error {
	tenants := make([]uuid.UUID, len(asks))
	for i, ask := range asks {
		tenants[i] = ask.Tenant
	}
	policy, err := store.Policies(ctx, tx, tenants)
	if err != nil {
		return err
	}
	now := a.Now().UTC()
	cases := make([]*domain.Case, len(asks))
	for i, ask := range asks {
		id, err := uuid.NewV7()
		if err != nil {
			return err
		}
		rule := policy(ask.Tenant, ask.Kind)
		due := now.Add(rule.Due)
		cases[i] = &domain.Case{
			ID: id, Tenant: ask.Tenant, Kind: ask.Kind, Subject: ask.Subject, Requester: ask.Requester, ChainRequesters: ask.ChainRequesters,
			State: domain.Open, Required: rule.Required, Bound: domain.Bound{Digest: ask.Digest}, Facts: ask.Facts, DueAt: &due,
			CreatedAt: now, Version: 1,
		}
	}
	fresh, err := store.Insert(ctx, tx, cases)
	if err != nil {
		return err
	}
	var events []event.Envelope
	var trail []store.Transition
	for i, c := range cases {
		if !fresh[c.ID] {
			continue
		}
		e, err := event.New(event.WithCause(ctx, asks[i].Cause), opened(c), head(c, c.Version, "service:approval"))
		if err != nil {
			return err
		}
		id, err := uuid.Parse(e.ID)
		if err != nil {
			return err
		}
		events = append(events, e)
		trail = append(trail, store.Transition{Case: c, Verb: "open", Actor: "service:approval", Event: &id, At: now})
	}
	if len(events) == 0 {
		return nil
	}
	if err := store.Note(ctx, tx, trail); err != nil {
		return err
	}
	return outbox.Append(ctx, tx, events...)
}
