package outbox

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
)

// place is a position in the outbox's order. Everything at or before it is published.
type place struct {
	xid uint64
	seq int64
}

func (p place) before(q place) bool { return p.xid < q.xid || p.xid == q.xid && p.seq < q.seq }

type row struct {
	place
	Message
}

// mark says: the event at streamSeq is ours, and every row up to the place is stored at or below it.
type mark struct {
	place
	stream    string
	streamSeq int64
	eventID   string
	streamAt  time.Time
	createdAt time.Time
}

// errFenced: another relay has taken over; this one has no say any more.
var errFenced = errors.New("fenced: another relay took over")

// store is the relay's side of the tables, over the one connection that also holds the leader's lock: to lose one is to
// lose the other.
type store struct {
	conn       *pgx.Conn
	generation int64
}

const lockSQL = `select pg_try_advisory_lock(hashtextextended('pratique outbox ' || current_schema(), 0))`

func (s *store) lock(ctx context.Context) (bool, error) {
	var got bool
	err := s.conn.QueryRow(ctx, lockSQL).Scan(&got)
	return got, err
}

const takeOverSQL = `update outbox_cursor set generation = generation + 1, updated_at = now()
returning generation, xid::text::bigint, seq, system_id, last_xid::text::bigint`

const serverSQL = `select system_identifier, pg_snapshot_xmax(pg_current_snapshot())::text::bigint from pg_control_system()`

const rebaseSQL = `update outbox_cursor set xid = '0', seq = 0 where generation = @generation`

const identitySQL = `update outbox_cursor set system_id = @system, last_xid = @xid::text::xid8 where generation = @generation`

// takeOver raises the fence and returns where to go on. restored is true when the tables came from another server, or from
// this one's future: then the rows were given new places and the cursor starts over.
func (s *store) takeOver(ctx context.Context) (at place, restored bool, err error) {
	// A crash of the server may take back a cursor write, which repeats a publish, but never the fence.
	if _, err := s.conn.Exec(ctx, `set synchronous_commit = off`); err != nil {
		return place{}, false, err
	}
	err = pgx.BeginTxFunc(ctx, s.conn, pgx.TxOptions{BeginQuery: "begin; set local synchronous_commit = on"}, func(tx pgx.Tx) error {
		var cursorXid, lastXid, system, nowSystem, nowXid int64
		var seq int64
		if err := tx.QueryRow(ctx, takeOverSQL).Scan(&s.generation, &cursorXid, &seq, &system, &lastXid); err != nil {
			return fmt.Errorf("raise fence: %w", err)
		}
		if err := tx.QueryRow(ctx, serverSQL).Scan(&nowSystem, &nowXid); err != nil {
			return fmt.Errorf("read server identity: %w", err)
		}
		at = place{xid: uint64(cursorXid), seq: seq}
		restored = system != 0 && (system != nowSystem || lastXid > nowXid)
		if restored {
			at = place{}
			if _, err := tx.Exec(ctx, `set local statement_timeout = 0`); err != nil { // it writes every row, once
				return err
			}
			if _, err := tx.Exec(ctx, `select outbox_rebase()`); err != nil {
				return fmt.Errorf("rebase after restore: %w", err)
			}
			if _, err := tx.Exec(ctx, rebaseSQL, pgx.NamedArgs{"generation": s.generation}); err != nil {
				return fmt.Errorf("rewind after restore: %w", err)
			}
		}
		_, err := tx.Exec(ctx, identitySQL, pgx.NamedArgs{
			"system": nowSystem, "xid": fmt.Sprint(nowXid), "generation": s.generation})
		return err
	})
	return at, restored, err
}

// readSQL sees only transactions older than every one still running, so that nothing can commit behind the cursor. It answers
// no row at all to a relay that was fenced, and one empty row when there is nothing to publish.
const readSQL = `select o.xid::text::bigint, o.seq, o.event_id::text, o.subject, o.body
from outbox_cursor c
left join lateral (
	select xid, seq, event_id, subject, body from outbox
	where (xid, seq) > (@xid::text::xid8, @seq::bigint) and xid < pg_snapshot_xmin(pg_current_snapshot())
	order by xid, seq limit @limit
) o on true
where c.generation = @generation
order by o.xid, o.seq`

func (s *store) read(ctx context.Context, after place) ([]row, error) {
	result, err := s.conn.Query(ctx, readSQL, pgx.NamedArgs{
		"xid": fmt.Sprint(after.xid), "seq": after.seq, "generation": s.generation, "limit": MaxBatch})
	if err != nil {
		return nil, fmt.Errorf("read outbox: %w", err)
	}
	defer result.Close()
	var rows []row
	size, answered := 0, false
	for result.Next() {
		var xid, seq *int64
		var id, subject *string
		var body []byte
		if err := result.Scan(&xid, &seq, &id, &subject, &body); err != nil {
			return nil, fmt.Errorf("read outbox: %w", err)
		}
		answered = true
		if xid == nil {
			continue
		}
		rows = append(rows, row{place: place{xid: uint64(*xid), seq: *seq}, Message: Message{ID: *id, Subject: *subject, Body: body}})
		if size += len(body); size >= maxBatchBytes {
			break // the rest comes with the next turn
		}
	}
	result.Close()
	if err := result.Err(); err != nil {
		return nil, fmt.Errorf("read outbox: %w", err)
	}
	if !answered {
		return nil, errFenced
	}
	return rows, nil
}

