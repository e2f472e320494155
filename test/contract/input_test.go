package contract

import (
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	"github.com/pratique-io/pratique/gateway"
	"github.com/pratique-io/pratique/internal/auth"
	"github.com/pratique-io/pratique/internal/auth/devissuer"
)

// path is a REST path with who may ask it; the hand-written ones stand beside those of the protos.
type path struct {
	method, pattern string
	rpc             protoreflect.MethodDescriptor
	body            string // "*", a field, or none
}

func (p *product) paths(t *testing.T) []path {
	var out []path
	for _, route := range p.routes {
		out = append(out, path{route.Method, route.Path, route.RPC, route.Body})
	}
	for pattern, rpc := range map[string]string{
		imports + "/{id}/logs/stream":     "pratique.dispatch.v1.RunService.FollowLogs",
		imports + "/{id}/evidence/{kind}": "pratique.evidence.v1.EvidenceService.ReadDocument",
		imports + "/{id}/explain":         "pratique.evidence.v1.EvidenceService.ExplainDecision",
		"/api/v1/notifications/events":    "pratique.notify.v1.NotificationService.FollowNotifications",
	} {
		found, err := protoregistry.GlobalFiles.FindDescriptorByName(protoreflect.FullName(rpc))
		require.NoError(t, err)
		out = append(out, path{"GET", pattern, found.(protoreflect.MethodDescriptor), ""})
	}
	require.Greater(t, len(out), 55)
	return out
}

// with fills the variables; kind is always a known one.
func (h path) with(id string) string {
	return h.method + " " + strings.NewReplacer("{kind}", "sbom", "{id}", id, "{cid}", id).Replace(h.pattern)
}

// sound is a body in which nothing is wrong.
func (h path) sound() string {
	switch {
	case h.body == "":
		return ""
	case strings.HasSuffix(h.pattern, "/reject"):
		return `{"reason":"no"}`
	case strings.HasSuffix(h.pattern, "/comment"):
		return `{"text":"hm"}`
	}
	return "{}"
}

// allowed is a persona who may ask.
func (p *product) allowed(t testing.TB, rpc protoreflect.MethodDescriptor) string {
	rule, ok := p.table.Rule(auth.MethodName(rpc))
	require.True(t, ok)
	switch {
	case rule.Authenticated || slices.Contains(rule.Roles, auth.TenantMember):
		return "mel"
	case slices.Contains(rule.Roles, auth.SecurityReviewer):
		return "sam"
	}
	return "root"
}

func TestNobodyWithoutAValidToken(t *testing.T) {
	p := start(t)
	tokens := p.badTokens(t)
	for _, h := range p.paths(t) {
		for name, authorization := range tokens {
			c := call{bearer: authorization, do: h.with(randomID()), body: h.sound()}
			a := p.want(t, 401, "unauthorized", c)
			require.Equal(t, "sign_in", a.text("error.details.next_action"), name)
		}
	}
	for _, method := range p.table.Methods() {
		for name, authorization := range tokens {
			c := call{bearer: authorization, method: method}
			require.Equal(t, "unauthorized", p.grpc(t, c).code, "%s with %s", method, name)
		}
	}
}

func (p *product) badTokens(t *testing.T) map[string]string {
	now := time.Now()
	sign := func(change func(jwt.MapClaims)) string {
		claims := jwt.MapClaims{"iss": p.Connection.Issuer, "sub": "root", "aud": devissuer.Audience, "iat": now.Unix(), "exp": now.Add(time.Hour).Unix()}
		change(claims)
		token, err := devissuer.Sign(p.issuer, claims)
		require.NoError(t, err)
		return "Bearer " + token
	}
	unsigned, err := jwt.NewWithClaims(jwt.SigningMethodNone, jwt.MapClaims{
		"iss": p.Connection.Issuer, "sub": "root", "aud": devissuer.Audience, "exp": now.Add(time.Hour).Unix(),
	}).SignedString(jwt.UnsafeAllowNoneSignatureType)
	require.NoError(t, err)
	good := p.token(t, "root")
	return map[string]string{
		"none": "", "garbage": "Bearer garbage", "no scheme": good, "another scheme": "Basic cm9vdDpyb290", "two tokens in one": "Bearer " + good + "," + good,
		"unsigned": "Bearer " + unsigned, "cut signature": "Bearer " + good[:len(good)-6],
		"expired":          sign(func(c jwt.MapClaims) { c["exp"] = now.Add(-10 * time.Minute).Unix() }),
		"without an end":   sign(func(c jwt.MapClaims) { delete(c, "exp") }),
		"not valid yet":    sign(func(c jwt.MapClaims) { c["nbf"] = now.Add(time.Hour).Unix() }),
		"another audience": sign(func(c jwt.MapClaims) { c["aud"] = "another" }),
		"no audience":      sign(func(c jwt.MapClaims) { delete(c, "aud") }),
		"another issuer":   sign(func(c jwt.MapClaims) { c["iss"] = "http://127.0.0.1:1" }),
		"a service's name": sign(func(c jwt.MapClaims) { c["iss"] = auth.ServiceIssuer; c["sub"] = "release" }),
		"no subject":       sign(func(c jwt.MapClaims) { delete(c, "sub") }),
	}
}

