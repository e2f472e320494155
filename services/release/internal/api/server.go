// Package api is release's inbound side: gRPC methods and event handlers. It reads, calls a verb and renders; it decides nothing.
package api

import (
	"context"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/google/uuid"
	"google.golang.org/protobuf/types/known/emptypb"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	intakev1 "github.com/pratique-io/pratique/gen/pratique/intake/v1"
	releasev1 "github.com/pratique-io/pratique/gen/pratique/release/v1"
	"github.com/pratique-io/pratique/internal/fault"
	"github.com/pratique-io/pratique/internal/page"
	"github.com/pratique-io/pratique/services/release/internal/app"
	"github.com/pratique-io/pratique/services/release/internal/domain"
	"github.com/pratique-io/pratique/services/release/internal/store"
)

// Limits of texts, in characters.
const (
	maxReason = 2000
	maxRef    = 1024
	maxHash   = 200
	maxShort  = 200 // project, environment, search
)

// Server implements pratique.release.v1.ReleaseService.
type Server struct {
	releasev1.UnimplementedReleaseServiceServer
	app *app.App
}

// New makes a Server.
func New(a *app.App) *Server { return &Server{app: a} }

// ReleaseImportRequest starts a promotion and answers the request as intake then shows it.
func (s *Server) ReleaseImportRequest(ctx context.Context, req *releasev1.ReleaseImportRequestRequest) (*intakev1.ImportRequest, error) {
	id, err := page.ID("id", req.GetId())
	if err != nil {
		return nil, err
	}
	problems := fault.Fields()
	short(problems, "destination_image_ref", req.DestinationImageRef, maxRef)
	short(problems, "expected_evidence_hash", req.ExpectedEvidenceHash, maxHash)
	short(problems, "expected_policy_hash", req.ExpectedPolicyHash, maxHash)
	short(problems, "reason", req.Reason, maxReason)
	if err := problems.Err(); err != nil {
		return nil, err
	}
	told, err := s.app.Release(ctx, app.Wish{
		Record: id, Destination: req.GetDestinationImageRef(), EvidenceHash: req.GetExpectedEvidenceHash(), PolicyHash: req.GetExpectedPolicyHash(),
		Reason: req.GetReason(), Message: req,
	})
	if err != nil {
		return nil, err
	}
	return s.app.Shown(ctx, told)
}

// short refuses texts that are too long or hold what no text does.
func short(problems *fault.FieldErrors, field string, text *string, most int) {
	switch {
	case text == nil:
	case utf8.RuneCountInString(*text) > most:
		problems.Addf(field, "must have at most %d characters", most)
	case strings.ContainsRune(*text, 0):
		problems.Add(field, "must not contain a NUL character")
	}
}

// ListReleasedArtifacts lists newest first.
func (s *Server) ListReleasedArtifacts(ctx context.Context, req *releasev1.ListReleasedArtifactsRequest) (*releasev1.ListReleasedArtifactsResponse, error) {
	asked, err := page.Parse(req.Limit, req.Page, req.PageToken)
	if err != nil {
		return nil, err
	}
	problems := fault.Fields()
	short(problems, "search", req.Search, maxShort)
	if err := problems.Err(); err != nil {
		return nil, err
	}
	tenant := uuid.Nil
	if req.GetTenantId() != "" {
		if tenant, err = page.ID("tenant_id", req.GetTenantId()); err != nil {
			return nil, err
		}
	}
	list, pagination, err := s.app.Artifacts(ctx, tenant, strings.TrimSpace(req.GetSearch()), asked)
	if err != nil {
		return nil, err
	}
	out := &releasev1.ListReleasedArtifactsResponse{Pagination: pagination, Data: make([]*releasev1.ReleasedArtifact, len(list))}
	for i, a := range list {
		out.Data[i] = artifact(a, s.app.Now())
	}
	return out, nil
}

// GetReleasedArtifact reads one.
func (s *Server) GetReleasedArtifact(ctx context.Context, req *releasev1.GetReleasedArtifactRequest) (*releasev1.ReleasedArtifact, error) {
	id, err := page.ID("id", req.GetId())
	if err != nil {
		return nil, err
	}
	a, err := s.app.Artifact(ctx, id)
	if err != nil {
		return nil, err
	}
	return artifact(a, s.app.Now()), nil
}

func artifact(a domain.Artifact, now time.Time) *releasev1.ReleasedArtifact {
	out := &releasev1.ReleasedArtifact{
		Id: a.ID.String(), TenantId: a.Tenant.String(), ImportId: a.Record.String(), SourceRegistry: a.SourceRegistry, SourceImageRef: a.SourceRef,
		Digest: a.Digest, DestinationImageRef: a.Destination, TrustedRef: a.TrustedRef, ReleasedAt: timestamppb.New(a.ReleasedAt),
		ReleasedBy: a.ReleasedBy, ValidUntil: stamp(a.ValidUntil), PreviousDigest: text(a.PreviousDigest),
	}
	ready, why := a.Usable(now)
	out.ConsumptionReady, out.ConsumptionBlockerReason = ready, text(why)
	return out
}

