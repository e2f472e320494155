package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"
	"google.golang.org/grpc"

	"github.com/pratique-io/pratique/internal/auth"
	"github.com/pratique-io/pratique/internal/auth/devissuer"
	"github.com/pratique-io/pratique/internal/bus"
	"github.com/pratique-io/pratique/internal/config"
	"github.com/pratique-io/pratique/internal/directory"
	"github.com/pratique-io/pratique/internal/egress"
	"github.com/pratique-io/pratique/internal/lease"
	"github.com/pratique-io/pratique/internal/outbox"
	"github.com/pratique-io/pratique/internal/pg"
	"github.com/pratique-io/pratique/internal/rpc"
	"github.com/pratique-io/pratique/services/approval"
	"github.com/pratique-io/pratique/services/dispatch"
	"github.com/pratique-io/pratique/services/evidence"
	"github.com/pratique-io/pratique/services/intake"
	"github.com/pratique-io/pratique/services/notify"
	"github.com/pratique-io/pratique/services/release"
)

// service is what every service package gives a host.
type service interface {
	Register(grpc.ServiceRegistrar)
	Subscriptions() []bus.Subscription
	Loops() []lease.Loop
}

var migrations = map[string]func() []pg.Migrations{
	"intake": intake.Migrations, "approval": approval.Migrations, "dispatch": dispatch.Migrations,
	"evidence": evidence.Migrations, "release": release.Migrations, "notify": notify.Migrations,
}

// withoutLoops are the services whose loops do not run: they would start pipelines and read registries. pipeline stands in for them.
var withoutLoops = map[string]bool{"dispatch": true, "evidence": true}

// product is the six services in this process, on real schemas, a real bus and real gRPC over TCP. It can be stopped and started again on the
// same data and the same broker.
type product struct {
	s        *stand
	world    *outside
	pipeline *pipeline
	hub      *hub // started once

	out      *egress.Egress
	verifier auth.Verifier
	dbs      map[string]*pg.DB
	services map[string]service
	conn     *grpc.ClientConn
	mu       sync.Mutex
	tokens   map[string]string
	closers  []func()
	work     sync.WaitGroup
	cancel   context.CancelFunc
}

// tenants of the benchmark; each has one person who asks.
var tenants = []string{"amber", "blue", "cyan", "dune"}

const (
	reviewer = "reviewer"
	root     = "root"
	nowhere  = "127.0.0.1:9" // registries that nobody asks while the loops do not run
)

func asker(tenant string) string { return "asker-" + tenant }

func (p *product) start(ctx context.Context) error {
	p.dbs, p.services, p.closers = map[string]*pg.DB{}, map[string]service{}, nil
	running, cancel := context.WithCancel(context.WithoutCancel(ctx))
	p.cancel = cancel
	err := p.build(ctx)
	if err == nil {
		err = p.connect(ctx, running)
	}
	if err == nil {
		err = p.settle(ctx)
	}
	if err != nil {
		p.stop()
	}
	return err
}

// stop ends everything but the broker; sessions of the database end too, which writes their statistics.
func (p *product) stop() {
	p.cancel()
	p.work.Wait()
	for i := len(p.closers) - 1; i >= 0; i-- {
		p.closers[i]()
	}
}

