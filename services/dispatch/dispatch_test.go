package dispatch

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/test/bufconn"

	dispatchv1 "github.com/pratique-io/pratique/gen/pratique/dispatch/v1"
	intakev1 "github.com/pratique-io/pratique/gen/pratique/intake/v1"
	"github.com/pratique-io/pratique/internal/auth"
	"github.com/pratique-io/pratique/internal/config"
	"github.com/pratique-io/pratique/internal/event"
	"github.com/pratique-io/pratique/internal/lease"
	"github.com/pratique-io/pratique/internal/pg"
	"github.com/pratique-io/pratique/internal/pg/pgtest"
	"github.com/pratique-io/pratique/services/dispatch/internal/app"
	"github.com/pratique-io/pratique/services/dispatch/internal/domain"
	"github.com/pratique-io/pratique/services/dispatch/internal/runner/conformance"
	"github.com/pratique-io/pratique/services/dispatch/internal/store"
)

// TestMain makes the test binary the step program of its own runs, and a dispatch process that can be killed.
func TestMain(m *testing.M) {
	if conformance.Fake() {
		return
	}
	if url := os.Getenv("PRATIQUE_TEST_DISPATCH"); url != "" {
		host(url, os.Getenv("PRATIQUE_TEST_DIR"))
		return
	}
	os.Exit(m.Run())
}

// host is a dispatch process: it runs its loops until it is killed.
func host(url, dir string) {
	ctx := context.Background()
	db, err := pg.Open(ctx, pg.Config{URL: url, Schema: "dispatch", Passwords: pgtest.Passwords()})
	if err != nil {
		panic(err)
	}
	service, err := New(testConfig(dir), deps(db, permits()))
	if err != nil {
		panic(err)
	}
	panic(lease.Run(ctx, db, service.Loops()...))
}

// allow is an intake that permits everything.
type allow struct {
	intakev1.UnimplementedPermitServiceServer
}

func (allow) GetDispatchPermit(context.Context, *intakev1.GetDispatchPermitRequest) (*intakev1.DispatchPermit, error) {
	return &intakev1.DispatchPermit{Allowed: true}, nil
}

func permits() *grpc.ClientConn {
	listener := bufconn.Listen(1 << 20)
	server := grpc.NewServer()
	intakev1.RegisterPermitServiceServer(server, allow{})
	go func() { _ = server.Serve(listener) }()
	conn, err := grpc.NewClient("passthrough:///intake", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return listener.DialContext(ctx) }))
	if err != nil {
		panic(err)
	}
	return conn
}

func deps(db *pg.DB, intake grpc.ClientConnInterface) Deps {
	return Deps{DB: db, Peer: func(string) grpc.ClientConnInterface { return intake }, Log: slog.New(slog.DiscardHandler)}
}

func testConfig(dir string) Config {
	binary, err := os.Executable()
	if err != nil {
		panic(err)
	}
	cfg := Default()
	cfg.Runner.Dir, cfg.Runner.Binary = filepath.Join(dir, "runner"), binary
	cfg.Quarantine = Quarantine{Host: "127.0.0.1:5001", KeyFile: config.SecretFile(filepath.Join(dir, "key"))}
	cfg.Database.URL = "https://database.test"
	cfg.Pace = Pace{Schedule: 20 * time.Millisecond, Poll: 20 * time.Millisecond, RetryPermit: 20 * time.Millisecond,
		RetryStart: 10 * time.Millisecond}
	return cfg
}

// place is a directory that the users of runs can reach, with a registry key.
func place(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	require.NoError(t, os.Chmod(dir, 0o711))
	require.NoError(t, os.Chmod(filepath.Dir(dir), 0o711))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "key"), []byte(strings.Repeat("k", 32)), 0o600))
	return dir
}

