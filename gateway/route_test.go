package gateway

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/types/known/timestamppb"

	errorsv1 "github.com/pratique-io/pratique/gen/pratique/errors/v1"
	evidencev1 "github.com/pratique-io/pratique/gen/pratique/evidence/v1"
	intakev1 "github.com/pratique-io/pratique/gen/pratique/intake/v1"
	notifyv1 "github.com/pratique-io/pratique/gen/pratique/notify/v1"
	rpcv1 "github.com/pratique-io/pratique/gen/pratique/rpc/v1"
	"github.com/pratique-io/pratique/internal/fault"
)

// concrete fills the variables of a path.
func concrete(route Route) string {
	path := route.Path
	for _, name := range route.pathFields() {
		path = strings.ReplaceAll(path, "{"+name+"}", someID)
	}
	return path
}

func TestEveryRouteReachesItsRPC(t *testing.T) {
	t.Parallel()
	s := start(t)
	routes, err := Routes()
	require.NoError(t, err)
	require.Greater(t, len(routes), 50, "the registry of protos is not linked in")
	seen := map[string]bool{}
	for _, route := range routes {
		name := route.Method + " " + route.Path
		require.False(t, seen[name], "%s is stated twice", name)
		seen[name] = true
		body := ""
		if route.Body != "" {
			body = "{}"
		}
		got := s.send(route.Method, concrete(route), body)
		require.Equal(t, route.Status, got.status, "%s: %s", name, got.raw)
		calls := s.took()
		require.Len(t, calls, 1, name)
		service, method := string(route.RPC.Parent().FullName()), string(route.RPC.Name())
		require.Equal(t, "/"+service+"/"+method, calls[0].method, name)
		require.Equal(t, strings.Split(service, ".")[1], calls[0].service, "%s asked the wrong peer", name)
		for _, field := range route.pathFields() {
			reflected := calls[0].request.ProtoReflect()
			require.Equal(t, someID, reflected.Get(reflected.Descriptor().Fields().ByTextName(field)).String(), "%s lost %s", name, field)
		}
	}
	require.True(t, seen["DELETE /api/v1/notifications/read"] && seen["DELETE /api/v1/notifications/{id}"], "the pair where a literal wins is gone")
}

func TestEveryDeclaredSuccessStatusIsAnswered(t *testing.T) {
	t.Parallel()
	routes, err := Routes()
	require.NoError(t, err)
	statuses := map[int]int{}
	for _, route := range routes {
		statuses[route.Status]++
	}
	for _, status := range []int{200, 201, 202, 204} {
		require.NotZero(t, statuses[status], "no route answers %d, so the loop over routes does not prove it", status)
	}
}

func TestSingleAnswersAndListsHaveTheirEnvelopes(t *testing.T) {
	t.Parallel()
	s := start(t)

	s.play(reply(&intakev1.ImportRequest{Id: someID, SourceImageRef: "alpine:3", Version: 1 << 40, Attempt: 2, CreatedAt: timestamppb.New(timestamppb.Now().AsTime())}))
	got := s.send("GET", "/api/v1/images/import-requests/"+someID, "")
	require.Equal(t, http.StatusOK, got.status)
	require.Equal(t, "application/json", got.header.Get("Content-Type"))
	require.Equal(t, "alpine:3", got.at("data", "source_image_ref"))
	require.EqualValues(t, 2, got.at("data", "attempt"), "counts are numbers")
	require.Equal(t, "1099511627776", got.at("data", "version"), "int64 is a string")
	require.Equal(t, "", got.at("data", "justification"), "a plain field is there although it is empty")
	data, _ := got.at("data").(map[string]any)
	require.NotContains(t, data, "provider_id", "an optional field that is not set is absent")
	require.NotContains(t, string(got.raw), "sourceImageRef")
	require.Len(t, got.body, 1)

	s.play(reply(&notifyv1.ListNotificationsResponse{Data: []*notifyv1.Notification{{Id: someID}}, Pagination: &rpcv1.Pagination{Page: 1, Limit: 20, Total: 1}}))
	got = s.send("GET", "/api/v1/notifications", "")
	list, ok := got.at("data").([]any)
	require.True(t, ok, "%s", got.raw)
	require.Len(t, list, 1)
	require.Equal(t, map[string]any{"page": 1.0, "limit": 20.0, "total": 1.0, "total_is_capped": false, "next_page_token": ""}, got.at("pagination"))

	s.play(reply(&notifyv1.ListNotificationsResponse{Pagination: &rpcv1.Pagination{Page: 1, Limit: 20}}))
	got = s.send("GET", "/api/v1/notifications", "")
	require.Equal(t, []any{}, got.at("data"), "an empty list is a list")
}

func TestNoContentHasNoBody(t *testing.T) {
	t.Parallel()
	s := start(t)
	got := s.send("DELETE", "/api/v1/notifications/"+someID, "")
	require.Equal(t, http.StatusNoContent, got.status)
	require.Empty(t, got.raw)
	require.Empty(t, got.header.Get("Content-Type"))
}

