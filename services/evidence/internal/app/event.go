package app

import (
	"time"

	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	eventv1 "github.com/pratique-io/pratique/gen/pratique/event/v1"
	evidencev1 "github.com/pratique-io/pratique/gen/pratique/evidence/v1"
	intakev1 "github.com/pratique-io/pratique/gen/pratique/intake/v1"
	"github.com/pratique-io/pratique/internal/document"
	"github.com/pratique-io/pratique/services/evidence/internal/domain"
)

// decided is everything others have to know about a decision.
func (a *App) decided(b *domain.Bundle, d domain.Decision) (*evidencev1.EvidenceDecided, error) {
	snapshot, err := structpb.NewStruct(d.Policy.Snapshot())
	if err != nil {
		return nil, err
	}
	m := &evidencev1.EvidenceDecided{
		ImportId: b.ID.String(), TenantId: b.Tenant.String(), Digest: b.Digest, Decision: d.Verdict, Reasons: d.Reasons,
		EvidenceHash: b.Hash, PolicyHash: d.Policy.Hash(), PolicyVersion: int32(d.Policy.Head.Version), PolicySnapshot: snapshot,
		DecidedAt: timestamppb.New(d.DecidedAt), EvidenceReadyAt: stamp(b.RecordedAt), EvidenceExpiresAt: stamp(d.ExpiresAt),
		DryRunReleasable: d.Policy.DryRunReleasable,
	}
	if d.WouldHave != "" {
		m.WouldHaveDecided = &d.WouldHave
	}
	for _, c := range d.Checks {
		m.Checks = append(m.Checks, &intakev1.CheckResult{Name: c.Name, Criticality: c.Criticality, Verdict: c.Verdict, Tool: c.Tool,
			FinishedAt: stamp(c.FinishedAt), ValidUntil: stamp(c.ValidUntil)})
	}
	if d.Verdict == domain.VerdictError {
		m.Failure = &eventv1.Failure{FailureClass: "runtime", FailureCode: "scanner_error", Message: firstOf(d.Reasons)}
		return m, nil
	}
	a.describe(m, b)
	return m, nil
}

// describe adds what the evidence itself says; nothing of refused evidence is repeated.
func (a *App) describe(m *evidencev1.EvidenceDecided, b *domain.Bundle) {
	e := b.Evidence
	m.ScanSummary = &intakev1.ScanSummary{
		Tool: e.Scanner.Name, ToolVersion: e.Scanner.Version, DatabaseDigest: e.Database.Digest, DatabaseBuiltAt: stamp(e.Database.BuiltAt),
		DatabaseNote: e.Database.Note, MaxCvss: e.MaxCVSS,
		Counts: &intakev1.SeverityCounts{Critical: int32(e.Counts.Critical), High: int32(e.Counts.High), Medium: int32(e.Counts.Medium),
			Low: int32(e.Counts.Low), Unknown: int32(e.Counts.Unknown), Fixable: int32(e.Counts.Fixable), Kev: int32(e.Counts.KEV)},
	}
	m.SbomSummary = &intakev1.SbomSummary{Format: string(document.SPDX), PackageCount: int32(e.Packages)}
	for _, p := range e.Platforms {
		out := &intakev1.Platform{Os: p.OS, Architecture: p.Arch, Digest: p.Digest}
		if p.Variant != "" {
			out.Variant = &p.Variant
		}
		m.Platforms = append(m.Platforms, out)
	}
	m.InternalImageRef = a.internalRef(b)
	m.Referrers = e.Referrers
	if e.Report != "" {
		m.Report = &eventv1.Report{Ref: a.Store.Host() + "/" + domain.Store(b.Tenant, b.ID) + "@" + e.Report, Digest: e.Report,
			MediaType: document.Report.ArtifactType()}
	}
}

// internalRef is the copy in quarantine by digest, under the name that we reach it by.
func (a *App) internalRef(b *domain.Bundle) string {
	return a.Quarantine.Host() + "/" + domain.Repository(b.Tenant, b.ID) + "@" + b.Digest
}

func stamp(t time.Time) *timestamppb.Timestamp {
	if t.IsZero() {
		return nil
	}
	return timestamppb.New(t)
}

func firstOf(list []string) string {
	if len(list) == 0 {
		return ""
	}
	return list[0]
}
