package serve

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/google/uuid"
	"google.golang.org/grpc"

	"github.com/pratique-io/pratique/internal/auth"
	"github.com/pratique-io/pratique/internal/broker"
	"github.com/pratique-io/pratique/internal/bus"
	"github.com/pratique-io/pratique/internal/config"
	"github.com/pratique-io/pratique/internal/directory"
	"github.com/pratique-io/pratique/internal/failpoint"
	"github.com/pratique-io/pratique/internal/idempotency"
	"github.com/pratique-io/pratique/internal/lease"
	"github.com/pratique-io/pratique/internal/outbox"
	"github.com/pratique-io/pratique/internal/pg"
	"github.com/pratique-io/pratique/internal/rpc"
)

// Service is what every service package gives the host.
type Service interface {
	Register(grpc.ServiceRegistrar)
	Subscriptions() []bus.Subscription
	Loops() []lease.Loop
}

// hosted is one service with what it stands on.
type hosted struct {
	name     string
	service  Service
	db       *pg.DB
	resolver *directory.Resolver
	runs     map[string]func(context.Context) error
	closers  []func()
}

func (h *hosted) close() {
	for i := len(h.closers) - 1; i >= 0; i-- {
		h.closers[i]()
	}
}

// host opens a service's database and bus, builds it, and prepares its relay, consumers and loops.
func (p *Process) host(ctx context.Context, name string) (*hosted, error) {
	h := &hosted{name: name, runs: map[string]func(context.Context) error{}}
	err := p.build(ctx, h)
	if err == nil {
		err = p.connect(ctx, h)
	}
	if err != nil {
		h.close()
		return nil, err
	}
	return h, nil
}

// build opens the database, dials the peers and makes the service. Nothing runs yet.
func (p *Process) build(ctx context.Context, h *hosted) error {
	definition := definitions[h.name]
	access, err := p.cfg.database(h.name)
	if err != nil {
		return err
	}
	if err := p.patiently(ctx, h.name+" database", func() (err error) { h.db, err = pg.Open(ctx, access); return err }); err != nil {
		return err
	}
	h.closers = append(h.closers, h.db.Close)
	if err := pg.CheckSchema(ctx, h.db, definition.migrations()...); err != nil {
		return err
	}
	h.resolver = directory.NewResolver(h.db)
	key, err := auth.ReadKey(filepath.Join(p.cfg.Auth.ServiceKeys, h.name+".pem"))
	if err != nil {
		return fmt.Errorf("service key: %w", err)
	}
	peer, closePeers, err := p.peers(rpc.ClientConfig{Transport: p.cfg.Transport, Signer: auth.NewServiceSigner(h.name, key)})
	if err != nil {
		return err
	}
	h.closers = append(h.closers, closePeers)
	h.service, err = definition.build(p.cfg.Services, World{DB: h.db, Peer: peer, Egress: p.egress, Log: p.log.With("service", h.name), Now: time.Now})
	if err != nil {
		return err
	}
	if closer, ok := h.service.(interface{ Close() }); ok {
		h.closers = append(h.closers, closer.Close)
	}
	return nil
}

