package store

import (
	"context"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/pratique-io/pratique/services/dispatch/internal/domain"
	"github.com/pratique-io/pratique/services/dispatch/internal/runner"
)

const insertRunSQL = `with added as (
	insert into run (id, tenant_id, import_id, attempt, state, name, queued_at)
	values (@id, @tenant_id, @import_id, @attempt, @state, @name, @queued_at)
	returning id, tenant_id
)
insert into run_step (run_id, tenant_id, step_key, position, state, attempts)
select added.id, added.tenant_id, s.step_key, s.position, 'pending', s.attempts
from added, unnest(@keys::text[], @attempts::int[]) with ordinality as s (step_key, attempts, position)`

// InsertRun adds an attempt with its steps, none of which has begun.
func InsertRun(ctx context.Context, tx pgx.Tx, a domain.Attempt) error {
	var keys []string
	var attempts []int
	for _, step := range a.Steps {
		keys, attempts = append(keys, step.Key), append(attempts, step.Attempts)
	}
	_, err := tx.Exec(ctx, insertRunSQL, pgx.NamedArgs{"id": a.ID, "tenant_id": a.Tenant, "import_id": a.Request, "attempt": a.Number,
		"state": a.State, "name": a.Name, "queued_at": a.QueuedAt, "keys": keys, "attempts": attempts})
	if err != nil {
		return fmt.Errorf("insert run: %w", err)
	}
	return nil
}

const getRunSQL = `select id, tenant_id, import_id, attempt, provider_id, state, name, namespace, results, failure_class, failure_code,
	failure_message, log_cursor, queued_at, started_at, ended_at
from run where import_id = @import_id order by attempt desc limit 1`

const getStepsSQL = `select step_key, state, attempts, last_error, started_at, ended_at from run_step where run_id = @run_id order by position`

// NewestRun reads the newest attempt of a request with its steps; ErrNone when there is none in this scope.
func NewestRun(ctx context.Context, tx pgx.Tx, request uuid.UUID) (domain.Attempt, error) {
	rows, err := tx.Query(ctx, getRunSQL, pgx.NamedArgs{"import_id": request})
	if err != nil {
		return domain.Attempt{}, fmt.Errorf("read run: %w", err)
	}
	a, err := pgx.CollectExactlyOneRow(rows, scanRun)
	if err != nil {
		return domain.Attempt{}, fmt.Errorf("read run: %w", none(err))
	}
	rows, err = tx.Query(ctx, getStepsSQL, pgx.NamedArgs{"run_id": a.ID})
	if err != nil {
		return domain.Attempt{}, fmt.Errorf("read steps: %w", err)
	}
	if a.Steps, err = pgx.CollectRows(rows, scanStep); err != nil {
		return domain.Attempt{}, fmt.Errorf("read steps: %w", err)
	}
	return a, nil
}

func scanRun(row pgx.CollectableRow) (domain.Attempt, error) {
	var a domain.Attempt
	var failure domain.Failure
	var provider *uuid.UUID
	var started, ended *time.Time
	err := row.Scan(&a.ID, &a.Tenant, &a.Request, &a.Number, &provider, &a.State, &a.Name, &a.Namespace, &a.Results, &failure.Class,
		&failure.Code, &failure.Message, &a.LogCursor, &a.QueuedAt, &started, &ended)
	if provider != nil {
		a.Provider = *provider
	}
	if failure.Code != "" {
		a.Failure = &failure
	}
	a.StartedAt, a.EndedAt = timeOf(started), timeOf(ended)
	return a, err
}

func scanStep(row pgx.CollectableRow) (domain.StepOf, error) {
	var s domain.StepOf
	var started, ended *time.Time
	err := row.Scan(&s.Key, &s.State, &s.Attempts, &s.LastError, &started, &ended)
	s.StartedAt, s.EndedAt = timeOf(started), timeOf(ended)
	return s, err
}

