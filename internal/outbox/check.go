package outbox

import (
	"context"
	"fmt"
	"sort"

	"github.com/pratique-io/pratique/internal/pg"
)

// check asks every stream whether it still holds what it acknowledged, and rewinds the cursor to the last place that is
// certain when it does not. It is run at takeover, after every interruption of the connection before the cursor may move,
// and every few seconds, because a cluster can go back without anybody noticing.
//
// Two marks are looked at per stream: the newest, and the newest of the last check. With the second, a stream that went back
// and was then filled up again by other services is found too.
func (l *leader) check(ctx context.Context) (rewound bool, err error) {
	epoch := l.cfg.Publisher.Epoch()
	for stream, live := range l.live {
		state, err := l.state(ctx, stream)
		if err != nil {
			return rewound, err
		}
		whole := state.Created.Equal(live.streamAt)
		for _, m := range []mark{live, l.verified[stream]} {
			if !whole {
				break
			}
			if whole, err = l.holds(ctx, state, m); err != nil {
				return rewound, err
			}
		}
		if !whole {
			if err := l.refill(ctx, stream, state); err != nil {
				return rewound, err
			}
			rewound = true
		}
	}
	for stream, live := range l.live {
		l.verified[stream] = live
	}
	l.epoch, l.mustCheck, l.checked = epoch, false, l.cfg.Now()
	return rewound, nil
}

// holds reports whether the stream still has the event of a mark, or had it until it grew old.
func (l *leader) holds(ctx context.Context, state StreamState, m mark) (bool, error) {
	if m.stream == "" {
		return true, nil // nothing was verified yet
	}
	seq := uint64(m.streamSeq)
	if seq > state.LastSeq {
		return false, nil
	}
	if seq < state.FirstSeq {
		return l.cfg.Now().Sub(m.createdAt) >= l.cfg.StreamKeep, nil
	}
	id, found, err := l.cfg.Publisher.EventAt(ctx, m.stream, seq)
	if err != nil {
		return false, fmt.Errorf("look at %s %d: %w", m.stream, seq, err)
	}
	return found && id == m.eventID, nil
}

// refill rewinds to the newest mark the stream still holds: everything after it is published again, all retained rows when
// there is none. Streams lose their newest messages first, so the marks are searched by halves.
func (l *leader) refill(ctx context.Context, stream string, state StreamState) error {
	marks, err := l.store.marks(ctx)
	if err != nil {
		return err
	}
	list := marks[stream]
	lost := sort.Search(len(list), func(i int) bool {
		if err != nil {
			return true
		}
		if !list[i].streamAt.Equal(state.Created) {
			// An older stream's marks lie below a newer one's only by accident of numbers: none of them counts.
			return true
		}
		var held bool
		held, err = l.holds(ctx, state, list[i])
		return !held
	})
	if err != nil {
		return err
	}
	target, after := place{}, int64(-1)
	if lost > 0 {
		target, after = list[lost-1].place, list[lost-1].streamSeq
	}
	if l.at.before(target) {
		target = l.at
	}
	if err := l.store.rewind(ctx, target, stream, after); err != nil {
		return err
	}
	l.cfg.Log.WarnContext(ctx, "stream lost what it acknowledged, publishing again", "service", l.cfg.DB.Schema(),
		"stream", stream, "stream_last", state.LastSeq, "kept_to", after)
	l.metric.rewound.Inc()
	l.at = target
	delete(l.live, stream)
	delete(l.anchor, stream)
	delete(l.verified, stream)
	l.streamAt[stream] = state.Created
	if lost > 0 {
		l.live[stream], l.verified[stream] = list[lost-1], list[lost-1]
	}
	if lost > 1 {
		l.anchor[stream] = list[lost-2]
	}
	return nil
}

const rewindAllSQL = `update outbox_cursor set xid = '0', seq = 0, generation = generation + 1`

// Rewind lets an operator publish again everything the outbox keeps, after a restore that nothing can detect (of a database
// into the server it came from). It fences the relay that leads, which then stands for election again.
func Rewind(ctx context.Context, db *pg.DB) error {
	if _, err := db.WorkerPool().Exec(ctx, rewindAllSQL); err != nil {
		return fmt.Errorf("rewind outbox: %w", err)
	}
	return nil
}
