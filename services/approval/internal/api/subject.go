package api

import (
	"context"
	"errors"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"google.golang.org/protobuf/types/known/timestamppb"

	approvalv1 "github.com/pratique-io/pratique/gen/pratique/approval/v1"
	errorsv1 "github.com/pratique-io/pratique/gen/pratique/errors/v1"
	intakev1 "github.com/pratique-io/pratique/gen/pratique/intake/v1"
	"github.com/pratique-io/pratique/internal/auth"
	"github.com/pratique-io/pratique/internal/fault"
	"github.com/pratique-io/pratique/internal/page"
	"github.com/pratique-io/pratique/services/approval/internal/domain"
	"github.com/pratique-io/pratique/services/approval/internal/store"
)

// look is how often the edge looks again while it waits for a projection.
const look = 25 * time.Millisecond

// ApproveImportRequest decides the request's case and answers the request.
func (s *Server) ApproveImportRequest(ctx context.Context, in *approvalv1.DecideRequest) (*intakev1.ImportRequest, error) {
	return s.decideRequest(ctx, in, true)
}

// RejectImportRequest decides the request's case and answers the request.
func (s *Server) RejectImportRequest(ctx context.Context, in *approvalv1.DecideRequest) (*intakev1.ImportRequest, error) {
	return s.decideRequest(ctx, in, false)
}

