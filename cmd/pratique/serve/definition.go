// Package serve composes a server process from a configuration: some of the six services, perhaps the gateway, each with its database, bus,
// peers and loops, and the operations endpoint. It owns the configuration's shape and what is wrong with it, and it is the only place that
// knows all services; `pratique serve` and `pratique up` both start what they run through it.
package serve

import (
	"log/slog"
	"time"

	"google.golang.org/grpc"

	"github.com/pratique-io/pratique/internal/bus"
	"github.com/pratique-io/pratique/internal/config"
	"github.com/pratique-io/pratique/internal/egress"
	"github.com/pratique-io/pratique/internal/pg"
	"github.com/pratique-io/pratique/services/approval"
	"github.com/pratique-io/pratique/services/dispatch"
	"github.com/pratique-io/pratique/services/evidence"
	"github.com/pratique-io/pratique/services/intake"
	"github.com/pratique-io/pratique/services/notify"
	"github.com/pratique-io/pratique/services/release"
)

// World is what the host gives a service.
type World struct {
	DB     *pg.DB
	Peer   func(service string) grpc.ClientConnInterface
	Egress *egress.Egress
	Log    *slog.Logger
	Now    func() time.Time
}

// Services are the services' own settings, at the top level of the configuration.
type Services struct {
	Intake   intake.Config   `yaml:"intake"`
	Dispatch dispatch.Config `yaml:"dispatch"`
	Evidence evidence.Config `yaml:"evidence"`
	Release  release.Config  `yaml:"release"`
	Notify   notify.Config   `yaml:"notify"`
}

// Default is the configuration before any file.
func Default() Config {
	return Config{
		LogLevel: "info",
		Services: Services{
			Intake: intake.Default(), Dispatch: dispatch.Default(), Evidence: evidence.Default(), Release: release.Default(), Notify: notify.Default(),
		},
	}
}

// definition is how one service is made.
type definition struct {
	migrations func() []pg.Migrations
	build      func(Services, World) (Service, error)
	// check tells what is wrong with the service's own settings.
	check func(Services, *config.Problems)
	// zero tells what the service listens to; a service that was never built knows that much.
	zero Service
}

var definitions = map[string]definition{
	"intake": {
		migrations: intake.Migrations,
		build: func(s Services, w World) (Service, error) {
			return intake.New(s.Intake, intake.Deps{DB: w.DB, Peer: w.Peer, Egress: w.Egress, Log: w.Log, Now: w.Now})
		},
		check: func(s Services, p *config.Problems) { s.Intake.Validate(p.At("intake")) },
		zero:  new(intake.Service),
	},
	"approval": {
		migrations: approval.Migrations,
		build: func(_ Services, w World) (Service, error) {
			return approval.New(approval.Deps{DB: w.DB, Peer: w.Peer, Now: w.Now}), nil
		},
		check: func(Services, *config.Problems) {},
		zero:  new(approval.Service),
	},
	"dispatch": {
		migrations: dispatch.Migrations,
		build: func(s Services, w World) (Service, error) {
			return dispatch.New(s.Dispatch, dispatch.Deps{DB: w.DB, Peer: w.Peer, Egress: w.Egress, Log: w.Log, Now: w.Now})
		},
		check: func(s Services, p *config.Problems) { s.Dispatch.Validate(p.At("dispatch")) },
		zero:  new(dispatch.Service),
	},
	"evidence": {
		migrations: evidence.Migrations,
		build: func(s Services, w World) (Service, error) {
			return evidence.New(s.Evidence, evidence.Deps{DB: w.DB, Peer: w.Peer, Egress: w.Egress, Log: w.Log, Now: w.Now})
		},
		check: func(s Services, p *config.Problems) { s.Evidence.Validate(p.At("evidence")) },
		zero:  new(evidence.Service),
	},
	"release": {
		migrations: release.Migrations,
		build: func(s Services, w World) (Service, error) {
			return release.New(s.Release, release.Deps{DB: w.DB, Peer: w.Peer, Egress: w.Egress, Log: w.Log, Now: w.Now})
		},
		check: func(s Services, p *config.Problems) { s.Release.Validate(p.At("release")) },
		zero:  new(release.Service),
	},
	"notify": {
		migrations: notify.Migrations,
		build: func(s Services, w World) (Service, error) {
			return notify.New(s.Notify, notify.Deps{DB: w.DB, Peer: w.Peer, Log: w.Log, Now: w.Now})
		},
		check: func(s Services, p *config.Problems) { s.Notify.Validate(p.At("notify")) },
		zero:  new(notify.Service),
	},
}

// Migrations are everything that a service's schema needs.
func Migrations(service string) []pg.Migrations { return definitions[service].migrations() }

// check tells what is wrong with the settings of the services that are to run.
func (s Services) check(p *config.Problems, services []string) {
	for _, name := range services {
		if d, ok := definitions[name]; ok {
			d.check(s, p)
		}
	}
}

// Subscriptions tells what each service listens to: the broker's topology and the rights of its users follow from it.
func Subscriptions() map[string][]bus.Subscription {
	all := map[string][]bus.Subscription{}
	for name, d := range definitions {
		all[name] = d.zero.Subscriptions()
	}
	return all
}
