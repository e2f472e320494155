package lease

import (
	"context"
	"fmt"
	"log/slog"
	"runtime"
	"runtime/debug"
	"sync"
	"time"

	"github.com/pratique-io/pratique/internal/pg"
)

const (
	firstBackoff = 250 * time.Millisecond
	mostBackoff  = time.Minute
)

// Run runs the loops, each on its own, until ctx ends, and returns when the last turn is over. A loop that fails or panics is
// logged and tried again with growing pauses; it never takes another down.
func Run(ctx context.Context, db *pg.DB, loops ...Loop) error {
	for _, loop := range loops {
		if loop.Name == "" || loop.Run == nil || loop.Every <= 0 {
			return fmt.Errorf("loop %q needs a name, an interval and a function", loop.Name)
		}
	}
	runners := make([]*runner, len(loops))
	for i, loop := range loops {
		runners[i] = &runner{loop: loop, wake: make(chan struct{}, 1), all: runners}
	}
	if db != nil {
		db.OnCommit(func() {
			if !insideTurn() {
				wakeAll(runners)
			}
		})
	}
	var all sync.WaitGroup
	for _, r := range runners {
		all.Go(func() { r.run(ctx) })
	}
	all.Wait()
	return nil
}

type runner struct {
	loop Loop
	wake chan struct{}
	all  []*runner
}

func (r *runner) run(ctx context.Context) {
	backoff := firstBackoff
	for ctx.Err() == nil {
		didWork, err := r.turn(ctx)
		if didWork {
			wakeAll(r.all) // what this turn wrote may be due in another loop
		}
		if ctx.Err() != nil {
			return
		}
		if err != nil {
			slog.ErrorContext(ctx, "loop failed, trying again later", "loop", r.loop.Name, "in", backoff, "err", err)
			r.wait(ctx, backoff, nil) // a wake-up must not turn a failing loop into a busy one
			backoff = min(2*backoff, mostBackoff)
			continue
		}
		backoff = firstBackoff
		if !didWork {
			r.wait(ctx, r.loop.Every, r.wake)
		}
	}
}

// turn runs the loop once; a panic is an error with its stack.
func (r *runner) turn(ctx context.Context) (didWork bool, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("panic: %v\n%s", p, debug.Stack())
		}
	}()
	return r.loop.Run(ctx)
}

func (r *runner) wait(ctx context.Context, d time.Duration, wake <-chan struct{}) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C:
	case <-wake:
	}
}

func wakeAll(runners []*runner) {
	for _, r := range runners {
		select {
		case r.wake <- struct{}{}:
		default: // it is awake already
		}
	}
}

const turnName = "github.com/pratique-io/pratique/internal/lease.(*runner).turn"

// insideTurn reports whether the caller's goroutine is running a loop. A turn that looks for work and finds none commits too;
// were that a wake-up, idle loops would keep each other awake for ever. Commit callbacks run on the goroutine that committed,
// so its stack tells. (A turn that did work wakes the others itself.)
func insideTurn() bool {
	var pcs [128]uintptr
	n := runtime.Callers(2, pcs[:])
	frames := runtime.CallersFrames(pcs[:n])
	for {
		frame, more := frames.Next()
		if frame.Function == turnName {
			return true
		}
		if !more {
			return false
		}
	}
}
