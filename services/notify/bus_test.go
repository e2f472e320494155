package notify_test

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	intakev1 "github.com/pratique-io/pratique/gen/pratique/intake/v1"
	"github.com/pratique-io/pratique/internal/bus"
	"github.com/pratique-io/pratique/internal/bus/bustest"
	"github.com/pratique-io/pratique/internal/event"
	"github.com/pratique-io/pratique/internal/outbox"
	"github.com/pratique-io/pratique/internal/pg"
	"github.com/pratique-io/pratique/internal/pg/pgtest"
)

// wire is a room on a real broker, with intake's outbox on the other end.
type wire struct {
	*room
	broker *bustest.Broker
	intake *pg.DB
}

func newWire(t testing.TB, chaos bus.Chaos) *wire {
	t.Helper()
	r := newRoom(t)
	subs := r.service.Subscriptions()
	w := &wire{room: r, intake: pgtest.New(t, "intake", outbox.Migrations),
		broker: bustest.New(t, map[string][]bus.Subscription{"notify": subs, "intake": nil})}
	runtime, err := bus.NewRuntime(bus.RuntimeConfig{Service: "notify", Conn: w.broker.Connect("notify"), DB: r.db, Subscriptions: subs, Chaos: chaos})
	require.NoError(t, err)
	relay, err := outbox.NewRelay(outbox.Config{DB: w.intake, Publisher: bus.NewPublisher(w.broker.Connect("intake"))})
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	var all sync.WaitGroup
	all.Go(func() { _ = relay.Run(ctx) })
	all.Go(func() { _ = runtime.Run(ctx) })
	t.Cleanup(func() { cancel(); all.Wait() })
	require.Eventually(t, func() bool { return runtime.Ready() == nil }, 20*time.Second, 10*time.Millisecond, "bound")
	return w
}

func (w *wire) publish(events ...event.Envelope) {
	w.t.Helper()
	require.NoError(w.t, w.intake.Work(w.t.Context(), func(tx pgx.Tx) error { return outbox.Append(w.t.Context(), tx, events...) }))
}

func (w *wire) eventually(n int, query, why string, args ...any) {
	w.t.Helper()
	require.Eventually(w.t, func() bool { return w.count(query, args...) >= n }, 30*time.Second, 20*time.Millisecond, why)
	require.Equal(w.t, n, w.count(query, args...), why)
}

// handled counts the events the consumer has claimed.
const handled = `select count(*) from inbox where consumer = 'notify_notices'`

func rejected(t testing.TB, tenant, asker uuid.UUID) event.Envelope {
	id := newID()
	e := envelope(t, &intakev1.RequestRejected{ImportId: id.String(), TenantId: tenant.String(), RequestedBy: asker.String()}, id, tenant, 2)
	e.RequestID = id.String()
	return e
}

func TestOverABrokerThatRepeatsAndReordersEachIsToldOnce(t *testing.T) {
	t.Parallel()
	w := newWire(t, bus.Chaos{Seed: 7, Duplicate: 4, Reorder: true})
	tenant, asker, owner := newID(), newID(), newID()
	var events []event.Envelope
	for range 40 { // the people come after the news about them
		events = append(events, rejected(t, tenant, asker))
	}
	w.publish(events...)
	w.publish(w.personEvents(owner, tenant, "tenant_admin")...)
	w.eventually(1, `select count(*) from directory_binding`, "the owner is known")
	w.publish(w.personEvents(asker, tenant, "tenant_member")...)
	w.eventually(80, allReceipts, "all told")
	require.Zero(t, w.count(toldTwice))
	require.Zero(t, w.count(gaps))
	require.Zero(t, w.count(`select count(*) from dead_letter`))
}

func TestAWipedBrokerLosesNothingAndTellsNobodyTwice(t *testing.T) {
	t.Parallel()
	w := newWire(t, bus.Chaos{})
	tenant := newID()
	asker := w.person(tenant, "tenant_admin")
	w.publish(rejected(t, tenant, asker), rejected(t, tenant, asker))
	w.eventually(2, allReceipts, "told before the wipe")
	w.broker.Stop()
	w.publish(rejected(t, tenant, asker))
	w.broker.Wipe()
	w.broker.Start()
	// The worst order: the streams are there and filled again before anybody makes the consumer.
	streams, err := bus.NewTopology(1, nil)
	require.NoError(t, err)
	require.NoError(t, streams.Apply(t.Context(), w.broker.Connect("admin")))
	looking := bus.NewPublisher(w.broker.Connect("admin"))
	require.Eventually(t, func() bool {
		state, err := looking.State(t.Context(), bus.Lifecycle)
		return err == nil && state.LastSeq >= 3
	}, 20*time.Second, 10*time.Millisecond, "the relay fills the stream again")
	w.broker.Apply()
	w.publish(rejected(t, tenant, asker))
	w.eventually(4, allReceipts, "what happened meanwhile is told, what was told before is not told again")
	require.Equal(t, 4, w.count(allNotifications))
	require.Zero(t, w.count(toldTwice))
}

func TestAFailingStatementSparesTheOtherEvents(t *testing.T) {
	t.Parallel()
	w := newWire(t, bus.Chaos{})
	tenant := newID()
	asker := w.person(tenant, "tenant_admin")
	_, err := w.admin.Exec(t.Context(), `create function refuse() returns trigger language plpgsql as $$ begin raise 'disk on fire'; end $$;
		create trigger refuse before insert on receipt for each row when (new.notification_type = 'external_image_import_withdrawn') execute function refuse()`)
	require.NoError(t, err)
	id := newID()
	bad := envelope(t, &intakev1.RequestWithdrawn{ImportId: id.String(), TenantId: tenant.String(), RequestedBy: asker.String()}, id, tenant, 2)
	events := []event.Envelope{bad}
	for range 20 {
		events = append(events, rejected(t, tenant, asker))
	}
	w.publish(events...)
	w.eventually(20, handled, "the others are told")
	w.eventually(1, `select count(*) from inbox_attempt`, "only the bad one is counted against")
	_, err = w.admin.Exec(t.Context(), `drop trigger refuse on receipt`)
	require.NoError(t, err)
	w.eventually(21, allReceipts, "and told when it can be")
	require.Zero(t, w.count(`select count(*) from dead_letter`))
}
