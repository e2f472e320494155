package pg_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/pratique-io/pratique/internal/pg"
	"github.com/pratique-io/pratique/internal/pg/pgtest"
)

const firstFile = `-- +goose Up
create table ship (
	id uuid primary key,
	tenant_id uuid not null,
	name text not null,
	flag text not null default 'free',
	constraint ship_name_key unique (tenant_id, name),
	constraint ship_flag_check check (flag in ('free', 'held'))
);
select pratique_protect('ship');
create table port (id bigint generated always as identity primary key, name text not null);
select pratique_share('port');
create sequence berth;
`

func ships() pg.Migrations {
	return pg.Migrations{Name: "ship", FS: fstest.MapFS{"0001_ship.sql": {Data: []byte(firstFile)}}}
}

func newID(t testing.TB) uuid.UUID {
	t.Helper()
	id, err := uuid.NewV7()
	require.NoError(t, err)
	return id
}

// bundle is a database with one ship of each of two tenants.
type bundle struct {
	db           *pg.DB
	mine, theirs uuid.UUID // tenants
}

func setup(t *testing.T) bundle {
	t.Helper()
	b := bundle{db: pgtest.New(t, "harbour", ships()), mine: newID(t), theirs: newID(t)}
	require.NoError(t, b.db.Work(t.Context(), func(tx pgx.Tx) error {
		for _, tenant := range []uuid.UUID{b.mine, b.theirs} {
			if err := insertShip(t.Context(), tx, newID(t), tenant, "Aurora"); err != nil {
				return err
			}
		}
		return nil
	}))
	return b
}

func insertShip(ctx context.Context, tx pgx.Tx, id, tenant uuid.UUID, name string) error {
	_, err := tx.Exec(ctx, "insert into ship (id, tenant_id, name) values (@id, @tenant, @name)",
		pgx.NamedArgs{"id": id, "tenant": tenant, "name": name})
	return err
}

// owners reads the tenants of all visible ships, without a predicate: only
// row-level security stands in between.
func owners(ctx context.Context, tx pgx.Tx) ([]uuid.UUID, error) {
	rows, err := tx.Query(ctx, "select tenant_id from ship")
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, pgx.RowTo[uuid.UUID])
}

func TestScopeOfAPI(t *testing.T) {
	t.Parallel()
	b := setup(t)
	read := func(t *testing.T, scope pg.Scope) []uuid.UUID {
		t.Helper()
		var got []uuid.UUID
		require.NoError(t, b.db.Read(t.Context(), scope, func(tx pgx.Tx) (err error) {
			got, err = owners(t.Context(), tx)
			return err
		}))
		return got
	}
	t.Run("one tenant sees its rows only, without any predicate in the query", func(t *testing.T) {
		require.Equal(t, []uuid.UUID{b.mine}, read(t, pg.OneTenant(b.mine)))
		require.Equal(t, []uuid.UUID{b.theirs}, read(t, pg.OneTenant(b.theirs)))
	})
	t.Run("all tenants sees everything", func(t *testing.T) {
		require.ElementsMatch(t, []uuid.UUID{b.mine, b.theirs}, read(t, pg.AllTenants()))
	})
	t.Run("no scope, or an unknown tenant, sees nothing", func(t *testing.T) {
		require.Empty(t, read(t, pg.Scope{}))
		require.Empty(t, read(t, pg.OneTenant(newID(t))))
	})
	t.Run("a connection keeps no scope of its previous transaction", func(t *testing.T) {
		for range 2 * pg.DefaultMaxConns { // more often than there are connections
			require.Len(t, read(t, pg.AllTenants()), 2)
			require.Empty(t, read(t, pg.Scope{}))
		}
	})
	t.Run("the query's own tenant predicate holds where row-level security does not", func(t *testing.T) {
		require.NoError(t, b.db.Read(t.Context(), pg.AllTenants(), func(tx pgx.Tx) error {
			var n int
			err := tx.QueryRow(t.Context(), "select count(*) from ship where tenant_id = $1", b.mine).Scan(&n)
			require.Equal(t, 1, n)
			return err
		}))
	})
	t.Run("a table shared by all is seen without a scope", func(t *testing.T) {
		require.NoError(t, b.db.Write(t.Context(), pg.Scope{}, func(tx pgx.Tx) error {
			_, err := tx.Exec(t.Context(), "insert into port (name) values ('Ragusa')")
			return err
		}))
	})
}

