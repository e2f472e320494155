package view

import (
	"time"

	"github.com/google/uuid"
	"google.golang.org/protobuf/types/known/timestamppb"

	intakev1 "github.com/pratique-io/pratique/gen/pratique/intake/v1"
	"github.com/pratique-io/pratique/services/intake/internal/domain"
	"github.com/pratique-io/pratique/services/intake/internal/store"
)

// Workflow is a request's way through the product.
func Workflow(r *domain.Request) *intakev1.Workflow {
	out := &intakev1.Workflow{}
	for _, s := range r.Stages() {
		out.LifecycleStages = append(out.LifecycleStages, &intakev1.LifecycleStage{
			Key: string(s.Key), Label: s.Label, Description: s.Description, State: s.State, Timestamp: stamp(s.At),
		})
	}
	for _, s := range r.RunSteps() {
		out.Steps = append(out.Steps, &intakev1.WorkflowStep{
			StepKey: s.Key, Status: s.Status, Attempts: int32(min(s.Attempts, 1<<30)), LastError: text(s.LastError),
			StartedAt: stamp(s.StartedAt), CompletedAt: stamp(s.CompletedAt),
		})
	}
	if w := r.WaitingFor(); w != nil {
		out.WaitingFor = &intakev1.WaitingFor{Who: w.Who, Since: timestamppb.New(w.Since)}
	}
	return out
}

// Line is one line of a request's trail.
func Line(l store.Line) *intakev1.TimelineEntry {
	return &intakev1.TimelineEntry{
		At: timestamppb.New(l.At), Actor: l.Actor, Service: l.Service, Action: l.Action, From: text(l.From), To: text(l.To), Reason: text(l.Reason),
	}
}

// Registration is the EPR object of the contract, its lifecycle as of now.
func Registration(r *domain.Registration, now time.Time, window time.Duration) *intakev1.EprRegistration {
	return &intakev1.EprRegistration{
		Id: r.ID.String(), TenantId: r.Tenant.String(), EprRecordId: r.RecordID, ProductName: r.Product, TechnologyName: r.Technology,
		BusinessJustification: r.Justification, RequestedByUserId: r.RequestedBy.String(), Status: string(r.Status),
		LifecycleStatus: text(string(r.Lifecycle(now, window))), ApprovedAt: stamp(r.ApprovedAt), ExpiresAt: stamp(r.ExpiresAt),
		SuspensionReason: text(r.SuspensionReason), LastReviewedAt: stamp(r.ReviewedAt), DecidedBy: text(r.DecidedBy),
		DecisionReason: text(r.DecisionReason), DecidedAt: stamp(r.DecidedAt), CreatedAt: timestamppb.New(r.CreatedAt),
		UpdatedAt: timestamppb.New(r.UpdatedAt), Version: r.Version,
	}
}

// Capabilities is an entitlement document.
func Capabilities(d store.Document) *intakev1.OperationCapabilities {
	out := &intakev1.OperationCapabilities{
		Build: d.Switches.Build, QuarantineRequest: d.Switches.QuarantineRequest, QuarantineRelease: d.Switches.QuarantineRelease,
		OndemandImageScanning: d.Switches.OndemandScanning, Version: int32(min(d.Version, 1<<30)), UpdatedBy: text(d.UpdatedBy),
	}
	if d.Tenant != uuid.Nil {
		out.TenantId = text(d.Tenant.String())
	}
	if d.Version > 0 {
		out.UpdatedAt = timestamppb.New(d.UpdatedAt)
	}
	return out
}

// Surfaces is what the capabilities open, and for each closed one why.
func Surfaces(d store.Document) *intakev1.CapabilitySurfaces {
	out := &intakev1.CapabilitySurfaces{
		Capabilities: Capabilities(d), Surfaces: &intakev1.Surfaces{}, Denials: map[string]*intakev1.Denial{},
	}
	for _, c := range domain.AllCapabilities() {
		if !d.Switches.Has(c) {
			out.Denials[string(c)] = &intakev1.Denial{
				ReasonCode: "tenant_capability_not_entitled", Capability: string(c), Message: "the tenant is not entitled to " + string(c),
			}
			continue
		}
		s := domain.SurfaceOf(c)
		out.Surfaces.NavKeys = append(out.Surfaces.NavKeys, s.Nav...)
		out.Surfaces.RouteKeys = append(out.Surfaces.RouteKeys, s.Routes...)
		out.Surfaces.ActionKeys = append(out.Surfaces.ActionKeys, s.Actions...)
	}
	return out
}
