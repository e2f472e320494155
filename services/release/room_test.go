package release_test

import (
	"context"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/test/bufconn"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	errorsv1 "github.com/pratique-io/pratique/gen/pratique/errors/v1"
	evidencev1 "github.com/pratique-io/pratique/gen/pratique/evidence/v1"
	intakev1 "github.com/pratique-io/pratique/gen/pratique/intake/v1"
	releasev1 "github.com/pratique-io/pratique/gen/pratique/release/v1"
	"github.com/pratique-io/pratique/internal/auth"
	"github.com/pratique-io/pratique/internal/config"
	"github.com/pratique-io/pratique/internal/egress"
	"github.com/pratique-io/pratique/internal/event"
	"github.com/pratique-io/pratique/internal/fault"
	"github.com/pratique-io/pratique/internal/lease"
	"github.com/pratique-io/pratique/internal/oci"
	"github.com/pratique-io/pratique/internal/pg"
	"github.com/pratique-io/pratique/internal/pg/pgtest"
	"github.com/pratique-io/pratique/internal/registry"
	"github.com/pratique-io/pratique/internal/sample"
	"github.com/pratique-io/pratique/services/release"
)

const password = "registry-password-canary"

// room is one release service with a real database, two real registries, and peers that answer what the test says.
type room struct {
	t          *testing.T
	db         *pg.DB
	svc        *release.Service
	api        releasev1.ReleaseServiceServer
	peers      *peers
	quarantine *host
	trusted    *host
	tenant     uuid.UUID
	alice      uuid.UUID // requests
	rita       uuid.UUID // reviews
	mu         sync.Mutex
	clock      time.Time
	cfg        release.Config
	deps       release.Deps
}

// host is a registry behind a handler that the test may put in front of it.
type host struct {
	name  string
	mu    sync.Mutex
	front func(next http.Handler, w http.ResponseWriter, r *http.Request)
	seen  []string // method and path of each request
}

func (h *host) meet(front func(next http.Handler, w http.ResponseWriter, r *http.Request)) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.front, h.seen = front, nil
}

func (h *host) requests() []string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return append([]string(nil), h.seen...)
}

func startRegistry(t *testing.T, name string, actions ...string) *host {
	t.Helper()
	reg, err := registry.Open(registry.Config{
		Name: name, Dir: t.TempDir(), Volatile: true, Log: slog.New(slog.DiscardHandler),
		Users: []registry.User{
			{Name: "release", Password: password, Access: registry.Full(actions...)},
			{Name: "owner", Password: password, Access: registry.Full(registry.Pull, registry.Push, registry.Delete)},
		},
	})
	require.NoError(t, err)
	h := &host{}
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h.mu.Lock()
		front := h.front
		h.seen = append(h.seen, r.Method+" "+r.URL.Path)
		h.mu.Unlock()
		if front != nil {
			front(reg, w, r)
			return
		}
		reg.ServeHTTP(w, r)
	}))
	t.Cleanup(func() { srv.Close(); require.NoError(t, reg.Close()) })
	h.name = strings.TrimPrefix(srv.URL, "http://")
	return h
}

func open(t *testing.T) *room {
	t.Helper()
	r := &room{
		t: t, db: pgtest.New(t, "release", release.Migrations()...),
		quarantine: startRegistry(t, "quarantine", registry.Pull), trusted: startRegistry(t, "trusted", registry.Pull, registry.Push),
		tenant: newID(), alice: newID(), rita: newID(), clock: time.Now().UTC().Truncate(time.Microsecond),
	}
	secret := filepath.Join(t.TempDir(), "password")
	require.NoError(t, os.WriteFile(secret, []byte(password), 0o600))
	out, err := egress.New(egress.Config{Policies: map[egress.Purpose]egress.Policy{
		egress.Quarantine: {Allowed: []string{r.quarantine.name}}, egress.Trusted: {Allowed: []string{r.trusted.name}},
	}})
	require.NoError(t, err)
	r.peers = newPeers(r)
	r.cfg = release.Default()
	r.cfg.Quarantine = release.Registry{Host: r.quarantine.name, Username: "release", Password: config.SecretFile(secret)}
	r.cfg.Trusted = release.Registry{Host: r.trusted.name, Username: "release", Password: config.SecretFile(secret)}
	r.cfg.Promotion.Parallel, r.cfg.Promotion.Attempts = 1, 3
	conn := serve(t, r.peers)
	r.deps = release.Deps{
		DB: r.db, Peer: func(string) grpc.ClientConnInterface { return conn }, Egress: out, Log: slog.New(slog.DiscardHandler), Now: r.now,
	}
	r.svc, r.api = r.start()
	return r
}