func TestWriteCannotLeaveItsTenant(t *testing.T) {
	t.Parallel()
	b := setup(t)
	ctx := t.Context()
	t.Run("insert for another tenant is denied", func(t *testing.T) {
		err := b.db.Write(ctx, pg.OneTenant(b.mine), func(tx pgx.Tx) error {
			return insertShip(ctx, tx, newID(t), b.theirs, "Trojan")
		})
		require.True(t, pg.IsDenied(err), "got %v", err)
	})
	t.Run("moving a row to another tenant is denied", func(t *testing.T) {
		err := b.db.Write(ctx, pg.OneTenant(b.mine), func(tx pgx.Tx) error {
			_, err := tx.Exec(ctx, "update ship set tenant_id = $1", b.theirs)
			return err
		})
		require.True(t, pg.IsDenied(err), "got %v", err)
	})
	t.Run("update and delete do not find another tenant's rows", func(t *testing.T) {
		require.NoError(t, b.db.Write(ctx, pg.OneTenant(b.mine), func(tx pgx.Tx) error {
			for _, query := range []string{"update ship set name = 'x' where tenant_id = $1", "delete from ship where tenant_id = $1"} {
				tag, err := tx.Exec(ctx, query, b.theirs)
				if err != nil {
					return err
				}
				require.Zero(t, tag.RowsAffected(), query)
			}
			return nil
		}))
	})
	t.Run("the worker sees and writes every tenant", func(t *testing.T) {
		require.NoError(t, b.db.Work(ctx, func(tx pgx.Tx) error {
			got, err := owners(ctx, tx)
			require.Len(t, got, 2)
			return err
		}))
	})
}

func TestReadIsReadOnlyAndOneSnapshot(t *testing.T) {
	t.Parallel()
	b := setup(t)
	ctx := t.Context()
	err := b.db.Read(ctx, pg.AllTenants(), func(tx pgx.Tx) error {
		return insertShip(ctx, tx, newID(t), b.mine, "Ghost")
	})
	require.Equal(t, "25006", pg.Code(err), "read_only_sql_transaction")

	require.NoError(t, b.db.Read(ctx, pg.AllTenants(), func(tx pgx.Tx) error {
		before, err := owners(ctx, tx)
		require.NoError(t, err)
		require.NoError(t, b.db.Work(ctx, func(tx pgx.Tx) error { return insertShip(ctx, tx, newID(t), b.mine, "Late") }))
		after, err := owners(ctx, tx)
		require.Equal(t, before, after)
		return err
	}))
}

// as logs in as one role of the test's database.
func as(t *testing.T, db *pg.DB, role, password string) *pgx.Conn {
	t.Helper()
	cc := db.WorkerPool().Config().ConnConfig.Copy()
	cc.User, cc.Password = role, password
	conn, err := pgx.ConnectConfig(t.Context(), cc)
	require.NoError(t, err)
	t.Cleanup(func() { _ = conn.Close(context.Background()) })
	return conn
}

func TestOwnerIsBoundToo(t *testing.T) {
	t.Parallel()
	b := setup(t)
	owner := as(t, b.db, "harbour_owner", pgtest.Passwords().Owner)
	count := func(q interface {
		QueryRow(context.Context, string, ...any) pgx.Row
	}) (n int) {
		require.NoError(t, q.QueryRow(t.Context(), "select count(*) from ship").Scan(&n))
		return n
	}
	require.Zero(t, count(owner), "row-level security must be forced")
	require.NoError(t, pgx.BeginFunc(t.Context(), owner, func(tx pgx.Tx) error {
		_, err := tx.Exec(t.Context(), "set local pratique.all_tenants = 'on'")
		require.Equal(t, 2, count(tx), "a data migration says so")
		return err
	}))
	require.Equal(t, 2, count(pgtest.Admin(t, b.db)), "the rows are there")
}

func TestRolesSeeNoOtherSchema(t *testing.T) {
	t.Parallel()
	adminURL := pgtest.Database(t)
	harbour := pgtest.Open(t, adminURL, "harbour", ships())
	pgtest.Open(t, adminURL, "customs", ships())
	pw := pgtest.Passwords()
	for role, password := range map[string]string{
		"customs_owner": pw.Owner, "customs_api": pw.API, "customs_worker": pw.Worker,
	} {
		conn := as(t, harbour, role, password)
		for _, query := range []string{
			"select * from harbour.ship", "insert into harbour.port (name) values ('x')", "select * from harbour.ship_version",
			"select nextval('harbour.berth')", "select harbour.pratique_share('ship')",
			"create table harbour.mine (id int)", "create table public.mine (id int)", "create temp table mine (id int)",
			"create schema mine", "set role harbour_api", "create role mine",
		} {
			_, err := conn.Exec(t.Context(), query)
			require.True(t, pg.IsDenied(err), "%s: %s: got %v", role, query, err)
		}
	}
	for _, role := range []string{"harbour_api", "harbour_worker"} {
		password := pw.API
		if strings.HasSuffix(role, "worker") {
			password = pw.Worker
		}
		conn := as(t, harbour, role, password)
		for _, query := range []string{
			"create table mine (id int)", "alter table ship disable row level security", "drop table ship",
			"alter table ship no force row level security", "truncate ship", "set role harbour_owner", "select pratique_share('ship')",
		} {
			_, err := conn.Exec(t.Context(), query)
			require.True(t, pg.IsDenied(err), "%s: %s: got %v", role, query, err)
		}
		_, err := conn.Exec(t.Context(), "select nextval('berth')")
		require.NoError(t, err, "sequences of its own schema")
	}
}