const saveRunSQL = `with saved as (
	update run set state = @state, provider_id = @provider_id, namespace = @namespace, results = @results,
		failure_class = @failure_class, failure_code = @failure_code, failure_message = @failure_message,
		started_at = @started_at, ended_at = @ended_at
	where id = @id
)
update run_step set state = s.state, attempts = s.attempts, last_error = s.last_error, started_at = s.started_at, ended_at = s.ended_at
from unnest(@keys::text[], @states::text[], @attempts::int[], @errors::text[], @starts::timestamptz[], @ends::timestamptz[])
	as s (step_key, state, attempts, last_error, started_at, ended_at)
where run_step.run_id = @id and run_step.step_key = s.step_key`

// SaveRun writes an attempt and its steps. The caller moves the record in the same transaction, which is the guard.
func SaveRun(ctx context.Context, tx pgx.Tx, a domain.Attempt) error {
	failure := domain.Failure{}
	if a.Failure != nil {
		failure = *a.Failure
	}
	var keys, states, errs []string
	var attempts []int
	var starts, ends []*time.Time
	for _, s := range a.Steps {
		keys, states, errs = append(keys, s.Key), append(states, string(s.State)), append(errs, s.LastError)
		attempts = append(attempts, s.Attempts)
		starts, ends = append(starts, nullTime(s.StartedAt)), append(ends, nullTime(s.EndedAt))
	}
	_, err := tx.Exec(ctx, saveRunSQL, pgx.NamedArgs{"id": a.ID, "state": a.State, "provider_id": nullID(a.Provider),
		"namespace": a.Namespace, "results": a.Results, "failure_class": failure.Class, "failure_code": failure.Code,
		"failure_message": failure.Message, "started_at": nullTime(a.StartedAt), "ended_at": nullTime(a.EndedAt),
		"keys": keys, "states": states, "attempts": attempts, "errors": errs, "starts": starts, "ends": ends})
	if err != nil {
		return fmt.Errorf("save run: %w", err)
	}
	return nil
}

const takeCursorSQL = `select log_cursor, log_lines, log_bytes, log_full from run where id = @id for update`

// LogCursor reads, and locks, how far the lines of a run were taken over.
func LogCursor(ctx context.Context, tx pgx.Tx, run uuid.UUID) (cursor int64, budget runner.Budget, err error) {
	err = tx.QueryRow(ctx, takeCursorSQL, pgx.NamedArgs{"id": run}).Scan(&cursor, &budget.Lines, &budget.Bytes, &budget.Full)
	if err != nil {
		return 0, budget, fmt.Errorf("read log cursor: %w", none(err))
	}
	return cursor, budget, nil
}

const setCursorSQL = `update run set log_cursor = @cursor, log_lines = @lines, log_bytes = @bytes, log_full = @full where id = @id`

// SetLogCursor writes how far the lines of a run were taken over.
func SetLogCursor(ctx context.Context, tx pgx.Tx, run uuid.UUID, cursor int64, budget runner.Budget) error {
	_, err := tx.Exec(ctx, setCursorSQL, pgx.NamedArgs{"id": run, "cursor": cursor, "lines": budget.Lines, "bytes": budget.Bytes,
		"full": budget.Full})
	if err != nil {
		return fmt.Errorf("write log cursor: %w", err)
	}
	return nil
}

const namesSQL = `select run.name, run.attempt = r.attempt and r.state in ('starting', 'running')
from run join dispatch_record r on r.id = run.import_id where run.name = any(@names)`

// Wanted says of each known name of a run whether a record still holds it; names that no record knows are missing.
func Wanted(ctx context.Context, tx pgx.Tx, names []string) (map[string]bool, error) {
	rows, err := tx.Query(ctx, namesSQL, pgx.NamedArgs{"names": names})
	if err != nil {
		return nil, fmt.Errorf("look up runs: %w", err)
	}
	out := map[string]bool{}
	var name string
	var wanted bool
	_, err = pgx.ForEachRow(rows, []any{&name, &wanted}, func() error { out[name] = wanted; return nil })
	if err != nil {
		return nil, fmt.Errorf("look up runs: %w", err)
	}
	return out, nil
}
