package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// load is what one lifecycle writes: rows by table, and the transactions they come in.
type load struct {
	tables       []tableLoad
	transactions float64 // per lifecycle, those that wrote anything but the relay's cursor
	lifecycles   int     // it was measured over
}

// tableLoad is one table's share. An update counts as a row: Postgres writes the whole row again, and its log with it.
type tableLoad struct {
	name             string  // schema.table
	inserted, update float64 // rows per lifecycle
	width            float64 // bytes of a row, header and all
}

func (t tableLoad) rows() float64 { return t.inserted + t.update }

// counts are Postgres's own numbers at one moment. Sessions report theirs late, for certain only when they end.
type counts struct{ inserted, updated map[string]int64 }

// apart are tables that the limit does without: the delivery's own bookkeeping, which is no durable fact, and what was set up at the start.
var apart = []string{"outbox_cursor", "outbox_mark", "inbox_attempt", "inbox_sequence",
	"directory_binding", "directory_person", "directory_tenant", "person", "role_binding", "tenant"}

var schemas = []string{"intake", "approval", "dispatch", "evidence", "release", "notify"}

const (
	// Partitions count as their table.
	statSQL = `select schemaname || '.' || regexp_replace(relname, '^(inbox|outbox)_(\d{8}|default)$', '\1'), sum(n_tup_ins)::bigint, sum(n_tup_upd)::bigint
from pg_stat_user_tables where schemaname = any($1) group by 1`
	sessionSQL = `select count(*) from pg_stat_activity where usename = any(select s || r from unnest($1::text[]) s, unnest(array['_api', '_worker']) r)`
	xidSQL     = `select pg_snapshot_xmax(pg_current_snapshot())::text::bigint`
)

func tally(ctx context.Context, pool *pgxpool.Pool) (counts, error) {
	c := counts{inserted: map[string]int64{}, updated: map[string]int64{}}
	rows, err := pool.Query(ctx, statSQL, schemas)
	if err != nil {
		return c, err
	}
	var name string
	var inserted, updated int64
	if _, err := pgx.ForEachRow(rows, []any{&name, &inserted, &updated}, func() error {
		c.inserted[name], c.updated[name] = inserted, updated
		return nil
	}); err != nil {
		return c, err
	}
	return c, nil
}

// nextTransaction is the number that the next writing transaction gets.
func nextTransaction(ctx context.Context, pool *pgxpool.Pool) (xid int64, err error) {
	err = pool.QueryRow(ctx, xidSQL).Scan(&xid)
	return xid, err
}

