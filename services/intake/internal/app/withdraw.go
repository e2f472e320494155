package app

import (
	"context"
	"errors"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	errorsv1 "github.com/pratique-io/pratique/gen/pratique/errors/v1"
	intakev1 "github.com/pratique-io/pratique/gen/pratique/intake/v1"
	"github.com/pratique-io/pratique/internal/auth"
	"github.com/pratique-io/pratique/internal/failpoint"
	"github.com/pratique-io/pratique/internal/fault"
	"github.com/pratique-io/pratique/services/intake/internal/domain"
	"github.com/pratique-io/pratique/services/intake/internal/store"
)

// Withdraw takes a request back while it is pending, approved or importing. A member may withdraw what they asked for, an admin of the tenant
// (or of the system) everything.
func (a *App) Withdraw(ctx context.Context, id uuid.UUID, reason string) (*domain.Request, error) {
	ctx, caller, err := a.know(ctx)
	if err != nil {
		return nil, err
	}
	var out *domain.Request
	err = a.db.Write(ctx, caller.Scope(), func(tx pgx.Tx) error {
		r, err := store.LockRequest(ctx, tx, caller.Scope(), id)
		if err != nil {
			return missing("request", err)
		}
		if err := mayWithdraw(caller, r.RequestedBy); err != nil {
			return err
		}
		now := a.now()
		change := newChange(now)
		change.touch(r)
		from := r.State.Status
		step, err := r.TakeBack(caller.PersonID.String(), reason, now)
		var move *domain.Move
		if errors.As(err, &move) {
			return fault.New(errorsv1.Reason_REASON_IMPORT_NOT_WITHDRAWABLE, "a request that is "+move.From+" cannot be withdrawn",
				fault.D("import_id", id), fault.D("import_status", move.From))
		}
		if err != nil {
			return err
		}
		withdrawn := &intakev1.RequestWithdrawn{
			ImportId: r.ID.String(), TenantId: r.Tenant.String(), WithdrawnBy: caller.PersonID.String(), Reason: reason,
			FromStatus: string(from), RequestedBy: r.RequestedBy.String(), SourceImageRef: r.SourceImageRef, RequestType: string(r.Type),
			CarriedOverFrom: r.Facts.Decision.CarriedFrom,
		}
		if _, err := change.tell(ctx, r, caller.Actor(), step.Version, withdrawn); err != nil {
			return err
		}
		if err := change.steps(ctx, r, []domain.Step{step}, act{Actor: caller.Actor(), Reason: reason}); err != nil {
			return err
		}
		out = r
		if err := change.save(ctx, tx); err != nil {
			return err
		}
		failpoint.Hit("intake.before_commit_withdraw")
		return nil
	})
	failpoint.Hit("intake.after_commit_withdraw")
	return out, err
}

func mayWithdraw(caller auth.Caller, requester uuid.UUID) error {
	if caller.HasAny(auth.SystemAdmin, auth.TenantAdmin) || (caller.PersonID != uuid.Nil && caller.PersonID == requester) {
		return nil
	}
	return fault.New(errorsv1.Reason_REASON_PERMISSION_DENIED, "members withdraw only what they asked for themselves")
}
