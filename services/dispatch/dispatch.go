// Package dispatch is the service that runs the quarantine pipeline. It owns providers and their readiness, dispatch records (one per
// request), runs (at most three per request) and the logs of requests.
//
// It publishes RunQueued, RunWaiting, RunStarted, RunStepChanged, RunSucceeded, RunFailed, RunCancelled and ProviderReadinessChanged. It
// consumes RequestApproved and RequestWithdrawn, which drive it, and everything that people read about in the log of a request. It depends
// on Postgres, the bus, intake for the permit to start (unavailable: the record waits), the key of the quarantine registry, and a runner.
//
// What may go wrong, and what then. A crash before a start leaves a queued record: it is started again. Between the recorded intent and the
// runner's answer it leaves `starting`: the runner is asked by name, and what it does not know was never started. While a run runs:
// the local runner's steps die with the process, the next process proves them dead and reports them lost, and the next attempt is queued.
// After the end but before it is recorded: the runner still remembers the end. A withdrawal may come first, late, or in between: a
// tombstone, a cancelled record, or a mark that the supervisor acts on. A second run starts only when the first provably does not run.
package dispatch

import (
	"errors"
	"fmt"
	"log/slog"
	"time"

	"google.golang.org/grpc"

	dispatchv1 "github.com/pratique-io/pratique/gen/pratique/dispatch/v1"
	intakev1 "github.com/pratique-io/pratique/gen/pratique/intake/v1"
	"github.com/pratique-io/pratique/internal/bus"
	"github.com/pratique-io/pratique/internal/config"
	"github.com/pratique-io/pratique/internal/directory"
	"github.com/pratique-io/pratique/internal/egress"
	"github.com/pratique-io/pratique/internal/idempotency"
	"github.com/pratique-io/pratique/internal/lease"
	"github.com/pratique-io/pratique/internal/outbox"
	"github.com/pratique-io/pratique/internal/pg"
	"github.com/pratique-io/pratique/internal/registry"
	"github.com/pratique-io/pratique/services/dispatch/internal/api"
	"github.com/pratique-io/pratique/services/dispatch/internal/app"
	"github.com/pratique-io/pratique/services/dispatch/internal/domain"
	"github.com/pratique-io/pratique/services/dispatch/internal/loop"
	"github.com/pratique-io/pratique/services/dispatch/internal/runner"
	"github.com/pratique-io/pratique/services/dispatch/internal/runner/local"
	"github.com/pratique-io/pratique/services/dispatch/internal/store"
)

// Deps are what the service is given of the world.
type Deps struct {
	DB     *pg.DB
	Peer   func(service string) grpc.ClientConnInterface // "intake"
	Egress *egress.Egress                                // dispatch itself reaches nothing; steps get policies from Config.Egress
	Log    *slog.Logger
	Now    func() time.Time
}

// Service is dispatch, ready to be registered and run by a host.
type Service struct {
	app    *app.App
	loops  *loop.Loops
	runner *local.Local
	db     *pg.DB
	bell   *api.Bell
	intake grpc.ClientConnInterface
	stale  time.Duration
}

// New checks the configuration, takes the runner's directory for this process and settles what an earlier process left there. Close
// gives it back.
func New(cfg Config, deps Deps) (*Service, error) {
	problems := config.NewProblems()
	cfg.Validate(problems.At("dispatch"))
	if err := problems.Err(); err != nil {
		return nil, err
	}
	if deps.DB == nil || deps.Peer == nil || deps.Log == nil {
		return nil, errors.New("dispatch needs a database, its peers and a log")
	}
	if deps.Now == nil {
		deps.Now = time.Now
	}
	key, err := cfg.Quarantine.KeyFile.Read()
	if err != nil {
		return nil, fmt.Errorf("dispatch.quarantine.key_file: %w", err)
	}
	place, err := local.New(localConfig(cfg, deps.Now), deps.Log)
	if err != nil {
		return nil, fmt.Errorf("local runner: %w", err)
	}
	s := &Service{app: app.New(deps.Now), runner: place, db: deps.DB, bell: api.NewBell(), intake: deps.Peer("intake"),
		stale: 3 * cfg.ReadinessInterval}
	s.loops = &loop.Loops{
		Config: loopConfig(cfg), DB: deps.DB, App: s.app, Runner: place, Provider: provider(cfg, place),
		Permits: intakev1.NewPermitServiceClient(s.intake), Minter: minter(key), Log: deps.Log,
	}
	deps.DB.OnCommit(s.bell.Ring)
	return s, nil
}

