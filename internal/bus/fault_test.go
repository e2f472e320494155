package bus_test

import (
	"bytes"
	"context"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/nats-io/nats.go"
	"github.com/stretchr/testify/require"

	eventv1 "github.com/pratique-io/pratique/gen/pratique/event/v1"
	"github.com/pratique-io/pratique/internal/broker"
	"github.com/pratique-io/pratique/internal/bus"
	"github.com/pratique-io/pratique/internal/event"
)

func TestABrokerWipedWhileRunningLosesNothingAndRepeatsNothing(t *testing.T) {
	t.Parallel()
	b := set(t, plain(effect), nil)
	b.write(checks(t, many(300)...)...)
	b.once(300, "before")
	b.broker.Stop()
	b.broker.Wipe()
	b.write(checks(t, many(20)...)...)
	b.broker.Start()
	b.broker.Apply()
	b.write(checks(t, many(5)...)...)
	b.once(325, "after: refilled, and each claimed once")
}

func TestABrokerRolledBackLosesNothingAndRepeatsNothing(t *testing.T) {
	t.Parallel()
	b := set(t, plain(effect), nil)
	b.write(checks(t, many(50)...)...)
	b.once(50, "before the copy")
	b.broker.Stop()
	copied := b.broker.Save()
	b.broker.Start()
	b.write(checks(t, many(60)...)...)
	b.once(110, "after the copy")
	b.broker.Stop()
	b.broker.Restore(copied)
	b.broker.Start()
	b.write(checks(t, many(7)...)...)
	b.once(117, "after the roll-back")
}

func TestAStreamThatLostItsTailUnderAConsumerThatDidNotLosesNothing(t *testing.T) {
	t.Parallel()
	b := set(t, plain(effect), nil)
	b.write(checks(t, many(50)...)...)
	b.once(50, "before the copy")
	b.broker.Stop()
	copied := b.broker.Save()
	b.broker.Start()
	b.write(checks(t, many(60)...)...)
	b.once(110, "after the copy")
	b.broker.Stop()
	b.broker.RestoreMessages(copied)
	b.broker.Start()
	b.write(checks(t, many(7)...)...)
	b.once(117, "after the roll-back")
}

func TestAMissingConsumerIsWaitedFor(t *testing.T) {
	t.Parallel()
	b := set(t, plain(effect), nil)
	b.broker.Stop()
	b.broker.Wipe()
	b.broker.Start()
	b.write(checks(t, many(3)...)...)
	require.Eventually(t, func() bool { return b.conn.Ready() == nil }, 10*time.Second, 10*time.Millisecond, "connected, to nothing")
	require.Zero(t, b.effects())
	b.broker.Apply() // what the topology's owner does some time later
	b.once(3, "handled once the consumer exists")
}

// publish writes raw bytes past the relay, as a service that was taken over could.
func publish(t testing.TB, b *bench, subject string, body []byte) error {
	t.Helper()
	nc, err := nats.Connect(b.broker.URL(), nats.UserInfo(service, b.broker.Password()), nats.CustomInboxPrefix(broker.InboxPrefix(service)))
	require.NoError(t, err)
	defer nc.Close()
	_, err = nc.Request(subject, body, 5*time.Second)
	return err
}

func TestForgedAndBrokenMessagesAreRefusedAndKept(t *testing.T) {
	t.Parallel()
	b := set(t, plain(effect), nil)
	forged, err := message(t, &eventv1.Report{}).Encode() // a true envelope on somebody else's subject
	require.NoError(t, err)
	victim := checks(t, "victim")[0]
	stolen := victim
	stolen.TenantID = uuid.NewString()
	stolenBody, err := stolen.Encode()
	require.NoError(t, err)
	const subject = "pratique.event.v1.check._"
	bodies := [][]byte{forged, stolenBody, []byte("{}"), nil, bytes.Repeat([]byte("x"), event.MaxBytes), []byte("\x00\xff")}
	for _, body := range bodies {
		require.NoError(t, publish(t, b, subject, body))
	}
	b.write(victim, checks(t, "honest")[0])
	b.once(2, "the honest ones are handled, also the one whose id was stolen")
	require.Eventually(t, func() bool { return b.count(`select count(*) from dead_letter where event_id is null`) == len(bodies) },
		10*time.Second, 10*time.Millisecond, "each is kept with its body")
	n, err := bus.Requeue(t.Context(), b.db, "")
	require.NoError(t, err)
	require.Zero(t, n, "and none can be requeued")
	require.Equal(t, event.MaxBytes, b.count(`select max(length(body)) from dead_letter`))
}

func TestAnEventOlderThanTheInboxIsDiscarded(t *testing.T) {
	t.Parallel()
	b := set(t, plain(effect), nil)
	old := checks(t, "old")[0]
	old.ID = "018b0000-0000-7000-8000-000000000001" // autumn 2023
	b.write(old)
	b.write(checks(t, "young")...)
	b.once(1, "only the young one")
	require.Eventually(t, func() bool { return b.count(`select count(*) from inbox`) == 2 }, 10*time.Second, 10*time.Millisecond, "both claimed")
}

func TestAConsumerThatStartsAtNewIgnoresWhatARefillBrings(t *testing.T) {
	t.Parallel()
	sub := plain(effect)
	sub.New = true
	b := set(t, sub, nil)
	before := checks(t, "before")[0]
	id, err := uuid.NewV7()
	require.NoError(t, err)
	stamp := time.Now().Add(-time.Hour).UnixMilli()
	for i := range 6 {
		id[i] = byte(stamp >> (8 * (5 - i)))
	}
	before.ID = id.String() // published an hour before the consumer existed, brought back by a refill
	b.write(before)
	b.write(checks(t, "after")...)
	b.once(1, "only what came after the consumer began")
}

func TestNewerIsMonotone(t *testing.T) {
	t.Parallel()
	b := set(t, plain(effect), nil)
	aggregate := uuid.New()
	for _, step := range []struct {
		sequence int64
		newer    bool
	}{{1, true}, {1, false}, {5, true}, {3, false}, {6, true}} {
		require.NoError(t, b.db.Work(t.Context(), func(tx pgx.Tx) error {
			got, err := bus.Newer(t.Context(), tx, "projection", aggregate, step.sequence)
			require.Equal(t, step.newer, got, "sequence %d", step.sequence)
			return err
		}))
	}
}

func TestTheDatabaseGoingAwayIsNobodysFault(t *testing.T) {
	t.Parallel()
	b := set(t, plain(func(ctx context.Context, tx pgx.Tx, e event.Envelope) error {
		var c eventv1.Check
		if err := e.Decode(&c); err != nil {
			return err
		}
		if c.GetName() == "cut" && !seenBefore(ctx, e) {
			_, _ = tx.Exec(ctx, `select pg_terminate_backend(pg_backend_pid())`)
		}
		return effect(ctx, tx, e)
	}), nil)
	b.write(checks(t, "a", "cut", "b")...)
	b.once(3, "handled when it is back")
	require.Zero(t, b.count(`select count(*) from dead_letter`))
}

var cut = make(chan struct{}, 1)

// seenBefore is true from the second call on.
func seenBefore(context.Context, event.Envelope) bool {
	select {
	case cut <- struct{}{}:
		return false
	default:
		return true
	}
}
