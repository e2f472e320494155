package postgres_test

import (
	"bufio"
	"context"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/pratique-io/pratique/internal/pg/pgtest"
	"github.com/pratique-io/pratique/internal/postgres"
)

func start(t *testing.T, dir string) *postgres.Server {
	t.Helper()
	srv, err := postgres.Start(t.Context(), postgres.Config{Dir: dir})
	require.NoError(t, err)
	t.Cleanup(func() { // a server that was stopped takes no harm
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		require.NoError(t, srv.Stop(ctx))
	})
	return srv
}

func query[T any](t *testing.T, srv *postgres.Server, sql string) (value T) {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), srv.URL())
	require.NoError(t, err)
	defer conn.Close(context.Background())
	require.NoError(t, conn.QueryRow(t.Context(), sql).Scan(&value))
	return value
}

func exec1(t *testing.T, srv *postgres.Server, sql string) {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), srv.URL())
	require.NoError(t, err)
	defer conn.Close(context.Background())
	_, err = conn.Exec(t.Context(), sql)
	require.NoError(t, err)
}

// gone reports a process that has ended, whether or not anybody has collected it:
// an orphan's end is for init, which may take its time in a container.
func gone(pid int) bool {
	if syscall.Kill(pid, 0) == syscall.ESRCH {
		return true
	}
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	return err != nil || strings.Contains(string(stat), ") Z ")
}

func mode(t *testing.T, path string) fs.FileMode {
	t.Helper()
	info, err := os.Stat(path)
	require.NoError(t, err)
	return info.Mode().Perm()
}

func TestServerFromNothing(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(pgtest.Dir(t), "deep", "er") // no cluster there yet
	srv := start(t, dir)
	require.Equal(t, "UTF8", query[string](t, srv, "show server_encoding"))
	require.Equal(t, "C.UTF-8", query[string](t, srv, "select datcollate from pg_database where datname = 'postgres'"))
	require.Equal(t, "200", query[string](t, srv, "show max_connections"))
	require.Empty(t, query[string](t, srv, "show listen_addresses"))
	require.Equal(t, "on", query[string](t, srv, "show fsync"))
	require.EqualValues(t, 0o600, mode(t, filepath.Join(dir, "password")))
	require.EqualValues(t, 0o700, mode(t, filepath.Join(dir, "data")))
	require.EqualValues(t, 0o700, mode(t, srv.SocketDir()))
	left, err := filepath.Glob(filepath.Join(dir, "*.*"))
	require.NoError(t, err)
	require.Empty(t, left, "neither data.new nor password.init")
	rules := query[int](t, srv, "select count(*)::int from pg_hba_file_rules where auth_method <> 'scram-sha-256'")
	require.Zero(t, rules, "a password even on the socket")
	cmdline, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", srv.Pid()))
	require.NoError(t, err)
	pass, err := os.ReadFile(filepath.Join(dir, "password"))
	require.NoError(t, err)
	require.NotContains(t, string(cmdline), strings.TrimSpace(string(pass)))
}

func TestRestartKeepsDataAndURL(t *testing.T) {
	t.Parallel()
	dir := pgtest.Dir(t)
	first := start(t, dir)
	exec1(t, first, "create table kept (n int)")
	require.NoError(t, first.Stop(t.Context()))
	require.NoError(t, first.Err())
	require.True(t, gone(first.Pid()))
	require.NoFileExists(t, first.SocketDir())

	second := start(t, dir)
	require.Equal(t, first.URL(), second.URL())
	require.True(t, query[bool](t, second, "select to_regclass('kept') is not null"))
	require.NoError(t, first.Stop(t.Context()), "again, and to no harm of its successor")
	first.Kill()
	require.Equal(t, 1, query[int](t, second, "select 1"))
}

func TestOneProgramPerDirectory(t *testing.T) {
	t.Parallel()
	dir := pgtest.Dir(t)
	srv := start(t, dir)
	_, err := postgres.Start(t.Context(), postgres.Config{Dir: dir})
	require.ErrorContains(t, err, fmt.Sprintf("in use by another pratique (process %d)", os.Getpid()))
	require.Equal(t, 1, query[int](t, srv, "select 1"), "the first is not disturbed")
}

