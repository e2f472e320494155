package api

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/pratique-io/pratique/internal/pg"
	"github.com/pratique-io/pratique/services/notify/internal/store"
)

const (
	// hubPoll finds what other processes committed.
	hubPoll = 400 * time.Millisecond
	hubWait = 5 * time.Second // for one look
)

// hub tells open streams that there is something for them. However many are open, one query after a commit (or a poll) finds whose mailbox
// moved, and only those read. It runs while anybody follows.
type hub struct {
	db  *pg.DB
	log *slog.Logger

	alarm chan struct{} // capacity 1: a commit happened
	mu    sync.Mutex
	open  map[*follower]struct{}
	stop  context.CancelFunc // of the run in progress
}

type follower struct {
	person uuid.UUID
	moved  chan struct{} // capacity 1
	seen   int64         // last number it was woken for; touched by the hub's goroutine only
}

func newHub(db *pg.DB, log *slog.Logger) *hub {
	return &hub{db: db, log: log, alarm: make(chan struct{}, 1), open: map[*follower]struct{}{}}
}

// wake never blocks; it runs on the goroutine that committed.
func (h *hub) wake() {
	select {
	case h.alarm <- struct{}{}:
	default: // it is awake already
	}
}

// join starts to watch a mailbox; whoever joins reads once before waiting.
func (h *hub) join(person uuid.UUID) (moved <-chan struct{}, leave func()) {
	f := &follower{person: person, moved: make(chan struct{}, 1), seen: -1}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.open[f] = struct{}{}
	if len(h.open) == 1 {
		var ctx context.Context
		ctx, h.stop = context.WithCancel(context.Background())
		go h.run(ctx)
	}
	return f.moved, func() {
		h.mu.Lock()
		defer h.mu.Unlock()
		if delete(h.open, f); len(h.open) == 0 {
			h.stop()
		}
	}
}

// run looks after every alarm and every poll, until nobody follows any more.
func (h *hub) run(ctx context.Context) {
	poll := time.NewTicker(hubPoll)
	defer poll.Stop()
	failing := false
	for {
		select {
		case <-ctx.Done():
			return
		case <-h.alarm:
		case <-poll.C:
		}
		err := h.look(ctx)
		if ctx.Err() != nil {
			return
		}
		if err != nil && !failing {
			h.log.WarnContext(ctx, "streams of notifications wait for the database", "err", err)
		}
		failing = err != nil
	}
}

// look wakes those whose mailbox moved.
func (h *hub) look(ctx context.Context) error {
	open := h.followers(ctx)
	people := make([]uuid.UUID, 0, len(open))
	for _, f := range open {
		people = append(people, f.person)
	}
	ctx, cancel := context.WithTimeout(ctx, hubWait)
	defer cancel()
	var heads map[uuid.UUID]int64
	err := h.db.Read(ctx, pg.Scope{}, func(tx pgx.Tx) (err error) {
		heads, err = store.Heads(ctx, tx, people)
		return err
	})
	if err != nil {
		return err
	}
	for _, f := range open {
		if head, any := heads[f.person]; any && head > f.seen {
			f.seen = head
			select {
			case f.moved <- struct{}{}:
			default: // it has not answered the last one yet, and will read up to here
			}
		}
	}
	return nil
}

// followers is empty for a run that was stopped: what is open then belongs to its successor.
func (h *hub) followers(ctx context.Context) []*follower {
	h.mu.Lock()
	defer h.mu.Unlock()
	if ctx.Err() != nil {
		return nil
	}
	out := make([]*follower, 0, len(h.open))
	for f := range h.open {
		out = append(out, f)
	}
	return out
}
