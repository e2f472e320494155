package pgtest_test

import (
	"testing"

	"github.com/pratique-io/pratique/internal/pg/pgtest"
)

// BenchmarkNew is what a test pays for its own database, its removal included.
func BenchmarkNew(b *testing.B) {
	for b.Loop() {
		func() {
			t := &once{TB: b}
			defer t.done()
			pgtest.New(t, "memo", notes(""))
		}()
	}
}

// once runs its cleanups when told instead of at the end of the benchmark.
type once struct {
	testing.TB
	cleanups []func()
}

func (o *once) Cleanup(f func()) { o.cleanups = append(o.cleanups, f) }

func (o *once) done() {
	for i := len(o.cleanups) - 1; i >= 0; i-- {
		o.cleanups[i]()
	}
}
