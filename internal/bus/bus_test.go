package bus_test

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"

	eventv1 "github.com/pratique-io/pratique/gen/pratique/event/v1"
	"github.com/pratique-io/pratique/internal/bus"
	"github.com/pratique-io/pratique/internal/bus/bustest"
	"github.com/pratique-io/pratique/internal/event"
	"github.com/pratique-io/pratique/internal/outbox"
	"github.com/pratique-io/pratique/internal/pg"
	"github.com/pratique-io/pratique/internal/pg/pgtest"
)

// One service both publishes and consumes; its name is that of the test events' package.
const service = "event"

const (
	check   = "pratique.event.v1.Check"
	failure = "pratique.event.v1.Failure"
)

// bench is one service with everything running.
type bench struct {
	t      testing.TB
	db     *pg.DB
	broker *bustest.Broker
	conn   *bus.Conn
	seen   *seen
}

// seen counts the effects that committed, in the database, so that what was rolled back does not count.
type seen struct{ admin *pgx.Conn }

const effectSQL = `insert into effect (event_id, name) values ($1, $2)`

func effect(ctx context.Context, tx pgx.Tx, e event.Envelope) error {
	var c eventv1.Check
	name := e.Type
	if e.Type == check {
		if err := e.Decode(&c); err != nil {
			return bus.Poison(err)
		}
		name = c.GetName()
	}
	_, err := tx.Exec(ctx, effectSQL, e.ID, name)
	return err
}

func (b *bench) count(query string, args ...any) int {
	b.t.Helper()
	var n int
	require.NoError(b.t, b.seen.admin.QueryRow(b.t.Context(), query, args...).Scan(&n))
	return n
}

func (b *bench) effects() int { return b.count(`select count(*) from effect`) }

func (b *bench) once(n int, why string) {
	b.t.Helper()
	require.Eventually(b.t, func() bool { return b.effects() >= n }, 30*time.Second, 20*time.Millisecond, why)
	require.Equal(b.t, n, b.effects())
	require.Equal(b.t, n, b.count(`select count(distinct event_id) from effect`))
}

// set up with one subscription; edit may change the runtime's configuration.
func set(t testing.TB, sub bus.Subscription, edit func(*bus.RuntimeConfig)) *bench {
	t.Helper()
	db := pgtest.New(t, service, outbox.Migrations, bus.Migrations)
	admin := pgtest.Admin(t, db)
	_, err := admin.Exec(t.Context(), `create table effect (event_id uuid, name text);
		grant select, insert on effect to event_worker`)
	require.NoError(t, err)
	subs := []bus.Subscription{sub}
	b := bustest.New(t, map[string][]bus.Subscription{service: subs})
	cfg := bus.RuntimeConfig{Service: service, Conn: b.Connect(service), DB: db, Subscriptions: subs}
	if edit != nil {
		edit(&cfg)
	}
	relay, err := outbox.NewRelay(outbox.Config{DB: db, Publisher: bus.NewPublisher(b.Connect(service))})
	require.NoError(t, err)
	runtime, err := bus.NewRuntime(cfg)
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	var all sync.WaitGroup
	all.Go(func() { _ = relay.Run(ctx) })
	all.Go(func() { _ = runtime.Run(ctx) })
	t.Cleanup(func() { cancel(); all.Wait() })
	require.Eventually(t, func() bool { return runtime.Ready() == nil }, 10*time.Second, 10*time.Millisecond, "bound")
	return &bench{t: t, db: db, broker: b, conn: cfg.Conn, seen: &seen{admin: admin}}
}

func message(t testing.TB, msg proto.Message) event.Envelope {
	t.Helper()
	e, err := event.New(t.Context(), msg, event.Head{Subject: uuid.New(), Sequence: 1})
	require.NoError(t, err)
	return e
}

func checks(t testing.TB, names ...string) []event.Envelope {
	var out []event.Envelope
	for _, name := range names {
		out = append(out, message(t, &eventv1.Check{Name: name}))
	}
	return out
}

func many(n int) []string {
	out := make([]string, n)
	for i := range out {
		out[i] = fmt.Sprint("check ", i)
	}
	return out
}

func (b *bench) write(events ...event.Envelope) {
	b.t.Helper()
	require.NoError(b.t, b.db.Work(b.t.Context(), func(tx pgx.Tx) error {
		return outbox.Append(b.t.Context(), tx, events...)
	}))
}

func plain(handle func(ctx context.Context, tx pgx.Tx, e event.Envelope) error) bus.Subscription {
	return bus.Subscription{Purpose: "test", Types: []string{check, failure}, Handle: handle}
}

