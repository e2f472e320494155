package app

import (
	"context"

	"github.com/google/uuid"
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
	var add []store.Line
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
			add = append(add, line)
		case admitted:
			add = append(add, line)
		}
	}
	if err := store.AddLines(ctx, tx, run.Tenant, run.Request, add); err != nil {
		return err
	}
	return store.SetLogCursor(ctx, tx, run.ID, cursor, budget)
}

// Tell adds one lifecycle line. closes marks the end of a request that never runs.
func (a *App) Tell(ctx context.Context, tx pgx.Tx, tenant, request uuid.UUID, line store.Line, closes bool) error {
	line.Source = SourceLifecycle
	if err := store.AddLines(ctx, tx, tenant, request, []store.Line{line}); err != nil {
		return err
	}
	if closes {
		return store.CloseLog(ctx, tx, request)
	}
	return nil
}
