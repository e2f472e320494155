package api

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	dispatchv1 "github.com/pratique-io/pratique/gen/pratique/dispatch/v1"
	errorsv1 "github.com/pratique-io/pratique/gen/pratique/errors/v1"
	eventv1 "github.com/pratique-io/pratique/gen/pratique/event/v1"
	evidencev1 "github.com/pratique-io/pratique/gen/pratique/evidence/v1"
	intakev1 "github.com/pratique-io/pratique/gen/pratique/intake/v1"
	"github.com/pratique-io/pratique/internal/auth"
	"github.com/pratique-io/pratique/internal/bus"
	"github.com/pratique-io/pratique/internal/event"
	"github.com/pratique-io/pratique/internal/fault"
	"github.com/pratique-io/pratique/internal/outbox"
	"github.com/pratique-io/pratique/internal/pg"
	"github.com/pratique-io/pratique/internal/pg/pgtest"
	"github.com/pratique-io/pratique/services/dispatch/internal/app"
	"github.com/pratique-io/pratique/services/dispatch/internal/domain"
	"github.com/pratique-io/pratique/services/dispatch/internal/runner"
	"github.com/pratique-io/pratique/services/dispatch/internal/store"
)

type bundle struct {
	t       *testing.T
	db      *pg.DB
	app     *app.App
	handler Handler
	subs    map[string]bus.Subscription
	runs    *Runs
	intake  *requests
	tenant  uuid.UUID
	seq     int64
}

func setup(t *testing.T) *bundle {
	t.Helper()
	t.Parallel()
	b := &bundle{t: t, db: pgtest.New(t, "dispatch", store.Migrations, outbox.Migrations), tenant: uuid.Must(uuid.NewV7()),
		intake: &requests{known: map[string]bool{}}, subs: map[string]bus.Subscription{}}
	b.app = app.New(time.Now)
	b.handler = Handler{App: b.app}
	for _, sub := range b.handler.Subscriptions() {
		b.subs[sub.Purpose] = sub
	}
	b.runs = &Runs{DB: b.db, Bell: NewBell(), Requests: b.intake}
	b.db.OnCommit(b.runs.Bell.Ring)
	return b
}

// requests is intake as far as logs need it.
type requests struct {
	intakev1.RequestServiceClient
	known map[string]bool
}

func (r *requests) GetImportRequest(_ context.Context, req *intakev1.GetImportRequestRequest, _ ...grpc.CallOption) (*intakev1.ImportRequest, error) {
	if r.known[req.GetId()] {
		return &intakev1.ImportRequest{Id: req.GetId()}, nil
	}
	return nil, status.Error(codes.NotFound, "")
}

func (r *requests) GetScanRequest(context.Context, *intakev1.GetImportRequestRequest, ...grpc.CallOption) (*intakev1.ImportRequest, error) {
	return nil, status.Error(codes.NotFound, "")
}

// deliver hands events to one subscription, whichever kind of handler it has.
func deliver(ctx context.Context, tx pgx.Tx, sub bus.Subscription, batch ...event.Envelope) []error {
	if sub.HandleBatch != nil {
		return sub.HandleBatch(ctx, tx, batch)
	}
	outcomes := make([]error, len(batch))
	for i, e := range batch {
		outcomes[i] = sub.Handle(ctx, tx, e)
	}
	return outcomes
}

// tell hands an event to every subscription that wants it, as the bus would.
func (b *bundle) tell(id uuid.UUID, msg proto.Message) error {
	b.t.Helper()
	b.seq++
	e, err := event.New(b.t.Context(), msg, event.Head{Subject: id, Tenant: b.tenant, Sequence: b.seq, Request: id, Actor: "user:x"})
	require.NoError(b.t, err)
	for _, sub := range b.subs {
		for _, name := range sub.Types {
			if name != e.Type {
				continue
			}
			if err := b.db.Work(b.t.Context(), func(tx pgx.Tx) error { return deliver(b.t.Context(), tx, sub, e)[0] }); err != nil {
				return err
			}
		}
	}
	return nil
}

func (b *bundle) submitted() uuid.UUID {
	b.t.Helper()
	id := uuid.Must(uuid.NewV7())
	require.NoError(b.t, b.tell(id, &intakev1.RequestSubmitted{ImportId: id.String(), TenantId: b.tenant.String(),
		SourceImageRef: "registry.test/app:1", SourceImageDigest: "sha256:ab"}))
	return id
}

func (b *bundle) approved() uuid.UUID {
	b.t.Helper()
	id := b.submitted()
	require.NoError(b.t, b.tell(id, &intakev1.RequestApproved{ImportId: id.String(), TenantId: b.tenant.String(), DecidedBy: "system",
		SourceImageDigest: "sha256:ab"}))
	return id
}

