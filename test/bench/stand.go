package main

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

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/pratique-io/pratique/internal/broker"
	"github.com/pratique-io/pratique/internal/bus"
	"github.com/pratique-io/pratique/internal/pg"
	"github.com/pratique-io/pratique/internal/postgres"
)

// stand is what all benchmarks stand on: a temporary directory and a Postgres with its ordinary, durable settings.
type stand struct {
	dir   string
	log   *slog.Logger
	pg    *postgres.Server
	admin *pgxpool.Pool // superuser, for counting and for the limits
	after []func()      // in the order of starting
	pass  string        // of every role and broker user; it ends with the directory
}

const adminConns = 24

func newStand(ctx context.Context, parent string, statements bool, log *slog.Logger) (*stand, error) {
	dir, err := os.MkdirTemp(parent, "pratique-bench-")
	if err != nil {
		return nil, err
	}
	s := &stand{dir: dir, log: log, pass: rand.Text()}
	if err := s.start(ctx, statements); err != nil {
		return nil, errors.Join(err, s.close())
	}
	return s, nil
}

func (s *stand) start(ctx context.Context, statements bool) error {
	if err := os.Chmod(s.dir, 0o711); err != nil { // as root, Postgres runs as another user
		return err
	}
	var err error
	options := map[string]string{}
	if statements {
		options["shared_preload_libraries"] = "pg_stat_statements"
	}
	s.pg, err = postgres.Start(ctx, postgres.Config{Dir: filepath.Join(s.dir, "postgres"), Options: options, Log: s.log})
	if err != nil {
		return err
	}
	config, err := pgxpool.ParseConfig(s.pg.URL())
	if err != nil {
		return fmt.Errorf("database url: %w", err)
	}
	config.MaxConns = adminConns
	if s.admin, err = pgxpool.NewWithConfig(ctx, config); err != nil || !statements {
		return err
	}
	_, err = s.admin.Exec(ctx, `create extension pg_stat_statements`)
	return err
}

// close ends and removes everything.
func (s *stand) close() error {
	for i := len(s.after) - 1; i >= 0; i-- {
		s.after[i]()
	}
	var problems []error
	if s.admin != nil {
		s.admin.Close()
	}
	if s.pg != nil {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		problems = append(problems, s.pg.Stop(ctx))
	}
	return errors.Join(append(problems, os.RemoveAll(s.dir))...)
}

// tmpfs is the magic number of a file system in memory.
const tmpfs = 0x01021994

const settingSQL = `select name || '=' || setting from pg_settings
where name in ('fsync', 'synchronous_commit', 'full_page_writes', 'server_version') order by name`

// facts describe the ground: what Postgres is set to, and what one durable write of the disk costs.
func (s *stand) facts(ctx context.Context) (string, error) {
	rows, err := s.admin.Query(ctx, settingSQL)
	if err != nil {
		return "", err
	}
	defer rows.Close()
	var settings []string
	for rows.Next() {
		var one string
		if err := rows.Scan(&one); err != nil {
			return "", err
		}
		settings = append(settings, one)
	}
	if err := rows.Err(); err != nil {
		return "", err
	}
	text := strings.Join(settings, " ")
	for _, want := range []string{"fsync=on", "synchronous_commit=on", "full_page_writes=on"} {
		if !strings.Contains(text, want) {
			return "", fmt.Errorf("postgres is not durable: %s", text)
		}
	}
	each, err := fsyncCost(filepath.Join(s.dir, "probe"))
	if err != nil {
		return "", err
	}
	text = fmt.Sprintf("postgres %s; write+fsync of 4 KiB %s", text, each.Round(time.Microsecond))
	var fs syscall.Statfs_t
	if err := syscall.Statfs(s.dir, &fs); err == nil && int64(fs.Type) == tmpfs {
		text += "\nWARNING: the directory is in memory, nothing here is durable; use --dir"
	}
	return text, nil
}

const costliestSQL = `select total_exec_time, calls, regexp_replace(left(query, 160), '\s+', ' ', 'g') from pg_stat_statements
order by total_exec_time desc limit $1`

const totalSQL = `select r.rolname, sum(total_exec_time)::float8, sum(calls)::bigint from pg_stat_statements s join pg_roles r on r.oid = s.userid
where r.rolname like '%\_api' or r.rolname like '%\_worker' group by 1 order by 2 desc`

