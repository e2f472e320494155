package intake

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/proto"

	approvalv1 "github.com/pratique-io/pratique/gen/pratique/approval/v1"
	dispatchv1 "github.com/pratique-io/pratique/gen/pratique/dispatch/v1"
	errorsv1 "github.com/pratique-io/pratique/gen/pratique/errors/v1"
	evidencev1 "github.com/pratique-io/pratique/gen/pratique/evidence/v1"
	intakev1 "github.com/pratique-io/pratique/gen/pratique/intake/v1"
	releasev1 "github.com/pratique-io/pratique/gen/pratique/release/v1"
	"github.com/pratique-io/pratique/internal/auth"
	"github.com/pratique-io/pratique/internal/bus"
	"github.com/pratique-io/pratique/internal/bus/bustest"
	"github.com/pratique-io/pratique/internal/config"
	"github.com/pratique-io/pratique/internal/directory"
	"github.com/pratique-io/pratique/internal/egress"
	"github.com/pratique-io/pratique/internal/event"
	"github.com/pratique-io/pratique/internal/fault"
	"github.com/pratique-io/pratique/internal/oci"
	"github.com/pratique-io/pratique/internal/outbox"
	"github.com/pratique-io/pratique/internal/pg/pgtest"
	"github.com/pratique-io/pratique/internal/rpc"
)

// world is intake over real gRPC, NATS and Postgres, with a registry to ask and other services' voices.
type world struct {
	t        *testing.T
	conn     *grpc.ClientConn
	broker   *bustest.Broker
	host     string // of the source registry
	sequence map[string]int64
}

// tokens stand for an issuer: the token's text is who it is for.
type tokens struct{}

func (v tokens) Verify(_ context.Context, token string) (auth.Principal, error) {
	if name, ok := strings.CutPrefix(token, "service-"); ok {
		return auth.Principal{Service: name, Expires: time.Now().Add(time.Hour)}, nil
	}
	if !strings.HasPrefix(token, "user-") {
		return auth.Principal{}, auth.Unauthorized()
	}
	return auth.Principal{Subject: "https://issuer.example.com|" + token, Name: token, Expires: time.Now().Add(time.Hour)}, nil
}

func setup(t *testing.T) *world {
	t.Helper()
	w := &world{t: t, sequence: map[string]int64{}}
	index := fmt.Sprintf(`{"schemaVersion":2,"mediaType":%q,"manifests":[{"mediaType":%q,"digest":"sha256:%s","size":9,"platform":{"os":"linux","architecture":"amd64"}}]}`,
		oci.MediaTypeIndex, oci.MediaTypeImage, strings.Repeat("a", 64))
	registry := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		if !strings.HasSuffix(r.URL.Path, "/manifests/1") {
			http.NotFound(rw, r)
			return
		}
		rw.Header().Set("Content-Type", oci.MediaTypeIndex)
		_, _ = io.WriteString(rw, index)
	}))
	t.Cleanup(registry.Close)
	w.host = strings.TrimPrefix(registry.URL, "http://")
	out, err := egress.New(egress.Config{Policies: map[egress.Purpose]egress.Policy{egress.Source: {Allowed: []string{w.host}}}})
	require.NoError(t, err)

	db := pgtest.New(t, "intake", Migrations()...)
	cfg := Default()
	const issuer = "https://issuer.example.com"
	cfg.Bootstrap = Bootstrap{
		Tenants:      []BootstrapTenant{{Slug: "red", Name: "Red"}, {Slug: "blue", Name: "Blue"}},
		SystemAdmins: []BootstrapPerson{{Issuer: issuer, Subject: "user-root"}},
		Bindings: []BootstrapBinding{
			{Issuer: issuer, Subject: "user-mia", Role: "tenant_member", Tenant: "red"},
			{Issuer: issuer, Subject: "user-bob", Role: "tenant_member", Tenant: "blue"},
			{Issuer: issuer, Subject: "user-rev", Role: "security_reviewer"},
		},
	}
	log := slog.New(slog.DiscardHandler)
	svc, err := New(cfg, Deps{DB: db, Egress: out, Log: log})
	require.NoError(t, err)
	require.NoError(t, svc.Bootstrap(t.Context()))
	require.NoError(t, svc.Bootstrap(t.Context()))

	w.broker = bustest.New(t, map[string][]bus.Subscription{
		"intake": svc.Subscriptions(), "approval": nil, "dispatch": nil, "evidence": nil, "release": nil,
	})
	conn := w.broker.Connect("intake")
	relay, err := outbox.NewRelay(outbox.Config{DB: db, Publisher: bus.NewPublisher(conn), Log: log})
	require.NoError(t, err)
	runtime, err := bus.NewRuntime(bus.RuntimeConfig{Service: "intake", Conn: conn, DB: db, Subscriptions: svc.Subscriptions(), Log: log})
	require.NoError(t, err)
	w.run(relay.Run)
	w.run(runtime.Run)
	w.serve(svc, directory.NewResolver(db), log)
	return w
}

