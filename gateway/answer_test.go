package gateway

import (
	"encoding/json"
	"errors"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	errorsv1 "github.com/pratique-io/pratique/gen/pratique/errors/v1"
	intakev1 "github.com/pratique-io/pratique/gen/pratique/intake/v1"
	"github.com/pratique-io/pratique/internal/fault"
)

func TestEveryReasonIsRenderedByItsRule(t *testing.T) {
	t.Parallel()
	s := start(t)
	values := errorsv1.Reason_REASON_UNSPECIFIED.Descriptor().Values()
	for i := range values.Len() {
		reason := errorsv1.Reason(values.Get(i).Number())
		if reason == errorsv1.Reason_REASON_UNSPECIFIED {
			continue
		}
		s.play(refuse(fault.New(reason, "why not", fault.D("number", 7))))
		got := s.send("GET", "/api/v1/me", "")
		rule := fault.RuleOf(reason)
		require.Equal(t, int(rule.GetHttp()), got.status, reason.String())
		require.Equal(t, fault.CodeOf(reason), got.at("error", "code"))
		if reason != errorsv1.Reason_REASON_INTERNAL {
			require.Equal(t, "why not", got.at("error", "message"))
			require.EqualValues(t, 7, got.at("error", "details", "number"), "details keep their types")
		}
		if rule.GetNextAction() != "" {
			require.Equal(t, rule.GetNextAction(), got.at("error", "details", "next_action"))
		}
		require.Equal(t, "application/json", got.header.Get("Content-Type"))
	}
}

func TestAPreconditionIsNotABadRequest(t *testing.T) {
	t.Parallel()
	s := start(t)
	s.play(refuse(fault.New(errorsv1.Reason_REASON_EPR_REGISTRATION_REQUIRED, "register first")))
	require.Equal(t, http.StatusPreconditionFailed, s.send("POST", createPath, "{}").status)
	s.play(refuse(fault.New(errorsv1.Reason_REASON_STATE_CONFLICT, "changed")))
	require.Equal(t, http.StatusConflict, s.send("POST", createPath, "{}").status)
}

func TestFieldErrorsStandBesideTheError(t *testing.T) {
	t.Parallel()
	s := start(t)
	fields := fault.Fields()
	fields.Add("source_image_ref", "is required")
	fields.Add("epr_record_id", "is required")
	s.play(refuse(fields.Err()))
	got := s.send("POST", createPath, "{}")
	require.Equal(t, http.StatusBadRequest, got.status)
	require.Equal(t, "validation_failed", got.at("error", "code"))
	require.Equal(t, map[string]any{"source_image_ref": "is required", "epr_record_id": "is required"}, got.at("field_errors"))
}

func TestAWaitIsSaidInTheHeader(t *testing.T) {
	t.Parallel()
	s := start(t)
	s.play(refuse(fault.New(errorsv1.Reason_REASON_RATE_LIMITED, "slow down", fault.RetryAfter(1500*time.Millisecond))))
	got := s.send("GET", "/api/v1/me", "")
	require.Equal(t, http.StatusTooManyRequests, got.status)
	require.Equal(t, "2", got.header.Get("Retry-After"))
	require.EqualValues(t, 2, got.at("error", "details", "retry_after_seconds"))
}

func TestWhatIsNoFaultShowsNothing(t *testing.T) {
	t.Parallel()
	s := start(t)
	for want, err := range map[int]error{
		500: errors.New("pq: password authentication failed for user secret"),
		503: status.Error(codes.Unavailable, "dial tcp 10.0.0.1:5432 secret"),
		504: status.Error(codes.DeadlineExceeded, "secret"),
		403: status.Error(codes.PermissionDenied, "secret"),
	} {
		s.play(refuse(err))
		got := s.send("GET", "/api/v1/me", "", "X-Request-ID", "find-me-in-the-log")
		require.Equal(t, want, got.status)
		require.NotContains(t, string(got.raw), "secret")
		require.Equal(t, "find-me-in-the-log", got.at("error", "request_id"))
	}
	require.Contains(t, s.logged(), "find-me-in-the-log")
	s.play(refuse(status.Error(codes.InvalidArgument, "a service that is wrong about us: secret")))
	got := s.send("GET", "/api/v1/me", "")
	require.Equal(t, http.StatusInternalServerError, got.status, "a bare status of a service is not the caller's mistake")
	require.NotContains(t, string(got.raw), "secret")
}

