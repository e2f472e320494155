package rpc_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	reflectionv1 "google.golang.org/grpc/reflection/grpc_reflection_v1"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/emptypb"
	"google.golang.org/protobuf/types/known/structpb"

	errorsv1 "github.com/pratique-io/pratique/gen/pratique/errors/v1"
	"github.com/pratique-io/pratique/internal/auth"
	"github.com/pratique-io/pratique/internal/fault"
	"github.com/pratique-io/pratique/internal/rpc"
	"github.com/pratique-io/pratique/internal/telemetry"
)

// pick finds one unary and one streaming method which any of the six roles may call.
func pick(t *testing.T, streaming bool) protoreflect.MethodDescriptor {
	t.Helper()
	table, err := auth.BuildTable(nil)
	require.NoError(t, err)
	for _, service := range product() {
		for i := range service.Methods().Len() {
			m := service.Methods().Get(i)
			rule, _ := table.Rule(auth.MethodName(m))
			if m.IsStreamingServer() == streaming && !m.IsStreamingClient() && rule.Authenticated {
				return m
			}
		}
	}
	t.Fatalf("no method for this test (streaming: %v)", streaming)
	return nil
}

func TestAnErrorReachesTheClientAsTheFaultItWas(t *testing.T) {
	s := start(t, nil, product()...)
	for _, streaming := range []bool{false, true} {
		s.handle = func(context.Context, string) (proto.Message, error) {
			return nil, fmt.Errorf("wrapped: %w", fault.New(errorsv1.Reason_REASON_EPR_REGISTRATION_REQUIRED, "register first",
				fault.D("attempts", 3), fault.Field("epr_record_id", "is unknown"), fault.RetryAfter(2*time.Second)))
		}
		err := s.call(t, pick(t, streaming), auth.HeaderAuthorization, "Bearer auditor")
		requireReason(t, errorsv1.Reason_REASON_EPR_REGISTRATION_REQUIRED, err)
		f := fault.Of(err)
		require.Equal(t, "register first", f.Message())
		require.Equal(t, 3.0, f.Details()["attempts"])
		require.Equal(t, "is unknown", f.FieldErrors()["epr_record_id"])
		require.Equal(t, 2*time.Second, f.RetryAfter())
		requireCode(t, codes.FailedPrecondition, err)
	}
}

func TestWhatBreaksInsideIsLoggedAndShownAsNothing(t *testing.T) {
	s := start(t, nil, product()...)
	for name, handle := range map[string]func(context.Context, string) (proto.Message, error){
		"untyped": func(context.Context, string) (proto.Message, error) { return nil, errors.New("hunter2") },
		"a panic": func(context.Context, string) (proto.Message, error) { panic("hunter2") },
	} {
		for _, streaming := range []bool{false, true} {
			s.handle = handle
			err := s.call(t, pick(t, streaming), auth.HeaderAuthorization, "Bearer auditor")
			requireReason(t, errorsv1.Reason_REASON_INTERNAL, err, name)
			require.NotContains(t, err.Error(), "hunter2")
			lines := s.logs.calls(t)
			last := lines[len(lines)-1]
			require.Equal(t, "ERROR", last["level"])
			require.Contains(t, last["err"], "hunter2")
			require.Equal(t, "internal", last["code"])
			require.NotEmpty(t, last["request_id"])
		}
	}
}

func TestOneLinePerCallSaysWhoAndWhatButNotTheBody(t *testing.T) {
	s := start(t, nil, product()...)
	method := pick(t, false)
	ctx := metadata.AppendToOutgoingContext(t.Context(), auth.HeaderAuthorization, "Bearer auditor", auth.HeaderRequestID, "my-request-1")
	body, err := structpb.NewStruct(map[string]any{"password": "hunter2"})
	require.NoError(t, err)
	var header metadata.MD
	require.NoError(t, s.conn.Invoke(ctx, auth.MethodName(method), body, &emptypb.Empty{}, grpc.Header(&header)))
	require.Equal(t, []string{"my-request-1"}, header.Get(auth.HeaderRequestID))
	lines := s.logs.calls(t)
	require.Len(t, lines, 1)
	require.Equal(t, "my-request-1", lines[0]["request_id"])
	require.Equal(t, "user:auditor", lines[0]["actor"])
	require.Equal(t, "ok", lines[0]["code"])
	require.Equal(t, auth.MethodName(method), lines[0]["method"])
	require.NotEmpty(t, lines[0]["duration"])
	require.NotContains(t, s.logs.buf.String(), "hunter2")
	require.NotContains(t, s.logs.buf.String(), "Bearer")

	for _, sent := range []string{"", "short", "with space here", `quote"inside`, strings.Repeat("x", 129)} {
		ctx := metadata.AppendToOutgoingContext(t.Context(), auth.HeaderAuthorization, "Bearer auditor", auth.HeaderRequestID, sent)
		require.NoError(t, s.conn.Invoke(ctx, auth.MethodName(method), &emptypb.Empty{}, &emptypb.Empty{}, grpc.Header(&header)))
		id, err := uuid.Parse(header.Get(auth.HeaderRequestID)[0])
		require.NoError(t, err, "%q is replaced", sent)
		require.Equal(t, uuid.Version(7), id.Version())
	}
	err = s.call(t, method)
	requireReason(t, errorsv1.Reason_REASON_UNAUTHORIZED, err)
}

