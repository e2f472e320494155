package pgtest

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/pratique-io/pratique/internal/postgres"
)

// Instance is the server of this test process.
type Instance struct {
	server *postgres.Server
	admin  *pgxpool.Pool // superuser, database "postgres"

	mu        sync.Mutex
	templates map[string]*template
	cloned    int
}

// AdminURL connects as superuser to the database "postgres".
func (i *Instance) AdminURL() string { return i.server.URL() }

var shared = sync.OnceValues(startShared)

// Server is the server that all tests of this process share, started on first
// use. It has fsync off, and ends with the process. Do not stop or change it:
// see Private.
func Server(t testing.TB) *Instance {
	t.Helper()
	i, err := shared()
	if err != nil {
		t.Fatalf("test database: %v", err)
	}
	return i
}

// Private starts a server for this test alone, with durable writes unless the
// options say otherwise: for tests that kill, stop or restart it. Options may be
// nil. It is stopped and removed afterwards. To start a second one on the same
// data, use postgres.Start with Dir(t).
func Private(t testing.TB, options map[string]string) *postgres.Server {
	t.Helper()
	own := map[string]string{contained: "mmap"}
	maps.Copy(own, options)
	srv, err := postgres.Start(t.Context(), postgres.Config{Dir: Dir(t), Options: own})
	if err != nil {
		t.Fatalf("private test database: %v", err)
	}
	t.Cleanup(func() { stop(t, srv) })
	return srv
}

func stop(t testing.TB, srv *postgres.Server) {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if err := srv.Stop(ctx); err != nil {
		t.Errorf("stop test database: %v", err)
	}
}

// Dir is a directory that a server may keep its data in even when the test runs
// as root (t.TempDir is closed to the user the server runs as). It is on disk,
// unlike the shared server's data, and holds an
// initialised cluster already, so that starting takes a fraction of a second.
func Dir(t testing.TB) string {
	t.Helper()
	dir, err := freshDir(t.Context(), os.TempDir())
	if err != nil {
		t.Fatalf("test database directory: %v", err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Errorf("remove test database: %v", err)
		}
	})
	return dir
}

// fast are settings for data that nobody will miss.
var fast = map[string]string{
	"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off",
	"wal_level": "minimal", "max_wal_senders": "0", "max_wal_size": "512MB",
	"shared_buffers": "64MB", "autovacuum": "off", "jit": "off", contained: "mmap",
}

// contained, set to "mmap", keeps shared memory in the data directory: what a
// killed server leaves in /dev/shm is removed only by its next start, and there
// is none once the data is gone.
const contained = "dynamic_shared_memory_type"

// startShared starts the process's server. Three things end it and remove its
// data: the kernel, which signals it when our thread is gone; a watcher process,
// which removes the directory then; and, should both be killed with us, the next
// test process, which sweeps directories whose lock is free.
func startShared() (*Instance, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	dir, err := freshDir(ctx, memory())
	if err != nil {
		return nil, err
	}
	server, err := postgres.Start(ctx, postgres.Config{Dir: dir, Options: fast})
	if err != nil {
		return nil, errors.Join(err, os.RemoveAll(dir))
	}
	if err := watch(server.Pid(), dir, server.SocketDir()); err != nil {
		return nil, err
	}
	admin, err := pgxpool.New(ctx, server.URL())
	if err != nil {
		return nil, err
	}
	return &Instance{server: server, admin: admin, templates: map[string]*template{}}, nil
}

// watch starts the watcher: it waits for the end of its standard input, which is
// the end of this process, then for the server, and removes the directories.
// It has no part in our output, for which "go test" would wait.
func watch(pid int, dirs ...string) error {
	read, write, err := os.Pipe()
	if err != nil {
		return err
	}
	args := append([]string{"-c",
		`cat >/dev/null; n=0; while kill -0 "$1" 2>/dev/null && [ $n -lt 300 ]; do sleep 0.1; n=$((n+1)); done; shift; rm -rf -- "$@"`,
		"pgtest", strconv.Itoa(pid)}, dirs...)
	cmd := exec.Command("/bin/sh", args...)
	cmd.Stdin = read
	cmd.Dir = "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		return errors.Join(fmt.Errorf("start watcher: %w", err), write.Close(), read.Close())
	}
	keep = write
	return read.Close()
}

