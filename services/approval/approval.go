// Package approval is the service that asks people and keeps their answers.
//
// It owns cases: one per EPR registration or import request that needs a decision, with votes and comments. It consumes intake's asks
// (RequestSubmitted, EprRegistrationRequested) and withdrawals, and publishes CaseOpened, CaseApproved, CaseRejected and CaseVoided. It never
// moves a request: intake hears CaseApproved and decides for itself.
//
// What may go wrong: an ask may arrive after its withdrawal (a void case is left in its place, so it never opens); a request may be
// withdrawn after its case was approved and before intake took the approval (the case becomes void, the votes stay); two reviewers may decide at
// once (the row lock lets one win, the other reads approval_already_decided); intake may be away when a decision is answered (the decision
// stands, the answer holds what the case knows).
package approval

import (
	"time"

	"google.golang.org/grpc"

	approvalv1 "github.com/pratique-io/pratique/gen/pratique/approval/v1"
	intakev1 "github.com/pratique-io/pratique/gen/pratique/intake/v1"
	"github.com/pratique-io/pratique/internal/bus"
	"github.com/pratique-io/pratique/internal/directory"
	"github.com/pratique-io/pratique/internal/idempotency"
	"github.com/pratique-io/pratique/internal/lease"
	"github.com/pratique-io/pratique/internal/outbox"
	"github.com/pratique-io/pratique/internal/pg"
	"github.com/pratique-io/pratique/services/approval/internal/api"
	"github.com/pratique-io/pratique/services/approval/internal/app"
	"github.com/pratique-io/pratique/services/approval/internal/store"
)

// Deps is the world as approval needs it.
type Deps struct {
	DB *pg.DB
	// Peer gives the connection to another service; approval reads from intake.
	Peer func(service string) grpc.ClientConnInterface
	Now  func() time.Time
}

// Service is approval, ready to be registered and run by the host.
type Service struct{ server *api.Server }

// New makes the service.
func New(deps Deps) *Service {
	intake := deps.Peer("intake")
	return &Service{server: api.New(deps.DB, &app.App{Now: deps.Now}, intakev1.NewRequestServiceClient(intake), intakev1.NewEprServiceClient(intake))}
}

// Register puts the service's RPCs on a server.
func (s *Service) Register(r grpc.ServiceRegistrar) {
	approvalv1.RegisterCaseServiceServer(r, s.server)
}

// Subscriptions are the events it consumes.
func (s *Service) Subscriptions() []bus.Subscription {
	return append(s.server.Subscriptions(), directory.Subscription())
}

// Loops are its acts on the outside world: none, cases wait for people.
func (s *Service) Loops() []lease.Loop { return nil }

// Migrations make its schema.
func Migrations() []pg.Migrations {
	return []pg.Migrations{outbox.Migrations, bus.Migrations, idempotency.Migrations, directory.Migrations, store.Migrations}
}
