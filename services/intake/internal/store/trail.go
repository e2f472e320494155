package store

import (
	"context"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/pratique-io/pratique/internal/page"
)

// Line is one line of a request's trail over all services.
type Line struct {
	Event   uuid.UUID
	Tenant  uuid.UUID
	Request uuid.UUID
	At      time.Time
	Actor   string
	Service string
	Action  string
	From    string
	To      string
	Reason  string
}

const insertLines = `
insert into timeline (event_id, tenant_id, request_id, at, actor, service, action, from_state, to_state, reason)
select * from unnest(@event::uuid[], @tenant::uuid[], @request::uuid[], @at::timestamptz[], @actor::text[], @service::text[], @action::text[],
	@from::text[], @to::text[], @reason::text[])
on conflict do nothing`

// InsertLines appends to the trails.
func InsertLines(ctx context.Context, tx pgx.Tx, lines []Line) error {
	if len(lines) == 0 {
		return nil
	}
	n := len(lines)
	events, tenants, requests, at := make([]uuid.UUID, n), make([]uuid.UUID, n), make([]uuid.UUID, n), make([]time.Time, n)
	actor, service, action := make([]string, n), make([]string, n), make([]string, n)
	from, to, reason := make([]string, n), make([]string, n), make([]string, n)
	for i, l := range lines {
		events[i], tenants[i], requests[i], at[i] = l.Event, l.Tenant, l.Request, l.At
		actor[i], service[i], action[i], from[i], to[i], reason[i] = l.Actor, l.Service, l.Action, l.From, l.To, l.Reason
	}
	_, err := tx.Exec(ctx, insertLines, pgx.NamedArgs{
		"event": events, "tenant": tenants, "request": requests, "at": at, "actor": actor, "service": service, "action": action,
		"from": from, "to": to, "reason": reason,
	})
	if err != nil {
		return fmt.Errorf("insert timeline: %w", err)
	}
	return nil
}

const countLines = `select count(*) from (select 1 from timeline where request_id = @request limit 10001) as counted`

const selectLines = `
select event_id, tenant_id, request_id, at, actor, service, action, from_state, to_state, reason
from timeline
where request_id = @request and (@key_at::timestamptz is null or (at, event_id) > (@key_at, @key_id))
order by at, event_id limit @limit offset @offset`

// Lines reads one page of a trail, oldest first (with one surplus row, for page.Cut), and counts the whole.
func Lines(ctx context.Context, tx pgx.Tx, request uuid.UUID, req page.Request) ([]Line, int, error) {
	args := pgx.NamedArgs{"request": request, "limit": req.Limit + 1, "offset": req.Offset, "key_at": (*time.Time)(nil), "key_id": uuid.Nil}
	if req.After != nil {
		args["key_at"], args["key_id"] = req.After.At, req.After.ID
	}
	var total int
	if err := tx.QueryRow(ctx, countLines, args).Scan(&total); err != nil {
		return nil, 0, fmt.Errorf("count timeline: %w", err)
	}
	rows, err := tx.Query(ctx, selectLines, args)
	if err != nil {
		return nil, 0, fmt.Errorf("read timeline: %w", err)
	}
	lines, err := pgx.CollectRows(rows, pgx.RowToStructByPos[Line])
	if err != nil {
		return nil, 0, fmt.Errorf("read timeline: %w", err)
	}
	for i := range lines {
		utc(&lines[i].At)
	}
	return lines, total, nil
}

const upsertDenial = `
insert into denial as d (id, tenant_id, capability, reason, count, last_at)
values (@id, @tenant, @capability, @reason, 1, @now)
on conflict (tenant_id, capability, reason) do update set count = d.count + 1, last_at = greatest(d.last_at, excluded.last_at)
returning id, count`

// CountDenial adds one to a tenant's refusals for a reason: the counter's id and what it stands at.
func CountDenial(ctx context.Context, tx pgx.Tx, id, tenant uuid.UUID, capability, reason string, now time.Time) (uuid.UUID, int64, error) {
	var counter uuid.UUID
	var count int64
	err := tx.QueryRow(ctx, upsertDenial, pgx.NamedArgs{"id": id, "tenant": tenant, "capability": capability, "reason": reason, "now": now}).
		Scan(&counter, &count)
	if err != nil {
		return uuid.Nil, 0, fmt.Errorf("count denial: %w", err)
	}
	return counter, count, nil
}