func TestPasswords(t *testing.T) {
	t.Parallel()
	b := setup(t)
	t.Run("a wrong password is refused, on the socket too", func(t *testing.T) {
		cfg := pg.Config{URL: pgtest.Server(t).AdminURL(), Schema: "harbour", Passwords: pg.Passwords{API: "wrong", Worker: "wrong"}}
		_, err := pg.Open(t.Context(), cfg)
		require.Equal(t, "28P01", pg.Code(err), "got %v", err)
	})
	t.Run("another database of the server is closed to the roles", func(t *testing.T) {
		// a database of a test that migrated another schema only
		other := pgtest.Database(t)
		pgtest.Migrate(t, other, "customs", ships())
		_, err := pg.Open(t.Context(), pg.Config{URL: other, Schema: "harbour", Passwords: pgtest.Passwords()})
		require.True(t, pg.IsDenied(err), "got %v", err)
	})
	t.Run("they print as redacted", func(t *testing.T) {
		cfg := pg.Config{URL: "postgres://u:canary-0@h/d", Schema: "harbour", Passwords: pg.Passwords{Owner: "canary-1", API: "canary-2", Worker: "canary-3"}}
		var out strings.Builder
		slog.New(slog.NewTextHandler(&out, nil)).Info("config", "passwords", cfg.Passwords, "config", cfg)
		for _, verb := range []string{"%v", "%+v", "%#v", "%s"} {
			fmt.Fprintf(&out, verb, cfg)
			fmt.Fprintf(&out, verb, &cfg.Passwords)
		}
		require.NotContains(t, out.String(), "canary")
	})
	t.Run("an unreadable url is not quoted", func(t *testing.T) {
		_, err := pg.Open(t.Context(), pg.Config{URL: "postgres://u:canary@h:badport/x", Schema: "harbour"})
		require.Error(t, err)
		require.NotContains(t, err.Error(), "canary")
	})
	t.Run("the server stores only a verifier and never saw the password in a statement", func(t *testing.T) {
		var stored string
		require.NoError(t, pgtest.Admin(t, b.db).QueryRow(t.Context(),
			"select rolpassword from pg_authid where rolname = 'harbour_api'").Scan(&stored))
		require.True(t, strings.HasPrefix(stored, "SCRAM-SHA-256$4096:"), stored)
	})
}

func TestOnCommit(t *testing.T) {
	t.Parallel()
	b := setup(t)
	ctx := t.Context()
	woken := 0
	b.db.OnCommit(func() { woken++ })
	nothing := func(pgx.Tx) error { return nil }
	require.NoError(t, b.db.Write(ctx, pg.AllTenants(), nothing))
	require.NoError(t, b.db.Work(ctx, nothing))
	require.Equal(t, 2, woken)

	broken := errors.New("broken")
	require.ErrorIs(t, b.db.Write(ctx, pg.AllTenants(), func(tx pgx.Tx) error {
		require.NoError(t, insertShip(ctx, tx, newID(t), b.mine, "Rolled back"))
		return broken
	}), broken)
	require.NoError(t, b.db.Read(ctx, pg.AllTenants(), nothing))
	require.Equal(t, 2, woken, "neither a rollback nor a read wakes anybody")
	require.ErrorIs(t, b.db.Work(ctx, func(tx pgx.Tx) error {
		_, err := tx.Exec(ctx, "select 1/0")
		require.Error(t, err)
		return nil // an error that was swallowed must not look like a commit
	}), pgx.ErrTxCommitRollback)
	require.Equal(t, 2, woken)
}

func TestLimitsOfRoles(t *testing.T) {
	t.Parallel()
	b := setup(t)
	require.NoError(t, b.db.Write(t.Context(), pg.AllTenants(), func(tx pgx.Tx) error {
		for setting, want := range map[string]string{
			"statement_timeout": "5s", "idle_in_transaction_session_timeout": "5s", "lock_timeout": "3s",
			"search_path": "harbour", "TimeZone": "UTC", "server_encoding": "UTF8", "transaction_isolation": "read committed",
		} {
			var got string
			if err := tx.QueryRow(t.Context(), "select current_setting($1)", setting).Scan(&got); err != nil {
				return err
			}
			require.Equal(t, want, got, setting)
		}
		return nil
	}))
}

func TestLongWriteIsNotCommitted(t *testing.T) {
	t.Parallel()
	b := setup(t)
	ctx := t.Context()
	b.db.SetTxLimit(50 * time.Millisecond)
	woken := false
	b.db.OnCommit(func() { woken = true })
	err := b.db.Work(ctx, func(tx pgx.Tx) error {
		if err := insertShip(ctx, tx, newID(t), b.mine, "Slow"); err != nil {
			return err
		}
		_, err := tx.Exec(ctx, "select pg_sleep(0.1)")
		return err
	})
	require.ErrorContains(t, err, "write transaction lasted longer than")
	require.False(t, woken)
	b.db.SetTxLimit(pg.TxLimit)
	require.NoError(t, b.db.Work(ctx, func(tx pgx.Tx) error {
		got, err := owners(ctx, tx)
		require.Len(t, got, 2, "the slow ship was rolled back")
		return err
	}))
}
