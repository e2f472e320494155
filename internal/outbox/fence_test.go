package outbox

import (
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/pratique-io/pratique/internal/pg"
	"github.com/pratique-io/pratique/internal/pg/pgtest"
)

func connect(t *testing.T, db *pg.DB) *store {
	t.Helper()
	conn, err := db.WorkerPool().Acquire(t.Context())
	require.NoError(t, err)
	raw := conn.Hijack()
	t.Cleanup(func() { _ = raw.Close(t.Context()) })
	return &store{conn: raw}
}

func insert(t *testing.T, db *pg.DB) {
	t.Helper()
	require.NoError(t, db.Work(t.Context(), func(tx pgx.Tx) error {
		_, err := tx.Exec(t.Context(), `insert into outbox (event_id, subject, body) values (gen_random_uuid(), 's', 'b')`)
		return err
	}))
}

func TestAZombieRelayNeitherReadsNorMovesTheCursor(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t, "fence", Migrations)
	insert(t, db)
	zombie, successor := connect(t, db), connect(t, db)

	at, _, err := zombie.takeOver(t.Context())
	require.NoError(t, err)
	rows, err := zombie.read(t.Context(), at)
	require.NoError(t, err)
	require.Len(t, rows, 1)

	at, _, err = successor.takeOver(t.Context()) // while the zombie was stopped
	require.NoError(t, err)
	insert(t, db)
	m := mark{stream: "S", streamSeq: 1, eventID: rows[0].ID, streamAt: time.Unix(1, 0), place: rows[0].place}
	require.ErrorIs(t, zombie.save(t.Context(), rows[0].place, []mark{m}, nil), errFenced)
	require.ErrorIs(t, zombie.rewind(t.Context(), place{}, "S", -1), errFenced)
	_, err = zombie.read(t.Context(), at)
	require.ErrorIs(t, err, errFenced)
	marks, err := successor.marks(t.Context())
	require.NoError(t, err)
	require.Empty(t, marks, "a fenced write leaves nothing behind")

	rows, err = successor.read(t.Context(), at)
	require.NoError(t, err)
	require.Len(t, rows, 2)
	require.NoError(t, successor.save(t.Context(), rows[1].place, []mark{m}, nil))
	rows, err = successor.read(t.Context(), rows[1].place)
	require.NoError(t, err)
	require.Empty(t, rows)
}

func TestOnlyOneRelayHoldsTheLock(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t, "fence", Migrations)
	first, second := connect(t, db), connect(t, db)
	got, err := first.lock(t.Context())
	require.NoError(t, err)
	require.True(t, got)
	got, err = second.lock(t.Context())
	require.NoError(t, err)
	require.False(t, got)
	require.NoError(t, first.conn.Close(t.Context()))
	require.Eventually(t, func() bool {
		got, err := second.lock(t.Context())
		return err == nil && got
	}, 10*time.Second, 10*time.Millisecond, "the lock goes with the connection")
}

func TestUpkeepMakesDaysAheadAndDropsThemBehind(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t, "fence", Migrations)
	admin := pgtest.Admin(t, db)
	s := connect(t, db)
	count := func(query string) (n int) {
		require.NoError(t, admin.QueryRow(t.Context(), query).Scan(&n))
		return n
	}
	const days = `select count(*) from pg_inherits where inhparent = 'outbox'::regclass`
	require.Equal(t, 8, count(days), "seven days and the default")
	insert(t, db)
	require.Zero(t, count(`select count(*) from outbox_default`), "today has a partition")
	_, err := admin.Exec(t.Context(), `create table outbox_20200101 partition of outbox for values from ('2020-01-01') to ('2020-01-02');
		alter table outbox_20200101 owner to fence_owner;
		insert into outbox (event_id, subject, body, created_at) values
			(gen_random_uuid(), 'day', 'b', '2020-01-01 12:00'), (gen_random_uuid(), 'default', 'b', '2019-01-01')`)
	require.NoError(t, err)
	require.NoError(t, s.upkeep(t.Context()))
	require.Equal(t, 8, count(days))
	require.Equal(t, 1, count(`select count(*) from outbox`), "only what is young is kept")
}

func TestRefillSearchesTheNewestMarkStillHeld(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t, "fence", Migrations)
	s := connect(t, db)
	_, _, err := s.takeOver(t.Context())
	require.NoError(t, err)
	require.NoError(t, s.save(t.Context(), place{xid: 900, seq: 9}, []mark{
		{stream: "S", streamSeq: 10, eventID: "01890a5d-ac96-774b-bcce-b302099a8001", streamAt: time.Unix(1, 0), place: place{xid: 100, seq: 1}},
		{stream: "S", streamSeq: 20, eventID: "01890a5d-ac96-774b-bcce-b302099a8002", streamAt: time.Unix(1, 0), place: place{xid: 200, seq: 2}},
		{stream: "S", streamSeq: 30, eventID: "01890a5d-ac96-774b-bcce-b302099a8003", streamAt: time.Unix(1, 0), place: place{xid: 300, seq: 3}},
	}, nil))
	marks, err := s.marks(t.Context())
	require.NoError(t, err)
	require.Len(t, marks["S"], 3)
	require.NoError(t, s.rewind(t.Context(), marks["S"][1].place, "S", 20))
	marks, err = s.marks(t.Context())
	require.NoError(t, err)
	require.Len(t, marks["S"], 2)
	require.Equal(t, place{xid: 200, seq: 2}, marks["S"][1].place)
}
