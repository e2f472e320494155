package outbox

import (
	"errors"

	"github.com/prometheus/client_golang/prometheus"
)

type metric struct {
	pending prometheus.Gauge
	blocked prometheus.Gauge
	relayed prometheus.Counter
	rewound prometheus.Counter
}

func newMetric(reg prometheus.Registerer, service string) metric {
	labels := prometheus.Labels{"service": service}
	gauge := func(name, help string) prometheus.Gauge {
		return register(reg, prometheus.NewGauge(prometheus.GaugeOpts{Name: name, Help: help, ConstLabels: labels}))
	}
	counter := func(name, help string) prometheus.Counter {
		return register(reg, prometheus.NewCounter(prometheus.CounterOpts{Name: name, Help: help, ConstLabels: labels}))
	}
	return metric{
		pending: gauge("pratique_outbox_pending", "Events not published yet, counted to 100,000."),
		blocked: gauge("pratique_outbox_blocked_seconds",
			"Age of the oldest event not published yet: a broker that is away, or a long transaction."),
		relayed: counter("pratique_outbox_relayed_total", "Events published, repetitions included."),
		rewound: counter("pratique_outbox_rewound_total", "Times a stream had lost what it acknowledged."),
	}
}

// register returns the collector that is in use: a relay restarted in the same process finds its own again.
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
