package lease_test

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/pratique-io/pratique/internal/lease"
	"github.com/pratique-io/pratique/internal/outbox"
	"github.com/pratique-io/pratique/internal/pg"
	"github.com/pratique-io/pratique/internal/pg/pgtest"
)

const long = time.Hour // an interval that no test lives to see

func run(t *testing.T, db *pg.DB, loops ...lease.Loop) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	var done sync.WaitGroup
	done.Go(func() { _ = lease.Run(ctx, db, loops...) })
	stop = sync.OnceFunc(func() { cancel(); done.Wait() })
	t.Cleanup(stop)
	return stop
}

func reaches(t *testing.T, n *atomic.Int64, want int64, why string) {
	t.Helper()
	require.Eventually(t, func() bool { return n.Load() >= want }, 10*time.Second, time.Millisecond, why)
}

func TestALoopRunsAgainAtOnceWhileItFindsWork(t *testing.T) {
	t.Parallel()
	var turns atomic.Int64
	run(t, nil, lease.Loop{Name: "work", Every: long, Run: func(context.Context) (bool, error) { return turns.Add(1) < 100, nil }})
	reaches(t, &turns, 100, "no interval between turns that worked")
}

func TestALoopRunsWhenItsIntervalPasses(t *testing.T) {
	t.Parallel()
	var turns atomic.Int64
	run(t, nil, lease.Loop{Name: "tick", Every: time.Millisecond, Run: func(context.Context) (bool, error) { turns.Add(1); return false, nil }})
	reaches(t, &turns, 5, "ticks")
}

func TestAFailingLoopTakesNobodyDown(t *testing.T) {
	t.Parallel()
	var bad, worse, good atomic.Int64
	run(t, nil,
		lease.Loop{Name: "error", Every: time.Millisecond, Run: func(context.Context) (bool, error) { bad.Add(1); return true, errors.New("no") }},
		lease.Loop{Name: "panic", Every: time.Millisecond, Run: func(context.Context) (bool, error) { worse.Add(1); panic("no") }},
		lease.Loop{Name: "good", Every: time.Millisecond, Run: func(context.Context) (bool, error) { good.Add(1); return false, nil }},
	)
	reaches(t, &bad, 2, "tried again after an error")
	reaches(t, &worse, 2, "tried again after a panic")
	reaches(t, &good, 20, "unaffected")
	require.Less(t, bad.Load(), int64(10), "with pauses")
}

func TestACommitWakesLoopsAndIdleLoopsDoNotWakeEachOther(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t, "lease", outbox.Migrations)
	look := func(ctx context.Context) error {
		return db.Work(ctx, func(tx pgx.Tx) error { _, err := tx.Exec(ctx, "select 1"); return err })
	}
	var first, second atomic.Int64
	loop := func(name string, turns *atomic.Int64) lease.Loop {
		return lease.Loop{Name: name, Every: long, Run: func(ctx context.Context) (bool, error) {
			defer turns.Add(1)
			return false, look(ctx) // finds nothing, and commits
		}}
	}
	run(t, db, loop("first", &first), loop("second", &second))
	reaches(t, &first, 1, "the first turn needs no wake-up")
	reaches(t, &second, 1, "the first turn needs no wake-up")
	for n := int64(2); n <= 6; n++ {
		require.NoError(t, look(t.Context())) // somebody else's commit
		reaches(t, &first, n, "woken by a commit")
		reaches(t, &second, n, "woken by a commit")
	}
	require.LessOrEqual(t, first.Load()+second.Load(), int64(20), "their own commits are no wake-ups")
}

func TestALoopThatWorkedWakesTheOthers(t *testing.T) {
	t.Parallel()
	var produced, consumed atomic.Int64
	start := make(chan struct{})
	run(t, nil,
		lease.Loop{Name: "producer", Every: long, Run: func(ctx context.Context) (bool, error) {
			select {
			case <-start:
			case <-ctx.Done():
			}
			return produced.Add(1) == 1, nil
		}},
		lease.Loop{Name: "consumer", Every: long, Run: func(context.Context) (bool, error) { consumed.Add(1); return false, nil }},
	)
	reaches(t, &consumed, 1, "first turn")
	close(start)
	reaches(t, &consumed, 2, "woken by the other's work")
}

func TestStoppingWaitsForTheTurn(t *testing.T) {
	t.Parallel()
	started := make(chan struct{})
	var over atomic.Bool
	stop := run(t, nil, lease.Loop{Name: "slow", Every: long, Run: func(ctx context.Context) (bool, error) {
		close(started)
		<-ctx.Done()
		over.Store(true)
		return false, ctx.Err()
	}})
	<-started
	stop()
	require.True(t, over.Load())
}

func TestALoopMustBeWhole(t *testing.T) {
	t.Parallel()
	require.Error(t, lease.Run(t.Context(), nil, lease.Loop{Name: "no function", Every: long}))
}

func TestATermEnds(t *testing.T) {
	t.Parallel()
	now := time.Now()
	term := lease.Term{Token: 1, Until: now}
	require.True(t, term.Over(now))
	require.False(t, term.Over(now.Add(-time.Second)))
	ctx, cancel := term.Context(t.Context())
	defer cancel()
	require.ErrorIs(t, ctx.Err(), context.DeadlineExceeded)
}
