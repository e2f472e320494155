package pg

import (
	"context"
	"database/sql"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"regexp"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/stdlib"
	"github.com/pressly/goose/v3"
)

// Migrations are the tables of one owner: a service, or a mechanism whose tables
// live in every service's schema. FS holds NNNN_words.sql files in its root,
// each beginning with "-- +goose Up"; they only go forward. Name names the
// version table, <name>_version.
type Migrations struct {
	Name string
	FS   fs.FS
}

var migrationFile = regexp.MustCompile(`^[0-9]{4}_[a-z0-9_]+\.sql$`)

// Embedded is the set in a package's embedded folder "migrations"; a package without one is a mistake of its author.
func Embedded(name string, files embed.FS) Migrations {
	folder, err := fs.Sub(files, "migrations")
	if err != nil {
		panic(err) // "migrations" is a valid path
	}
	return Migrations{Name: name, FS: folder}
}

// target is the highest version in the set.
func (m Migrations) target() (int64, error) {
	if err := checkName("migrations", m.Name); err != nil {
		return 0, err
	}
	if m.FS == nil {
		return 0, fmt.Errorf("migrations %s: no files", m.Name)
	}
	names, err := fs.Glob(m.FS, "*.sql")
	if err != nil {
		return 0, fmt.Errorf("migrations %s: %w", m.Name, err)
	}
	var highest int64
	for _, name := range names {
		if !migrationFile.MatchString(name) {
			return 0, fmt.Errorf("migrations %s: file %q is not named NNNN_words.sql", m.Name, name)
		}
		version, err := goose.NumericComponent(name)
		if err != nil {
			return 0, fmt.Errorf("migrations %s: %w", m.Name, err)
		}
		highest = max(highest, version)
	}
	if highest == 0 {
		return 0, fmt.Errorf("migrations %s: no files", m.Name)
	}
	return highest, nil
}

func (m Migrations) table() string { return m.Name + "_version" }

func checkSets(sets []Migrations) error {
	seen := map[string]bool{}
	for _, set := range sets {
		if _, err := set.target(); err != nil {
			return err
		}
		if seen[set.Name] {
			return fmt.Errorf("migrations %s: given twice", set.Name)
		}
		seen[set.Name] = true
	}
	return nil
}

//go:embed helper.sql
var helperSQL string

// Migrate makes one schema ready: its roles with these passwords, the schema,
// the SQL helpers, then each set in the order given, run as the owner role.
// adminURL is a direct connection (no transaction pooler) of a superuser, or of
// a role that may create roles and owns the database. It may run again and from
// several programs at once.
func Migrate(ctx context.Context, adminURL, schema string, pw Passwords, sets ...Migrations) error {
	if err := errors.Join(checkName("schema", schema), checkSets(sets)); err != nil {
		return err
	}
	admin, err := connectAdmin(ctx, adminURL)
	if err != nil {
		return err
	}
	defer admin.Close(context.WithoutCancel(ctx))
	if err := provision(ctx, admin, schema, pw); err != nil {
		return fmt.Errorf("provision %s: %w", schema, err)
	}

	cc := admin.Config().Copy()
	asRole(cc, schema, ownerRole(schema), pw.Owner)
	db := stdlib.OpenDB(*cc)
	defer db.Close()
	if err := locked(ctx, db, strings.ReplaceAll(helperSQL, "SCHEMA", schema)); err != nil {
		return fmt.Errorf("sql helpers in %s: %w", schema, err)
	}
	for _, set := range sets {
		if err := applySet(ctx, db, schema, set); err != nil {
			return fmt.Errorf("migrations %s in %s: %w", set.Name, schema, err)
		}
	}
	return nil
}

// locked runs statements of the owner in one transaction under the lock: changed
// privileges of one object from two sessions at once are an error in Postgres.
func locked(ctx context.Context, db *sql.DB, statements string) error {
	conn, err := db.Conn(ctx)
	if err != nil {
		return err
	}
	defer conn.Close()
	return conn.Raw(func(raw any) error {
		c := raw.(*stdlib.Conn).Conn()
		return pgx.BeginFunc(ctx, c, func(tx pgx.Tx) error {
			if _, err := tx.Exec(ctx, "select pg_advisory_xact_lock($1)", lockKey); err != nil {
				return err
			}
			_, err := tx.Exec(ctx, statements)
			return err
		})
	})
}

func applySet(ctx context.Context, db *sql.DB, schema string, set Migrations) error {
	provider, err := goose.NewProvider(goose.DialectPostgres, db, set.FS,
		goose.WithTableName(set.table()),
		goose.WithSessionLocker(setLock{}),
		goose.WithDisableGlobalRegistry(true),
	)
	if err != nil {
		return err
	}
	if _, err := provider.Up(ctx); err != nil {
		var partial *goose.PartialError
		if errors.As(err, &partial) && partial.Failed != nil && partial.Failed.Source != nil {
			return fmt.Errorf("%s: %w", partial.Failed.Source.Path, partial.Err)
		}
		return err
	}
	return locked(ctx, db, fmt.Sprintf("grant select on %s to %s, %s", set.table(), apiRole(schema), workerRole(schema)))
}

// setLock serialises migrations per database. It tries instead of waiting in the
// server: a waiter's snapshot would block "create index concurrently" for ever.
type setLock struct{}

func (setLock) SessionLock(ctx context.Context, conn *sql.Conn) error {
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		var got bool
		if err := conn.QueryRowContext(ctx, "select pg_try_advisory_lock($1)", lockKey).Scan(&got); err != nil {
			return fmt.Errorf("lock: %w", err)
		}
		if got {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("lock: %w", context.Cause(ctx))
		case <-tick.C:
		}
	}
}

func (setLock) SessionUnlock(ctx context.Context, conn *sql.Conn) error {
	_, err := conn.ExecContext(ctx, "select pg_advisory_unlock($1)", lockKey)
	return err
}

// ErrSchemaBelow is returned by CheckSchema when migrations have not been run.
var ErrSchemaBelow = errors.New("database schema is older than this program")

// CheckSchema refuses a database below the given sets. A newer one is accepted:
// migrations run before the programs that need them.
func CheckSchema(ctx context.Context, db *DB, sets ...Migrations) error {
	if err := checkSets(sets); err != nil {
		return err
	}
	for _, set := range sets {
		want, err := set.target()
		if err != nil {
			return err
		}
		have, err := db.version(ctx, set)
		if err != nil {
			return fmt.Errorf("read version of %s in schema %s: %w", set.Name, db.schema, err)
		}
		if have < want {
			return fmt.Errorf("%w: schema %s, migrations %s at %d, need %d: run \"pratique migrate\"",
				ErrSchemaBelow, db.schema, set.Name, have, want)
		}
	}
	return nil
}

func (db *DB) version(ctx context.Context, set Migrations) (int64, error) {
	var version int64
	err := db.worker.QueryRow(ctx,
		"select coalesce(max(version_id), 0) from "+set.table()+" where is_applied").Scan(&version)
	if Code(err) == "42P01" { // the table does not exist: nothing was ever applied
		return 0, nil
	}
	return version, err
}
