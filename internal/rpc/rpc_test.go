package rpc_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/known/emptypb"

	errorsv1 "github.com/pratique-io/pratique/gen/pratique/errors/v1"
	"github.com/pratique-io/pratique/internal/auth"
	"github.com/pratique-io/pratique/internal/fault"
	"github.com/pratique-io/pratique/internal/rpc"
	"github.com/pratique-io/pratique/internal/telemetry"
)

// tokens verifies by a table: "member" is a principal of that subject, "service:dispatch" a service, "bad" nobody.
type tokens struct{}

func (tokens) Verify(_ context.Context, token string) (auth.Principal, error) {
	if token == "bad" {
		return auth.Principal{}, auth.Unauthorized()
	}
	expires := time.Now().Add(time.Hour)
	if token == "short" {
		expires = time.Now().Add(50 * time.Millisecond)
	}
	if name, ok := strings.CutPrefix(token, "service:"); ok {
		return auth.Principal{Service: name, Expires: expires}, nil
	}
	return auth.Principal{Subject: token, Expires: expires}, nil
}

var tenant = uuid.MustParse("0195d2f0-0000-7000-8000-00000000000a")

// roles is a directory in which every role name is a principal who holds that role; "closed" administers a disabled tenant.
type roles struct{}

func (roles) Resolve(_ context.Context, p auth.Principal) (auth.Roleset, error) {
	var out auth.Roleset
	role := auth.Role(p.Subject)
	out.AddSystem(role)
	out.AddTenant(tenant, role, "alpha", false)
	if p.Subject == "closed" {
		out.AddTenant(tenant, auth.TenantAdmin, "alpha", true)
	}
	return out, nil
}

func (roles) Tenant(context.Context, auth.TenantRef) (uuid.UUID, bool, error) {
	return tenant, true, nil
}

// logs collects log lines.
type logs struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *logs) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}

func (l *logs) calls(t *testing.T) []map[string]any {
	t.Helper()
	l.mu.Lock()
	defer l.mu.Unlock()
	var out []map[string]any
	for line := range strings.Lines(l.buf.String()) {
		entry := map[string]any{}
		require.NoError(t, json.Unmarshal([]byte(line), &entry))
		if entry["msg"] == "call" {
			out = append(out, entry)
		}
	}
	return out
}

// setup is a running server on loopback with generic handlers, and a client of it.
type setup struct {
	conn   *grpc.ClientConn
	addr   string
	logs   *logs
	handle func(ctx context.Context, method string) (proto.Message, error) // set before the first call
	mu     sync.Mutex
	denied []rpc.Denial
	seen   []auth.Principal
}

func start(t *testing.T, change func(*rpc.ServerConfig), services ...protoreflect.ServiceDescriptor) *setup {
	t.Helper()
	s := &setup{logs: &logs{}, handle: func(context.Context, string) (proto.Message, error) { return &emptypb.Empty{}, nil }}
	log, err := telemetry.NewLog(s.logs, "debug")
	require.NoError(t, err)
	cfg := rpc.ServerConfig{
		Verifier: tokens{}, Directory: roles{}, Log: log, Transport: rpc.Transport{Plaintext: true},
		Denied: func(_ context.Context, d rpc.Denial) {
			s.mu.Lock()
			defer s.mu.Unlock()
			s.denied = append(s.denied, d)
		},
		Seen: func(_ context.Context, p auth.Principal) {
			s.mu.Lock()
			defer s.mu.Unlock()
			s.seen = append(s.seen, p)
		},
	}
	if change != nil {
		change(&cfg)
	}
	srv, _, err := rpc.NewServer(cfg)
	require.NoError(t, err)
	for _, service := range services {
		s.register(srv, service)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	go srv.Serve(listener) //nolint:errcheck // ends with Stop
	t.Cleanup(srv.Stop)
	s.addr = listener.Addr().String()
	s.conn = dial(t, s.addr, rpc.ClientConfig{Transport: rpc.Transport{Plaintext: true}})
	return s
}

func dial(t *testing.T, addr string, cfg rpc.ClientConfig) *grpc.ClientConn {
	t.Helper()
	conn, err := rpc.Dial(addr, cfg)
	require.NoError(t, err)
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

// register serves every method of a descriptor with s.handle, through the interceptors as generated code does.
func (s *setup) register(srv *grpc.Server, service protoreflect.ServiceDescriptor) {
	desc := &grpc.ServiceDesc{ServiceName: string(service.FullName())}
	for i := range service.Methods().Len() {
		method := service.Methods().Get(i)
		full := auth.MethodName(method)
		if method.IsStreamingServer() || method.IsStreamingClient() {
			desc.Streams = append(desc.Streams, grpc.StreamDesc{
				StreamName: string(method.Name()), ServerStreams: true, ClientStreams: true,
				Handler: func(_ any, ss grpc.ServerStream) error {
					m, err := s.handle(ss.Context(), full)
					if err != nil {
						return err
					}
					return ss.SendMsg(m)
				},
			})
			continue
		}
		desc.Methods = append(desc.Methods, grpc.MethodDesc{
			MethodName: string(method.Name()),
			Handler: func(_ any, ctx context.Context, dec func(any) error, chain grpc.UnaryServerInterceptor) (any, error) {
				in := &emptypb.Empty{}
				if err := dec(in); err != nil {
					return nil, err
				}
				return chain(ctx, in, &grpc.UnaryServerInfo{FullMethod: full}, func(ctx context.Context, _ any) (any, error) {
					return s.handle(ctx, full)
				})
			},
		})
	}
	srv.RegisterService(desc, nil)
}

// call makes one call of any kind with these metadata and returns the fault, nil on success.
func (s *setup) call(t *testing.T, method protoreflect.MethodDescriptor, kv ...string) error {
	t.Helper()
	ctx := metadata.AppendToOutgoingContext(t.Context(), kv...)
	if !method.IsStreamingServer() && !method.IsStreamingClient() {
		return s.conn.Invoke(ctx, auth.MethodName(method), &emptypb.Empty{}, &emptypb.Empty{})
	}
	stream, err := s.conn.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true, ClientStreams: true}, auth.MethodName(method))
	if err != nil {
		return err
	}
	// A stream refused early answers io.EOF here; the reason comes with RecvMsg.
	if err := stream.SendMsg(&emptypb.Empty{}); err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	return stream.RecvMsg(&emptypb.Empty{})
}

// product lists the services of all pratique packages linked into this test (see every_test.go).
func product() []protoreflect.ServiceDescriptor {
	var out []protoreflect.ServiceDescriptor
	protoregistry.GlobalFiles.RangeFiles(func(f protoreflect.FileDescriptor) bool {
		if strings.HasPrefix(string(f.Package()), "pratique.") {
			for i := range f.Services().Len() {
				out = append(out, f.Services().Get(i))
			}
		}
		return true
	})
	return out
}

func requireReason(t *testing.T, want errorsv1.Reason, err error, msg ...any) {
	t.Helper()
	got, _ := fault.ReasonOf(err)
	require.Equal(t, want, got, "%v: %v", msg, err)
}

func requireCode(t *testing.T, want codes.Code, err error) {
	t.Helper()
	require.Equal(t, want, fault.Status(err).Code())
}
