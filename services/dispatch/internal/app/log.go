package app

import (
	"context"

	"github.com/jackc/pgx/v5"

	"github.com/pratique-io/pratique/services/dispatch/internal/domain"
	"github.com/pratique-io/pratique/services/dispatch/internal/runner"
	"github.com/pratique-io/pratique/services/dispatch/internal/store"
)

// Sources of log lines.
const (
	SourceRun       = "run"
	SourceLifecycle = "lifecycle"
)

// TakeLines adds lines of the runner to the request's log, within the bounds of a run, whatever the runner's own are. Lines that were
// taken before are left out, so taking twice adds nothing.
func (a *App) TakeLines(ctx context.Context, tx pgx.Tx, run domain.Attempt, lines []runner.Line) error {
	if len(lines) == 0 {
		return nil
	}
	cursor, budget, err := store.LogCursor(ctx, tx, run.ID)
	if err != nil {
		return err
	}
	var add []store.Entry
	for _, l := range lines {
		if l.Number <= cursor {
			continue
		}
		cursor = l.Number
		admitted, last := budget.Take(l.Message)
		line := store.Line{Source: SourceRun, Run: run.ID, Step: l.Step, Level: l.Level, Message: l.Message, At: l.At}
		switch {
		case last:
			line.Step, line.Level, line.Message = "", "warn", runner.TruncationMessage
		case !admitted:
			continue
		}
		add = append(add, store.Entry{Tenant: run.Tenant, Request: run.Request, Line: line})
	}
	if err := store.AddLines(ctx, tx, add); err != nil {
		return err
	}
	return store.SetLogCursor(ctx, tx, run.ID, cursor, budget)
}

// Tell adds lifecycle lines, in order. One that closes marks the end of a request that never runs.
func (a *App) Tell(ctx context.Context, tx pgx.Tx, entries []store.Entry) error {
	for i := range entries {
		entries[i].Line.Source = SourceLifecycle
	}
	return store.AddLines(ctx, tx, entries)
}
