// Package store is notify's SQL: plans, receipts, and the notifications people read. The telling side runs in the worker's transaction of the
// bus; the reading side in a caller's transaction over all tenants that As has bound to one person.
package store

import (
	"context"
	"embed"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/pratique-io/pratique/internal/pg"
	"github.com/pratique-io/pratique/services/notify/internal/domain"
)

//go:embed migrations/*.sql
var files embed.FS

// Migrations makes notify's tables.
var Migrations = pg.Embedded("notify", files)

// Plan is one thing to be told, frozen.
type Plan struct {
	ID        uuid.UUID
	Tenant    uuid.UUID // Nil: of no tenant
	Event     uuid.UUID
	EventType string
	Type      domain.Type
	Key       string // <aggregate>:<sequence>
	Expected  int
	At        time.Time
}

// Receipt is the proof that one recipient of a plan was told by one channel.
type Receipt struct {
	ID        uuid.UUID
	Plan      *Plan
	Recipient uuid.UUID
	Channel   domain.Channel
	Why       domain.Why
}

// Notification is what one person reads.
type Notification struct {
	ID         uuid.UUID
	Tenant     uuid.UUID
	Recipient  uuid.UUID
	Seq        int64 // the person's own count, from 1
	Title      string
	Message    string
	Type       domain.Type
	Resource   domain.Resource
	ResourceID uuid.UUID
	Link       string
	Class      *string
	Code       *string
	Hint       *string
	ReadAt     *time.Time
	CreatedAt  time.Time
}

const selectStart = `select started_at from notify_start`

// StartedAt is when this service began to listen.
func StartedAt(ctx context.Context, tx pgx.Tx) (at time.Time, err error) {
	if err := tx.QueryRow(ctx, selectStart).Scan(&at); err != nil {
		return time.Time{}, fmt.Errorf("read when notify began: %w", err)
	}
	return at, nil
}

const insertPlans = `
insert into notification_plan (id, tenant_id, event_id, event_type, notification_type, idempotency_key, expected_recipients, created_at)
select id, tenant_id, event_id, event_type, typ, key, expected, created_at
from unnest(@id::uuid[], @tenant::uuid[], @event::uuid[], @event_type::text[], @type::text[], @key::text[], @expected::int[], @at::timestamptz[])
	as new (id, tenant_id, event_id, event_type, typ, key, expected, created_at)
order by tenant_id, typ, key, id
on conflict on constraint notification_plan_once do nothing
returning id`

// InsertPlans freezes plans and answers which are new: who finds its plan there already has nothing to tell. A plan that another transaction
// is freezing is waited for; the order of the rows keeps two such transactions from waiting for each other.
func InsertPlans(ctx context.Context, tx pgx.Tx, plans []*Plan) (map[uuid.UUID]bool, error) {
	n := len(plans)
	ids, tenants, events, at := make([]uuid.UUID, n), make([]uuid.UUID, n), make([]uuid.UUID, n), make([]time.Time, n)
	eventTypes, types, keys, expected := make([]string, n), make([]string, n), make([]string, n), make([]int32, n)
	for i, p := range plans {
		ids[i], tenants[i], events[i], at[i] = p.ID, p.Tenant, p.Event, p.At
		eventTypes[i], types[i], keys[i], expected[i] = p.EventType, string(p.Type), p.Key, int32(p.Expected)
	}
	return insertReturning(ctx, tx, "plans", insertPlans, pgx.NamedArgs{
		"id": ids, "tenant": tenants, "event": events, "event_type": eventTypes, "type": types, "key": keys, "expected": expected, "at": at,
	})
}

const insertReceipts = `
insert into receipt (id, tenant_id, plan_id, recipient, channel, notification_type, idempotency_key, why, created_at)
select * from unnest(@id::uuid[], @tenant::uuid[], @plan::uuid[], @recipient::uuid[], @channel::text[], @type::text[], @key::text[], @why::text[],
	@at::timestamptz[])
on conflict on constraint receipt_once do nothing
returning id`

// InsertReceipts claims receipts and answers which are new: only those are told.
func InsertReceipts(ctx context.Context, tx pgx.Tx, receipts []Receipt) (map[uuid.UUID]bool, error) {
	n := len(receipts)
	ids, tenants, plans, recipients := make([]uuid.UUID, n), make([]uuid.UUID, n), make([]uuid.UUID, n), make([]uuid.UUID, n)
	channels, types, keys, whys, at := make([]string, n), make([]string, n), make([]string, n), make([]string, n), make([]time.Time, n)
	for i, r := range receipts {
		ids[i], tenants[i], plans[i], recipients[i] = r.ID, r.Plan.Tenant, r.Plan.ID, r.Recipient
		channels[i], types[i], keys[i], whys[i], at[i] = string(r.Channel), string(r.Plan.Type), r.Plan.Key, string(r.Why), r.Plan.At
	}
	return insertReturning(ctx, tx, "receipts", insertReceipts, pgx.NamedArgs{
		"id": ids, "tenant": tenants, "plan": plans, "recipient": recipients, "channel": channels, "type": types, "key": keys, "why": whys, "at": at,
	})
}