// run runs f until the test ends.
func (w *world) run(f func(context.Context) error) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- f(ctx) }()
	w.t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil && !errors.Is(err, context.Canceled) {
			w.t.Errorf("run: %v", err)
		}
	})
}

func (w *world) serve(svc *Service, dir auth.Directory, log *slog.Logger) {
	t := w.t
	srv, _, err := rpc.NewServer(rpc.ServerConfig{
		Verifier: tokens{}, Directory: dir, Log: log, Transport: rpc.Transport{Plaintext: true}, Seen: svc.Seen, Denied: svc.Denied,
	})
	require.NoError(t, err)
	svc.Register(srv)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	go func() { _ = srv.Serve(listener) }()
	t.Cleanup(srv.Stop)
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	w.conn, err = rpc.Dial(listener.Addr().String(), rpc.ClientConfig{Transport: rpc.Transport{Plaintext: true}, Signer: auth.NewServiceSigner("test", key)})
	require.NoError(t, err)
	t.Cleanup(func() { _ = w.conn.Close() })
}

// as is a context that calls as somebody.
func (w *world) as(who string) context.Context {
	return auth.ForwardCaller(auth.WithBearer(w.t.Context(), who, ""))
}

// say publishes an event in the voice of another service.
func (w *world) say(service string, request uuid.UUID, tenant string, msg proto.Message) {
	t := w.t
	w.sequence[service+request.String()]++
	e, err := event.New(t.Context(), msg, event.Head{
		Subject: request, Tenant: uuid.MustParse(tenant), Sequence: w.sequence[service+request.String()], Request: request, Actor: "service:" + service,
	})
	require.NoError(t, err)
	body, err := e.Encode()
	require.NoError(t, err)
	publisher := bus.NewPublisher(w.broker.Connect(service))
	subject := event.SubjectOf(e)
	_, err = publisher.PublishEach(t.Context(), publisher.StreamOf(subject), []outbox.Message{{ID: e.ID, Subject: subject, Body: body}})
	require.NoError(t, err)
}

func (w *world) refuses(err error, reason errorsv1.Reason) *fault.Fault {
	w.t.Helper()
	require.Error(w.t, err)
	require.True(w.t, fault.Is(err, reason), "%v", err)
	return fault.Of(err)
}