// serve runs a dispatch service until the test ends.
func serve(t *testing.T, db *pg.DB, dir string) *Service {
	t.Helper()
	service, err := New(testConfig(dir), deps(db, permits()))
	require.NoError(t, err)
	ctx, stop := context.WithCancel(context.Background())
	over := make(chan error, 1)
	go func() { over <- lease.Run(ctx, db, service.Loops()...) }()
	t.Cleanup(func() {
		stop()
		require.NoError(t, <-over)
		service.Close()
	})
	return service
}

// approve hands the service an approval, as the bus would.
func approve(t *testing.T, db *pg.DB, service *Service, repository string) uuid.UUID {
	t.Helper()
	id, tenant := uuid.Must(uuid.NewV7()), uuid.Must(uuid.NewV7())
	msg := &intakev1.RequestApproved{ImportId: id.String(), TenantId: tenant.String(), DecidedBy: "system", SourceRegistry: "registry.test",
		SourceImageRef: repository + ":1", SourceImageDigest: conformance.Digest("image"), RequestType: "quarantine"}
	e, err := event.New(t.Context(), msg, event.Head{Subject: id, Tenant: tenant, Sequence: 2, Request: id, Actor: "system"})
	require.NoError(t, err)
	for _, sub := range service.Subscriptions() {
		if sub.Purpose == "requests" {
			require.NoError(t, db.Work(t.Context(), func(tx pgx.Tx) error { return sub.HandleBatch(t.Context(), tx, []event.Envelope{e})[0] }))
		}
	}
	return id
}

func newest(t *testing.T, db *pg.DB, id uuid.UUID) (run domain.Attempt) {
	t.Helper()
	require.NoError(t, db.Work(t.Context(), func(tx pgx.Tx) (err error) {
		run, err = store.NewestRun(t.Context(), tx, id)
		return err
	}))
	return run
}

func await(t *testing.T, db *pg.DB, id uuid.UUID, why string, ok func(domain.Attempt) bool) domain.Attempt {
	t.Helper()
	var run domain.Attempt
	require.Eventually(t, func() bool { run = newest(t, db, id); return ok(run) }, time.Minute, 10*time.Millisecond, why)
	return run
}

func TestARequestRunsThroughTheLocalRunner(t *testing.T) {
	db := pgtest.New(t, "dispatch", Migrations()...)
	service := serve(t, db, place(t))
	id := approve(t, db, service, "registry.test/app")
	run := await(t, db, id, "the run succeeds", func(a domain.Attempt) bool { return a.State == domain.RunSucceeded })
	require.Equal(t, conformance.Digest("image"), run.Results.Image)
	require.Equal(t, conformance.Digest("sbom"), run.Results.Documents["sbom"])
	for _, step := range run.Steps {
		require.Equal(t, domain.StepSucceeded, step.State)
		require.Equal(t, 1, step.Attempts)
	}

	server := &registrar{}
	service.Register(server)
	ctx := auth.With(t.Context(), auth.Caller{Subject: "a", SystemRoles: []auth.Role{auth.SystemAdmin}})
	logs, err := server.runs.ListLogs(ctx, &dispatchv1.ListLogsRequest{Id: id.String()})
	require.NoError(t, err)
	require.GreaterOrEqual(t, logs.GetTotal(), int32(4))
	providers, err := server.providers.ListProviders(ctx, &dispatchv1.ListProvidersRequest{})
	require.NoError(t, err)
	ready, err := server.providers.GetProviderReadiness(ctx, &dispatchv1.GetProviderReadinessRequest{Id: providers.GetData()[0].GetId()})
	require.NoError(t, err)
	require.True(t, ready.GetDispatchReady(), "%v", ready)
	var names []string
	for _, check := range ready.GetChecks() {
		names = append(names, check.GetName())
	}
	require.ElementsMatch(t, []string{"provider_type", "provider_status", "provider_config.quarantine_dispatch_enabled",
		"provider_schedulable", "runtime_auth", "pipeline_installed", "isolation_level"}, names)
}

