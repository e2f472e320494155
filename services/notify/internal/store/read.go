package store

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/pratique-io/pratique/internal/page"
)

// ErrNone is a notification that this person does not have.
var ErrNone = errors.New("no such notification")

const bindPerson = `select set_config('pratique.person_id', @person::text, true)`

// As binds a caller's transaction to one person: row-level security then shows only that person's notifications, whatever a query says.
// Every transaction of the reading side begins with it.
func As(ctx context.Context, tx pgx.Tx, person uuid.UUID) error {
	if _, err := tx.Exec(ctx, bindPerson, pgx.NamedArgs{"person": person.String()}); err != nil {
		return fmt.Errorf("bind to person: %w", err)
	}
	return nil
}

const columns = `id, tenant_id, recipient, seq, title, message, notification_type, related_resource_type, related_resource_id, link,
	failure_class, failure_code, hint, read_at, created_at`

func collect(rows pgx.Rows, err error) ([]Notification, error) {
	if err != nil {
		return nil, fmt.Errorf("read notifications: %w", err)
	}
	list, err := pgx.CollectRows(rows, pgx.RowToStructByPos[Notification])
	if err != nil {
		return nil, fmt.Errorf("read notifications: %w", err)
	}
	return list, nil
}

const listNotifications = `
select ` + columns + ` from notification
where recipient = @me and (not @unread::boolean or read_at is null)
	and (@after_at::timestamptz is null or (created_at, id) < (@after_at, @after_id::uuid))
order by created_at desc, id desc limit @limit offset @offset`

const countNotifications = `
select count(*) from (select 1 from notification where recipient = @me and (not @unread::boolean or read_at is null) limit @most) as counted`

// List reads one page, newest first, with one row more than asked when there is one, and the count up to page.CountLimit.
func List(ctx context.Context, tx pgx.Tx, me uuid.UUID, unread bool, req page.Request) ([]Notification, int, error) {
	args := pgx.NamedArgs{
		"me": me, "unread": unread, "after_at": nil, "after_id": nil, "limit": req.Limit + 1, "offset": req.Offset, "most": page.CountLimit,
	}
	if req.After != nil {
		args["after_at"], args["after_id"] = req.After.At, req.After.ID
	}
	list, err := collect(tx.Query(ctx, listNotifications, args))
	if err != nil {
		return nil, 0, err
	}
	var total int
	if err := tx.QueryRow(ctx, countNotifications, args).Scan(&total); err != nil {
		return nil, 0, fmt.Errorf("count notifications: %w", err)
	}
	return list, total, nil
}

const countUnread = `select count(*) from (select 1 from notification where recipient = @me and read_at is null limit @most) as counted`

// CountUnread counts to page.MaxReach.
func CountUnread(ctx context.Context, tx pgx.Tx, me uuid.UUID) (n int, err error) {
	if err := tx.QueryRow(ctx, countUnread, pgx.NamedArgs{"me": me, "most": page.MaxReach}).Scan(&n); err != nil {
		return 0, fmt.Errorf("count unread notifications: %w", err)
	}
	return n, nil
}

const markRead = `update notification set read_at = coalesce(read_at, @now) where id = @id and recipient = @me returning ` + columns

// MarkRead marks one; the first time stays. ErrNone when the person does not have it.
func MarkRead(ctx context.Context, tx pgx.Tx, me, id uuid.UUID, now time.Time) (Notification, error) {
	list, err := collect(tx.Query(ctx, markRead, pgx.NamedArgs{"me": me, "id": id, "now": now}))
	if err != nil {
		return Notification{}, err
	}
	if len(list) == 0 {
		return Notification{}, ErrNone
	}
	return list[0], nil
}

const lastNumber = `select coalesce((select last_seq from mailbox where recipient = @me), 0)`

