// Package intake is the service that takes asks in and shows what became of them.
//
// It owns tenants, people, role bindings, capabilities, EPR registrations, and import and scan requests with their visible lifecycle: the
// read model of the whole request. Only intake moves a request.
//
// It publishes RequestSubmitted, RequestApproved, RequestRejected, RequestWithdrawn, RequestStateChanged, QuarantineConcluded, RequestDenied,
// EprRegistration{Requested,Approved,Rejected,Withdrawn}, CapabilitiesChanged, TenantChanged, and on the directory stream PersonChanged and
// RoleBindingChanged. All events of one request's version share its sequence: a lead event (RequestApproved, say) and the RequestStateChanged
// of the same change carry the same number.
//
// It consumes decided cases (approval), runs (dispatch), evidence, releases, and the reconciliation of notifications. They may come twice,
// late, in any order: facts of each kind are kept with their sequence and the request is derived from all of them, walking the lifecycle table
// through states whose events have not arrived. An event about a request that is not there or not decided yet is early and comes again.
//
// It depends on Postgres, the bus, and, before the transaction of a create opens, on the source registry. If that does not answer, the create is
// refused and nothing is left behind. A crash between the commit and the answer of a create is what idempotency keys are for; everything
// else is one transaction.
package intake

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"github.com/google/uuid"
	"google.golang.org/grpc"

	intakev1 "github.com/pratique-io/pratique/gen/pratique/intake/v1"
	"github.com/pratique-io/pratique/internal/auth"
	"github.com/pratique-io/pratique/internal/bus"
	"github.com/pratique-io/pratique/internal/config"
	"github.com/pratique-io/pratique/internal/directory"
	"github.com/pratique-io/pratique/internal/egress"
	"github.com/pratique-io/pratique/internal/fault"
	"github.com/pratique-io/pratique/internal/idempotency"
	"github.com/pratique-io/pratique/internal/lease"
	"github.com/pratique-io/pratique/internal/oci"
	"github.com/pratique-io/pratique/internal/outbox"
	"github.com/pratique-io/pratique/internal/pg"
	"github.com/pratique-io/pratique/internal/rpc"
	"github.com/pratique-io/pratique/services/intake/internal/api"
	"github.com/pratique-io/pratique/services/intake/internal/app"
	"github.com/pratique-io/pratique/services/intake/internal/source"
	"github.com/pratique-io/pratique/services/intake/internal/store"
)

// Deps are what the service is given of the world.
type Deps struct {
	DB     *pg.DB
	Peer   func(service string) grpc.ClientConnInterface // intake asks nobody; part of the shape that all services share
	Egress *egress.Egress
	Log    *slog.Logger
	Now    func() time.Time
}

// Service is intake, ready to be registered and run by a host.
type Service struct {
	cfg Config
	app *app.App
	log *slog.Logger
}

// New checks the configuration and makes the service. It starts nothing.
func New(cfg Config, deps Deps) (*Service, error) {
	problems := config.NewProblems()
	cfg.Validate(problems.At("intake"))
	if err := problems.Err(); err != nil {
		return nil, err
	}
	if deps.DB == nil || deps.Egress == nil || deps.Log == nil {
		return nil, errors.New("intake needs a database, egress and a log")
	}
	if deps.Now == nil {
		deps.Now = time.Now
	}
	finder := source.New(deps.Egress.Transport(egress.Source), oci.WithInsecure(cfg.InsecureRegistries...))
	day := 24 * time.Hour
	set := app.Settings{
		TrustedRegistry: strings.ToLower(cfg.TrustedRegistry), EprEnforce: cfg.Epr.Enforce,
		EprValidity: time.Duration(cfg.Epr.ValidityDays) * day, EprWindow: time.Duration(cfg.Epr.ExpiringDays) * day,
	}
	return &Service{cfg: cfg, app: app.New(deps.DB, finder, set, deps.Now), log: deps.Log}, nil
}

// Register adds the gRPC services.
func (s *Service) Register(r grpc.ServiceRegistrar) {
	intakev1.RegisterRequestServiceServer(r, &api.Requests{App: s.app})
	intakev1.RegisterEprServiceServer(r, &api.Eprs{App: s.app})
	intakev1.RegisterSettingsServiceServer(r, &api.Settings{App: s.app})
	intakev1.RegisterDirectoryServiceServer(r, &api.Directory{App: s.app})
	intakev1.RegisterPermitServiceServer(r, &api.Permits{App: s.app})
}

// Subscriptions are the events that intake handles.
func (s *Service) Subscriptions() []bus.Subscription {
	return []bus.Subscription{
		directory.Subscription(),
		{Purpose: "decision", Types: app.DecisionTypes(), HandleBatch: s.app.DecideAll},
		{Purpose: "lifecycle", Types: app.FactTypes(), HandleBatch: s.app.Fold},
		{Purpose: "timeline", Types: app.TimelineTypes(), HandleBatch: s.app.Trail},
	}
}

// Loops are none: intake owes the world nothing.
func (s *Service) Loops() []lease.Loop { return nil }

// Migrations make the service's schema.
func Migrations() []pg.Migrations {
	return []pg.Migrations{store.Migrations, outbox.Migrations, bus.Migrations, idempotency.Migrations, directory.Migrations}
}

// Bootstrap makes the configured tenants and bindings that do not exist yet. It may run at every start and on several replicas at once.
func (s *Service) Bootstrap(ctx context.Context) error {
	f := app.Founding{}
	for _, t := range s.cfg.Bootstrap.Tenants {
		row := store.Tenant{Slug: t.Slug, Name: t.Name}
		if t.ID != "" {
			row.ID = uuid.MustParse(t.ID) // New has checked it
		}
		f.Tenants = append(f.Tenants, row)
	}
	for _, p := range s.cfg.Bootstrap.SystemAdmins {
		f.Bindings = append(f.Bindings, app.FoundingBinding{Person: person(p), Role: auth.SystemAdmin})
	}
	for _, b := range s.cfg.Bootstrap.Bindings {
		p := BootstrapPerson{Issuer: b.Issuer, Subject: b.Subject, Name: b.Name, Email: b.Email}
		f.Bindings = append(f.Bindings, app.FoundingBinding{Person: person(p), Role: auth.Role(b.Role), TenantSlug: b.Tenant})
	}
	if err := s.app.Bootstrap(ctx, f); err != nil {
		return fmt.Errorf("bootstrap intake: %w", err)
	}
	return nil
}

func person(p BootstrapPerson) store.Person {
	return store.Person{Subject: p.Issuer + "|" + p.Subject, Name: p.Name, Email: p.Email}
}

// Seen makes a verified principal known, for rpc.ServerConfig.Seen. It writes at most once a minute per principal.
func (s *Service) Seen(ctx context.Context, p auth.Principal) {
	if err := s.app.See(ctx, p); err != nil {
		s.log.WarnContext(ctx, "principal not noted", "err", err)
	}
}

// Denied counts and audits a call that was refused before its handler, for rpc.ServerConfig.Denied. A caller without a tenant has no counter.
func (s *Service) Denied(ctx context.Context, d rpc.Denial) {
	if d.Caller.Tenant == uuid.Nil || d.Caller.Service != "" {
		return
	}
	if err := s.app.Deny(ctx, d.Caller, "", d.Method, d.Reason, fault.CodeOf(d.Reason)); err != nil {
		s.log.WarnContext(ctx, "denial not recorded", "err", err, "method", d.Method)
	}
}
