// Package lease runs a service's loops: the only code of a service that touches the outside world. A loop leases due rows,
// acts, records the outcome, and is run again at once while it finds work, else when its interval passes or a transaction
// of this process commits. Nothing is held in memory between two turns, so a crash loses nothing but time.
package lease

import (
	"context"
	"time"
)

// Loop is one repeated act. Run reports whether it did work; it must be safe to run at any time, any number of times.
type Loop struct {
	Name  string
	Every time.Duration
	Run   func(ctx context.Context) (didWork bool, err error)
}

// Term is a claim on a row: whoever holds it may act until Until, and writes the outcome only where the row still carries
// Token. An acknowledgement is no lease and a clock is no fence: a holder that was stopped for an hour comes back with an old
// token, and its write hits no row.
//
// The idiom, in a service's own store, with columns lease_token bigint and leased_until timestamptz:
//
//	update run set lease_token = lease_token + 1, leased_until = @until
//	where id in (select id from run where state = 'queued' and leased_until < @now
//	             order by created_at limit @n for update skip locked)
//	returning id, lease_token, leased_until
//
//	update run set state = 'started', leased_until = '-infinity' where id = @id and lease_token = @token
type Term struct {
	Token int64
	Until time.Time
}

// Over reports whether the term has run out; act no more, whatever the row says.
func (t Term) Over(now time.Time) bool { return !now.Before(t.Until) }

// Context ends with the term, so that calls outside do not outlive the right to make them.
func (t Term) Context(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithDeadline(ctx, t.Until)
}