func TestEveryEventTakesEffectOnce(t *testing.T) {
	t.Parallel()
	b := set(t, plain(effect), nil)
	b.write(checks(t, many(700)...)...)
	b.write(message(t, &eventv1.Failure{Message: "other type"}))
	b.write(message(t, &eventv1.Report{Ref: "not subscribed to"}))
	b.once(701, "all handled")
	require.Equal(t, 701, b.count(`select count(*) from inbox`))
	require.Zero(t, b.count(`select count(*) from dead_letter`))
}

func TestFiveDuplicatesInAnyOrderTakeEffectOnce(t *testing.T) {
	t.Parallel()
	chaos, err := bus.ParseChaos("42,5,true")
	require.NoError(t, err)
	b := set(t, plain(effect), func(cfg *bus.RuntimeConfig) { cfg.Chaos = chaos })
	for range 5 {
		b.write(checks(t, many(60)...)...)
	}
	b.once(300, "all handled")
	b.write(checks(t, "last")...)
	b.once(301, "what was held back came out and had no effect")
}

func TestABatchHandlerSettlesEachEventAndABatchSurvivesItsPoison(t *testing.T) {
	t.Parallel()
	sub := bus.Subscription{Purpose: "test", Types: []string{check}}
	sub.HandleBatch = func(ctx context.Context, tx pgx.Tx, batch []event.Envelope) []error {
		out := make([]error, len(batch))
		for i, e := range batch {
			var c eventv1.Check
			if err := e.Decode(&c); err != nil {
				out[i] = err
				continue
			}
			switch c.GetName() {
			case "panic":
				panic("at the disco")
			case "poison":
				out[i] = bus.Poison(fmt.Errorf("no such check"))
			case "discard":
				out[i] = bus.Discard("stale")
			default:
				out[i] = effect(ctx, tx, e)
			}
		}
		return out
	}
	b := set(t, sub, nil)
	names := many(100)
	names[13], names[50], names[77], names[78] = "panic", "poison", "discard", "panic"
	b.write(checks(t, names...)...)
	b.once(96, "the others are handled")
	require.Eventually(t, func() bool { return b.count(`select count(*) from dead_letter`) == 3 }, 10*time.Second, 10*time.Millisecond, "dead")
	require.Equal(t, 100, b.count(`select count(*) from inbox`), "everything is claimed")
	letters, err := bus.DeadLetters(t.Context(), b.db, "event_test", 10)
	require.NoError(t, err)
	for _, l := range letters {
		require.NotNil(t, l.EventID)
		_, err := event.Decode(l.Body)
		require.NoError(t, err)
		require.Contains(t, []string{"no such check", "handler panicked: at the disco"}, l.Error)
	}
}

func TestOneBrokenStatementDoesNotTakeItsBatchAlong(t *testing.T) {
	t.Parallel()
	b := set(t, plain(func(ctx context.Context, tx pgx.Tx, e event.Envelope) error {
		var c eventv1.Check
		if err := e.Decode(&c); err != nil {
			return err
		}
		switch c.GetName() {
		case "panic":
			panic("at the disco")
		case "sql":
			_, err := tx.Exec(ctx, `select 1/0`)
			return bus.Poison(err)
		}
		return effect(ctx, tx, e)
	}), nil)
	names := many(50)
	names[3], names[30], names[49] = "sql", "panic", "sql"
	b.write(checks(t, names...)...)
	b.once(47, "the others are handled")
	require.Eventually(t, func() bool { return b.count(`select count(*) from dead_letter`) == 3 }, 10*time.Second, 10*time.Millisecond, "dead")
}

// A set-based handler has one statement for all: when that fails, nobody knows whose fault it is, and it says so of each event.
func TestASpoiledBatchIsSplitUntilTheCulpritStandsAlone(t *testing.T) {
	t.Parallel()
	sub := bus.Subscription{Purpose: "test", Types: []string{check}}
	sub.HandleBatch = func(ctx context.Context, tx pgx.Tx, batch []event.Envelope) []error {
		out := make([]error, len(batch))
		divisor := 1
		for _, e := range batch {
			var c eventv1.Check
			if err := e.Decode(&c); err != nil || c.GetName() == "sql" {
				divisor = 0
			}
		}
		if _, err := tx.Exec(ctx, `select 1/$1::int`, divisor); err != nil {
			for i := range out {
				out[i] = bus.Poison(err)
			}
			return out
		}
		for i, e := range batch {
			out[i] = effect(ctx, tx, e)
		}
		return out
	}
	b := set(t, sub, nil)
	names := many(50)
	names[17] = "sql"
	b.write(checks(t, names...)...)
	b.once(49, "the others are handled")
	require.Eventually(t, func() bool { return b.count(`select count(*) from dead_letter`) == 1 }, 10*time.Second, 10*time.Millisecond, "only the culprit is dead")
}

