package outbox

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/pratique-io/pratique/internal/pg"
)

// Config is what a relay needs. Only DB and Publisher are required.
type Config struct {
	DB         *pg.DB
	Publisher  Publisher
	Log        *slog.Logger
	Registerer prometheus.Registerer
	Now        func() time.Time
	// StreamKeep and InboxKeep are the retentions in force, when they are not the defaults.
	StreamKeep, InboxKeep time.Duration
}

const (
	pollBusy    = 50 * time.Millisecond  // the net under the wake-up: commits of other processes
	pollIdle    = 250 * time.Millisecond // after a while without anything
	idleAfter   = 2 * time.Second
	checkEvery  = 2 * time.Second // ask the streams whether they still hold what they acknowledged
	gaugeEvery  = 2 * time.Second
	upkeepEvery = time.Hour
	electEvery  = 200 * time.Millisecond
	retryAfter  = 200 * time.Millisecond
	markEvery   = 10 * time.Second // distance of the marks that outlive the next
)

// Relay publishes one service's outbox. Any number may run; one works.
type Relay struct {
	cfg    Config
	metric metric
	wake   chan struct{}
}

// NewRelay makes a relay and lets commits of this process wake it.
func NewRelay(cfg Config) (*Relay, error) {
	if cfg.StreamKeep == 0 {
		cfg.StreamKeep = StreamKeep
	}
	if cfg.InboxKeep == 0 {
		cfg.InboxKeep = InboxKeep
	}
	if err := CheckKeep(cfg.StreamKeep, Keep, cfg.InboxKeep); err != nil {
		return nil, err
	}
	if cfg.Log == nil {
		cfg.Log = slog.Default()
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	r := &Relay{cfg: cfg, metric: newMetric(cfg.Registerer, cfg.DB.Schema()), wake: make(chan struct{}, 1)}
	cfg.DB.OnCommit(r.Wake)
	return r, nil
}

// Wake makes the relay look at once. It never blocks.
func (r *Relay) Wake() {
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

// Run stands for election and relays until ctx ends; it returns nil then. Faults of the database or the broker are logged
// and outlived.
func (r *Relay) Run(ctx context.Context) error {
	for ctx.Err() == nil {
		err := r.stand(ctx)
		if err == nil || ctx.Err() != nil {
			continue
		}
		r.cfg.Log.WarnContext(ctx, "outbox relay stepped down", "service", r.cfg.DB.Schema(), "err", err)
		pause(ctx, retryAfter)
	}
	return nil
}

// stand waits for the leader's lock on a connection of its own, and leads until something fails.
func (r *Relay) stand(ctx context.Context) error {
	pooled, err := r.cfg.DB.WorkerPool().Acquire(ctx)
	if err != nil {
		return fmt.Errorf("connect: %w", err)
	}
	conn := pooled.Hijack()
	defer func() {
		closing, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
		defer cancel()
		_ = conn.Close(closing) // the lock goes with it, whatever it answers
	}()
	s := &store{conn: conn}
	for {
		got, err := s.lock(ctx)
		if err != nil {
			return fmt.Errorf("elect: %w", err)
		}
		if got {
			return r.lead(ctx, s)
		}
		if !pause(ctx, electEvery) {
			return nil
		}
	}
}

func (r *Relay) lead(ctx context.Context, s *store) error {
	l, err := r.newLeader(ctx, s)
	if err != nil {
		return err
	}
	r.cfg.Log.InfoContext(ctx, "outbox relay leads", "service", r.cfg.DB.Schema(), "generation", s.generation)
	idleSince := r.cfg.Now()
	for ctx.Err() == nil {
		moved, err := l.turn(ctx)
		switch {
		case errors.Is(err, errFenced):
			return err
		case err != nil && s.conn.IsClosed():
			return err
		case err != nil:
			r.cfg.Log.WarnContext(ctx, "outbox relay waits", "service", r.cfg.DB.Schema(), "err", err)
			pause(ctx, retryAfter)
			l.mustCheck = true
			continue
		}
		if moved {
			idleSince = r.cfg.Now()
			continue
		}
		poll := pollBusy
		if r.cfg.Now().Sub(idleSince) > idleAfter {
			poll = pollIdle
		}
		r.sleep(ctx, poll)
	}
	return nil
}

func (r *Relay) sleep(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-r.wake:
	case <-timer.C:
	}
}

// pause waits; false when ctx ended first.
func pause(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}