// Last is the number of the person's newest notification, deleted ones included; 0 when there never was one.
func Last(ctx context.Context, tx pgx.Tx, me uuid.UUID) (seq int64, err error) {
	if err := tx.QueryRow(ctx, lastNumber, pgx.NamedArgs{"me": me}).Scan(&seq); err != nil {
		return 0, fmt.Errorf("read mailbox: %w", err)
	}
	return seq, nil
}

const markUpTo = `
update notification set read_at = @now where recipient = @me and id in (
	select id from notification where recipient = @me and read_at is null and seq <= @seq limit @batch)`

// MarkUpTo marks at most batch unread ones up to a number, and answers how many.
func MarkUpTo(ctx context.Context, tx pgx.Tx, me uuid.UUID, seq int64, now time.Time, batch int) (int, error) {
	return change(ctx, tx, markUpTo, pgx.NamedArgs{"me": me, "seq": seq, "now": now, "batch": batch})
}

const deleteRead = `
delete from notification where recipient = @me and id in (
	select id from notification where recipient = @me and read_at is not null and seq <= @seq limit @batch)`

// DeleteRead deletes at most batch read ones up to a number, and answers how many.
func DeleteRead(ctx context.Context, tx pgx.Tx, me uuid.UUID, seq int64, batch int) (int, error) {
	return change(ctx, tx, deleteRead, pgx.NamedArgs{"me": me, "seq": seq, "batch": batch})
}

const deleteMany = `delete from notification where recipient = @me and id = any(@ids::uuid[])`

// Delete deletes those of the ids that the person has, and answers how many.
func Delete(ctx context.Context, tx pgx.Tx, me uuid.UUID, ids []uuid.UUID) (int, error) {
	return change(ctx, tx, deleteMany, pgx.NamedArgs{"me": me, "ids": ids})
}

func change(ctx context.Context, tx pgx.Tx, sql string, args pgx.NamedArgs) (int, error) {
	tag, err := tx.Exec(ctx, sql, args)
	if err != nil {
		return 0, fmt.Errorf("change notifications: %w", err)
	}
	return int(tag.RowsAffected()), nil
}

const numberOf = `
select coalesce(
	(select seq from notification where recipient = @me and id = @id),
	(select max(seq) from notification where recipient = @me and created_at < @before),
	0)`

// NumberOf is the number a stream goes on from after the notification id. When that one was deleted, it is the last from before it (before is
// the time inside the id, with room for clocks): better told twice under one id than not.
func NumberOf(ctx context.Context, tx pgx.Tx, me, id uuid.UUID, before time.Time) (seq int64, err error) {
	if err := tx.QueryRow(ctx, numberOf, pgx.NamedArgs{"me": me, "id": id, "before": before}).Scan(&seq); err != nil {
		return 0, fmt.Errorf("find where the stream was: %w", err)
	}
	return seq, nil
}

const listAfter = `select ` + columns + ` from notification where recipient = @me and seq > @seq order by seq limit @limit`

// After reads what came after a number, oldest first.
func After(ctx context.Context, tx pgx.Tx, me uuid.UUID, seq int64, limit int) ([]Notification, error) {
	return collect(tx.Query(ctx, listAfter, pgx.NamedArgs{"me": me, "seq": seq, "limit": limit}))
}

const selectHeads = `select recipient, last_seq from mailbox where recipient = any(@people::uuid[])`

// Heads are the newest numbers of these people; who never got one is missing.
func Heads(ctx context.Context, tx pgx.Tx, people []uuid.UUID) (map[uuid.UUID]int64, error) {
	rows, err := tx.Query(ctx, selectHeads, pgx.NamedArgs{"people": people})
	if err != nil {
		return nil, fmt.Errorf("read mailboxes: %w", err)
	}
	heads := map[uuid.UUID]int64{}
	var person uuid.UUID
	var seq int64
	if _, err := pgx.ForEachRow(rows, []any{&person, &seq}, func() error { heads[person] = seq; return nil }); err != nil {
		return nil, fmt.Errorf("read mailboxes: %w", err)
	}
	return heads, nil
}
