package bus

import (
	"context"
	"errors"
	"strings"

	"github.com/prometheus/client_golang/prometheus"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"
)

// tally counts one batch's outcomes; it becomes metrics only when the batch commits.
type tally map[string]int

// settled counts an outcome that may commit; false for the others.
func (t tally) settled(err error) bool {
	if err == nil {
		t["ok"]++
		return true
	}
	if kind, reason := outcomeOf(err); kind == discard {
		t.discard(reason)
		return true
	}
	return false
}

func (t tally) discard(reason string) { t["discard "+reason]++ }

type metric struct {
	events    *prometheus.CounterVec
	discarded *prometheus.CounterVec
	consumer  string
}

func newMetric(reg prometheus.Registerer, spec Consumer) metric {
	return metric{
		consumer: spec.Name,
		events: register(reg, prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "pratique_bus_events_total", Help: "Events settled, by consumer and outcome.",
		}, []string{"consumer", "outcome"})),
		discarded: register(reg, prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "pratique_bus_discarded_total", Help: "Events that needed nothing done, by the handler's reason.",
		}, []string{"consumer", "reason"})),
	}
}

func (m metric) outcome(name string, n int) {
	m.events.WithLabelValues(m.consumer, name).Add(float64(n))
}

func (m metric) count(t tally) {
	for name, n := range t {
		if reason, ok := strings.CutPrefix(name, "discard "); ok {
			m.discarded.WithLabelValues(m.consumer, reason).Add(float64(n))
			name = "discard"
		}
		m.outcome(name, n)
	}
}

// register returns the collector in use: all consumers of a process share one.
func register[C prometheus.Collector](reg prometheus.Registerer, c C) C {
	if reg == nil {
		return c
	}
	var already prometheus.AlreadyRegisteredError
	if err := reg.Register(c); errors.As(err, &already) {
		if existing, ok := already.ExistingCollector.(C); ok {
			return existing
		}
	}
	return c
}

// span covers the handling of one batch. It is linked to the producers' traces, not their child: a batch has many causes.
func (c *consumer) span(ctx context.Context, items []item) (context.Context, trace.Span) {
	var links []trace.Link
	seen := map[string]bool{}
	for _, it := range items {
		parent := it.event.Traceparent
		if parent == "" || seen[parent] {
			continue
		}
		seen[parent] = true
		remote := propagation.TraceContext{}.Extract(context.Background(), propagation.MapCarrier{"traceparent": parent})
		links = append(links, trace.Link{SpanContext: trace.SpanContextFromContext(remote)})
	}
	return otel.Tracer("pratique/bus").Start(ctx, "handle "+c.spec.Name, trace.WithSpanKind(trace.SpanKindConsumer),
		trace.WithLinks(links...), trace.WithAttributes(
			attribute.String("messaging.system", "nats"), attribute.Int("messaging.batch.message_count", len(items))))
}
