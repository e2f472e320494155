// Package app is what release does: one file per verb, each a transaction script over the domain and the store. Questions to other services
// are asked before a transaction opens, never inside.
package app

import (
	"context"
	"errors"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"google.golang.org/protobuf/proto"

	errorsv1 "github.com/pratique-io/pratique/gen/pratique/errors/v1"
	"github.com/pratique-io/pratique/internal/auth"
	"github.com/pratique-io/pratique/internal/directory"
	"github.com/pratique-io/pratique/internal/event"
	"github.com/pratique-io/pratique/internal/fault"
	"github.com/pratique-io/pratique/internal/oci"
	"github.com/pratique-io/pratique/internal/outbox"
	"github.com/pratique-io/pratique/internal/pg"
	"github.com/pratique-io/pratique/services/release/internal/domain"
	"github.com/pratique-io/pratique/services/release/internal/peer"
	"github.com/pratique-io/pratique/services/release/internal/store"
)

// self is who acts when no person does.
const self = "service:release"

// App holds what the verbs need.
type App struct {
	db      *pg.DB
	peers   *peer.Peers
	trusted string // host[:port] of the trusted registry
	now     func() time.Time
}

// New makes an App. Times are kept to the microsecond, as the database does.
func New(db *pg.DB, peers *peer.Peers, trusted string, now func() time.Time) *App {
	return &App{db: db, peers: peers, trusted: trusted, now: func() time.Time { return now().UTC().Truncate(time.Microsecond) }}
}

// ledger collects what one transaction writes: records, their trail and the events that tell it.
type ledger struct {
	changes []store.Change
	byID    map[uuid.UUID]int
	trail   []store.Transition
	events  []event.Envelope
}

func newLedger() *ledger { return &ledger{byID: map[uuid.UUID]int{}} }

// touch notes the version that a record was loaded at; before its first change.
func (l *ledger) touch(r *domain.Record) {
	if _, ok := l.byID[r.ID]; !ok {
		l.byID[r.ID] = len(l.changes)
		l.changes = append(l.changes, store.Change{Record: r, Old: r.Version})
	}
}

// tell adds a step with its event.
func (l *ledger) tell(ctx context.Context, r *domain.Record, step domain.Step, msg proto.Message, actor, reason string) error {
	e, err := event.New(ctx, msg, event.Head{Subject: r.ID, Tenant: r.Tenant, Sequence: step.Version, Request: r.ID, Actor: actor})
	if err != nil {
		return err
	}
	l.events = append(l.events, e)
	l.trail = append(l.trail, store.Transition{Record: r.ID, Tenant: r.Tenant, Step: step, Actor: actor, Reason: reason, Event: e.ID})
	return nil
}

func (l *ledger) save(ctx context.Context, tx pgx.Tx) error {
	for i, c := range l.changes {
		l.changes[i].Source = sourceOf(c.Record)
	}
	if err := store.Save(ctx, tx, l.changes); err != nil {
		return err
	}
	if err := store.Trail(ctx, tx, l.trail); err != nil {
		return err
	}
	return outbox.Append(ctx, tx, l.events...)
}

// sourceOf is what verdicts find a record by; empty when its source cannot be read.
func sourceOf(r *domain.Record) store.Source {
	if !r.Known() {
		return store.Source{}
	}
	ref, err := oci.ParseSource(r.Facts.Asked.SourceRegistry, r.Facts.Asked.SourceRef)
	if err != nil {
		return store.Source{}
	}
	return originOf(ref)
}

func originOf(ref oci.Reference) store.Source {
	ref = Origin(ref)
	return store.Source{Name: ref.Host + "/" + ref.Repository, Tag: ref.Tag}
}

// person is who calls, by the id that requests name people by. Four-eyes rests on it, so nobody acts unknown.
func (a *App) person(ctx context.Context) (uuid.UUID, error) {
	caller := auth.From(ctx)
	if caller.PersonID != uuid.Nil {
		return caller.PersonID, nil
	}
	var known directory.Person
	var found bool
	err := a.db.Read(ctx, pg.AllTenants(), func(tx pgx.Tx) (err error) {
		known, found, err = directory.PersonBySubject(ctx, tx, caller.Subject)
		return err
	})
	if err != nil || found {
		return known.ID, err
	}
	return a.peers.Me(ctx)
}

// missing turns a row that the caller may not see, or that does not exist, into not_found.
func missing(what string, err error) error {
	if errors.Is(err, store.ErrNone) {
		return fault.New(errorsv1.Reason_REASON_NOT_FOUND, "there is no such "+what)
	}
	return err
}
