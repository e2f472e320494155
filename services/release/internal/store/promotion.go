package store

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/pratique-io/pratique/internal/lease"
	"github.com/pratique-io/pratique/internal/pg"
)

// Promotion is one release on its way to one place, or what became of it.
type Promotion struct {
	ID             uuid.UUID  `db:"id"`
	Tenant         uuid.UUID  `db:"tenant_id"`
	Record         uuid.UUID  `db:"record_id"`
	Destination    string     `db:"destination_image_ref"` // host/repository:tag
	Digest         string     `db:"digest"`
	State          string     `db:"state"` // approved | copying | released | failed
	Actor          string     `db:"actor"` // person id
	Reason         string     `db:"reason"`
	EvidenceHash   string     `db:"evidence_hash"`
	PolicyHash     string     `db:"policy_hash"`
	Attempts       int        `db:"attempts"`
	Waits          int        `db:"waits"`
	Error          string     `db:"error"`
	PreviousDigest string     `db:"previous_digest"`
	CreatedAt      time.Time  `db:"created_at"`
	FinishedAt     *time.Time `db:"finished_at"`
	LeaseToken     int64      `db:"lease_token"`
	LeasedUntil    time.Time  `db:"-"`
}

// Term is the right to act on a claimed promotion.
func (p Promotion) Term() lease.Term { return lease.Term{Token: p.LeaseToken, Until: p.LeasedUntil} }

const promotionColumns = `id, tenant_id, record_id, destination_image_ref, digest, state, actor, reason, evidence_hash, policy_hash, attempts,
	waits, error, previous_digest, created_at, finished_at, lease_token`

const insertPromotion = `
insert into promotion (id, tenant_id, record_id, destination_image_ref, digest, state, actor, reason, evidence_hash, policy_hash, due_at, created_at)
values (@id, @tenant, @record, @destination, @digest, 'approved', @actor, @reason, @evidence_hash, @policy_hash, @at, @at)`

// AddPromotion keeps a decided release; due at once. ErrMoved when one of the record is on its way.
func AddPromotion(ctx context.Context, tx pgx.Tx, p Promotion) error {
	_, err := tx.Exec(ctx, insertPromotion, pgx.NamedArgs{
		"id": p.ID, "tenant": p.Tenant, "record": p.Record, "destination": p.Destination, "digest": p.Digest, "actor": p.Actor,
		"reason": p.Reason, "evidence_hash": p.EvidenceHash, "policy_hash": p.PolicyHash, "at": p.CreatedAt,
	})
	if pg.IsUnique(err, "promotion_open") {
		return ErrMoved
	}
	if err != nil {
		return fmt.Errorf("add promotion: %w", err)
	}
	return nil
}

const openPromotion = `select exists (select from promotion where record_id = @record and state in ('approved', 'copying'))`

// IsPromoting says whether a promotion of the record is on its way.
func IsPromoting(ctx context.Context, tx pgx.Tx, record uuid.UUID) (bool, error) {
	var open bool
	err := tx.QueryRow(ctx, openPromotion, pgx.NamedArgs{"record": record}).Scan(&open)
	return open, err
}

const promotionDue = `
select exists (select from promotion where state in ('approved', 'copying') and due_at <= @now and leased_until <= @now)`

// AnyDue says whether Claim may find something: one round trip, for the many turns in which it would not.
func AnyDue(ctx context.Context, db *pg.DB, now time.Time) (bool, error) {
	return due(ctx, db, promotionDue, now)
}

func due(ctx context.Context, db *pg.DB, query string, now time.Time) (bool, error) {
	var found bool
	if err := db.WorkerPool().QueryRow(ctx, query, pgx.NamedArgs{"now": now}).Scan(&found); err != nil {
		return false, fmt.Errorf("look for due work: %w", err)
	}
	return found, nil
}