// ConsumeArtifact records a use.
func (s *Server) ConsumeArtifact(ctx context.Context, req *releasev1.ConsumeArtifactRequest) (*releasev1.Consumption, error) {
	id, err := page.ID("id", req.GetId())
	if err != nil {
		return nil, err
	}
	problems := fault.Fields()
	short(problems, "project_id", req.ProjectId, maxShort)
	short(problems, "environment", req.Environment, maxShort)
	short(problems, "notes", req.Notes, maxReason)
	if err := problems.Err(); err != nil {
		return nil, err
	}
	use := app.Use{Artifact: id, Project: req.ProjectId, Notes: req.Notes, Environment: req.Environment, Message: req}
	return app.Consume(ctx, s.app, use, &releasev1.Consumption{}, consumption)
}

func consumption(c store.Consumption) *releasev1.Consumption {
	return &releasev1.Consumption{
		Id: c.ID.String(), ArtifactId: c.Artifact.String(), TenantId: c.Tenant.String(), ConsumedBy: c.By, ProjectId: c.Project, Notes: c.Notes,
		Environment: c.Environment, CreatedAt: timestamppb.New(c.CreatedAt),
	}
}

// ListConsumptions lists open uses, newest first.
func (s *Server) ListConsumptions(ctx context.Context, req *releasev1.ListConsumptionsRequest) (*releasev1.ListConsumptionsResponse, error) {
	id, err := page.ID("id", req.GetId())
	if err != nil {
		return nil, err
	}
	asked, err := page.Parse(req.Limit, req.Page, req.PageToken)
	if err != nil {
		return nil, err
	}
	list, pagination, err := s.app.Uses(ctx, id, asked)
	if err != nil {
		return nil, err
	}
	out := &releasev1.ListConsumptionsResponse{Pagination: pagination, Data: make([]*releasev1.Consumption, len(list))}
	for i, c := range list {
		out.Data[i] = consumption(c)
	}
	return out, nil
}

// DeleteConsumption ends a use.
func (s *Server) DeleteConsumption(ctx context.Context, req *releasev1.DeleteConsumptionRequest) (*emptypb.Empty, error) {
	id, err := page.ID("id", req.GetId())
	if err != nil {
		return nil, err
	}
	cid, err := page.ID("cid", req.GetCid())
	if err != nil {
		return nil, err
	}
	return &emptypb.Empty{}, s.app.EndUse(ctx, id, cid)
}

// GetVerdict says whether an image may be used.
func (s *Server) GetVerdict(ctx context.Context, req *releasev1.GetVerdictRequest) (*releasev1.Verdict, error) {
	if strings.TrimSpace(req.GetRef()) == "" {
		return nil, fault.Fields().Add("ref", "is required: host[:port]/repository[:tag][@digest]").Err()
	}
	v, err := s.app.Verdict(ctx, req.GetRef())
	if err != nil {
		return nil, err
	}
	out := &releasev1.Verdict{
		Allowed: v.Allowed, Ref: req.GetRef(), Digest: text(v.Digest), TrustedRef: text(v.TrustedRef), Reasons: v.Reasons,
		ValidUntil: stamp(v.ValidUntil), Authoritative: v.Authoritative, NextAction: text(v.NextAction),
	}
	if v.Release != uuid.Nil {
		out.ReleaseId = text(v.Release.String())
	}
	return out, nil
}

// ExplainEligibility lists the rules.
func (s *Server) ExplainEligibility(ctx context.Context, req *releasev1.ExplainEligibilityRequest) (*releasev1.EligibilityExplanation, error) {
	id, err := page.ID("id", req.GetId())
	if err != nil {
		return nil, err
	}
	ok, reason, rules, err := s.app.Explain(ctx, id)
	if err != nil {
		return nil, err
	}
	out := &releasev1.EligibilityExplanation{Eligible: ok, BlockerReason: text(string(reason))}
	for _, rule := range rules {
		inputs, err := structpb.NewStruct(rule.Inputs)
		if err != nil {
			return nil, err
		}
		outcome := "fail"
		if rule.Passed {
			outcome = "pass"
		}
		out.Rules = append(out.Rules, &releasev1.EligibilityRule{Rule: rule.Name, Inputs: inputs, Outcome: outcome})
	}
	return out, nil
}

func stamp(t *time.Time) *timestamppb.Timestamp {
	if t == nil {
		return nil
	}
	return timestamppb.New(*t)
}

// text is nil for nothing.
func text(s string) *string {
	if s == "" {
		return nil
	}
	return &s
}