func TestRequestFromAskToRelease(t *testing.T) {
	t.Parallel()
	w := setup(t)
	requests, eprs := intakev1.NewRequestServiceClient(w.conn), intakev1.NewEprServiceClient(w.conn)
	settings, me := intakev1.NewSettingsServiceClient(w.conn), intakev1.NewDirectoryServiceClient(w.conn)
	permits := intakev1.NewPermitServiceClient(w.conn)

	_, err := requests.ListImportRequests(w.t.Context(), &intakev1.ListImportRequestsRequest{})
	w.refuses(err, errorsv1.Reason_REASON_UNAUTHORIZED)
	var mia *intakev1.Me
	require.Eventually(t, func() bool {
		mia, err = me.GetMe(w.as("user-mia"), &intakev1.GetMeRequest{})
		return err == nil && len(mia.GetTenants()) == 1
	}, 10*time.Second, 20*time.Millisecond, "the bootstrap's bindings reach the directory")
	require.Equal(t, "red", mia.GetTenants()[0].GetSlug())
	require.Equal(t, mia.GetTenants()[0].GetTenantId(), mia.GetTenantId())
	require.NotEmpty(t, mia.GetUserId())
	red := mia.GetTenantId()

	ask := &intakev1.CreateImportRequestRequest{EprRecordId: "EPR-1", SourceRegistry: w.host, SourceImageRef: "library/app:1"}
	_, err = requests.CreateImportRequest(w.as("user-mia"), ask)
	w.refuses(err, errorsv1.Reason_REASON_TENANT_CAPABILITY_NOT_ENTITLED)
	_, err = settings.PutOperationCapabilities(w.as("user-mia"), &intakev1.PutOperationCapabilitiesRequest{TenantId: &red})
	w.refuses(err, errorsv1.Reason_REASON_PERMISSION_DENIED)
	_, err = settings.PutOperationCapabilities(w.as("user-root"), &intakev1.PutOperationCapabilitiesRequest{
		TenantId: &red, Capabilities: &intakev1.CapabilityDocument{QuarantineRequest: true, QuarantineRelease: true}})
	require.NoError(t, err)
	surfaces, err := settings.GetCapabilitySurfaces(w.as("user-mia"), &intakev1.GetCapabilitySurfacesRequest{})
	require.NoError(t, err)
	require.Contains(t, surfaces.GetSurfaces().GetActionKeys(), "import_request.create")
	require.Equal(t, "tenant_capability_not_entitled", surfaces.GetDenials()["ondemand_image_scanning"].GetReasonCode())

	registration, err := eprs.CreateEprRegistration(w.as("user-mia"), &intakev1.CreateEprRegistrationRequest{
		EprRecordId: proto.String("EPR-1"), ProductName: "P", TechnologyName: "T"})
	require.NoError(t, err)
	w.say("approval", uuid.MustParse(registration.GetId()), red, &approvalv1.CaseApproved{
		Kind: "epr_registration", SubjectId: registration.GetId(), DecidedBy: uuid.NewString()})
	require.Eventually(t, func() bool {
		registration, err = eprs.GetEprRegistration(w.as("user-mia"), &intakev1.GetEprRegistrationRequest{Id: registration.GetId()})
		return err == nil && registration.GetLifecycleStatus() == "active"
	}, 10*time.Second, 20*time.Millisecond, "the decision reaches the registration")

	var header metadata.MD
	ask.ValidateOnly = true
	would, err := requests.CreateImportRequest(w.as("user-mia"), ask, grpc.Header(&header))
	require.NoError(t, err)
	require.Empty(t, would.GetId())
	require.Equal(t, []string{"200"}, header.Get("pratique-success-status"))
	ask.ValidateOnly = false
	keyed := metadata.AppendToOutgoingContext(w.as("user-mia"), auth.HeaderIdempotency, "key-1")
	created, err := requests.CreateImportRequest(keyed, ask)
	require.NoError(t, err)
	again, err := requests.CreateImportRequest(keyed, ask)
	require.NoError(t, err)
	require.Equal(t, created.GetId(), again.GetId())
	_, err = requests.CreateImportRequest(w.as("user-mia"), ask)
	require.Equal(t, created.GetId(), w.refuses(err, errorsv1.Reason_REASON_DUPLICATE_REQUEST).Details()["existing_id"])

	_, err = requests.GetImportRequest(w.as("user-bob"), &intakev1.GetImportRequestRequest{Id: created.GetId()})
	w.refuses(err, errorsv1.Reason_REASON_NOT_FOUND)
	_, err = requests.GetImportRequest(w.as("service-approval"), &intakev1.GetImportRequestRequest{Id: created.GetId()})
	require.NoError(t, err)
	list, err := requests.ListImportRequests(w.as("user-rev"), &intakev1.ListImportRequestsRequest{TenantId: &red, Search: proto.String("APP")})
	require.NoError(t, err)
	require.Len(t, list.GetData(), 1)
	_, err = requests.ListImportRequests(w.as("user-bob"), &intakev1.ListImportRequestsRequest{TenantId: &red})
	w.refuses(err, errorsv1.Reason_REASON_TENANT_CONTEXT_MISMATCH)

	_, err = permits.GetDispatchPermit(w.as("user-root"), &intakev1.GetDispatchPermitRequest{ImportId: created.GetId()})
	w.refuses(err, errorsv1.Reason_REASON_PERMISSION_DENIED)
	w.finish(requests, permits, created, red)
}

