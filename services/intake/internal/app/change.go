package app

import (
	"context"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	eventv1 "github.com/pratique-io/pratique/gen/pratique/event/v1"
	intakev1 "github.com/pratique-io/pratique/gen/pratique/intake/v1"
	"github.com/pratique-io/pratique/internal/event"
	"github.com/pratique-io/pratique/internal/outbox"
	"github.com/pratique-io/pratique/services/intake/internal/domain"
	"github.com/pratique-io/pratique/services/intake/internal/store"
	"github.com/pratique-io/pratique/services/intake/internal/view"
)

// act is who moved a request, why, and through which event.
type act struct {
	Actor  string
	Reason string
	Cause  uuid.UUID // Nil when a call did
}

// change collects what one transaction does to requests: rows, trail and events, saved together.
type change struct {
	was         map[uuid.UUID]int64
	order       []*domain.Request
	transitions []store.Transition
	events      []event.Envelope
	now         time.Time
}

func newChange(now time.Time) *change { return &change{was: map[uuid.UUID]int64{}, now: now} }

// touch must be called before the request is changed for the first time.
func (c *change) touch(r *domain.Request) { c.touchAt(r, r.Version) }

// touchAt is touch after the fact: was is the version before the change.
func (c *change) touchAt(r *domain.Request, was int64) {
	if _, ok := c.was[r.ID]; !ok {
		c.was[r.ID] = was
		c.order = append(c.order, r)
	}
}

// tell adds an event about a request, at the request's version.
func (c *change) tell(ctx context.Context, r *domain.Request, actor string, sequence int64, msg proto.Message) (event.Envelope, error) {
	e, err := event.New(ctx, msg, event.Head{Subject: r.ID, Tenant: r.Tenant, Sequence: sequence, Request: r.ID, Actor: actor})
	if err != nil {
		return event.Envelope{}, err
	}
	c.events = append(c.events, e)
	return e, nil
}

// steps writes the trail of steps already taken, with a RequestStateChanged for each that moved something, and the conclusion when it is due.
func (c *change) steps(ctx context.Context, r *domain.Request, steps []domain.Step, by act) error {
	for _, step := range steps {
		t := store.Transition{Tenant: r.Tenant, Request: r.ID, Step: step, Actor: by.Actor, Reason: by.Reason, Cause: by.Cause, At: c.now}
		if step.Moved() && step.Verb != domain.Create {
			e, err := c.tell(ctx, r, by.Actor, step.Version, stateChanged(r, step))
			if err != nil {
				return err
			}
			t.Event = uuid.MustParse(e.ID)
		}
		c.transitions = append(c.transitions, t)
	}
	if !r.Conclude(c.now) {
		return nil
	}
	msg, err := concluded(r)
	if err != nil {
		return err
	}
	_, err = c.tell(ctx, r, by.Actor, r.Version, msg)
	return err
}

// save writes everything.
func (c *change) save(ctx context.Context, tx pgx.Tx) error {
	changed := make([]store.Changed, 0, len(c.order))
	for _, r := range c.order {
		changed = append(changed, store.Changed{Request: r, Was: c.was[r.ID]})
	}
	if err := store.SaveRequests(ctx, tx, changed); err != nil {
		return err
	}
	if err := store.InsertTransitions(ctx, tx, c.transitions); err != nil {
		return err
	}
	if len(c.events) == 0 {
		return nil
	}
	return outbox.Append(ctx, tx, c.events...)
}

func stateChanged(r *domain.Request, step domain.Step) *intakev1.RequestStateChanged {
	out := &intakev1.RequestStateChanged{
		ImportId: r.ID.String(), TenantId: r.Tenant.String(), FromStatus: string(step.From.Status), Status: string(step.To.Status),
		ExecutionState: string(step.To.Execution), ReleaseState: string(step.To.Release), RequestedBy: r.RequestedBy.String(),
		RequestType: string(r.Type),
	}
	if step.To == r.State { // what explains the last state does not explain one that was only passed through
		out.ReleaseBlockerReason, out.Failure = r.Blocker(), failureOf(r)
	}
	return out
}

func failureOf(r *domain.Request) *eventv1.Failure {
	f := r.Failure()
	if f == nil {
		return nil
	}
	return &eventv1.Failure{FailureClass: f.Class, FailureCode: f.Code, Message: f.Message}
}

func concluded(r *domain.Request) (*intakev1.QuarantineConcluded, error) {
	out := &intakev1.QuarantineConcluded{
		ImportId: r.ID.String(), TenantId: r.Tenant.String(), Source: r.SourceRegistry + "/" + r.SourceImageRef, Digest: r.SourceDigest,
		Status: string(r.State.Status), ReleaseState: string(r.State.Release), RequestType: string(r.Type),
		RequestedBy: r.RequestedBy.String(), Failure: failureOf(r),
	}
	j := r.Facts.Judged
	if j == nil {
		return out, nil
	}
	out.PolicyDecision, out.PolicyReasons = j.Verdict, j.Reasons
	checks, err := view.Checks(j)
	if err != nil {
		return nil, err
	}
	for _, check := range checks {
		out.Checks = append(out.Checks, &eventv1.Check{Name: check.GetName(), Criticality: check.GetCriticality(), Verdict: check.GetVerdict()})
	}
	if out.Report, err = view.Read(j.Report, &eventv1.Report{}); err != nil {
		return nil, err
	}
	switch {
	case r.Facts.Eligible != nil && r.Facts.Eligible.ValidUntil != nil:
		out.ValidUntil = timestamppb.New(*r.Facts.Eligible.ValidUntil)
	case j.ExpiresAt != nil:
		out.ValidUntil = timestamppb.New(*j.ExpiresAt)
	}
	return out, nil
}