func TestKilledServerRecovers(t *testing.T) {
	t.Parallel()
	for name, end := range map[string]func(*postgres.Server){
		"kill -9": (*postgres.Server).Kill,
		"immediate stop": func(srv *postgres.Server) {
			require.NoError(t, srv.Signal(syscall.SIGQUIT))
			<-srv.Done()
			require.NoError(t, srv.Stop(t.Context()))
		},
		"stop of a frozen server": func(srv *postgres.Server) {
			require.NoError(t, srv.Signal(syscall.SIGSTOP))
			ctx, cancel := context.WithCancel(t.Context())
			cancel()
			require.ErrorIs(t, srv.Stop(ctx), context.Canceled)
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := pgtest.Dir(t)
			srv := start(t, dir)
			exec1(t, srv, "create table kept (n int)")
			idle, err := pgx.Connect(t.Context(), srv.URL()) // a backend that has to notice
			require.NoError(t, err)
			defer idle.Close(context.Background())
			end(srv)
			require.True(t, gone(srv.Pid()))
			again := start(t, dir)
			require.True(t, query[bool](t, again, "select to_regclass('kept') is not null"))
		})
	}
}

// TestChild is the program of the test below, not a test by itself.
func TestChild(t *testing.T) {
	dir := os.Getenv("POSTGRES_CHILD")
	if dir == "" {
		return
	}
	srv, err := postgres.Start(t.Context(), postgres.Config{Dir: dir})
	require.NoError(t, err)
	fmt.Printf("pid %d\n", srv.Pid())
	select {} // until killed
}

func TestServerEndsWithAKilledProgramAndStartsAgain(t *testing.T) {
	t.Parallel()
	dir := pgtest.Dir(t)
	cmd := exec.Command(os.Args[0], "-test.run=^TestChild$")
	cmd.Env = append(os.Environ(), "POSTGRES_CHILD="+dir)
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	line, err := bufio.NewReader(out).ReadString('\n')
	require.NoError(t, err)
	old, err := strconv.Atoi(strings.TrimSpace(strings.TrimPrefix(line, "pid ")))
	require.NoError(t, err, line)
	require.NoError(t, cmd.Process.Kill())
	_ = cmd.Wait() // killed, as it should be

	srv := start(t, dir) // at once: the old server is still on its way out
	require.True(t, gone(old))
	require.Equal(t, 1, query[int](t, srv, "select 1"))
}

func TestOrphanThatDoesNotEndIsStopped(t *testing.T) {
	t.Parallel()
	dir := pgtest.Dir(t)
	srv := start(t, dir)
	require.NoError(t, srv.Stop(t.Context()))
	orphan, err := postgres.Command(dir, postgres.Postgres(srv), "-D", filepath.Join(dir, "data"),
		"-c", "listen_addresses=", "-c", "unix_socket_directories="+filepath.Join(dir, "data"))
	require.NoError(t, err)
	require.NoError(t, orphan.Start())
	ended := make(chan error, 1)
	go func() { ended <- orphan.Wait() }()
	require.Eventually(t, func() bool {
		text, err := os.ReadFile(filepath.Join(dir, "data", "postmaster.pid"))
		return err == nil && strings.Contains(string(text), "ready")
	}, 10*time.Second, 20*time.Millisecond, "the orphan must come up")

	again := start(t, dir)
	require.NoError(t, <-ended, "a fast stop is a clean end")
	require.Equal(t, 1, query[int](t, again, "select 1"))
}

func TestPidFileOfAnotherProcessIsNoObstacle(t *testing.T) {
	t.Parallel()
	dir := pgtest.Dir(t)
	bystander, err := postgres.Command(dir, "/bin/sleep", "600")
	require.NoError(t, err)
	require.NoError(t, bystander.Start())
	t.Cleanup(func() { _ = bystander.Process.Kill(); _ = bystander.Wait() })
	pidfile := fmt.Sprintf("%d\n%s\n1\n5432\n\n\n", bystander.Process.Pid, filepath.Join(dir, "data"))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "data", "postmaster.pid"), []byte(pidfile), 0o644))
	require.Equal(t, 1, query[int](t, start(t, dir), "select 1"))
	require.False(t, gone(bystander.Process.Pid))
}

func TestInterruptedInitIsMadeAnew(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(pgtest.Dir(t), "half")
	require.NoError(t, os.MkdirAll(filepath.Join(dir, "data.new", "base"), 0o711))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "data.new", "PG_VERSION"), []byte("15\n"), 0o600))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "password.init"), nil, 0o600))
	require.Equal(t, 1, query[int](t, start(t, dir), "select 1"))
}