func TestAnEarlyEventWaitsForItsPredecessor(t *testing.T) {
	t.Parallel()
	b := set(t, plain(func(ctx context.Context, tx pgx.Tx, e event.Envelope) error {
		if e.Type == failure {
			var n int
			if err := tx.QueryRow(ctx, `select count(*) from effect where name = 'first'`).Scan(&n); err != nil {
				return err
			}
			if n == 0 {
				return bus.Early("the check is not there")
			}
		}
		return effect(ctx, tx, e)
	}), nil)
	b.write(message(t, &eventv1.Failure{}))
	require.Eventually(t, func() bool {
		return b.count(`select count(*) from inbox_attempt where early_since_at is not null and attempt = 0`) == 1
	}, 10*time.Second, 10*time.Millisecond, "noted as early, not counted")
	require.Zero(t, b.effects())
	b.write(checks(t, "first")...)
	b.once(2, "handled once its predecessor is there")
	require.Zero(t, b.count(`select count(*) from inbox_attempt`), "forgiven")
}

func TestAnEventThatIsEarlyForTenMinutesIsADeadLetterAndCanBeRequeued(t *testing.T) {
	t.Parallel()
	var clock clock
	b := set(t, plain(func(ctx context.Context, tx pgx.Tx, e event.Envelope) error {
		var n int
		if err := tx.QueryRow(ctx, `select count(*) from effect where name = 'operator'`).Scan(&n); err != nil {
			return err
		}
		if n == 0 {
			return bus.Early("nobody repaired it yet")
		}
		return effect(ctx, tx, e)
	}), func(cfg *bus.RuntimeConfig) { cfg.Now = clock.now })
	b.write(checks(t, "early")...)
	require.Eventually(t, func() bool { return b.count(`select count(*) from inbox_attempt`) == 1 }, 10*time.Second, 10*time.Millisecond, "early")
	clock.advance(11 * time.Minute)
	dead := func() bool { return b.count(`select count(*) from dead_letter where state = 'dead'`) == 1 }
	require.Eventually(t, dead, 20*time.Second, 10*time.Millisecond, "dead after its budget")

	n, err := bus.Requeue(t.Context(), b.db, "event_test")
	require.NoError(t, err)
	require.EqualValues(t, 1, n)
	require.Eventually(t, func() bool {
		return b.count(`select count(*) from dead_letter where state = 'dead' and attempt = 1`) == 1
	},
		10*time.Second, 10*time.Millisecond, "tried, and dead again")
	_, err = b.seen.admin.Exec(t.Context(), effectSQL, uuid.New(), "operator")
	require.NoError(t, err)
	n, err = bus.Requeue(t.Context(), b.db, "event_test")
	require.NoError(t, err)
	require.EqualValues(t, 1, n)
	b.once(2, "handled after the repair")
	require.Eventually(t, func() bool { return b.count(`select count(*) from dead_letter where state = 'resolved'`) == 1 },
		10*time.Second, 10*time.Millisecond, "resolved")
}

func TestFailuresAreCountedAndTheTenthIsTheLast(t *testing.T) {
	t.Parallel()
	b := set(t, plain(func(ctx context.Context, tx pgx.Tx, e event.Envelope) error {
		return fmt.Errorf("the weather")
	}), nil)
	b.write(checks(t, "unlucky")...)
	require.Eventually(t, func() bool { return b.count(`select count(*) from inbox_attempt where attempt >= 2`) == 1 },
		10*time.Second, 5*time.Millisecond, "tried again and counted")
	_, err := b.seen.admin.Exec(t.Context(), `update inbox_attempt set attempt = 9`)
	require.NoError(t, err)
	require.Eventually(t, func() bool {
		return b.count(`select count(*) from dead_letter where error = 'the weather' and attempt = 10`) == 1
	},
		30*time.Second, 10*time.Millisecond, "the tenth")
	require.Zero(t, b.count(`select count(*) from inbox_attempt`))
}

type clock struct {
	mu    sync.Mutex
	ahead time.Duration
}

func (c *clock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return time.Now().Add(c.ahead)
}

func (c *clock) advance(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.ahead += d
}
