// Package notify is the service that tells people, each of each thing once.
//
// It owns notifications, receipts and the plans behind them. It consumes intake's and release's news (see api.Subscriptions), never cases, and
// the directory. It publishes NotificationCreated, without text, and ReconciliationChanged: how many of those who were to hear of a decision
// did. It depends on nobody while it serves.
//
// How a thing is told: the plan (who, and why) is decided purely from the event and the directory as it is at that moment, and frozen in
// notification_plan; a receipt is claimed per recipient and channel; the in-app notification is written; all in the transaction that claims
// the event. A channel that leaves the process gets a row in that transaction instead, and a leased loop that sends with the receipt's id as
// the idempotency key.
//
// Why nobody is told twice: the inbox knows the event's id for 45 days and what is older is discarded as too old (internal/bus); an event that
// comes again under another id finds the plan of its aggregate and sequence, which is never deleted; under both stands the receipt's unique
// key. Deleting a notification touches neither, and receipts that age away (Config.ReceiptRetentionDays) leave their plan.
//
// What may go wrong: the event may overtake the people it concerns (it is early and comes again: ten minutes for its requester, one when
// nobody at all is known); nobody who should hear may exist (system admins hear, and are told why); a statement may fail for one event of a
// batch (the bus splits the batch until that one stands alone).
package notify

import (
	"errors"
	"log/slog"
	"time"

	"google.golang.org/grpc"

	notifyv1 "github.com/pratique-io/pratique/gen/pratique/notify/v1"
	"github.com/pratique-io/pratique/internal/bus"
	"github.com/pratique-io/pratique/internal/config"
	"github.com/pratique-io/pratique/internal/directory"
	"github.com/pratique-io/pratique/internal/egress"
	"github.com/pratique-io/pratique/internal/idempotency"
	"github.com/pratique-io/pratique/internal/lease"
	"github.com/pratique-io/pratique/internal/outbox"
	"github.com/pratique-io/pratique/internal/pg"
	"github.com/pratique-io/pratique/services/notify/internal/api"
	"github.com/pratique-io/pratique/services/notify/internal/app"
	"github.com/pratique-io/pratique/services/notify/internal/store"
)

// Deps is the world as notify needs it. DB is required; Peer and Egress are for channels to come.
type Deps struct {
	DB     *pg.DB
	Peer   func(service string) grpc.ClientConnInterface
	Egress *egress.Egress
	Log    *slog.Logger
	Now    func() time.Time
}

// Service is notify, ready to be registered and run by the host.
type Service struct {
	cfg    Config
	db     *pg.DB
	app    *app.App
	server *api.Server
}

// New makes the service.
func New(cfg Config, deps Deps) (*Service, error) {
	if deps.DB == nil {
		return nil, errors.New("notify needs a database")
	}
	problems := config.NewProblems()
	cfg.Validate(problems.At("notify"))
	if err := problems.Err(); err != nil {
		return nil, err
	}
	if deps.Log == nil {
		deps.Log = slog.Default()
	}
	if deps.Now == nil {
		deps.Now = time.Now
	}
	a := &app.App{Now: deps.Now}
	return &Service{cfg: cfg, db: deps.DB, app: a, server: api.New(deps.DB, a, deps.Log, deps.Now)}, nil
}

// Register puts the service's RPCs on a server.
func (s *Service) Register(r grpc.ServiceRegistrar) {
	notifyv1.RegisterNotificationServiceServer(r, s.server)
}

// Subscriptions are the events it consumes.
func (s *Service) Subscriptions() []bus.Subscription {
	return append(s.server.Subscriptions(), directory.Subscription())
}

// Loops: old receipts are swept.
func (s *Service) Loops() []lease.Loop {
	return []lease.Loop{s.app.Sweep(s.db, s.cfg.retention(), s.cfg.cleanup())}
}

// Migrations make its schema.
func Migrations() []pg.Migrations {
	return []pg.Migrations{outbox.Migrations, bus.Migrations, idempotency.Migrations, directory.Migrations, store.Migrations}
}