func TestAServiceThatIsDownIs503(t *testing.T) {
	t.Parallel()
	s := start(t)
	s.play(nil)
	conn, err := grpc.NewClient("127.0.0.1:1", append(ClientOptions(), grpc.WithTransportCredentials(insecure.NewCredentials()))...)
	require.NoError(t, err)
	t.Cleanup(func() { _ = conn.Close() })
	s.gateway.cfg.Peer = func(string) grpc.ClientConnInterface { return conn }
	for _, path := range []string{"/explain", "/evidence/sbom", "/logs/stream"} { // these ask for the peer at each call
		got := s.send("GET", createPath+"/"+someID+path, "")
		require.Equal(t, http.StatusServiceUnavailable, got.status, path)
		require.Equal(t, "dependency_unavailable", got.at("error", "code"))
	}
}

func TestRequestIDsAreKeptWhenSane(t *testing.T) {
	t.Parallel()
	s := start(t)
	s.play(refuse(fault.New(errorsv1.Reason_REASON_NOT_FOUND, "no")))
	for _, sane := range []string{"0195d2f0-0000-7000-8000-00000000000a", "ci:build_12.3-4", strings.Repeat("a", 128)} {
		got := s.send("GET", "/api/v1/me", "", "X-Request-ID", sane)
		require.Equal(t, sane, got.header.Get("X-Request-ID"))
		require.Equal(t, sane, got.at("error", "request_id"))
		require.Equal(t, []string{sane}, s.took()[0].metadata.Get("x-request-id"))
	}
	seen := map[string]bool{}
	for _, insane := range []string{"", "short", strings.Repeat("a", 129), "with space!", "<script>", "line-break-é", `"quoted-id"`} {
		got := s.send("GET", "/api/v1/me", "", "X-Request-ID", insane)
		id := got.header.Get("X-Request-ID")
		parsed, err := uuid.Parse(id)
		require.NoError(t, err, insane)
		require.EqualValues(t, 7, parsed.Version())
		require.Equal(t, id, got.at("error", "request_id"))
		require.Equal(t, []string{id}, s.took()[0].metadata.Get("x-request-id"))
		require.False(t, seen[id])
		seen[id] = true
	}
	got := s.send("GET", "/api/v1/me", "", "X-Request-ID", "the-first-of-two", "X-Request-ID", "the-second-of-two")
	require.Equal(t, []string{"the-first-of-two"}, s.took()[0].metadata.Get("x-request-id"))
	require.Equal(t, []string{"the-first-of-two"}, got.header.Values("X-Request-ID"))
	got = s.send("GET", "/api/v1/nothing", "")
	require.NotEmpty(t, got.header.Get("X-Request-ID"), "unknown paths have one, too")
}

func TestServicesCannotSetHeaders(t *testing.T) {
	t.Parallel()
	s := start(t)
	s.play(func(_ call, stream grpc.ServerStream) error {
		md := metadata.Pairs("set-cookie", "a=b", "location", "https://evil.example", "retry-after", "3", "x-request-id", "another", "grpc-metadata-x", "1")
		stream.SetTrailer(md)
		if err := stream.SetHeader(md); err != nil {
			return err
		}
		return stream.SendMsg(&intakev1.Me{})
	})
	got := s.send("GET", "/api/v1/me", "", "Te", "trailers", "X-Request-ID", "ours-not-theirs")
	require.Equal(t, http.StatusOK, got.status)
	require.Equal(t, "3", got.header.Get("Retry-After"))
	require.Equal(t, []string{"ours-not-theirs"}, got.header.Values("X-Request-ID"))
	raw, err := json.Marshal(got.header)
	require.NoError(t, err)
	for _, name := range []string{"Set-Cookie", "Location", "Grpc-"} {
		require.NotContains(t, string(raw), name)
	}
}
