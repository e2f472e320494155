package loop

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pratique-io/pratique/internal/failpoint"
	"github.com/pratique-io/pratique/services/dispatch/internal/domain"
	"github.com/pratique-io/pratique/services/dispatch/internal/runner"
	"github.com/pratique-io/pratique/services/dispatch/internal/store"
)

const (
	perTurn   = 32              // records of one turn
	perTake   = 500             // log lines of one transaction
	overdueBy = 2 * time.Minute // a runner that has not ended a run this long after its time is told to
)

// Supervise looks at the runs of our provider that are due. It reports work only for what moved: looking again at once would see the same.
func (l *Loops) Supervise(ctx context.Context) (bool, error) {
	if err := l.reclaim(ctx); err != nil {
		return false, err
	}
	var records []domain.Record
	err := l.DB.Work(ctx, func(tx pgx.Tx) (err error) {
		now := l.App.Now()
		records, err = store.LeaseActive(ctx, tx, l.Provider.ID, now, now.Add(l.Config.Lease), perTurn)
		return err
	})
	if err != nil {
		return false, err
	}
	moved := false
	var problems []error
	for _, record := range records {
		did, err := l.look(ctx, record)
		moved = moved || did
		if err != nil {
			problems = append(problems, fmt.Errorf("request %s: %w", record.ID, err))
		}
	}
	return moved, errors.Join(problems...)
}

// look brings one leased record up to what the runner knows.
func (l *Loops) look(ctx context.Context, record domain.Record) (bool, error) {
	var run domain.Attempt
	err := l.DB.Work(ctx, func(tx pgx.Tx) (err error) {
		run, err = store.NewestRun(ctx, tx, record.ID)
		return err
	})
	if err != nil {
		return false, err
	}
	status, err := l.Runner.Poll(ctx, run.Name)
	if err != nil {
		return false, errors.Join(fmt.Errorf("poll: %w", err), l.release(ctx, record, l.Config.PollEvery))
	}
	if record.State == domain.Starting {
		return l.settleStart(ctx, record, run, status)
	}
	if err := l.takeLines(ctx, run); err != nil {
		return false, errors.Join(err, l.release(ctx, record, l.Config.PollEvery))
	}
	switch {
	case status.State == runner.Running:
		return l.running(ctx, record, run, status)
	default:
		return l.ended(ctx, record, run, status)
	}
}

// settleStart decides about a start of which we do not know how far it came: the runner knows the name, or it was never started.
func (l *Loops) settleStart(ctx context.Context, record domain.Record, run domain.Attempt, status runner.Status) (bool, error) {
	switch {
	case status.State != runner.Unknown:
		return l.started(ctx, record, run)
	case !record.CancelAt.IsZero():
		return l.work(ctx, func(tx pgx.Tx) error { return l.App.Cancelled(ctx, tx, record) })
	}
	return l.again(ctx, record, run, domain.Fails(domain.CodeDispatch, "the run never started on its provider"))
}

func (l *Loops) running(ctx context.Context, record domain.Record, run domain.Attempt, status runner.Status) (bool, error) {
	overdue := l.App.Now().After(run.StartedAt.Add(l.Config.RunTimeout + overdueBy))
	if !record.CancelAt.IsZero() || overdue {
		if err := l.Runner.Cancel(ctx, run.Name); err != nil {
			return false, errors.Join(fmt.Errorf("cancel: %w", err), l.release(ctx, record, l.Config.PollEvery))
		}
	}
	moved := false
	_, err := l.work(ctx, func(tx pgx.Tx) error {
		after, _, err := l.App.Advance(ctx, tx, record, run, status.Steps)
		if err != nil {
			return err
		}
		moved = after.Version != record.Version
		return store.Release(ctx, tx, after, l.App.Now().Add(l.Config.PollEvery))
	})
	return moved, err
}

// ended records the end of a run, then lets the runner forget it: in this order, so that a crash in between repeats the forgetting.
func (l *Loops) ended(ctx context.Context, record domain.Record, run domain.Attempt, status runner.Status) (bool, error) {
	failpoint.Hit("dispatch.before_finish")
	done, err := l.finish(ctx, record, run, status)
	if err != nil || !done {
		return false, err
	}
	failpoint.Hit("dispatch.after_finish")
	if err := l.Runner.Cleanup(ctx, run.Name); err != nil {
		l.Log.WarnContext(ctx, "run not cleaned up, later", "run", run.Name, "err", err)
	}
	return true, nil
}

func (l *Loops) finish(ctx context.Context, record domain.Record, run domain.Attempt, status runner.Status) (bool, error) {
	at := status.EndedAt.UTC().Truncate(time.Microsecond)
	if status.EndedAt.IsZero() {
		at = l.App.Now()
	}
	if !record.CancelAt.IsZero() { // however it ended: once the withdrawal is taken, nothing of it counts
		return l.work(ctx, func(tx pgx.Tx) error { return l.App.Cancelled(ctx, tx, record) })
	}
	if status.State == runner.Unknown || status.State == runner.Lost {
		return l.again(ctx, record, run, domain.Fails(domain.CodeDispatch, "the run was lost with the machine or process it ran on"))
	}
	run.Steps, _ = domain.MergeSteps(run.Steps, status.Steps)
	failure, step := status.Failure, status.Step
	switch status.State {
	case runner.Succeeded:
		err := status.Results.Check(record.SourceDigest)
		if err == nil {
			return l.work(ctx, func(tx pgx.Tx) error { return l.App.Succeed(ctx, tx, record, run, status.Results, at) })
		}
		failure, step = domain.Fails(domain.CodeRuntime, err.Error()), ""
	case runner.Cancelled:
		failure = domain.Fails(domain.CodeRuntime, "the run was stopped on its provider")
		if l.App.Now().After(run.StartedAt.Add(l.Config.RunTimeout)) {
			failure = domain.Fails(domain.CodeRunTimeout, fmt.Sprintf("the run took longer than %s", l.Config.RunTimeout))
		}
	}
	if failure == nil {
		failure = domain.Fails(domain.CodeRuntime, "the run failed and its provider does not say why")
	}
	return l.work(ctx, func(tx pgx.Tx) error { return l.App.Fail(ctx, tx, record, run, failure, step, at) })
}

// takeLines takes over all lines that the runner has.
func (l *Loops) takeLines(ctx context.Context, run domain.Attempt) error {
	for {
		lines, err := l.Runner.Logs(ctx, run.Name, run.LogCursor, perTake)
		if err != nil {
			return fmt.Errorf("read log: %w", err)
		}
		if len(lines) == 0 {
			return nil
		}
		if err := l.DB.Work(ctx, func(tx pgx.Tx) error { return l.App.TakeLines(ctx, tx, run, lines) }); err != nil {
			return err
		}
		run.LogCursor = lines[len(lines)-1].Number
		if len(lines) < perTake {
			return nil
		}
	}
}