func TestWrongMethods(t *testing.T) {
	p := start(t)
	served := map[string][]string{}
	for _, h := range p.paths(t) {
		concrete := strings.SplitN(h.with(randomID()), " ", 2)[1]
		if served[h.pattern] == nil {
			served[h.pattern] = []string{concrete}
		}
		served[h.pattern] = append(served[h.pattern], h.method)
	}
	for pattern, has := range served {
		for _, method := range []string{"GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE"} {
			// {id} may be anything until it is looked at, so DELETE meets /notifications/{id} here.
			if slices.Contains(has[1:], method) || method == "DELETE" && strings.HasPrefix(pattern, "/api/v1/notifications/") {
				continue
			}
			a := p.want(t, 405, "method_not_allowed", call{who: "root", do: method + " " + has[0]})
			for _, own := range has[1:] {
				require.Contains(t, a.header.Get("Allow"), own, pattern)
			}
		}
	}
	for _, nowhere := range []string{"/api/v1/nothing", imports + "/..%2f..%2fme", imports + "/" + randomID() + "/nothing", "/"} {
		p.want(t, 404, "not_found", call{who: "root", do: "GET " + nowhere})
	}
}

func TestIdsInPaths(t *testing.T) {
	p := start(t)
	bad := []string{"x", "1", "00000000-0000-0000-0000-00000000000g", "%7B" + randomID() + "%7D", "urn:uuid:" + randomID(),
		strings.ReplaceAll(randomID(), "-", ""), randomID() + "0", "%00", "%ff", "'%20or%20'1'='1", strings.Repeat("a", 3000), "%E2%80%AE" + randomID()}
	for _, h := range p.paths(t) {
		if !strings.Contains(h.pattern, "{id}") {
			continue
		}
		who := p.allowed(t, h.rpc)
		for _, id := range bad {
			a := p.want(t, 400, "invalid_id", call{who: who, do: h.with(id), body: h.sound()})
			require.Contains(t, []string{"id", "cid"}, a.text("error.details.field"), h.pattern)
		}
		for range 2 {
			p.want(t, 404, "not_found", call{who: who, do: h.with(randomID()), body: h.sound()})
		}
	}
	for _, method := range p.table.Methods() {
		who, ok := p.somebody(t, method)
		name := idField(p.rpc(t, method))
		if !ok || name == "" {
			continue
		}
		for _, id := range []string{"", "x", "{" + randomID() + "}", "urn:uuid:" + randomID(), "\x00", strings.Repeat("a", 3000), "‮"} {
			c := call{who: who, method: method, body: p.idBody(method, name, id)}
			p.grpc(t, c).is(t, c, 400, "invalid_id")
		}
		c := call{who: who, method: method, body: p.idBody(method, name, randomID())}
		p.grpc(t, c).is(t, c, 404, "not_found")
	}
}

func (p *product) rpc(t testing.TB, method string) protoreflect.MethodDescriptor {
	rpc, _, _ := p.message(t, call{method: method})
	return rpc
}

// somebody is a persona who may call a method; services' methods have none.
func (p *product) somebody(t testing.TB, method string) (string, bool) {
	rule, _ := p.table.Rule(method)
	if len(rule.Roles) == 0 && !rule.Authenticated {
		return "", false
	}
	return p.allowed(t, p.rpc(t, method)), true
}

func idField(rpc protoreflect.MethodDescriptor) string {
	for _, name := range []string{"id", "import_id"} {
		if rpc.Input().Fields().ByName(protoreflect.Name(name)) != nil {
			return name
		}
	}
	return ""
}

