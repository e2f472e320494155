package fault_test

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
	"google.golang.org/genproto/googleapis/rpc/code"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	errorsv1 "github.com/pratique-io/pratique/gen/pratique/errors/v1"
	"github.com/pratique-io/pratique/internal/fault"
)

var update = flag.Bool("update", false, "write golden files and docs/errors.md")

func golden(t *testing.T, path string, got []byte) {
	t.Helper()
	if *update {
		require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o755))
		require.NoError(t, os.WriteFile(path, got, 0o644))
	}
	want, err := os.ReadFile(path)
	require.NoError(t, err, "run: go test ./internal/fault -update")
	require.Equal(t, string(want), string(got), "%s differs; if that is meant: go test ./internal/fault -update", path)
}

func TestEveryReasonHasARuleAndAGoldenAnswer(t *testing.T) {
	reasons := fault.Reasons()
	require.NotEmpty(t, reasons)
	seen := map[string]bool{}
	for _, reason := range reasons {
		t.Run(fault.CodeOf(reason), func(t *testing.T) {
			rule := fault.RuleOf(reason)
			require.False(t, reason != errorsv1.Reason_REASON_INTERNAL && rule == fault.RuleOf(errorsv1.Reason_REASON_INTERNAL), "no rule")
			require.GreaterOrEqual(t, rule.GetHttp(), int32(400))
			require.NotEmpty(t, http.StatusText(int(rule.GetHttp())))
			_, known := code.Code_value[rule.GetGrpc()]
			require.True(t, known, "%q is no gRPC code", rule.GetGrpc())
			require.NotEqual(t, codes.OK, fault.GRPCOf(reason))

			httpStatus, body, header := fault.REST(fault.New(reason, "a text for people"), "req-1")
			require.Equal(t, int(rule.GetHttp()), httpStatus)
			require.Equal(t, "application/json", header.Get("Content-Type"))
			golden(t, filepath.Join("testdata", "rest", fault.CodeOf(reason)+".json"), body)

			back := fault.FromStatus(fault.Status(fault.New(reason, "a text for people")).Err())
			require.Equal(t, reason, back.Reason(), "the reason survives the wire")
		})
		seen[fault.CodeOf(reason)+".json"] = true
	}
	files, err := os.ReadDir(filepath.Join("testdata", "rest"))
	require.NoError(t, err)
	for _, f := range files {
		require.True(t, seen[f.Name()], "%s belongs to no reason", f.Name())
	}
}

func TestTheErrorsPageIsCurrent(t *testing.T) {
	source, err := os.ReadFile("../../proto/pratique/errors/v1/reasons.proto")
	require.NoError(t, err)
	page, err := fault.Markdown(source)
	require.NoError(t, err)
	golden(t, "../../docs/errors.md", page)
	_, err = fault.Markdown([]byte("enum Reason { REASON_NOT_FOUND = 13; }"))
	require.ErrorContains(t, err, "no comment")
}

