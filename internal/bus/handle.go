package bus

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"runtime/debug"
	"slices"

	"github.com/jackc/pgx/v5"

	"github.com/pratique-io/pratique/internal/event"
	"github.com/pratique-io/pratique/internal/pg"
)

// immediateTries repeats a transaction that lost a race in the database, before anybody's attempts are counted.
const immediateTries = 3

// txFailed is what the server says of a transaction in which a statement has failed.
const txFailed = 'E'

var (
	errPanic   = errors.New("handler panicked")
	errSpoiled = errors.New("a statement of the batch failed")
)

// handle brings a batch to its end: one transaction for all when nothing is wrong. When single events fail, the others are
// handled without them; when the transaction fails and nobody knows why, halves are tried until the culprit stands alone.
func (c *consumer) handle(ctx context.Context, items []item) {
	if len(items) == 0 {
		return
	}
	ctx, span := c.span(ctx, items)
	defer span.End()
	c.bisect(ctx, items)
}

func (c *consumer) bisect(ctx context.Context, items []item) {
	for len(items) > 0 && ctx.Err() == nil {
		failed, err := c.attempt(ctx, items)
		switch {
		case err == nil && len(failed) == 0:
			c.ackAll(items)
			return
		case len(failed) > 0:
			items = c.without(ctx, items, failed)
		case isOutage(err):
			c.later(items, err)
			return
		case len(items) == 1:
			c.failure(ctx, items[0], err)
			return
		default:
			half := len(items) / 2
			c.bisect(ctx, items[:half])
			items = items[half:]
		}
	}
}

// without settles the failed events and returns the others. Repetitions of a failed event in the batch go the same way.
func (c *consumer) without(ctx context.Context, items []item, failed map[string]error) []item {
	rest := make([]item, 0, len(items))
	done := map[string]bool{}
	for _, it := range items {
		err, bad := failed[it.event.ID]
		switch {
		case !bad:
			rest = append(rest, it)
		case !done[it.event.ID]:
			done[it.event.ID] = true
			c.failure(ctx, it, err)
		default:
			c.delay(it.msg, retryDelay(1))
		}
	}
	return rest
}

// attempt handles the events in one transaction. failed names events that must be settled apart; then nothing was committed.
func (c *consumer) attempt(ctx context.Context, items []item) (failed map[string]error, err error) {
	for try := 1; ; try++ {
		failed, err = c.transact(ctx, items, false)
		if len(failed) > 0 && c.sub.Handle != nil && len(items) > 1 {
			// One statement that failed spoils the transaction. Once more with a savepoint around each event: that names
			// all culprits in one pass instead of one per pass.
			failed, err = c.transact(ctx, items, true)
		}
		if err == nil || try == immediateTries || !pg.IsRetryable(err) {
			return failed, err
		}
	}
}

var errRollback = errors.New("roll back")

func (c *consumer) transact(ctx context.Context, items []item, savepoints bool) (failed map[string]error, err error) {
	var counted tally
	err = c.cfg.DB.Work(ctx, func(tx pgx.Tx) error {
		counted = tally{}
		fresh, err := c.claim(ctx, tx, items, counted)
		if err != nil {
			return err
		}
		failed = map[string]error{}
		switch {
		case len(fresh) == 0:
		case c.sub.HandleBatch != nil:
			err = c.callBatch(ctx, tx, fresh, failed, counted)
		case savepoints:
			err = c.callApart(ctx, tx, fresh, failed, counted)
		default:
			err = c.callEach(ctx, tx, fresh, failed, counted)
		}
		if err != nil {
			return err
		}
		if len(failed) > 0 {
			return errRollback
		}
		return c.inbox.forgive(ctx, tx, redelivered(items))
	})
	if errors.Is(err, errRollback) {
		return failed, nil
	}
	if err != nil {
		return nil, err
	}
	c.metric.count(counted)
	return nil, nil
}

