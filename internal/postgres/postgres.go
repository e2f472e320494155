// Package postgres runs a private PostgreSQL server on this machine for
// "pratique up" and for tests, from the distribution's own binaries. The server
// listens on a Unix socket only, asks for a password even there, and ends with
// the program that started it.
package postgres

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"os"
	"os/exec"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pratique-io/pratique/internal/pg"
)

// superuser is the one role initdb makes.
const superuser = "postgres"

const (
	startLimit    = 10 * time.Second // until the server answers at all
	recoveryLimit = 2 * time.Minute  // more, while it says that it is recovering
	pollEvery     = 20 * time.Millisecond
)

// Config says where a server keeps its data.
type Config struct {
	// Dir holds everything: data/ (the cluster), password (0600), lock. It is made
	// when missing. When we run as root, every directory above must be searchable
	// by the user that the server runs as.
	Dir string
	// Options are server settings beside our own, which they override.
	Options map[string]string
	// Log gets the server's own log: debug, and warn for what ends it. Default: none.
	Log *slog.Logger
}

// Server is a running server.
type Server struct {
	cfg     Config
	account account
	socket  string
	pass    string
	lock    *os.File
	cmd     *exec.Cmd
	tail    *tail
	done    chan struct{} // closed when the process has ended
	err     error         // set before done is closed
	once    sync.Once     // release
}

// settings are the server's settings unless Config.Options says otherwise.
func settings(socket string) map[string]string {
	return map[string]string{
		"listen_addresses":        "",
		"port":                    socketPort,
		"unix_socket_directories": socket,
		"unix_socket_permissions": "0700",
		"max_connections":         fmt.Sprint(pg.ServerMaxConns),
		"password_encryption":     "scram-sha-256",
		"timezone":                "UTC",
		"log_timezone":            "UTC",
		"log_destination":         "stderr",
		"logging_collector":       "off",
		// Errors are the client's to log; their texts hold rows and statements.
		"log_min_messages":        "log",
		"log_min_error_statement": "panic",
		"log_error_verbosity":     "terse",
		"log_checkpoints":         "off",
	}
}

// Start starts the server of a directory and waits until it answers. A cluster
// is made first if there is none. A server left by a killed program is waited
// for, then stopped.
func Start(ctx context.Context, cfg Config) (*Server, error) {
	c, err := prepare(ctx, cfg)
	if err != nil {
		return nil, err
	}
	srv, err := c.start(ctx)
	if err != nil {
		return nil, errors.Join(err, os.RemoveAll(c.socket), c.lock.Close())
	}
	return srv, nil
}

// Init makes the cluster of a directory without starting it.
func Init(ctx context.Context, cfg Config) error {
	c, err := prepare(ctx, cfg)
	if err != nil {
		return err
	}
	return errors.Join(os.RemoveAll(c.socket), c.lock.Close())
}

// start runs the server, again when the rest of a killed predecessor still holds
// its shared memory.
func (c *cluster) start(ctx context.Context) (*Server, error) {
	deadline := time.Now().Add(startLimit)
	for {
		srv, err := c.launch()
		if err != nil {
			return nil, err
		}
		err = srv.wait(ctx)
		if err == nil {
			return srv, nil
		}
		srv.end()
		if !srv.tail.contains("pre-existing shared memory block") || time.Now().After(deadline) {
			return nil, err
		}
		if err := pause(ctx, 10*pollEvery); err != nil {
			return nil, err
		}
	}
}

// launch starts the process.
func (c *cluster) launch() (*Server, error) {
	srv := &Server{
		cfg: c.cfg, account: c.account, socket: c.socket, pass: c.pass, lock: c.lock,
		tail: newTail(c.cfg.Log), done: make(chan struct{}),
	}
	options := settings(c.socket)
	for name, value := range c.cfg.Options {
		options[name] = value
	}
	srv.cmd = c.account.command(c.bin.postgres, arguments(options, c.data())...)
	srv.cmd.Stdout, srv.cmd.Stderr = srv.tail, srv.tail
	// Its own process group: a terminal's ^C is for us, we stop the server last.
	srv.cmd.SysProcAttr.Setpgid = true
	srv.cmd.WaitDelay = 5 * time.Second // for backends that outlive a killed postmaster
	dieWithParent(srv.cmd.SysProcAttr, syscall.SIGQUIT)

	started := make(chan error)
	go srv.run(started)
	if err := <-started; err != nil {
		return nil, fmt.Errorf("start %s: %w", c.bin.postgres, err)
	}
	return srv, nil
}