func TestDetailsKeepTheirTypesOverTheWire(t *testing.T) {
	id := uuid.MustParse("0195d2f0-0000-7000-8000-000000000001")
	at := time.Date(2026, 3, 1, 13, 0, 0, 0, time.FixedZone("CET", 3600))
	f := fault.New(errorsv1.Reason_REASON_RATE_LIMITED, "slow down",
		fault.D("tenant_id", id), fault.D("max_attempts", int32(3)), fault.D("size", int64(1)<<60), fault.D("fatal", true),
		fault.D("at", at), fault.D("wait", 90*time.Second), fault.D("names", []string{"a", "b"}), fault.D("none", nil),
		fault.D("kind", errorsv1.Reason(1)), fault.D("shape", struct {
			A int `json:"a"`
		}{7}),
		fault.RetryAfter(1500*time.Millisecond))
	want := map[string]any{
		"tenant_id": id.String(), "max_attempts": 3.0, "size": "1152921504606846976", "fatal": true, "at": "2026-03-01T12:00:00Z",
		"wait": 90.0, "names": []any{"a", "b"}, "none": nil, "kind": 1.0, "shape": map[string]any{"a": 7.0},
		"retry_after_seconds": 2.0, "next_action": "retry_later",
	}
	require.Equal(t, want, f.Details())
	back := fault.FromStatus(fault.Status(fmt.Errorf("outer: %w", f)).Err())
	require.Equal(t, want, back.Details())
	require.Equal(t, "slow down", back.Message())
	require.Equal(t, 1500*time.Millisecond, back.RetryAfter())

	_, _, header := fault.REST(back, "r")
	require.Equal(t, "2", header.Get("Retry-After"), "rounded up")

	var info *errdetails.ErrorInfo
	for _, d := range fault.Status(f).Details() {
		if i, ok := d.(*errdetails.ErrorInfo); ok {
			info = i
		}
	}
	require.Equal(t, "RATE_LIMITED", info.GetReason())
	require.Equal(t, "pratique.io", info.GetDomain())
	require.Equal(t, "3", info.GetMetadata()["max_attempts"])
	require.Equal(t, `["a","b"]`, info.GetMetadata()["names"])
	require.Equal(t, "true", info.GetMetadata()["fatal"])
}

func TestFieldErrorsTellAllProblemsAtOnce(t *testing.T) {
	require.NoError(t, fault.Fields().Err())
	e := fault.Fields()
	e.Add("name", "is empty").Add("name", "is taken").Addf("limit", "is above %d", 200)
	require.Equal(t, 2, e.Len())
	err := e.Err()
	require.True(t, fault.Is(err, errorsv1.Reason_REASON_VALIDATION_FAILED))
	want := map[string]string{"name": "is empty; is taken", "limit": "is above 200"}
	require.Equal(t, want, fault.FromStatus(fault.Status(err).Err()).FieldErrors())

	_, body, _ := fault.REST(err, "r")
	var got struct {
		FieldErrors map[string]string `json:"field_errors"`
	}
	require.NoError(t, json.Unmarshal(body, &got))
	require.Equal(t, want, got.FieldErrors)
}

func TestWhatIsNotAFaultIsShownAsNothing(t *testing.T) {
	const secret = "password=hunter2"
	for name, err := range map[string]error{
		"untyped":          errors.New(secret),
		"wrapped":          fmt.Errorf("query: %w", errors.New(secret)),
		"plain status":     status.Error(codes.Internal, secret),
		"unknown status":   status.Error(codes.Unknown, secret),
		"internal fault":   fault.New(errorsv1.Reason_REASON_INTERNAL, secret, fault.D("sql", secret), fault.Field("f", secret)),
		"cause of a fault": fault.New(errorsv1.Reason_REASON_INTERNAL, "x", fault.Cause(errors.New(secret))),
		"unruled reason":   fault.New(errorsv1.Reason_REASON_UNSPECIFIED, "x", fault.Cause(errors.New(secret))),
		"newer reason":     fault.New(errorsv1.Reason(9999), "x", fault.Cause(errors.New(secret))),
	} {
		t.Run(name, func(t *testing.T) {
			httpStatus, body, _ := fault.REST(err, "req-9")
			require.Equal(t, 500, httpStatus)
			require.NotContains(t, string(body), secret)
			require.Contains(t, string(body), `"code":"internal"`)
			require.Contains(t, string(body), `"request_id":"req-9"`)
			s := fault.Status(err)
			require.Equal(t, codes.Internal, s.Code())
			require.NotContains(t, s.Proto().String(), secret)
		})
	}
}

