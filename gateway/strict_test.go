package gateway

import (
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/grpc-ecosystem/grpc-gateway/v2/runtime"
	"github.com/grpc-ecosystem/grpc-gateway/v2/utilities"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	evidencev1 "github.com/pratique-io/pratique/gen/pratique/evidence/v1"
	intakev1 "github.com/pratique-io/pratique/gen/pratique/intake/v1"
)

const (
	createPath       = "/api/v1/images/import-requests"
	capabilitiesPath = "/api/v1/admin/settings/operation-capabilities?all_tenants=true"
	bulkPath         = "/api/v1/notifications/delete-bulk"
)

// deep is JSON that nests deeper than any of ours.
var deep = strings.Repeat("[", 5000) + strings.Repeat("]", 5000)

var misshapen = []struct {
	name, method, path, body, code, field string
}{
	{"an unknown field", "POST", createPath, `{"nope":1}`, "invalid_request", "nope"},
	{"camelCase", "POST", createPath, `{"sourceImageRef":"a"}`, "invalid_request", "sourceImageRef"},
	{"other capitals", "POST", createPath, `{"Source_image_ref":"a"}`, "invalid_request", "Source_image_ref"},
	{"a field twice", "POST", createPath, `{"source_image_ref":"a","source_image_ref":"b"}`, "invalid_request", "source_image_ref"},
	{"a field twice, once escaped", "POST", createPath, `{"source_image_ref":"a","source\u005fimage_ref":"b"}`, "invalid_request", "source_image_ref"},
	{"a field twice, once null", "POST", createPath, `{"source_image_ref":null,"source_image_ref":"b"}`, "invalid_request", "source_image_ref"},
	{"a number for a string", "POST", createPath, `{"source_image_ref":1}`, "invalid_request", "source_image_ref"},
	{"an object for a string", "POST", createPath, `{"source_image_ref":{}}`, "invalid_request", "source_image_ref"},
	{"a path field in the body", "POST", createPath + "/" + someID + "/withdraw", `{"id":"` + someID + `"}`, "invalid_request", "id"},
	{"a string for a flag", "PUT", capabilitiesPath, `{"build":"true"}`, "invalid_request", "build"},
	{"a string for a number", "PUT", capabilitiesPath, `{"version":"1"}`, "invalid_request", "version"},
	{"a fraction", "PUT", capabilitiesPath, `{"version":1.5}`, "invalid_request", "version"},
	{"an exponent", "PUT", capabilitiesPath, `{"version":1e2}`, "invalid_request", "version"},
	{"a number out of range", "PUT", capabilitiesPath, `{"version":2147483648}`, "invalid_request", "version"},
	{"an unknown field in a settings document", "PUT", capabilitiesPath, `{"all_tenants":true}`, "invalid_request", "all_tenants"},
	{"no list", "POST", bulkPath, `{"ids":"a"}`, "invalid_request", "ids"},
	{"a wrong item", "POST", bulkPath, `{"ids":["a",1]}`, "invalid_request", "ids[1]"},
	{"a null item", "POST", bulkPath, `{"ids":[null]}`, "invalid_request", "ids[0]"},
	{"a list in a list", "POST", bulkPath, `{"ids":[["a"]]}`, "invalid_request", "ids[0]"},
	{"a deep list", "POST", bulkPath, `{"ids":` + deep + `}`, "invalid_request", "ids[0]"},
	{"a deep unknown field", "POST", createPath, `{"nope":` + deep + `}`, "invalid_request", "nope"},
	{"a NUL", "POST", createPath, `{"source_image_ref":"a\u0000b"}`, "invalid_request", "source_image_ref"},
	{"half a character", "POST", createPath, `{"source_image_ref":"\ud83d"}`, "invalid_request", "source_image_ref"},
	{"half a character and another", "POST", createPath, `{"source_image_ref":"\ud83dA"}`, "invalid_request", "source_image_ref"},
	{"the other half", "POST", createPath, `{"source_image_ref":"x\uDE00"}`, "invalid_request", "source_image_ref"},
	{"a list for the body", "POST", createPath, `[]`, "invalid_request", ""},
	{"null for the body", "POST", createPath, `null`, "invalid_request", ""},
	{"a string for the body", "POST", createPath, `"a"`, "invalid_request", ""},
	{"no JSON", "POST", createPath, `source_image_ref=a`, "invalid_request", ""},
	{"half an object", "POST", createPath, `{"source_image_ref":"a"`, "invalid_request", ""},
	{"a trailing comma", "POST", createPath, `{"source_image_ref":"a",}`, "invalid_request", ""},
	{"single quotes", "POST", createPath, `{'source_image_ref':'a'}`, "invalid_request", ""},
	{"a comment", "POST", createPath, `{/* */}`, "invalid_request", ""},
	{"trailing garbage", "POST", createPath, `{} x`, "invalid_request", ""},
	{"two documents", "POST", createPath, `{}{}`, "invalid_request", ""},
	{"a byte order mark", "POST", createPath, "\uFEFF{}", "invalid_request", ""},
	{"invalid UTF-8", "POST", createPath, "{\"source_image_ref\":\"\xff\"}", "invalid_request", ""},
	{"UTF-16", "POST", createPath, "\xff\xfe{\x00}\x00", "invalid_request", ""},
	{"a body on GET", "GET", "/api/v1/me", `{"a":1}`, "invalid_request", ""},
	{"a body on DELETE", "DELETE", "/api/v1/notifications/read", `[]`, "invalid_request", ""},
	{"a body where none is taken", "POST", "/api/v1/notifications/read-all", `{"ids":[]}`, "invalid_request", ""},
	{"a body too large", "POST", createPath, `{"justification":"` + strings.Repeat("x", maxBody) + `"}`, "payload_too_large", ""},

	{"an unknown parameter", "GET", createPath + "?nope=1", "", "invalid_request", "nope"},
	{"a parameter in camelCase", "GET", createPath + "?pageToken=x", "", "invalid_request", "pageToken"},
	{"a parameter twice", "GET", createPath + "?limit=1&limit=2", "", "invalid_request", "limit"},
	{"a nested parameter", "GET", createPath + "?created_after.seconds=1", "", "invalid_request", "created_after.seconds"},
	{"a path field as a parameter", "GET", createPath + "/" + someID + "?id=" + someID, "", "invalid_request", "id"},
	{"a body field as a parameter", "POST", createPath + "?source_image_ref=a", "{}", "invalid_request", "source_image_ref"},
	{"a field of the document as a parameter", "PUT", capabilitiesPath + "&capabilities.build=true", "{}", "invalid_request", "capabilities.build"},
	{"the document as a parameter", "PUT", capabilitiesPath + "&capabilities={}", "{}", "invalid_request", "capabilities"},
	{"a limit that is no number", "GET", createPath + "?limit=ten", "", "invalid_request", "limit"},
	{"a limit that is empty", "GET", createPath + "?limit=", "", "invalid_request", "limit"},
	{"a limit out of range", "GET", createPath + "?limit=99999999999", "", "invalid_request", "limit"},
	{"a flag that is none", "GET", "/api/v1/notifications?unread=yes", "", "invalid_request", "unread"},
	{"a flag as a number", "POST", createPath + "?validate_only=1", "{}", "invalid_request", "validate_only"},
	{"a time that is none", "GET", createPath + "?created_after=yesterday", "", "invalid_request", "created_after"},
	{"a time before time", "GET", createPath + "?created_after=0000-01-01T00:00:00Z", "", "invalid_request", "created_after"},
	{"a time that its zone moves out of time", "GET", createPath + "?created_after=0001-01-01T00:00:00%2B10:00", "", "invalid_request", "created_after"},
	{"a sloppy time", "GET", createPath + "?created_after=2026-01-01T1:00:00,5Z", "", "invalid_request", "created_after"},
	{"a tenant that is no UUID", "GET", createPath + "?tenant_id=payments", "", "invalid_request", "tenant_id"},
	{"a NUL in a parameter", "GET", createPath + "?search=a%00b", "", "invalid_request", "search"},
	{"a parameter that is not UTF-8", "GET", createPath + "?search=%ff", "", "invalid_request", "search"},
	{"a broken escape", "GET", createPath + "?search=%zz", "", "invalid_request", ""},
	{"a semicolon", "GET", createPath + "?a;b", "", "invalid_request", ""},
	{"a parameter of a path without any", "GET", "/api/v1/me?x=1", "", "invalid_request", "x"},
	{"a parameter of a stream", "GET", "/api/v1/notifications/events?x=1", "", "invalid_request", ""},
	{"a parameter of an explanation", "GET", createPath + "/" + someID + "/explain?x=1", "", "invalid_request", ""},
	{"a parameter of a document", "GET", createPath + "/" + someID + "/evidence/sbom?x=1", "", "invalid_request", "x"},
	{"a parameter of a document twice", "GET", createPath + "/" + someID + "/evidence/sbom?format=a&format=b", "", "invalid_request", "format"},

	{"a word for an id", "GET", createPath + "/x", "", "invalid_id", "id"},
	{"an id in braces", "GET", createPath + "/%7B" + someID + "%7D", "", "invalid_id", "id"},
	{"an id without dashes", "GET", createPath + "/" + strings.ReplaceAll(someID, "-", ""), "", "invalid_id", "id"},
	{"an id with a slash in it", "GET", createPath + "/a%2Fb", "", "invalid_id", "id"},
	{"the second id", "DELETE", "/api/v1/images/released-artifacts/" + someID + "/consumptions/x", "", "invalid_id", "cid"},
	{"an id of a stream", "GET", createPath + "/x/logs/stream", "", "invalid_id", "id"},
	{"an id of an explanation", "GET", createPath + "/x/explain", "", "invalid_id", "id"},
	{"an id of a document", "GET", createPath + "/x/evidence/sbom", "", "invalid_id", "id"},
}