// idBody is a message with an id and all else that its method needs.
func (p *product) idBody(method, name, id string) string {
	body := map[string]any{name: id}
	switch short := method[strings.LastIndex(method, "/")+1:]; {
	case strings.HasPrefix(short, "Reject"):
		body["reason"] = "no"
	case short == "CommentCase":
		body["text"] = "hm"
	case short == "DeleteConsumption":
		body["cid"] = randomID()
	case short == "ReadDocument":
		body["kind"] = "sbom"
	}
	return encode(body)
}

func TestTenantsThatDoNotExist(t *testing.T) {
	p := start(t)
	both(t, p, func(t *testing.T, send sender) {
		for _, c := range []call{
			{who: "root", do: "GET " + capabilities + "?tenant_id=" + randomID()},
			{who: "root", do: "PUT " + capabilities + "?tenant_id=" + randomID(), body: "{}"},
		} {
			send(t, c).is(t, c, 404, "not_found")
		}
		for _, list := range []string{imports, scans, registrations, artifacts, "/api/v1/admin/cases"} {
			c := call{who: "root", do: "GET " + list + "?tenant_id=" + randomID()}
			require.Equal(t, "0", send(t, c).is(t, c, 200, "").text("pagination.total"), list)
		}
	})
}

func TestQueryParameters(t *testing.T) {
	p := start(t)
	for _, h := range p.paths(t) {
		who := p.allowed(t, h.rpc)
		for _, query := range []string{"nonsense=1", "id=" + randomID(), "limit=1&limit=2", "%00=1", "a;b=%zz", "ref=%zz"} {
			a := p.want(t, 400, "invalid_request", call{who: who, do: h.with(randomID()) + "?" + query, body: h.sound()})
			if query == "nonsense=1" && !strings.HasSuffix(h.pattern, "/stream") && !strings.HasSuffix(h.pattern, "/events") && !strings.HasSuffix(h.pattern, "/explain") {
				require.Equal(t, "nonsense", a.text("error.details.field"), h.pattern)
			}
		}
	}
	for _, route := range p.routes {
		fields := route.RPC.Input().Fields()
		for i := range fields.Len() {
			field := fields.Get(i)
			name := string(field.Name())
			if strings.Contains(route.Path, "{"+name+"}") || route.Body == "*" || route.Body == name {
				continue
			}
			do := path{route.Method, route.Path, route.RPC, route.Body}.with(randomID()) + "?" + name + "="
			for _, value := range mistyped(field) {
				a := p.want(t, 400, "invalid_request", call{who: p.allowed(t, route.RPC), do: do + value, body: ifBody(route)})
				require.Equal(t, name, a.text("error.details.field"), "%s%s", do, value)
			}
		}
	}
}

func ifBody(route gateway.Route) string {
	if route.Body == "" {
		return ""
	}
	return "{}"
}

// mistyped are query values that are none of the field's type.
func mistyped(field protoreflect.FieldDescriptor) []string {
	switch {
	case field.Kind() == protoreflect.Int32Kind:
		return []string{"x", "1.5", "1e1", "2147483648", "", "0x1", "%00"}
	case field.Kind() == protoreflect.BoolKind:
		return []string{"yes", "1", "TRUE", ""}
	case field.Kind() == protoreflect.MessageKind:
		return []string{"yesterday", "2024-01-01", "2024-13-01T00:00:00Z", "99999-01-01T00:00:00Z", ""}
	case field.Name() == "tenant_id":
		return []string{"x", "payments", "{}", ""}
	}
	return []string{"%ff", "a%00b"}
}

