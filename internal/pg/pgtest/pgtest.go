// Package pgtest gives each test a real PostgreSQL database of its own, with the
// real roles and row-level security. A server is started once per test process;
// a schema is migrated once into a template database, which each test clones.
package pgtest

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"io/fs"
	"net/url"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/pratique-io/pratique/internal/pg"
)

// Passwords are those of every role of every schema on the test server.
func Passwords() pg.Passwords {
	return pg.Passwords{Owner: "owner-password", API: "api-password", Worker: "worker-password"}
}

// New gives the test a fresh database in which the schema has been migrated with
// the sets, opened as the service would. It is closed and dropped afterwards.
func New(t testing.TB, schema string, sets ...pg.Migrations) *pg.DB {
	t.Helper()
	i := Server(t)
	source, err := i.template(schema, sets)
	if err != nil {
		t.Fatalf("test database: %v", err)
	}
	name := i.database(t, source)
	// Privileges of a database are not part of its template.
	_, err = i.admin.Exec(t.Context(), fmt.Sprintf(`revoke all on database %[1]s from public;
		grant connect on database %[1]s to %[2]s_owner, %[2]s_api, %[2]s_worker`, name, schema))
	if err != nil {
		t.Fatalf("test database: %v", err)
	}
	return open(t, i.url(name), schema)
}

// Database gives the test a fresh, empty database and returns its URL as
// superuser; for tests that put several schemas into one.
func Database(t testing.TB) string {
	t.Helper()
	i := Server(t)
	return i.url(i.database(t, "template1"))
}

// Migrate runs the sets in a database of Database, or of a private server, with
// Passwords.
func Migrate(t testing.TB, adminURL, schema string, sets ...pg.Migrations) {
	t.Helper()
	i := Server(t)
	err := i.exclusive(func() error { return pg.Migrate(t.Context(), adminURL, schema, Passwords(), sets...) })
	if err != nil {
		t.Fatalf("migrate test database: %v", err)
	}
}

// Open is Migrate, then the schema opened as the service would.
func Open(t testing.TB, adminURL, schema string, sets ...pg.Migrations) *pg.DB {
	t.Helper()
	Migrate(t, adminURL, schema, sets...)
	return open(t, adminURL, schema)
}

func open(t testing.TB, adminURL, schema string) *pg.DB {
	t.Helper()
	db, err := pg.Open(t.Context(), pg.Config{URL: adminURL, Schema: schema, Passwords: Passwords()})
	if err != nil {
		t.Fatalf("open test database: %v", err)
	}
	t.Cleanup(db.Close)
	return db
}

// Admin connects as superuser to the database of New: past row-level security
// and for faults such as triggers that fail. search_path is the service's schema.
func Admin(t testing.TB, db *pg.DB) *pgx.Conn {
	t.Helper()
	cfg := db.WorkerPool().Config().ConnConfig
	super, err := pgx.ParseConfig(Server(t).AdminURL())
	if err != nil {
		t.Fatalf("test database: %v", err)
	}
	super.Database = cfg.Database
	super.RuntimeParams["search_path"] = db.Schema()
	conn, err := pgx.ConnectConfig(t.Context(), super)
	if err != nil {
		t.Fatalf("test database: %v", err)
	}
	t.Cleanup(func() { _ = conn.Close(context.Background()) })
	return conn
}

// exclusive runs what changes roles, which are shared by all databases of the
// server, where concurrent changes fail ("tuple concurrently updated").
func (i *Instance) exclusive(f func() error) error {
	i.mu.Lock()
	defer i.mu.Unlock()
	return f()
}

// database clones one under a new name and drops the clone after the test.
func (i *Instance) database(t testing.TB, source string) string {
	t.Helper()
	i.mu.Lock()
	i.cloned++
	name := fmt.Sprintf("test_%d", i.cloned)
	i.mu.Unlock()
	if err := i.create(t.Context(), name, source); err != nil {
		t.Fatalf("test database: %v", err)
	}
	t.Cleanup(func() {
		if _, err := i.admin.Exec(context.Background(), "drop database "+name+" with (force)"); err != nil {
			t.Errorf("drop test database: %v", err)
		}
	})
	return name
}

func (i *Instance) create(ctx context.Context, name, source string) error {
	_, err := i.admin.Exec(ctx, "create database "+name+" template "+source+" strategy file_copy")
	return err
}

func (i *Instance) url(database string) string {
	u, err := url.Parse(i.AdminURL())
	if err != nil {
		panic(err) // we rendered it
	}
	u.Path = "/" + database
	return u.String()
}

// template is a migrated database, made once.
type template struct {
	once sync.Once
	err  error
}

// template returns the name of the database that holds these migrations.
func (i *Instance) template(schema string, sets []pg.Migrations) (string, error) {
	sum, err := digest(schema, sets)
	if err != nil {
		return "", err
	}
	name := "template_" + sum
	i.mu.Lock()
	tpl := i.templates[name]
	if tpl == nil {
		tpl = &template{}
		i.templates[name] = tpl
	}
	i.mu.Unlock()
	tpl.once.Do(func() {
		ctx := context.Background() // outlives the test that happens to be first
		if tpl.err = i.create(ctx, name, "template1"); tpl.err != nil {
			return
		}
		tpl.err = i.exclusive(func() error { return pg.Migrate(ctx, i.url(name), schema, Passwords(), sets...) })
	})
	return name, tpl.err
}

// digest names a schema with exactly these files.
func digest(schema string, sets []pg.Migrations) (string, error) {
	h := sha256.New()
	fmt.Fprintf(h, "%q\n", schema)
	for _, set := range sets {
		fmt.Fprintf(h, "set %q\n", set.Name)
		if set.FS == nil {
			continue // Migrate refuses it with a better message
		}
		names, err := fs.Glob(set.FS, "*.sql")
		if err != nil {
			return "", err
		}
		for _, name := range names {
			if err := hashFile(h, set.FS, name); err != nil {
				return "", err
			}
		}
	}
	return hex.EncodeToString(h.Sum(nil)[:8]), nil
}

func hashFile(w io.Writer, files fs.FS, name string) error {
	text, err := fs.ReadFile(files, name)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(w, "file %q %d\n%s", name, len(text), text)
	return err
}
