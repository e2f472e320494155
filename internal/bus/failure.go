package bus

import (
	"context"
	"errors"
	"io"
	"net"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/pratique-io/pratique/internal/event"
)

const (
	maxAttempts = 10
	earlyBudget = 10 * time.Minute
	outageDelay = time.Second
)

// failure settles one event that could not be handled: later, or in the dead letters. The count is kept in Postgres, because
// the broker's own is lost with the broker.
func (c *consumer) failure(ctx context.Context, it item, cause error) {
	kind, reason := outcomeOf(cause)
	var dead bool
	var wait time.Duration
	err := c.cfg.DB.Work(ctx, func(tx pgx.Tx) error {
		now := c.cfg.Now()
		if kind == poison {
			dead = true
			return c.inbox.bury(ctx, tx, it.msg.Subject(), it.msg.Data(), &it.event, reason, 1)
		}
		attempt, since, err := c.inbox.fail(ctx, tx, it.event.ID, kind == early, reason, now)
		if err != nil {
			return err
		}
		if kind == early {
			dead, wait = now.Sub(since) >= earlyBudget, earlyDelay(now.Sub(since))
			reason = "too long early: " + reason
		} else {
			dead, wait = attempt >= maxAttempts, retryDelay(attempt)
		}
		if dead {
			return c.inbox.bury(ctx, tx, it.msg.Subject(), it.msg.Data(), &it.event, reason, attempt)
		}
		return nil
	})
	if err != nil {
		c.later([]item{it}, err)
		return
	}
	if dead {
		c.metric.outcome("poison", 1)
		c.cfg.Log.ErrorContext(ctx, "event is a dead letter", "consumer", c.spec.Name, "event_id", it.event.ID,
			"type", it.event.Type, "tenant_id", it.event.TenantID, "err", reason)
		_ = it.msg.Term() // what the broker does not hear it delivers again, and the inbox knows
		return
	}
	name := "retry"
	if kind == early {
		name = "early"
	}
	c.metric.outcome(name, 1)
	c.cfg.Log.DebugContext(ctx, "event is tried again", "consumer", c.spec.Name, "event_id", it.event.ID, "outcome", name,
		"err", reason, "in", wait)
	c.delay(it.msg, wait)
}

// refuse keeps a message that is no event of ours in the dead letters. e is nil when it could not be read.
func (c *consumer) refuse(ctx context.Context, msg jetstream.Msg, e *event.Envelope, label string, cause error) {
	// A forged envelope may carry the id of a true event: it must not claim it.
	err := c.cfg.DB.Work(ctx, func(tx pgx.Tx) error {
		return c.inbox.bury(ctx, tx, msg.Subject(), msg.Data(), nil, label+": "+cause.Error(), 1)
	})
	if err != nil {
		c.later([]item{{msg: msg}}, err)
		return
	}
	c.metric.outcome(label, 1)
	c.cfg.Log.ErrorContext(ctx, "message is refused", "consumer", c.spec.Name, "subject", msg.Subject(), "err", cause)
	_ = msg.Term()
}

// later gives messages back uncounted: the database was away, not the event wrong.
func (c *consumer) later(items []item, cause error) {
	c.cfg.Log.Warn("events wait for the database", "consumer", c.spec.Name, "count", len(items), "err", cause)
	c.metric.outcome("outage", len(items))
	for _, it := range items {
		c.delay(it.msg, outageDelay)
	}
}

func (c *consumer) ackAll(items []item) {
	for _, it := range items {
		_ = it.msg.Ack() // lost: delivered again, and the inbox knows
	}
}

func (c *consumer) delay(msg jetstream.Msg, d time.Duration) {
	_ = msg.NakWithDelay(d) // lost: delivered again after the ack wait
}

// retryDelay doubles from 100 ms to 30 s.
func retryDelay(attempt int) time.Duration {
	return min(100*time.Millisecond<<min(max(attempt-1, 0), 12), 30*time.Second)
}

// earlyDelay asks often at first: what is missing is usually on its way.
func earlyDelay(age time.Duration) time.Duration {
	return min(100*time.Millisecond+age/4, 10*time.Second)
}

// isOutage tells a database that is away from an event that is wrong: no connection, a server starting or stopping, out of
// connections, or our own end.
func isOutage(err error) bool {
	if errors.Is(err, context.Canceled) {
		return true
	}
	var state *pgconn.PgError
	if errors.As(err, &state) {
		class := state.Code[:2]
		return class == "08" || class == "53" || class == "57" && state.Code != "57014"
	}
	var connect *pgconn.ConnectError
	var network net.Error
	return errors.As(err, &connect) || errors.As(err, &network) && !errors.Is(err, context.DeadlineExceeded) ||
		errors.Is(err, net.ErrClosed) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.EOF) ||
		errors.Is(err, pgx.ErrTxClosed) || pgconn.SafeToRetry(err)
}
