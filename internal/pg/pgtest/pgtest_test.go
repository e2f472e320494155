package pgtest_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"testing/fstest"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/pratique-io/pratique/internal/pg"
	"github.com/pratique-io/pratique/internal/pg/pgtest"
)

func notes(sql string) pg.Migrations {
	return pg.Migrations{Name: "note", FS: fstest.MapFS{
		"0001_note.sql": {Data: []byte("-- +goose Up\ncreate table note (text text); select pratique_share('note');" + sql)},
	}}
}

func count(t *testing.T, db *pg.DB) (n int) {
	t.Helper()
	require.NoError(t, db.Read(t.Context(), pg.Scope{}, func(tx pgx.Tx) error {
		return tx.QueryRow(t.Context(), "select count(*) from note").Scan(&n)
	}))
	return n
}

func TestEachTestHasItsOwnDatabase(t *testing.T) {
	t.Parallel()
	one, two := pgtest.New(t, "memo", notes("")), pgtest.New(t, "memo", notes(""))
	require.NoError(t, one.Work(t.Context(), func(tx pgx.Tx) error {
		_, err := tx.Exec(t.Context(), "insert into note values ('x')")
		return err
	}))
	require.Equal(t, 1, count(t, one))
	require.Zero(t, count(t, two))
	require.Zero(t, count(t, pgtest.New(t, "memo", notes(""))), "the template stays clean")
}

func TestChangedMigrationsMakeAnotherTemplate(t *testing.T) {
	t.Parallel()
	require.Zero(t, count(t, pgtest.New(t, "memo", notes(""))))
	require.Equal(t, 1, count(t, pgtest.New(t, "memo", notes(" insert into note values ('seed');"))))
}

func TestDatabaseIsDroppedAfterTheTest(t *testing.T) {
	t.Parallel()
	var name string
	t.Run("a test with an open transaction", func(t *testing.T) {
		db := pgtest.New(t, "memo", notes(""))
		name = db.WorkerPool().Config().ConnConfig.Database
	})
	conn, err := pgx.Connect(t.Context(), pgtest.Server(t).AdminURL())
	require.NoError(t, err)
	defer conn.Close(t.Context())
	var left bool
	require.NoError(t, conn.QueryRow(t.Context(), "select exists (select from pg_database where datname = $1)", name).Scan(&left))
	require.False(t, left)
}

// TestChild is the program of the test below, not a test by itself.
func TestChild(t *testing.T) {
	if os.Getenv("PGTEST_CHILD") == "" {
		return
	}
	count(t, pgtest.New(t, "memo", notes("")))
	cc := pgtest.New(t, "memo", notes("")).WorkerPool().Config().ConnConfig
	_, err := os.Stdout.WriteString("socket " + cc.Host + "\n")
	require.NoError(t, err)
	select {} // until killed
}

func TestServerAndDataGoWhenTheProcessIsKilled(t *testing.T) {
	t.Parallel()
	base := filepath.Join(os.TempDir(), "pratique-pgtest-child-"+filepath.Base(t.TempDir())+"-"+time.Now().Format("150405.000"))
	require.NoError(t, os.Mkdir(base, 0o711))
	t.Cleanup(func() { require.NoError(t, os.RemoveAll(base)) })
	cmd := exec.Command(os.Args[0], "-test.run=^TestChild$", "-test.v")
	cmd.Env = append(os.Environ(), "PGTEST_CHILD=1", "TMPDIR="+base)
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	buf, text := make([]byte, 4096), ""
	for !strings.Contains(text, "socket ") {
		n, err := out.Read(buf)
		require.NoError(t, err, text)
		text += string(buf[:n])
	}
	runs := func() []string {
		found, err := filepath.Glob(filepath.Join(base, "pratique-pgtest-*", "run-*"))
		require.NoError(t, err)
		return found
	}
	require.Len(t, runs(), 1)
	require.NoError(t, cmd.Process.Signal(syscall.SIGKILL))
	_ = cmd.Wait() // killed, as it should be
	require.Eventually(t, func() bool { return len(runs()) == 0 }, 20*time.Second, 50*time.Millisecond, "server and data must go")
}