func TestTheHandlerSeesTheCaller(t *testing.T) {
	s := start(t, nil, product()...)
	var got auth.Caller
	var bounded bool
	s.handle = func(ctx context.Context, _ string) (proto.Message, error) {
		got = auth.From(ctx)
		_, bounded = ctx.Deadline()
		return &emptypb.Empty{}, nil
	}
	for _, streaming := range []bool{false, true} {
		require.NoError(t, s.call(t, pick(t, streaming), auth.HeaderAuthorization, "bearer tenant_member"))
		require.Equal(t, "tenant_member", got.Subject)
		require.Equal(t, tenant, got.Tenant)
		require.True(t, got.Has(auth.TenantMember))
		require.True(t, bounded)
	}
	require.Len(t, s.seen, 2)
}

func TestDenialsAreHeardOfWithTheirCaller(t *testing.T) {
	s := start(t, nil, product()...)
	method := pick(t, false)
	require.Error(t, s.call(t, method))
	require.Error(t, s.call(t, method, auth.HeaderAuthorization, "Bearer auditor", auth.HeaderTenant, "NOT A SLUG"))
	require.Error(t, s.call(t, method, auth.HeaderAuthorization, "Bearer auditor", auth.HeaderTenant, ""))
	require.Error(t, s.call(t, method, auth.HeaderAuthorization, "Bearer tenant_admin", auth.HeaderTenant, "beta"))
	require.Len(t, s.denied, 4)
	require.Equal(t, errorsv1.Reason_REASON_UNAUTHORIZED, s.denied[0].Reason)
	require.Equal(t, "anonymous", s.denied[0].Caller.Actor())
	require.Equal(t, errorsv1.Reason_REASON_INVALID_TENANT, s.denied[1].Reason)
	require.Equal(t, "user:auditor", s.denied[1].Caller.Actor())
	require.Equal(t, errorsv1.Reason_REASON_INVALID_TENANT, s.denied[2].Reason)
	require.Equal(t, errorsv1.Reason_REASON_TENANT_CONTEXT_MISMATCH, s.denied[3].Reason)
	s.handle = func(context.Context, string) (proto.Message, error) {
		return nil, fault.New(errorsv1.Reason_REASON_SELF_APPROVAL_FORBIDDEN, "no")
	}
	require.Error(t, s.call(t, method, auth.HeaderAuthorization, "Bearer auditor"))
	require.Len(t, s.denied, 4, "what a handler refuses is its own to record")
}

func TestADisabledTenantsDenialsAreHeardOfWithTheirTenant(t *testing.T) {
	s := start(t, nil, product()...)
	err := s.conn.Invoke(metadata.AppendToOutgoingContext(t.Context(), auth.HeaderAuthorization, "Bearer closed"),
		"/pratique.intake.v1.RequestService/ListImportRequests", &emptypb.Empty{}, &emptypb.Empty{})
	requireReason(t, errorsv1.Reason_REASON_TENANT_DISABLED, err)
	require.Len(t, s.denied, 1)
	require.Equal(t, tenant, s.denied[0].Caller.Tenant, "what is counted per tenant needs one")
	require.Equal(t, "user:closed", s.denied[0].Caller.Actor())
}

func TestAnAnswerMayBeLargerThanAnAsk(t *testing.T) {
	s := start(t, nil, product()...)
	s.handle = func(context.Context, string) (proto.Message, error) {
		return structpb.NewStruct(map[string]any{"x": strings.Repeat("x", 2*rpc.MaxMessage)})
	}
	ctx := metadata.AppendToOutgoingContext(t.Context(), auth.HeaderAuthorization, "Bearer auditor")
	require.NoError(t, s.conn.Invoke(ctx, auth.MethodName(pick(t, false)), &emptypb.Empty{}, &structpb.Struct{}))
}

