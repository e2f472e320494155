package bus

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sort"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/pratique-io/pratique/internal/event"
	"github.com/pratique-io/pratique/internal/outbox"
)

// The streams. Everybody's events, and people's, which no outside system may read.
const (
	Lifecycle = "PRATIQUE_LIFECYCLE"
	Directory = "PRATIQUE_DIRECTORY"
)

const (
	ackWait       = 10 * time.Second // twice what a transaction may last; what a killed consumer held comes back after it
	maxAckPending = 2048
	dedupeWindow  = 2 * time.Minute
	callWait      = 10 * time.Second
)

// Stream is one stream of the topology.
type Stream struct {
	Name     string
	Subjects []string
}

// Streams lists the streams.
func Streams() []Stream {
	return []Stream{
		{Name: Lifecycle, Subjects: []string{"pratique.*.v1.>"}},
		{Name: Directory, Subjects: []string{"directory.*.v1.>"}},
	}
}

// Consumer is one durable consumer of the topology. A subscription with types of both streams has one on each, by the same
// name.
type Consumer struct {
	Stream  string
	Name    string
	Filters []string
	New     bool
}

// Topology is all that must exist on the broker, as data.
type Topology struct {
	Replicas  int // 1 on one machine, 3 on a cluster
	Streams   []Stream
	Consumers []Consumer
}

// NewTopology is the topology of these services' subscriptions.
func NewTopology(replicas int, subs map[string][]Subscription) (Topology, error) {
	t := Topology{Replicas: max(replicas, 1), Streams: Streams()}
	seen := map[string]bool{}
	services := make([]string, 0, len(subs))
	for service := range subs {
		services = append(services, service)
	}
	sort.Strings(services)
	for _, service := range services {
		for _, sub := range subs[service] {
			if err := sub.check(); err != nil {
				return Topology{}, fmt.Errorf("service %s: %w", service, err)
			}
			for _, c := range Consumers(service, sub) {
				if seen[c.Stream+c.Name] {
					return Topology{}, fmt.Errorf("consumer %s is named twice", c.Name)
				}
				seen[c.Stream+c.Name] = true
				t.Consumers = append(t.Consumers, c)
			}
		}
	}
	return t, nil
}

// Consumers are the durable consumers that one subscription of a service needs.
func Consumers(service string, sub Subscription) []Consumer {
	var out []Consumer
	for _, stream := range Streams() {
		c := Consumer{Stream: stream.Name, Name: service + "_" + sub.Purpose, New: sub.New}
		for _, typ := range sub.Types {
			if filter := event.FilterOf(typ); streamOf(filter) == stream.Name {
				c.Filters = append(c.Filters, filter)
			}
		}
		if len(c.Filters) > 0 {
			slices.Sort(c.Filters)
			c.Filters = slices.Compact(c.Filters)
			out = append(out, c)
		}
	}
	return out
}

// ApplyTopology is NewTopology and Apply with one replica.
func ApplyTopology(ctx context.Context, conn *Conn, subs map[string][]Subscription) error {
	t, err := NewTopology(1, subs)
	if err != nil {
		return err
	}
	return t.Apply(ctx, conn)
}

// Apply makes the broker have the topology; it may run again at any time. conn's user is the topology user.
func (t Topology) Apply(ctx context.Context, conn *Conn) error {
	for _, s := range t.Streams {
		if _, err := conn.js.CreateOrUpdateStream(ctx, t.streamConfig(s)); err != nil {
			return fmt.Errorf("stream %s: %w", s.Name, err)
		}
	}
	for _, c := range t.Consumers {
		if err := t.applyConsumer(ctx, conn, c); err != nil {
			return fmt.Errorf("consumer %s on %s: %w", c.Name, c.Stream, err)
		}
	}
	return nil
}

func (t Topology) streamConfig(s Stream) jetstream.StreamConfig {
	return jetstream.StreamConfig{
		Name: s.Name, Subjects: s.Subjects, Storage: jetstream.FileStorage, Replicas: t.Replicas,
		Retention: jetstream.LimitsPolicy, Discard: jetstream.DiscardOld, MaxAge: outbox.StreamKeep,
		MaxMsgSize: event.MaxBytes + 4096, Duplicates: dedupeWindow, AllowAtomicPublish: true,
	}
}

func (t Topology) applyConsumer(ctx context.Context, conn *Conn, c Consumer) error {
	want := jetstream.ConsumerConfig{
		Durable: c.Name, DeliverPolicy: jetstream.DeliverAllPolicy, AckPolicy: jetstream.AckExplicitPolicy,
		AckWait: ackWait, MaxAckPending: maxAckPending, FilterSubjects: c.Filters, Replicas: t.Replicas,
		MaxDeliver: -1, // attempts are counted in Postgres; the broker never gives up
	}
	if c.New {
		want.DeliverPolicy = jetstream.DeliverNewPolicy
	}
	existing, err := conn.js.Consumer(ctx, c.Stream, c.Name)
	if err == nil {
		want.DeliverPolicy = existing.CachedInfo().Config.DeliverPolicy // cannot be changed, and is long past
		want.OptStartSeq = existing.CachedInfo().Config.OptStartSeq
		want.OptStartTime = existing.CachedInfo().Config.OptStartTime
	} else if !errors.Is(err, jetstream.ErrConsumerNotFound) {
		return err
	}
	_, err = conn.js.CreateOrUpdateConsumer(ctx, c.Stream, want)
	return err
}

// Keep applies the topology after every reconnect and every interval, until ctx ends: a broker that comes back empty gets it
// again while services retry. Faults are logged.
func (t Topology) Keep(ctx context.Context, conn *Conn, every time.Duration, log *slog.Logger) {
	fresh, cancel := conn.onReconnect()
	defer cancel()
	wait := every
	for {
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			timer.Stop()
			return
		case <-fresh:
			timer.Stop()
		case <-timer.C:
		}
		wait = every
		applying, done := context.WithTimeout(ctx, callWait)
		if err := t.Apply(applying, conn); err != nil && ctx.Err() == nil {
			log.WarnContext(ctx, "topology could not be applied, trying again", "err", err)
			wait = min(every, time.Second)
		}
		done()
	}
}

func (s Subscription) check() error {
	switch {
	case s.Purpose == "":
		return errors.New("subscription without a purpose")
	case len(s.Types) == 0:
		return fmt.Errorf("subscription %s wants no events", s.Purpose)
	case (s.Handle == nil) == (s.HandleBatch == nil):
		return fmt.Errorf("subscription %s needs exactly one of Handle and HandleBatch", s.Purpose)
	}
	return nil
}
