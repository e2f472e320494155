package api

import (
	"context"
	"slices"
	"strings"

	"github.com/google/uuid"

	intakev1 "github.com/pratique-io/pratique/gen/pratique/intake/v1"
	"github.com/pratique-io/pratique/internal/auth"
	"github.com/pratique-io/pratique/internal/fault"
	"github.com/pratique-io/pratique/internal/page"
	"github.com/pratique-io/pratique/services/intake/internal/app"
	"github.com/pratique-io/pratique/services/intake/internal/domain"
	"github.com/pratique-io/pratique/services/intake/internal/view"
)

// Settings serves SettingsService.
type Settings struct {
	intakev1.UnimplementedSettingsServiceServer
	App *app.App
}

// target reads "exactly one of tenant_id and all_tenants": Nil stands for all tenants.
func target(problems *fault.FieldErrors, tenant *string, all *bool) uuid.UUID {
	named, everyone := tenant != nil && *tenant != "", all != nil && *all
	if named == everyone {
		problems.Add("tenant_id", "give exactly one of tenant_id and all_tenants=true")
		return uuid.Nil
	}
	return optionalID(problems, "tenant_id", tenant)
}

// GetOperationCapabilities reads the document of one tenant or of all.
func (s *Settings) GetOperationCapabilities(ctx context.Context, in *intakev1.GetOperationCapabilitiesRequest) (*intakev1.OperationCapabilities, error) {
	problems := fault.Fields()
	tenant := target(problems, in.TenantId, in.AllTenants)
	if err := problems.Err(); err != nil {
		return nil, err
	}
	d, err := s.App.Document(ctx, tenant)
	if err != nil {
		return nil, err
	}
	return view.Capabilities(d), nil
}

// PutOperationCapabilities replaces the document of one tenant or of all.
func (s *Settings) PutOperationCapabilities(ctx context.Context, in *intakev1.PutOperationCapabilitiesRequest) (*intakev1.OperationCapabilities, error) {
	problems := fault.Fields()
	tenant := target(problems, in.TenantId, in.AllTenants)
	reason := prose(problems, "change_reason", in.GetChangeReason(), maxReason)
	if in.GetCapabilities() == nil {
		problems.Add("capabilities", "is required")
	}
	if v := in.GetCapabilities(); v != nil && v.Version != nil && v.GetVersion() < 0 {
		problems.Add("capabilities.version", "must not be negative")
	}
	if err := problems.Err(); err != nil {
		return nil, err
	}
	c := in.GetCapabilities()
	d, err := s.App.PutDocument(ctx, tenant, domain.Capabilities{
		Build: c.GetBuild(), QuarantineRequest: c.GetQuarantineRequest(), QuarantineRelease: c.GetQuarantineRelease(),
		OndemandScanning: c.GetOndemandImageScanning(),
	}, reason, c.Version)
	if err != nil {
		return nil, err
	}
	return view.Capabilities(d), nil
}

// GetOwnOperationCapabilities reads what holds for the caller's tenant.
func (s *Settings) GetOwnOperationCapabilities(ctx context.Context, _ *intakev1.GetOwnOperationCapabilitiesRequest) (*intakev1.OperationCapabilities, error) {
	d, err := s.App.EffectiveDocument(ctx, auth.From(ctx).Tenant)
	if err != nil {
		return nil, err
	}
	return view.Capabilities(d), nil
}

// GetCapabilitySurfaces says what the caller's tenant may use, and for the rest why not.
func (s *Settings) GetCapabilitySurfaces(ctx context.Context, _ *intakev1.GetCapabilitySurfacesRequest) (*intakev1.CapabilitySurfaces, error) {
	d, err := s.App.EffectiveDocument(ctx, auth.From(ctx).Tenant)
	if err != nil {
		return nil, err
	}
	return view.Surfaces(d), nil
}

// Directory serves DirectoryService.
type Directory struct {
	intakev1.UnimplementedDirectoryServiceServer
	App *app.App
}

// GetMe says who the caller is.
func (s *Directory) GetMe(ctx context.Context, _ *intakev1.GetMeRequest) (*intakev1.Me, error) {
	self, err := s.App.Me(ctx)
	if err != nil {
		return nil, err
	}
	c := self.Caller
	out := &intakev1.Me{Subject: c.Subject, Name: c.Name, Email: c.Email, Capabilities: view.Capabilities(self.Document)}
	if c.PersonID != uuid.Nil {
		out.UserId = c.PersonID.String()
	}
	for _, role := range c.SystemRoles {
		out.SystemRoles = append(out.SystemRoles, string(role))
	}
	slices.Sort(out.SystemRoles)
	if self.Selected != uuid.Nil {
		selected := self.Selected.String()
		out.TenantId = &selected
	}
	for _, t := range self.Tenants {
		m := &intakev1.Membership{TenantId: t.ID.String(), Slug: t.Slug, Name: t.Name, Status: t.Status}
		for _, role := range c.Tenants[t.ID] {
			m.Roles = append(m.Roles, string(role))
		}
		slices.Sort(m.Roles)
		out.Tenants = append(out.Tenants, m)
	}
	slices.SortFunc(out.Tenants, func(a, b *intakev1.Membership) int { return strings.Compare(a.GetSlug(), b.GetSlug()) })
	return out, nil
}

// Permits serves PermitService.
type Permits struct {
	intakev1.UnimplementedPermitServiceServer
	App *app.App
}

// GetDispatchPermit says whether a run may start now.
func (s *Permits) GetDispatchPermit(ctx context.Context, in *intakev1.GetDispatchPermitRequest) (*intakev1.DispatchPermit, error) {
	id, err := page.ID("import_id", in.GetImportId())
	if err != nil {
		return nil, err
	}
	p, err := s.App.DispatchPermit(ctx, id)
	if err != nil {
		return nil, err
	}
	r := p.Request
	return &intakev1.DispatchPermit{
		Allowed: p.Allowed, Reason: p.Reason, SourceRegistry: r.SourceRegistry, SourceImageRef: r.SourceImageRef,
		SourceImageDigest: r.SourceDigest, TenantId: r.Tenant.String(),
	}, nil
}

// GetEntitlement says whether the tenant may have the request released now.
func (s *Permits) GetEntitlement(ctx context.Context, in *intakev1.GetEntitlementRequest) (*intakev1.Entitlement, error) {
	id, err := page.ID("import_id", in.GetImportId())
	if err != nil {
		return nil, err
	}
	e, err := s.App.ReleaseEntitlement(ctx, id)
	if err != nil {
		return nil, err
	}
	return &intakev1.Entitlement{Allowed: e.Allowed, Reason: e.Reason, TenantId: e.Tenant.ID.String(), TenantSlug: e.Tenant.Slug}, nil
}
