package app

import (
	"context"
	"errors"
	"fmt"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"google.golang.org/protobuf/proto"

	dispatchv1 "github.com/pratique-io/pratique/gen/pratique/dispatch/v1"
	intakev1 "github.com/pratique-io/pratique/gen/pratique/intake/v1"
	releasev1 "github.com/pratique-io/pratique/gen/pratique/release/v1"
	"github.com/pratique-io/pratique/internal/bus"
	"github.com/pratique-io/pratique/internal/event"
	"github.com/pratique-io/pratique/internal/oci"
	"github.com/pratique-io/pratique/services/evidence/internal/domain"
	"github.com/pratique-io/pratique/services/evidence/internal/store"
)

// The outcomes that keep a claim and do nothing.
const (
	older     = "older_than_known"
	unknown   = "request_unknown"
	notYes    = "request_not_approved"
	collected = "already_collected"
)

// Requested takes RequestSubmitted and RequestApproved into the projection.
func (a *App) Requested(ctx context.Context, tx pgx.Tx, e event.Envelope) error {
	r := domain.Request{ID: e.Aggregate(), Tenant: e.Tenant()}
	var tenant string
	switch e.Type {
	case typeOf(&intakev1.RequestSubmitted{}):
		var m intakev1.RequestSubmitted
		if err := e.Decode(&m); err != nil {
			return bus.Poison(err)
		}
		r.Type, r.Digest, tenant = m.GetRequestType(), m.GetSourceImageDigest(), m.GetTenantId()
	case typeOf(&intakev1.RequestApproved{}):
		var m intakev1.RequestApproved
		if err := e.Decode(&m); err != nil {
			return bus.Poison(err)
		}
		r.Type, r.Digest, tenant, r.Approved = m.GetRequestType(), m.GetSourceImageDigest(), m.GetTenantId(), true
	default:
		return bus.Poison(fmt.Errorf("%s is not a request's event", e.Type))
	}
	if r.Tenant == uuid.Nil || tenant != r.Tenant.String() || !oci.Digest(r.Digest).Valid() {
		return bus.Poison(fmt.Errorf("request %s without tenant or digest", r.ID))
	}
	if r.Type != domain.Scan && r.Type != "quarantine" {
		return bus.Poison(fmt.Errorf("request %s of the unknown type %q", r.ID, r.Type))
	}
	news, err := store.PutRequest(ctx, tx, r, e.Sequence, a.now())
	if err == nil && !news {
		return bus.Discard(older)
	}
	return err
}

// Ended takes RequestRejected and RequestWithdrawn: nothing more will be collected, and the copy has to go.
func (a *App) Ended(ctx context.Context, tx pgx.Tx, e event.Envelope) error {
	outcome := domain.ReasonRejected
	if e.Type == typeOf(&intakev1.RequestWithdrawn{}) {
		outcome = domain.ReasonWithdrawn
	}
	r, b, err := a.load(ctx, tx, e)
	if err != nil {
		return err
	}
	news, err := store.EndRequest(ctx, tx, r.ID, outcome, e.Sequence, a.now())
	if err != nil {
		return err
	}
	if !news {
		return bus.Discard(older)
	}
	if err := a.abandon(ctx, tx, b, e, outcome); err != nil {
		return err
	}
	return a.condemn(ctx, tx, r, outcome)
}

// load reads what an event builds on; it is early while intake's own event has not come.
func (a *App) load(ctx context.Context, tx pgx.Tx, e event.Envelope) (domain.Request, *domain.Bundle, error) {
	r, err := store.Request(ctx, tx, e.Aggregate())
	if errors.Is(err, store.ErrNone) {
		return r, nil, bus.Early(unknown)
	}
	if err != nil {
		return r, nil, err
	}
	if r.Tenant != e.Tenant() {
		return r, nil, bus.Poison(fmt.Errorf("request %s belongs to another tenant", r.ID))
	}
	b, err := store.LockBundle(ctx, tx, r.ID)
	return r, b, err
}

// abandon ends a bundle that waits for a run; one that is past waiting goes on, since its documents are worth keeping.
func (a *App) abandon(ctx context.Context, tx pgx.Tx, b *domain.Bundle, e event.Envelope, reason string) error {
	b.UpdatedAt = a.now()
	if b.State != domain.Awaiting {
		return store.SaveBundle(ctx, tx, b, uuid.Nil)
	}
	move, err := b.Move(domain.Abandon, actor, reason, a.now())
	if err != nil {
		return err
	}
	return store.SaveBundle(ctx, tx, b, causeOf(e), move)
}

