package bus

import (
	"context"
	"crypto/sha256"
	"fmt"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/pratique-io/pratique/internal/event"
	"github.com/pratique-io/pratique/internal/pg"
)

// inbox is one consumer's view of the tables.
type inbox struct {
	db       *pg.DB
	consumer string
}

const claimSQL = `insert into inbox (consumer, event_id)
select @consumer, id::uuid from unnest(@ids::text[]) as id
on conflict do nothing returning event_id::text`

// claim returns the events nobody claimed before.
func (b inbox) claim(ctx context.Context, tx pgx.Tx, ids []string) (map[string]bool, error) {
	rows, err := tx.Query(ctx, claimSQL, pgx.NamedArgs{"consumer": b.consumer, "ids": ids})
	if err != nil {
		return nil, fmt.Errorf("claim: %w", err)
	}
	claimed, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return nil, fmt.Errorf("claim: %w", err)
	}
	out := make(map[string]bool, len(claimed))
	for _, id := range claimed {
		out[id] = true
	}
	return out, nil
}

const releaseSQL = `delete from inbox where consumer = @consumer and event_id = any(@ids::text[]::uuid[])`

func (b inbox) release(ctx context.Context, tx pgx.Tx, ids []string) error {
	if len(ids) == 0 {
		return nil
	}
	_, err := tx.Exec(ctx, releaseSQL, pgx.NamedArgs{"consumer": b.consumer, "ids": ids})
	return err
}

const forgiveSQL = `delete from inbox_attempt where consumer = @consumer and event_id = any(@ids::text[]::uuid[])`

// forgive forgets the failed attempts of events that were handled after all.
func (b inbox) forgive(ctx context.Context, tx pgx.Tx, ids []string) error {
	if len(ids) == 0 {
		return nil
	}
	_, err := tx.Exec(ctx, forgiveSQL, pgx.NamedArgs{"consumer": b.consumer, "ids": ids})
	return err
}

const failSQL = `insert into inbox_attempt as a (consumer, event_id, attempt, early_since_at, error, updated_at)
values (@consumer, @id::text::uuid, case when @early then 0 else 1 end, case when @early then @now::timestamptz end, @error, @now)
on conflict (consumer, event_id) do update set
	attempt = a.attempt + case when @early then 0 else 1 end,
	early_since_at = case when @early then coalesce(a.early_since_at, @now) else a.early_since_at end,
	error = @error, updated_at = @now
returning attempt, coalesce(early_since_at, @now)`

// fail counts one more failed attempt, or notes since when the event has been early.
func (b inbox) fail(ctx context.Context, tx pgx.Tx, id string, early bool, reason string, now time.Time) (attempt int, earlySince time.Time, err error) {
	err = tx.QueryRow(ctx, failSQL, pgx.NamedArgs{
		"consumer": b.consumer, "id": id, "early": early, "error": bounded(reason), "now": now,
	}).Scan(&attempt, &earlySince)
	return attempt, earlySince, err
}

const buryDeadSQL = `insert into dead_letter (id, consumer, event_id, tenant_id, type, subject, body, body_hash, error, attempt, state)
values (@id, @consumer, nullif(@event, '')::uuid, nullif(@tenant, '')::uuid, @type, @subject, @body, @hash, @error, @attempt, 'dead')
on conflict (consumer, body_hash) do nothing`

// bury keeps a message that cannot be handled, and claims it: a repetition is not tried again, a requeue is.
func (b inbox) bury(ctx context.Context, tx pgx.Tx, subject string, body []byte, e *event.Envelope, reason string, attempt int) error {
	id, err := uuid.NewV7()
	if err != nil {
		return err
	}
	hash := sha256.Sum256(body)
	args := pgx.NamedArgs{"id": id, "consumer": b.consumer, "event": "", "tenant": "", "type": "", "subject": subject,
		"body": body, "hash": hash[:], "error": bounded(reason), "attempt": attempt}
	if e != nil {
		args["event"], args["tenant"], args["type"] = e.ID, e.TenantID, e.Type
		if _, err := b.claim(ctx, tx, []string{e.ID}); err != nil {
			return err
		}
		if err := b.forgive(ctx, tx, []string{e.ID}); err != nil {
			return err
		}
	}
	if _, err := tx.Exec(ctx, buryDeadSQL, args); err != nil {
		return fmt.Errorf("dead letter: %w", err)
	}
	return nil
}

const sinceSQL = `insert into inbox_consumer as c (consumer, since_at) values (@consumer, @since)
on conflict (consumer) do update set since_at = c.since_at returning since_at`

// since is when the consumer was first seen on a broker.
func (b inbox) since(ctx context.Context, created time.Time) (at time.Time, err error) {
	err = b.db.WorkerPool().QueryRow(ctx, sinceSQL, pgx.NamedArgs{"consumer": b.consumer, "since": created}).Scan(&at)
	return at, err
}

const upkeepSQL = `select inbox_upkeep($1)`

func upkeep(ctx context.Context, db *pg.DB, keep time.Duration) error {
	_, err := db.WorkerPool().Exec(ctx, upkeepSQL, keep)
	return err
}

// bounded keeps errors storable: valid text of at most 2 KiB.
func bounded(s string) string {
	s = strings.ToValidUTF8(strings.ReplaceAll(s, "\x00", ""), "?")
	if len(s) > 2048 {
		s = strings.ToValidUTF8(s[:2048], "")
	}
	return s
}

const newerSQL = `insert into inbox_sequence as s (projection, aggregate_id, sequence) values ($1, $2, $3)
on conflict (projection, aggregate_id) do update set sequence = excluded.sequence where s.sequence < excluded.sequence`

// Newer notes that a projection saw an aggregate at this sequence, and reports whether that is news: false means discard. It
// is for projections whose rows do not carry the sequence themselves; those that do need only the guarded upsert of the
// package comment.
func Newer(ctx context.Context, tx pgx.Tx, projection string, aggregate uuid.UUID, sequence int64) (bool, error) {
	tag, err := tx.Exec(ctx, newerSQL, projection, aggregate, sequence)
	if err != nil {
		return false, fmt.Errorf("sequence of %s: %w", projection, err)
	}
	return tag.RowsAffected() == 1, nil
}