// build opens schemas and makes the services, with one gRPC address for all, as `pratique up` does.
func (p *product) build(ctx context.Context) error {
	var err error
	p.out, err = egress.New(egress.Config{Policies: map[egress.Purpose]egress.Policy{
		egress.Source: {Allowed: []string{p.world.upstream}}, egress.OIDC: {Allowed: []string{strings.TrimPrefix(p.world.issuer, "http://")}},
	}})
	if err != nil {
		return err
	}
	p.verifier, err = auth.NewVerifier(auth.Config{Client: p.out.Client(egress.OIDC),
		Issuers: []auth.Issuer{{URL: p.world.issuer, Audiences: []string{devissuer.Audience}}}})
	if err != nil {
		return err
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	p.conn, err = rpc.Dial(listener.Addr().String(), rpc.ClientConfig{Transport: rpc.Transport{Plaintext: true}})
	if err != nil {
		return errors.Join(err, listener.Close())
	}
	p.closers = append(p.closers, func() { _ = listener.Close(); _ = p.conn.Close() })
	resolvers := resolvers{}
	for name, sets := range migrations {
		if p.dbs[name], err = p.s.schema(ctx, name, sets()...); err != nil {
			return fmt.Errorf("schema %s: %w", name, err)
		}
		p.closers = append(p.closers, p.dbs[name].Close)
		resolvers[name] = directory.NewResolver(p.dbs[name])
	}
	if err := p.make(); err != nil {
		return err
	}
	return p.serve(listener, resolvers)
}

// make builds the six services through their exported constructors.
func (p *product) make() error {
	peer := func(string) grpc.ClientConnInterface { return p.conn }
	log, now := p.s.log, time.Now
	key, err := p.secret("key")
	if err != nil {
		return err
	}
	asking, err := intake.New(p.intake(), intake.Deps{DB: p.dbs["intake"], Peer: peer, Egress: p.out, Log: log, Now: now})
	if err != nil {
		return err
	}
	running, err := dispatch.New(p.dispatch(key), dispatch.Deps{DB: p.dbs["dispatch"], Peer: peer, Egress: p.out, Log: log, Now: now})
	if err != nil {
		return err
	}
	p.closers = append(p.closers, running.Close)
	found := evidence.Default()
	found.Quarantine, found.Store = evidence.Registry{Host: nowhere}, evidence.Registry{Host: nowhere}
	judging, err := evidence.New(found, evidence.Deps{DB: p.dbs["evidence"], Peer: peer, Egress: p.out, Log: log, Now: now})
	if err != nil {
		return err
	}
	let := release.Default()
	let.Quarantine, let.Trusted = release.Registry{Host: nowhere}, release.Registry{Host: "127.0.0.1:19"}
	releasing, err := release.New(let, release.Deps{DB: p.dbs["release"], Peer: peer, Egress: p.out, Log: log, Now: now})
	if err != nil {
		return err
	}
	telling, err := notify.New(notify.Default(), notify.Deps{DB: p.dbs["notify"], Peer: peer, Log: log, Now: now})
	if err != nil {
		return err
	}
	p.services = map[string]service{"intake": asking, "dispatch": running, "evidence": judging, "release": releasing, "notify": telling,
		"approval": approval.New(approval.Deps{DB: p.dbs["approval"], Peer: peer, Now: now})}
	return nil
}

func (p *product) secret(name string) (config.Secret, error) {
	path := filepath.Join(p.s.dir, name)
	return config.SecretFile(path), os.WriteFile(path, []byte(p.s.pass), 0o600)
}

func (p *product) intake() intake.Config {
	cfg := intake.Default()
	cfg.Epr.Enforce = false // registrations are another story
	person := func(name string) intake.BootstrapPerson {
		return intake.BootstrapPerson{Issuer: p.world.issuer, Subject: name, Name: name}
	}
	cfg.Bootstrap.SystemAdmins = []intake.BootstrapPerson{person(root)}
	cfg.Bootstrap.Bindings = []intake.BootstrapBinding{{Issuer: p.world.issuer, Subject: reviewer, Name: reviewer, Role: string(auth.SecurityReviewer)}}
	for _, tenant := range tenants {
		cfg.Bootstrap.Tenants = append(cfg.Bootstrap.Tenants, intake.BootstrapTenant{Slug: tenant, Name: tenant})
		cfg.Bootstrap.Bindings = append(cfg.Bootstrap.Bindings, intake.BootstrapBinding{Issuer: p.world.issuer, Subject: asker(tenant),
			Name: asker(tenant), Role: string(auth.TenantMember), Tenant: tenant})
	}
	return cfg
}

// dispatch never starts a run here; its runner needs a directory and the name of a program all the same.
func (p *product) dispatch(key config.Secret) dispatch.Config {
	cfg := dispatch.Default()
	cfg.Runner.Dir, cfg.Runner.Binary = filepath.Join(p.s.dir, "runner"), "/bin/true"
	cfg.Quarantine = dispatch.Quarantine{Host: nowhere, KeyFile: key}
	cfg.Database.Dir = p.s.dir
	return cfg
}

// serve registers all services on one server with the real chain of interceptors.
func (p *product) serve(listener net.Listener, resolvers resolvers) error {
	srv, _, err := rpc.NewServer(rpc.ServerConfig{Verifier: p.verifier, Directory: resolvers, Log: p.s.log, Transport: rpc.Transport{Plaintext: true}})
	if err != nil {
		return err
	}
	for _, one := range p.services {
		one.Register(srv)
	}
	go func() {
		if err := srv.Serve(listener); err != nil {
			p.s.log.Error("grpc ended", "err", err)
		}
	}()
	p.closers = append(p.closers, srv.Stop)
	return nil
}

// subscriptions are the services' own and the pipeline's.
func (p *product) subscriptions() map[string][]bus.Subscription {
	all := map[string][]bus.Subscription{}
	for name, one := range p.services {
		all[name] = append(one.Subscriptions(), p.pipeline.subscriptions(name)...)
	}
	return all
}

// connect joins the bus and starts relays, consumers and loops.
func (p *product) connect(ctx, running context.Context) error {
	subs := p.subscriptions()
	if p.hub == nil {
		var err error
		if p.hub, err = p.s.newHub(ctx, "p1", false, subs); err != nil {
			return err
		}
	}
	for name, one := range p.services {
		conn, err := p.hub.connect(ctx, name)
		if err != nil {
			return err
		}
		p.closers = append(p.closers, conn.Close)
		relay, err := outbox.NewRelay(outbox.Config{DB: p.dbs[name], Publisher: bus.NewPublisher(conn), Log: p.s.log})
		if err != nil {
			return err
		}
		runtime, err := bus.NewRuntime(bus.RuntimeConfig{Service: name, Conn: conn, DB: p.dbs[name], Subscriptions: subs[name], Log: p.s.log})
		if err != nil {
			return err
		}
		p.work.Go(func() { _ = relay.Run(running) })
		p.work.Go(func() { _ = runtime.Run(running) })
		if !withoutLoops[name] {
			p.work.Go(func() { _ = lease.Run(running, p.dbs[name], one.Loops()...) })
		}
		if err := await(ctx, name+" consumers", 15*time.Second, runtime.Ready); err != nil {
			return err
		}
	}
	return nil
}

// resolvers answers roles from the called service's own projection.
type resolvers map[string]*directory.Resolver

func (r resolvers) of(ctx context.Context) (*directory.Resolver, error) {
	method, _ := grpc.Method(ctx) // "/pratique.intake.v1.RequestService/GetImportRequest"
	parts := strings.SplitN(method, ".", 3)
	if len(parts) == 3 && r[parts[1]] != nil {
		return r[parts[1]], nil
	}
	return nil, fmt.Errorf("no service here answers %q", method)
}

// Resolve implements auth.Directory.
func (r resolvers) Resolve(ctx context.Context, principal auth.Principal) (auth.Roleset, error) {
	one, err := r.of(ctx)
	if err != nil {
		return auth.Roleset{}, err
	}
	return one.Resolve(ctx, principal)
}

// Tenant implements auth.Directory.
func (r resolvers) Tenant(ctx context.Context, ref auth.TenantRef) (uuid.UUID, bool, error) {
	one, err := r.of(ctx)
	if err != nil {
		return uuid.Nil, false, err
	}
	return one.Tenant(ctx, ref)
}