func TestACallIsBounded(t *testing.T) {
	s := start(t, func(c *rpc.ServerConfig) { c.Deadline = 20 * time.Millisecond }, product()...)
	s.handle = func(ctx context.Context, _ string) (proto.Message, error) {
		<-ctx.Done()
		return nil, fmt.Errorf("query: %w", ctx.Err())
	}
	requireReason(t, errorsv1.Reason_REASON_DEADLINE_EXCEEDED, s.call(t, pick(t, false), auth.HeaderAuthorization, "Bearer auditor"))
}

func TestAStreamEndsWithItsToken(t *testing.T) {
	s := start(t, nil, product()...)
	s.handle = func(ctx context.Context, _ string) (proto.Message, error) {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	err := s.call(t, pick(t, true), auth.HeaderAuthorization, "Bearer short")
	requireReason(t, errorsv1.Reason_REASON_UNAUTHORIZED, err)
}

func TestAMessageOverTheLimitIsPayloadTooLarge(t *testing.T) {
	s := start(t, nil, product()...)
	large, err := structpb.NewStruct(map[string]any{"x": strings.Repeat("x", rpc.MaxMessage)})
	require.NoError(t, err)
	ctx := metadata.AppendToOutgoingContext(t.Context(), auth.HeaderAuthorization, "Bearer auditor")
	requireReason(t, errorsv1.Reason_REASON_PAYLOAD_TOO_LARGE, s.conn.Invoke(ctx, auth.MethodName(pick(t, false)), large, &emptypb.Empty{}))
}

func TestUnknownMethodsAreRefusedLikeAllOthers(t *testing.T) {
	s := start(t, nil)
	err := s.conn.Invoke(t.Context(), "/pratique.intake.v9.Nope/Get", &emptypb.Empty{}, &emptypb.Empty{})
	requireReason(t, errorsv1.Reason_REASON_UNAUTHORIZED, err)
	ctx := metadata.AppendToOutgoingContext(t.Context(), auth.HeaderAuthorization, "Bearer system_admin")
	err = s.conn.Invoke(ctx, "/pratique.intake.v9.Nope/Get", &emptypb.Empty{}, &emptypb.Empty{})
	requireReason(t, errorsv1.Reason_REASON_PERMISSION_DENIED, err)
}

func TestHealthIsOpenAndReflectionIsNot(t *testing.T) {
	s := start(t, nil)
	answer, err := healthv1.NewHealthClient(s.conn).Check(t.Context(), &healthv1.HealthCheckRequest{})
	require.NoError(t, err)
	require.Equal(t, healthv1.HealthCheckResponse_SERVING, answer.GetStatus())

	reflect := func(s *setup, ctx context.Context) error {
		stream, err := reflectionv1.NewServerReflectionClient(s.conn).ServerReflectionInfo(ctx)
		if err != nil {
			return err
		}
		_ = stream.Send(&reflectionv1.ServerReflectionRequest{MessageRequest: &reflectionv1.ServerReflectionRequest_ListServices{}})
		_, err = stream.Recv()
		return err
	}
	admin := metadata.AppendToOutgoingContext(t.Context(), auth.HeaderAuthorization, "Bearer system_admin")
	requireReason(t, errorsv1.Reason_REASON_PERMISSION_DENIED, reflect(s, admin), "off by default")
	dev := start(t, func(c *rpc.ServerConfig) { c.Reflection = true })
	requireReason(t, errorsv1.Reason_REASON_UNAUTHORIZED, reflect(dev, t.Context()))
	require.NoError(t, reflect(dev, admin))
}

func TestAServerNeedsItsParts(t *testing.T) {
	_, _, err := rpc.NewServer(rpc.ServerConfig{})
	require.Error(t, err)
	log, err := telemetry.NewLog(&logs{}, "info")
	require.NoError(t, err)
	_, _, err = rpc.NewServer(rpc.ServerConfig{Verifier: tokens{}, Directory: roles{}, Log: log})
	require.ErrorContains(t, err, "transport", "plaintext must be asked for")
}

func TestAClientWhoseServerIsGoneLearnsThatADependencyIs(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	addr := listener.Addr().String()
	require.NoError(t, listener.Close())
	conn := dial(t, addr, rpc.ClientConfig{Transport: rpc.Transport{Plaintext: true}})
	err = conn.Invoke(t.Context(), "/pratique.x.v1.S/M", &emptypb.Empty{}, &emptypb.Empty{})
	requireReason(t, errorsv1.Reason_REASON_DEPENDENCY_UNAVAILABLE, err)
}
