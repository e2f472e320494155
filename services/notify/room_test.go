package notify_test

import (
	"context"
	"encoding/json"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"

	eventv1 "github.com/pratique-io/pratique/gen/pratique/event/v1"
	intakev1 "github.com/pratique-io/pratique/gen/pratique/intake/v1"
	releasev1 "github.com/pratique-io/pratique/gen/pratique/release/v1"
	"github.com/pratique-io/pratique/internal/bus"
	"github.com/pratique-io/pratique/internal/event"
	"github.com/pratique-io/pratique/internal/pg"
	"github.com/pratique-io/pratique/internal/pg/pgtest"
	"github.com/pratique-io/pratique/services/notify"
)

// room is one notify service on its own database, with a clock of its own.
type room struct {
	t       testing.TB
	db      *pg.DB
	admin   *pgx.Conn
	service *notify.Service
	tell    bus.Subscription
	learn   bus.Subscription

	mu     sync.Mutex
	offset time.Duration
	seq    int64 // of directory events
}

func newRoom(t testing.TB) *room {
	t.Helper()
	r := &room{t: t, db: pgtest.New(t, "notify", notify.Migrations()...)}
	r.admin = pgtest.Admin(t, r.db)
	var err error
	r.service, err = notify.New(notify.Default(), notify.Deps{DB: r.db, Now: r.now})
	require.NoError(t, err)
	for _, sub := range r.service.Subscriptions() {
		switch sub.Purpose {
		case "notices":
			r.tell = sub
		case "directory":
			r.learn = sub
		}
	}
	return r
}

func (r *room) now() time.Time {
	r.mu.Lock()
	defer r.mu.Unlock()
	return time.Now().Add(r.offset)
}

func (r *room) sleep(d time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.offset += d
}

func (r *room) count(query string, args ...any) int {
	r.t.Helper()
	var n int
	require.NoError(r.t, r.admin.QueryRow(r.t.Context(), query, args...).Scan(&n))
	return n
}

// person makes somebody known with roles; tenant is Nil for system roles.
func (r *room) person(tenant uuid.UUID, roles ...string) uuid.UUID {
	r.t.Helper()
	id := newID()
	for _, e := range r.personEvents(id, tenant, roles...) {
		require.NoError(r.t, r.db.Work(r.t.Context(), func(tx pgx.Tx) error { return r.learn.Handle(r.t.Context(), tx, e) }))
	}
	return id
}

func (r *room) personEvents(id, tenant uuid.UUID, roles ...string) []event.Envelope {
	subject := "https://issuer|" + id.String()
	events := []event.Envelope{envelope(r.t, &intakev1.PersonChanged{PersonId: id.String(), Subject: subject, Name: "n"}, id, uuid.Nil, 1)}
	for _, role := range roles {
		binding := newID()
		m := &intakev1.RoleBindingChanged{BindingId: binding.String(), Subject: subject, Role: role}
		if tenant != uuid.Nil {
			m.TenantId = tenant.String()
		}
		events = append(events, envelope(r.t, m, binding, uuid.Nil, 1))
	}
	return events
}

// cast is one tenant with its people, and those of the system.
type cast struct{ tenant, reviewer, second, sysadmin, owner, asker uuid.UUID }

func (r *room) cast() cast {
	c := cast{tenant: newID()}
	c.reviewer, c.second = r.person(uuid.Nil, "security_reviewer"), r.person(uuid.Nil, "security_reviewer")
	c.sysadmin, c.owner = r.person(uuid.Nil, "system_admin"), r.person(c.tenant, "tenant_admin")
	c.asker = r.person(c.tenant, "tenant_member")
	return c
}

// handle gives the batch to the handler in one transaction, as the bus does, and rolls back when an outcome says so.
func (r *room) handle(batch ...event.Envelope) []error {
	r.t.Helper()
	outcomes, err := r.attempt(batch)
	require.NoError(r.t, err)
	return outcomes
}

var errRollback = errors.New("roll back")

func (r *room) attempt(batch []event.Envelope) (outcomes []error, err error) {
	err = r.db.Work(context.Background(), func(tx pgx.Tx) error {
		outcomes = r.tell.HandleBatch(context.Background(), tx, batch)
		if len(outcomes) != len(batch) {
			return errors.New("the handler does not know which event failed")
		}
		for _, o := range outcomes {
			if o != nil && kindOf(o) != "discard" {
				return errRollback
			}
		}
		return nil
	})
	if errors.Is(err, errRollback) {
		err = nil
	}
	return outcomes, err
}