func TestAMisshapenCallIsRefusedByNameAndReachesNoService(t *testing.T) {
	t.Parallel()
	s := start(t)
	for _, c := range misshapen {
		t.Run(c.name, func(t *testing.T) {
			got := s.send(c.method, c.path, c.body)
			require.Equal(t, c.code, got.at("error", "code"), "%d %s", got.status, got.raw)
			require.Equal(t, map[string]int{"invalid_request": 400, "invalid_id": 400, "payload_too_large": 413}[c.code], got.status)
			if c.field != "" {
				require.Equal(t, c.field, got.at("error", "details", "field"), "%s", got.raw)
			}
			require.NotEmpty(t, got.at("error", "request_id"))
			require.Empty(t, s.took(), "a service was asked")
		})
	}
}

func TestOtherMediaTypesAreRefused(t *testing.T) {
	t.Parallel()
	s := start(t)
	for _, media := range []string{"text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", "application/json; charset=latin1", "application/jsonx", "", "/"} {
		got := s.send("POST", createPath, "{}", "Content-Type", media)
		if got.status == http.StatusCreated {
			t.Fatalf("%q was taken", media)
		}
	}
	s.took()
	require.Equal(t, http.StatusCreated, s.send("POST", createPath, "").status, "no body needs no type")
	request, err := http.NewRequestWithContext(t.Context(), "POST", s.url+createPath, strings.NewReader("{}"))
	require.NoError(t, err)
	request.Header.Set(headerAuthorization, "Bearer somebody")
	response, err := http.DefaultClient.Do(request)
	require.NoError(t, err)
	require.NoError(t, response.Body.Close())
	require.Equal(t, http.StatusUnsupportedMediaType, response.StatusCode, "a body without a type")
	for _, media := range []string{"application/json; charset=utf-8", "Application/JSON;charset=UTF-8"} {
		request.Header.Set("Content-Type", media)
		request.Body, _ = request.GetBody()
		response, err = http.DefaultClient.Do(request)
		require.NoError(t, err)
		require.NoError(t, response.Body.Close())
		require.Equal(t, http.StatusCreated, response.StatusCode, media)
	}
}