func TestListParameters(t *testing.T) {
	p := start(t)
	lists := 0
	for _, route := range p.routes {
		fields := route.RPC.Output().Fields()
		if fields.ByName("pagination") == nil || strings.Contains(route.Path, "{id}") {
			continue
		}
		lists++
		do, who := "GET "+route.Path, p.allowed(t, route.RPC)
		both(t, p, func(t *testing.T, send sender) {
			for query, field := range map[string]string{
				"limit=0": "limit", "limit=201": "limit", "limit=-1": "limit", "limit=2147483647": "limit", "page=0": "page", "page=-1": "page",
				"page=10001&limit=1": "page", "page=51&limit=200": "page", "page=2147483647&limit=200": "page", "page_token=x": "page_token",
				"page_token=AAAA": "page_token", "page_token=" + strings.Repeat("A", 34): "page_token", "page_token=" + strings.Repeat("A", 5000): "page_token",
				"page_token=AQAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA%3D": "page_token",
			} {
				c := call{who: who, do: do + "?" + query}
				a := send(t, c).is(t, c, 400, "validation_failed")
				require.Contains(t, a.fields(), field, c.String())
				if field == "page" && !strings.Contains(query, "page=0") && !strings.Contains(query, "page=-1") {
					require.Contains(t, a.text("field_errors.page"), "page_token", c.String())
				}
			}
			for _, query := range []string{"limit=200", "page=50&limit=200", "page=10000&limit=1", "page_token=", "limit=1"} {
				c := call{who: who, do: do + "?" + query}
				a := send(t, c).is(t, c, 200, "")
				require.NotNil(t, a.body["pagination"])
			}
			c := call{who: who, do: do + "?limit=0&page=0&page_token=x"}
			require.Equal(t, []string{"limit", "page", "page_token"}, send(t, c).is(t, c, 400, "validation_failed").fields())
		})
	}
	require.GreaterOrEqual(t, lists, 8)
	both(t, p, func(t *testing.T, send sender) {
		for _, query := range []string{"limit=0", "limit=1001", "offset=-1", "offset=2000000000", "source=x", "min_level=loud"} {
			c := call{who: "mel", do: "GET " + imports + "/" + randomID() + "/logs?" + query}
			name, _, _ := strings.Cut(query, "=")
			require.Equal(t, []string{name}, send(t, c).is(t, c, 400, "validation_failed").fields())
		}
		for list, closed := range map[string][]string{
			imports: {"status", "execution_state", "release_state", "failure_class", "digest", "requested_by"}, registrations: {"status", "lifecycle_status"},
		} {
			query := url.Values{}
			for _, name := range closed {
				query.Set(name, "unheard-of")
			}
			c := call{who: "mel", do: "GET " + list + "?" + query.Encode()}
			slices.Sort(closed)
			require.Equal(t, closed, send(t, c).is(t, c, 400, "validation_failed").fields(), "all at once")
		}
		for _, list := range []string{imports, registrations, artifacts} {
			c := call{who: "mel", do: "GET " + list + "?search=" + strings.Repeat("a", 201)}
			require.Equal(t, []string{"search"}, send(t, c).is(t, c, 400, "validation_failed").fields())
		}
		c := call{who: "sam", do: "GET /api/v1/admin/cases?kind=x&state=y"}
		require.Equal(t, []string{"kind", "state"}, send(t, c).is(t, c, 400, "validation_failed").fields())
		c = call{who: "mel", do: "GET /api/v1/images/verdict"}
		require.Equal(t, []string{"ref"}, send(t, c).is(t, c, 400, "validation_failed").fields())
	})
}

func TestDocumentParameters(t *testing.T) {
	p := start(t)
	w := p.through(t)
	document := "GET " + imports + "/" + w.request + "/evidence/"
	for _, c := range []struct{ target, code, field string }{
		{"sbom", "validation_failed", "platform"}, {"sbom?platform=plan9/amd64", "validation_failed", "platform"},
		{"sbom?platform=linux/amd64&format=pdf", "validation_failed", "format"}, {"nothing", "validation_failed", "kind"}, {"report?platform=linux/amd64", "validation_failed", "platform"},
		{"%ff", "invalid_request", ""}, {"%00", "invalid_request", ""}, {"sbom?platform=%ff", "invalid_request", ""}, {"sbom?format=%ff", "invalid_request", ""},
		{"sbom?platform=a%00b", "invalid_request", ""}, {"sbom?platform=a&platform=b", "invalid_request", ""},
	} {
		a := p.want(t, http.StatusBadRequest, c.code, call{who: "mel", do: document + c.target})
		if c.field != "" {
			require.Contains(t, a.fields(), c.field, c.target)
		}
	}
	for _, last := range []string{"x", "-1", "99999999999999999999"} {
		p.want(t, 400, "invalid_request", call{who: "mel", do: "GET " + imports + "/" + w.request + "/logs/stream", header: map[string]string{"Last-Event-ID": last}})
	}
	p.want(t, 400, "invalid_request", call{who: "mel", do: "GET /api/v1/notifications/events", header: map[string]string{"Last-Event-ID": "7"}})
}
