package directory

import (
	"time"

	"github.com/pratique-io/pratique/internal/pg"
)

// Remember is the time after which an answer is asked for again.
const Remember = remember + time.Millisecond

// NewResolverAt is a resolver with a clock of the test's own.
func NewResolverAt(db *pg.DB, now func() time.Time) *Resolver {
	r := NewResolver(db)
	r.now = now
	return r
}

// Clock is moved by hand.
type Clock struct{ past time.Duration }

func (c *Clock) Add(d time.Duration) { c.past += d }
func (c *Clock) Now() time.Time      { return time.Unix(1_700_000_000, 0).Add(c.past) }
