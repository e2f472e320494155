package app

import (
	"context"
	"errors"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	errorsv1 "github.com/pratique-io/pratique/gen/pratique/errors/v1"
	intakev1 "github.com/pratique-io/pratique/gen/pratique/intake/v1"
	"github.com/pratique-io/pratique/internal/auth"
	"github.com/pratique-io/pratique/internal/event"
	"github.com/pratique-io/pratique/internal/fault"
	"github.com/pratique-io/pratique/internal/oci"
	"github.com/pratique-io/pratique/internal/outbox"
	"github.com/pratique-io/pratique/internal/pg"
	"github.com/pratique-io/pratique/services/intake/internal/domain"
	"github.com/pratique-io/pratique/services/intake/internal/store"
)

// Each check below is one line of the contract's order of admission. The same ones run again when an approval is taken and when dispatch and
// release ask, so what admits is what re-checks.

func checkTenant(s store.Standing) error {
	if s.Tenant.Status == store.TenantActive {
		return nil
	}
	return fault.New(errorsv1.Reason_REASON_TENANT_DISABLED, "the tenant is disabled; nothing new starts", fault.D("tenant_id", s.Tenant.ID))
}

func checkCapability(s store.Standing, want domain.Capability) error {
	if s.Capabilities.Has(want) {
		return nil
	}
	return fault.New(errorsv1.Reason_REASON_TENANT_CAPABILITY_NOT_ENTITLED, "the tenant is not entitled to "+string(want),
		fault.D("tenant_id", s.Tenant.ID), fault.D("capability_key", string(want)))
}

// checkEpr answers on what basis an import may rest.
func (a *App) checkEpr(s store.Standing, record string, now time.Time) (basis string, err error) {
	if s.Epr != nil && s.Epr.Lifecycle(now, a.set.EprWindow).InForce() {
		return domain.BasisLocal, nil
	}
	if s.Epr == nil && !a.set.EprEnforce {
		return domain.BasisNotEnforced, nil
	}
	status, lifecycle := "none", domain.LifecycleNone
	switch {
	case s.Epr != nil:
		status, lifecycle = string(s.Epr.Status), s.Epr.Lifecycle(now, a.set.EprWindow)
	case s.LastEpr != nil:
		status = string(s.LastEpr.Status)
	}
	return "", fault.New(errorsv1.Reason_REASON_EPR_REGISTRATION_REQUIRED, "no approved EPR registration in force covers this import",
		fault.D("tenant_id", s.Tenant.ID), fault.D("epr_record_id", record), fault.D("epr_status", status),
		fault.D("lifecycle_status", string(lifecycle)))
}

// recheck is admission without the source: nil, or why the request may not go on.
func (a *App) recheck(s store.Standing, r *domain.Request, now time.Time) error {
	if err := checkTenant(s); err != nil {
		return err
	}
	if err := checkCapability(s, r.Type.Needs()); err != nil {
		return err
	}
	if r.Type == domain.TypeQuarantine {
		_, err := a.checkEpr(s, r.EprRecordID, now)
		return err
	}
	return nil
}

// checkDestination holds a destination to the default rule: the trusted registry, under the tenant's own name.
func (a *App) checkDestination(s store.Standing, d *oci.Reference) error {
	if d == nil || a.set.TrustedRegistry == "" {
		return nil
	}
	if d.Host == a.set.TrustedRegistry && strings.HasPrefix(d.Repository, s.Tenant.Slug+"/") {
		return nil
	}
	return fault.New(errorsv1.Reason_REASON_DESTINATION_NOT_ALLOWED, "the destination lies outside "+a.set.TrustedRegistry+"/"+s.Tenant.Slug+"/",
		fault.D("tenant_id", s.Tenant.ID), fault.D("destination_image_ref", d.String()))
}

// standing reads the tenant's standing in a transaction of its own.
func (a *App) standing(ctx context.Context, tenant uuid.UUID, record string) (store.Standing, error) {
	var out store.Standing
	err := a.db.Read(ctx, pg.OneTenant(tenant), func(tx pgx.Tx) error {
		var err error
		out, err = store.StandingOf(ctx, tx, tenant, record)
		return err
	})
	if errors.Is(err, store.ErrNone) {
		return out, fault.New(errorsv1.Reason_REASON_INVALID_TENANT, "there is no such tenant")
	}
	return out, err
}

// denials are the refusals that are counted and audited: the answer is no, as opposed to a mistake in the ask.
var denials = map[errorsv1.Reason]bool{
	errorsv1.Reason_REASON_TENANT_DISABLED:                true,
	errorsv1.Reason_REASON_TENANT_CAPABILITY_NOT_ENTITLED: true,
	errorsv1.Reason_REASON_SOURCE_NOT_ALLOWED:             true,
	errorsv1.Reason_REASON_DESTINATION_NOT_ALLOWED:        true,
	errorsv1.Reason_REASON_EPR_REGISTRATION_REQUIRED:      true,
}

// refused counts and audits a denial, and passes every error on. All that a denied call leaves behind is written here.
func (a *App) refused(ctx context.Context, caller auth.Caller, capability domain.Capability, method string, err error) error {
	reason, ok := fault.ReasonOf(err)
	if !ok || !denials[reason] {
		return err
	}
	f := fault.Of(err)
	return errors.Join(err, a.Deny(ctx, caller, capability, method, reason, f.Message()))
}

// Deny counts a refusal of the caller in the selected tenant and tells the audit trail. The event goes where other systems read, so it names
// the caller by person id, never by what the issuer calls them.
func (a *App) Deny(ctx context.Context, caller auth.Caller, capability domain.Capability, method string, reason errorsv1.Reason, message string) error {
	_, caller, err := a.know(auth.With(ctx, caller))
	if err != nil {
		return err
	}
	id, err := newID()
	if err != nil {
		return err
	}
	now := a.now()
	return a.db.Write(ctx, pg.OneTenant(caller.Tenant), func(tx pgx.Tx) error {
		if err := store.SeePerson(ctx, tx, caller.Subject, now); err != nil {
			return err
		}
		code := fault.CodeOf(reason)
		counter, count, err := store.CountDenial(ctx, tx, id, caller.Tenant, string(capability), code, now)
		if err != nil {
			return err
		}
		subject := ""
		if caller.PersonID != uuid.Nil {
			subject = caller.PersonID.String()
		}
		e, err := event.New(ctx, &intakev1.RequestDenied{
			TenantId: caller.Tenant.String(), SubjectId: subject, Code: code, CapabilityKey: string(capability), Method: method, Message: message,
		}, event.Head{Subject: counter, Tenant: caller.Tenant, Sequence: count, Actor: caller.Actor()})
		if err != nil {
			return err
		}
		return outbox.Append(ctx, tx, e)
	})
}
