package loop

import (
	"context"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pratique-io/pratique/services/dispatch/internal/domain"
)

// gate remembers the provider as it was last assessed, so that scheduling does not check the world for every record.
type gate struct {
	mu   sync.Mutex
	last domain.Provider
	at   time.Time
}

// Assess checks the provider and records what came of it. It is the readiness watcher's turn.
func (l *Loops) Assess(ctx context.Context) (bool, error) {
	_, err := l.Refresh(ctx)
	return false, err
}

// Refresh checks the provider now.
func (l *Loops) Refresh(ctx context.Context) (domain.Provider, error) {
	bounded, cancel := context.WithTimeout(ctx, l.Config.ReadinessTimeout)
	defer cancel()
	checks := append(l.Provider.ConfigChecks(), l.Runner.Readiness(bounded)...)
	var assessed domain.Provider
	err := l.DB.Work(ctx, func(tx pgx.Tx) (err error) {
		assessed, err = l.App.Assess(ctx, tx, l.Provider, checks)
		return err
	})
	if err != nil {
		return domain.Provider{}, err
	}
	l.gate.mu.Lock()
	defer l.gate.mu.Unlock()
	if l.gate.last.Readiness.Ready() != assessed.Readiness.Ready() {
		l.Log.InfoContext(ctx, "provider readiness changed", "provider_id", assessed.ID, "ready", assessed.Readiness.Ready(),
			"missing", assessed.Readiness.Missing())
	}
	l.gate.last, l.gate.at = assessed, l.App.Now()
	return assessed, nil
}

// current is the provider as assessed not long ago.
func (l *Loops) current(ctx context.Context) (domain.Provider, error) {
	l.gate.mu.Lock()
	last, age := l.gate.last, l.App.Now().Sub(l.gate.at)
	l.gate.mu.Unlock()
	if len(last.Readiness.Checks) > 0 && age >= 0 && age < 2*l.Config.ReadinessEvery {
		return last, nil
	}
	return l.Refresh(ctx)
}