type registrar struct {
	runs      dispatchv1.RunServiceServer
	providers dispatchv1.ProviderServiceServer
}

func (r *registrar) RegisterService(_ *grpc.ServiceDesc, impl any) {
	switch s := impl.(type) {
	case dispatchv1.RunServiceServer:
		r.runs = s
	case dispatchv1.ProviderServiceServer:
		r.providers = s
	}
}

func TestAFailingStepIsTheFailureOfTheRun(t *testing.T) {
	db := pgtest.New(t, "dispatch", Migrations()...)
	id := approve(t, db, serve(t, db, place(t)), "registry.test/pull.exit11")
	run := await(t, db, id, "the run fails", func(a domain.Attempt) bool { return a.State == domain.RunFailed })
	require.Equal(t, domain.CodeRateLimited, run.Failure.Code)
	require.Equal(t, 1, run.Number, "an answer is not tried again")
}

// The process is killed while a step runs; the next one proves the run lost, queues the next attempt, and goes on.
func TestAKilledProcessLosesItsRunsAndTheNextOneGoesOn(t *testing.T) {
	dir, url := place(t), pgtest.Database(t)
	db := pgtest.Open(t, url, "dispatch", Migrations()...)
	first := exec.Command(os.Args[0])
	first.Env = append(os.Environ(), "PRATIQUE_TEST_DISPATCH="+url, "PRATIQUE_TEST_DIR="+dir)
	first.Stderr = os.Stderr
	require.NoError(t, first.Start())

	queue := &Service{app: app.New(time.Now)} // only its handler is needed: the process that runs it is the other one
	id := approve(t, db, queue, "registry.test/pull.hang")
	await(t, db, id, "the first process runs the step", func(a domain.Attempt) bool {
		return a.State == domain.RunRunning && a.Steps[0].State == domain.StepRunning
	})
	require.NoError(t, first.Process.Kill())
	_ = first.Wait()
	require.Equal(t, domain.RunRunning, newest(t, db, id).State, "nobody had time to say anything")

	_, err := db.WorkerPool().Exec(t.Context(), `update dispatch_record set source_image_ref = 'registry.test/app:1'`)
	require.NoError(t, err)
	serve(t, db, dir)
	run := await(t, db, id, "the second attempt succeeds", func(a domain.Attempt) bool { return a.State == domain.RunSucceeded })
	require.Equal(t, 2, run.Number)
	require.Equal(t, 2, run.Steps[0].Attempts)
	var text string
	require.NoError(t, db.WorkerPool().QueryRow(t.Context(), `select string_agg(from_state || '>' || to_state, ' ' order by version)
		from transition where verb <> 'step'`).Scan(&text))
	require.Equal(t, ">queued queued>starting starting>running running>queued queued>starting starting>running running>succeeded", text)
}

func TestConfigurationProblemsAreToldAtOnce(t *testing.T) {
	_, err := New(Config{}, Deps{})
	for _, path := range []string{"run_timeout", "dispatch_wait", "readiness_interval", "provider.name", "provider.status", "runner.dir",
		"runner.binary", "runner.min_isolation", "quarantine.host", "quarantine.key_file", "database"} {
		require.ErrorContains(t, err, "dispatch."+path+":")
	}
	cfg := Default()
	require.NoError(t, config.Load([]byte("run_timeout: 30m\nprovider: {max_concurrent_runs: 4}\nquarantine: {host: 'q.test:5000', key_file: /k}\n"+
		"runner: {dir: /d, binary: /b}\ndatabase: {dir: /db}\n"), &cfg, []string{"PRATIQUE_RUNNER_MIN_ISOLATION=uid"}))
	require.Equal(t, 30*time.Minute, cfg.RunTimeout)
	require.Equal(t, "uid", cfg.Runner.MinIsolation)
	require.NotContains(t, fmt.Sprintf("%+v", cfg), "/k", "secrets are not printed, nor where they are")
}
