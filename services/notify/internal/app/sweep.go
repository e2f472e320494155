package app

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pratique-io/pratique/internal/lease"
	"github.com/pratique-io/pratique/internal/pg"
	"github.com/pratique-io/pratique/services/notify/internal/store"
)

const sweepBatch = 1000

// Sweep is the loop that deletes receipts after their retention. Plans stay, and they are what a replay meets: see notification_plan.
func (a *App) Sweep(db *pg.DB, retention, every time.Duration) lease.Loop {
	var next time.Time // the loop is woken by every commit; it looks only when it is time
	return lease.Loop{Name: "notify.receipts", Every: every, Run: func(ctx context.Context) (bool, error) {
		now := a.Now()
		if now.Before(next) {
			return false, nil
		}
		n := 0
		err := db.Work(ctx, func(tx pgx.Tx) (err error) {
			n, err = store.SweepReceipts(ctx, tx, now.Add(-retention), sweepBatch)
			return err
		})
		if err != nil {
			return false, err
		}
		if n == sweepBatch {
			return true, nil
		}
		next = now.Add(every)
		return false, nil
	}}
}