func localConfig(cfg Config, now func() time.Time) local.Config {
	return local.Config{
		Dir: cfg.Runner.Dir, Binary: cfg.Runner.Binary, MinIsolation: local.Level(cfg.Runner.MinIsolation), BaseUID: cfg.Runner.BaseUID,
		Memory: cfg.Runner.MemoryBytes, FileBytes: cfg.Runner.FileBytes, StepTimeout: cfg.Runner.StepTimeout, Egress: cfg.Egress,
		DatabaseDir: cfg.Database.Dir,
		Insecure:    cfg.InsecureRegistries, Realms: cfg.Realms, Now: func() time.Time { return now().UTC() },
	}
}

func provider(cfg Config, place *local.Local) domain.Provider {
	return domain.Provider{ID: place.ID(), Name: cfg.Provider.Name, Type: "local", Status: cfg.Provider.Status,
		Enabled: cfg.Provider.QuarantineDispatchEnabled, Priority: cfg.Provider.QuarantineDispatchPriority,
		MaxRuns: cfg.Provider.MaxConcurrentRuns}
}

func loopConfig(cfg Config) loop.Config {
	or := func(value, otherwise time.Duration) time.Duration {
		if value > 0 {
			return value
		}
		return otherwise
	}
	return loop.Config{
		RunTimeout: cfg.RunTimeout, Margin: cfg.CredentialMargin, DispatchWait: cfg.DispatchWait, BusyGrace: cfg.BusyGrace,
		PollEvery: or(cfg.Pace.Poll, 250*time.Millisecond), ScheduleIdle: or(cfg.Pace.Schedule, 500*time.Millisecond),
		RetryPermit: or(cfg.Pace.RetryPermit, 2*time.Second), RetryStart: or(cfg.Pace.RetryStart, 5*time.Second),
		Lease: 30 * time.Second, CallTimeout: 5 * time.Second,
		ReadinessEvery: cfg.ReadinessInterval, ReadinessTimeout: cfg.ReadinessTimeout,
		QuarantineHost: cfg.Quarantine.Host, DatabaseDir: cfg.Database.Dir, DatabaseURL: cfg.Database.URL,
	}
}

// minter mints run credentials for our own registry.
type minter []byte

// Mint makes a credential that may pull from and push to one repository until it expires.
func (m minter) Mint(repository, run string, expires time.Time) (runner.Credential, error) {
	user, password := registry.Mint(m, registry.Grant{Repository: repository, Actions: []string{registry.Pull, registry.Push}, Run: run,
		Expires: expires})
	if password == "" {
		return runner.Credential{}, errors.New("the registry's key makes no credential")
	}
	return runner.Credential{Username: user, Password: password}, nil
}

// Register adds the gRPC services.
func (s *Service) Register(r grpc.ServiceRegistrar) {
	dispatchv1.RegisterRunServiceServer(r, &api.Runs{DB: s.db, Bell: s.bell, Requests: intakev1.NewRequestServiceClient(s.intake)})
	dispatchv1.RegisterProviderServiceServer(r, &api.Providers{DB: s.db, Here: s.runner.ID(), Check: s.loops.Refresh, Stale: s.stale,
		Now: s.app.Now})
}

// Subscriptions are the events that dispatch handles.
func (s *Service) Subscriptions() []bus.Subscription {
	return append(api.Handler{App: s.app}.Subscriptions(), directory.Subscription())
}

// Loops are what touches the world.
func (s *Service) Loops() []lease.Loop { return s.loops.List() }

// Close ends what runs (another attempt follows after the next start) and gives the runner's directory up. Call it after the loops ended.
func (s *Service) Close() { s.runner.Close() }

// Migrations make the service's schema.
func Migrations() []pg.Migrations {
	return []pg.Migrations{store.Migrations, outbox.Migrations, bus.Migrations, idempotency.Migrations, directory.Migrations}
}
