package app

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	errorsv1 "github.com/pratique-io/pratique/gen/pratique/errors/v1"
	intakev1 "github.com/pratique-io/pratique/gen/pratique/intake/v1"
	"github.com/pratique-io/pratique/internal/auth"
	"github.com/pratique-io/pratique/internal/bus"
	"github.com/pratique-io/pratique/internal/event"
	"github.com/pratique-io/pratique/internal/failpoint"
	"github.com/pratique-io/pratique/internal/fault"
	"github.com/pratique-io/pratique/internal/idempotency"
	"github.com/pratique-io/pratique/internal/outbox"
	"github.com/pratique-io/pratique/internal/pg"
	"github.com/pratique-io/pratique/services/intake/internal/domain"
	"github.com/pratique-io/pratique/services/intake/internal/store"
	"github.com/pratique-io/pratique/services/intake/internal/view"
)

// Register asks for an EPR registration; RecordID empty means that one is made.
type Register struct {
	RecordID, Product, Technology, Justification string
	Method                                       string // of the call, for the audit of a denial
}

// CreateEpr stores a registration that waits for a decision.
func (a *App) CreateEpr(ctx context.Context, in proto.Message, ask Register) (*intakev1.EprRegistration, error) {
	ctx, caller, err := a.know(ctx)
	if err != nil {
		return nil, err
	}
	standing, err := a.standing(ctx, caller.Tenant, "")
	if err != nil {
		return nil, err
	}
	if err := checkTenant(standing); err != nil {
		return nil, a.refused(ctx, caller, "", ask.Method, err)
	}
	var out *intakev1.EprRegistration
	err = a.db.Write(ctx, pg.OneTenant(caller.Tenant), func(tx pgx.Tx) error {
		out, err = idempotency.Run(ctx, tx, in, &intakev1.EprRegistration{}, func() (*intakev1.EprRegistration, error) {
			return a.insertEpr(ctx, tx, caller, ask)
		})
		failpoint.Hit("intake.before_commit_epr")
		return err
	})
	failpoint.Hit("intake.after_commit_epr")
	return out, err
}

func (a *App) insertEpr(ctx context.Context, tx pgx.Tx, caller auth.Caller, ask Register) (*intakev1.EprRegistration, error) {
	now := a.now()
	id, err := newID()
	if err != nil {
		return nil, err
	}
	r := &domain.Registration{
		ID: id, Tenant: caller.Tenant, RecordID: ask.RecordID, Product: ask.Product, Technology: ask.Technology,
		Justification: ask.Justification, RequestedBy: caller.PersonID, Status: domain.EprPending, Version: 1, CreatedAt: now, UpdatedAt: now,
	}
	if r.RecordID == "" {
		var random [4]byte
		if _, err := rand.Read(random[:]); err != nil {
			return nil, fmt.Errorf("make a record id: %w", err)
		}
		r.RecordID = domain.NewRecordID(now, random)
	}
	inserted, err := store.InsertEpr(ctx, tx, r)
	if err != nil {
		return nil, err
	}
	if !inserted {
		return nil, fault.New(errorsv1.Reason_REASON_ALREADY_EXISTS, "a registration with this record id is waiting for a decision",
			fault.D("epr_record_id", r.RecordID))
	}
	if err := store.SeePerson(ctx, tx, caller.Subject, now); err != nil {
		return nil, err
	}
	msg := &intakev1.EprRegistrationRequested{
		RegistrationId: r.ID.String(), TenantId: r.Tenant.String(), EprRecordId: r.RecordID, ProductName: r.Product,
		TechnologyName: r.Technology, BusinessJustification: r.Justification, RequestedBy: r.RequestedBy.String(),
	}
	if err := tellEpr(ctx, tx, r, domain.Create, "", act{Actor: caller.Actor()}, msg); err != nil {
		return nil, err
	}
	return view.Registration(r, now, a.set.EprWindow), nil
}