// claim takes the events that are new to this consumer; what is too old is claimed and discarded.
func (c *consumer) claim(ctx context.Context, tx pgx.Tx, items []item, t tally) ([]event.Envelope, error) {
	ids := make([]string, len(items))
	for i, it := range items {
		ids[i] = it.event.ID
	}
	claimed, err := c.inbox.claim(ctx, tx, ids)
	if err != nil {
		return nil, err
	}
	var fresh []event.Envelope
	for _, it := range items {
		if !claimed[it.event.ID] {
			t["duplicate"]++
			continue
		}
		delete(claimed, it.event.ID)
		if reason, old := c.tooOld(it.event); old {
			t.discard(reason)
			continue
		}
		fresh = append(fresh, it.event)
	}
	return fresh, nil
}

func (c *consumer) callEach(ctx context.Context, tx pgx.Tx, fresh []event.Envelope, failed map[string]error, t tally) error {
	for _, e := range fresh {
		if err := c.call(ctx, tx, e); !t.settled(err) {
			failed[e.ID] = err
			return nil
		}
	}
	return nil
}

// callApart runs each event inside a savepoint, so that all failures are found.
func (c *consumer) callApart(ctx context.Context, tx pgx.Tx, fresh []event.Envelope, failed map[string]error, t tally) error {
	for _, e := range fresh {
		inner, err := tx.Begin(ctx)
		if err != nil {
			return err
		}
		if err := c.call(ctx, inner, e); !t.settled(err) {
			failed[e.ID] = err
			if err := inner.Rollback(ctx); err != nil {
				return err
			}
			continue
		}
		if err := inner.Commit(ctx); err != nil {
			return err
		}
	}
	return nil
}

// call runs the handler for one event; a panic is a poison.
func (c *consumer) call(ctx context.Context, tx pgx.Tx, e event.Envelope) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = c.recovered(ctx, p, &e)
		}
	}()
	ctx = event.WithCause(ctx, e)
	if c.sub.Handle != nil {
		return c.sub.Handle(ctx, tx, e)
	}
	outcomes := c.sub.HandleBatch(ctx, tx, []event.Envelope{e})
	if len(outcomes) != 1 {
		return Poison(fmt.Errorf("handler returned %d outcomes for one event", len(outcomes)))
	}
	return outcomes[0]
}

// callBatch runs the batch handler. A panic or a wrong number of outcomes in a batch says nothing about which event it was.
func (c *consumer) callBatch(ctx context.Context, tx pgx.Tx, fresh []event.Envelope, failed map[string]error, t tally) (err error) {
	if len(fresh) == 1 {
		return c.callEach(ctx, tx, fresh, failed, t)
	}
	defer func() {
		if p := recover(); p != nil {
			err = c.recovered(ctx, p, nil)
		}
	}()
	outcomes := c.sub.HandleBatch(ctx, tx, fresh)
	if len(outcomes) != len(fresh) {
		return fmt.Errorf("handler returned %d outcomes for %d events", len(outcomes), len(fresh))
	}
	for i, e := range fresh {
		if !t.settled(outcomes[i]) {
			failed[e.ID] = outcomes[i]
		}
	}
	if len(failed) > 0 && tx.Conn().PgConn().TxStatus() == txFailed {
		// A statement for all of them broke the transaction. Whoever is to blame, it is not each of them: the batch is split.
		err = errors.Join(errSpoiled, failed[slices.Sorted(maps.Keys(failed))[0]])
		clear(failed)
	}
	return err
}

func (c *consumer) recovered(ctx context.Context, p any, e *event.Envelope) error {
	err := fmt.Errorf("%w: %v", errPanic, p)
	id := ""
	if e != nil {
		id = e.ID
	}
	c.cfg.Log.ErrorContext(ctx, "handler panicked", "consumer", c.spec.Name, "event_id", id, "err", err, "stack", string(debug.Stack()))
	return Poison(err)
}

// redelivered are the events that may have failed before.
func redelivered(items []item) []string {
	var ids []string
	for _, it := range items {
		if meta, err := it.msg.Metadata(); err != nil || meta.NumDelivered > 1 {
			ids = append(ids, it.event.ID)
		}
	}
	return ids
}
