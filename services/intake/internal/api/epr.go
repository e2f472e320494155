package api

import (
	"context"

	intakev1 "github.com/pratique-io/pratique/gen/pratique/intake/v1"
	"github.com/pratique-io/pratique/internal/fault"
	"github.com/pratique-io/pratique/internal/page"
	"github.com/pratique-io/pratique/services/intake/internal/app"
	"github.com/pratique-io/pratique/services/intake/internal/domain"
	"github.com/pratique-io/pratique/services/intake/internal/store"
	"github.com/pratique-io/pratique/services/intake/internal/view"
)

// Eprs serves EprService.
type Eprs struct {
	intakev1.UnimplementedEprServiceServer
	App *app.App
}

// CreateEprRegistration asks for a registration.
func (s *Eprs) CreateEprRegistration(ctx context.Context, in *intakev1.CreateEprRegistrationRequest) (*intakev1.EprRegistration, error) {
	problems := fault.Fields()
	ask := app.Register{
		RecordID:      line(problems, "epr_record_id", in.GetEprRecordId(), false, 64),
		Product:       line(problems, "product_name", in.GetProductName(), true, maxName),
		Technology:    line(problems, "technology_name", in.GetTechnologyName(), true, maxName),
		Justification: prose(problems, "business_justification", in.GetBusinessJustification(), maxJustification),
		Method:        "CreateEprRegistration",
	}
	if ask.RecordID != "" && !domain.ValidRecordID(ask.RecordID) {
		problems.Add("epr_record_id", "must be "+domain.RecordIDRule)
	}
	if err := problems.Err(); err != nil {
		return nil, err
	}
	return s.App.CreateEpr(ctx, in, ask)
}

// ListEprRegistrations lists registrations.
func (s *Eprs) ListEprRegistrations(ctx context.Context, in *intakev1.ListEprRegistrationsRequest) (*intakev1.ListEprRegistrationsResponse, error) {
	problems := fault.Fields()
	q := store.EprFilter{
		Tenant:    optionalID(problems, "tenant_id", in.TenantId),
		Status:    string(oneOf(problems, "status", in.Status, domain.EprStatuses())),
		Lifecycle: oneOf(problems, "lifecycle_status", in.LifecycleStatus, domain.Lifecycles()),
		Search:    line(problems, "search", in.GetSearch(), false, maxSearch),
	}
	req := pageOf(problems, in.Limit, in.Page, in.PageToken)
	if err := problems.Err(); err != nil {
		return nil, err
	}
	rows, pagination, err := s.App.Eprs(ctx, q, req)
	if err != nil {
		return nil, err
	}
	out := &intakev1.ListEprRegistrationsResponse{Pagination: pagination}
	for _, r := range rows {
		out.Data = append(out.Data, s.show(r))
	}
	return out, nil
}

func (s *Eprs) show(r *domain.Registration) *intakev1.EprRegistration {
	return view.Registration(r, s.App.Now(), s.App.EprWindow())
}

// GetEprRegistration reads one.
func (s *Eprs) GetEprRegistration(ctx context.Context, in *intakev1.GetEprRegistrationRequest) (*intakev1.EprRegistration, error) {
	id, err := page.ID("id", in.GetId())
	if err != nil {
		return nil, err
	}
	r, err := s.App.Epr(ctx, id)
	if err != nil {
		return nil, err
	}
	return s.show(r), nil
}

// WithdrawEprRegistration takes one back before it is decided.
func (s *Eprs) WithdrawEprRegistration(ctx context.Context, in *intakev1.WithdrawEprRegistrationRequest) (*intakev1.EprRegistration, error) {
	id, err := page.ID("id", in.GetId())
	if err != nil {
		return nil, err
	}
	problems := fault.Fields()
	reason := prose(problems, "reason", in.GetReason(), maxReason)
	if err := problems.Err(); err != nil {
		return nil, err
	}
	r, err := s.App.WithdrawEpr(ctx, id, reason)
	if err != nil {
		return nil, err
	}
	return s.show(r), nil
}