// Promotions to one place go one after the other, in the order in which they were decided: the last decided one has the tag in the end.
const claimPromotion = `
update promotion set lease_token = lease_token + 1, leased_until = @until
where id = (
	select p.id from promotion p
	where p.state in ('approved', 'copying') and p.due_at <= @now and p.leased_until <= @now
		and not exists (
			select from promotion o
			where o.destination_image_ref = p.destination_image_ref and o.state in ('approved', 'copying') and o.id <> p.id
				and (o.id < p.id or o.leased_until > @now))
	order by p.due_at, p.id limit 1 for update of p skip locked)
returning ` + promotionColumns

// Claim leases the promotion that is due for longest until the given time; ErrNone when none is.
func Claim(ctx context.Context, tx pgx.Tx, now, until time.Time) (Promotion, error) {
	rows, err := tx.Query(ctx, claimPromotion, pgx.NamedArgs{"now": now, "until": until})
	if err != nil {
		return Promotion{}, fmt.Errorf("claim promotion: %w", err)
	}
	p, err := pgx.CollectExactlyOneRow(rows, pgx.RowToStructByName[Promotion])
	if errors.Is(err, pgx.ErrNoRows) {
		return Promotion{}, ErrNone
	}
	if err != nil {
		return Promotion{}, fmt.Errorf("claim promotion: %w", err)
	}
	p.LeasedUntil = until
	return p, nil
}

// fenced runs a statement that must hit the row that the term is for: ErrMoved when somebody else has it, or it is over.
func fenced(ctx context.Context, tx pgx.Tx, what, query string, p Promotion, args pgx.NamedArgs) error {
	args["id"], args["token"] = p.ID, p.LeaseToken
	tag, err := tx.Exec(ctx, query, args)
	if err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	if tag.RowsAffected() != 1 {
		return ErrMoved
	}
	return nil
}

const renewPromotion = `
update promotion set leased_until = @until
where id = @id and lease_token = @token and state in ('approved', 'copying')`

// Renew prolongs the term.
func Renew(ctx context.Context, tx pgx.Tx, p Promotion, until time.Time) error {
	return fenced(ctx, tx, "renew promotion", renewPromotion, p, pgx.NamedArgs{"until": until})
}

const beginPromotion = `
update promotion set state = 'copying'
where id = @id and lease_token = @token and state in ('approved', 'copying')`

// Begin notes that bytes are about to be written.
func Begin(ctx context.Context, tx pgx.Tx, p Promotion) error {
	return fenced(ctx, tx, "begin promotion", beginPromotion, p, pgx.NamedArgs{})
}

const notePrevious = `
update promotion set previous_digest = @digest
where id = @id and lease_token = @token and state = 'copying'`

// NotePrevious keeps what the tag names before it moves, so that a crash in between does not lose it.
func NotePrevious(ctx context.Context, tx pgx.Tx, p Promotion, digest string) error {
	return fenced(ctx, tx, "note previous digest", notePrevious, p, pgx.NamedArgs{"digest": digest})
}

const postponePromotion = `
update promotion set due_at = @due, leased_until = '-infinity', attempts = attempts + @attempt, waits = waits + @wait, error = @error
where id = @id and lease_token = @token and state in ('approved', 'copying')`

// Delay says what a turn came to that settled nothing.
type Delay struct {
	Until   time.Time
	Attempt bool // it was tried and failed; otherwise it waits for an owner's answer
	Stopped bool // neither: the program stops
	Error   string
}

// Postpone gives the promotion back until later.
func Postpone(ctx context.Context, tx pgx.Tx, p Promotion, d Delay) error {
	args := pgx.NamedArgs{"due": d.Until, "attempt": 0, "wait": 0, "error": d.Error}
	switch {
	case d.Attempt:
		args["attempt"] = 1
	case !d.Stopped:
		args["wait"] = 1
	}
	return fenced(ctx, tx, "postpone promotion", postponePromotion, p, args)
}

const finishPromotion = `
update promotion set state = @state, finished_at = @at, leased_until = '-infinity', error = @error
where id = @id and lease_token = @token and state in ('approved', 'copying')`

// Finish ends the promotion as released or failed.
func Finish(ctx context.Context, tx pgx.Tx, p Promotion, state, text string, at time.Time) error {
	return fenced(ctx, tx, "finish promotion", finishPromotion, p, pgx.NamedArgs{"state": state, "at": at, "error": text})
}
