package rpc

import (
	"context"
	"errors"
	"fmt"
	"io"

	"go.opentelemetry.io/contrib/instrumentation/google.golang.org/grpc/otelgrpc"
	"google.golang.org/grpc"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/metadata"

	errorsv1 "github.com/pratique-io/pratique/gen/pratique/errors/v1"
	"github.com/pratique-io/pratique/internal/auth"
	"github.com/pratique-io/pratique/internal/fault"
	"github.com/pratique-io/pratique/internal/telemetry"
)

// roundRobin spreads calls over replicas that one name resolves to.
const roundRobin = `{"loadBalancingConfig":[{"round_robin":{}}]}`

// ClientConfig is what a connection to a service needs.
type ClientConfig struct {
	Transport Transport
	Signer    *auth.ServiceSigner // for auth.AsService; nil when this program only forwards callers
}

// Dial makes a lazy connection to a service (host:port). Calls carry the request id and, by auth.ForwardCaller or
// auth.AsService, a credential; they are never retried; errors are *fault.Fault with the reason the service gave.
func Dial(address string, cfg ClientConfig, more ...grpc.DialOption) (*grpc.ClientConn, error) {
	creds, err := cfg.Transport.client(address)
	if err != nil {
		return nil, err
	}
	c := &caller{signer: cfg.Signer}
	conn, err := grpc.NewClient(address, append([]grpc.DialOption{
		grpc.WithTransportCredentials(creds),
		grpc.WithStatsHandler(otelgrpc.NewClientHandler()),
		grpc.WithDisableRetry(), grpc.WithDisableServiceConfig(), grpc.WithDefaultServiceConfig(roundRobin),
		grpc.WithNoProxy(),
		grpc.WithChainUnaryInterceptor(c.unary), grpc.WithChainStreamInterceptor(c.stream),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(MaxAnswer), grpc.MaxCallSendMsgSize(MaxMessage)),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: keepaliveTime, Timeout: keepaliveTimeout}),
	}, more...)...)
	if err != nil {
		return nil, fmt.Errorf("connect to %s: %w", address, err)
	}
	return conn, nil
}

type caller struct{ signer *auth.ServiceSigner }

func (c *caller) unary(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
	if _, bounded := ctx.Deadline(); !bounded {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, DefaultDeadline)
		defer cancel()
	}
	out, err := c.outgoing(ctx)
	if err != nil {
		return err
	}
	return answered(ctx, invoke(out, method, req, reply, cc, opts...))
}

func (c *caller) stream(ctx context.Context, desc *grpc.StreamDesc, cc *grpc.ClientConn, method string, open grpc.Streamer, opts ...grpc.CallOption) (grpc.ClientStream, error) {
	out, err := c.outgoing(ctx)
	if err != nil {
		return nil, err
	}
	s, err := open(out, desc, cc, method, opts...)
	if err != nil {
		return nil, answered(ctx, err)
	}
	return &clientStream{ClientStream: s, ctx: ctx}, nil
}

// outgoing writes the credential, tenant and request id of the context into the metadata, over whatever stood there.
func (c *caller) outgoing(ctx context.Context) (context.Context, error) {
	md, _ := metadata.FromOutgoingContext(ctx)
	md = md.Copy()
	if id := telemetry.RequestID(ctx); id != "" {
		md.Set(auth.HeaderRequestID, id)
	}
	out := auth.OutgoingFrom(ctx)
	token := out.Bearer
	if out.Service {
		if c.signer == nil {
			return nil, errors.New("call as a service without a signer")
		}
		var err error
		if token, err = c.signer.Token(); err != nil {
			return nil, err
		}
	}
	if token != "" {
		md.Set(auth.HeaderAuthorization, "Bearer "+token)
	}
	if out.Tenant != "" {
		md.Set(auth.HeaderTenant, out.Tenant)
	}
	return metadata.NewOutgoingContext(ctx, md), nil
}

// answered turns a status into the fault it carries. Our own identity being refused is our fault, not the caller's.
func answered(ctx context.Context, err error) error {
	if err == nil || errors.Is(err, io.EOF) {
		return err
	}
	f := fault.FromStatus(err)
	if auth.OutgoingFrom(ctx).Service && f.Reason() == errorsv1.Reason_REASON_UNAUTHORIZED {
		return fmt.Errorf("our service identity was refused: %s", f.Message())
	}
	return f
}

type clientStream struct {
	grpc.ClientStream
	ctx context.Context
}

func (s *clientStream) SendMsg(m any) error { return answered(s.ctx, s.ClientStream.SendMsg(m)) }
func (s *clientStream) RecvMsg(m any) error { return answered(s.ctx, s.ClientStream.RecvMsg(m)) }
func (s *clientStream) CloseSend() error    { return answered(s.ctx, s.ClientStream.CloseSend()) }
func (s *clientStream) Header() (metadata.MD, error) {
	md, err := s.ClientStream.Header()
	return md, answered(s.ctx, err)
}
