package loop_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"

	intakev1 "github.com/pratique-io/pratique/gen/pratique/intake/v1"
	"github.com/pratique-io/pratique/internal/auth"
	"github.com/pratique-io/pratique/internal/event"
	"github.com/pratique-io/pratique/internal/outbox"
	"github.com/pratique-io/pratique/internal/pg"
	"github.com/pratique-io/pratique/internal/pg/pgtest"
	"github.com/pratique-io/pratique/services/dispatch/internal/app"
	"github.com/pratique-io/pratique/services/dispatch/internal/domain"
	"github.com/pratique-io/pratique/services/dispatch/internal/loop"
	"github.com/pratique-io/pratique/services/dispatch/internal/runner"
	"github.com/pratique-io/pratique/services/dispatch/internal/store"
)

const (
	digest = "sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
	other  = "sha256:bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb"
	canary = "canary-run-password"
)

// bundle is a dispatch service without a world: the clock, the runner and intake are the test's.
type bundle struct {
	t      *testing.T
	db     *pg.DB
	admin  *pgx.Conn
	app    *app.App
	loops  *loop.Loops
	runner *fakeRunner
	intake *fakeIntake
	clock  *clock
}

func setup(t *testing.T) *bundle {
	t.Helper()
	t.Parallel()
	b := &bundle{t: t, clock: &clock{at: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)}, intake: &fakeIntake{allowed: true},
		runner: &fakeRunner{runs: map[string]*fakeRun{}}}
	b.db = pgtest.New(t, "dispatch", store.Migrations, outbox.Migrations)
	b.admin = pgtest.Admin(t, b.db)
	b.app = app.New(b.clock.now)
	b.loops = b.process(uuid.Must(uuid.NewV7()))
	return b
}

// process is one dispatch process on the shared database, hosting a provider.
func (b *bundle) process(provider uuid.UUID) *loop.Loops {
	enabled := true
	return &loop.Loops{
		Config: loop.Config{RunTimeout: time.Hour, Margin: 10 * time.Minute, DispatchWait: 24 * time.Hour, BusyGrace: 5 * time.Second,
			PollEvery: time.Second, ScheduleIdle: time.Second, RetryPermit: 2 * time.Second, RetryStart: 5 * time.Second,
			Lease: 30 * time.Second, CallTimeout: 5 * time.Second, ReadinessEvery: time.Minute, ReadinessTimeout: 10 * time.Second,
			QuarantineHost: "quarantine.test:5000", DatabaseURL: "https://database.test"},
		DB: b.db, App: b.app, Runner: b.runner, Permits: b.intake, Minter: b, Log: slog.New(slog.DiscardHandler),
		Provider: domain.Provider{ID: provider, Name: "local", Type: "local", Status: domain.Online, Enabled: &enabled, MaxRuns: 2},
	}
}

// Mint makes the test a Minter.
func (b *bundle) Mint(repository, run string, expires time.Time) (runner.Credential, error) {
	return runner.Credential{Username: repository + " " + run + " " + expires.Format(time.RFC3339), Password: canary}, nil
}

func (b *bundle) work(verb func(tx pgx.Tx) error) {
	b.t.Helper()
	require.NoError(b.t, b.db.Work(b.t.Context(), verb))
}

// approve takes a request in.
func (b *bundle) approve(tenant uuid.UUID) uuid.UUID {
	b.t.Helper()
	b.clock.step(time.Millisecond)
	id := uuid.Must(uuid.NewV7())
	require.True(b.t, b.queue(id, tenant))
	return id
}

func (b *bundle) queue(id, tenant uuid.UUID) (added bool) {
	b.t.Helper()
	b.work(func(tx pgx.Tx) (err error) {
		added, err = b.app.Queue(b.t.Context(), tx, app.Approval{Request: id, Tenant: tenant, RequestType: "quarantine",
			SourceRegistry: "registry.test", SourceImageRef: "registry.test/app:1", SourceDigest: digest, DecidedBy: "somebody"})
		return err
	})
	return added
}

func (b *bundle) withdraw(id, tenant uuid.UUID) (done bool) {
	b.t.Helper()
	b.work(func(tx pgx.Tx) (err error) {
		done, err = b.app.Withdraw(b.t.Context(), tx, id, tenant, "user:x", "withdrawn")
		return err
	})
	return done
}

func (b *bundle) turn(f func(context.Context) (bool, error)) bool {
	b.t.Helper()
	did, err := f(b.t.Context())
	require.NoError(b.t, err)
	return did
}

func (b *bundle) schedule() bool { b.t.Helper(); return b.turn(b.loops.Schedule) }
func (b *bundle) supervise() bool {
	b.t.Helper()
	b.clock.step(2 * time.Second)
	return b.turn(b.loops.Supervise)
}

// started brings a request to a running run.
func (b *bundle) started() (id, tenant uuid.UUID, run *fakeRun) {
	b.t.Helper()
	tenant = uuid.New()
	id = b.approve(tenant)
	require.True(b.t, b.schedule())
	require.Equal(b.t, domain.Running, b.record(id).State)
	return id, tenant, b.runner.get(domain.RunName(id, 1))
}

func (b *bundle) record(id uuid.UUID) (r domain.Record) {
	b.t.Helper()
	b.work(func(tx pgx.Tx) (err error) { r, err = store.GetRecord(b.t.Context(), tx, id); return err })
	return r
}

func (b *bundle) run(id uuid.UUID) (a domain.Attempt) {
	b.t.Helper()
	b.work(func(tx pgx.Tx) (err error) { a, err = store.NewestRun(b.t.Context(), tx, id); return err })
	return a
}