func (b *bundle) member(tenant uuid.UUID) context.Context {
	return auth.With(b.t.Context(), auth.Caller{Subject: "x", Tenant: tenant,
		Tenants: map[uuid.UUID][]auth.Role{tenant: {auth.TenantViewer}}})
}

func (b *bundle) reviewer() context.Context {
	return auth.With(b.t.Context(), auth.Caller{Subject: "r", SystemRoles: []auth.Role{auth.SecurityReviewer}})
}

func (b *bundle) lines(id uuid.UUID, lines ...runner.Line) {
	b.t.Helper()
	require.NoError(b.t, b.db.Work(b.t.Context(), func(tx pgx.Tx) error {
		run, err := store.NewestRun(b.t.Context(), tx, id)
		if err != nil {
			return err
		}
		return b.app.TakeLines(b.t.Context(), tx, run, lines)
	}))
}

func refused(t *testing.T, err error, reason errorsv1.Reason) {
	t.Helper()
	require.Error(t, err)
	got, _ := fault.ReasonOf(err)
	require.Equal(t, reason, got, err.Error())
}

func TestLogsAreListedNewestFirstAndFiltered(t *testing.T) {
	b := setup(t)
	id := b.approved()
	at := time.Now().Add(time.Second)
	b.lines(id, runner.Line{Number: 1, At: at, Level: "debug", Step: "pull", Message: "one"},
		runner.Line{Number: 2, At: at, Level: "error", Step: "pull", Message: "two"})
	list := func(change func(*dispatchv1.ListLogsRequest)) *dispatchv1.LogPage {
		req := &dispatchv1.ListLogsRequest{Id: id.String()}
		change(req)
		page, err := b.runs.ListLogs(b.member(b.tenant), req)
		require.NoError(t, err)
		return page
	}
	texts := func(p *dispatchv1.LogPage) (out []string) {
		for _, l := range p.GetLogs() {
			out = append(out, l.GetMessage())
		}
		return out
	}
	all := list(func(*dispatchv1.ListLogsRequest) {})
	require.Equal(t, []string{"two", "one", "Request approved by policy.", "Request submitted for registry.test/app:1, pinned to sha256:ab."},
		texts(all))
	require.Equal(t, int32(4), all.GetTotal())
	require.False(t, all.GetHasMore())
	require.Equal(t, "pull", all.GetLogs()[0].GetStep())
	require.Equal(t, "lifecycle", all.GetLogs()[2].GetSource())

	require.Equal(t, []string{"two", "one"}, texts(list(func(r *dispatchv1.ListLogsRequest) { r.Source = proto.String("run") })))
	require.Equal(t, []string{"two"}, texts(list(func(r *dispatchv1.ListLogsRequest) { r.MinLevel = proto.String("warn") })))
	second := list(func(r *dispatchv1.ListLogsRequest) { r.Limit, r.Offset = proto.Int32(1), proto.Int32(1) })
	require.Equal(t, []string{"one"}, texts(second))
	require.True(t, second.GetHasMore())

	_, err := b.runs.ListLogs(b.member(b.tenant), &dispatchv1.ListLogsRequest{Id: id.String(), Source: proto.String("x"),
		MinLevel: proto.String("loud"), Limit: proto.Int32(1001), Offset: proto.Int32(-1)})
	refused(t, err, errorsv1.Reason_REASON_VALIDATION_FAILED)
	require.Len(t, fault.Of(err).FieldErrors(), 4, "all problems at once")
	_, err = b.runs.ListLogs(b.member(b.tenant), &dispatchv1.ListLogsRequest{Id: "nonsense"})
	refused(t, err, errorsv1.Reason_REASON_INVALID_ID)
}

func TestAnotherTenantsRequestDoesNotExist(t *testing.T) {
	b := setup(t)
	id := b.approved()
	stranger := b.member(uuid.Must(uuid.NewV7()))
	_, err := b.runs.ListLogs(stranger, &dispatchv1.ListLogsRequest{Id: id.String()})
	refused(t, err, errorsv1.Reason_REASON_NOT_FOUND)
	_, err = b.runs.GetRun(stranger, &dispatchv1.GetRunRequest{ImportId: id.String()})
	refused(t, err, errorsv1.Reason_REASON_NOT_FOUND)
	refused(t, b.runs.FollowLogs(&dispatchv1.FollowLogsRequest{Id: id.String()}, &stream{ctx: stranger}), errorsv1.Reason_REASON_NOT_FOUND)
	page, err := b.runs.ListLogs(b.reviewer(), &dispatchv1.ListLogsRequest{Id: id.String()})
	require.NoError(t, err)
	require.Len(t, page.GetLogs(), 2)
}

