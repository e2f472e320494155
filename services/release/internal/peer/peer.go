// Package peer asks the owners of other facts: intake and evidence. It makes no decision; it only says apart an answer from no answer, because
// a release waits for the latter.
package peer

import (
	"context"
	"fmt"
	"time"

	"github.com/google/uuid"
	"google.golang.org/grpc"

	errorsv1 "github.com/pratique-io/pratique/gen/pratique/errors/v1"
	evidencev1 "github.com/pratique-io/pratique/gen/pratique/evidence/v1"
	intakev1 "github.com/pratique-io/pratique/gen/pratique/intake/v1"
	"github.com/pratique-io/pratique/internal/auth"
	"github.com/pratique-io/pratique/internal/fault"
)

// patience bounds one question; the callers have their own time to keep.
const patience = 5 * time.Second

// Peers are the services that release asks.
type Peers struct {
	requests  intakev1.RequestServiceClient
	permits   intakev1.PermitServiceClient
	directory intakev1.DirectoryServiceClient
	evidence  evidencev1.EvidenceServiceClient
}

// New makes clients on the connections that of gives by service name.
func New(of func(service string) grpc.ClientConnInterface) *Peers {
	intake := of("intake")
	return &Peers{
		requests: intakev1.NewRequestServiceClient(intake), permits: intakev1.NewPermitServiceClient(intake),
		directory: intakev1.NewDirectoryServiceClient(intake), evidence: evidencev1.NewEvidenceServiceClient(of("evidence")),
	}
}

// Entitlement asks intake whether the tenant may have the request released now.
func (p *Peers) Entitlement(ctx context.Context, id uuid.UUID) (*intakev1.Entitlement, error) {
	ctx, cancel := context.WithTimeout(auth.AsService(ctx), patience)
	defer cancel()
	out, err := p.permits.GetEntitlement(ctx, &intakev1.GetEntitlementRequest{ImportId: id.String()})
	return out, answered("intake", err)
}

// Decision asks evidence for its decision as it is now.
func (p *Peers) Decision(ctx context.Context, id uuid.UUID) (*evidencev1.CurrentDecision, error) {
	ctx, cancel := context.WithTimeout(auth.AsService(ctx), patience)
	defer cancel()
	out, err := p.evidence.GetCurrentDecision(ctx, &evidencev1.GetCurrentDecisionRequest{ImportId: id.String()})
	return out, answered("evidence", err)
}

// Request reads the request as the caller sees it.
func (p *Peers) Request(ctx context.Context, id uuid.UUID) (*intakev1.ImportRequest, error) {
	ctx, cancel := context.WithTimeout(auth.ForwardCaller(ctx), patience)
	defer cancel()
	out, err := p.requests.GetImportRequest(ctx, &intakev1.GetImportRequestRequest{Id: id.String()})
	return out, answered("intake", err)
}

// Me asks intake who the caller is; for somebody whom our directory does not know yet.
func (p *Peers) Me(ctx context.Context) (uuid.UUID, error) {
	ctx, cancel := context.WithTimeout(auth.ForwardCaller(ctx), patience)
	defer cancel()
	me, err := p.directory.GetMe(ctx, &intakev1.GetMeRequest{})
	if err != nil {
		return uuid.Nil, answered("intake", err)
	}
	id, err := uuid.Parse(me.GetUserId())
	if err != nil || id == uuid.Nil {
		return uuid.Nil, silent("intake", fmt.Errorf("user id of the caller: %q", me.GetUserId()))
	}
	return id, nil
}

// answers are the reasons by which a service has said something about what was asked, or about who asked. Anything else is no answer.
var answers = map[errorsv1.Reason]bool{
	errorsv1.Reason_REASON_NOT_FOUND: true, errorsv1.Reason_REASON_UNAUTHORIZED: true, errorsv1.Reason_REASON_PERMISSION_DENIED: true,
	errorsv1.Reason_REASON_INVALID_TENANT: true, errorsv1.Reason_REASON_TENANT_CONTEXT_MISMATCH: true, errorsv1.Reason_REASON_TENANT_DISABLED: true,
}

func answered(service string, err error) error {
	if err == nil {
		return nil
	}
	f := fault.FromStatus(err)
	if answers[f.Reason()] {
		return f
	}
	return silent(service, err)
}

func silent(service string, err error) error {
	return fault.New(errorsv1.Reason_REASON_DEPENDENCY_UNAVAILABLE, "the "+service+" service did not answer", fault.D("service", service), fault.Cause(err))
}

// Missing says that the owner knows nothing of what was asked for.
func Missing(err error) bool { return fault.Is(err, errorsv1.Reason_REASON_NOT_FOUND) }
