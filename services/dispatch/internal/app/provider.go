package app

import (
	"context"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	dispatchv1 "github.com/pratique-io/pratique/gen/pratique/dispatch/v1"
	"github.com/pratique-io/pratique/internal/event"
	"github.com/pratique-io/pratique/internal/outbox"
	"github.com/pratique-io/pratique/services/dispatch/internal/domain"
	"github.com/pratique-io/pratique/services/dispatch/internal/store"
)

// Assess writes a provider with what its checks came to, and tells when that means something else than before.
func (a *App) Assess(ctx context.Context, tx pgx.Tx, p domain.Provider, checks []domain.Check) (domain.Provider, error) {
	now := a.Now()
	p, err := store.SaveProvider(ctx, tx, p, now)
	if err != nil {
		return p, err
	}
	fresh := domain.Readiness{Checks: checks, CheckedAt: now}
	changed := p.Uncertain || fresh.Differs(p.Readiness)
	p.Readiness, p.Uncertain = fresh, false
	if changed {
		p.Version++
	}
	if err := store.SaveReadiness(ctx, tx, p); err != nil || !changed {
		return p, err
	}
	e, err := event.New(ctx, &dispatchv1.ProviderReadinessChanged{ProviderId: p.ID.String(), Name: p.Name, Ready: fresh.Ready(),
		MissingPrereqs: fresh.Missing()}, event.Head{Subject: p.ID, Tenant: uuid.Nil, Sequence: p.Version, Actor: actor})
	if err != nil {
		return p, err
	}
	return p, outbox.Append(ctx, tx, e)
}
