// Package app holds evidence's verbs: what its consumers write down, what its loops do about it, and what callers may read. A consumer
// only writes rows; the loops collect, expire, retire and remove, each leasing what is due and writing the outcome under its lease.
package app

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/google/uuid"
	"google.golang.org/protobuf/proto"

	"github.com/pratique-io/pratique/internal/event"
	"github.com/pratique-io/pratique/internal/pg"
	"github.com/pratique-io/pratique/services/evidence/internal/depot"
	"github.com/pratique-io/pratique/services/evidence/internal/domain"
	"github.com/pratique-io/pratique/services/evidence/internal/store"
)

// App is the service's verbs over its own database and its two registries.
type App struct {
	DB         *pg.DB
	Quarantine *depot.Depot
	Store      *depot.Depot
	Log        *slog.Logger
	Now        func() time.Time
	Settings
}

// Settings are the numbers an operator may change.
type Settings struct {
	Retention  time.Duration // of copies of quarantined requests
	CollectFor time.Duration // unfetchable documents are waited for that long
	Lease      time.Duration // renewed at a third of it
}

// actor is how this service names itself in trails and events.
const actor = "service:evidence"

// now is in microseconds, which is what Postgres keeps.
func (a *App) now() time.Time { return a.Now().UTC().Truncate(time.Microsecond) }

// say makes an event of the bundle at its present version, and notes it in the transition that it tells of.
func say(ctx context.Context, b *domain.Bundle, move *domain.Transition, msg proto.Message) (event.Envelope, error) {
	e, err := event.New(ctx, msg, event.Head{Subject: b.ID, Tenant: b.Tenant, Sequence: b.Version, Request: b.ID, Actor: actor})
	if err != nil {
		return event.Envelope{}, err
	}
	move.Event, err = uuid.Parse(e.ID)
	return e, err
}

// keep renews a lease at a third of its term until the returned function is called. The context ends when the lease is lost.
func (a *App) keep(ctx context.Context, renew func(context.Context, time.Time) error) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancelCause(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		tick := time.NewTicker(a.Lease / 3)
		defer tick.Stop()
		last := time.Now()
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
			err := renew(ctx, a.now().Add(a.Lease))
			if err == nil {
				last = time.Now()
			} else if errors.Is(err, store.ErrLost) || time.Since(last) > a.Lease*2/3 {
				cancel(fmt.Errorf("lease: %w", err))
				return
			}
		}
	}()
	return ctx, func() {
		cancel(nil)
		<-done
	}
}

// brief is an error's text as it is kept in a row.
func brief(err error) string { return domain.Clip(err.Error(), 500) }

// giveBack returns a lease when the program shuts down, so that nobody has to wait for its end.
func giveBack(ctx context.Context, release func(context.Context) error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Second)
	defer cancel()
	_ = release(ctx) // if it fails the lease ends by itself
}