func TestARequestWhoseEventsAreOnTheirWayHasAnEmptyLog(t *testing.T) {
	b := setup(t)
	id := uuid.Must(uuid.NewV7())
	b.intake.known[id.String()] = true
	page, err := b.runs.ListLogs(b.member(b.tenant), &dispatchv1.ListLogsRequest{Id: id.String()})
	require.NoError(t, err)
	require.Empty(t, page.GetLogs())
	require.Zero(t, page.GetTotal())
}

// stream collects what FollowLogs sends.
type stream struct {
	grpc.ServerStreamingServer[dispatchv1.FollowLogsResponse]
	ctx  context.Context
	mu   sync.Mutex
	sent []*dispatchv1.FollowLogsResponse
}

func (s *stream) Context() context.Context { return s.ctx }

func (s *stream) Send(m *dispatchv1.FollowLogsResponse) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.sent = append(s.sent, m)
	return nil
}

func (s *stream) count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.sent)
}

func TestFollowingEndsWithTheRunAndMissesNothing(t *testing.T) {
	b := setup(t)
	id := b.approved()
	out := &stream{ctx: b.member(b.tenant)}
	over := make(chan error, 1)
	go func() {
		over <- b.runs.FollowLogs(&dispatchv1.FollowLogsRequest{Id: id.String(), AfterSequence: 1}, out)
	}()
	require.Eventually(t, func() bool { return out.count() == 1 }, 5*time.Second, 5*time.Millisecond, "what is there is sent")
	for i := range 20 {
		b.lines(id, runner.Line{Number: int64(i + 1), At: time.Now(), Level: "info", Step: "pull", Message: fmt.Sprint("line ", i)})
	}
	require.Eventually(t, func() bool { return out.count() == 21 }, 5*time.Second, 5*time.Millisecond, "what comes is sent")
	require.NoError(t, b.tell(id, &intakev1.RequestWithdrawn{ImportId: id.String(), TenantId: b.tenant.String(), Reason: "no need"}))
	select {
	case err := <-over:
		require.NoError(t, err)
	case <-time.After(5 * time.Second):
		t.Fatal("the stream does not end")
	}
	for i, m := range out.sent {
		require.Equal(t, int64(i+2), m.GetSequence(), "in order, without gaps")
	}
}

func TestFollowingARejectedRequestEnds(t *testing.T) {
	b := setup(t)
	id := b.submitted()
	require.NoError(t, b.tell(id, &intakev1.RequestRejected{ImportId: id.String(), TenantId: b.tenant.String(), Reason: "not needed."}))
	out := &stream{ctx: b.member(b.tenant)}
	require.NoError(t, b.runs.FollowLogs(&dispatchv1.FollowLogsRequest{Id: id.String()}, out))
	require.Equal(t, "Request rejected: not needed.", out.sent[1].GetEntry().GetMessage())
}

func TestGetRunAnswersTheNewestRun(t *testing.T) {
	b := setup(t)
	id := b.approved()
	run, err := b.runs.GetRun(b.member(b.tenant), &dispatchv1.GetRunRequest{ImportId: id.String()})
	require.NoError(t, err)
	require.Equal(t, "queued", run.GetState())
	require.Equal(t, int32(1), run.GetAttempt())
	require.Len(t, run.GetSteps(), 4)
	require.Equal(t, "pull", run.GetSteps()[0].GetStepKey())
	require.Nil(t, run.StartedAt)
	service := auth.With(t.Context(), auth.Caller{Service: "intake"})
	again, err := b.runs.GetRun(service, &dispatchv1.GetRunRequest{ImportId: id.String()})
	require.NoError(t, err)
	require.True(t, proto.Equal(run, again))
}

func TestEveryLifecycleEventHasAPlainSentence(t *testing.T) {
	b := setup(t)
	id := uuid.Must(uuid.NewV7())
	hostile := "evil \x1b[31m\u202e\nname"
	require.NoError(t, b.tell(id, &intakev1.RequestSubmitted{ImportId: id.String(), TenantId: b.tenant.String(), SourceImageRef: hostile}))
	require.NoError(t, b.tell(id, &dispatchv1.RunFailed{ImportId: id.String(), TenantId: b.tenant.String(), Step: "sbom",
		Failure: &eventv1.Failure{FailureCode: "scanner_error", Message: hostile}}))
	require.NoError(t, b.tell(id, &evidencev1.EvidenceDecided{ImportId: id.String(), TenantId: b.tenant.String(), Decision: "quarantine",
		Reasons: []string{"2 critical"}}))
	page, err := b.runs.ListLogs(b.member(b.tenant), &dispatchv1.ListLogsRequest{Id: id.String()})
	require.NoError(t, err)
	var texts []string
	for _, l := range page.GetLogs() {
		texts = append(texts, l.GetLevel()+" "+l.GetMessage())
		require.NotContains(t, l.GetMessage(), "\x1b")
		require.NotContains(t, l.GetMessage(), "\n")
	}
	all := strings.Join(texts, "\n")
	require.Contains(t, all, "error Run failed in step sbom (scanner_error): evil")
	require.Contains(t, all, "warn Evidence judged quarantine: 2 critical.")

	require.Len(t, sentences, 16)
	for name, render := range sentences {
		_, err := render(event.Envelope{Type: name, Subject: id.String(), TenantID: b.tenant.String(),
			Data: []byte(fmt.Sprintf(`{"import_id":%q,"tenant_id":%q}`, id, b.tenant))})
		require.NoError(t, err, name)
	}
}

