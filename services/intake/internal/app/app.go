// Package app holds intake's verbs: one transaction script per file. A script loads rows, asks the domain, saves rows, transitions and outbox
// entries together, or nothing. Lookups at the source registry happen before a transaction opens, never inside.
package app

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	errorsv1 "github.com/pratique-io/pratique/gen/pratique/errors/v1"
	intakev1 "github.com/pratique-io/pratique/gen/pratique/intake/v1"
	"github.com/pratique-io/pratique/internal/auth"
	"github.com/pratique-io/pratique/internal/event"
	"github.com/pratique-io/pratique/internal/fault"
	"github.com/pratique-io/pratique/internal/oci"
	"github.com/pratique-io/pratique/internal/outbox"
	"github.com/pratique-io/pratique/internal/pg"
	"github.com/pratique-io/pratique/services/intake/internal/source"
	"github.com/pratique-io/pratique/services/intake/internal/store"
)

// Source resolves a reference to the bytes it names; *source.Finder in production.
type Source interface {
	Pin(ctx context.Context, ref oci.Reference) (source.Image, error)
}

// Settings are the parts of the configuration that verbs need.
type Settings struct {
	TrustedRegistry string        // host[:port] that destinations must name; empty: the release service alone decides
	EprEnforce      bool          // an import needs a registration
	EprValidity     time.Duration // of an approval
	EprWindow       time.Duration // before expiry, in which a registration is expiring
}

// App holds what verbs share.
type App struct {
	db     *pg.DB
	source Source
	set    Settings
	now    func() time.Time
	seen   *seen
}

// New makes the verbs.
func New(db *pg.DB, src Source, set Settings, now func() time.Time) *App {
	return &App{db: db, source: src, set: set, now: func() time.Time { return now().UTC().Truncate(time.Microsecond) }, seen: newSeen()}
}

// Now is the clock, in UTC and in the microseconds that the database keeps.
func (a *App) Now() time.Time { return a.now() }

// EprWindow is how long before its expiry a registration counts as expiring.
func (a *App) EprWindow() time.Duration { return a.set.EprWindow }

func newID() (uuid.UUID, error) {
	id, err := uuid.NewV7()
	if err != nil {
		return uuid.Nil, fmt.Errorf("make an id: %w", err)
	}
	return id, nil
}

func notFound(what string) error {
	return fault.New(errorsv1.Reason_REASON_NOT_FOUND, "there is no such "+what)
}

// missing turns a row that the scope does not hold into not_found.
func missing(what string, err error) error {
	if errors.Is(err, store.ErrNone) {
		return notFound(what)
	}
	return err
}

const system = "system"

// actorOf names who decided in an envelope: "user:<id>" or "system".
func actorOf(person string) string {
	if person == system || person == "" {
		return system
	}
	return "user:" + person
}

// know makes sure that the caller has a person id before anything is recorded in their name: somebody calling for the first time is made
// known here, and the directory hears of it.
func (a *App) know(ctx context.Context) (context.Context, auth.Caller, error) {
	caller := auth.From(ctx)
	if caller.Service != "" || caller.Subject == "" || caller.PersonID != uuid.Nil {
		return ctx, caller, nil
	}
	person, err := a.ensure(ctx, store.Person{Subject: caller.Subject, Name: caller.Name, Email: caller.Email, Groups: caller.Groups})
	if err != nil {
		return ctx, caller, err
	}
	caller.PersonID = person.ID
	return auth.With(ctx, caller), caller, nil
}

func (a *App) ensure(ctx context.Context, p store.Person) (store.Person, error) {
	var out store.Person
	err := a.db.Write(ctx, pg.Scope{}, func(tx pgx.Tx) error {
		var err error
		out, err = ensurePerson(ctx, tx, p, true, a.now())
		return err
	})
	return out, err
}

// ensurePerson is EnsurePerson with its event.
func ensurePerson(ctx context.Context, tx pgx.Tx, p store.Person, seen bool, now time.Time) (store.Person, error) {
	var err error
	if p.ID, err = newID(); err != nil {
		return store.Person{}, err
	}
	stored, made, err := store.EnsurePerson(ctx, tx, p, seen, now)
	if err != nil || !made {
		return stored, err
	}
	return stored, tellPerson(ctx, tx, stored)
}

func tellPerson(ctx context.Context, tx pgx.Tx, p store.Person) error {
	e, err := event.New(ctx, &intakev1.PersonChanged{
		PersonId: p.ID.String(), Subject: p.Subject, Name: p.Name, Email: p.Email, Groups: p.Groups,
	}, event.Head{Subject: p.ID, Sequence: p.Version, Actor: "user:" + p.ID.String()})
	if err != nil {
		return err
	}
	return outbox.Append(ctx, tx, e)
}