// start makes another process of the service on the same data.
func (r *room) start() (*release.Service, releasev1.ReleaseServiceServer) {
	r.t.Helper()
	svc, err := release.New(r.cfg, r.deps)
	require.NoError(r.t, err)
	var got registrar
	svc.Register(&got)
	return svc, got.impl
}

type registrar struct {
	impl releasev1.ReleaseServiceServer
}

func (r *registrar) RegisterService(_ *grpc.ServiceDesc, impl any) {
	r.impl = impl.(releasev1.ReleaseServiceServer)
}

func newID() uuid.UUID { return uuid.Must(uuid.NewV7()) }

func (r *room) now() time.Time {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.clock
}

func (r *room) pass(d time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.clock = r.clock.Add(d)
}

// as gives the context of a reviewer's call.
func (r *room) as(person uuid.UUID) context.Context {
	return auth.With(r.t.Context(), auth.Caller{Subject: "iss|" + person.String(), PersonID: person, SystemRoles: []auth.Role{auth.SecurityReviewer}})
}

// member gives the context of a call of somebody in a tenant.
func (r *room) member(tenant uuid.UUID) context.Context {
	return auth.With(r.t.Context(), auth.Caller{
		Subject: "iss|" + r.alice.String(), PersonID: r.alice, Tenant: tenant, Tenants: map[uuid.UUID][]auth.Role{tenant: {auth.TenantMember}},
	})
}

func promoteLoop(svc *release.Service) lease.Loop {
	for _, l := range svc.Loops() {
		if l.Name == "release_promote_1" {
			return l
		}
	}
	panic("no promotion loop")
}

func (r *room) turn() bool {
	r.t.Helper()
	did, err := promoteLoop(r.svc).Run(r.t.Context())
	require.NoError(r.t, err)
	return did
}

func (r *room) expire() bool {
	r.t.Helper()
	did, err := r.svc.Loops()[0].Run(r.t.Context())
	require.NoError(r.t, err)
	return did
}

// made makes an event as its producer would.
func (r *room) made(id uuid.UUID, sequence int64, msg proto.Message) event.Envelope {
	r.t.Helper()
	e, err := event.New(r.t.Context(), msg, event.Head{Subject: id, Tenant: r.tenant, Sequence: sequence, Request: id, Actor: "system"})
	require.NoError(r.t, err)
	return e
}

// hear hands events to the service as the bus would, without its inbox: repetitions reach the handler.
func (r *room) hear(batch ...event.Envelope) []error {
	r.t.Helper()
	var out []error
	require.NoError(r.t, r.db.Work(r.t.Context(), func(tx pgx.Tx) error {
		out = r.svc.Subscriptions()[0].HandleBatch(r.t.Context(), tx, batch)
		return nil
	}))
	require.Len(r.t, out, len(batch))
	return out
}

// events are all that were told about a record, oldest first.
func (r *room) events(id uuid.UUID) []event.Envelope {
	var out []event.Envelope
	rows, err := r.db.WorkerPool().Query(context.Background(), `select body from outbox order by seq`)
	require.NoError(r.t, err)
	bodies, err := pgx.CollectRows(rows, pgx.RowTo[[]byte])
	require.NoError(r.t, err)
	for _, body := range bodies {
		e, err := event.Decode(body)
		require.NoError(r.t, err)
		require.NotContains(r.t, string(body), password)
		if e.Aggregate() == id {
			out = append(out, e)
		}
	}
	return out
}

func (r *room) told(id uuid.UUID) []string {
	var names []string
	for i, e := range r.events(id) {
		require.EqualValues(r.t, i+1, e.Sequence, "versions have no gaps")
		names = append(names, e.Type[strings.LastIndexByte(e.Type, '.')+1:])
	}
	var transitions int
	require.NoError(r.t, r.db.WorkerPool().QueryRow(context.Background(), `select count(*) from release_transition where record_id = $1`, id).Scan(&transitions))
	require.Len(r.t, names, transitions, "one event per transition")
	return names
}