func TestAnEnvelopeThatContradictsItsDataIsPoison(t *testing.T) {
	b := setup(t)
	id := uuid.Must(uuid.NewV7())
	for name, msg := range map[string]proto.Message{
		"another request": &intakev1.RequestApproved{ImportId: uuid.NewString(), TenantId: b.tenant.String()},
		"another tenant":  &intakev1.RequestApproved{ImportId: id.String(), TenantId: uuid.NewString()},
	} {
		err := b.tell(id, msg)
		var outcome *bus.Outcome
		require.ErrorAs(t, err, &outcome, name)
		require.NotNil(t, outcome.Unwrap(), "poison carries its cause")
	}
	_, err := b.runs.GetRun(b.reviewer(), &dispatchv1.GetRunRequest{ImportId: id.String()})
	refused(t, err, errorsv1.Reason_REASON_NOT_FOUND)
}

func TestProvidersAreListedAndTheirReadinessAnswered(t *testing.T) {
	b := setup(t)
	enabled := true
	save := func(name string, at time.Time, ok bool) domain.Provider {
		p := domain.Provider{ID: uuid.Must(uuid.NewV7()), Name: name, Type: "local", Status: domain.Online, Enabled: &enabled, MaxRuns: 2}
		past := app.New(func() time.Time { return at })
		require.NoError(t, b.db.Work(t.Context(), func(tx pgx.Tx) (err error) {
			p, err = past.Assess(t.Context(), tx, p, append(p.ConfigChecks(), domain.Check{Name: "pipeline_installed", OK: ok, Message: "m"}))
			return err
		}))
		return p
	}
	gone, here := save("gone", time.Now().Add(-time.Hour), true), save("here", time.Now(), false)
	api := &Providers{DB: b.db, Here: here.ID, Stale: time.Minute, Now: time.Now,
		Check: func(context.Context) (domain.Provider, error) { return here, nil }}
	list, err := api.ListProviders(b.reviewer(), &dispatchv1.ListProvidersRequest{Limit: proto.Int32(1)})
	require.NoError(t, err)
	require.Equal(t, "here", list.GetData()[0].GetName(), "newest first")
	require.Equal(t, "online", list.GetData()[0].GetStatus())
	require.Equal(t, int32(2), list.GetPagination().GetTotal())
	list, err = api.ListProviders(b.reviewer(), &dispatchv1.ListProvidersRequest{PageToken: &list.Pagination.NextPageToken})
	require.NoError(t, err)
	require.Len(t, list.GetData(), 1)
	require.Equal(t, "offline", list.GetData()[0].GetStatus(), "its host has not been heard of")

	ready, err := api.GetProviderReadiness(b.reviewer(), &dispatchv1.GetProviderReadinessRequest{Id: here.ID.String()})
	require.NoError(t, err)
	require.Equal(t, "not_ready", ready.GetStatus())
	require.Equal(t, []string{"pipeline_installed"}, ready.GetMissingPrereqs())
	ready, err = api.GetProviderReadiness(b.reviewer(), &dispatchv1.GetProviderReadinessRequest{Id: gone.ID.String()})
	require.NoError(t, err)
	require.False(t, ready.GetDispatchReady())
	require.Equal(t, []string{"provider_status"}, ready.GetMissingPrereqs())
	_, err = api.GetProviderReadiness(b.reviewer(), &dispatchv1.GetProviderReadinessRequest{Id: uuid.NewString()})
	refused(t, err, errorsv1.Reason_REASON_NOT_FOUND)
}

// Row-level security stands behind the handlers: with it alone, another tenant's rows are not there.
func TestRowsOfOtherTenantsAreInvisible(t *testing.T) {
	b := setup(t)
	b.approved()
	for _, table := range []string{"dispatch_record", "run", "run_step", "transition", "log_head", "log_line"} {
		count := func(scope pg.Scope) (n int) {
			require.NoError(t, b.db.Read(t.Context(), scope, func(tx pgx.Tx) error {
				return tx.QueryRow(t.Context(), "select count(*) from "+table).Scan(&n)
			}))
			return n
		}
		require.Positive(t, count(pg.OneTenant(b.tenant)), table)
		require.Zero(t, count(pg.OneTenant(uuid.New())), table)
		require.Positive(t, count(pg.AllTenants()), table)
	}
}