func (s *Server) decideRequest(ctx context.Context, in *approvalv1.DecideRequest, yes bool) (*intakev1.ImportRequest, error) {
	id, err := page.ID("id", in.GetId())
	if err != nil {
		return nil, err
	}
	get := func() (*intakev1.ImportRequest, error) {
		return s.requests.GetImportRequest(auth.ForwardCaller(ctx), &intakev1.GetImportRequestRequest{Id: in.GetId()})
	}
	caseID, err := s.await(ctx, domain.ImportRequest, id, func() error {
		r, err := get()
		if err == nil && (r.GetRequestType() == requestScan || r.GetDecisionTimeline().GetCarriedOverFrom() != "") {
			err = decidedBefore(r)
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	decided, err := s.decide(ctx, in, caseID, yes)
	if err != nil {
		return nil, err
	}
	return follow(ctx, s.patience, decided, get, func(r *intakev1.ImportRequest) bool {
		return r.GetDecisionTimeline().GetDecisionStatus() != "pending"
	}, requestOf), nil
}

const requestScan = "scan"

// decidedBefore refuses a decision about a scan, or a retry that carries its approval over: neither has a case or ever gets one.
func decidedBefore(r *intakev1.ImportRequest) error {
	timeline := r.GetDecisionTimeline()
	why := "a scan needs nobody's decision"
	if r.GetRequestType() != requestScan {
		why = "the approval was carried over from the request that this one retries"
	}
	return fault.New(errorsv1.Reason_REASON_APPROVAL_ALREADY_DECIDED, why,
		fault.D("state", timeline.GetDecisionStatus()), fault.D("decided_by", timeline.GetDecidedByUserId()))
}

// ApproveEprRegistration decides the registration's case and answers the registration.
func (s *Server) ApproveEprRegistration(ctx context.Context, in *approvalv1.DecideRequest) (*intakev1.EprRegistration, error) {
	return s.decideRegistration(ctx, in, true)
}

// RejectEprRegistration decides the registration's case and answers the registration.
func (s *Server) RejectEprRegistration(ctx context.Context, in *approvalv1.DecideRequest) (*intakev1.EprRegistration, error) {
	return s.decideRegistration(ctx, in, false)
}

func (s *Server) decideRegistration(ctx context.Context, in *approvalv1.DecideRequest, yes bool) (*intakev1.EprRegistration, error) {
	id, err := page.ID("id", in.GetId())
	if err != nil {
		return nil, err
	}
	get := func() (*intakev1.EprRegistration, error) {
		return s.eprs.GetEprRegistration(auth.ForwardCaller(ctx), &intakev1.GetEprRegistrationRequest{Id: in.GetId()})
	}
	caseID, err := s.await(ctx, domain.EPRRegistration, id, func() error { _, err := get(); return err })
	if err != nil {
		return nil, err
	}
	decided, err := s.decide(ctx, in, caseID, yes)
	if err != nil {
		return nil, err
	}
	return follow(ctx, s.patience, decided, get, func(r *intakev1.EprRegistration) bool { return r.GetStatus() != "pending" }, registrationOf), nil
}

// await finds the case of a subject. When there is none yet, expected asks intake whether the caller may see such a subject at all (its
// not_found is ours) and whether it ever gets a case; then the case is on its way here.
func (s *Server) await(ctx context.Context, kind domain.Kind, subject uuid.UUID, expected func() error) (uuid.UUID, error) {
	id, err := s.find(ctx, kind, subject)
	if !errors.Is(err, store.ErrNone) {
		return id, err
	}
	if err := expected(); err != nil {
		return uuid.Nil, err
	}
	for deadline := time.Now().Add(s.patience); time.Now().Before(deadline); {
		if err := pause(ctx, look); err != nil {
			return uuid.Nil, err
		}
		if id, err = s.find(ctx, kind, subject); !errors.Is(err, store.ErrNone) {
			return id, err
		}
	}
	return uuid.Nil, fault.New(errorsv1.Reason_REASON_DEPENDENCY_UNAVAILABLE, "the case is not open yet; try again in a moment", fault.RetryAfter(time.Second))
}

func (s *Server) find(ctx context.Context, kind domain.Kind, subject uuid.UUID) (uuid.UUID, error) {
	var id uuid.UUID
	err := s.db.Read(ctx, auth.From(ctx).Scope(), func(tx pgx.Tx) (err error) {
		id, err = store.Find(ctx, tx, kind, subject)
		return err
	})
	return id, err
}

// follow reads the subject until the decision shows there, for at most the edge's patience. The decision stands whatever intake answers: if it
// cannot, the caller gets what the case knows. A case that waits for more votes has nothing to show yet.
func follow[T any](ctx context.Context, patience time.Duration, decided *approvalv1.Case, get func() (T, error), shows func(T) bool, fallback func(*approvalv1.Case) T) T {
	deadline := time.Now().Add(patience)
	for {
		answer, err := get()
		if err == nil && (shows(answer) || decided.GetState() == string(domain.Open)) {
			return answer
		}
		if time.Now().After(deadline) || pause(ctx, look) != nil {
			if err == nil {
				return answer
			}
			return fallback(decided)
		}
	}
}

func requestOf(c *approvalv1.Case) *intakev1.ImportRequest {
	out := &intakev1.ImportRequest{
		Id: c.GetSubjectId(), TenantId: c.GetTenantId(), RequestedByUserId: c.GetRequester(), SourceImageDigest: c.GetBound().GetDigest(),
		DecisionTimeline: &intakev1.DecisionTimeline{DecisionStatus: c.GetState(), DecisionReason: c.DecisionReason, DecidedByUserId: c.DecidedBy, DecidedAt: c.GetDecidedAt()},
	}
	return out
}

func registrationOf(c *approvalv1.Case) *intakev1.EprRegistration {
	return &intakev1.EprRegistration{
		Id: c.GetSubjectId(), TenantId: c.GetTenantId(), RequestedByUserId: c.GetRequester(), EprRecordId: c.GetFacts()["epr_record_id"],
		Status: c.GetState(), DecidedBy: c.DecidedBy, DecisionReason: c.DecisionReason, DecidedAt: c.GetDecidedAt(),
	}
}

func pause(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return nil
	}
}

// message is a case as clients see it.
func message(c *domain.Case) *approvalv1.Case {
	out := &approvalv1.Case{
		Id: c.ID.String(), Kind: string(c.Kind), SubjectId: c.Subject.String(), TenantId: c.Tenant.String(), Requester: c.Requester,
		State: string(c.State), RequiredApprovals: int32(c.Required), Facts: c.Facts, CreatedAt: timestamppb.New(c.CreatedAt), Version: c.Version,
		Bound: &approvalv1.Bound{Digest: c.Bound.Digest, EvidenceHash: c.Bound.EvidenceHash, PolicyHash: c.Bound.PolicyHash},
	}
	for _, v := range c.Votes {
		verdict := "reject"
		if v.Yes {
			verdict = "approve"
		}
		out.Received = append(out.Received, &approvalv1.Vote{By: v.By.String(), Verdict: verdict, Reason: v.Reason, At: timestamppb.New(v.At)})
	}
	for _, remark := range c.Comments {
		out.Comments = append(out.Comments, &approvalv1.Comment{By: remark.By.String(), Text: remark.Text, At: timestamppb.New(remark.At)})
	}
	if c.DueAt != nil {
		out.DueAt = timestamppb.New(*c.DueAt)
	}
	if c.DecidedAt != nil {
		out.DecidedAt = timestamppb.New(*c.DecidedAt)
		out.DecidedBy, out.DecisionReason = &c.DecidedBy, &c.Reason
	}
	return out
}