const saveSQL = `update outbox_cursor set xid = @xid::text::xid8, seq = @seq, updated_at = now(),
	last_xid = pg_snapshot_xmax(pg_current_snapshot())
where generation = @generation`

const markSQL = `insert into outbox_mark (stream, stream_seq, event_id, xid, seq, stream_at)
select @stream, @stream_seq::bigint, @event_id::text::uuid, @xid::text::xid8, @seq::bigint, @stream_at::timestamptz
where exists (select from outbox_cursor where generation = @generation)
on conflict (stream, stream_seq) do update
	set event_id = excluded.event_id, xid = excluded.xid, seq = excluded.seq, stream_at = excluded.stream_at`

const unmarkSQL = `delete from outbox_mark where stream = @stream and stream_seq = @stream_seq
	and exists (select from outbox_cursor where generation = @generation)`

// save moves the cursor and the streams' marks together; replaced are marks too close to the new ones to be worth keeping.
// errFenced when somebody else leads.
func (s *store) save(ctx context.Context, at place, marks, replaced []mark) error {
	batch := &pgx.Batch{}
	batch.Queue(saveSQL, pgx.NamedArgs{"xid": fmt.Sprint(at.xid), "seq": at.seq, "generation": s.generation})
	for _, m := range replaced {
		batch.Queue(unmarkSQL, pgx.NamedArgs{"stream": m.stream, "stream_seq": m.streamSeq, "generation": s.generation})
	}
	for _, m := range marks {
		batch.Queue(markSQL, pgx.NamedArgs{"stream": m.stream, "stream_seq": m.streamSeq, "event_id": m.eventID,
			"xid": fmt.Sprint(m.xid), "seq": m.seq, "stream_at": m.streamAt, "generation": s.generation})
	}
	return s.fenced(ctx, batch)
}

const rewindMarkSQL = `delete from outbox_mark where stream = @stream and stream_seq > @after
	and exists (select from outbox_cursor where generation = @generation)`

// rewind moves the cursor back and forgets what a stream no longer holds.
func (s *store) rewind(ctx context.Context, at place, stream string, after int64) error {
	batch := &pgx.Batch{}
	batch.Queue(saveSQL, pgx.NamedArgs{"xid": fmt.Sprint(at.xid), "seq": at.seq, "generation": s.generation})
	batch.Queue(rewindMarkSQL, pgx.NamedArgs{"stream": stream, "after": after, "generation": s.generation})
	return s.fenced(ctx, batch)
}

// fenced sends statements that are each guarded by the generation as one implicit transaction, one round trip. The first
// writes the cursor row and so keeps any takeover waiting until all are done.
func (s *store) fenced(ctx context.Context, batch *pgx.Batch) error {
	results := s.conn.SendBatch(ctx, batch)
	tag, err := results.Exec()
	if closeErr := results.Close(); err == nil {
		err = closeErr
	}
	if err != nil {
		return fmt.Errorf("write cursor: %w", err)
	}
	if tag.RowsAffected() == 0 {
		return errFenced
	}
	return nil
}

const marksSQL = `select stream, stream_seq, event_id::text, xid::text::bigint, seq, stream_at, created_at
from outbox_mark order by stream, stream_seq`

func (s *store) marks(ctx context.Context) (map[string][]mark, error) {
	rows, err := s.conn.Query(ctx, marksSQL)
	if err != nil {
		return nil, fmt.Errorf("read marks: %w", err)
	}
	defer rows.Close()
	out := map[string][]mark{}
	for rows.Next() {
		var m mark
		var xid int64
		if err := rows.Scan(&m.stream, &m.streamSeq, &m.eventID, &xid, &m.seq, &m.streamAt, &m.createdAt); err != nil {
			return nil, fmt.Errorf("read marks: %w", err)
		}
		m.xid = uint64(xid)
		out[m.stream] = append(out[m.stream], m)
	}
	return out, rows.Err()
}

const pendingSQL = `select count(*), coalesce(extract(epoch from now() - min(created_at)), 0)::float8
from (select created_at from outbox where (xid, seq) > (@xid::text::xid8, @seq::bigint) limit 100000) as waiting`

// pending counts what waits (to 100,000), and the age of the oldest in seconds.
func (s *store) pending(ctx context.Context, after place) (count int64, age float64, err error) {
	err = s.conn.QueryRow(ctx, pendingSQL, pgx.NamedArgs{"xid": fmt.Sprint(after.xid), "seq": after.seq}).Scan(&count, &age)
	return count, age, err
}

const upkeepSQL = `select outbox_upkeep($1)`

func (s *store) upkeep(ctx context.Context) error {
	if _, err := s.conn.Exec(ctx, upkeepSQL, Keep); err != nil {
		return fmt.Errorf("outbox partitions: %w", err)
	}
	return nil
}
