package app

import (
	"context"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"google.golang.org/protobuf/types/known/timestamppb"

	approvalv1 "github.com/pratique-io/pratique/gen/pratique/approval/v1"
	intakev1 "github.com/pratique-io/pratique/gen/pratique/intake/v1"
	"github.com/pratique-io/pratique/internal/bus"
	"github.com/pratique-io/pratique/internal/event"
	"github.com/pratique-io/pratique/internal/failpoint"
	"github.com/pratique-io/pratique/internal/fault"
	"github.com/pratique-io/pratique/services/intake/internal/domain"
	"github.com/pratique-io/pratique/services/intake/internal/store"
)

// The kinds of cases that intake acts on.
const (
	caseImport = "import_request"
	caseEpr    = "epr_registration"
)

// verdict is a decided case.
type verdict struct {
	verb    domain.Verb
	kind    string
	subject uuid.UUID
	digest  string // what was shown; empty for EPR and rejections
	by      string
	reason  string
	at      time.Time
}

// DecisionTypes are the events that Decide handles.
func DecisionTypes() []string {
	return []string{nameOf(&approvalv1.CaseApproved{}), nameOf(&approvalv1.CaseRejected{})}
}

// Decide is DecideAll for one event.
func (a *App) Decide(ctx context.Context, tx pgx.Tx, e event.Envelope) error {
	return a.DecideAll(ctx, tx, []event.Envelope{e})[0]
}

// DecideAll handles a batch of decided cases, one outcome per event, in the order of the batch: the requests are read together and written
// together. What was withdrawn or decided before is discarded: intake alone moves a request. A database error is the outcome of all.
func (a *App) DecideAll(ctx context.Context, tx pgx.Tx, batch []event.Envelope) []error {
	outcomes := make([]error, len(batch))
	verdicts := make([]verdict, len(batch))
	var wanted []uuid.UUID
	for i, e := range batch {
		var err error
		if verdicts[i], err = verdictOf(e); err != nil {
			outcomes[i] = bus.Poison(err)
		} else if verdicts[i].kind == caseImport {
			wanted = append(wanted, verdicts[i].subject)
		}
	}
	d := decisions{change: newChange(a.now()), standings: map[standingKey]store.Standing{}}
	var err error
	if len(wanted) > 0 {
		if d.requests, err = store.LockRequests(ctx, tx, wanted); err != nil {
			return all(outcomes, err)
		}
	}
	for i, e := range batch {
		if outcomes[i] == nil {
			outcomes[i] = a.decide(event.WithCause(ctx, e), tx, &d, e, verdicts[i])
		}
	}
	if err := d.change.save(ctx, tx); err != nil {
		return all(outcomes, err)
	}
	if len(d.change.order) > 0 {
		failpoint.Hit("intake.before_commit_decide")
	}
	return outcomes
}

// decisions is what a batch of decided cases builds on and what it does to requests.
type decisions struct {
	requests  map[uuid.UUID]*domain.Request
	change    *change
	standings map[standingKey]store.Standing // as read since the last decision about a registration
}

type standingKey struct {
	tenant uuid.UUID
	record string
}

func (a *App) decide(ctx context.Context, tx pgx.Tx, d *decisions, e event.Envelope, v verdict) error {
	switch v.kind {
	case caseImport:
		return a.decideRequest(ctx, tx, d, e, v)
	case caseEpr:
		clear(d.standings) // the requests after it are held against what it says
		return a.decideEpr(ctx, tx, e, v)
	}
	return bus.Discard("other_kind")
}

func verdictOf(e event.Envelope) (verdict, error) {
	var v verdict
	var subject string
	var at *timestamppb.Timestamp
	var approved approvalv1.CaseApproved
	var rejected approvalv1.CaseRejected
	switch e.Type {
	case nameOf(&approved):
		if err := e.Decode(&approved); err != nil {
			return v, err
		}
		v = verdict{verb: domain.Approve, kind: approved.GetKind(), digest: approved.GetDigest(), by: approved.GetDecidedBy(), reason: approved.GetReason()}
		subject, at = approved.GetSubjectId(), approved.GetDecidedAt()
	case nameOf(&rejected):
		if err := e.Decode(&rejected); err != nil {
			return v, err
		}
		v = verdict{verb: domain.Reject, kind: rejected.GetKind(), by: rejected.GetDecidedBy(), reason: rejected.GetReason()}
		subject, at = rejected.GetSubjectId(), rejected.GetDecidedAt()
	default:
		return v, fmt.Errorf("event %s is no decision", e.Type)
	}
	id, err := uuid.Parse(subject)
	if err != nil {
		return v, fmt.Errorf("subject id: %w", err)
	}
	v.subject, v.at = id, e.Time
	if at.IsValid() {
		v.at = at.AsTime()
	}
	return v, nil
}

func (a *App) decideRequest(ctx context.Context, tx pgx.Tx, d *decisions, e event.Envelope, v verdict) error {
	r := d.requests[v.subject]
	if r == nil {
		return bus.Early("no_request")
	}
	if r.State.Status != domain.Pending {
		return bus.Discard("not_pending")
	}
	if v.digest != "" && v.digest != r.SourceDigest {
		return bus.Poison(fmt.Errorf("case about %s approves digest %s, not the request's", r.ID, v.digest))
	}
	by := act{Actor: actorOf(v.by), Reason: v.reason, Cause: parse(e.ID)}
	d.change.touch(r)
	step, err := r.Decide(v.verb, v.by, v.reason, v.at, d.change.now)
	if err != nil {
		return err
	}
	steps := []domain.Step{step}
	if v.verb == domain.Reject {
		_, err = d.change.tell(ctx, r, by.Actor, step.Version, requestRejected(r))
	} else {
		steps, err = a.takeApproval(ctx, tx, d, r, step, by.Actor)
	}
	if err != nil {
		return err
	}
	return d.change.steps(ctx, r, steps, by)
}

// takeApproval asks tenant, capability and EPR again. If they no longer allow the import, the approval stands on the record, RequestApproved is
// never said, and the request fails.
func (a *App) takeApproval(ctx context.Context, tx pgx.Tx, d *decisions, r *domain.Request, step domain.Step, actor string) ([]domain.Step, error) {
	key := standingKey{tenant: r.Tenant, record: r.EprRecordID}
	standing, read := d.standings[key]
	if !read {
		var err error
		if standing, err = store.StandingOf(ctx, tx, r.Tenant, r.EprRecordID); err != nil {
			return nil, err
		}
		d.standings[key] = standing
	}
	refusal := a.recheck(standing, r, d.change.now)
	if refusal == nil {
		_, err := d.change.tell(ctx, r, actor, step.Version, requestApproved(r))
		return []domain.Step{step}, err
	}
	failed, err := r.Refuse(fault.Of(refusal).Message(), d.change.now)
	return []domain.Step{step, failed}, err
}

func requestRejected(r *domain.Request) *intakev1.RequestRejected {
	d := r.Facts.Decision
	out := &intakev1.RequestRejected{
		ImportId: r.ID.String(), TenantId: r.Tenant.String(), DecidedBy: d.By, Reason: d.Reason, RequestedBy: r.RequestedBy.String(),
		SourceImageRef: r.SourceImageRef,
	}
	if d.At != nil {
		out.DecidedAt = timestamppb.New(*d.At)
	}
	return out
}

func parse(text string) uuid.UUID {
	id, err := uuid.Parse(text)
	if err != nil {
		return uuid.Nil
	}
	return id
}