// tellEpr appends the event and the transition of a registration's newest version.
func tellEpr(ctx context.Context, tx pgx.Tx, r *domain.Registration, verb domain.Verb, from domain.EprStatus, by act, msg proto.Message) error {
	e, err := event.New(ctx, msg, event.Head{Subject: r.ID, Tenant: r.Tenant, Sequence: r.Version, Actor: by.Actor})
	if err != nil {
		return err
	}
	err = store.InsertEprTransition(ctx, tx, store.EprTransition{
		Tenant: r.Tenant, Registration: r.ID, Version: r.Version, Verb: verb, From: from, To: r.Status, Actor: by.Actor, Reason: by.Reason,
		Event: parse(e.ID), Cause: by.Cause, At: r.UpdatedAt,
	})
	if err != nil {
		return err
	}
	return outbox.Append(ctx, tx, e)
}

// WithdrawEpr takes a registration back while it waits for its decision.
func (a *App) WithdrawEpr(ctx context.Context, id uuid.UUID, reason string) (*domain.Registration, error) {
	ctx, caller, err := a.know(ctx)
	if err != nil {
		return nil, err
	}
	var out *domain.Registration
	err = a.db.Write(ctx, caller.Scope(), func(tx pgx.Tx) error {
		r, err := store.LockEpr(ctx, tx, caller.Scope(), id)
		if err != nil {
			return missing("registration", err)
		}
		if err := mayWithdraw(caller, r.RequestedBy); err != nil {
			return err
		}
		now, from := a.now(), r.Status
		err = r.Decide(domain.Withdraw, caller.PersonID.String(), reason, now, now, a.set.EprValidity)
		var move *domain.Move
		if errors.As(err, &move) {
			return fault.New(errorsv1.Reason_REASON_INVALID_LIFECYCLE_ACTION, "a registration that is "+move.From+" cannot be withdrawn",
				fault.D("registration_id", id), fault.D("status", move.From))
		}
		if err != nil {
			return err
		}
		if err := store.SaveEpr(ctx, tx, r); err != nil {
			return err
		}
		out = r
		return tellEpr(ctx, tx, r, domain.Withdraw, from, act{Actor: caller.Actor(), Reason: reason}, &intakev1.EprRegistrationWithdrawn{
			RegistrationId: r.ID.String(), TenantId: r.Tenant.String(), EprRecordId: r.RecordID, ProductName: r.Product,
			RequestedBy: r.RequestedBy.String(), WithdrawnBy: r.DecidedBy, Reason: reason,
		})
	})
	return out, err
}

func (a *App) decideEpr(ctx context.Context, tx pgx.Tx, e event.Envelope, v verdict) error {
	r, err := store.LockEpr(ctx, tx, pg.AllTenants(), v.subject)
	if errors.Is(err, store.ErrNone) {
		return bus.Early("no_registration")
	}
	if err != nil {
		return err
	}
	from := r.Status
	if err := r.Decide(v.verb, v.by, v.reason, v.at, a.now(), a.set.EprValidity); err != nil {
		var move *domain.Move
		if errors.As(err, &move) {
			return bus.Discard("not_pending")
		}
		return err
	}
	if err := store.SaveEpr(ctx, tx, r); err != nil {
		return err
	}
	by := act{Actor: actorOf(v.by), Reason: v.reason, Cause: parse(e.ID)}
	if err := tellEpr(ctx, tx, r, v.verb, from, by, eprDecided(r)); err != nil {
		return err
	}
	failpoint.Hit("intake.before_commit_decide_epr")
	return nil
}

func eprDecided(r *domain.Registration) proto.Message {
	at := stampOf(r.DecidedAt)
	if r.Status == domain.EprApproved {
		return &intakev1.EprRegistrationApproved{
			RegistrationId: r.ID.String(), TenantId: r.Tenant.String(), EprRecordId: r.RecordID, ProductName: r.Product,
			RequestedBy: r.RequestedBy.String(), DecidedBy: r.DecidedBy, Reason: r.DecisionReason, DecidedAt: at, ExpiresAt: stampOf(r.ExpiresAt),
		}
	}
	return &intakev1.EprRegistrationRejected{
		RegistrationId: r.ID.String(), TenantId: r.Tenant.String(), EprRecordId: r.RecordID, ProductName: r.Product,
		RequestedBy: r.RequestedBy.String(), DecidedBy: r.DecidedBy, Reason: r.DecisionReason, DecidedAt: at,
	}
}

func stampOf(t *time.Time) *timestamppb.Timestamp {
	if t == nil {
		return nil
	}
	return timestamppb.New(*t)
}
