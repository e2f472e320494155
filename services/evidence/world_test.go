package evidence

import (
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"

	dispatchv1 "github.com/pratique-io/pratique/gen/pratique/dispatch/v1"
	evidencev1 "github.com/pratique-io/pratique/gen/pratique/evidence/v1"
	intakev1 "github.com/pratique-io/pratique/gen/pratique/intake/v1"
	"github.com/pratique-io/pratique/internal/config"
	"github.com/pratique-io/pratique/internal/egress"
	"github.com/pratique-io/pratique/internal/event"
	"github.com/pratique-io/pratique/internal/oci"
	"github.com/pratique-io/pratique/internal/pg"
	"github.com/pratique-io/pratique/internal/pg/pgtest"
	"github.com/pratique-io/pratique/internal/registry"
	"github.com/pratique-io/pratique/services/evidence/internal/domain"
	"github.com/pratique-io/pratique/services/evidence/internal/store"
)

// world is the service with a real database and two real registries, and a clock that stands still.
type world struct {
	*Service
	t          testing.TB
	db         *pg.DB
	quarantine *place
	documents  *place
	mu         sync.Mutex
	at         time.Time
}

// place is one embedded registry. before may answer a request in its stead.
type place struct {
	*registry.Registry
	host   string
	mu     sync.Mutex
	before func(http.ResponseWriter, *http.Request) bool
	asked  []string
}

func (p *place) intercept(f func(http.ResponseWriter, *http.Request) bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.before, p.asked = f, nil
}

func (p *place) requests() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.asked)
}

// repo is a handle for the runner, who may do everything.
func (p *place) repo(name string) *oci.Repository {
	return oci.NewClient(http.DefaultTransport).Repository(p.host, name, oci.Credential{Username: "runner", Password: "runner"})
}

func openPlace(t testing.TB, name string, access []registry.Access) *place {
	t.Helper()
	r, err := registry.Open(registry.Config{Name: name, Dir: t.TempDir(), Volatile: true, Users: []registry.User{
		{Name: "evidence", Password: "secret", Access: access},
		{Name: "runner", Password: "runner", Access: registry.Full(registry.Pull, registry.Push, registry.Delete)},
	}})
	require.NoError(t, err)
	p := &place{Registry: r}
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		p.mu.Lock()
		before := p.before
		p.asked = append(p.asked, req.Method+" "+req.URL.Path)
		p.mu.Unlock()
		if before == nil || !before(w, req) {
			r.ServeHTTP(w, req)
		}
	}))
	t.Cleanup(func() { s.Close(); require.NoError(t, r.Close()) })
	p.host = s.Listener.Addr().String()
	return p
}

var start = time.Date(2026, 3, 10, 12, 0, 0, 0, time.UTC)

func newWorld(t testing.TB) *world {
	t.Helper()
	w := &world{t: t, at: start, db: pgtest.New(t, Schema, Migrations()...)}
	w.quarantine = openPlace(t, "quarantine", []registry.Access{{Prefix: "q", Actions: []string{registry.Pull, registry.Delete}}})
	w.documents = openPlace(t, "documents", []registry.Access{{Prefix: "evidence", Actions: []string{registry.Pull, registry.Push}}})
	out, err := egress.New(egress.Config{Policies: map[egress.Purpose]egress.Policy{
		egress.Quarantine: {Allowed: []string{w.quarantine.host}}, egress.Evidence: {Allowed: []string{w.documents.host}},
	}})
	require.NoError(t, err)
	secret := filepath.Join(t.TempDir(), "password")
	require.NoError(t, os.WriteFile(secret, []byte("secret\n"), 0o600))
	cfg := Default()
	cfg.Quarantine = Registry{Host: w.quarantine.host, Username: "evidence", Password: config.SecretFile(secret)}
	cfg.Store = Registry{Host: w.documents.host, Username: "evidence", Password: config.SecretFile(secret)}
	w.Service, err = New(cfg, Deps{DB: w.db, Egress: out, Log: slog.New(slog.DiscardHandler), Now: w.now})
	require.NoError(t, err)
	return w
}

func (w *world) now() time.Time {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.at
}

func (w *world) advance(d time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.at = w.at.Add(d)
}

// envelope makes an event of a request as its owner would.
func (w *world) envelope(r *run, msg proto.Message, sequence int64) event.Envelope {
	w.t.Helper()
	e, err := event.New(w.t.Context(), msg, event.Head{Subject: r.request, Tenant: r.tenant, Sequence: sequence, Request: r.request, Actor: "system"})
	require.NoError(w.t, err)
	return e
}

// hear hands an event to its consumer and returns the outcome.
func (w *world) hear(e event.Envelope) error {
	w.t.Helper()
	for _, s := range w.Subscriptions() {
		if slices.Contains(s.Types, e.Type) {
			return w.db.Work(w.t.Context(), func(tx pgx.Tx) error {
				if s.HandleBatch != nil {
					return s.HandleBatch(w.t.Context(), tx, []event.Envelope{e})[0]
				}
				return s.Handle(w.t.Context(), tx, e)
			})
		}
	}
	w.t.Fatalf("nobody consumes %s", e.Type)
	return nil
}

func (w *world) tell(r *run, msg proto.Message, sequence int64) {
	w.t.Helper()
	require.NoError(w.t, w.hear(w.envelope(r, msg, sequence)))
}

