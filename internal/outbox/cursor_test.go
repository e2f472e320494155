package outbox_test

import (
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/pratique-io/pratique/internal/event"
	"github.com/pratique-io/pratique/internal/outbox"
	"github.com/pratique-io/pratique/internal/pg"
	"github.com/pratique-io/pratique/internal/pg/pgtest"
)

// textbook is a cursor as it is usually written. Each reads what its query finds and moves to the highest number.
type textbook struct {
	query string
	seq   int64
	seen  map[string]bool
}

func (c *textbook) read(t testing.TB, admin *pgx.Conn) {
	t.Helper()
	rows, err := admin.Query(t.Context(), c.query, c.seq)
	require.NoError(t, err)
	var seq int64
	var id string
	_, err = pgx.ForEachRow(rows, []any{&seq, &id}, func() error {
		c.seen[id] = true
		c.seq = max(c.seq, seq)
		return nil
	})
	require.NoError(t, err)
}

// paused is a transaction that has drawn its numbers and not committed yet.
type paused struct {
	resume chan struct{}
	done   chan error
}

// pause starts a writer; it returns once the writer holds its outbox row and waits. With between it takes its transaction id,
// then calls between, and only then draws its sequence number, so that ids and numbers are in opposite order.
func pause(t testing.TB, db *pg.DB, e event.Envelope, between func()) paused {
	t.Helper()
	p := paused{resume: make(chan struct{}), done: make(chan error, 1)}
	ready := make(chan struct{})
	go func() {
		p.done <- db.Work(t.Context(), func(tx pgx.Tx) error {
			if between != nil {
				if _, err := tx.Exec(t.Context(), "select pg_current_xact_id()"); err != nil {
					return err
				}
				between()
			}
			if err := outbox.Append(t.Context(), tx, e); err != nil {
				return err
			}
			close(ready)
			<-p.resume
			return nil
		})
	}()
	<-ready
	return p
}

func (p paused) commit(t testing.TB) {
	t.Helper()
	close(p.resume)
	require.NoError(t, <-p.done)
}

// The named regression: eight writers pause between drawing a number and committing. A cursor over the sequence loses their
// events; one guarded by xmin but still ordered by sequence loses some; the relay loses none.
func TestCursorLosesNothingToPausedWriters(t *testing.T) {
	t.Parallel()
	const writers, rounds = 8, 6
	db := pgtest.New(t, service, outbox.Migrations)
	admin := pgtest.Admin(t, db)
	published := &memory{}
	start(t, db, published)
	naive := &textbook{seen: map[string]bool{}, query: `select seq, event_id::text from outbox where seq > $1 order by seq`}
	guarded := &textbook{seen: map[string]bool{}, query: `select seq, event_id::text from outbox
		where seq > $1 and xid < pg_snapshot_xmin(pg_current_snapshot()) order by seq`}
	look := func() { naive.read(t, admin); guarded.read(t, admin) }

	var want []string
	fresh := func() event.Envelope {
		e := make1(t, uuid.Nil)
		want = append(want, e.ID)
		return e
	}
	for round := range rounds {
		var open []paused
		for len(open) < writers {
			if round%2 == 0 {
				open = append(open, pause(t, db, fresh(), nil))
				continue
			}
			// The first takes the lower transaction id, the second the lower number.
			var second paused
			first := pause(t, db, fresh(), func() { second = pause(t, db, fresh(), nil) })
			open = append(open, second, first)
		}
		for i := len(open) - 1; i >= 0; i-- { // the last to draw is the first to commit
			look()
			open[i].commit(t)
			look()
		}
	}
	require.EventuallyWithT(t, func(c *assertT) {
		require.ElementsMatch(c, want, published.ids(), "published exactly the committed events")
	}, 20*time.Second, 10*time.Millisecond, "the relay loses nothing")
	look()
	t.Logf("of %d events the sequence cursor lost %d, the guarded sequence cursor %d, the relay none",
		len(want), len(want)-len(naive.seen), len(want)-len(guarded.seen))
	require.Less(t, len(naive.seen), len(want), "the set-up must be one that the naive cursor loses events in")
	require.Less(t, len(guarded.seen), len(want), "and one that the guarded sequence loses events in")
}
