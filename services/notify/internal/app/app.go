// Package app holds notify's verbs: telling people (in the transaction that claimed the event) and what a person does with the notifications.
package app

import (
	"context"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/pratique-io/pratique/internal/auth"
	"github.com/pratique-io/pratique/internal/bus"
	"github.com/pratique-io/pratique/internal/directory"
	"github.com/pratique-io/pratique/internal/event"
	"github.com/pratique-io/pratique/services/notify/internal/domain"
	"github.com/pratique-io/pratique/services/notify/internal/store"
)

const (
	// startGrace is how much older than this service an event may be: clocks differ, and what just happened is still news.
	startGrace = time.Hour
	// directoryPatience is how old an event gets before it is accepted that nobody at all is known: on an empty system the first request may
	// overtake the first people.
	directoryPatience = time.Minute
)

// App holds what the verbs share.
type App struct {
	Now func() time.Time

	started atomic.Pointer[time.Time] // of this service; never changes once read
}

// News is one event with what it says.
type News struct {
	Event event.Envelope
	Fact  domain.Fact
}

// told is a notice on its way: frozen, addressed.
type told struct {
	news       News
	notice     domain.Notice
	plan       *store.Plan
	recipients []domain.Recipient
	receipts   []store.Receipt
}

// Tell plans, claims and delivers a batch, or, on an error, nothing. It answers one outcome of the bus per event.
func (a *App) Tell(ctx context.Context, tx pgx.Tx, batch []News) ([]error, error) {
	started, err := a.startedAt(ctx, tx)
	if err != nil {
		return nil, err
	}
	outcomes := make([]error, len(batch))
	people := newAddressBook(tx)
	var list []*told
	for i, news := range batch {
		notice, needed, err := domain.NoticeOf(news.Fact)
		switch {
		case err != nil:
			outcomes[i] = bus.Poison(err)
			continue
		case !needed:
			outcomes[i] = bus.Discard("nobody_to_tell")
			continue
		case news.Event.Born().Before(started.Add(-startGrace)):
			outcomes[i] = bus.Discard("before_notify")
			continue
		}
		one, outcome, err := a.plan(ctx, people, news, notice)
		if err != nil {
			return nil, err
		}
		if outcomes[i] = outcome; outcome == nil {
			list = append(list, one)
		}
	}
	if len(list) == 0 {
		return outcomes, nil
	}
	return outcomes, a.deliver(ctx, tx, list)
}

func (a *App) startedAt(ctx context.Context, tx pgx.Tx) (time.Time, error) {
	if at := a.started.Load(); at != nil {
		return *at, nil
	}
	at, err := store.StartedAt(ctx, tx)
	if err == nil {
		a.started.Store(&at)
	}
	return at, err
}

// plan freezes who is told. The outcome is early while somebody who must be in it has not arrived in the directory.
func (a *App) plan(ctx context.Context, people *addressBook, news News, notice domain.Notice) (*told, error, error) {
	e := news.Event
	if notice.Audience == domain.Outcome && notice.Requester != uuid.Nil {
		known, err := people.knows(ctx, notice.Requester)
		if err != nil {
			return nil, nil, err
		}
		if !known {
			return nil, bus.Early("requester_unknown"), nil
		}
	}
	known, err := people.near(ctx, notice.Audience, e.Tenant())
	if err != nil {
		return nil, nil, err
	}
	recipients := domain.Plan(notice, known)
	now := a.Now().UTC().Truncate(time.Microsecond)
	if len(recipients) == 0 && now.Sub(e.Born()) < directoryPatience {
		return nil, bus.Early("nobody_known"), nil
	}
	id, err := uuid.NewV7()
	if err != nil {
		return nil, nil, fmt.Errorf("plan id: %w", err)
	}
	eventID, err := uuid.Parse(e.ID)
	if err != nil {
		return nil, bus.Poison(fmt.Errorf("event id: %w", err)), nil
	}
	return &told{news: news, notice: notice, recipients: recipients, plan: &store.Plan{
		ID: id, Tenant: e.Tenant(), Event: eventID, EventType: e.Type, Type: notice.Type,
		Key: fmt.Sprintf("%s:%d", e.Aggregate(), e.Sequence), Expected: len(recipients), At: now,
	}}, nil, nil
}

// addressBook asks the directory for each audience once per transaction.
type addressBook struct {
	tx    pgx.Tx
	roles map[audience][]uuid.UUID
	seen  map[uuid.UUID]bool
}

type audience struct {
	tenant uuid.UUID // Nil for system roles
	role   auth.Role
}

func newAddressBook(tx pgx.Tx) *addressBook {
	return &addressBook{tx: tx, roles: map[audience][]uuid.UUID{}, seen: map[uuid.UUID]bool{}}
}

func (b *addressBook) knows(ctx context.Context, person uuid.UUID) (bool, error) {
	if known, asked := b.seen[person]; asked {
		return known, nil
	}
	_, known, err := directory.PersonByID(ctx, b.tx, person)
	b.seen[person] = known
	return known, err
}

// near finds everybody whom a notice for this audience could reach.
func (b *addressBook) near(ctx context.Context, kind domain.Audience, tenant uuid.UUID) (p domain.People, err error) {
	if p.SystemAdmins, err = b.with(ctx, audience{role: auth.SystemAdmin}); err != nil {
		return p, err
	}
	switch {
	case kind == domain.Decision:
		p.Reviewers, err = b.with(ctx, audience{role: auth.SecurityReviewer})
	case tenant != uuid.Nil:
		p.TenantAdmins, err = b.with(ctx, audience{tenant: tenant, role: auth.TenantAdmin})
	}
	return p, err
}

func (b *addressBook) with(ctx context.Context, who audience) ([]uuid.UUID, error) {
	if ids, asked := b.roles[who]; asked {
		return ids, nil
	}
	people, err := directory.People(ctx, b.tx, who.tenant, who.role)
	if err != nil {
		return nil, err
	}
	ids := make([]uuid.UUID, len(people))
	for i, p := range people {
		ids[i] = p.ID
	}
	b.roles[who] = ids
	return ids, nil
}
