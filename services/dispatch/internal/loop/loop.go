// Package loop touches the world on dispatch's behalf: it asks intake for permits, mints credentials, starts and watches runs, and looks
// after the provider. Every turn leases what it works on and begins from what is stored, so a turn may end anywhere and another process
// may do the next one.
package loop

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	intakev1 "github.com/pratique-io/pratique/gen/pratique/intake/v1"
	"github.com/pratique-io/pratique/internal/lease"
	"github.com/pratique-io/pratique/internal/pg"
	"github.com/pratique-io/pratique/services/dispatch/internal/app"
	"github.com/pratique-io/pratique/services/dispatch/internal/domain"
	"github.com/pratique-io/pratique/services/dispatch/internal/runner"
	"github.com/pratique-io/pratique/services/dispatch/internal/store"
)

// Minter makes the credential that one run writes to its quarantine repository with.
type Minter interface {
	Mint(repository, run string, expires time.Time) (runner.Credential, error)
}

// Secrets fetches a request's credential for its source. Intake owns those.
type Secrets interface {
	Reveal(ctx context.Context, request uuid.UUID, auth string) (runner.Credential, error)
}

// ErrNoSecret means that the credential is gone or not for this request: another try will not help.
var ErrNoSecret = errors.New("the source credential cannot be used")

// Config are the times and places of the loops.
type Config struct {
	RunTimeout   time.Duration // of one run
	Margin       time.Duration // by which credentials outlive a run
	DispatchWait time.Duration // how long a record may wait for a provider
	BusyGrace    time.Duration // how long a record may be queued behind others before that is told
	PollEvery    time.Duration // how often a run is looked at
	ScheduleIdle time.Duration
	RetryPermit  time.Duration // after intake could not answer
	RetryStart   time.Duration // after an attempt that never started or was lost, times the attempt
	Lease        time.Duration
	CallTimeout  time.Duration // of one call outside

	ReadinessEvery, ReadinessTimeout time.Duration

	QuarantineHost           string // host[:port]
	DatabaseDir, DatabaseURL string
}

// Loops is the worker of the service.
type Loops struct {
	Config   Config
	DB       *pg.DB
	App      *app.App
	Runner   runner.Runner
	Provider domain.Provider // the one that this process hosts
	Permits  intakev1.PermitServiceClient
	Minter   Minter
	Secrets  Secrets // nil: sources that need a credential fail as auth_error
	Log      *slog.Logger

	gate gate

	first     sync.Mutex
	reclaimed bool
}

// List is what the host runs.
func (l *Loops) List() []lease.Loop {
	return []lease.Loop{
		{Name: "readiness", Every: l.Config.ReadinessEvery, Run: l.Assess},
		{Name: "schedule", Every: l.Config.ScheduleIdle, Run: l.Schedule},
		{Name: "supervise", Every: l.Config.PollEvery, Run: l.Supervise},
		{Name: "expire", Every: time.Second * 5, Run: l.Expire},
		{Name: "tidy", Every: time.Minute, Run: l.Tidy},
	}
}

// reclaim comes before anything else that this process does with records: it hosts the provider alone (the runner holds a lock), so
// whoever leased the provider's records before is dead, and nobody has to wait for those leases to run out.
func (l *Loops) reclaim(ctx context.Context) error {
	l.first.Lock()
	defer l.first.Unlock()
	if l.reclaimed {
		return nil
	}
	err := l.DB.Work(ctx, func(tx pgx.Tx) error { return store.Reclaim(ctx, tx, l.Provider.ID, l.App.Now()) })
	l.reclaimed = err == nil
	return err
}

// work runs a verb in a transaction. A conflict means that somebody else moved the record: what we knew is void, and that is all.
func (l *Loops) work(ctx context.Context, verb func(tx pgx.Tx) error) (done bool, err error) {
	err = l.DB.Work(ctx, verb)
	if errors.Is(err, store.ErrConflict) {
		return false, nil
	}
	return err == nil, err
}

// release gives a leased record back.
func (l *Loops) release(ctx context.Context, record domain.Record, after time.Duration) error {
	return l.DB.Work(ctx, func(tx pgx.Tx) error { return store.Release(ctx, tx, record, l.App.Now().Add(after)) })
}