func TestValidateOnlyComesFromTheQueryAndAnswers200(t *testing.T) {
	t.Parallel()
	s := start(t)
	s.play(func(c call, stream grpc.ServerStream) error {
		if c.request.(*intakev1.CreateImportRequestRequest).GetValidateOnly() {
			if err := stream.SetHeader(metadata.Pairs(HeaderStatus, "200")); err != nil {
				return err
			}
		}
		return stream.SendMsg(&intakev1.ImportRequest{})
	})
	const path, body = "/api/v1/images/import-requests", `{"source_image_ref":"alpine:3"}`
	require.Equal(t, http.StatusOK, s.send("POST", path+"?validate_only=true", body).status)
	request := s.took()[0].request.(*intakev1.CreateImportRequestRequest)
	require.True(t, request.GetValidateOnly())
	require.Equal(t, "alpine:3", request.GetSourceImageRef())
	for _, query := range []string{"", "?validate_only=false"} {
		require.Equal(t, http.StatusCreated, s.send("POST", path+query, body).status)
		require.False(t, s.took()[0].request.(*intakev1.CreateImportRequestRequest).GetValidateOnly())
	}
	require.Equal(t, http.StatusBadRequest, s.send("POST", path, `{"validate_only":true}`).status, "in the body it would go unnoticed in a log of URLs")

	for _, insane := range []string{"999", "302", "500", "x"} {
		s.play(func(_ call, stream grpc.ServerStream) error {
			_ = stream.SetHeader(metadata.Pairs(HeaderStatus, insane))
			return stream.SendMsg(&intakev1.ImportRequest{})
		})
		require.Equal(t, http.StatusCreated, s.send("POST", path, body).status, "a service may only choose a success")
	}
}

func TestOnlyTheListedHeadersPass(t *testing.T) {
	t.Parallel()
	s := start(t)
	s.send("POST", "/api/v1/images/import-requests", "{}",
		"Authorization", "Bearer x", "X-Tenant-ID", "payments", "Idempotency-Key", "k-1", "X-Request-ID", "request-1",
		"Grpc-Metadata-X-Tenant-ID", "other", "Grpc-Metadata-Authorization", "Bearer y", "Grpc-Metadata-Evil", "1", "Evil", "1", "Cookie", "a=b",
		"Grpc-Timeout", "nonsense", "Te", "trailers", "Pratique-Success-Status", "204")
	calls := s.took()
	require.Len(t, calls, 1)
	md := calls[0].metadata
	for name, want := range map[string]string{"authorization": "Bearer x", "x-tenant-id": "payments", "idempotency-key": "k-1", "x-request-id": "request-1"} {
		require.Equal(t, []string{want}, md.Get(name), "a service takes a repeated %s for none", name)
	}
	for _, name := range []string{"evil", "cookie", "grpc-metadata-evil", "grpc-metadata-x-tenant-id", HeaderStatus} {
		require.Empty(t, md.Get(name), name)
	}
	raw, err := json.Marshal(md)
	require.NoError(t, err)
	require.NotContains(t, string(raw), "Bearer y")
}

func TestTheCallerCannotChooseTheDeadlineOrTheMethod(t *testing.T) {
	t.Parallel()
	s := start(t)
	require.Equal(t, http.StatusOK, s.send("GET", "/api/v1/me", "", "Grpc-Timeout", "1n").status)
	s.took()
	for _, name := range []string{"X-HTTP-Method-Override", "X-HTTP-Method", "X-Method-Override"} {
		s.send("POST", "/api/v1/notifications/delete-bulk", "{}", name, "DELETE")
		require.Equal(t, "/pratique.notify.v1.NotificationService/DeleteNotifications", s.took()[0].method)
		got := s.send("POST", "/api/v1/notifications/"+someID, "", name, "DELETE", "Content-Type", "application/x-www-form-urlencoded")
		require.Equal(t, http.StatusMethodNotAllowed, got.status)
		require.Empty(t, s.took())
	}
}

func TestHeadersThatCannotTravelAreNotLostSilently(t *testing.T) {
	t.Parallel()
	s := start(t)
	const path = "/api/v1/images/import-requests"
	got := s.send("POST", path, "{}", "Idempotency-Key", "schlüssel")
	require.Equal(t, http.StatusBadRequest, got.status)
	require.Equal(t, "Idempotency-Key", got.at("error", "details", "field"))
	got = s.send("POST", path, "{}", "Idempotency-Key", "a", "Idempotency-Key", "b")
	require.Equal(t, http.StatusBadRequest, got.status)
	got = s.send("POST", path, "{}", "X-Tenant-ID", "zürich")
	require.Equal(t, "invalid_tenant", got.at("error", "code"))
	require.Empty(t, s.took())
	s.play(refuse(fault.New(errorsv1.Reason_REASON_UNAUTHORIZED, "no token")))
	for _, stream := range []string{path + "/" + someID + "/logs/stream", path + "/" + someID + "/evidence/sbom", path + "/" + someID + "/explain"} {
		got = s.send("GET", stream, "", "Authorization", "Bearer ü", "Tracestate", "ü=1")
		require.Equal(t, http.StatusUnauthorized, got.status, stream)
		calls := s.took()
		require.NotEmpty(t, calls)
		require.Empty(t, calls[0].metadata.Get("authorization"), stream)
	}
}