// events are the short names of what was published about a request; versions must rise.
func (b *bundle) events(id uuid.UUID) []string {
	b.t.Helper()
	out, last := []string{}, int64(0)
	for _, e := range b.envelopes() {
		if e.Aggregate() == id {
			require.Greater(b.t, e.Sequence, last)
			last = e.Sequence
			out = append(out, e.Type[strings.LastIndexByte(e.Type, '.')+1:])
		}
	}
	return out
}

func (b *bundle) envelopes() []event.Envelope {
	b.t.Helper()
	rows, err := b.admin.Query(b.t.Context(), `select body from outbox order by xid, seq`)
	require.NoError(b.t, err)
	bodies, err := pgx.CollectRows(rows, pgx.RowTo[[]byte])
	require.NoError(b.t, err)
	var out []event.Envelope
	for _, body := range bodies {
		e, err := event.Decode(body)
		require.NoError(b.t, err)
		out = append(out, e)
	}
	return out
}

// audited checks the trail of a request: gapless versions, joined states, and the record stands where the trail ends.
func (b *bundle) audited(id uuid.UUID) {
	b.t.Helper()
	rows, err := b.admin.Query(b.t.Context(), `select version, from_state, to_state, event_id is not null, verb from transition
		where import_id = $1 order by version`, id)
	require.NoError(b.t, err)
	record, at, n, events := b.record(id), "", int64(0), 0
	var version int64
	var from, to, verb string
	var told bool
	_, err = pgx.ForEachRow(rows, []any{&version, &from, &to, &told, &verb}, func() error {
		n++
		require.Equal(b.t, n, version)
		require.Equal(b.t, at, from)
		require.True(b.t, told || verb == string(domain.Start), "%s tells nobody", verb)
		if told {
			events++
		}
		at = to
		return nil
	})
	require.NoError(b.t, err)
	require.Equal(b.t, record.Version, n)
	require.Equal(b.t, string(record.State), at)
	require.Len(b.t, b.events(id), events)
}

type clock struct {
	mu sync.Mutex
	at time.Time
}

func (c *clock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.at
}

func (c *clock) step(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.at = c.at.Add(d)
}

// fakeIntake answers permits.
type fakeIntake struct {
	intakev1.PermitServiceClient
	err     error
	allowed bool
	digest  string
	asked   int
	during  func()
}

func (f *fakeIntake) GetDispatchPermit(ctx context.Context, req *intakev1.GetDispatchPermitRequest, _ ...grpc.CallOption) (
	*intakev1.DispatchPermit, error) {
	if !auth.OutgoingFrom(ctx).Service {
		return nil, errors.New("asked without the service's own identity")
	}
	f.asked++
	if f.during != nil {
		f.during()
	}
	return &intakev1.DispatchPermit{Allowed: f.allowed, Reason: "policy_blocked", SourceImageDigest: f.digest}, f.err
}

// fakeRunner does what the test tells.
type fakeRunner struct {
	mu       sync.Mutex
	runs     map[string]*fakeRun
	startErr error
	started  []string
	broken   bool // not ready
	pollErr  error
	before   func() // called once before a start
}

type fakeRun struct {
	mu     sync.Mutex
	spec   runner.Spec
	status runner.Status
	lines  []runner.Line
	asked  bool // to cancel
}

func (f *fakeRun) set(change func(*runner.Status)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	change(&f.status)
}

func (f *fakeRunner) get(name string) *fakeRun {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.runs[name]
}

func (f *fakeRunner) Readiness(context.Context) []domain.Check {
	return []domain.Check{{Name: "pipeline_installed", OK: !f.broken, Message: "fake"}}
}

func (f *fakeRunner) Start(_ context.Context, spec runner.Spec) error {
	if f.before != nil {
		f.before()
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.startErr != nil {
		return f.startErr
	}
	if f.runs[spec.Name] == nil {
		f.runs[spec.Name] = &fakeRun{spec: spec, status: runner.Status{State: runner.Running, Steps: domain.PendingSteps(nil)}}
		f.started = append(f.started, spec.Name)
	}
	return nil
}

func (f *fakeRunner) Poll(_ context.Context, name string) (runner.Status, error) {
	run := f.get(name)
	if run == nil || f.pollErr != nil {
		return runner.Status{State: runner.Unknown}, f.pollErr
	}
	run.mu.Lock()
	defer run.mu.Unlock()
	return run.status, nil
}

func (f *fakeRunner) Logs(_ context.Context, name string, after int64, limit int) ([]runner.Line, error) {
	run := f.get(name)
	if run == nil || int(after) >= len(run.lines) {
		return nil, nil
	}
	rest := run.lines[after:]
	return rest[:min(limit, len(rest))], nil
}

func (f *fakeRunner) Cancel(_ context.Context, name string) error {
	if run := f.get(name); run != nil {
		run.set(func(s *runner.Status) {
			run.asked = true
			if !s.State.Ended() {
				s.State = runner.Cancelled
			}
		})
	}
	return nil
}

func (f *fakeRunner) Cleanup(_ context.Context, name string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if run := f.runs[name]; run != nil && !run.status.State.Ended() {
		return fmt.Errorf("%s runs", name)
	}
	delete(f.runs, name)
	return nil
}

func (f *fakeRunner) Names(context.Context) ([]string, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	var out []string
	for name := range f.runs {
		out = append(out, name)
	}
	slices.Sort(out)
	return out, nil
}

// succeed ends a run well.
func succeed(s *runner.Status) {
	s.State = runner.Succeeded
	s.Steps = slices.Clone(s.Steps)
	for i := range s.Steps {
		s.Steps[i].State = domain.StepSucceeded
	}
	s.Results = domain.Results{Image: digest,
		Documents: map[string]string{"source": digest, "sbom": digest, "vulnerabilities": digest, "report": digest}}
}
