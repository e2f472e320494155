package api

import (
	"time"

	"github.com/google/uuid"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	evidencev1 "github.com/pratique-io/pratique/gen/pratique/evidence/v1"
	"github.com/pratique-io/pratique/services/evidence/internal/app"
	"github.com/pratique-io/pratique/services/evidence/internal/domain"
	"github.com/pratique-io/pratique/services/evidence/internal/store"
)

func stamp(t time.Time) *timestamppb.Timestamp {
	if t.IsZero() {
		return nil
	}
	return timestamppb.New(t)
}

func bundle(v app.View) (*evidencev1.Bundle, error) {
	b := v.Bundle
	out := &evidencev1.Bundle{
		ImportId: b.ID.String(), TenantId: b.Tenant.String(), Digest: b.Digest, RunId: b.Run, Attempt: int32(b.Attempt), EvidenceHash: b.Hash,
		RecordedAt: stamp(b.RecordedAt), ExpiresAt: stamp(b.ExpiresAt),
	}
	for _, d := range v.Documents {
		out.Documents = append(out.Documents, documentOf(d))
	}
	if v.Decision == nil {
		return out, nil
	}
	var err error
	out.Decision, err = decision(v.Decision)
	return out, err
}

func documentOf(d domain.Document) *evidencev1.Document {
	return &evidencev1.Document{Kind: d.Kind, Platform: d.Platform, Format: d.Format, MediaType: d.MediaType, Digest: d.Digest, Size: d.Size,
		Tool: d.Tool, ToolVersion: d.ToolVersion, FinishedAt: stamp(d.FinishedAt)}
}

func decision(d *store.Decided) (*evidencev1.Decision, error) {
	snapshot, err := structpb.NewStruct(d.Snapshot)
	if err != nil {
		return nil, err
	}
	out := &evidencev1.Decision{Decision: d.Verdict, Reasons: d.Reasons, DecidedAt: stamp(d.DecidedAt), PolicyHash: d.PolicyHash,
		PolicyVersion: int32(d.PolicyVersion), PolicySnapshot: snapshot, Version: d.Version}
	if d.WouldHave != "" {
		out.WouldHaveDecided = &d.WouldHave
	}
	return out, nil
}

func rule(r domain.Rule) (*evidencev1.Rule, error) {
	inputs, err := structpb.NewStruct(r.Inputs)
	if err != nil {
		return nil, err
	}
	if r.Reason != "" {
		inputs.Fields["reason"] = structpb.NewStringValue(r.Reason)
	}
	return &evidencev1.Rule{Rule: r.Name, Inputs: inputs, Outcome: string(r.Outcome)}, nil
}

func policy(p domain.Policy) *evidencev1.QuarantinePolicy {
	out := &evidencev1.QuarantinePolicy{
		Enabled: p.Enabled, Mode: p.Mode, MaxCritical: int32(p.MaxCritical), MaxP2: int32(p.MaxP2), MaxP3: int32(p.MaxP3), MaxCvss: p.MaxCVSS,
		SeverityMapping:    &evidencev1.SeverityMapping{P1: p.Mapping.P1, P2: p.Mapping.P2, P3: p.Mapping.P3, P4: p.Mapping.P4},
		MaxEvidenceAgeDays: int32(p.MaxEvidenceDays), MaxVulndbAgeHours: int32(p.MaxDatabaseHours), Version: int32(p.Head.Version),
		UpdatedAt: stamp(p.Head.UpdatedAt),
	}
	if p.Head.Tenant != uuid.Nil {
		tenant := p.Head.Tenant.String()
		out.TenantId = &tenant
	}
	if p.Head.UpdatedBy != "" {
		out.UpdatedBy = &p.Head.UpdatedBy
	}
	return out
}