func (w *world) submitted(r *run) *intakev1.RequestSubmitted {
	return &intakev1.RequestSubmitted{ImportId: r.request.String(), TenantId: r.tenant.String(), RequestType: r.kind, SourceImageDigest: r.digest()}
}

func (w *world) approved(r *run) *intakev1.RequestApproved {
	return &intakev1.RequestApproved{ImportId: r.request.String(), TenantId: r.tenant.String(), RequestType: r.kind, SourceImageDigest: r.digest()}
}

func (w *world) started(r *run) *dispatchv1.RunStarted {
	return &dispatchv1.RunStarted{ImportId: r.request.String(), TenantId: r.tenant.String(), RunId: r.run, Attempt: 1, QuarantineRepository: r.target(w)}
}

// succeed brings a request as far as a run that succeeded.
func (w *world) succeed(r *run) {
	w.t.Helper()
	message := r.push(w)
	w.tell(r, w.submitted(r), 1)
	w.tell(r, w.approved(r), 2)
	w.tell(r, w.started(r), 2)
	w.tell(r, message, 5)
}

// turn runs a loop once.
func (w *world) turn(name string) bool {
	w.t.Helper()
	for _, l := range w.Loops() {
		if strings.HasPrefix(l.Name, name) {
			did, err := l.Run(w.t.Context())
			require.NoError(w.t, err)
			return did
		}
	}
	w.t.Fatalf("no loop %s", name)
	return false
}

// settle lets the collector work until nothing is owed, letting its pauses pass.
func (w *world) settle() {
	w.t.Helper()
	for range 10 {
		for w.turn("evidence_collect") {
		}
		var owed int
		require.NoError(w.t, w.db.WorkerPool().QueryRow(w.t.Context(), "select count(*) from bundle where state = 'collecting'").Scan(&owed))
		if owed == 0 {
			return
		}
		w.advance(5 * time.Minute)
	}
	w.t.Fatal("the collector does not come to an end")
}

// bundle reads a bundle as the loops see it.
func (w *world) bundle(r *run) *domain.Bundle {
	w.t.Helper()
	var b *domain.Bundle
	require.NoError(w.t, w.db.Read(w.t.Context(), pg.AllTenants(), func(tx pgx.Tx) (err error) {
		b, err = store.Bundle(w.t.Context(), tx, pg.AllTenants(), r.request)
		return err
	}))
	return b
}

// decision reads the newest decision; false when there is none.
func (w *world) decision(r *run) (store.Decided, bool) {
	w.t.Helper()
	var d store.Decided
	err := w.db.Read(w.t.Context(), pg.AllTenants(), func(tx pgx.Tx) (err error) {
		d, err = store.Decision(w.t.Context(), tx, pg.AllTenants(), r.request)
		return err
	})
	if errors.Is(err, store.ErrNone) {
		return d, false
	}
	require.NoError(w.t, err)
	return d, true
}

func (w *world) copyState(r *run) (state, reason string) {
	w.t.Helper()
	require.NoError(w.t, w.db.WorkerPool().QueryRow(w.t.Context(), "select state, reason from quarantine_copy where id = $1", r.request).Scan(&state, &reason))
	return state, reason
}

// said lists the events about a request, in order.
func (w *world) said(r *run) []event.Envelope {
	w.t.Helper()
	rows, err := w.db.WorkerPool().Query(w.t.Context(), "select body from outbox order by seq")
	require.NoError(w.t, err)
	bodies, err := pgx.CollectRows(rows, pgx.RowTo[[]byte])
	require.NoError(w.t, err)
	var out []event.Envelope
	for _, body := range bodies {
		e, err := event.Decode(body)
		require.NoError(w.t, err)
		if e.Aggregate() == r.request {
			out = append(out, e)
		}
	}
	return out
}

func names(events []event.Envelope) []string {
	out := []string{}
	for _, e := range events {
		out = append(out, e.Type[strings.LastIndexByte(e.Type, '.')+1:])
	}
	return out
}

// verdict is the EvidenceDecided that was said last.
func (w *world) verdict(r *run) *evidencev1.EvidenceDecided {
	w.t.Helper()
	events := w.said(r)
	for i := len(events) - 1; i >= 0; i-- {
		m := new(evidencev1.EvidenceDecided)
		if events[i].Decode(m) == nil {
			return m
		}
	}
	w.t.Fatal("nothing was decided")
	return nil
}

// consistent checks what must hold for every bundle: gapless versions, one transition row per version, events of rising sequence.
func (w *world) consistent(r *run) {
	w.t.Helper()
	b := w.bundle(r)
	var rows, last int64
	require.NoError(w.t, w.db.WorkerPool().QueryRow(w.t.Context(), "select count(*), coalesce(max(version), 0) from bundle_transition where bundle_id = $1",
		r.request).Scan(&rows, &last))
	require.Equal(w.t, b.Version, rows)
	require.Equal(w.t, b.Version, last)
	var previous int64
	for _, e := range w.said(r) {
		require.Greater(w.t, e.Sequence, previous)
		previous = e.Sequence
		var known int
		require.NoError(w.t, w.db.WorkerPool().QueryRow(w.t.Context(),
			"select count(*) from bundle_transition where bundle_id = $1 and version = $2 and event_id = $3", r.request, e.Sequence, e.ID).Scan(&known))
		require.Equal(w.t, 1, known, "%s has its transition", e.Type)
	}
}
