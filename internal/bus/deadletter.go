package bus

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/pratique-io/pratique/internal/event"
	"github.com/pratique-io/pratique/internal/pg"
)

// DeadLetter is a message that a consumer gave up on. State: dead, requeued (a running service will try it), resolved.
type DeadLetter struct {
	ID        uuid.UUID
	Consumer  string
	EventID   *uuid.UUID // nil: the body is no event
	TenantID  *uuid.UUID
	Type      string
	Subject   string
	Body      []byte
	Error     string
	Attempt   int
	State     string
	CreatedAt time.Time
	UpdatedAt time.Time
}

const listDeadSQL = `select id, consumer, event_id, tenant_id, type, subject, body, error, attempt, state, created_at, updated_at
from dead_letter
where state <> 'resolved' and (@consumer = '' or consumer = @consumer)
order by created_at, id limit @limit`

// DeadLetters lists what is dead or requeued, oldest first; of one consumer, or of all when consumer is empty.
func DeadLetters(ctx context.Context, db *pg.DB, consumer string, limit int) ([]DeadLetter, error) {
	rows, err := db.WorkerPool().Query(ctx, listDeadSQL, pgx.NamedArgs{"consumer": consumer, "limit": limit})
	if err != nil {
		return nil, fmt.Errorf("list dead letters: %w", err)
	}
	return pgx.CollectRows(rows, pgx.RowToStructByPos[DeadLetter])
}

const requeueSQL = `update dead_letter set state = 'requeued', updated_at = now()
where state = 'dead' and event_id is not null and (@all or id = any(@ids::uuid[])) and (@consumer = '' or consumer = @consumer)`

// Requeue asks the running service to try dead letters once more: those named, or all of a consumer when none is. It returns
// how many. A message that is no event cannot be requeued.
func Requeue(ctx context.Context, db *pg.DB, consumer string, ids ...uuid.UUID) (int64, error) {
	tag, err := db.WorkerPool().Exec(ctx, requeueSQL, pgx.NamedArgs{"all": len(ids) == 0, "ids": ids, "consumer": consumer})
	if err != nil {
		return 0, fmt.Errorf("requeue dead letters: %w", err)
	}
	return tag.RowsAffected(), nil
}

const takeDeadSQL = `select id, body from dead_letter where consumer = @consumer and state = 'requeued'
order by created_at, id limit 1 for update skip locked`

const requeuedSQL = `select exists (select from dead_letter where consumer = @consumer and state = 'requeued')`

const resolveSQL = `update dead_letter set state = 'resolved', attempt = attempt + 1, updated_at = now() where id = @id`

const dieAgainSQL = `update dead_letter set state = 'dead', attempt = attempt + 1, error = @error, updated_at = now() where id = @id`

// retryDead runs requeued letters through the handler, one transaction each; the claim is theirs already. What fails again is
// dead again.
func (c *consumer) retryDead(ctx context.Context) error {
	var waiting bool // asked first, past DB.Work: looking must not wake the service's loops every second
	err := c.cfg.DB.WorkerPool().QueryRow(ctx, requeuedSQL, pgx.NamedArgs{"consumer": c.spec.Name}).Scan(&waiting)
	if err != nil || !waiting {
		return err
	}
	for {
		found, err := c.retryOne(ctx)
		if err != nil || !found {
			return err
		}
	}
}

func (c *consumer) retryOne(ctx context.Context) (found bool, err error) {
	var id uuid.UUID
	var failed error
	err = c.cfg.DB.Work(ctx, func(tx pgx.Tx) error {
		var body []byte
		err := tx.QueryRow(ctx, takeDeadSQL, pgx.NamedArgs{"consumer": c.spec.Name}).Scan(&id, &body)
		if errors.Is(err, pgx.ErrNoRows) {
			return nil
		}
		if err != nil {
			return err
		}
		found = true
		e, err := event.Decode(body)
		if err == nil {
			err = c.call(ctx, tx, e)
		}
		if !(tally{}).settled(err) {
			failed = err
			return errRollback
		}
		_, err = tx.Exec(ctx, resolveSQL, pgx.NamedArgs{"id": id})
		return err
	})
	if !found {
		return false, err
	}
	if failed == nil {
		failed = err // a commit that failed is an attempt too
	}
	if failed == nil {
		return true, nil
	}
	if isOutage(failed) {
		return false, failed
	}
	err = c.cfg.DB.Work(ctx, func(tx pgx.Tx) error {
		_, err := tx.Exec(ctx, dieAgainSQL, pgx.NamedArgs{"id": id, "error": bounded(failed.Error())})
		return err
	})
	return true, err
}
