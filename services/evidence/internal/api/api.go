// Package api is evidence's way in: gRPC methods that convert, call one verb and convert back. Who may call is decided before, by the
// rules in the protos; what a caller sees is bound to the caller's scope here and by row-level security.
package api

import (
	"context"
	"fmt"
	"io"

	"github.com/google/uuid"
	"google.golang.org/grpc"

	errorsv1 "github.com/pratique-io/pratique/gen/pratique/errors/v1"
	evidencev1 "github.com/pratique-io/pratique/gen/pratique/evidence/v1"
	"github.com/pratique-io/pratique/internal/auth"
	"github.com/pratique-io/pratique/internal/fault"
	"github.com/pratique-io/pratique/services/evidence/internal/app"
	"github.com/pratique-io/pratique/services/evidence/internal/domain"
)

// Evidence serves pratique.evidence.v1.EvidenceService.
type Evidence struct {
	evidencev1.UnimplementedEvidenceServiceServer
	App *app.App
}

// Policy serves pratique.evidence.v1.PolicyService.
type Policy struct {
	evidencev1.UnimplementedPolicyServiceServer
	App *app.App
}

func parseID(text string) (uuid.UUID, error) {
	id, err := uuid.Parse(text)
	if err != nil || len(text) != 36 {
		return uuid.Nil, fault.New(errorsv1.Reason_REASON_INVALID_ID, "the request's id is not a UUID")
	}
	return id, nil
}

// GetBundle answers a request's evidence.
func (s *Evidence) GetBundle(ctx context.Context, req *evidencev1.GetBundleRequest) (*evidencev1.Bundle, error) {
	id, err := parseID(req.GetId())
	if err != nil {
		return nil, err
	}
	v, err := s.App.Bundle(ctx, auth.From(ctx).Scope(), id)
	if err != nil {
		return nil, err
	}
	return bundle(v)
}

// ExplainDecision answers every rule of the newest decision; before the first, what is still awaited.
func (s *Evidence) ExplainDecision(ctx context.Context, req *evidencev1.ExplainDecisionRequest) (*evidencev1.DecisionExplanation, error) {
	id, err := parseID(req.GetId())
	if err != nil {
		return nil, err
	}
	v, err := s.App.Bundle(ctx, auth.From(ctx).Scope(), id)
	if err != nil {
		return nil, err
	}
	rules := []domain.Rule{{Name: domain.RuleComplete, Outcome: domain.OutcomeIncomplete, Inputs: map[string]any{"bundle": string(v.Bundle.State)}}}
	out := new(evidencev1.DecisionExplanation)
	if v.Decision != nil {
		rules = v.Decision.Rules
		if out.Decision, err = decision(v.Decision); err != nil {
			return nil, err
		}
	}
	for _, r := range rules {
		converted, err := rule(r)
		if err != nil {
			return nil, err
		}
		out.Rules = append(out.Rules, converted)
	}
	return out, nil
}

// GetCurrentDecision answers release.
func (s *Evidence) GetCurrentDecision(ctx context.Context, req *evidencev1.GetCurrentDecisionRequest) (*evidencev1.CurrentDecision, error) {
	id, err := parseID(req.GetImportId())
	if err != nil {
		return nil, err
	}
	c, err := s.App.Current(ctx, auth.From(ctx).Scope(), id)
	if err != nil {
		return nil, err
	}
	return &evidencev1.CurrentDecision{
		Decision: c.Verdict, Digest: c.Bundle.Digest, EvidenceHash: c.Bundle.Hash, PolicyHash: c.Decision.PolicyHash, Fresh: c.Fresh,
		ValidUntil: stamp(c.Decision.ExpiresAt), InternalImageRef: c.Ref, Referrers: c.Bundle.Evidence.Referrers, Version: c.Decision.Version,
	}, nil
}

// chunkSize is the most that one message of a document carries, in bytes.
const chunkSize = 64 << 10

// ReadDocument streams one document: its header, then its bytes. A stream that ends without an error is the whole and right document.
func (s *Evidence) ReadDocument(req *evidencev1.ReadDocumentRequest, stream grpc.ServerStreamingServer[evidencev1.ReadDocumentResponse]) error {
	ctx := stream.Context()
	id, err := parseID(req.GetId())
	if err != nil {
		return err
	}
	d, err := s.App.Document(ctx, auth.From(ctx).Scope(), id, req.GetKind(), req.Platform, req.Format)
	if err != nil {
		return err
	}
	content, err := s.App.Open(ctx, d)
	if err != nil {
		return err
	}
	defer content.Close()
	if err := stream.Send(&evidencev1.ReadDocumentResponse{Document: documentOf(d)}); err != nil {
		return err
	}
	return send(stream, content, d.Size)
}

// send hands out exactly size bytes or fails. The reader gives its last bytes only after the whole had the right digest.
func send(stream grpc.ServerStreamingServer[evidencev1.ReadDocumentResponse], content io.Reader, size int64) error {
	for size > 0 {
		chunk := make([]byte, min(size, chunkSize)) // gRPC may keep what it was given
		if _, err := io.ReadFull(content, chunk); err != nil {
			return app.StoreFault(fmt.Errorf("read document: %w", err))
		}
		if err := stream.Send(&evidencev1.ReadDocumentResponse{Chunk: chunk}); err != nil {
			return err
		}
		size -= int64(len(chunk))
	}
	return nil
}

// GetQuarantinePolicy answers the policy of one tenant or the default for all.
func (s *Policy) GetQuarantinePolicy(ctx context.Context, req *evidencev1.GetQuarantinePolicyRequest) (*evidencev1.QuarantinePolicy, error) {
	problems := fault.Fields()
	tenant := uuid.Nil
	switch {
	case req.TenantId == nil && !req.GetAllTenants():
		problems.Add("tenant_id", "give either tenant_id or all_tenants=true")
	case req.TenantId != nil && req.GetAllTenants():
		problems.Add("tenant_id", "give only one of tenant_id and all_tenants")
		problems.Add("all_tenants", "give only one of tenant_id and all_tenants")
	case req.TenantId != nil:
		id, err := uuid.Parse(req.GetTenantId())
		if err != nil || id == uuid.Nil {
			problems.Add("tenant_id", "must be a UUID")
		}
		tenant = id
	}
	if err := problems.Err(); err != nil {
		return nil, err
	}
	p, err := s.App.Policy(ctx, auth.From(ctx).Scope(), tenant)
	if err != nil {
		return nil, err
	}
	return policy(p), nil
}

// GetOwnQuarantinePolicy answers the policy that holds for the selected tenant.
func (s *Policy) GetOwnQuarantinePolicy(ctx context.Context, _ *evidencev1.GetOwnQuarantinePolicyRequest) (*evidencev1.QuarantinePolicy, error) {
	caller := auth.From(ctx)
	if caller.Tenant == uuid.Nil {
		return nil, fault.New(errorsv1.Reason_REASON_INVALID_TENANT, "select a tenant with X-Tenant-ID")
	}
	p, err := s.App.Policy(ctx, caller.Scope(), caller.Tenant)
	if err != nil {
		return nil, err
	}
	return policy(p), nil
}