func TestUnknownPathsAndMethods(t *testing.T) {
	t.Parallel()
	s := start(t)
	for _, path := range []string{"/", "/api", "/api/v1", "/api/v1/nothing", "/api/v1/me/", "/api/v1/images/import-requests/" + someID + "/nothing",
		"/api/v1//me", "/api/v1/images/../me", "/./api/v1/me", "/api/v1/me%2f", "/pratique.intake.v1.RequestService/GetImportRequest", "/docs/nothing.js"} {
		for _, method := range []string{"GET", "POST", "DELETE"} {
			got := s.send(method, path, "")
			if method != "GET" && strings.HasPrefix(path, "/docs/") {
				require.Equal(t, http.StatusMethodNotAllowed, got.status)
				continue
			}
			require.Equal(t, http.StatusNotFound, got.status, "%s %s", method, path)
			require.Equal(t, "not_found", got.at("error", "code"))
		}
	}
	for path, allow := range map[string]string{
		"/api/v1/me":                                                "GET, HEAD",
		"/api/v1/images/import-requests":                            "GET, HEAD, POST",
		"/api/v1/notifications/read":                                "DELETE",
		"/api/v1/admin/settings/operation-capabilities":             "GET, HEAD, PUT",
		"/api/v1/images/import-requests/" + someID + "/logs/stream": "GET",
		"/api/v1/notifications/events":                              "GET, DELETE", // {id} may be anything until it is looked at
		"/openapi.json":                                             "GET, HEAD",
	} {
		for _, method := range []string{"PATCH", "OPTIONS", "TRACE", "PROPFIND"} {
			got := s.send(method, path, "")
			require.Equal(t, http.StatusMethodNotAllowed, got.status, "%s %s", method, path)
			require.Equal(t, "method_not_allowed", got.at("error", "code"))
			require.Equal(t, allow, got.header.Get("Allow"), path)
		}
	}
	require.Empty(t, s.took())
}

func TestHeadIsGetWithoutTheBody(t *testing.T) {
	t.Parallel()
	s := start(t)
	got := s.send("HEAD", "/api/v1/me", "")
	require.Equal(t, http.StatusOK, got.status)
	require.Empty(t, got.raw)
	require.Equal(t, "application/json", got.header.Get("Content-Type"))
	require.Len(t, s.took(), 1)

	for _, path := range []string{"/api/v1/notifications/events", "/api/v1/images/import-requests/" + someID + "/logs/stream"} {
		got = s.send("HEAD", path, "")
		require.Equal(t, http.StatusMethodNotAllowed, got.status, "an event stream would never end: %s", path)
	}
	require.Empty(t, s.took())

	s.play(reply(&evidencev1.ReadDocumentResponse{Document: &evidencev1.Document{Size: 5, MediaType: "application/json"}}))
	got = s.send("HEAD", "/api/v1/images/import-requests/"+someID+"/evidence/sbom", "")
	require.Equal(t, http.StatusOK, got.status)
	require.Equal(t, "5", got.header.Get("Content-Length"))
}

func TestSecurityHeadersAreOnEveryAnswer(t *testing.T) {
	t.Parallel()
	s := start(t)
	for _, path := range []string{"/api/v1/me", "/api/v1/nothing", "/openapi.json", "/.well-known/pratique/keys", "/api/v1/images/import-requests/x", "/docs/"} {
		header := s.send("GET", path, "").header
		require.Equal(t, "nosniff", header.Get("X-Content-Type-Options"), path)
		require.Equal(t, "DENY", header.Get("X-Frame-Options"), path)
		require.Equal(t, "no-referrer", header.Get("Referrer-Policy"), path)
		require.Equal(t, "same-origin", header.Get("Cross-Origin-Resource-Policy"), path)
		require.Equal(t, "no-store", header.Get("Cache-Control"), path)
		require.Contains(t, header.Get("Content-Security-Policy"), "default-src 'none'", path)
		require.Contains(t, header.Get("Content-Security-Policy"), "frame-ancestors 'none'", path)
		require.NotContains(t, header.Get("Content-Security-Policy"), "unsafe", path)
		require.Empty(t, header.Get("Access-Control-Allow-Origin"), path)
	}
}

func TestTheKeysAreServedToAnybody(t *testing.T) {
	t.Parallel()
	s := start(t)
	got := s.send("GET", "/.well-known/pratique/keys", "")
	require.Equal(t, http.StatusOK, got.status)
	require.JSONEq(t, `{"keys":[]}`, string(got.raw))
	require.Empty(t, s.took())
}
