package main

import (
	"context"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	approvalv1 "github.com/pratique-io/pratique/gen/pratique/approval/v1"
	intakev1 "github.com/pratique-io/pratique/gen/pratique/intake/v1"
	"github.com/pratique-io/pratique/internal/bus"
	"github.com/pratique-io/pratique/internal/event"
	"github.com/pratique-io/pratique/internal/outbox"
	"github.com/pratique-io/pratique/internal/pg"
)

//go:embed migrations/*.sql
var files embed.FS

// itemType is the event that P2 consumes.
const itemType = "pratique.approval.v1.CaseApproved"

// batchBench is P2: the bus runtime with a handler that does what services do (claim in the inbox, guarded state change, transition, outbox),
// with its usual batches and with one message per transaction. The backlog is in the stream before; relays are not part of it.
func batchBench(ctx context.Context, s *stand, size sizes) ([]result, error) {
	c := &consuming{s: s, size: size}
	if err := c.prepare(ctx); err != nil {
		return nil, err
	}
	defer c.close()
	all, err := mirrored(ctx,
		func(ctx context.Context) (sample, error) { return c.consume(ctx, size.batched, 0) },
		func(ctx context.Context) (sample, error) { return c.consume(ctx, size.single, 1) })
	if err != nil {
		return nil, err
	}
	return []result{{name: "P2", what: "consumer: events/s handled in batches (inbox, guarded update, transition, outbox)", value: all[0], limit: all[1],
		limitOf: "the same runtime and handler with batch = 1", bar: 10, goal: 20}}, nil
}

// consuming is a service with nothing but a consumer, and a stream full of events for it.
type consuming struct {
	s    *stand
	size sizes
	db   *pg.DB
	conn *bus.Conn
	ids  []uuid.UUID
	runs int // consumers used so far: each run has one of its own, and rows of its own
}

const halves = 4

func (c *consuming) prepare(ctx context.Context) error {
	dir, err := fs.Sub(files, "migrations")
	if err != nil {
		return err
	}
	if c.db, err = c.s.schema(ctx, "p2", outbox.Migrations, bus.Migrations, pg.Migrations{Name: "bench", FS: dir}); err != nil {
		return err
	}
	var subs []bus.Subscription
	for run := range halves {
		subs = append(subs, c.subscription(run, func(context.Context, pgx.Tx, []event.Envelope) []error { return nil }))
	}
	h, err := c.s.newHub(ctx, "p2", false, map[string][]bus.Subscription{"intake": subs, "approval": nil})
	if err == nil {
		c.conn, err = h.connect(ctx, "intake")
	}
	if err == nil {
		err = c.fill(ctx, h)
	}
	if err != nil {
		c.close()
	}
	return err
}

func (c *consuming) close() {
	if c.conn != nil {
		c.conn.Close()
	}
	c.db.Close()
}

func (c *consuming) subscription(run int, handle func(context.Context, pgx.Tx, []event.Envelope) []error) bus.Subscription {
	return bus.Subscription{Purpose: "run" + strconv.Itoa(run), Types: []string{itemType}, HandleBatch: handle}
}

// fill puts the backlog into the stream.
func (c *consuming) fill(ctx context.Context, h *hub) error {
	conn, err := h.connect(ctx, "approval")
	if err != nil {
		return err
	}
	defer conn.Close()
	publisher := bus.NewPublisher(conn)
	tenant, person := uuid.New(), uuid.NewString()
	var batch []outbox.Message
	for i := range c.size.batched {
		id, err := uuid.NewV7()
		if err != nil {
			return err
		}
		c.ids = append(c.ids, id)
		e, err := event.New(ctx, &approvalv1.CaseApproved{CaseId: uuid.NewString(), TenantId: tenant.String(), Kind: "import_request",
			SubjectId: id.String(), DecidedBy: person, Reason: "reviewed", Digest: digestOf(id.String()),
		}, event.Head{Subject: id, Tenant: tenant, Sequence: 2, Request: id, Actor: "user:" + person})
		if err != nil {
			return err
		}
		body, err := e.Encode()
		if err != nil {
			return err
		}
		batch = append(batch, outbox.Message{ID: e.ID, Subject: event.SubjectOf(e), Body: body})
		if len(batch) == outbox.MaxBatch || i == c.size.batched-1 {
			if _, err := publisher.PublishAll(ctx, bus.Lifecycle, batch); err != nil {
				return err
			}
			batch = nil
		}
	}
	return nil
}

const seedSQL = `insert into item (run, id, tenant_id, state, digest, note)
select @run, id, @tenant, 'pending', 'sha256:' || encode(sha256(id::text::bytea), 'hex'), repeat('x', 200) from unnest(@ids::uuid[]) id`