// connect joins the bus and prepares what runs.
func (p *Process) connect(ctx context.Context, h *hosted) error {
	password, err := config.SecretFile(filepath.Join(p.cfg.Bus.Passwords, "nats_"+h.name)).Read()
	if err != nil {
		return fmt.Errorf("bus password: %w", err)
	}
	log := p.log.With("service", h.name)
	var conn *bus.Conn
	if err := p.patiently(ctx, h.name+" bus", func() (err error) {
		conn, err = bus.Connect(ctx, bus.Config{
			URL: p.cfg.Bus.URL, User: h.name, Password: string(password), InboxPrefix: broker.InboxPrefix(h.name), Name: "pratique-" + h.name, Log: log,
		})
		return err
	}); err != nil {
		return err
	}
	h.closers = append(h.closers, conn.Close)
	relay, err := outbox.NewRelay(outbox.Config{DB: h.db, Publisher: bus.NewPublisher(conn), Log: log, Registerer: p.registry})
	if err != nil {
		return err
	}
	disturbance, err := chaos()
	if err != nil {
		return err
	}
	runtime, err := bus.NewRuntime(bus.RuntimeConfig{
		Service: h.name, Conn: conn, DB: h.db, Subscriptions: h.service.Subscriptions(), Log: log, Registerer: p.registry, Chaos: disturbance,
	})
	if err != nil {
		return err
	}
	h.runs[h.name+" relay"], h.runs[h.name+" consumers"] = relay.Run, runtime.Run
	h.runs[h.name+" loops"] = func(ctx context.Context) error {
		return lease.Run(ctx, h.db, append(h.service.Loops(), sweeper(h.db))...)
	}
	if starter, ok := h.service.(interface{ Bootstrap(context.Context) error }); ok {
		h.runs[h.name+" bootstrap"] = func(ctx context.Context) error {
			return p.patiently(ctx, h.name+" bootstrap", func() error { return starter.Bootstrap(ctx) })
		}
	}
	p.probe.Check(h.name+" database", h.db.Ping)
	p.probe.Check(h.name+" bus", func(context.Context) error { return runtime.Ready() })
	p.probe.Check(h.name+" directory", func(ctx context.Context) error { return p.knows(ctx, h) })
	return nil
}

// knows tells whether the service has heard of anybody yet: before that it would deny everyone. What the configuration founds must have
// arrived whole.
func (p *Process) knows(ctx context.Context, h *hosted) error {
	founded := p.cfg.Services.Intake.Bootstrap
	want := max(1, len(founded.Bindings)+len(founded.SystemAdmins))
	got, err := h.resolver.Bindings(ctx)
	if err == nil && got < want {
		err = fmt.Errorf("%d of %d role bindings have arrived; with none configured (intake.bootstrap.system_admins) nobody could do anything", got, want)
	}
	return err
}

// sweeper forgets answers kept for repeated calls, past their day.
func sweeper(db *pg.DB) lease.Loop {
	return lease.Loop{Name: "idempotency sweep", Every: 10 * time.Minute, Run: func(ctx context.Context) (bool, error) {
		return idempotency.Sweep(ctx, db)
	}}
}

// chaos reads what fault tests do to delivery. Only a build with the failpoints tag obeys: in an ordinary one no variable can disturb it.
func chaos() (bus.Chaos, error) {
	if !failpoint.Armed {
		return bus.Chaos{}, nil
	}
	return bus.ParseChaos(os.Getenv(bus.ChaosVariable))
}

// patiently tries until it works or ctx ends: what we stand on may come up after us.
func (p *Process) patiently(ctx context.Context, what string, try func() error) error {
	for {
		err := try()
		if err == nil {
			return nil
		}
		p.log.WarnContext(ctx, "waiting", "for", what, "err", err)
		select {
		case <-ctx.Done():
			return err
		case <-time.After(500 * time.Millisecond):
		}
	}
}

// mux answers roles from the called service's own projection: several services may share one address.
type mux map[string]*directory.Resolver

func directoryOf(parts []*hosted) auth.Directory {
	m := mux{}
	for _, h := range parts {
		m[h.name] = h.resolver
	}
	return m
}

func (m mux) of(ctx context.Context) (*directory.Resolver, error) {
	method, _ := grpc.Method(ctx)
	// "/pratique.intake.v1.RequestService/GetImportRequest"
	parts := strings.SplitN(method, ".", 3)
	if len(parts) == 3 && m[parts[1]] != nil {
		return m[parts[1]], nil
	}
	return nil, fmt.Errorf("no service here answers %q", method)
}

// Resolve implements auth.Directory.
func (m mux) Resolve(ctx context.Context, principal auth.Principal) (auth.Roleset, error) {
	resolver, err := m.of(ctx)
	if err != nil {
		return auth.Roleset{}, err
	}
	return resolver.Resolve(ctx, principal)
}

// Tenant implements auth.Directory.
func (m mux) Tenant(ctx context.Context, ref auth.TenantRef) (uuid.UUID, bool, error) {
	resolver, err := m.of(ctx)
	if err != nil {
		return uuid.Nil, false, err
	}
	return resolver.Tenant(ctx, ref)
}