// finish tells the rest of the story, the end before the beginning, and looks at what came of it.
func (w *world) finish(requests intakev1.RequestServiceClient, permits intakev1.PermitServiceClient, created *intakev1.ImportRequest, tenant string) {
	t, id, text := w.t, uuid.MustParse(created.GetId()), created.GetId()
	w.say("release", id, tenant, &releasev1.ReleaseReady{ImportId: text})
	w.say("evidence", id, tenant, &evidencev1.EvidenceDecided{ImportId: text, Decision: "pass"})
	w.say("dispatch", id, tenant, &dispatchv1.RunStarted{ImportId: text, RunId: "r", Attempt: 1, PipelineRunName: "run-1"})
	w.say("approval", id, tenant, &approvalv1.CaseApproved{
		Kind: "import_request", SubjectId: text, DecidedBy: uuid.NewString(), Digest: created.GetSourceImageDigest()})
	var got *intakev1.ImportRequest
	var err error
	require.Eventually(t, func() bool {
		got, err = requests.GetImportRequest(w.as("user-mia"), &intakev1.GetImportRequestRequest{Id: text})
		return err == nil && got.GetReleaseState() == "ready_for_release" && got.GetPipelineRunName() == "run-1"
	}, 30*time.Second, 50*time.Millisecond, "early events come again after the approval")
	require.Equal(t, "success", got.GetStatus())
	require.True(t, got.GetReleaseEligible())

	permit, err := permits.GetDispatchPermit(w.as("service-dispatch"), &intakev1.GetDispatchPermitRequest{ImportId: text})
	require.NoError(t, err)
	require.False(t, permit.GetAllowed())
	require.Equal(t, "success", permit.GetReason())
	entitlement, err := permits.GetEntitlement(w.as("service-release"), &intakev1.GetEntitlementRequest{ImportId: text})
	require.NoError(t, err)
	require.True(t, entitlement.GetAllowed())
	_, err = requests.WithdrawImportRequest(w.as("user-mia"), &intakev1.WithdrawImportRequestRequest{Id: text})
	w.refuses(err, errorsv1.Reason_REASON_IMPORT_NOT_WITHDRAWABLE)
	w.askAgain(requests, got)

	workflow, err := requests.GetWorkflow(w.as("user-mia"), &intakev1.GetWorkflowRequest{Id: text})
	require.NoError(t, err)
	require.Len(t, workflow.GetLifecycleStages(), 6)
	require.Equal(t, "release", workflow.GetWaitingFor().GetWho())
	require.Eventually(t, func() bool {
		trail, err := requests.GetTimeline(w.as("user-mia"), &intakev1.GetTimelineRequest{Id: text})
		if err != nil {
			return false
		}
		actions := map[string]bool{}
		for _, line := range trail.GetData() {
			actions[line.GetService()+" "+line.GetAction()] = true
		}
		return actions["intake RequestSubmitted"] && actions["approval CaseApproved"] && actions["dispatch RunStarted"] &&
			actions["evidence EvidenceDecided"] && actions["release ReleaseReady"] && actions["intake QuarantineConcluded"]
	}, 10*time.Second, 50*time.Millisecond, "the trail has a line of every service")
}

