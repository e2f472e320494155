// Package app is what dispatch does: one file per verb, each a script over one transaction that asks the domain, saves the record with
// its transition and its event, or nothing. It calls nobody outside: the loops do.
package app

import (
	"context"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"google.golang.org/protobuf/proto"

	"github.com/pratique-io/pratique/internal/event"
	"github.com/pratique-io/pratique/internal/outbox"
	"github.com/pratique-io/pratique/services/dispatch/internal/domain"
	"github.com/pratique-io/pratique/services/dispatch/internal/store"
)

// App holds what every verb needs: the clock.
type App struct{ now func() time.Time }

// New makes an App.
func New(now func() time.Time) *App { return &App{now: now} }

// Now is the time, as the database keeps it.
func (a *App) Now() time.Time { return a.now().UTC().Truncate(time.Microsecond) }

// actor is who acts when the loops do.
const actor = "service:dispatch"

// step is one transition in the making.
type step struct {
	verb   domain.Verb
	reason string
	actor  string
	event  proto.Message // nil: of no interest to others
	change func(*domain.Record)
}

// move takes a record through one verb and answers it as it is afterwards. Record, transition and event are saved together.
func (a *App) move(ctx context.Context, tx pgx.Tx, before domain.Record, s step) (domain.Record, error) {
	to, err := domain.Next(before.State, s.verb)
	if err != nil {
		return before, fmt.Errorf("%w: %w", store.ErrConflict, err)
	}
	after := before
	after.State = to
	after.Version++
	if s.change != nil {
		s.change(&after)
	}
	t := domain.Transition{From: before.State, To: to, Verb: s.verb, Version: after.Version, Actor: s.actor, Reason: s.reason, At: a.Now()}
	if t.Actor == "" {
		t.Actor = actor
	}
	if s.event == nil {
		return after, store.Move(ctx, tx, before, after, t)
	}
	e, err := envelope(ctx, s.event, after.ID, after.Tenant, after.Version)
	if err != nil {
		return before, err
	}
	if t.Event, err = uuid.Parse(e.ID); err != nil {
		return before, fmt.Errorf("event id: %w", err)
	}
	if err := store.Move(ctx, tx, before, after, t); err != nil {
		return before, err
	}
	return after, outbox.Append(ctx, tx, e)
}

func envelope(ctx context.Context, msg proto.Message, request, tenant uuid.UUID, version int64) (event.Envelope, error) {
	return event.New(ctx, msg, event.Head{Subject: request, Tenant: tenant, Sequence: version, Request: request, Actor: actor})
}

// unleased gives the lease up together with the change.
func unleased(r *domain.Record) { r.LeasedUntil = time.Time{} }
