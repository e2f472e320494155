package postgres

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// cluster is a directory that is locked by us, initialised and free of other
// servers: ready to start.
type cluster struct {
	cfg     Config
	bin     binary
	account account
	socket  string
	pass    string
	lock    *os.File
}

func (c *cluster) data() string       { return dataDir(c.cfg.Dir) }
func dataDir(dir string) string       { return filepath.Join(dir, "data") }
func passwordFile(dir string) string  { return filepath.Join(dir, "password") }
func lockFile(dir string) string      { return filepath.Join(dir, "lock") }
func unfinishedDir(dir string) string { return filepath.Join(dir, "data.new") }

func prepare(ctx context.Context, cfg Config) (_ *cluster, err error) {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Dir, err = filepath.Abs(cfg.Dir); err != nil {
		return nil, err
	}
	found, err := find(ctx)
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(cfg.Dir, 0o711); err != nil {
		return nil, fmt.Errorf("make the database's directory: %w", err)
	}
	c := &cluster{cfg: cfg}
	if c.account, err = pick(c.data()); err != nil {
		return nil, err
	}
	if err := c.account.enter(cfg.Dir); err != nil {
		return nil, err
	}
	if err := c.account.reaches(cfg.Dir); err != nil {
		return nil, err
	}
	if c.lock, err = takeLock(lockFile(cfg.Dir)); err != nil {
		return nil, err
	}
	if err := c.ready(ctx, found); err != nil {
		return nil, errors.Join(err, c.lock.Close())
	}
	return c, nil
}

// ready does what needs the lock.
func (c *cluster) ready(ctx context.Context, found []binary) (err error) {
	if c.bin, err = choose(found, c.data()); err != nil {
		return err
	}
	if c.pass, err = password(passwordFile(c.cfg.Dir)); err != nil {
		return err
	}
	if _, err := os.Stat(c.data()); errors.Is(err, os.ErrNotExist) {
		if err := c.init(ctx); err != nil {
			return err
		}
	} else if err != nil {
		return err
	}
	if err := c.evict(ctx); err != nil {
		return err
	}
	c.socket, err = c.socketDir()
	return err
}

// takeLock makes sure that at most one program uses the directory; with the
// lock held, any server still running there is an orphan.
func takeLock(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open lock: %w", err)
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		holder, _ := os.ReadFile(path) // only to say who; may be empty
		return nil, errors.Join(fmt.Errorf("%s is in use by another pratique (process %s)",
			filepath.Dir(path), strings.TrimSpace(string(holder))), f.Close())
	}
	err = errors.Join(f.Truncate(0), func() error { _, err := fmt.Fprintln(f, os.Getpid()); return err }())
	if err != nil {
		return nil, errors.Join(fmt.Errorf("write lock: %w", err), f.Close())
	}
	return f, nil
}

// password reads the superuser's password, or makes it once. It is on disk
// before the cluster that knows it.
func password(path string) (string, error) {
	text, err := os.ReadFile(path)
	if err == nil && len(text) > 0 {
		return strings.TrimSpace(string(text)), nil
	}
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return "", fmt.Errorf("read the database's password: %w", err)
	}
	made := rand.Text()
	if err := writeSynced(path, made+"\n"); err != nil {
		return "", fmt.Errorf("write the database's password: %w", err)
	}
	return made, nil
}

func writeSynced(path, text string) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.WriteString(text)
	return errors.Join(err, f.Sync(), f.Close())
}

// init makes the cluster beside its place and moves it there whole, so that an
// interrupted init leaves nothing that looks like a cluster.
func (c *cluster) init(ctx context.Context) error {
	fresh := unfinishedDir(c.cfg.Dir)
	if err := os.RemoveAll(fresh); err != nil {
		return err
	}
	if err := os.Mkdir(fresh, 0o700); err != nil {
		return err
	}
	pwfile := filepath.Join(c.cfg.Dir, "password.init")
	defer os.Remove(pwfile)
	err := errors.Join(c.account.own(fresh), writeSynced(pwfile, c.pass), c.account.own(pwfile))
	if err != nil {
		return err
	}
	cmd := c.account.command(c.bin.initdb, "-D", fresh, "--username="+superuser, "--pwfile="+pwfile,
		"--auth=scram-sha-256", "--encoding=UTF8", "--locale=C.UTF-8", "--no-instructions")
	out := newTail(c.cfg.Log)
	cmd.Stdout, cmd.Stderr = out, out
	if err := runChild(ctx, cmd); err != nil {
		return fmt.Errorf("initdb: %w; its last lines:\n%s", err, out)
	}
	if err := os.Rename(fresh, c.data()); err != nil {
		return err
	}
	return syncDir(c.cfg.Dir)
}

func syncDir(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

// How long an orphan may take by itself (it got SIGQUIT when its program died),
// after a fast stop, and after an immediate one.
const (
	orphanGrace = 2 * time.Second
	orphanFast  = 10 * time.Second
	orphanQuit  = 20 * time.Second
)

// evict waits until no server process uses the cluster, helping after a while,
// and then removes the pid file that a killed one left: its number may belong to
// another process by now, which would keep PostgreSQL from starting.
func (c *cluster) evict(ctx context.Context) error {
	begin := time.Now()
	for {
		pids, err := occupants(c.data())
		if err != nil {
			return err
		}
		if len(pids) == 0 {
			break
		}
		waited := time.Since(begin)
		switch {
		case waited > orphanQuit:
			return fmt.Errorf("an old postgres (processes %v) still uses %s and does not end", pids, c.data())
		case waited > orphanFast:
			signalAll(pids, syscall.SIGQUIT)
			signalAll(pids, syscall.SIGCONT) // a stopped process does nothing about the other
		case waited > orphanGrace:
			if pid := postmaster(c.data()); pid != 0 {
				signalAll([]int{pid}, syscall.SIGINT)
			}
		}
		if err := pause(ctx, 5*pollEvery); err != nil {
			return err
		}
	}
	err := os.Remove(filepath.Join(c.data(), "postmaster.pid"))
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	return err
}

func signalAll(pids []int, sig syscall.Signal) {
	for _, pid := range pids {
		_ = syscall.Kill(pid, sig) // gone already is what we want
	}
}
