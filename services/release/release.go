// Package release is the service that lets images out of quarantine.
//
// It owns: eligibility, promotions, released artifacts, their consumption, and verdicts. It is the only writer of the trusted registry.
// It publishes: ReleaseReady, ReleaseBlocked, ReleaseApproved, ImageReleased, ReleaseFailed, ReleaseConsumed, QuarantineCopyDeleted; the
// aggregate of all is the release record, whose id is the request's.
// It consumes: what intake says about requests, dispatch about failed runs, evidence about decisions, staleness and deleted copies; and the
// directory.
// It depends on: intake (entitlement, the request as the caller sees it), evidence (the decision as it is now), the quarantine registry (pull)
// and the trusted registry (push).
//
// What may go wrong: an owner does not answer: a promotion waits, nothing is released. A registry fails: the promotion is tried again, then
// fails as promotion_failed, and may be released again. The process dies anywhere: the promotion's row says what is owed, the lease ends, and
// doing it again changes nothing that is done. Two processes hold one promotion: only the one with the newest lease token can renew before the
// tag and record the outcome. Evidence, policy, entitlement or tenant change on the way: the promotion is refused before its first write or
// before the tag. Bytes that were copied and not tagged are in the trusted registry without a name; nothing points to them.
package release

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"google.golang.org/grpc"

	releasev1 "github.com/pratique-io/pratique/gen/pratique/release/v1"
	"github.com/pratique-io/pratique/internal/bus"
	"github.com/pratique-io/pratique/internal/config"
	"github.com/pratique-io/pratique/internal/directory"
	"github.com/pratique-io/pratique/internal/egress"
	"github.com/pratique-io/pratique/internal/idempotency"
	"github.com/pratique-io/pratique/internal/lease"
	"github.com/pratique-io/pratique/internal/oci"
	"github.com/pratique-io/pratique/internal/outbox"
	"github.com/pratique-io/pratique/internal/pg"
	"github.com/pratique-io/pratique/services/release/internal/api"
	"github.com/pratique-io/pratique/services/release/internal/app"
	"github.com/pratique-io/pratique/services/release/internal/peer"
	"github.com/pratique-io/pratique/services/release/internal/promote"
	"github.com/pratique-io/pratique/services/release/internal/store"
)

// Deps is the world that the service is given.
type Deps struct {
	DB     *pg.DB
	Peer   func(service string) grpc.ClientConnInterface // intake and evidence
	Egress *egress.Egress
	Log    *slog.Logger
	Now    func() time.Time // nil: time.Now
}

// Service is the release service.
type Service struct {
	cfg      Config
	app      *app.App
	promoter *promote.Promoter
}

// New checks the configuration and makes the service; nothing runs yet.
func New(cfg Config, deps Deps) (*Service, error) {
	problems := config.NewProblems()
	cfg.Validate(problems.At("release"))
	if err := problems.Err(); err != nil {
		return nil, err
	}
	if deps.DB == nil || deps.Peer == nil || deps.Egress == nil || deps.Log == nil {
		return nil, errors.New("release needs a database, peers, egress and a log")
	}
	if deps.Now == nil {
		deps.Now = time.Now
	}
	a := app.New(deps.DB, peer.New(deps.Peer), cfg.Trusted.Host, deps.Now)
	set := promote.Settings{
		Attempts: cfg.Promotion.Attempts, Backoff: cfg.Promotion.Backoff, Most: cfg.Promotion.Most, Lease: cfg.Promotion.Lease,
		Timeout: cfg.Promotion.Timeout,
	}
	quarantine := registryOf(cfg.Quarantine, deps.Egress, egress.Quarantine)
	trusted := registryOf(cfg.Trusted, deps.Egress, egress.Trusted)
	return &Service{cfg: cfg, app: a, promoter: promote.New(a, quarantine, trusted, set, deps.Log)}, nil
}

// requestTries and requestWait bound what one exchange with a registry repeats by itself; the promotion repeats the rest.
const (
	requestTries = 3
	requestWait  = 5 * time.Second
)

func registryOf(r Registry, e *egress.Egress, purpose egress.Purpose) promote.Registry {
	opts := []oci.Option{oci.WithRetry(requestTries, requestWait)}
	if r.PlainHTTP {
		opts = append(opts, oci.WithInsecure(r.Host))
	}
	if len(r.Realms) > 0 {
		opts = append(opts, oci.WithRealm(r.Host, r.Realms...))
	}
	return promote.Registry{
		Client: oci.NewClient(e.Transport(purpose), opts...), Host: r.Host,
		Credential: func() (oci.Credential, error) {
			if !r.Password.Set() {
				return oci.Credential{}, nil
			}
			password, err := r.Password.Read()
			if err != nil {
				return oci.Credential{}, fmt.Errorf("credential of %s: %w", r.Host, err)
			}
			return oci.Credential{Username: r.Username, Password: string(password)}, nil
		},
	}
}

// Register adds the service's RPCs.
func (s *Service) Register(r grpc.ServiceRegistrar) {
	releasev1.RegisterReleaseServiceServer(r, api.New(s.app))
}

// Subscriptions are the events that the service wants.
func (s *Service) Subscriptions() []bus.Subscription {
	return []bus.Subscription{api.Subscription(s.app), directory.Subscription()}
}

const (
	promoteEvery = time.Second // the net under the wake-up of each commit; pauses between tries end by it
	expireEvery  = 30 * time.Second
)

// Loops are the service's loops: promotions, and the clock of evidence.
func (s *Service) Loops() []lease.Loop {
	loops := []lease.Loop{{Name: "release_expire", Every: expireEvery, Run: s.app.Expire}}
	for i := range s.cfg.Promotion.Parallel {
		loops = append(loops, lease.Loop{
			Name: fmt.Sprintf("release_promote_%d", i+1), Every: promoteEvery,
			Run: func(ctx context.Context) (bool, error) { return s.promoter.Turn(ctx) },
		})
	}
	return loops
}

// Migrations are the tables of the service and of the mechanisms in its schema.
func Migrations() []pg.Migrations {
	return []pg.Migrations{store.Migrations, outbox.Migrations, bus.Migrations, idempotency.Migrations, directory.Migrations}
}
