package bus

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/pratique-io/pratique/internal/outbox"
	"github.com/pratique-io/pratique/internal/pg"
)

// RuntimeConfig is what a service's consumers need. Service, Conn, DB and Subscriptions are required.
type RuntimeConfig struct {
	Service       string
	Conn          *Conn
	DB            *pg.DB
	Subscriptions []Subscription
	Log           *slog.Logger
	Registerer    prometheus.Registerer
	Now           func() time.Time
	Chaos         Chaos         // faults on purpose; zero in production
	Linger        time.Duration // how long a batch that has begun waits for more; 2 ms when zero
	MaxBatch      int           // most messages of one transaction; 256 when zero, never more. Less is for benchmarks
}

// Runtime runs one service's consumers.
type Runtime struct {
	cfg       RuntimeConfig
	consumers []*consumer
}

// NewRuntime checks the subscriptions; nothing runs yet.
func NewRuntime(cfg RuntimeConfig) (*Runtime, error) {
	if cfg.Log == nil {
		cfg.Log = slog.Default()
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Linger == 0 {
		cfg.Linger = 2 * time.Millisecond
	}
	if cfg.MaxBatch <= 0 || cfg.MaxBatch > fetchMax {
		cfg.MaxBatch = fetchMax
	}
	r := &Runtime{cfg: cfg}
	seen := map[string]bool{}
	for _, sub := range cfg.Subscriptions {
		if err := sub.check(); err != nil {
			return nil, fmt.Errorf("service %s: %w", cfg.Service, err)
		}
		if seen[sub.Purpose] {
			return nil, fmt.Errorf("service %s: subscription %s is given twice", cfg.Service, sub.Purpose)
		}
		seen[sub.Purpose] = true
		for _, spec := range Consumers(cfg.Service, sub) {
			r.consumers = append(r.consumers, newConsumer(cfg, sub, spec))
		}
	}
	return r, nil
}

// Run consumes until ctx ends, and returns when the last batch is settled. Faults of broker and database are logged and
// outlived.
func (r *Runtime) Run(ctx context.Context) error {
	var all sync.WaitGroup
	for _, c := range r.consumers {
		all.Go(func() { c.run(ctx) })
	}
	if len(r.consumers) > 0 {
		all.Go(func() { r.tend(ctx) })
	}
	all.Wait()
	return nil
}

// tend runs what dead letters people asked to try again, and keeps the inbox's days.
func (r *Runtime) tend(ctx context.Context) {
	const every, upkeepEvery = time.Second, time.Hour
	var kept time.Time
	for {
		if now := r.cfg.Now(); now.Sub(kept) >= upkeepEvery {
			if err := upkeep(ctx, r.cfg.DB, outbox.InboxKeep); err != nil && ctx.Err() == nil {
				r.cfg.Log.WarnContext(ctx, "inbox upkeep failed, trying again later", "service", r.cfg.Service, "err", err)
			}
			kept = now
		}
		seen := map[string]bool{}
		for _, c := range r.consumers {
			if seen[c.spec.Name] {
				continue // one name on two streams is one inbox
			}
			seen[c.spec.Name] = true
			if err := c.retryDead(ctx); err != nil && ctx.Err() == nil {
				r.cfg.Log.WarnContext(ctx, "requeued dead letters wait", "consumer", c.spec.Name, "err", err)
			}
		}
		if !pause(ctx, every) {
			return
		}
	}
}

// Ready reports which consumers are not bound, and why.
func (r *Runtime) Ready() error {
	if err := r.cfg.Conn.Ready(); err != nil {
		return err
	}
	var missing []string
	for _, c := range r.consumers {
		if !c.bound.Load() {
			missing = append(missing, c.spec.Stream+"/"+c.spec.Name)
		}
	}
	if len(missing) > 0 {
		return errors.New("not consuming yet: " + strings.Join(missing, ", "))
	}
	return nil
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