func causeOf(e event.Envelope) uuid.UUID {
	id, err := uuid.Parse(e.ID)
	if err != nil {
		return uuid.Nil
	}
	return id
}

// condemn says that the copy of a request has to go. The first reason stays.
func (a *App) condemn(ctx context.Context, tx pgx.Tx, r domain.Request, reason string) error {
	c, err := store.LockCopy(ctx, tx, r, a.now())
	if err != nil {
		return err
	}
	to, err := domain.NextCopy(c.State, domain.Condemn)
	if err != nil {
		return err
	}
	if c.State != domain.ToRemove || c.Reason == "" {
		c.Reason = reason
	}
	c.State = to
	return store.CondemnCopy(ctx, tx, c, a.now())
}

// RunChanged takes RunStarted, RunSucceeded, RunFailed and RunCancelled.
func (a *App) RunChanged(ctx context.Context, tx pgx.Tx, e event.Envelope) error {
	r, b, err := a.load(ctx, tx, e)
	if err != nil {
		return err
	}
	if e.Sequence <= b.DispatchSequence {
		return bus.Discard(older)
	}
	if e.Type == typeOf(&dispatchv1.RunSucceeded{}) {
		return a.succeeded(ctx, tx, r, b, e)
	}
	b.DispatchSequence, b.RunState, b.UpdatedAt = e.Sequence, domain.Ended, a.now()
	if e.Type == typeOf(&dispatchv1.RunStarted{}) {
		b.RunState = domain.Running
		if _, err := store.LockCopy(ctx, tx, r, a.now()); err != nil { // from now on there may be something to remove
			return err
		}
		return store.SaveBundle(ctx, tx, b, uuid.Nil)
	}
	if b.State != domain.Awaiting && b.State != domain.Abandoned {
		return bus.Discard(collected)
	}
	reason := domain.ReasonFailed
	if r.Outcome != "" {
		reason = r.Outcome
	}
	if err := a.abandon(ctx, tx, b, e, reason); err != nil {
		return err
	}
	return a.condemn(ctx, tx, r, reason)
}

// succeeded notes what has to be collected. Only an approved request is: the approval is intake's word, and it may still be on its way.
func (a *App) succeeded(ctx context.Context, tx pgx.Tx, r domain.Request, b *domain.Bundle, e event.Envelope) error {
	var m dispatchv1.RunSucceeded
	if err := e.Decode(&m); err != nil {
		return bus.Poison(err)
	}
	b.DispatchSequence, b.RunState, b.UpdatedAt = e.Sequence, domain.Ended, a.now()
	switch {
	case b.State == domain.Abandoned: // withdrawn while it ran
		if err := store.SaveBundle(ctx, tx, b, uuid.Nil); err != nil {
			return err
		}
		reason := r.Outcome
		if reason == "" {
			reason = domain.ReasonFailed
		}
		return a.condemn(ctx, tx, r, reason)
	case b.State != domain.Awaiting:
		return bus.Discard(collected)
	case !r.Approved:
		return bus.Early(notYes)
	case m.GetRunId() == "":
		return bus.Poison(errors.New("a run without an id succeeded"))
	}
	b.Digest, b.Run, b.Attempt, b.Image, b.Repository = r.Digest, m.GetRunId(), int(m.GetAttempt()), m.GetImageDigest(), m.GetQuarantineRepository()
	b.Artifacts, b.Since, b.Tries = m.GetDocuments(), a.now(), 0
	if _, err := store.LockCopy(ctx, tx, r, a.now()); err != nil {
		return err
	}
	move, err := b.Move(domain.Collect, actor, "", a.now())
	if err != nil {
		return err
	}
	return store.SaveBundle(ctx, tx, b, causeOf(e), move)
}

// Released takes ImageReleased: the trusted copy is the one to use now.
func (a *App) Released(ctx context.Context, tx pgx.Tx, e event.Envelope) error {
	if e.Type != typeOf(&releasev1.ImageReleased{}) {
		return bus.Poison(fmt.Errorf("%s is not a release", e.Type))
	}
	r, _, err := a.load(ctx, tx, e)
	if err != nil {
		return err
	}
	return a.condemn(ctx, tx, r, domain.ReasonReleased)
}

func typeOf(m proto.Message) string { return string(m.ProtoReflect().Descriptor().FullName()) }
