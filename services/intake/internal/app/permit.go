package app

import (
	"context"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/pratique-io/pratique/internal/auth"
	"github.com/pratique-io/pratique/internal/failpoint"
	"github.com/pratique-io/pratique/internal/failure"
	"github.com/pratique-io/pratique/internal/fault"
	"github.com/pratique-io/pratique/internal/pg"
	"github.com/pratique-io/pratique/services/intake/internal/domain"
	"github.com/pratique-io/pratique/services/intake/internal/store"
)

// Permit answers dispatch: may a run for the request start now? Reason says why not: the request's status, or policy_blocked.
type Permit struct {
	Allowed bool
	Reason  string
	Request *domain.Request
}

// DispatchPermit asks the owner's own rows, never a projection. A refusal moves the request to failed / policy / policy_blocked in the same
// transaction, so that the answer stays true.
func (a *App) DispatchPermit(ctx context.Context, id uuid.UUID) (Permit, error) {
	var out Permit
	err := a.db.Write(ctx, pg.AllTenants(), func(tx pgx.Tx) error {
		r, err := store.LockRequest(ctx, tx, pg.AllTenants(), id)
		if err != nil {
			return missing("request", err)
		}
		out = Permit{Request: r, Reason: string(r.State.Status)}
		if f := r.Failure(); r.State.Status == domain.Failed && f != nil {
			out.Reason = f.Code
		}
		if r.State.Status != domain.Approved && r.State.Status != domain.Importing {
			return nil
		}
		standing, err := store.StandingOf(ctx, tx, r.Tenant, r.EprRecordID)
		if err != nil {
			return err
		}
		now := a.now()
		refusal := a.recheck(standing, r, now)
		if refusal == nil {
			out.Allowed, out.Reason = true, ""
			return nil
		}
		out.Reason = failure.PolicyBlocked
		change := newChange(now)
		change.touch(r)
		step, err := r.Refuse(fault.Of(refusal).Message(), now)
		if err != nil {
			return err
		}
		by := act{Actor: auth.From(ctx).Actor(), Reason: fault.Of(refusal).Message()}
		if err := change.steps(ctx, r, []domain.Step{step}, by); err != nil {
			return err
		}
		return change.save(ctx, tx)
	})
	failpoint.Hit("intake.after_commit_permit")
	return out, err
}

// Entitlement answers release: may the tenant have this request released now? Reason is the code of the refusal.
type Entitlement struct {
	Allowed bool
	Reason  string
	Tenant  store.Tenant
}

// ReleaseEntitlement asks the owner's own rows.
func (a *App) ReleaseEntitlement(ctx context.Context, id uuid.UUID) (Entitlement, error) {
	var out Entitlement
	err := a.db.Read(ctx, pg.AllTenants(), func(tx pgx.Tx) error {
		r, err := store.Request(ctx, tx, pg.AllTenants(), id)
		if err != nil {
			return missing("request", err)
		}
		standing, err := store.StandingOf(ctx, tx, r.Tenant, r.EprRecordID)
		if err != nil {
			return err
		}
		out.Tenant = standing.Tenant
		if err := checkTenant(standing); err != nil {
			out.Reason = fault.CodeOf(fault.Of(err).Reason())
			return nil
		}
		if err := checkCapability(standing, domain.QuarantineRelease); err != nil {
			out.Reason = fault.CodeOf(fault.Of(err).Reason())
			return nil
		}
		if r.EprBasis == domain.BasisLocal && (standing.Epr == nil || !standing.Epr.Lifecycle(a.now(), a.set.EprWindow).InForce()) {
			out.Reason = "epr_not_in_force"
			return nil
		}
		out.Allowed = true
		return nil
	})
	return out, err
}
