package outbox

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// leader is one term of leadership: what it knows is what the database said when the term began, and what it did since.
type leader struct {
	*Relay
	store     *store
	at        place
	live      map[string]mark // per stream: the newest mark
	anchor    map[string]mark // per stream: the newest mark that is kept when the live one moves
	verified  map[string]mark // per stream: the live mark at the last check
	streamAt  map[string]time.Time
	epoch     uint64
	mustCheck bool
	checked   time.Time
	gauged    time.Time
	kept      time.Time
}

func (r *Relay) newLeader(ctx context.Context, s *store) (*leader, error) {
	at, restored, err := s.takeOver(ctx)
	if err != nil {
		return nil, fmt.Errorf("take over: %w", err)
	}
	if restored {
		r.cfg.Log.WarnContext(ctx, "database was restored from another server, publishing the outbox again",
			"service", r.cfg.DB.Schema())
	}
	l := &leader{Relay: r, store: s, at: at, mustCheck: true}
	return l, l.loadMarks(ctx)
}

func (l *leader) loadMarks(ctx context.Context) error {
	marks, err := l.store.marks(ctx)
	if err != nil {
		return err
	}
	l.live, l.anchor, l.verified = map[string]mark{}, map[string]mark{}, map[string]mark{}
	l.streamAt = map[string]time.Time{}
	for stream, list := range marks {
		newest := list[len(list)-1]
		l.live[stream], l.verified[stream], l.streamAt[stream] = newest, newest, newest.streamAt
		if len(list) > 1 {
			l.anchor[stream] = list[len(list)-2]
		}
	}
	return nil
}

// turn publishes what is there, at most one batch, and moves the cursor. Before anything is published and before the cursor
// moves, the streams must be those that acknowledged what went before.
func (l *leader) turn(ctx context.Context) (moved bool, err error) {
	now := l.cfg.Now()
	if now.Sub(l.kept) >= upkeepEvery {
		if err := l.store.upkeep(ctx); err != nil { // today's rows have a place without it
			l.cfg.Log.WarnContext(ctx, "outbox upkeep failed, trying again later", "service", l.cfg.DB.Schema(), "err", err)
		}
		l.kept = now
	}
	if l.mustCheck || l.epoch != l.cfg.Publisher.Epoch() || now.Sub(l.checked) >= checkEvery {
		if _, err := l.check(ctx); err != nil {
			return false, err
		}
	}
	if now.Sub(l.gauged) >= gaugeEvery {
		l.gauge(ctx)
		l.gauged = now
	}
	rows, err := l.store.read(ctx, l.at)
	if err != nil || len(rows) == 0 {
		return false, err
	}
	marks, err := l.publish(ctx, rows)
	if err != nil {
		return false, err
	}
	if l.mustCheck || l.epoch != l.cfg.Publisher.Epoch() {
		rewound, err := l.check(ctx)
		if err != nil {
			return false, err
		}
		if rewound {
			return true, nil // these rows are published again in their turn
		}
	}
	return true, l.save(ctx, rows[len(rows)-1].place, marks, len(rows))
}

func (l *leader) save(ctx context.Context, at place, marks []mark, count int) error {
	var replaced []mark
	for i := range marks {
		marks[i].place = at
		live, known := l.live[marks[i].stream]
		if known && live.createdAt.Sub(l.anchor[live.stream].createdAt) < markEvery {
			replaced = append(replaced, live)
		} else if known {
			l.anchor[live.stream] = live
		}
	}
	if err := l.store.save(ctx, at, marks, replaced); err != nil {
		return err
	}
	for _, m := range marks {
		l.live[m.stream] = m
	}
	l.at = at
	l.metric.relayed.Add(float64(count))
	return nil
}

// publish sends rows to their streams, keeping their order within each, and returns one mark per stream that advanced.
func (l *leader) publish(ctx context.Context, rows []row) ([]mark, error) {
	var order []string
	byStream := map[string][]Message{}
	for _, r := range rows {
		stream := l.cfg.Publisher.StreamOf(r.Subject)
		if byStream[stream] == nil {
			order = append(order, stream)
		}
		byStream[stream] = append(byStream[stream], r.Message)
	}
	var marks []mark
	for _, stream := range order {
		if _, known := l.streamAt[stream]; !known {
			state, err := l.state(ctx, stream)
			if err != nil {
				return nil, err
			}
			l.streamAt[stream] = state.Created
		}
		seq, id, err := l.send(ctx, stream, byStream[stream])
		if err != nil {
			return nil, fmt.Errorf("publish %d events to %s: %w", len(byStream[stream]), stream, err)
		}
		if int64(seq) <= l.live[stream].streamSeq {
			l.mustCheck = true // repetitions of what is there, or a stream that went back: the check tells
			continue
		}
		marks = append(marks, mark{stream: stream, streamSeq: int64(seq), eventID: id,
			streamAt: l.streamAt[stream], createdAt: l.cfg.Now()})
	}
	return marks, nil
}

// send returns the highest sequence of the messages, and whose it is.
func (l *leader) send(ctx context.Context, stream string, messages []Message) (uint64, string, error) {
	if len(messages) >= minBatch {
		seq, err := l.cfg.Publisher.PublishAll(ctx, stream, messages)
		if err == nil {
			return seq, messages[len(messages)-1].ID, nil
		}
		if !errors.Is(err, ErrDuplicate) {
			return 0, "", err
		}
	}
	seqs, err := l.cfg.Publisher.PublishEach(ctx, stream, messages)
	if err != nil {
		return 0, "", err
	}
	var highest uint64
	var id string
	for i, seq := range seqs {
		if seq > highest {
			highest, id = seq, messages[i].ID
		}
	}
	return highest, id, nil
}

func (l *leader) state(ctx context.Context, stream string) (StreamState, error) {
	state, err := l.cfg.Publisher.State(ctx, stream)
	state.Created = state.Created.UTC().Truncate(time.Microsecond) // what the database can hold
	if err != nil {
		return state, fmt.Errorf("state of stream %s: %w", stream, err)
	}
	return state, nil
}

func (l *leader) gauge(ctx context.Context) {
	count, age, err := l.store.pending(ctx, l.at)
	if err != nil {
		return // the turn meets the same fault and reports it
	}
	l.metric.pending.Set(float64(count))
	l.metric.blocked.Set(age)
}
