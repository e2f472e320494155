package store

import (
	"context"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
)

// Line is one log line of a request.
type Line struct {
	Sequence int64 // per request, without gaps, in the order of becoming visible
	Source   string
	Run      uuid.UUID // Nil for lifecycle lines
	Step     string
	Level    string
	Message  string
	At       time.Time
}

// Entry is a line on its way into the log of a request.
type Entry struct {
	Tenant, Request uuid.UUID
	Line            Line
	Closes          bool // the request ended without a run: nobody waits for more lines
}

// Heads are taken in the order of their ids, so that two batches cannot wait for each other.
const addLinesSQL = `with line as (
	select l.*, row_number() over (partition by import_id order by n) as position
	from unnest(@tenants::uuid[], @requests::uuid[], @closes::boolean[], @sources::text[], @runs::uuid[], @steps::text[], @levels::text[],
		@messages::text[], @ats::timestamptz[])
		with ordinality as l (tenant_id, import_id, closes, source, run_id, step, level, message, at, n)
), head as (
	insert into log_head as h (import_id, tenant_id, last_sequence, closed)
	select import_id, (array_agg(tenant_id order by n))[1], count(*), bool_or(closes) from line group by import_id order by import_id
	on conflict (import_id) do update set last_sequence = h.last_sequence + excluded.last_sequence, closed = h.closed or excluded.closed
	returning import_id, last_sequence
), many as (
	select import_id, count(*) as lines from line group by import_id
)
insert into log_line (tenant_id, import_id, sequence, source, run_id, step, level, message, at)
select line.tenant_id, import_id, head.last_sequence - many.lines + line.position, line.source, line.run_id, line.step, line.level,
	line.message, line.at
from line join head using (import_id) join many using (import_id)`

// AddLines appends lines to the logs of their requests, in order, in one statement. It holds the heads until the transaction ends.
func AddLines(ctx context.Context, tx pgx.Tx, entries []Entry) error {
	if len(entries) == 0 {
		return nil
	}
	n := len(entries)
	tenants, requests, runs := make([]uuid.UUID, n), make([]uuid.UUID, n), make([]*uuid.UUID, n)
	sources, steps, levels, messages := make([]string, n), make([]string, n), make([]string, n), make([]string, n)
	closes, ats := make([]bool, n), make([]time.Time, n)
	for i, e := range entries {
		l := e.Line
		tenants[i], requests[i], closes[i], runs[i] = e.Tenant, e.Request, e.Closes, nullID(l.Run)
		sources[i], steps[i], levels[i], messages[i], ats[i] = l.Source, l.Step, l.Level, l.Message, l.At
	}
	_, err := tx.Exec(ctx, addLinesSQL, pgx.NamedArgs{"tenants": tenants, "requests": requests, "closes": closes, "sources": sources,
		"runs": runs, "steps": steps, "levels": levels, "messages": messages, "ats": ats})
	if err != nil {
		return fmt.Errorf("add log lines: %w", err)
	}
	return nil
}

// Filter narrows a log. Empty lists mean all.
type Filter struct {
	Sources, Levels []string
}

const countLinesSQL = `select count(*) from log_line
where tenant_id = (select tenant_id from log_head where import_id = @import_id) and import_id = @import_id
	and (cardinality(@sources::text[]) = 0 or source = any(@sources)) and (cardinality(@levels::text[]) = 0 or level = any(@levels))`

const newestLinesSQL = `select sequence, source, run_id, step, level, message, at from log_line
where tenant_id = (select tenant_id from log_head where import_id = @import_id) and import_id = @import_id
	and (cardinality(@sources::text[]) = 0 or source = any(@sources)) and (cardinality(@levels::text[]) = 0 or level = any(@levels))
order by at desc, sequence desc limit @limit offset @offset`

// NewestLines reads a page of a request's log, newest first, and how many lines match in all: a log is bounded, so the count is too.
func NewestLines(ctx context.Context, tx pgx.Tx, request uuid.UUID, f Filter, limit, offset int) ([]Line, int, error) {
	args := pgx.NamedArgs{"import_id": request, "sources": filled(f.Sources), "levels": filled(f.Levels), "limit": limit, "offset": offset}
	var total int
	if err := tx.QueryRow(ctx, countLinesSQL, args).Scan(&total); err != nil {
		return nil, 0, fmt.Errorf("count log lines: %w", err)
	}
	rows, err := tx.Query(ctx, newestLinesSQL, args)
	if err != nil {
		return nil, 0, fmt.Errorf("read log lines: %w", err)
	}
	lines, err := pgx.CollectRows(rows, scanLine)
	if err != nil {
		return nil, 0, fmt.Errorf("read log lines: %w", err)
	}
	return lines, total, nil
}

func filled(list []string) []string {
	if list == nil {
		return []string{}
	}
	return list
}

const linesAfterSQL = `select sequence, source, run_id, step, level, message, at from log_line
where tenant_id = (select tenant_id from log_head where import_id = @import_id) and import_id = @import_id and sequence > @after
order by sequence limit @limit`

// LinesAfter reads lines in order.
func LinesAfter(ctx context.Context, tx pgx.Tx, request uuid.UUID, after int64, limit int) ([]Line, error) {
	rows, err := tx.Query(ctx, linesAfterSQL, pgx.NamedArgs{"import_id": request, "after": after, "limit": limit})
	if err != nil {
		return nil, fmt.Errorf("read log lines: %w", err)
	}
	lines, err := pgx.CollectRows(rows, scanLine)
	if err != nil {
		return nil, fmt.Errorf("read log lines: %w", err)
	}
	return lines, nil
}

func scanLine(row pgx.CollectableRow) (Line, error) {
	var l Line
	var run *uuid.UUID
	err := row.Scan(&l.Sequence, &l.Source, &run, &l.Step, &l.Level, &l.Message, &l.At)
	if run != nil {
		l.Run = *run
	}
	return l, err
}

const logStateSQL = `select h.import_id is not null or r.id is not null,
	coalesce(h.closed, false) or coalesce(r.state in ('succeeded', 'failed', 'cancelled'), false)
from (select @import_id::uuid as id) q
left join log_head h on h.import_id = q.id
left join dispatch_record r on r.id = q.id`

// LogEnded says whether more run lines may come; known is false when nothing was ever heard of the request in this scope.
func LogEnded(ctx context.Context, tx pgx.Tx, request uuid.UUID) (known, ended bool, err error) {
	if err := tx.QueryRow(ctx, logStateSQL, pgx.NamedArgs{"import_id": request}).Scan(&known, &ended); err != nil {
		return false, false, fmt.Errorf("read log state: %w", err)
	}
	return known, ended, nil
}