// consume runs a runtime until it has handled n events. most is the batch's limit; 0 is the runtime's own.
func (c *consuming) consume(ctx context.Context, n, most int) (sample, error) {
	run := c.runs
	c.runs++
	err := c.db.Work(ctx, func(tx pgx.Tx) error {
		_, err := tx.Exec(ctx, seedSQL, pgx.NamedArgs{"run": run, "tenant": uuid.New(), "ids": c.ids})
		return err
	})
	if err == nil { // a table that lives has statistics
		_, err = c.s.admin.Exec(ctx, `analyze p2.item`)
	}
	if err != nil {
		return sample{}, err
	}
	h := &change{run: run, want: int64(n), full: make(chan struct{})}
	c.db.OnCommit(h.committed)
	runtime, err := bus.NewRuntime(bus.RuntimeConfig{Service: "intake", Conn: c.conn, DB: c.db, Log: c.s.log, MaxBatch: most,
		Subscriptions: []bus.Subscription{c.subscription(run, h.handle)}})
	if err != nil {
		return sample{}, err
	}
	running, stop := context.WithCancel(ctx)
	defer stop()
	done := make(chan error, 1)
	began := time.Now()
	go func() { done <- runtime.Run(running) }()
	select {
	case <-h.full:
	case <-time.After(c.size.patience):
	case <-ctx.Done():
	}
	out := sample{count: int(h.done.Load()), took: time.Since(began)}
	broken := h.broken.Load() // before stop: what is cut off then is no failure
	stop()
	if err := errors.Join(<-done, ctx.Err()); err != nil {
		return sample{}, err
	}
	if broken != nil {
		return sample{}, *broken
	}
	if out.count == 0 {
		return sample{}, fmt.Errorf("no event was handled within %s", c.size.patience)
	}
	return out, nil
}

// change is the handler of one run. The runtime has one consumer, so everything but the counters is one goroutine's.
type change struct {
	run    int
	want   int64
	staged int64 // handled, not yet committed
	done   atomic.Int64
	full   chan struct{}
	broken atomic.Pointer[error]
}

// committed counts what the transaction that just ended had handled. It runs on the goroutine that committed.
func (h *change) committed() {
	if h.staged == 0 {
		return
	}
	before := h.done.Load()
	now := h.done.Add(h.staged)
	h.staged = 0
	if before < h.want && now >= h.want {
		close(h.full)
	}
}

// changeSQL is one statement for the batch: guarded state change, then a transition for each row that moved.
const changeSQL = `with wanted as (
	select * from unnest(@ids::uuid[], @sequences::bigint[], @causes::uuid[], @transitions::uuid[]) w(id, sequence, cause_id, transition_id)
), moved as (
	update item i set state = 'approved', version = i.version + 1, sequence = w.sequence, updated_at = now()
	from wanted w where i.run = @run and i.id = w.id and i.state = 'pending' and i.sequence < w.sequence
	returning i.id, i.tenant_id, i.version, w.cause_id, w.transition_id
), trail as (
	insert into item_transition (id, run, item_id, tenant_id, version, from_state, to_state, actor, reason, cause_id)
	select transition_id, @run, id, tenant_id, version, 'pending', 'approved', 'service:bench', 'CaseApproved', cause_id from moved
)
select id, tenant_id, version from moved`

func (h *change) handle(ctx context.Context, tx pgx.Tx, batch []event.Envelope) []error {
	h.staged = 0
	out := make([]error, len(batch))
	if err := h.apply(ctx, tx, batch); err != nil {
		h.broken.Store(&err)
		for i := range out {
			out[i] = err
		}
		return out
	}
	h.staged = int64(len(batch))
	return out
}

func (h *change) apply(ctx context.Context, tx pgx.Tx, batch []event.Envelope) error {
	n := len(batch)
	ids, sequences := make([]uuid.UUID, n), make([]int64, n)
	causes, transitions := make([]uuid.UUID, n), make([]uuid.UUID, n)
	for i, e := range batch {
		var m approvalv1.CaseApproved
		if err := e.Decode(&m); err != nil {
			return bus.Poison(err)
		}
		transition, err := uuid.NewV7()
		if err != nil {
			return err
		}
		ids[i], sequences[i], causes[i], transitions[i] = e.Aggregate(), e.Sequence, uuid.MustParse(e.ID), transition
	}
	rows, err := tx.Query(ctx, changeSQL, pgx.NamedArgs{"run": h.run, "ids": ids, "sequences": sequences, "causes": causes, "transitions": transitions})
	if err != nil {
		return err
	}
	var told []event.Envelope
	var id, tenant uuid.UUID
	var version int64
	_, err = pgx.ForEachRow(rows, []any{&id, &tenant, &version}, func() error {
		e, err := event.New(ctx, &intakev1.RequestStateChanged{ImportId: id.String(), TenantId: tenant.String(), FromStatus: "pending",
			Status: "approved", RequestType: "quarantine"},
			event.Head{Subject: id, Tenant: tenant, Sequence: version, Request: id, Actor: "service:bench"})
		told = append(told, e)
		return err
	})
	if err != nil {
		return err
	}
	if len(told) != n {
		return fmt.Errorf("%d of %d items moved", len(told), n)
	}
	return outbox.Append(ctx, tx, told...)
}
