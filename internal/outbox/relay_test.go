package outbox_test

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	eventv1 "github.com/pratique-io/pratique/gen/pratique/event/v1"
	"github.com/pratique-io/pratique/internal/broker"
	"github.com/pratique-io/pratique/internal/bus"
	"github.com/pratique-io/pratique/internal/bus/bustest"
	"github.com/pratique-io/pratique/internal/event"
	"github.com/pratique-io/pratique/internal/outbox"
	"github.com/pratique-io/pratique/internal/pg"
	"github.com/pratique-io/pratique/internal/pg/pgtest"
)

// The test events live in package pratique.event.v1, so the publishing service is called "event".
const service = "event"

func make1(t testing.TB, tenant uuid.UUID) event.Envelope {
	t.Helper()
	e, err := event.New(t.Context(), &eventv1.Check{Name: "malware", Verdict: "pass"},
		event.Head{Subject: uuid.New(), Tenant: tenant, Sequence: 1})
	require.NoError(t, err)
	return e
}

// write commits n events in one transaction and returns their ids.
func write(t testing.TB, db *pg.DB, n int) []string {
	t.Helper()
	var ids []string
	require.NoError(t, db.Work(t.Context(), func(tx pgx.Tx) error {
		var events []event.Envelope
		for range n {
			e := make1(t, uuid.Nil)
			events, ids = append(events, e), append(ids, e.ID)
		}
		return outbox.Append(t.Context(), tx, events...)
	}))
	return ids
}

// start runs a relay until the returned stop is called, or the test ends.
func start(t testing.TB, db *pg.DB, publisher outbox.Publisher) (stop func()) {
	t.Helper()
	relay, err := outbox.NewRelay(outbox.Config{DB: db, Publisher: publisher})
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = relay.Run(ctx)
	}()
	stop = sync.OnceFunc(func() { cancel(); <-done })
	t.Cleanup(stop)
	return stop
}

// stored lists the event ids in the lifecycle stream, in order.
func stored(t testing.TB, b *bustest.Broker) []string {
	t.Helper()
	nc, err := nats.Connect(b.URL(), nats.UserInfo("siem", b.Password()), nats.CustomInboxPrefix(broker.InboxPrefix("siem")))
	require.NoError(t, err)
	defer nc.Close()
	js, err := jetstream.New(nc)
	require.NoError(t, err)
	s, err := js.Stream(t.Context(), bus.Lifecycle)
	require.NoError(t, err)
	total := int(s.CachedInfo().State.Msgs)
	if total == 0 {
		return nil
	}
	_ = js.DeleteConsumer(t.Context(), bus.Lifecycle, "ext_siem")
	consumer, err := js.CreateOrUpdateConsumer(t.Context(), bus.Lifecycle, jetstream.ConsumerConfig{
		Name: "ext_siem", AckPolicy: jetstream.AckNonePolicy, InactiveThreshold: time.Minute})
	require.NoError(t, err)
	batch, err := consumer.Fetch(total, jetstream.FetchMaxWait(10*time.Second))
	require.NoError(t, err)
	var ids []string
	for msg := range batch.Messages() {
		e, err := event.Decode(msg.Data())
		require.NoError(t, err)
		require.Equal(t, e.ID, msg.Headers().Get(jetstream.MsgIDHeader))
		ids = append(ids, e.ID)
	}
	require.NoError(t, batch.Error())
	return ids
}

func eventually(t testing.TB, b *bustest.Broker, want []string, why string) {
	t.Helper()
	require.EventuallyWithT(t, func(c *assertT) {
		require.ElementsMatch(c, want, stored(t, b))
	}, 20*time.Second, 50*time.Millisecond, why)
}

func setUp(t testing.TB) (*pg.DB, *bustest.Broker) {
	t.Helper()
	return pgtest.New(t, service, outbox.Migrations), bustest.New(t, map[string][]bus.Subscription{service: nil})
}

func TestCommittedEventsAreInTheStreamOnceInOrder(t *testing.T) {
	t.Parallel()
	db, b := setUp(t)
	var want []string
	want = append(want, write(t, db, 1500)...) // more than a batch, before anybody relays
	stop := start(t, db, bus.NewPublisher(b.Connect(service)))
	want = append(want, write(t, db, 1)...) // a single one
	want = append(want, write(t, db, 3)...)
	require.NoError(t, ignoreRollback(db.Work(t.Context(), func(tx pgx.Tx) error {
		require.NoError(t, outbox.Append(t.Context(), tx, make1(t, uuid.Nil)))
		return errRollback
	})))
	want = append(want, write(t, db, 10)...)
	eventually(t, b, want, "every committed event is published")
	require.Equal(t, want, stored(t, b), "one writer's commits keep their order")
	stop()
	start(t, db, bus.NewPublisher(b.Connect(service)))
	more := write(t, db, 5)
	eventually(t, b, append(want, more...), "the next leader goes on where the last one stopped")
}

func TestABatchWithADuplicateIsPublishedSingly(t *testing.T) {
	t.Parallel()
	db, b := setUp(t)
	publisher := bus.NewPublisher(b.Connect(service))
	var events []event.Envelope
	var batch []outbox.Message
	var want []string
	for range 20 {
		e := make1(t, uuid.Nil)
		body, err := e.Encode()
		require.NoError(t, err)
		events, want = append(events, e), append(want, e.ID)
		batch = append(batch, outbox.Message{ID: e.ID, Subject: event.SubjectOf(e), Body: body})
	}
	_, err := publisher.PublishEach(t.Context(), bus.Lifecycle, batch[7:8]) // a zombie was here
	require.NoError(t, err)
	_, err = publisher.PublishAll(t.Context(), bus.Lifecycle, batch)
	require.ErrorIs(t, err, outbox.ErrDuplicate)
	require.Equal(t, want[7:8], stored(t, b), "a refused batch leaves nothing behind")
	require.NoError(t, db.Work(t.Context(), func(tx pgx.Tx) error { return outbox.Append(t.Context(), tx, events...) }))
	start(t, db, publisher)
	eventually(t, b, want, "the rest of the batch is published, the duplicate is not")
}