func TestNullMeansAbsent(t *testing.T) {
	t.Parallel()
	s := start(t)
	got := s.send("POST", createPath, ` {"source_image_ref":"a","justification":null,"artifact_type":null,"epr_record_id":null} `+"\n")
	require.Equal(t, http.StatusCreated, got.status, "%s", got.raw)
	want := &intakev1.CreateImportRequestRequest{SourceImageRef: "a"}
	require.True(t, proto.Equal(want, s.took()[0].request))

	got = s.send("PUT", capabilitiesPath+"&change_reason=x", `{"build":null,"quarantine_request":true,"version":null}`)
	require.Equal(t, http.StatusOK, got.status, "%s", got.raw)
	put := s.took()[0].request.(*intakev1.PutOperationCapabilitiesRequest)
	require.True(t, proto.Equal(&intakev1.CapabilityDocument{QuarantineRequest: true}, put.GetCapabilities()))
	require.True(t, put.GetAllTenants())
	require.Equal(t, "x", put.GetChangeReason())

	got = s.send("POST", bulkPath, `{"ids":null}`)
	require.Equal(t, http.StatusOK, got.status)
}

func TestWellShapedTextArrivesUnchanged(t *testing.T) {
	t.Parallel()
	s := start(t)
	got := s.send("POST", createPath, `{"justification":"\ud83d\ude00 \\ud83d \"q\" \u202e \ufffd é"}`)
	require.Equal(t, http.StatusCreated, got.status, "%s", got.raw)
	require.Equal(t, "😀 \\ud83d \"q\" \u202e \ufffd é", s.took()[0].request.(*intakev1.CreateImportRequestRequest).GetJustification())
	got = s.send("GET", createPath+"?search=a%2Bb%20%26+c&created_after=2026-01-01T00:00:00.5%2B02:00&tenant_id="+strings.ToUpper(someID), "")
	require.Equal(t, http.StatusOK, got.status, "%s", got.raw)
	list := s.took()[0].request.(*intakev1.ListImportRequestsRequest)
	require.Equal(t, "a+b & c", list.GetSearch())
	require.EqualValues(t, 1767218400, list.GetCreatedAfter().GetSeconds())
}