func TestErrorsSayWhatToDo(t *testing.T) {
	t.Parallel()
	fails := func(t *testing.T, cfg postgres.Config) string {
		t.Helper()
		_, err := postgres.Start(t.Context(), cfg)
		require.Error(t, err)
		return err.Error()
	}
	t.Run("a cluster of another major version", func(t *testing.T) {
		t.Parallel()
		dir := pgtest.Dir(t)
		require.NoError(t, os.WriteFile(filepath.Join(dir, "data", "PG_VERSION"), []byte("9.6\n"), 0o600))
		require.Contains(t, fails(t, postgres.Config{Dir: dir}), "made by PostgreSQL 9.6")
	})
	t.Run("a server that ends at start shows its last lines", func(t *testing.T) {
		t.Parallel()
		var log strings.Builder
		text := fails(t, postgres.Config{Dir: pgtest.Dir(t), Options: map[string]string{"no_such_setting": "1"},
			Log: slog.New(slog.NewTextHandler(&log, nil))})
		require.Contains(t, text, `unrecognized configuration parameter "no_such_setting"`)
		require.Contains(t, log.String(), "level=WARN")
	})
	t.Run("a password file of another cluster", func(t *testing.T) {
		t.Parallel()
		dir := pgtest.Dir(t)
		require.NoError(t, os.WriteFile(filepath.Join(dir, "password"), []byte("canary\n"), 0o600))
		text := fails(t, postgres.Config{Dir: dir})
		require.Contains(t, text, "does not open the database")
		require.NotContains(t, text, "canary")
		_, err := postgres.Start(t.Context(), postgres.Config{Dir: dir})
		require.NotContains(t, err.Error(), "in use", "the failed start gave the directory back")
	})
	t.Run("a directory above that the server's user may not search", func(t *testing.T) {
		t.Parallel()
		closed := filepath.Join(t.TempDir(), "closed")
		require.NoError(t, os.MkdirAll(filepath.Join(closed, "below"), 0o700))
		require.NoError(t, os.Chmod(closed, 0o700))
		err := postgres.Reaches(54321, 54321, filepath.Join(closed, "below"))
		require.ErrorContains(t, err, "user stranger")
		require.ErrorContains(t, err, "may not search "+filepath.Join(closed, "below"))
		require.NoError(t, postgres.Reaches(54321, 54321, "/usr/bin"))
	})
	t.Run("no installation", func(t *testing.T) {
		t.Parallel()
		text := postgres.NotFound().Error()
		require.Contains(t, text, "apt-get install postgresql")
		require.NotContains(t, text, "\n")
	})
}

func TestVariableIsTheOnlyPlaceLookedAt(t *testing.T) {
	t.Setenv(postgres.BinVariable, t.TempDir())
	_, err := postgres.Start(t.Context(), postgres.Config{Dir: t.TempDir()})
	require.ErrorContains(t, err, "from "+postgres.BinVariable)
}

func TestSocketDirectoryIsNoTrap(t *testing.T) {
	t.Parallel()
	parent := filepath.Dir(pgtest.Dir(t)) // one that the server's user reaches
	parent, err := os.MkdirTemp(parent, "socket-")
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, os.RemoveAll(parent)) })
	require.NoError(t, os.Chmod(parent, 0o711))
	elsewhere := filepath.Join(parent, "elsewhere")
	require.NoError(t, os.Mkdir(elsewhere, 0o700))

	link, open, file, mine := filepath.Join(parent, "link"), filepath.Join(parent, "open"), filepath.Join(parent, "file"), filepath.Join(parent, "mine")
	require.NoError(t, os.Symlink(elsewhere, link))
	require.NoError(t, os.Mkdir(open, 0o755))
	require.NoError(t, os.WriteFile(file, nil, 0o700))
	for _, trap := range []string{link, open, file} {
		require.ErrorContains(t, postgres.Claim(parent, trap), "not a private directory")
	}
	require.NoError(t, postgres.Claim(parent, mine))
	require.NoError(t, postgres.Claim(parent, mine), "again after a restart")
}

func TestTail(t *testing.T) {
	t.Parallel()
	log := slog.New(slog.DiscardHandler)
	require.Equal(t, "one\ntwo", postgres.Tail(log, "on", "e\ntw", "o"))
	var many []string
	for n := range 50 {
		many = append(many, fmt.Sprintf("%d\n", n))
	}
	got := strings.Split(postgres.Tail(log, many...), "\n")
	require.Len(t, got, 20)
	require.Equal(t, []string{"30", "49"}, []string{got[0], got[19]})
	require.Len(t, postgres.Tail(log, strings.Repeat("x", 1<<20)), 2000)
}