// kindOf tells outcomes apart by what they print, which is all that is public of them.
func kindOf(err error) string {
	var o *bus.Outcome
	switch {
	case err == nil:
		return "told"
	case !errors.As(err, &o):
		return "retry"
	}
	switch o.Error() {
	case "nobody_to_tell", "before_notify":
		return "discard"
	case "requester_unknown", "nobody_known":
		return "early"
	}
	return "poison"
}

func (r *room) told(batch ...event.Envelope) {
	r.t.Helper()
	for i, o := range r.handle(batch...) {
		require.NoError(r.t, o, batch[i].Type)
	}
}

func newID() uuid.UUID {
	id, err := uuid.NewV7()
	if err != nil {
		panic(err)
	}
	return id
}

func envelope(t testing.TB, msg proto.Message, subject, tenant uuid.UUID, sequence int64) event.Envelope {
	t.Helper()
	e, err := event.New(t.Context(), msg, event.Head{Subject: subject, Tenant: tenant, Sequence: sequence, Actor: "service:test"})
	require.NoError(t, err)
	return e
}

// again is the same fact under another event id.
func again(e event.Envelope) event.Envelope {
	e.ID = newID().String()
	return e
}

// bodies are what notify published of one type.
func published[M proto.Message](r *room, make func() M) []M {
	r.t.Helper()
	rows, err := r.admin.Query(r.t.Context(), `select body from outbox order by xid, seq`)
	require.NoError(r.t, err)
	raw, err := pgx.CollectRows(rows, pgx.RowTo[[]byte])
	require.NoError(r.t, err)
	var out []M
	for _, body := range raw {
		var e event.Envelope
		require.NoError(r.t, json.Unmarshal(body, &e))
		if m := make(); e.Type == string(m.ProtoReflect().Descriptor().FullName()) {
			require.NoError(r.t, e.Decode(m))
			out = append(out, m)
		}
	}
	return out
}

// life is every kind of news about one quarantine request, its release, one registration and one scan, with how many people of the
// cast hear of each.
func (c cast) life(t testing.TB) (events []event.Envelope, told []int) {
	tenant, asker := c.tenant.String(), c.asker.String()
	request, epr, scan := newID(), newID(), newID()
	id := request.String()
	add := func(n int, subject uuid.UUID, sequence int64, msg proto.Message) {
		e := envelope(t, msg, subject, c.tenant, sequence)
		if subject != epr {
			e.RequestID = subject.String()
		}
		events, told = append(events, e), append(told, n)
	}
	const ref = "library/nginx:1.25"
	add(2, epr, 1, &intakev1.EprRegistrationRequested{RegistrationId: epr.String(), TenantId: tenant, RequestedBy: asker, ProductName: "Proxy"})
	add(2, epr, 2, &intakev1.EprRegistrationApproved{RegistrationId: epr.String(), TenantId: tenant, RequestedBy: asker, ProductName: "Proxy"})
	add(2, request, 1, &intakev1.RequestSubmitted{ImportId: id, TenantId: tenant, RequestType: "quarantine", RequestedBy: asker, SourceImageRef: ref})
	add(2, request, 2, &intakev1.RequestApproved{ImportId: id, TenantId: tenant, RequestType: "quarantine", RequestedBy: asker, SourceImageRef: ref})
	add(2, request, 6, &intakev1.QuarantineConcluded{ImportId: id, TenantId: tenant, RequestType: "quarantine", RequestedBy: asker, Status: "success"})
	add(2, request, 3, &releasev1.ReleaseReady{ImportId: id, TenantId: tenant, RequestedBy: asker, SourceImageRef: ref})
	add(2, request, 4, &releasev1.ReleaseApproved{ImportId: id, TenantId: tenant, RequestedBy: asker, SourceImageRef: ref})
	add(2, request, 5, &releasev1.ImageReleased{ImportId: id, TenantId: tenant, RequestedBy: asker, SourceImageRef: ref})
	add(0, scan, 1, &intakev1.RequestSubmitted{ImportId: scan.String(), TenantId: tenant, RequestType: "scan", RequestedBy: asker})
	add(3, scan, 4, &intakev1.QuarantineConcluded{ImportId: scan.String(), TenantId: tenant, RequestType: "scan", RequestedBy: asker, Status: "failed",
		Failure: &eventv1.Failure{FailureClass: "runtime", FailureCode: "scanner_error"}})
	return events, told
}