// askAgain asks for what came to a good end: it is not retried, but cloned.
func (w *world) askAgain(requests intakev1.RequestServiceClient, done *intakev1.ImportRequest) {
	t := w.t
	_, err := requests.RetryImportRequest(w.as("user-mia"), &intakev1.RetryImportRequestRequest{Id: done.GetId()})
	w.refuses(err, errorsv1.Reason_REASON_IMPORT_NOT_RETRYABLE)
	_, err = requests.RetryScanRequest(w.as("user-mia"), &intakev1.RetryImportRequestRequest{Id: done.GetId()})
	w.refuses(err, errorsv1.Reason_REASON_NOT_FOUND)
	_, err = requests.RetryImportRequest(w.as("user-bob"), &intakev1.RetryImportRequestRequest{Id: done.GetId()})
	w.refuses(err, errorsv1.Reason_REASON_NOT_FOUND)
	_, err = requests.RetryImportRequest(w.as("user-root"), &intakev1.RetryImportRequestRequest{Id: done.GetId()})
	require.Error(t, err)

	_, err = requests.CloneImportRequest(w.as("user-mia"), &intakev1.CloneImportRequestRequest{Id: done.GetId(), SourceImageRef: proto.String("library/gone:2")})
	w.refuses(err, errorsv1.Reason_REASON_SOURCE_NOT_FOUND)
	_, err = requests.CloneImportRequest(w.as("user-mia"), &intakev1.CloneImportRequestRequest{Id: done.GetId(), EprRecordId: proto.String("EPR-2")})
	w.refuses(err, errorsv1.Reason_REASON_EPR_REGISTRATION_REQUIRED)
	clone, err := requests.CloneImportRequest(w.as("user-mia"), &intakev1.CloneImportRequestRequest{Id: done.GetId(), Justification: proto.String("once more")})
	require.NoError(t, err)
	require.Equal(t, "pending", clone.GetStatus())
	require.Equal(t, done.GetId(), clone.GetClonedFrom())
	require.Equal(t, "once more", clone.GetJustification())
	for _, same := range []func(*intakev1.ImportRequest) string{
		(*intakev1.ImportRequest).GetSourceRegistry, (*intakev1.ImportRequest).GetSourceImageRef, (*intakev1.ImportRequest).GetEprRecordId,
		(*intakev1.ImportRequest).GetDestinationImageRef,
	} {
		require.Equal(t, same(done), same(clone))
	}
}

