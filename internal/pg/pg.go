// Package pg is the only way to Pratique's Postgres. It owns the connection
// pools of a service, the two roles they log in with, the tenant scope of every
// transaction, and the schema: roles, row-level security and migrations.
//
// A service has one schema and three roles. <schema>_owner runs migrations;
// <schema>_api answers callers under row-level security; <schema>_worker runs
// loops and consumers and sees every tenant. No role sees another schema.
package pg

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/exaring/otelpgx"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
)

// Passwords are the passwords of a schema's three roles: printable ASCII, not
// empty. They print as REDACTED.
type Passwords struct {
	Owner  string // used by Migrate only; a serving process does not need it
	API    string
	Worker string
}

// String hides the values.
func (Passwords) String() string { return "REDACTED" }

// GoString hides the values.
func (Passwords) GoString() string { return "REDACTED" }

// LogValue hides the values.
func (Passwords) LogValue() slog.Value { return slog.StringValue("REDACTED") }

// Config says how to reach one service's schema.
type Config struct {
	URL       string // host, port, database, TLS; a user or password in it is ignored
	Schema    string
	Passwords Passwords // API and Worker
	MaxConns  int32     // per pool; 0 means DefaultMaxConns
}

// String names the schema only: the URL may hold a password.
func (c Config) String() string { return "schema " + c.Schema }

// GoString is String.
func (c Config) GoString() string { return c.String() }

// LogValue is String.
func (c Config) LogValue() slog.Value { return slog.StringValue(c.String()) }

// DB is one service's access to its schema: a pool per role.
type DB struct {
	schema  string
	api     *pgxpool.Pool
	worker  *pgxpool.Pool
	txLimit time.Duration

	mu       sync.RWMutex
	onCommit []func()
}

// Open makes both pools and proves that both roles can log in.
func Open(ctx context.Context, cfg Config) (*DB, error) {
	if err := checkName("schema", cfg.Schema); err != nil {
		return nil, err
	}
	api, err := openPool(ctx, cfg, apiRole(cfg.Schema), cfg.Passwords.API)
	if err != nil {
		return nil, err
	}
	worker, err := openPool(ctx, cfg, workerRole(cfg.Schema), cfg.Passwords.Worker)
	if err != nil {
		api.Close()
		return nil, err
	}
	return &DB{schema: cfg.Schema, api: api, worker: worker, txLimit: TxLimit}, nil
}

func openPool(ctx context.Context, cfg Config, role, password string) (*pgxpool.Pool, error) {
	pc, err := pgxpool.ParseConfig(cfg.URL)
	if err != nil {
		return nil, hideURL(err)
	}
	asRole(pc.ConnConfig, cfg.Schema, role, password)
	pc.ConnConfig.Tracer = otelpgx.NewTracer(otelpgx.WithTrimSQLInSpanName(), otelpgx.WithDisableConnectionDetailsInAttributes())
	pc.MaxConns = cfg.MaxConns
	if pc.MaxConns <= 0 {
		pc.MaxConns = DefaultMaxConns
	}
	pc.MinConns = 0
	pc.MaxConnIdleTime = maxConnIdle
	pool, err := pgxpool.NewWithConfig(ctx, pc)
	if err != nil {
		return nil, fmt.Errorf("open pool of %s: %w", role, err)
	}
	if err := pool.Ping(ctx); err != nil {
		pool.Close()
		return nil, fmt.Errorf("connect as %s: %w", role, err)
	}
	return pool, nil
}

// asRole points a parsed configuration at one role of one schema.
func asRole(cc *pgx.ConnConfig, schema, role, password string) {
	cc.User = role
	cc.Password = password
	cc.RuntimeParams["search_path"] = schema
	cc.RuntimeParams["application_name"] = "pratique " + role
	cc.RuntimeParams["timezone"] = "UTC"
}

// hideURL drops pgx's parse error text, which quotes the connection string.
func hideURL(err error) error {
	var parse *pgconn.ParseConfigError
	if errors.As(err, &parse) {
		return errors.New("database url does not parse (value not shown: it may hold a password)")
	}
	return err
}

// Close closes both pools and waits for their connections to come back.
func (db *DB) Close() {
	db.api.Close()
	db.worker.Close()
}

// Schema is the name of the service's schema.
func (db *DB) Schema() string { return db.schema }

// WorkerPool is the pool of the worker role, for lease loops, the relay and
// session locks. What is written through it does not call OnCommit.
func (db *DB) WorkerPool() *pgxpool.Pool { return db.worker }

// Ping proves that both roles can talk to the database; readiness uses it.
func (db *DB) Ping(ctx context.Context) error {
	return errors.Join(db.api.Ping(ctx), db.worker.Ping(ctx))
}

// OnCommit adds a callback that runs after each successful Write or Work, on the
// goroutine that committed: it must not block. The outbox relay wakes by it.
func (db *DB) OnCommit(f func()) {
	db.mu.Lock()
	defer db.mu.Unlock()
	db.onCommit = append(db.onCommit, f)
}

func (db *DB) committed() {
	db.mu.RLock()
	defer db.mu.RUnlock()
	for _, f := range db.onCommit {
		f()
	}
}

// Read runs fn in a read-only transaction of the api role with one snapshot for
// all its queries. Only rows in the scope are visible.
func (db *DB) Read(ctx context.Context, scope Scope, fn func(pgx.Tx) error) error {
	return pgx.BeginTxFunc(ctx, db.api, pgx.TxOptions{
		BeginQuery: "begin isolation level repeatable read read only; " + scope.settings(),
	}, fn)
}

// Write runs fn in a read-write transaction of the api role. Rows outside the
// scope are neither visible nor writable. A transaction that has lasted longer
// than TxLimit is not committed. Serialisation failures and deadlocks are
// returned, never retried here: see IsRetryable.
func (db *DB) Write(ctx context.Context, scope Scope, fn func(pgx.Tx) error) error {
	return db.write(ctx, db.api, "begin read write; "+scope.settings(), fn)
}

// Work is Write for the worker role, which sees every tenant.
func (db *DB) Work(ctx context.Context, fn func(pgx.Tx) error) error {
	return db.write(ctx, db.worker, "begin read write", fn)
}

func (db *DB) write(ctx context.Context, pool *pgxpool.Pool, begin string, fn func(pgx.Tx) error) error {
	ctx, cancel := context.WithTimeoutCause(ctx, db.txLimit, errTooLong)
	defer cancel()
	err := pgx.BeginTxFunc(ctx, pool, pgx.TxOptions{BeginQuery: begin}, fn)
	if err != nil {
		if errors.Is(context.Cause(ctx), errTooLong) {
			return fmt.Errorf("%w (%s): %w", errTooLong, db.txLimit, err)
		}
		return err
	}
	db.committed()
	return nil
}

var errTooLong = errors.New("write transaction lasted longer than allowed")