// costliest are the statements that took Postgres longest, with total milliseconds and calls.
func (s *stand) costliest(ctx context.Context, n int) (string, error) {
	rows, err := s.admin.Query(ctx, costliestSQL, n)
	if err != nil {
		return "", err
	}
	var b strings.Builder
	var total float64
	var calls int64
	var query string
	fmt.Fprintf(&b, "\n%10s %8s  statement\n", "ms", "calls")
	_, err = pgx.ForEachRow(rows, []any{&total, &calls, &query}, func() error {
		fmt.Fprintf(&b, "%10.0f %8d  %s\n", total, calls, query)
		return nil
	})
	if err != nil {
		return "", err
	}
	if rows, err = s.admin.Query(ctx, totalSQL); err != nil {
		return "", err
	}
	_, err = pgx.ForEachRow(rows, []any{&query, &total, &calls}, func() error {
		fmt.Fprintf(&b, "%10.0f %8d  all statements of %s\n", total, calls, query)
		return nil
	})
	return b.String(), err
}

func fsyncCost(path string) (time.Duration, error) {
	file, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return 0, err
	}
	defer os.Remove(path)
	defer file.Close()
	const times = 50
	block := make([]byte, 4096)
	began := time.Now()
	for range times {
		if _, err := file.Write(block); err != nil {
			return 0, err
		}
		if err := file.Sync(); err != nil {
			return 0, err
		}
	}
	return time.Since(began) / times, nil
}

// schema makes a schema with its roles and opens it as a service does.
func (s *stand) schema(ctx context.Context, name string, sets ...pg.Migrations) (*pg.DB, error) {
	pw := pg.Passwords{Owner: s.pass, API: s.pass, Worker: s.pass}
	if err := pg.Migrate(ctx, s.pg.URL(), name, pw, sets...); err != nil {
		return nil, err
	}
	return pg.Open(ctx, pg.Config{URL: s.pg.URL(), Schema: name, Passwords: pw})
}

// hub is a broker with the real users and the real topology of some subscriptions.
type hub struct {
	server *broker.Server
	pass   string
	log    *slog.Logger
}

const (
	adminUser    = "admin"
	operatorUser = "operator"
)

// newHub starts a broker. unsynced gives up durability; otherwise the broker is asked whether it syncs everything.
func (s *stand) newHub(ctx context.Context, name string, unsynced bool, subs map[string][]bus.Subscription) (*hub, error) {
	users := []broker.User{broker.Admin(adminUser, s.pass), broker.Operator(operatorUser, s.pass)}
	for service, list := range subs {
		var binds []broker.Bind
		for _, sub := range list {
			for _, c := range bus.Consumers(service, sub) {
				binds = append(binds, broker.Bind{Stream: c.Stream, Consumer: c.Name})
			}
		}
		users = append(users, broker.Service(service, s.pass, binds...))
	}
	server, err := broker.Start(broker.Config{Dir: filepath.Join(s.dir, "nats-"+name), Users: users, Unsynced: unsynced})
	if err != nil {
		return nil, err
	}
	s.after = append(s.after, server.Kill)
	h := &hub{server: server, pass: s.pass, log: s.log}
	if err := h.prepare(ctx, unsynced, subs); err != nil {
		return nil, err
	}
	return h, nil
}

func (h *hub) prepare(ctx context.Context, unsynced bool, subs map[string][]bus.Subscription) error {
	admin, err := h.connect(ctx, adminUser)
	if err != nil {
		return err
	}
	defer admin.Close()
	if err := bus.ApplyTopology(ctx, admin, subs); err != nil {
		return err
	}
	operator, err := h.connect(ctx, operatorUser)
	if err != nil {
		return err
	}
	defer operator.Close()
	err = bus.CheckDurable(ctx, operator)
	if unsynced && errors.Is(err, bus.ErrNotDurable) {
		return nil
	}
	if unsynced && err == nil {
		return errors.New("the broker that should not sync does")
	}
	return err
}

func (h *hub) connect(ctx context.Context, user string) (*bus.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	return bus.Connect(ctx, bus.Config{URL: h.server.URL(), User: user, Password: h.pass, InboxPrefix: broker.InboxPrefix(user),
		Name: "bench " + user, Log: h.log})
}

// tick waits; false when ctx ended first.
func tick(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}
