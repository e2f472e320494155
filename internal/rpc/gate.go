package rpc

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime/debug"
	"strings"
	"time"

	"github.com/google/uuid"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"

	errorsv1 "github.com/pratique-io/pratique/gen/pratique/errors/v1"
	"github.com/pratique-io/pratique/internal/auth"
	"github.com/pratique-io/pratique/internal/fault"
	"github.com/pratique-io/pratique/internal/telemetry"
)

const (
	healthPrefix     = "/grpc.health.v1.Health/"
	reflectionPrefix = "/grpc.reflection."
)

// gate is the chain in front of every handler.
type gate struct{ cfg ServerConfig }

func (g *gate) unary(ctx context.Context, req any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (resp any, err error) {
	ctx = named(ctx)
	started, caller := time.Now(), new(auth.Caller)
	defer func() { err = g.leave(ctx, info.FullMethod, started, *caller, err) }()
	defer recovered(&err)
	ctx, cancel := context.WithTimeout(ctx, g.cfg.Deadline)
	defer cancel()
	ctx, err = g.enter(ctx, info.FullMethod, caller)
	if err != nil {
		return nil, err
	}
	return handler(ctx, req)
}

func (g *gate) stream(srv any, ss grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) (err error) {
	ctx := named(ss.Context())
	started, caller := time.Now(), new(auth.Caller)
	defer func() { err = g.leave(ctx, info.FullMethod, started, *caller, err) }()
	defer recovered(&err)
	inner, err := g.enter(ctx, info.FullMethod, caller)
	if err != nil {
		return err
	}
	// A stream lives as long as the token that opened it.
	if p, ok := auth.PrincipalFrom(inner); ok && !p.Expires.IsZero() {
		var cancel context.CancelFunc
		inner, cancel = context.WithDeadlineCause(inner, p.Expires, errTokenEnded)
		defer cancel()
	}
	if err = handler(srv, &stream{ServerStream: ss, ctx: inner}); context.Cause(inner) == errTokenEnded {
		err = errTokenEnded
	}
	return err
}

var errTokenEnded = fault.New(errorsv1.Reason_REASON_UNAUTHORIZED, "the token of this stream has ended")

type stream struct {
	grpc.ServerStream
	ctx context.Context
}

func (s *stream) Context() context.Context { return s.ctx }

// named gives the call its id, the caller's own if it is sane, and returns it as a header.
func named(ctx context.Context) context.Context {
	id := telemetry.SaneRequestID(one(ctx, auth.HeaderRequestID))
	// Fails only outside a gRPC call or after the header is sent: neither is possible here, and neither would matter.
	_ = grpc.SetHeader(ctx, metadata.Pairs(auth.HeaderRequestID, id))
	return telemetry.WithRequestID(ctx, id)
}

// one is the value of a metadata key that must not be repeated; a repeated one reads as empty.
func one(ctx context.Context, key string) string {
	if values := metadata.ValueFromIncomingContext(ctx, key); len(values) == 1 {
		return values[0]
	}
	return ""
}

// enter decides whether the call reaches its handler, and with which caller. It fills caller as soon as it is known.
func (g *gate) enter(ctx context.Context, method string, caller *auth.Caller) (context.Context, error) {
	if strings.HasPrefix(method, healthPrefix) {
		return ctx, nil
	}
	ctx, err := g.admit(ctx, method, caller)
	if err == nil {
		return ctx, nil
	}
	if reason, ok := fault.ReasonOf(err); ok && g.cfg.Denied != nil && refusal(reason) {
		g.cfg.Denied(ctx, Denial{Caller: *caller, Method: method, Reason: reason})
	}
	return ctx, err
}

// refusal says whether a reason is a decision about the caller, as opposed to not having been able to decide.
func refusal(r errorsv1.Reason) bool {
	code := fault.GRPCOf(r)
	return code == codes.Unauthenticated || code == codes.PermissionDenied || code == codes.InvalidArgument
}

func (g *gate) admit(ctx context.Context, method string, caller *auth.Caller) (context.Context, error) {
	token, ok := auth.BearerOf(one(ctx, auth.HeaderAuthorization))
	if !ok {
		return ctx, auth.Unauthorized()
	}
	principal, err := g.cfg.Verifier.Verify(ctx, token)
	if err != nil {
		return ctx, err
	}
	*caller = auth.Caller{Subject: principal.Subject, Service: principal.Service}
	if g.cfg.Seen != nil && principal.Service == "" {
		g.cfg.Seen(ctx, principal)
	}
	ctx = auth.WithPrincipal(ctx, principal)
	if strings.HasPrefix(method, reflectionPrefix) && g.cfg.Reflection {
		return ctx, nil
	}
	header := one(ctx, auth.HeaderTenant)
	if header == "" && len(metadata.ValueFromIncomingContext(ctx, auth.HeaderTenant)) > 0 {
		return ctx, fault.New(errorsv1.Reason_REASON_INVALID_TENANT, "X-Tenant-ID is empty or was sent more than once")
	}
	known, err := g.cfg.Table.Identify(ctx, g.cfg.Directory, principal, header, method)
	if known.Tenant != uuid.Nil || err == nil {
		*caller = known // also of a disabled tenant's denial, which is counted there
	}
	if err != nil {
		return ctx, err
	}
	admitted, err := g.cfg.Table.Admit(known, method)
	if err != nil {
		return ctx, err
	}
	return auth.WithBearer(auth.With(ctx, admitted), token, header), nil
}

// recovered turns a panic into an error that carries the stack to the log.
func recovered(err *error) {
	if p := recover(); p != nil {
		*err = fmt.Errorf("panic: %v\n%s", p, debug.Stack())
	}
}

// leave writes the one line per call and renders the error: the only place that does either.
func (g *gate) leave(ctx context.Context, method string, started time.Time, caller auth.Caller, err error) error {
	code, level := "ok", slog.LevelInfo
	attrs := []slog.Attr{
		slog.String("method", method), slog.Duration("duration", time.Since(started)), slog.String("actor", caller.Actor()),
	}
	if err != nil {
		f := fault.Of(err)
		code = fault.CodeOf(f.Reason())
		attrs = append(attrs, slog.String("err", err.Error()))
		switch grpcCode := fault.GRPCOf(f.Reason()); {
		case ctx.Err() != nil && errors.Is(err, context.Canceled):
			code = "cancelled" // the caller is gone; nobody reads the answer
		case grpcCode == codes.Internal:
			level = slog.LevelError
		case grpcCode == codes.Unavailable || grpcCode == codes.DeadlineExceeded:
			level = slog.LevelWarn
		}
	} else if strings.HasPrefix(method, healthPrefix) {
		level = slog.LevelDebug
	}
	g.cfg.Log.LogAttrs(ctx, level, "call", append(attrs, slog.String("code", code))...)
	if err == nil {
		return nil
	}
	return fault.Status(err).Err()
}
