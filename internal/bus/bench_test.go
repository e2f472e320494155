package bus_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// BenchmarkDelivery is the whole way of an event: outbox row, relay, synced stream, claim, one row written by a handler that
// takes events singly. Events/s.
func BenchmarkDelivery(b *testing.B) {
	const size = 5000
	bench := set(b, plain(effect), nil)
	for b.Loop() {
		before := bench.effects()
		bench.write(checks(b, many(size)...)...)
		require.Eventually(b, func() bool { return bench.effects() >= before+size }, time.Minute, 5*time.Millisecond, "handled")
	}
	b.ReportMetric(size*float64(b.N)/b.Elapsed().Seconds(), "events/s")
}
