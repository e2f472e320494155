package serve

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"

	"github.com/pratique-io/pratique/internal/auth"
	"github.com/pratique-io/pratique/internal/egress"
	"github.com/pratique-io/pratique/internal/rpc"
	"github.com/pratique-io/pratique/internal/telemetry"
)

// Process is a running server: some services, perhaps the gateway, and the operations endpoint.
type Process struct {
	cfg      Config
	log      *slog.Logger
	registry *prometheus.Registry
	probe    *telemetry.Probe
	egress   *egress.Egress
	verifier *auth.Verifiers
	hosted   []*hosted
	servers  []server

	cancel context.CancelFunc
	work   sync.WaitGroup
	failed chan error // the first part that ended although nobody stopped it
}

// server is something that listens and stops.
type server struct {
	name string
	run  func() error
	stop func(context.Context)
}

// Start starts the named services (and "gateway"), and returns when their addresses are bound. It waits for database and broker for as long as
// ctx lasts: in a fresh cluster they may come later.
func Start(ctx context.Context, cfg Config, services []string, log *slog.Logger) (*Process, error) {
	p := &Process{cfg: cfg, log: log, registry: telemetry.NewRegistry(), probe: telemetry.NewProbe(log), failed: make(chan error, 1)}
	running, cancel := context.WithCancel(context.WithoutCancel(ctx))
	p.cancel = cancel
	if err := p.start(ctx, running, services); err != nil {
		stopping, done := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
		defer done()
		p.Stop(stopping)
		return nil, err
	}
	return p, nil
}

func (p *Process) start(ctx, running context.Context, services []string) error {
	var err error
	if p.egress, err = p.cfg.egress(); err != nil {
		return err
	}
	keys, err := p.cfg.serviceKeys()
	if err != nil {
		return err
	}
	p.verifier, err = auth.NewVerifier(auth.Config{Issuers: p.cfg.Auth.Issuers, Services: keys, Client: p.egress.Client(egress.OIDC)})
	if err != nil {
		return err
	}
	for _, name := range services {
		if name == "gateway" {
			continue
		}
		h, err := p.host(ctx, name)
		if err != nil {
			return fmt.Errorf("service %s: %w", name, err)
		}
		p.hosted = append(p.hosted, h)
	}
	if len(p.hosted) > 0 {
		if err := p.listenGRPC(running); err != nil {
			return err
		}
	}
	if slices.Contains(services, "gateway") {
		if err := p.listenREST(); err != nil {
			return err
		}
	}
	if err := p.listenOps(); err != nil {
		return err
	}
	for _, s := range p.servers {
		p.work.Go(func() { p.end(s.name, s.run()) })
	}
	for _, h := range p.hosted {
		for name, run := range h.runs {
			p.work.Go(func() { p.end(name, run(running)) })
		}
	}
	return nil
}

// end notes a part that stopped by itself; a part that was told to stop ends without an error.
func (p *Process) end(name string, err error) {
	if err == nil || errors.Is(err, context.Canceled) {
		return
	}
	select {
	case p.failed <- fmt.Errorf("%s: %w", name, err):
	default:
	}
}

// Failed yields when a part ended although nobody stopped it.
func (p *Process) Failed() <-chan error { return p.failed }

// Ready waits until every check passes: database, bus and schema of each service.
func (p *Process) Ready(ctx context.Context) error {
	for {
		failures := p.probe.Ready(ctx)
		if len(failures) == 0 {
			return nil
		}
		select {
		case err := <-p.failed:
			return err
		case <-ctx.Done():
			problems := []error{ctx.Err()}
			for name, err := range failures {
				problems = append(problems, fmt.Errorf("%s: %w", name, err))
			}
			return errors.Join(problems...)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// Stop drains and stops everything within ctx: unready first, then servers, then loops and consumers, then connections.
func (p *Process) Stop(ctx context.Context) {
	p.probe.Drain()
	var all sync.WaitGroup
	for _, s := range p.servers {
		all.Go(func() { s.stop(ctx) })
	}
	all.Wait()
	p.cancel()
	finished := make(chan struct{})
	go func() { p.work.Wait(); close(finished) }()
	select {
	case <-finished:
	case <-ctx.Done():
		p.log.Warn("stopped before everything had drained")
	}
	for _, h := range p.hosted {
		h.close()
	}
}

// listenGRPC serves every hosted service on one address.
func (p *Process) listenGRPC(running context.Context) error {
	address := p.cfg.Listen.GRPC
	if address == "" {
		address = p.cfg.Peers[p.hosted[0].name]
	}
	listener, err := listen(address)
	if err != nil {
		return err
	}
	srv, health, err := rpc.NewServer(rpc.ServerConfig{
		Verifier: p.verifier, Directory: directoryOf(p.hosted), Log: p.log, Transport: p.cfg.Transport, Reflection: true,
		Seen:   func(_ context.Context, principal auth.Principal) { p.seen(running, principal) },
		Denied: p.denied,
	})
	if err != nil {
		return errors.Join(err, listener.Close())
	}
	for _, h := range p.hosted {
		h.service.Register(srv)
	}
	p.servers = append(p.servers, server{
		name: "grpc", run: func() error { return srv.Serve(listener) },
		stop: func(ctx context.Context) {
			health.Shutdown()
			stopGRPC(ctx, srv)
		},
	})
	return nil
}

// seen tells the services that keep track of people who called. It must not hold up the call, nor end with it.
func (p *Process) seen(running context.Context, principal auth.Principal) {
	for _, h := range p.hosted {
		if watcher, ok := h.service.(interface {
			Seen(context.Context, auth.Principal)
		}); ok {
			watcher.Seen(running, principal)
		}
	}
}

// denied tells the services that count denials.
func (p *Process) denied(ctx context.Context, denial rpc.Denial) {
	for _, h := range p.hosted {
		if counter, ok := h.service.(interface {
			Denied(context.Context, rpc.Denial)
		}); ok {
			counter.Denied(ctx, denial)
		}
	}
}

// stopGRPC lets calls end, and cuts those that do not within half of what is left.
func stopGRPC(ctx context.Context, srv *grpc.Server) {
	done := make(chan struct{})
	go func() { srv.GracefulStop(); close(done) }()
	select {
	case <-done:
	case <-time.After(2 * time.Second):
		srv.Stop()
	case <-ctx.Done():
		srv.Stop()
	}
}

// listen binds an address, with an error that says what to do about a taken one.
func listen(address string) (net.Listener, error) {
	listener, err := net.Listen("tcp", address)
	if err != nil {
		return nil, fmt.Errorf("cannot listen on %s (is another program using it? choose another address): %w", address, err)
	}
	return listener, nil
}
