package bus

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/pratique-io/pratique/internal/event"
	"github.com/pratique-io/pratique/internal/outbox"
)

const (
	fetchMax    = 256
	prefetch    = 512
	heartbeat   = time.Second
	rebindFirst = 50 * time.Millisecond
	rebindMost  = 2 * time.Second
)

// item is one delivery: a message and the event in it.
type item struct {
	msg   jetstream.Msg
	event event.Envelope
}

// consumer binds one durable consumer and settles what it delivers.
type consumer struct {
	cfg    RuntimeConfig
	sub    Subscription
	spec   Consumer
	inbox  inbox
	metric metric
	types  map[string]bool
	since  time.Time // of a consumer that starts at new events
	bound  atomic.Bool
	chaos  *mixer
}

func newConsumer(cfg RuntimeConfig, sub Subscription, spec Consumer) *consumer {
	c := &consumer{cfg: cfg, sub: sub, spec: spec, inbox: inbox{db: cfg.DB, consumer: spec.Name},
		metric: newMetric(cfg.Registerer, spec), types: map[string]bool{}, chaos: cfg.Chaos.mixer()}
	for _, typ := range sub.Types {
		c.types[typ] = true
	}
	return c
}

// run binds, consumes, and binds again whenever the broker was away: the consumer may have to be made anew by whoever owns
// the topology, so this waits for it as long as it takes.
func (c *consumer) run(ctx context.Context) {
	wait := rebindFirst
	for ctx.Err() == nil {
		worked, err := c.consume(ctx)
		c.bound.Store(false)
		if ctx.Err() != nil {
			return
		}
		if worked {
			wait = rebindFirst
		}
		c.cfg.Log.InfoContext(ctx, "consumer binds again", "consumer", c.spec.Name, "stream", c.spec.Stream, "err", err)
		pause(ctx, wait)
		wait = min(2*wait, rebindMost)
	}
}

// consume works until the binding breaks; worked is true when it was bound at all.
func (c *consumer) consume(ctx context.Context) (worked bool, err error) {
	fresh, cancel := c.cfg.Conn.onReconnect()
	defer cancel()
	binding, done := context.WithTimeout(ctx, callWait)
	handle, err := c.cfg.Conn.js.Consumer(binding, c.spec.Stream, c.spec.Name)
	done()
	if err != nil {
		return false, fmt.Errorf("bind: %w", err)
	}
	if c.spec.New {
		if c.since, err = c.inbox.since(ctx, handle.CachedInfo().Created); err != nil {
			return false, fmt.Errorf("read when the consumer began: %w", err)
		}
	}
	messages, err := handle.Messages(jetstream.PullMaxMessages(prefetch), jetstream.PullHeartbeat(heartbeat),
		jetstream.PullExpiry(10*heartbeat), jetstream.WithMessagesErrOnMissingHeartbeat(true))
	if err != nil {
		return false, fmt.Errorf("pull: %w", err)
	}
	defer messages.Stop()
	waiting, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	go func() {
		select {
		case <-fresh: // what was pulled from the broker before is gone with it
			stop(errors.New("broker was away"))
		case <-waiting.Done():
		}
	}()
	c.bound.Store(true)
	for waiting.Err() == nil {
		batch, err := c.fetch(waiting, messages)
		c.settle(ctx, batch)
		if err != nil && waiting.Err() == nil {
			return true, err
		}
	}
	return true, context.Cause(waiting)
}

// fetch waits for a message, then a little for more. It returns what it has together with an error.
func (c *consumer) fetch(ctx context.Context, messages jetstream.MessagesContext) ([]jetstream.Msg, error) {
	var batch []jetstream.Msg
	first, err := messages.Next(c.firstWait(ctx))
	if errors.Is(err, nats.ErrTimeout) {
		return c.chaos.mix(nil), nil
	}
	if err != nil {
		return nil, err
	}
	batch = append(batch, first)
	until := time.Now().Add(c.cfg.Linger)
	for len(batch) < c.cfg.MaxBatch {
		left := time.Until(until)
		if left <= 0 {
			break
		}
		next, err := messages.Next(jetstream.NextMaxWait(left))
		if errors.Is(err, nats.ErrTimeout) {
			break
		}
		if err != nil {
			return c.chaos.mix(batch), err
		}
		batch = append(batch, next)
	}
	return c.chaos.mix(batch), nil
}

// firstWait waits for ever, unless faults on purpose hold messages back that must come out some time.
func (c *consumer) firstWait(ctx context.Context) jetstream.NextOpt {
	if c.chaos != nil {
		return jetstream.NextMaxWait(chaosPatience)
	}
	return jetstream.NextContext(ctx)
}

// settle decides about every message of a batch: what is no event of ours is refused, the rest is handled.
func (c *consumer) settle(ctx context.Context, batch []jetstream.Msg) {
	if len(batch) == 0 {
		return
	}
	items := make([]item, 0, len(batch))
	for _, msg := range batch {
		e, err := event.Decode(msg.Data())
		if err != nil {
			c.refuse(ctx, msg, nil, "undecodable", err)
			continue
		}
		if event.SubjectOf(e) != msg.Subject() || !c.types[e.Type] {
			// The subject is what the broker let the sender write; the envelope is only what he claims.
			c.refuse(ctx, msg, &e, "forged", fmt.Errorf("event %s does not belong on %s", e.Type, msg.Subject()))
			continue
		}
		items = append(items, item{msg: msg, event: e})
	}
	c.handle(ctx, items)
}

// tooOld: the inbox would no longer know whether the event was handled before.
func (c *consumer) tooOld(e event.Envelope) (string, bool) {
	born := e.Born()
	if c.cfg.Now().Sub(born) > outbox.InboxKeep {
		return "too_old", true
	}
	if c.spec.New && born.Before(c.since) {
		return "before_consumer", true
	}
	return "", false
}