// keep stays open until the process ends: the garbage collector must not close it.
var keep *os.File

// roomy is what a file system in memory must have left to be used.
const roomy = 2 << 30

// memory is a file system in memory if there is one with room and nobody asked
// for another place: cloning a database makes some 300 files, which took 10 ms
// there and 220 ms on the disk of the same machine.
func memory() string {
	const shm = "/dev/shm"
	var st syscall.Statfs_t
	if os.Getenv("TMPDIR") != "" || syscall.Statfs(shm, &st) != nil || st.Bavail*uint64(st.Bsize) < roomy {
		return os.TempDir()
	}
	return shm
}

// root is the directory of this user's test clusters below parent: the template
// of a fresh one (on disk only), and a copy per process.
func root(parent string) (string, error) {
	dir := filepath.Join(parent, fmt.Sprintf("pratique-pgtest-%d", os.Geteuid()))
	if err := os.Mkdir(dir, 0o711); err != nil && !errors.Is(err, os.ErrExist) {
		return "", err
	}
	info, err := os.Lstat(dir)
	if err != nil {
		return "", err
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok || !info.IsDir() || int(st.Uid) != os.Geteuid() || info.Mode().Perm()&0o022 != 0 {
		return "", fmt.Errorf("%s exists and is not a directory that only we can write to", dir)
	}
	return dir, nil
}

// freshDir copies the initialised cluster to a directory below parent, making it
// first if nobody has.
func freshDir(ctx context.Context, parent string) (string, error) {
	base, err := root(os.TempDir())
	if err != nil {
		return "", err
	}
	target, err := root(parent)
	if err != nil {
		return "", err
	}
	unlock, err := lockRoot(base)
	if err != nil {
		return "", err
	}
	defer unlock()
	sweep(target)
	initial := filepath.Join(base, "initial-"+installed())
	if _, err := os.Stat(filepath.Join(initial, "data", "PG_VERSION")); err != nil {
		if err := postgres.Init(ctx, postgres.Config{Dir: initial}); err != nil {
			return "", err
		}
	}
	dir, err := os.MkdirTemp(target, "run-")
	if err != nil {
		return "", err
	}
	out, err := exec.CommandContext(ctx, "cp", "-a", initial+"/.", dir).CombinedOutput()
	if err != nil {
		return "", errors.Join(fmt.Errorf("copy cluster: %w: %s", err, out), os.RemoveAll(dir))
	}
	now := time.Now() // cp -a brought the times of the initial cluster, which sweep reads
	return dir, errors.Join(os.Chmod(dir, 0o711), os.Chtimes(dir, now, now))
}

// installed tells installations apart, so that an upgrade makes a new initial
// cluster.
func installed() string {
	found, _ := filepath.Glob("/usr/lib/postgresql/*/bin/postgres") // the pattern is well formed
	name := os.Getenv(postgres.BinVariable)
	for _, path := range found {
		name += "_" + filepath.Base(filepath.Dir(filepath.Dir(path)))
	}
	return strings.Map(func(r rune) rune {
		if r == '/' || r == '.' {
			return '-'
		}
		return r
	}, name)
}

// lockRoot serialises making, copying and sweeping between test processes.
func lockRoot(base string) (func(), error) {
	f, err := os.OpenFile(filepath.Join(base, "lock"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return func() { f.Close() }, nil
}

// abandoned is how old a directory without a server must be before it is swept:
// a test may hold one between Dir and Start.
const abandoned = time.Hour

// sweep removes the directories of processes that were killed together with
// their watchers: old, and with nobody holding the lock of postgres.Start.
func sweep(base string) {
	runs, _ := filepath.Glob(filepath.Join(base, "run-*")) // the pattern is well formed
	for _, dir := range runs {
		info, err := os.Stat(dir)
		if err != nil || time.Since(info.ModTime()) < abandoned {
			continue
		}
		f, err := os.Open(filepath.Join(dir, "lock"))
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err == nil {
			held := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
			f.Close()
			if held != nil {
				continue
			}
		}
		_ = os.RemoveAll(dir) // the next process tries again
	}
}