func TestFieldsAreRefusedAllAtOnce(t *testing.T) {
	t.Parallel()
	w := setup(t)
	requests, eprs := intakev1.NewRequestServiceClient(w.conn), intakev1.NewEprServiceClient(w.conn)
	require.Eventually(t, func() bool {
		_, err := requests.ListImportRequests(w.as("user-mia"), &intakev1.ListImportRequestsRequest{})
		return err == nil
	}, 10*time.Second, 20*time.Millisecond, "the directory knows the member")

	_, err := requests.CreateImportRequest(w.as("user-mia"), &intakev1.CreateImportRequestRequest{
		EprRecordId: "no good", SourceRegistry: "not a host", SourceImageRef: "", Justification: proto.String(strings.Repeat("x", 2001)),
		DestinationImageRef: proto.String("trusted.example.com/x@sha256:" + strings.Repeat("a", 64)), ArtifactType: proto.String("chart"),
		RegistryAuthId: proto.String(uuid.NewString()),
	})
	f := w.refuses(err, errorsv1.Reason_REASON_VALIDATION_FAILED)
	for _, field := range []string{"epr_record_id", "source_registry", "source_image_ref", "justification", "destination_image_ref", "artifact_type", "registry_auth_id"} {
		require.Contains(t, f.FieldErrors(), field)
	}
	_, err = requests.CloneImportRequest(w.as("user-mia"), &intakev1.CloneImportRequestRequest{
		Id: uuid.NewString(), EprRecordId: proto.String(""), SourceRegistry: proto.String("not a host"), SourceImageRef: proto.String(""),
		DestinationImageRef: proto.String("x"), Justification: proto.String("a\x00b"),
	})
	f = w.refuses(err, errorsv1.Reason_REASON_VALIDATION_FAILED)
	require.Len(t, f.FieldErrors(), 5)
	_, err = requests.CloneImportRequest(w.as("user-mia"), &intakev1.CloneImportRequestRequest{Id: uuid.NewString()})
	w.refuses(err, errorsv1.Reason_REASON_NOT_FOUND)
	_, err = requests.RetryImportRequest(w.as("user-mia"), &intakev1.RetryImportRequestRequest{Id: "7"})
	w.refuses(err, errorsv1.Reason_REASON_INVALID_ID)
	_, err = requests.ListImportRequests(w.as("user-mia"), &intakev1.ListImportRequestsRequest{
		Limit: proto.Int32(0), Status: proto.String("happy"), Digest: proto.String("x"), RequestedBy: proto.String("me"), Search: proto.String("a\x00b"),
	})
	f = w.refuses(err, errorsv1.Reason_REASON_VALIDATION_FAILED)
	require.Len(t, f.FieldErrors(), 5)
	_, err = eprs.CreateEprRegistration(w.as("user-mia"), &intakev1.CreateEprRegistrationRequest{})
	require.Len(t, w.refuses(err, errorsv1.Reason_REASON_VALIDATION_FAILED).FieldErrors(), 2)
	_, err = requests.GetImportRequest(w.as("user-mia"), &intakev1.GetImportRequestRequest{Id: "7"})
	w.refuses(err, errorsv1.Reason_REASON_INVALID_ID)
	settings := intakev1.NewSettingsServiceClient(w.conn)
	_, err = settings.GetOperationCapabilities(w.as("user-root"), &intakev1.GetOperationCapabilitiesRequest{})
	w.refuses(err, errorsv1.Reason_REASON_VALIDATION_FAILED)
	_, err = settings.GetOperationCapabilities(w.as("user-root"), &intakev1.GetOperationCapabilitiesRequest{TenantId: proto.String(uuid.NewString())})
	w.refuses(err, errorsv1.Reason_REASON_NOT_FOUND)
}

func TestConfigTellsEveryProblem(t *testing.T) {
	t.Parallel()
	check := func(c Config) error {
		p := config.NewProblems()
		c.Validate(p.At("intake"))
		return p.Err()
	}
	require.NoError(t, check(Default()))
	cfg := Config{
		TrustedRegistry: "no host", Epr: Epr{ValidityDays: 0, ExpiringDays: -1},
		Bootstrap: Bootstrap{
			Tenants:      []BootstrapTenant{{Slug: "Bad Slug", ID: "x"}},
			SystemAdmins: []BootstrapPerson{{Issuer: "a|b"}},
			Bindings:     []BootstrapBinding{{Issuer: "i", Subject: "s", Role: "tenant_member"}, {Issuer: "i", Subject: "s", Role: "auditor", Tenant: "red"}},
		},
	}
	err := check(cfg)
	for _, path := range []string{
		"trusted_registry", "epr.validity_days", "epr.expiring_days", "tenants[0].slug", "tenants[0].name", "tenants[0].id",
		"system_admins[0].issuer", "system_admins[0].subject", "bindings[0].tenant", "bindings[1].tenant",
	} {
		require.ErrorContains(t, err, path)
	}
}
