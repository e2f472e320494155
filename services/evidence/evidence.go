// Package evidence owns what was found about each digest and what it means: bundles and their documents (in its own store, so that they
// outlive the quarantine copy), the component index, quarantine policies, decisions with every rule, their freshness, and the end of
// quarantine copies.
//
// It consumes RequestSubmitted, RequestApproved, RequestRejected, RequestWithdrawn (intake), RunStarted, RunSucceeded, RunFailed,
// RunCancelled (dispatch) and ImageReleased (release), and publishes EvidenceRecorded, EvidenceDecided, EvidenceStale and
// QuarantineCopyRemoved, all with the request's id as aggregate.
//
// What may go wrong, and what then: a registry that does not answer is asked again with growing pauses, for a day, then the decision is
// error; evidence that is forged or contradicts itself is never stored and decided as error; evidence with gaps is stored and decided as
// incomplete; a crash anywhere leaves a row that says what is owed, and copying or deleting again does no harm. Nothing passes by default.
package evidence

import (
	"errors"
	"fmt"
	"log/slog"
	"time"

	"google.golang.org/grpc"

	evidencev1 "github.com/pratique-io/pratique/gen/pratique/evidence/v1"
	"github.com/pratique-io/pratique/internal/bus"
	"github.com/pratique-io/pratique/internal/config"
	"github.com/pratique-io/pratique/internal/directory"
	"github.com/pratique-io/pratique/internal/egress"
	"github.com/pratique-io/pratique/internal/idempotency"
	"github.com/pratique-io/pratique/internal/lease"
	"github.com/pratique-io/pratique/internal/outbox"
	"github.com/pratique-io/pratique/internal/pg"
	"github.com/pratique-io/pratique/services/evidence/internal/api"
	"github.com/pratique-io/pratique/services/evidence/internal/app"
	"github.com/pratique-io/pratique/services/evidence/internal/depot"
	"github.com/pratique-io/pratique/services/evidence/internal/store"
)

// Schema is the service's schema in Postgres.
const Schema = "evidence"

// Deps is what the host hands in.
type Deps struct {
	DB     *pg.DB
	Peer   func(service string) grpc.ClientConnInterface // not used: evidence asks nobody
	Egress *egress.Egress
	Log    *slog.Logger
	Now    func() time.Time
}

// Service is the evidence service, ready to be registered, subscribed and looped.
type Service struct {
	app        *app.App
	collectors int
}

// New builds the service and connects to nothing yet. It fails on a configuration that cannot work, telling every problem.
func New(cfg Config, deps Deps) (*Service, error) {
	problems := config.NewProblems()
	cfg.Validate(problems.At("evidence"))
	if err := problems.Err(); err != nil {
		return nil, err
	}
	if deps.DB == nil || deps.Egress == nil {
		return nil, errors.New("evidence needs a database and an egress")
	}
	if deps.Log == nil {
		deps.Log = slog.New(slog.DiscardHandler)
	}
	if deps.Now == nil {
		deps.Now = time.Now
	}
	quarantine, err := cfg.Quarantine.depot()
	if err != nil {
		return nil, fmt.Errorf("evidence.quarantine.password: %w", err)
	}
	documents, err := cfg.Store.depot()
	if err != nil {
		return nil, fmt.Errorf("evidence.store.password: %w", err)
	}
	return &Service{collectors: cfg.Collectors, app: &app.App{
		DB: deps.DB, Log: deps.Log, Now: deps.Now,
		Quarantine: depot.New(deps.Egress.Transport(egress.Quarantine), quarantine),
		Store:      depot.New(deps.Egress.Transport(egress.Evidence), documents),
		Settings:   app.Settings{Retention: cfg.CopyRetention, CollectFor: cfg.CollectFor, Lease: cfg.Lease},
	}}, nil
}

// Register adds the gRPC services.
func (s *Service) Register(r grpc.ServiceRegistrar) {
	evidencev1.RegisterEvidenceServiceServer(r, &api.Evidence{App: s.app})
	evidencev1.RegisterPolicyServiceServer(r, &api.Policy{App: s.app})
}

// Subscriptions are the events that the service wants.
func (s *Service) Subscriptions() []bus.Subscription {
	return []bus.Subscription{
		directory.Subscription(),
		{Purpose: "request", Types: []string{"pratique.intake.v1.RequestSubmitted", "pratique.intake.v1.RequestApproved"}, HandleBatch: s.app.RequestedAll},
		{Purpose: "ended", Types: []string{"pratique.intake.v1.RequestRejected", "pratique.intake.v1.RequestWithdrawn"}, Handle: s.app.Ended},
		{Purpose: "run", Types: []string{"pratique.dispatch.v1.RunStarted", "pratique.dispatch.v1.RunSucceeded",
			"pratique.dispatch.v1.RunFailed", "pratique.dispatch.v1.RunCancelled"}, HandleBatch: s.app.RunsChanged},
		{Purpose: "release", Types: []string{"pratique.release.v1.ImageReleased"}, Handle: s.app.Released},
	}
}

// Loops are what touches the world, and the clock.
func (s *Service) Loops() []lease.Loop {
	var loops []lease.Loop
	for i := range s.collectors {
		loops = append(loops, lease.Loop{Name: fmt.Sprintf("evidence_collect_%d", i+1), Every: time.Second, Run: s.app.Collect})
	}
	return append(loops,
		lease.Loop{Name: "evidence_remove", Every: time.Second, Run: s.app.Remove},
		lease.Loop{Name: "evidence_expire", Every: 10 * time.Second, Run: s.app.Expire})
}

// Migrations are the service's own tables and those of the mechanisms it uses.
func Migrations() []pg.Migrations {
	return []pg.Migrations{store.Migrations, outbox.Migrations, bus.Migrations, idempotency.Migrations, directory.Migrations}
}
