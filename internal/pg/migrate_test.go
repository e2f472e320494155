package pg_test

import (
	"context"
	"net/url"
	"testing"
	"testing/fstest"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"

	"github.com/pratique-io/pratique/internal/pg"
	"github.com/pratique-io/pratique/internal/pg/pgtest"
)

// set makes migrations of one table per file.
func set(name string, files map[string]string) pg.Migrations {
	m := fstest.MapFS{}
	for file, sql := range files {
		m[file] = &fstest.MapFile{Data: []byte("-- +goose Up\n" + sql)}
	}
	return pg.Migrations{Name: name, FS: m}
}

func connect(t *testing.T, url string) *pgx.Conn {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), url)
	require.NoError(t, err)
	t.Cleanup(func() { _ = conn.Close(context.Background()) })
	return conn
}

// Each test here that changes roles outside pgtest uses a schema name of its
// own: roles belong to the whole server, and tests run in parallel.

func TestMigrateRunsAgainAndFromSeveralProgramsAtOnce(t *testing.T) {
	t.Parallel()
	adminURL := pgtest.Database(t)
	sets := []pg.Migrations{
		set("first", map[string]string{"0001_a.sql": "create table a (id int);", "0002_b.sql": "create table b (id int);"}),
		set("second", map[string]string{"0001_c.sql": "create table c as select id from a;"}),
	}
	var group errgroup.Group
	for range 4 {
		group.Go(func() error { return pg.Migrate(t.Context(), adminURL, "convoy", pgtest.Passwords(), sets...) })
	}
	require.NoError(t, group.Wait())
	require.NoError(t, pg.Migrate(t.Context(), adminURL, "convoy", pgtest.Passwords(), sets...))

	var tables []string
	require.NoError(t, connect(t, adminURL).QueryRow(t.Context(), `select array_agg(tablename || ' ' || tableowner order by tablename)
		from pg_tables where schemaname = 'convoy'`).Scan(&tables))
	require.Equal(t, []string{
		"a convoy_owner", "b convoy_owner", "c convoy_owner", "first_version convoy_owner", "second_version convoy_owner",
	}, tables)
}

func TestNewPasswordsReplaceOldOnes(t *testing.T) {
	t.Parallel()
	adminURL := pgtest.Database(t)
	tables := set("rota", map[string]string{"0001_a.sql": "create table a (id int);"})
	before := pg.Passwords{Owner: "o1", API: "a1", Worker: "w1"}
	after := pg.Passwords{Owner: "o2", API: "a2 with $ and '", Worker: "w2"}
	for _, pw := range []pg.Passwords{before, after} {
		require.NoError(t, pg.Migrate(t.Context(), adminURL, "rota", pw, tables))
		db, err := pg.Open(t.Context(), pg.Config{URL: adminURL, Schema: "rota", Passwords: pw})
		require.NoError(t, err)
		db.Close()
	}
	_, err := pg.Open(t.Context(), pg.Config{URL: adminURL, Schema: "rota", Passwords: before})
	require.Equal(t, "28P01", pg.Code(err), "got %v", err)
	for _, pw := range []pg.Passwords{{API: "a", Worker: "w"}, {Owner: "o", API: "ä", Worker: "w"}} {
		require.Error(t, pg.Migrate(t.Context(), adminURL, "rota", pw, tables))
	}
}

func TestCheckSchema(t *testing.T) {
	t.Parallel()
	old := set("cargo", map[string]string{"0001_a.sql": "create table a (id int);"})
	current := set("cargo", map[string]string{"0001_a.sql": "create table a (id int);", "0002_b.sql": "create table b (id int);"})
	other := set("other", map[string]string{"0001_o.sql": "create table o (id int);"})
	db := pgtest.New(t, "cargo", current)
	ctx := t.Context()
	require.NoError(t, pg.CheckSchema(ctx, db, current))
	require.NoError(t, pg.CheckSchema(ctx, db, old), "a newer schema than the program is fine")
	require.ErrorIs(t, pg.CheckSchema(ctx, db, current, other), pg.ErrSchemaBelow, "a set that was never run")

	behind := pgtest.New(t, "cargo", old)
	err := pg.CheckSchema(ctx, behind, current)
	require.ErrorIs(t, err, pg.ErrSchemaBelow)
	require.ErrorContains(t, err, "cargo at 1, need 2")
}

func TestFailedMigrationLeavesNothing(t *testing.T) {
	t.Parallel()
	adminURL := pgtest.Database(t)
	good := map[string]string{"0001_a.sql": "create table a (id int);"}
	bad := map[string]string{"0001_a.sql": good["0001_a.sql"], "0002_b.sql": "create table b (id int); select 1/0;"}
	err := pg.Migrate(t.Context(), adminURL, "wreck", pgtest.Passwords(), set("wreck", bad))
	require.ErrorContains(t, err, "0002_b.sql")
	require.Equal(t, "22012", pg.Code(err))
	var left bool
	require.NoError(t, connect(t, adminURL).QueryRow(t.Context(), "select to_regclass('wreck.b') is not null").Scan(&left))
	require.False(t, left)

	bad["0002_b.sql"] = "create table b (id int);"
	require.NoError(t, pg.Migrate(t.Context(), adminURL, "wreck", pgtest.Passwords(), set("wreck", bad)), "the lock was given back")
}

func TestMigrateRefusesWhatItCannotTrust(t *testing.T) {
	t.Parallel()
	adminURL := pgtest.Database(t)
	admin := connect(t, adminURL)
	ok := set("fine", map[string]string{"0001_a.sql": "create table a (id int);"})
	migrate := func(schema string, sets ...pg.Migrations) error {
		return pg.Migrate(t.Context(), adminURL, schema, pgtest.Passwords(), sets...)
	}
	require.ErrorContains(t, migrate(`x"; drop`, ok), "must be lower case")
	require.ErrorContains(t, migrate("fine", ok, ok), "given twice")
	require.ErrorContains(t, migrate("fine", set("Bad", nil)), "must be lower case")
	require.ErrorContains(t, migrate("fine", pg.Migrations{Name: "none"}), "no files")
	require.ErrorContains(t, migrate("fine", set("none", nil)), "no files")
	require.ErrorContains(t, migrate("fine", set("odd", map[string]string{"1_a.sql": "select 1;"})), "NNNN_words.sql")

	_, err := admin.Exec(t.Context(), "create role ghost_api bypassrls")
	require.NoError(t, err)
	require.ErrorContains(t, migrate("ghost", ok), "bypasses row-level security")
	_, err = admin.Exec(t.Context(), "create schema squat")
	require.NoError(t, err)
	require.ErrorContains(t, migrate("squat", ok), `belongs to "postgres"`)
}

func TestMigrateWithoutASuperuser(t *testing.T) {
	t.Parallel()
	adminURL := pgtest.Database(t)
	u, err := url.Parse(adminURL)
	require.NoError(t, err)
	database := u.Path[1:]
	_, err = connect(t, adminURL).Exec(t.Context(),
		"create role keeper login createrole password 'keeper'; alter database "+database+" owner to keeper")
	require.NoError(t, err)
	u.User = url.UserPassword("keeper", "keeper")
	for range 2 {
		require.NoError(t, pg.Migrate(t.Context(), u.String(), "kept", pgtest.Passwords(), ships()))
	}
	db, err := pg.Open(t.Context(), pg.Config{URL: adminURL, Schema: "kept", Passwords: pgtest.Passwords()})
	require.NoError(t, err)
	defer db.Close()
	require.NoError(t, pg.CheckSchema(t.Context(), db, ships()))
}