func (r *room) state(id uuid.UUID) (state, blocker string) {
	require.NoError(r.t, r.db.WorkerPool().QueryRow(context.Background(), `select state, blocker_reason from release_record where id = $1`, id).Scan(&state, &blocker))
	return state, blocker
}

func (r *room) submitted(id uuid.UUID, image sample.Image) *intakev1.RequestSubmitted {
	return &intakev1.RequestSubmitted{
		ImportId: id.String(), TenantId: r.tenant.String(), RequestType: "quarantine", RequestedBy: r.alice.String(),
		SourceRegistry: "docker.io", SourceImageRef: image.Name + ":1.0", SourceImageDigest: image.Root.Digest.String(),
		ChainRequesters: []string{r.alice.String()}, ChainId: id.String(),
	}
}

func (r *room) decided(id uuid.UUID, image sample.Image, decision string) *evidencev1.EvidenceDecided {
	out := &evidencev1.EvidenceDecided{
		ImportId: id.String(), TenantId: r.tenant.String(), Digest: image.Root.Digest.String(), Decision: decision, EvidenceHash: "evidence-1",
		PolicyHash: "policy-1", EvidenceExpiresAt: timestamppb.New(r.now().Add(30 * 24 * time.Hour)),
	}
	for _, d := range image.Referrers {
		out.Referrers = append(out.Referrers, d.Digest.String())
	}
	return out
}

// ready makes a request whose image lies in quarantine and may be released, and lets the peers agree.
func (r *room) ready(image sample.Image) uuid.UUID {
	r.t.Helper()
	id := newID()
	require.NoError(r.t, image.Push(r.t.Context(), nil, r.quarantine.name, "q/"+r.tenant.String()+"/"+id.String(), "run-1", "owner", password))
	r.peers.agree(id, r.submitted(id, image), r.decided(id, image, "pass"))
	for _, err := range r.hear(r.made(id, 1, r.submitted(id, image)), r.made(id, 3, r.decided(id, image, "pass"))) {
		require.NoError(r.t, err)
	}
	state, _ := r.state(id)
	require.Equal(r.t, "ready_for_release", state)
	return id
}

func (r *room) release(id uuid.UUID, change ...func(*releasev1.ReleaseImportRequestRequest)) (*intakev1.ImportRequest, error) {
	req := &releasev1.ReleaseImportRequestRequest{Id: id.String()}
	for _, f := range change {
		f(req)
	}
	return r.api.ReleaseImportRequest(r.as(r.rita), req)
}

// at reads what a tag of the trusted registry names; empty when nothing.
func (r *room) at(repository, tag string) string {
	r.t.Helper()
	d, _, err := r.repository(repository).Resolve(r.t.Context(), tag)
	if err != nil {
		require.ErrorIs(r.t, err, oci.ErrNotFound)
		return ""
	}
	return string(d.Digest)
}

func (r *room) repository(name string) *oci.Repository {
	return oci.NewClient(http.DefaultTransport).Repository(r.trusted.name, name, oci.Credential{Username: "owner", Password: password})
}

func reasonOf(t *testing.T, err error, want errorsv1.Reason) map[string]any {
	t.Helper()
	require.Error(t, err)
	f := fault.Of(err)
	require.Equal(t, want, f.Reason(), f.Error())
	return f.Details()
}

func serve(t *testing.T, p *peers) *grpc.ClientConn {
	t.Helper()
	wire := bufconn.Listen(1 << 20)
	srv := grpc.NewServer()
	intakev1.RegisterRequestServiceServer(srv, p)
	intakev1.RegisterPermitServiceServer(srv, p)
	intakev1.RegisterDirectoryServiceServer(srv, p)
	evidencev1.RegisterEvidenceServiceServer(srv, p)
	go func() { _ = srv.Serve(wire) }()
	conn, err := grpc.NewClient("passthrough:peers", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return wire.DialContext(ctx) }))
	require.NoError(t, err)
	t.Cleanup(func() { _ = conn.Close(); srv.Stop() })
	return conn
}
