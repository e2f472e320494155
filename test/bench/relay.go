package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	intakev1 "github.com/pratique-io/pratique/gen/pratique/intake/v1"
	"github.com/pratique-io/pratique/internal/bus"
	"github.com/pratique-io/pratique/internal/event"
	"github.com/pratique-io/pratique/internal/outbox"
	"github.com/pratique-io/pratique/internal/pg"
)

// relayBench is P3: how fast committed outbox rows become durable events. Measured from the start of the relay (election included) to the
// moment its cursor stands behind the last row, against the textbook relay over the same rows, and against the same relay with a broker that
// syncs nothing.
func relayBench(ctx context.Context, s *stand, size sizes) ([]result, error) {
	synced, err := s.newLane(ctx, "p3_synced", false)
	if err != nil {
		return nil, err
	}
	defer synced.close()
	unsynced, err := s.newLane(ctx, "p3_unsynced", true)
	if err != nil {
		return nil, err
	}
	defer unsynced.close()
	naive, err := s.newTextbook(ctx, synced.conn)
	if err != nil {
		return nil, err
	}
	all, err := mirrored(ctx,
		func(ctx context.Context) (sample, error) { return synced.relay(ctx, size.relayed, size.patience) },
		func(ctx context.Context) (sample, error) {
			return naive.relay(ctx, size.textbook, workers, size.patience)
		},
		func(ctx context.Context) (sample, error) { return naive.relay(ctx, size.textbook, 1, size.patience) },
		func(ctx context.Context) (sample, error) { return unsynced.relay(ctx, size.relayed, size.patience) })
	if err != nil {
		return nil, err
	}
	return []result{
		{name: "P3", what: "relay: durable events/s, broker syncs always", value: all[0], limit: all[1], bar: 15,
			limitOf: fmt.Sprintf("textbook relay: %d workers, skip locked, publish each and wait for its ack, delete; same broker, same events", workers)},
		{name: "P3", what: "the same against a textbook relay with one worker", value: all[0], limit: all[2], bar: 15,
			limitOf: "textbook relay, 1 worker"},
		{name: "P3", what: "the same relay against a broker that syncs nothing", value: all[0], limit: all[3], limitOf: "broker unsynced",
			bar: 1 / 1.5, barName: "goal (within 1.5x)"},
	}, nil
}

// lane is an outbox with a broker behind it.
type lane struct {
	s    *stand
	db   *pg.DB
	conn *bus.Conn
}

func (s *stand) newLane(ctx context.Context, name string, unsynced bool) (*lane, error) {
	db, err := s.schema(ctx, name, outbox.Migrations)
	if err != nil {
		return nil, err
	}
	h, err := s.newHub(ctx, name, unsynced, map[string][]bus.Subscription{"intake": nil})
	if err != nil {
		db.Close()
		return nil, err
	}
	conn, err := h.connect(ctx, "intake")
	if err != nil {
		db.Close()
		return nil, err
	}
	return &lane{s: s, db: db, conn: conn}, nil
}

func (l *lane) close() {
	l.conn.Close()
	l.db.Close()
}

// relay writes n events and measures how long a fresh relay takes to publish them.
func (l *lane) relay(ctx context.Context, n int, patience time.Duration) (sample, error) {
	events, err := approvals(ctx, n)
	if err != nil {
		return sample{}, err
	}
	for len(events) > 0 {
		chunk := events[:min(1000, len(events))]
		events = events[len(chunk):]
		if err := l.db.Work(ctx, func(tx pgx.Tx) error { return outbox.Append(ctx, tx, chunk...) }); err != nil {
			return sample{}, err
		}
	}
	relay, err := outbox.NewRelay(outbox.Config{DB: l.db, Publisher: bus.NewPublisher(l.conn), Log: l.s.log})
	if err != nil {
		return sample{}, err
	}
	publisher := bus.NewPublisher(l.conn)
	before, err := publisher.State(ctx, bus.Lifecycle)
	if err != nil {
		return sample{}, err
	}
	running, stop := context.WithCancel(ctx)
	done := make(chan error, 1)
	began := time.Now()
	go func() { done <- relay.Run(running) }()
	took, err := l.drain(ctx, began, patience)
	stop()
	if err := errors.Join(err, <-done); err != nil {
		return sample{}, err
	}
	after, err := publisher.State(ctx, bus.Lifecycle)
	if stored := after.LastSeq - before.LastSeq; err == nil && stored != uint64(n) {
		err = fmt.Errorf("the stream stored %d of %d events", stored, n)
	}
	return sample{count: n, took: took}, err
}

const drainedSQL = `select c.xid = o.xid and c.seq = o.seq from outbox_cursor c,
lateral (select xid, seq from outbox order by xid desc, seq desc limit 1) o`

// drain waits until the cursor stands behind the last row.
func (l *lane) drain(ctx context.Context, began time.Time, patience time.Duration) (time.Duration, error) {
	for {
		var drained bool
		if err := l.db.WorkerPool().QueryRow(ctx, drainedSQL).Scan(&drained); err != nil {
			return 0, err
		}
		took := time.Since(began)
		if drained {
			return took, nil
		}
		if took > patience {
			return 0, fmt.Errorf("the relay was not done within %s", patience)
		}
		if !tick(ctx, 2*time.Millisecond) {
			return 0, ctx.Err()
		}
	}
}

// approvals are n events as intake publishes them.
func approvals(ctx context.Context, n int) ([]event.Envelope, error) {
	tenant, person := uuid.New(), uuid.NewString()
	out := make([]event.Envelope, n)
	for i := range out {
		id, err := uuid.NewV7()
		if err != nil {
			return nil, err
		}
		out[i], err = event.New(ctx, &intakev1.RequestApproved{
			ImportId: id.String(), TenantId: tenant.String(), RequestType: "quarantine", SourceRegistry: "registry.example.com",
			SourceImageRef: fmt.Sprintf("library/app:%d", i), SourceImageDigest: digestOf(id.String()), DecidedBy: person,
			Reason: "reviewed", RequestedBy: person, ChainRequesters: []string{person},
		}, event.Head{Subject: id, Tenant: tenant, Sequence: 2, Request: id, Actor: "user:" + person})
		if err != nil {
			return nil, err
		}
	}
	return out, nil
}