func TestAWipedBrokerIsRefilled(t *testing.T) {
	t.Parallel()
	db, b := setUp(t)
	start(t, db, bus.NewPublisher(b.Connect(service)))
	want := write(t, db, 1200)
	want = append(want, write(t, db, 2)...)
	eventually(t, b, want, "published before")
	b.Stop()
	b.Wipe()
	want = append(want, write(t, db, 3)...)
	b.Start()
	b.Apply()
	eventually(t, b, want, "everything is published again")
}

func TestARolledBackBrokerIsRefilledFromWhereItStands(t *testing.T) {
	t.Parallel()
	db, b := setUp(t)
	other := pgtest.New(t, service, outbox.Migrations) // a second producer, as all six share the stream
	stop := start(t, db, bus.NewPublisher(b.Connect(service)))
	early := write(t, db, 30)
	eventually(t, b, early, "published before the copy")
	b.Stop()
	copied := b.Save()
	b.Start()
	want := append(early, write(t, db, 50)...)
	eventually(t, b, want, "published after the copy")
	stop()
	b.Stop()
	b.Restore(copied)
	b.Start()
	// Somebody else fills the stream past the sequence our last event had: numbers alone look healthy.
	stopOther := start(t, other, bus.NewPublisher(b.Connect(service)))
	theirs := write(t, other, 200)
	eventually(t, b, append(append([]string{}, early...), theirs...), "the other producer came first")
	stopOther()
	start(t, db, bus.NewPublisher(b.Connect(service)))
	want = append(append(want, theirs...), write(t, db, 1)...)
	eventually(t, b, want, "what was lost is published again")
}

func TestBrokerAndRelayLoseNothingAcrossRestarts(t *testing.T) {
	t.Parallel()
	db, b := setUp(t)
	start(t, db, bus.NewPublisher(b.Connect(service)))
	var want []string
	for round := range 3 {
		want = append(want, write(t, db, 400)...)
		b.Stop()
		want = append(want, write(t, db, 7)...)
		b.Start()
		eventually(t, b, want, fmt.Sprintf("round %d", round))
	}
}

func TestRewindPublishesEverythingAgain(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t, service, outbox.Migrations)
	memory := &memory{}
	start(t, db, memory)
	ids := write(t, db, 10)
	require.Eventually(t, func() bool { return memory.count() == 10 }, 10*time.Second, 5*time.Millisecond, "published")
	require.NoError(t, outbox.Rewind(t.Context(), db))
	require.Eventually(t, func() bool { return memory.count() == 20 }, 10*time.Second, 5*time.Millisecond, "published again")
	require.Equal(t, append(append([]string{}, ids...), ids...), memory.ids())
}

func TestAfterALogicalRestoreTheOutboxIsPublishedAgain(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t, service, outbox.Migrations)
	first := &memory{}
	stop := start(t, db, first)
	ids := write(t, db, 10)
	require.Eventually(t, func() bool { return first.count() == 10 }, 10*time.Second, 5*time.Millisecond, "published")
	stop()
	// As restored from a server whose xids were far ahead of this one's.
	admin := pgtest.Admin(t, db)
	_, err := admin.Exec(t.Context(), `update outbox set xid = (xid::text::bigint + 1000000000)::text::xid8;
		update outbox_cursor set xid = (xid::text::bigint + 1000000000)::text::xid8, last_xid = xid, system_id = 4711`)
	require.NoError(t, err)
	second := &memory{}
	start(t, db, second)
	ids = append(ids, write(t, db, 1)...)
	require.Eventually(t, func() bool { return second.count() == 11 }, 10*time.Second, 5*time.Millisecond, "all again, and the new one")
	require.Equal(t, ids, second.ids())
}

func TestCallersMayAppendOnlyForTheirTenant(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t, service, outbox.Migrations)
	mine, theirs := uuid.New(), uuid.New()
	try := func(scope pg.Scope, tenant uuid.UUID) error {
		return db.Write(t.Context(), scope, func(tx pgx.Tx) error { return outbox.Append(t.Context(), tx, make1(t, tenant)) })
	}
	require.NoError(t, try(pg.OneTenant(mine), mine))
	require.NoError(t, try(pg.OneTenant(mine), uuid.Nil))
	require.NoError(t, try(pg.AllTenants(), theirs))
	require.True(t, pg.IsDenied(try(pg.OneTenant(mine), theirs)))
	err := db.Write(t.Context(), pg.OneTenant(mine), func(tx pgx.Tx) error {
		_, err := tx.Exec(t.Context(), "delete from outbox")
		return err
	})
	require.True(t, pg.IsDenied(err))
}

func TestRetentionsMustRise(t *testing.T) {
	t.Parallel()
	require.NoError(t, outbox.CheckKeep(outbox.StreamKeep, outbox.Keep, outbox.InboxKeep))
	require.Error(t, outbox.CheckKeep(31*24*time.Hour, outbox.Keep, outbox.InboxKeep))
	require.Error(t, outbox.CheckKeep(outbox.StreamKeep, outbox.Keep, outbox.Keep-1))
}
