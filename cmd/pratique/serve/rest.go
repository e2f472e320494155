package serve

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"time"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"
	"google.golang.org/grpc"

	"github.com/pratique-io/pratique/gateway"
	"github.com/pratique-io/pratique/internal/rpc"
	"github.com/pratique-io/pratique/internal/telemetry"
)

// Limits of every HTTP server here. There is no write timeout: event streams last; their handlers bound themselves.
const (
	headerTimeout = 10 * time.Second
	readTimeout   = 60 * time.Second
	idleTimeout   = 2 * time.Minute
	maxHeader     = 64 << 10
)

// listenREST serves the gateway.
func (p *Process) listenREST() error {
	keys := []byte(`{"keys":[]}`)
	if p.cfg.Auth.PublicKey != "" {
		raw, err := os.ReadFile(p.cfg.Auth.PublicKey)
		if err != nil {
			return fmt.Errorf("auth.public_key: %w", err)
		}
		if keys, err = gateway.Keys(raw); err != nil {
			return fmt.Errorf("auth.public_key: %w", err)
		}
	}
	peer, closePeers, err := p.peers(rpc.ClientConfig{Transport: p.cfg.Transport}, gateway.ClientOptions()...)
	if err != nil {
		return err
	}
	front, err := gateway.New(gateway.Config{Peer: peer, Keys: keys, Log: p.log})
	if err != nil {
		closePeers()
		return err
	}
	listener, err := listen(p.cfg.Listen.REST)
	if err != nil {
		closePeers()
		return err
	}
	probes := http.NewServeMux()
	p.probe.Register(probes)
	p.addHTTP("rest", listener, beside(probes, traced(front)), closePeers)
	return nil
}

// beside answers the probes' two paths and leaves every other to next: a mux around both would redirect unclean paths, in HTML, before the
// gateway could refuse them.
func beside(probes, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/livez" || r.URL.Path == "/readyz" {
			probes.ServeHTTP(w, r)
			return
		}
		next.ServeHTTP(w, r)
	})
}

// traced puts each call into its caller's trace (W3C traceparent; no baggage from outside), or begins one, so that what the services do for
// it hangs together.
func traced(next http.Handler) http.Handler {
	tracer := otel.Tracer("pratique/rest")
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		ctx := propagation.TraceContext{}.Extract(r.Context(), propagation.HeaderCarrier(r.Header))
		ctx, span := tracer.Start(ctx, "REST "+verb(r.Method), trace.WithSpanKind(trace.SpanKindServer), trace.WithAttributes(
			attribute.String("http.request.method", verb(r.Method)), attribute.String("url.path", r.URL.Path)))
		defer span.End()
		next.ServeHTTP(w, r.WithContext(ctx))
	})
}

// verb keeps the names of spans to a closed set: callers may send any word as a method.
func verb(method string) string {
	switch method {
	case http.MethodGet, http.MethodHead, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete, http.MethodOptions:
		return method
	}
	return "_OTHER"
}

// listenOps serves /livez, /readyz and /metrics.
func (p *Process) listenOps() error {
	if p.cfg.Listen.Ops == "" {
		return nil
	}
	listener, err := listen(p.cfg.Listen.Ops)
	if err != nil {
		return err
	}
	mux := http.NewServeMux()
	p.probe.Register(mux)
	mux.Handle("GET /metrics", telemetry.MetricsHandler(p.registry))
	p.addHTTP("ops", listener, mux, func() {})
	return nil
}

func (p *Process) addHTTP(name string, listener net.Listener, handler http.Handler, after func()) {
	// Streams end when the process stops; Shutdown alone would wait for them.
	base, cancel := context.WithCancel(context.Background())
	srv := &http.Server{
		Handler: handler, ReadHeaderTimeout: headerTimeout, ReadTimeout: readTimeout, IdleTimeout: idleTimeout, MaxHeaderBytes: maxHeader,
		BaseContext: func(net.Listener) context.Context { return base },
	}
	p.servers = append(p.servers, server{
		name: name,
		run: func() error {
			if err := srv.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
				return err
			}
			return nil
		},
		stop: func(ctx context.Context) {
			shutdown, done := context.WithTimeout(ctx, 2*time.Second)
			defer done()
			cancel()
			if err := srv.Shutdown(shutdown); err != nil {
				_ = srv.Close()
			}
			after()
		},
	})
}

// peers dials every service; connections are lazy, so a service that is not up yet costs nothing.
func (p *Process) peers(cfg rpc.ClientConfig, more ...grpc.DialOption) (func(string) grpc.ClientConnInterface, func(), error) {
	conns := map[string]*grpc.ClientConn{}
	closeAll := func() {
		for _, conn := range conns {
			_ = conn.Close()
		}
	}
	for _, name := range Names() {
		conn, err := rpc.Dial(p.cfg.Peers[name], cfg, more...)
		if err != nil {
			closeAll()
			return nil, nil, fmt.Errorf("peer %s: %w", name, err)
		}
		conns[name] = conn
	}
	return func(name string) grpc.ClientConnInterface { return conns[name] }, closeAll, nil
}