func insertReturning(ctx context.Context, tx pgx.Tx, what, sql string, args pgx.NamedArgs) (map[uuid.UUID]bool, error) {
	rows, err := tx.Query(ctx, sql, args)
	if err != nil {
		return nil, fmt.Errorf("insert %s: %w", what, err)
	}
	ids, err := pgx.CollectRows(rows, pgx.RowTo[uuid.UUID])
	if err != nil {
		return nil, fmt.Errorf("insert %s: %w", what, err)
	}
	fresh := make(map[uuid.UUID]bool, len(ids))
	for _, id := range ids {
		fresh[id] = true
	}
	return fresh, nil
}

const reserveNumbers = `
insert into mailbox (recipient, last_seq)
select recipient, count(*) from unnest(@recipient::uuid[]) as new (recipient) group by recipient order by recipient
on conflict (recipient) do update set last_seq = mailbox.last_seq + excluded.last_seq
returning recipient, last_seq`

const insertNotifications = `
insert into notification (id, tenant_id, recipient, seq, title, message, notification_type, related_resource_type, related_resource_id, link,
	failure_class, failure_code, hint, created_at)
select * from unnest(@id::uuid[], @tenant::uuid[], @recipient::uuid[], @seq::bigint[], @title::text[], @message::text[], @type::text[],
	@resource::text[], @resource_id::uuid[], @link::text[], @class::text[], @code::text[], @hint::text[], @at::timestamptz[])`

// Deliver puts notifications into their recipients' mailboxes, in this order, and gives them their numbers.
func Deliver(ctx context.Context, tx pgx.Tx, list []Notification) error {
	if len(list) == 0 {
		return nil
	}
	if err := number(ctx, tx, list); err != nil {
		return err
	}
	n := len(list)
	ids, tenants, recipients, resourceIDs := make([]uuid.UUID, n), make([]uuid.UUID, n), make([]uuid.UUID, n), make([]uuid.UUID, n)
	seqs, at := make([]int64, n), make([]time.Time, n)
	titles, messages, types, resources, links := make([]string, n), make([]string, n), make([]string, n), make([]string, n), make([]string, n)
	classes, codes, hints := make([]*string, n), make([]*string, n), make([]*string, n)
	for i, m := range list {
		ids[i], tenants[i], recipients[i], resourceIDs[i], seqs[i], at[i] = m.ID, m.Tenant, m.Recipient, m.ResourceID, m.Seq, m.CreatedAt
		titles[i], messages[i], types[i], resources[i], links[i] = m.Title, m.Message, string(m.Type), string(m.Resource), m.Link
		classes[i], codes[i], hints[i] = m.Class, m.Code, m.Hint
	}
	_, err := tx.Exec(ctx, insertNotifications, pgx.NamedArgs{
		"id": ids, "tenant": tenants, "recipient": recipients, "seq": seqs, "title": titles, "message": messages, "type": types,
		"resource": resources, "resource_id": resourceIDs, "link": links, "class": classes, "code": codes, "hint": hints, "at": at,
	})
	if err != nil {
		return fmt.Errorf("deliver notifications: %w", err)
	}
	return nil
}

func number(ctx context.Context, tx pgx.Tx, list []Notification) error {
	recipients := make([]uuid.UUID, len(list))
	for i, m := range list {
		recipients[i] = m.Recipient
	}
	rows, err := tx.Query(ctx, reserveNumbers, pgx.NamedArgs{"recipient": recipients})
	if err != nil {
		return fmt.Errorf("number notifications: %w", err)
	}
	last := map[uuid.UUID]int64{}
	var person uuid.UUID
	var seq int64
	if _, err := pgx.ForEachRow(rows, []any{&person, &seq}, func() error { last[person] = seq; return nil }); err != nil {
		return fmt.Errorf("number notifications: %w", err)
	}
	for i := len(list) - 1; i >= 0; i-- {
		list[i].Seq = last[list[i].Recipient]
		last[list[i].Recipient]--
	}
	return nil
}

const deleteReceipts = `
delete from receipt where id in (select id from receipt where created_at < @before order by created_at limit @batch for update skip locked)`

// SweepReceipts deletes receipts from before a time, at most batch of them, and answers how many.
func SweepReceipts(ctx context.Context, tx pgx.Tx, before time.Time, batch int) (int, error) {
	tag, err := tx.Exec(ctx, deleteReceipts, pgx.NamedArgs{"before": before, "batch": batch})
	if err != nil {
		return 0, fmt.Errorf("sweep receipts: %w", err)
	}
	return int(tag.RowsAffected()), nil
}