func TestForeignErrorsGetAReason(t *testing.T) {
	for name, c := range map[string]struct {
		err  error
		want errorsv1.Reason
	}{
		"deadline of a context":          {fmt.Errorf("x: %w", context.DeadlineExceeded), errorsv1.Reason_REASON_DEADLINE_EXCEEDED},
		"cancelled context":              {context.Canceled, errorsv1.Reason_REASON_DEPENDENCY_UNAVAILABLE},
		"deadline status":                {status.Error(codes.DeadlineExceeded, "x"), errorsv1.Reason_REASON_DEADLINE_EXCEEDED},
		"cancelled status":               {status.Error(codes.Canceled, "x"), errorsv1.Reason_REASON_DEPENDENCY_UNAVAILABLE},
		"unavailable":                    {status.Error(codes.Unavailable, "x"), errorsv1.Reason_REASON_DEPENDENCY_UNAVAILABLE},
		"no token":                       {status.Error(codes.Unauthenticated, "x"), errorsv1.Reason_REASON_UNAUTHORIZED},
		"forbidden":                      {status.Error(codes.PermissionDenied, "x"), errorsv1.Reason_REASON_PERMISSION_DENIED},
		"unknown method":                 {status.Error(codes.Unimplemented, "x"), errorsv1.Reason_REASON_METHOD_NOT_ALLOWED},
		"message too large":              {status.Error(codes.ResourceExhausted, "x"), errorsv1.Reason_REASON_PAYLOAD_TOO_LARGE},
		"an info of another domain":      {foreignInfo(t, "elsewhere.example", "NOT_FOUND"), errorsv1.Reason_REASON_INTERNAL},
		"an info with a reason of later": {foreignInfo(t, fault.Domain, "OF_NEXT_YEAR"), errorsv1.Reason_REASON_INTERNAL},
	} {
		t.Run(name, func(t *testing.T) {
			require.Equal(t, c.want, fault.Of(c.err).Reason())
			require.Equal(t, c.want, fault.FromStatus(c.err).Reason())
		})
	}
	require.ErrorIs(t, fault.FromStatus(status.Error(codes.DeadlineExceeded, "x")), context.DeadlineExceeded)
	require.ErrorIs(t, fault.FromStatus(status.Error(codes.Canceled, "x")), context.Canceled)
	require.Nil(t, fault.Of(nil))
	require.Nil(t, fault.FromStatus(nil))
	require.Nil(t, fault.Status(nil))
}

func foreignInfo(t *testing.T, domain, reason string) error {
	t.Helper()
	s, err := status.New(codes.NotFound, "x").WithDetails(&errdetails.ErrorInfo{Domain: domain, Reason: reason})
	require.NoError(t, err)
	return s.Err()
}

func TestAFaultIsFoundThroughWrapping(t *testing.T) {
	f := fault.New(errorsv1.Reason_REASON_NOT_FOUND, "no such request", fault.Cause(io.ErrUnexpectedEOF),
		fault.D("next_action", "look_elsewhere"), fault.Field("id", "unknown"))
	err := fmt.Errorf("load: %w", f)
	reason, ok := fault.ReasonOf(err)
	require.True(t, ok)
	require.Equal(t, errorsv1.Reason_REASON_NOT_FOUND, reason)
	require.ErrorIs(t, err, io.ErrUnexpectedEOF)
	require.Equal(t, "look_elsewhere", fault.Of(err).Details()["next_action"])
	require.Equal(t, codes.NotFound, status.Code(f), "grpc-go renders a bare fault too")
	require.Contains(t, f.Error(), "not_found: no such request: unexpected EOF")
	_, ok = fault.ReasonOf(io.EOF)
	require.False(t, ok)
	_, body, _ := fault.REST(err, "r")
	require.False(t, strings.Contains(string(body), "unexpected EOF"))
}

func TestHostileTextsDoNotBreakTheAnswer(t *testing.T) {
	bad := "\xff\xfe" + strings.Repeat("x", 1<<20)
	f := fault.New(errorsv1.Reason_REASON_INVALID_REQUEST, bad, fault.D("sent", bad), fault.D("list", []string{bad}), fault.Field("f", bad))
	s := fault.Status(f)
	require.Len(t, s.Details(), 3)
	require.Less(t, len(s.Proto().String()), 20<<10)
	back := fault.FromStatus(s.Err())
	require.Equal(t, errorsv1.Reason_REASON_INVALID_REQUEST, back.Reason())
	require.Equal(t, f.Details(), back.Details())
	_, body, _ := fault.REST(f, "r")
	require.True(t, json.Valid(body))
}