// loadSince divides what was written since by the lifecycles, warm-up and all; transactions are given per lifecycle, those of the relay's cursor
// included. The sessions that wrote must have ended.
func loadSince(ctx context.Context, pool *pgxpool.Pool, before counts, lifecycles int, transactions float64) (*load, error) {
	err := await(ctx, "the services' sessions to end", 10*time.Second, func() error {
		var open int
		if err := pool.QueryRow(ctx, sessionSQL, schemas).Scan(&open); err != nil || open > 0 {
			return errors.Join(err, fmt.Errorf("%d are open", open))
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	after, err := tally(ctx, pool)
	if err != nil {
		return nil, err
	}
	n := float64(lifecycles)
	l := &load{lifecycles: lifecycles}
	for name := range after.inserted {
		_, table, _ := strings.Cut(name, ".")
		one := tableLoad{name: name, inserted: float64(after.inserted[name]-before.inserted[name]) / n,
			update: float64(after.updated[name]-before.updated[name]) / n}
		if table == "outbox_cursor" {
			transactions -= one.update // one transaction per move of the cursor
		}
		if one.rows()*n < 1 || slices.Contains(apart, table) {
			continue
		}
		if one.width, err = width(ctx, pool, name); err != nil {
			return nil, err
		}
		l.tables = append(l.tables, one)
	}
	if len(l.tables) == 0 || transactions <= 0 {
		return nil, errors.New("the run wrote no rows that Postgres counted")
	}
	slices.SortFunc(l.tables, func(a, b tableLoad) int { return strings.Compare(a.name, b.name) })
	l.transactions = transactions
	return l, nil
}

func width(ctx context.Context, pool *pgxpool.Pool, name string) (float64, error) {
	var bytes float64
	query := `select coalesce(avg(pg_column_size(t.*)), 0)::float8 from (select * from ` + pgx.Identifier(strings.Split(name, ".")).Sanitize() + ` limit 2000) t`
	if err := pool.QueryRow(ctx, query).Scan(&bytes); err != nil {
		return 0, fmt.Errorf("row width of %s: %w", name, err)
	}
	return bytes, nil
}

func (l *load) rows() (n float64) {
	for _, t := range l.tables {
		n += t.rows()
	}
	return n
}

func (l *load) bytes() (n float64) {
	for _, t := range l.tables {
		n += t.rows() * t.width
	}
	return n
}

// remarks say where the rows are, per service.
func (l *load) remarks() []string {
	var out []string
	for _, schema := range schemas {
		var parts []string
		for _, t := range l.tables {
			if name, ok := strings.CutPrefix(t.name, schema+"."); ok && t.rows() >= 0.1 {
				parts = append(parts, fmt.Sprintf("%s %.1f+%.1f", name, t.inserted, t.update))
			}
		}
		out = append(out, fmt.Sprintf("%s (inserts+updates per lifecycle): %s", schema, strings.Join(parts, ", ")))
	}
	return out
}

const (
	overhead     = 24 + 16 + 4 // row header, id, length of the body
	bareTableSQL = `create table %s (id uuid primary key, body bytea not null)`
	bareDropSQL  = `drop schema if exists bare cascade; create schema bare`
)

// insert is some rows of one table.
type insert struct{ table, rows int }

// bare is the limit: a table of the same name and row width for each of the product's, with a primary key and nothing else, and the same number of
// rows in the same number of transactions, each in one round trip.
func (b *lifecycles) bare(ctx context.Context) (sample, error) {
	l, n := b.load, b.size.lifecycles
	if _, err := b.s.admin.Exec(ctx, bareDropSQL); err != nil {
		return sample{}, err
	}
	statements, bodies := make([]string, len(l.tables)), make([][]byte, len(l.tables))
	for i, t := range l.tables {
		name := pgx.Identifier{"bare", strings.ReplaceAll(t.name, ".", "_")}.Sanitize()
		if _, err := b.s.admin.Exec(ctx, fmt.Sprintf(bareTableSQL, name)); err != nil {
			return sample{}, err
		}
		statements[i] = `insert into ` + name + ` select * from unnest($1::uuid[], $2::bytea[])`
		bodies[i] = make([]byte, max(1, int(t.width)-overhead))
		if _, err := rand.Read(bodies[i]); err != nil { // nothing to compress
			return sample{}, err
		}
	}
	jobs := make(chan []insert)
	errs := make([]error, adminConns)
	var all sync.WaitGroup
	began := time.Now()
	for i := range adminConns {
		all.Go(func() {
			for inserts := range jobs {
				if errs[i] == nil {
					errs[i] = writeBare(ctx, b.s.admin, statements, bodies, inserts)
				}
			}
		})
	}
	for _, inserts := range l.plan(n) {
		jobs <- inserts
	}
	close(jobs)
	all.Wait()
	return sample{count: n, took: time.Since(began)}, errors.Join(errs...)
}

// plan deals the rows of n lifecycles out to their transactions, table by table, so that few transactions touch more than one: that is the least
// work Postgres can have with them.
func (l *load) plan(n int) [][]insert {
	transactions := max(1, int(l.transactions*float64(n)+0.5))
	total := 0
	amounts := make([]int, len(l.tables))
	for i, t := range l.tables {
		amounts[i] = int(t.rows()*float64(n) + 0.5)
		total += amounts[i]
	}
	out := make([][]insert, transactions)
	at, table := 0, 0
	for i := range out {
		end := total * (i + 1) / transactions
		for at < end {
			for amounts[table] == 0 {
				table++
			}
			rows := min(end-at, amounts[table])
			out[i] = append(out[i], insert{table, rows})
			amounts[table] -= rows
			at += rows
		}
	}
	// Neighbours would all write to the same table at once; dealt like cards they do not.
	dealt := make([][]insert, 0, len(out))
	for start := range adminConns {
		for i := start; i < len(out); i += adminConns {
			dealt = append(dealt, out[i])
		}
	}
	return dealt
}

func writeBare(ctx context.Context, pool *pgxpool.Pool, statements []string, bodies [][]byte, inserts []insert) error {
	if len(inserts) == 0 {
		return nil
	}
	batch := &pgx.Batch{}
	for _, in := range inserts {
		ids, rows := make([]uuid.UUID, in.rows), make([][]byte, in.rows)
		for i := range ids {
			id, err := uuid.NewV7()
			if err != nil {
				return err
			}
			ids[i], rows[i] = id, bodies[in.table]
		}
		batch.Queue(statements[in.table], ids, rows)
	}
	return pool.SendBatch(ctx, batch).Close() // one implicit transaction
}

// lastRow waits until the services write no more events and claims, and answers when the last was written.
func lastRow(ctx context.Context, pool *pgxpool.Pool) (time.Time, error) {
	var parts []string
	for _, schema := range schemas {
		parts = append(parts, `(select count(*) from `+schema+`.inbox)`, `(select count(*) from `+schema+`.outbox)`)
	}
	query := `select ` + strings.Join(parts, " + ")
	seen, at := int64(-1), time.Now()
	for {
		var now int64
		if err := pool.QueryRow(ctx, query).Scan(&now); err != nil {
			return at, err
		}
		if now != seen {
			seen, at = now, time.Now()
		} else if time.Since(at) > quiet {
			return at, nil
		}
		if !tick(ctx, 25*time.Millisecond) {
			return at, nil
		}
	}
}
