package app

import (
	"context"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"google.golang.org/protobuf/proto"

	errorsv1 "github.com/pratique-io/pratique/gen/pratique/errors/v1"
	intakev1 "github.com/pratique-io/pratique/gen/pratique/intake/v1"
	"github.com/pratique-io/pratique/internal/auth"
	"github.com/pratique-io/pratique/internal/failpoint"
	"github.com/pratique-io/pratique/internal/fault"
	"github.com/pratique-io/pratique/internal/idempotency"
	"github.com/pratique-io/pratique/internal/oci"
	"github.com/pratique-io/pratique/internal/pg"
	"github.com/pratique-io/pratique/services/intake/internal/domain"
	"github.com/pratique-io/pratique/services/intake/internal/store"
)

// Again names the request that a retry or a clone begins from, and the call that asks.
type Again struct {
	ID     uuid.UUID
	Type   domain.Type
	Method string // of the call, for the audit of a denial
}

// Retry asks for the same digest again, in the same chain. The source is not asked, so all of it is one transaction: the row of the request
// that is retried is held, and of several retries at once one succeeds.
func (a *App) Retry(ctx context.Context, in proto.Message, again Again) (*intakev1.ImportRequest, error) {
	ctx, caller, err := a.know(ctx)
	if err != nil {
		return nil, err
	}
	out, err := a.retry(ctx, caller, in, again)
	if err != nil {
		return nil, a.refused(ctx, caller, again.Type.Needs(), again.Method, err)
	}
	return out, nil
}

func (a *App) retry(ctx context.Context, caller auth.Caller, in proto.Message, again Again) (*intakev1.ImportRequest, error) {
	standing, err := a.standing(ctx, caller.Tenant, "")
	if err != nil {
		return nil, err
	}
	if err := checkTenant(standing); err != nil {
		return nil, err
	}
	var out *intakev1.ImportRequest
	err = a.db.Write(ctx, pg.OneTenant(caller.Tenant), func(tx pgx.Tx) error {
		out, err = idempotency.Run(ctx, tx, in, &intakev1.ImportRequest{}, func() (*intakev1.ImportRequest, error) {
			last, err := store.LockRequest(ctx, tx, pg.OneTenant(caller.Tenant), again.ID)
			if err != nil {
				return nil, missing("request", err)
			}
			if last.Type != again.Type {
				return nil, notFound(string(again.Type) + " request")
			}
			r, err := a.successor(ctx, tx, caller, last)
			if err != nil {
				return nil, err
			}
			return a.insert(ctx, tx, caller, r, last)
		})
		failpoint.Hit("intake.before_commit_retry")
		return err
	})
	failpoint.Hit("intake.after_commit_retry")
	return out, err
}

// successor admits a retry in the order of the contract, as far as the source, and drafts it.
func (a *App) successor(ctx context.Context, tx pgx.Tx, caller auth.Caller, last *domain.Request) (*domain.Request, error) {
	if !caller.Has(auth.TenantAdmin) && caller.PersonID != last.RequestedBy {
		return nil, fault.New(errorsv1.Reason_REASON_PERMISSION_DENIED, "members retry only what they asked for themselves")
	}
	if err := checkRetry(last, a.now()); err != nil {
		return nil, err
	}
	standing, err := store.StandingOf(ctx, tx, last.Tenant, last.EprRecordID)
	if err != nil {
		return nil, err
	}
	ask := Ask{Type: last.Type, EprRecordID: last.EprRecordID}
	if last.DestinationRef != "" {
		destination, err := oci.ParseDestination(last.DestinationRef)
		if err != nil {
			return nil, fmt.Errorf("stored destination of %s: %w", last.ID, err)
		}
		ask.Destination = &destination
	}
	basis, err := a.admit(standing, ask)
	if err != nil {
		return nil, err
	}
	r := last.Successor(caller.PersonID, basis)
	r.ID, err = newID()
	return r, err
}

// checkRetry says why a request may not be retried now: never, not in this chain, not yet.
func checkRetry(last *domain.Request, now time.Time) error {
	retry := last.Retry()
	switch {
	case retry.Exhausted():
		return fault.New(errorsv1.Reason_REASON_RETRY_ATTEMPT_LIMIT_REACHED, retry.Refusal, fault.D("import_id", last.ID),
			fault.D("max_attempts", retry.Limit), fault.D("current_attempts", last.ChainPosition))
	case !retry.Allowed():
		details := []fault.Detail{fault.D("import_id", last.ID), fault.D("import_status", string(last.State.Status))}
		if next := last.Facts.RetriedAs; next != nil {
			details = append(details, fault.D("retried_as", *next))
		}
		return fault.New(errorsv1.Reason_REASON_IMPORT_NOT_RETRYABLE, retry.Refusal, details...)
	case now.Before(retry.At):
		return fault.New(errorsv1.Reason_REASON_RETRY_BACKOFF_ACTIVE, "it is too early to retry this request", fault.D("import_id", last.ID),
			fault.D("retry_available_at", retry.At.Format(time.RFC3339Nano)), fault.RetryAfter(retry.At.Sub(now)))
	}
	return nil
}

// Clone makes a fresh request from the fields of another of the tenant; fill turns them into an ask, with what the caller wants otherwise.
func (a *App) Clone(ctx context.Context, in proto.Message, again Again, fill func(*domain.Request) (Ask, error)) (*intakev1.ImportRequest, error) {
	ctx, caller, err := a.know(ctx)
	if err != nil {
		return nil, err
	}
	standing, err := a.standing(ctx, caller.Tenant, "")
	if err != nil {
		return nil, err
	}
	if err := checkTenant(standing); err != nil {
		return nil, a.refused(ctx, caller, again.Type.Needs(), again.Method, err)
	}
	var from *domain.Request
	err = a.db.Read(ctx, pg.OneTenant(caller.Tenant), func(tx pgx.Tx) error {
		from, err = store.Request(ctx, tx, pg.OneTenant(caller.Tenant), again.ID)
		return missing("request", err)
	})
	if err != nil {
		return nil, err
	}
	if from.Type != again.Type {
		return nil, notFound(string(again.Type) + " request")
	}
	ask, err := fill(from)
	if err != nil {
		return nil, err
	}
	ask.Type, ask.Method, ask.ClonedFrom = again.Type, again.Method, from.ID
	return a.Create(ctx, in, ask)
}