// Depth is bounded where the schema itself nests, which no request of today does: the bound is tested on an answer's schema.
func TestDepthIsBounded(t *testing.T) {
	t.Parallel()
	descriptor := (&evidencev1.Bundle{}).ProtoReflect().Descriptor()
	reader := func(depth int) error {
		s := newShapeReader([]byte(`{"decision":{"reasons":[]}}`))
		return s.object(descriptor, "", depth, nil)
	}
	require.NoError(t, reader(0))
	require.ErrorContains(t, reader(maxDepth), "nested too deep")
}

func routeOf(t testing.TB, method, path string) Route {
	routes, err := Routes()
	require.NoError(t, err)
	for _, route := range routes {
		if route.Method == method && route.Path == path {
			return route
		}
	}
	t.Fatalf("no route %s %s", method, path)
	return Route{}
}

// Whatever the door lets through, protojson must be able to read: the two never disagree.
func FuzzBody(f *testing.F) {
	routes := []Route{
		routeOf(f, "POST", createPath), routeOf(f, "PUT", "/api/v1/admin/settings/operation-capabilities"), routeOf(f, "POST", bulkPath),
		routeOf(f, "GET", "/api/v1/me"),
	}
	for _, seed := range []string{
		``, `{}`, `null`, `{"source_image_ref":"a","justification":null}`, `{"ids":["a","b"]}`, `{"version":-0,"build":true}`, `{"version":1e1}`,
		`{"source_image_ref":"\ud83d\ude00"}`, `{"source_image_ref":"\ud83d"}`, `{"source_image_ref":"\\ud83d"}`, `{"a":[[[[`, `{"ids":[null]}`, "{\"ids\":[\"\xff\"]}",
		`{"build":true,"build":false}`, `{"bui\u006cd":true}`, ` { "version" : 2147483647 } `, `{"source_image_ref":"\u0000"}`, `{"version":0123}`, `{}{}`,
	} {
		for i := range routes {
			f.Add(i, []byte(seed))
		}
	}
	f.Fuzz(func(t *testing.T, which int, raw []byte) {
		route := routes[uint(which)%uint(len(routes))]
		if checkBody(route, raw) != nil || route.Body == "" {
			return
		}
		message := empty(route.RPC.Input())
		if route.Body != "*" {
			message = empty(route.RPC.Input().Fields().ByName(protoreflect.Name(route.Body)).Message())
		}
		require.NoError(t, protojson.Unmarshal(raw, message), "%q", raw)
	})
}

func FuzzQuery(f *testing.F) {
	routes := []Route{
		routeOf(f, "GET", createPath), routeOf(f, "POST", createPath), routeOf(f, "PUT", "/api/v1/admin/settings/operation-capabilities"),
		routeOf(f, "GET", "/api/v1/notifications"), routeOf(f, "GET", "/api/v1/admin/cases"),
	}
	for _, seed := range []string{
		"", "limit=1", "limit=+1", "limit=-0", "page=0x10", "limit=1_0", "limit=1&limit=1", "created_after=2026-01-01T00:00:00Z", "created_before=9999-12-31T23:59:59.999999999999Z",
		"created_after=0001-01-01T00:00:00%2B23:59", "tenant_id=" + someID, "unread=true", "unread=TRUE", "search=%ff", "search=%00", "a.b=c", "due_before=0000-00-00T00:00:00Z", "all_tenants=t", "&&", "=", "%", ";",
	} {
		for i := range routes {
			f.Add(i, seed)
		}
	}
	f.Fuzz(func(t *testing.T, which int, query string) {
		route := routes[uint(which)%uint(len(routes))]
		if checkQuery(route, query) != nil {
			return
		}
		values, err := url.ParseQuery(query)
		require.NoError(t, err)
		for name := range values { // these do not go through grpc-gateway's parser
			for _, own := range queryOnly[route.RPC.Input().FullName()] {
				if name == own {
					values.Del(name)
				}
			}
		}
		require.NoError(t, runtime.PopulateQueryParameters(empty(route.RPC.Input()), values, utilities.NewDoubleArray(nil)), "%q", query)
	})
}

// The contract asks who calls before it looks at what was sent.
func TestACallWithoutACredentialIsToldThatFirst(t *testing.T) {
	t.Parallel()
	s := start(t)
	for _, body := range []string{"{}", "{", `{"unknown":1}`} {
		got := s.send("POST", createPath, body, headerAuthorization, "")
		require.Equal(t, http.StatusUnauthorized, got.status, body)
		require.Equal(t, "unauthorized", got.at("error", "code"))
	}
	require.Empty(t, s.took(), "no service was asked")
}
