package loop

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pratique-io/pratique/services/dispatch/internal/domain"
	"github.com/pratique-io/pratique/services/dispatch/internal/runner"
	"github.com/pratique-io/pratique/services/dispatch/internal/store"
)

// Expire ends what has waited too long, and takes up what a vanished provider left.
func (l *Loops) Expire(ctx context.Context) (bool, error) {
	overdue, err := l.expireWaits(ctx)
	if err != nil {
		return false, err
	}
	abandoned, err := l.takeAbandoned(ctx)
	return overdue || abandoned, err
}

func (l *Loops) expireWaits(ctx context.Context) (bool, error) {
	ended := 0
	done, err := l.work(ctx, func(tx pgx.Tx) error {
		now := l.App.Now()
		records, err := store.LockOverdue(ctx, tx, now.Add(-l.Config.DispatchWait), now, batch)
		if err != nil {
			return err
		}
		for _, record := range records {
			run, err := store.NewestRun(ctx, tx, record.ID)
			if err != nil {
				return err
			}
			failure := domain.Fails(domain.CodeTimeout, fmt.Sprintf("no provider took the run within %s", l.Config.DispatchWait))
			if err := l.App.Fail(ctx, tx, record, run, failure, "", now); err != nil {
				return err
			}
		}
		ended = len(records)
		return nil
	})
	return done && ended > 0, err
}

// takeAbandoned queues runs of providers that are gone for good. Their credentials have expired, so nothing they may still do can reach
// the quarantine registry: that is the proof that they are lost.
func (l *Loops) takeAbandoned(ctx context.Context) (bool, error) {
	var records []domain.Record
	err := l.DB.Work(ctx, func(tx pgx.Tx) (err error) {
		now := l.App.Now()
		records, err = store.LeaseAbandoned(ctx, tx, l.Provider.ID, now.Add(-time.Minute), now, now.Add(l.Config.Lease), batch)
		return err
	})
	if err != nil {
		return false, err
	}
	for _, record := range records {
		var run domain.Attempt
		err := l.DB.Work(ctx, func(tx pgx.Tx) (err error) {
			run, err = store.NewestRun(ctx, tx, record.ID)
			return err
		})
		if err != nil {
			return false, err
		}
		if _, err := l.finish(ctx, record, run, runner.Status{State: runner.Lost}); err != nil {
			return false, err
		}
	}
	return len(records) > 0, nil
}

// Tidy makes the runner forget what no record holds: the end was recorded and the process died before it said so, or the database was put
// back to an earlier day. A run is recorded before it is started, so a name without a record has no owner.
func (l *Loops) Tidy(ctx context.Context) (bool, error) {
	names, err := l.Runner.Names(ctx)
	if err != nil || len(names) == 0 {
		return false, err
	}
	var wanted map[string]bool
	err = l.DB.Work(ctx, func(tx pgx.Tx) (err error) {
		wanted, err = store.Wanted(ctx, tx, names)
		return err
	})
	if err != nil {
		return false, err
	}
	var problems []error
	for _, name := range names {
		if !wanted[name] {
			problems = append(problems, l.forget(ctx, name))
		}
	}
	return false, errors.Join(problems...)
}

func (l *Loops) forget(ctx context.Context, name string) error {
	status, err := l.Runner.Poll(ctx, name)
	if err != nil {
		return fmt.Errorf("poll %s: %w", name, err)
	}
	if status.State.Ended() {
		return l.Runner.Cleanup(ctx, name)
	}
	l.Log.WarnContext(ctx, "run without a record is stopped", "run", name)
	return l.Runner.Cancel(ctx, name)
}