// arguments renders the command line in a stable order.
func arguments(options map[string]string, data string) []string {
	names := make([]string, 0, len(options))
	for name := range options {
		names = append(names, name)
	}
	slices.Sort(names)
	args := []string{"-D", data}
	for _, name := range names {
		args = append(args, "-c", name+"="+options[name])
	}
	return args
}

// wait returns nil once the server accepts our password.
func (s *Server) wait(ctx context.Context) error {
	begin := time.Now()
	for {
		err := s.ping(ctx)
		if err == nil {
			return nil
		}
		limit := startLimit
		var pe *pgconn.PgError
		if errors.As(err, &pe) {
			switch pe.Code {
			case "57P03": // starting up, or recovering after a crash
				limit = recoveryLimit
			case "28P01":
				return fmt.Errorf("the password in %s does not open the database beside it", passwordFile(s.cfg.Dir))
			}
		}
		if time.Since(begin) > limit {
			return fmt.Errorf("postgres did not come up in %s (%w); its last lines:\n%s", limit, err, s.tail)
		}
		select {
		case <-s.done:
			return fmt.Errorf("postgres ended at start (%w); its last lines:\n%s", s.Err(), s.tail)
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(pollEvery):
		}
	}
}

func (s *Server) ping(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	conn, err := pgx.Connect(ctx, s.URL())
	if err != nil {
		return err
	}
	return conn.Close(ctx)
}

// URL connects as superuser to the database "postgres"; it holds the password.
// It stays the same over restarts on the same directory.
func (s *Server) URL() string {
	u := url.URL{
		Scheme: "postgres", User: url.UserPassword(superuser, s.pass), Path: "/postgres",
		RawQuery: url.Values{"host": {s.socket}, "port": {socketPort}, "sslmode": {"disable"}}.Encode(),
	}
	return u.String()
}

// SocketDir is the directory of the server's socket. It outlives a program that
// is killed, and is used again by the next one on the same data.
func (s *Server) SocketDir() string { return s.socket }

// Pid is the postmaster's process id.
func (s *Server) Pid() int { return s.cmd.Process.Pid }

// Done is closed when the server's process has ended, wanted or not.
func (s *Server) Done() <-chan struct{} { return s.done }

// Err says how the process ended; nil while it runs or after a clean stop.
func (s *Server) Err() error {
	select {
	case <-s.done:
		return s.err
	default:
		return nil
	}
}

// Signal sends a signal to the postmaster: SIGSTOP, SIGCONT, SIGQUIT (immediate
// stop) and the like, for fault tests.
func (s *Server) Signal(sig os.Signal) error { return s.cmd.Process.Signal(sig) }

// Kill ends the postmaster with SIGKILL and waits for it. Its children notice
// and end by themselves; Start on the same directory waits for them.
func (s *Server) Kill() {
	_ = s.cmd.Process.Kill() // an error means that it has ended already
	<-s.done
	s.release()
}

// Stop ends the server: fast (open transactions are rolled back), immediate when
// ctx ends first. It returns when the process is gone; calling it again is fine.
func (s *Server) Stop(ctx context.Context) error {
	_ = s.cmd.Process.Signal(syscall.SIGINT) // an error means that it has ended already
	select {
	case <-s.done:
		s.release()
		return nil
	case <-ctx.Done():
	}
	s.end()
	s.release()
	return fmt.Errorf("postgres did not stop in time and was ended: %w", context.Cause(ctx))
}

// end stops at once and waits; the cluster recovers at its next start.
func (s *Server) end() {
	_ = s.cmd.Process.Signal(syscall.SIGQUIT)
	_ = s.cmd.Process.Signal(syscall.SIGCONT)
	select {
	case <-s.done:
	case <-time.After(5 * time.Second):
		_ = s.cmd.Process.Kill()
		<-s.done
	}
}

// release gives up the directory, once: a later server of the same directory
// uses the same names.
func (s *Server) release() {
	s.once.Do(func() {
		_ = os.RemoveAll(s.socket) // what is left over is taken over by the next start
		_ = s.lock.Close()
	})
}

func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-time.After(d):
		return nil
	}
}
