// Package rpc owns the way into and out of a service over gRPC: the one chain of interceptors that names the call, knows the
// caller, decides, bounds and logs it, and renders every error; and the client side that carries credentials on and turns
// answers back into faults. No handler does any of this itself.
package rpc

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"go.opentelemetry.io/contrib/instrumentation/google.golang.org/grpc/otelgrpc"
	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/reflection"

	errorsv1 "github.com/pratique-io/pratique/gen/pratique/errors/v1"
	"github.com/pratique-io/pratique/internal/auth"
	"github.com/pratique-io/pratique/internal/fault"
)

// Limits of every server and client.
const (
	MaxMessage = 4 << 20 // of what is asked
	// MaxAnswer lets a full page of 200 of the largest records through; a page that cannot be sent would hide all that is on it.
	MaxAnswer       = 32 << 20
	DefaultDeadline = 30 * time.Second

	maxHeader  = 64 << 10
	maxStreams = 1000 // at once per connection

	keepaliveTime    = 30 * time.Second
	keepaliveTimeout = 10 * time.Second
	keepaliveLeast   = 10 * time.Second // clients that ping more often are cut off
	connectionIdle   = 15 * time.Minute
	connectionAge    = 30 * time.Minute // so that new replicas get their share
	connectionGrace  = time.Minute
)

// ServerConfig is what a service's gRPC server needs.
type ServerConfig struct {
	Verifier  auth.Verifier
	Directory auth.Directory
	Table     *auth.Table // nil: built from every proto linked into the program
	Log       *slog.Logger
	Transport Transport

	Deadline   time.Duration // longest unary call; 0 = 30 s
	Reflection bool          // development: lists the API to any principal

	// Seen hears of each principal verified, before anything is decided (intake: a person becomes known). It must be quick.
	Seen func(ctx context.Context, p auth.Principal)
	// Denied hears of each call refused by authentication, tenant or role (for the audit of denials). It must be quick.
	Denied func(ctx context.Context, d Denial)
}

// Denial is a call that was refused before its handler.
type Denial struct {
	Caller auth.Caller // zero when nobody was recognised
	Method string
	Reason errorsv1.Reason
}

// NewServer makes a server with the whole chain, health and, if asked for, reflection. Register services on it, then Serve.
// The returned health server starts as serving; set it to not serving when draining.
func NewServer(cfg ServerConfig) (*grpc.Server, *health.Server, error) {
	if cfg.Verifier == nil || cfg.Directory == nil || cfg.Log == nil {
		return nil, nil, errors.New("rpc server needs a verifier, a directory and a log")
	}
	if cfg.Table == nil {
		table, err := auth.BuildTable(nil)
		if err != nil {
			return nil, nil, err
		}
		cfg.Table = table
	}
	if cfg.Deadline <= 0 {
		cfg.Deadline = DefaultDeadline
	}
	creds, err := cfg.Transport.server()
	if err != nil {
		return nil, nil, err
	}
	g := &gate{cfg: cfg}
	srv := grpc.NewServer(
		grpc.Creds(creds),
		grpc.StatsHandler(otelgrpc.NewServerHandler()),
		grpc.ChainUnaryInterceptor(g.unary), grpc.ChainStreamInterceptor(g.stream),
		grpc.UnknownServiceHandler(unknown),
		grpc.MaxRecvMsgSize(MaxMessage), grpc.MaxSendMsgSize(MaxAnswer),
		grpc.MaxHeaderListSize(maxHeader), grpc.MaxConcurrentStreams(maxStreams),
		grpc.KeepaliveParams(keepalive.ServerParameters{
			MaxConnectionIdle: connectionIdle, MaxConnectionAge: connectionAge, MaxConnectionAgeGrace: connectionGrace,
			Time: keepaliveTime, Timeout: keepaliveTimeout,
		}),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: keepaliveLeast, PermitWithoutStream: true}),
	)
	state := health.NewServer()
	healthv1.RegisterHealthServer(srv, state)
	if cfg.Reflection {
		reflection.Register(srv)
	}
	return srv, state, nil
}

// unknown answers methods that no service has; the gate has refused them by then, since the table does not know them either.
func unknown(any, grpc.ServerStream) error {
	return fault.New(errorsv1.Reason_REASON_METHOD_NOT_ALLOWED, "there is no such method")
}
