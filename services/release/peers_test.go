package release_test

import (
	"context"
	"sync"

	"github.com/google/uuid"
	"google.golang.org/protobuf/proto"

	errorsv1 "github.com/pratique-io/pratique/gen/pratique/errors/v1"
	evidencev1 "github.com/pratique-io/pratique/gen/pratique/evidence/v1"
	intakev1 "github.com/pratique-io/pratique/gen/pratique/intake/v1"
	releasev1 "github.com/pratique-io/pratique/gen/pratique/release/v1"
	"github.com/pratique-io/pratique/internal/fault"
)

// peers are intake and evidence.
type peers struct {
	intakev1.UnimplementedRequestServiceServer
	intakev1.UnimplementedPermitServiceServer
	intakev1.UnimplementedDirectoryServiceServer
	evidencev1.UnimplementedEvidenceServiceServer

	room *room
	mu   sync.Mutex
	// by request
	requests     map[string]*intakev1.ImportRequest
	entitlements map[string]*intakev1.Entitlement
	decisions    map[string]*evidencev1.CurrentDecision
	silent       map[string]bool // "decision", "entitlement", "request"
	// onDecision runs before the n-th answer (from 1) of GetCurrentDecision.
	onDecision func(n int, d *evidencev1.CurrentDecision)
	decided    int
	me         uuid.UUID
}

func newPeers(r *room) *peers {
	return &peers{
		room: r, requests: map[string]*intakev1.ImportRequest{}, entitlements: map[string]*intakev1.Entitlement{},
		decisions: map[string]*evidencev1.CurrentDecision{}, silent: map[string]bool{},
	}
}

func (p *peers) agree(id uuid.UUID, s *intakev1.RequestSubmitted, d *evidencev1.EvidenceDecided) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.requests[id.String()] = &intakev1.ImportRequest{Id: id.String(), TenantId: s.GetTenantId(), RequestType: s.GetRequestType(), Status: "success"}
	p.entitlements[id.String()] = &intakev1.Entitlement{Allowed: true, TenantId: s.GetTenantId(), TenantSlug: "acme"}
	p.decisions[id.String()] = &evidencev1.CurrentDecision{
		Decision: d.GetDecision(), Digest: d.GetDigest(), EvidenceHash: d.GetEvidenceHash(), PolicyHash: d.GetPolicyHash(), Fresh: true,
		ValidUntil: d.GetEvidenceExpiresAt(), Referrers: d.GetReferrers(),
	}
}

// change edits the answers under the lock.
func (p *peers) change(f func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	f()
}

func down(what string) error {
	return fault.New(errorsv1.Reason_REASON_INTERNAL, what+" is broken")
}

func none() error { return fault.New(errorsv1.Reason_REASON_NOT_FOUND, "there is no such request") }

func (p *peers) GetEntitlement(_ context.Context, req *intakev1.GetEntitlementRequest) (*intakev1.Entitlement, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.silent["entitlement"] {
		return nil, down("intake")
	}
	if e := p.entitlements[req.GetImportId()]; e != nil {
		return proto.CloneOf(e), nil
	}
	return nil, none()
}

func (p *peers) GetCurrentDecision(_ context.Context, req *evidencev1.GetCurrentDecisionRequest) (*evidencev1.CurrentDecision, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.silent["decision"] {
		return nil, down("evidence")
	}
	d := p.decisions[req.GetImportId()]
	if d == nil {
		return nil, none()
	}
	d = proto.CloneOf(d)
	if p.decided++; p.onDecision != nil {
		p.onDecision(p.decided, d)
	}
	return d, nil
}

// GetImportRequest shows what release has told, as intake would.
func (p *peers) GetImportRequest(_ context.Context, req *intakev1.GetImportRequestRequest) (*intakev1.ImportRequest, error) {
	p.mu.Lock()
	out := proto.CloneOf(p.requests[req.GetId()])
	silent := p.silent["request"]
	p.mu.Unlock()
	if silent {
		return nil, down("intake")
	}
	if out == nil {
		return nil, none()
	}
	for _, e := range p.room.events(uuid.MustParse(req.GetId())) {
		var m releasev1.ReleaseApproved
		if e.Decode(&m) == nil {
			out.ReleaseState = "release_approved"
			out.Releases = append(out.Releases, &intakev1.Release{Id: m.GetReleaseId(), DestinationImageRef: m.GetDestinationImageRef(), State: "approved"})
		}
	}
	return out, nil
}

func (p *peers) GetMe(context.Context, *intakev1.GetMeRequest) (*intakev1.Me, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.me == uuid.Nil {
		return nil, down("intake")
	}
	return &intakev1.Me{UserId: p.me.String()}, nil
}
