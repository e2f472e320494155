package contract

import (
	"encoding/json"
	"io"
	"net/http"
	"sort"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/santhosh-tekuri/jsonschema/v6"
	"github.com/stretchr/testify/require"
)

// shapes are the schemas of the served OpenAPI document, made strict: a property that is not described may not appear.
type shapes struct {
	mu       sync.Mutex
	compiler *jsonschema.Compiler
	paths    map[string]any
	compiled map[string]*jsonschema.Schema
	seen     map[string]int // "METHOD path status" -> answers checked
}

func readShapes(t *testing.T, p *product) *shapes {
	response, err := p.http.Get(p.Connection.REST + "/openapi.json")
	require.NoError(t, err)
	defer response.Body.Close()
	raw, err := io.ReadAll(response.Body)
	require.NoError(t, err)
	document, err := jsonschema.UnmarshalJSON(strings.NewReader(string(raw)))
	require.NoError(t, err)
	closed := 0
	closeObjects(document, "", &closed)
	require.Greater(t, closed, 50, "the schemas were not found")
	s := &shapes{compiler: jsonschema.NewCompiler(), compiled: map[string]*jsonschema.Schema{}, seen: map[string]int{}}
	s.compiler.DefaultDraft(jsonschema.Draft2020) // which OpenAPI 3.1 uses
	s.compiler.AssertFormat()
	require.NoError(t, s.compiler.AddResource("openapi.json", document))
	s.paths, _ = document.(map[string]any)["paths"].(map[string]any)
	return s
}

// closeObjects forbids undescribed properties in every schema that describes some.
func closeObjects(value any, key string, closed *int) {
	switch v := value.(type) {
	case []any:
		for _, item := range v {
			closeObjects(item, "", closed)
		}
	case map[string]any:
		_, described := v["properties"].(map[string]any)
		if _, said := v["additionalProperties"]; described && !said && key != "properties" {
			v["additionalProperties"] = false
			*closed++
		}
		for name, child := range v {
			closeObjects(child, name, closed)
		}
	}
}

// check validates one REST answer against what is described for it.
func (s *shapes) check(t testing.TB, c call, method, target string, a answer) {
	t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	path, _, _ := strings.Cut(target, "?")
	pointer := "/components/schemas/Error"
	if a.status < 400 {
		described := s.described(method, path)
		require.NotEmpty(t, described, "%s is served but not described", c)
		operation, _ := s.paths[described].(map[string]any)[strings.ToLower(method)].(map[string]any)
		answers, _ := operation["responses"].(map[string]any)
		response, ok := answers[strconv.Itoa(a.status)].(map[string]any)
		require.True(t, ok, "%s answered %d, which is not described", c, a.status)
		s.seen[method+" "+described+" "+strconv.Itoa(a.status)]++
		content, _ := response["content"].(map[string]any)
		if a.status == http.StatusNoContent {
			require.Empty(t, a.raw)
			return
		}
		media := strings.Split(a.header.Get("Content-Type"), ";")[0]
		if strings.HasSuffix(described, "/evidence/{kind}") {
			return // the document's own bytes and type
		}
		require.Contains(t, content, media, c.String())
		if media != "application/json" {
			return
		}
		pointer = "/paths/" + escape(described) + "/" + strings.ToLower(method) + "/responses/" + strconv.Itoa(a.status) + "/content/application~1json/schema"
	}
	if s.compiled[pointer] == nil {
		schema, err := s.compiler.Compile("openapi.json#" + pointer)
		require.NoError(t, err, pointer)
		s.compiled[pointer] = schema
	}
	value, err := jsonschema.UnmarshalJSON(strings.NewReader(a.raw))
	require.NoError(t, err, "%s: %s", c, a.raw)
	require.NoError(t, s.compiled[pointer].Validate(value), "%s: %s", c, a.raw)
}

func escape(path string) string {
	return strings.NewReplacer("~", "~0", "/", "~1", "{", "%7B", "}", "%7D").Replace(path)
}

// described finds the document's path of a concrete one, literal segments first.
func (s *shapes) described(method, path string) string {
	var found []string
	segments := strings.Split(path, "/")
	for candidate, item := range s.paths {
		parts := strings.Split(candidate, "/")
		fits := len(parts) == len(segments) && item.(map[string]any)[strings.ToLower(method)] != nil
		for i := 0; fits && i < len(parts); i++ {
			fits = parts[i] == segments[i] || strings.HasPrefix(parts[i], "{")
		}
		if fits {
			found = append(found, candidate)
		}
	}
	if len(found) == 0 {
		return ""
	}
	sort.Strings(found) // '{' sorts after every letter
	return found[0]
}

// A success of every operation, by somebody who may: checked like every other answer, and here it is proved that none is left out.
func TestEveryOperationAnswersAsDescribed(t *testing.T) {
	p := start(t)
	w := p.through(t)
	for _, do := range []string{
		"GET " + imports, "GET " + imports + "?status=success&release_state=released&search=clean&created_after=2020-01-01T00:00:00Z",
		"GET " + imports + "/" + w.request, "GET " + imports + "/" + w.request + "/workflow", "GET " + imports + "/" + w.request + "/timeline",
		"GET " + imports + "/" + w.request + "/logs?source=run&limit=1000", "GET " + imports + "/" + w.request + "/evidence",
		"GET " + imports + "/" + w.request + "/evidence/report", "GET " + imports + "/" + w.request + "/explain",
		"GET " + imports + "/" + w.request + "/logs/stream", "GET " + scans, "GET " + scans + "/" + w.scan, "GET " + registrations,
		"GET " + registrations + "/" + w.epr, "GET " + artifacts, "GET " + artifacts + "/" + w.artifact, "GET " + artifacts + "/" + w.artifact + "/consumptions",
		"GET /api/v1/images/verdict?ref=" + w.destination, "GET /api/v1/images/verdict?ref=nobody.knows/this:1", "GET /api/v1/images/verdict?ref=%20x",
		"GET /api/v1/settings/operation-capabilities", "GET /api/v1/settings/capability-surfaces", "GET /api/v1/settings/quarantine-policy", "GET /api/v1/me",
		"GET /api/v1/notifications", "GET /api/v1/notifications/unread-count", "GET /api/v1/notifications/events",
	} {
		p.want(t, 200, "", call{who: "mel", do: do})
	}
	provider := p.want(t, 200, "", call{who: "root", do: "GET /api/v1/admin/infrastructure/providers"}).text("data.0.id")
	for _, do := range []string{
		"GET /api/v1/admin/images/import-requests", "GET /api/v1/admin/images/import-requests/" + w.request,
		"GET /api/v1/admin/images/import-requests/" + w.request + "/workflow", "GET /api/v1/admin/images/import-requests/" + w.request + "/logs",
		"GET /api/v1/admin/epr/registration-requests", "GET /api/v1/admin/cases?kind=import_request&state=approved", "GET /api/v1/admin/cases/" + w.caseID,
		"GET " + capabilities + "?all_tenants=true", "GET " + capabilities + "?tenant_id=" + p.tenant("orders"),
		"GET /api/v1/admin/settings/quarantine-policy?all_tenants=true", "GET /api/v1/admin/settings/quarantine-policy?tenant_id=" + p.tenant("payments"),
		"GET /api/v1/admin/infrastructure/providers/" + provider + "/quarantine-dispatch-readiness", "GET /api/v1/me",
	} {
		p.want(t, 200, "", call{who: "root", do: do})
	}
	p.decideEveryWay(t)
	p.useAndTell(t, w)
	p.askAgain(t)
	document := map[string]bool{}
	for path, item := range p.shapes.paths {
		for method := range item.(map[string]any) {
			document[strings.ToUpper(method)+" "+path] = true
		}
	}
	for key := range p.shapes.seen {
		parts := strings.Split(key, " ")
		delete(document, parts[0]+" "+parts[1])
	}
	delete(document, "GET /.well-known/pratique/keys") // asked below, by nobody
	require.Empty(t, document, "operations that no success was seen of")
	keys, err := p.http.Get(p.Connection.REST + "/.well-known/pratique/keys")
	require.NoError(t, err)
	defer keys.Body.Close()
	var set struct{ Keys []map[string]string }
	require.NoError(t, json.NewDecoder(keys.Body).Decode(&set))
	require.Len(t, set.Keys, 1)
	require.NotContains(t, set.Keys[0], "d", "that is the private half")
}

// The check above can fail: what is not described, of another type or missing is found.
func TestShapesAreStrict(t *testing.T) {
	p := start(t)
	good := p.want(t, 200, "", call{who: "mel", do: "GET /api/v1/me"})
	schema := p.shapes.compiled["/paths/~1api~1v1~1me/get/responses/200/content/application~1json/schema"]
	require.NotNil(t, schema)
	for _, spoil := range []func(data map[string]any){
		func(data map[string]any) { data["undescribed"] = 1 },
		func(data map[string]any) { data["tenants"] = "x" },
		func(data map[string]any) { data["tenants"].([]any)[0].(map[string]any)["undescribed"] = true },
		func(data map[string]any) { data["capabilities"].(map[string]any)["updated_at"] = "yesterday" },
	} {
		value, err := jsonschema.UnmarshalJSON(strings.NewReader(good.raw))
		require.NoError(t, err)
		require.NoError(t, schema.Validate(value))
		spoil(value.(map[string]any)["data"].(map[string]any))
		require.Error(t, schema.Validate(value))
	}
}

// decideEveryWay decides by request, by admin path and by case.
func (p *product) decideEveryWay(t *testing.T) {
	register := func() string {
		made := p.want(t, 201, "", call{who: "mel", do: "POST " + registrations, body: `{"product_name":"Checkout","technology_name":"images"}`})
		return made.text("data.id")
	}
	p.want(t, 200, "", call{who: "sam", do: "POST /api/v1/admin/epr/registration-requests/" + register() + "/reject", body: `{"reason":"no"}`})
	p.want(t, 200, "", call{who: "mel", do: "POST " + registrations + "/" + register() + "/withdraw", body: `{}`})
	for _, way := range []string{"/api/v1/images", "/api/v1/admin/images"} {
		p.want(t, 202, "", call{who: "sam", do: "POST " + way + "/import-requests/" + p.pending(t).text("data.id") + "/reject", body: `{"reason":"no"}`})
	}
	for _, verb := range []string{"approve", "reject"} {
		made := p.pending(t).text("data.id")
		caseID := p.caseOf(t, made)
		p.want(t, 201, "", call{who: "sam", do: "POST /api/v1/admin/cases/" + caseID + "/comment", body: `{"text":"<b>looking</b>"}`})
		p.want(t, 202, "", call{who: "sam", do: "POST /api/v1/admin/cases/" + caseID + "/" + verb, body: `{"reason":"so be it"}`})
	}
	p.want(t, 202, "", call{who: "sam", do: "POST /api/v1/admin/images/import-requests/" + p.pending(t).text("data.id") + "/approve", body: `{}`})
	p.want(t, 200, "", call{who: "mel", do: "POST " + imports + "/" + p.pending(t).text("data.id") + "/withdraw", body: `{"reason":"not needed"}`})
	p.want(t, 200, "", call{who: "mel", do: "POST " + imports + "?validate_only=true", body: p.importBody(p.image(t), nil)})
}

// caseOf finds the case of a subject, which opens a moment after it.
func (p *product) caseOf(t testing.TB, subject string) (id string) {
	look := call{who: "sam", do: "GET /api/v1/admin/cases?state=open&limit=200"}
	require.Eventually(t, func() bool {
		for _, c := range p.want(t, 200, "", look).list("data") {
			if c["subject_id"] == subject {
				id, _ = c["id"].(string)
			}
		}
		return id != ""
	}, 30*time.Second, 20*time.Millisecond, "no case opened for %s", subject)
	return id
}

// useAndTell consumes, releases once more and goes through the notifications.
func (p *product) useAndTell(t *testing.T, w world) {
	use := artifacts + "/" + w.artifact + "/consum"
	made := p.want(t, 202, "", call{who: "mel", do: "POST " + use + "e", body: `{"project_id":"p","notes":"n","environment":"e"}`})
	p.want(t, 200, "", call{who: "mel", do: "GET " + use + "ptions"})
	p.want(t, 204, "", call{who: "mel", do: "DELETE " + use + "ptions/" + made.text("data.id")})
	elsewhere := encode(map[string]string{"destination_image_ref": p.Connection.Registries["trusted"].Address + "/payments/second/" + randomID() + ":1"})
	p.want(t, 202, "", call{who: "rita", do: "POST /api/v1/admin/images/import-requests/" + w.request + "/release", body: elsewhere})
	mine := p.want(t, 200, "", call{who: "ada", do: "GET /api/v1/notifications?limit=200"}).list("data")
	require.GreaterOrEqual(t, len(mine), 3, "ada was told of the release")
	path := "/api/v1/notifications/"
	p.want(t, 200, "", call{who: "ada", do: "POST " + path + mine[0]["id"].(string) + "/read"})
	p.want(t, 204, "", call{who: "ada", do: "DELETE " + path + mine[1]["id"].(string)})
	p.want(t, 200, "", call{who: "ada", do: "POST " + path + "delete-bulk", body: encode(map[string]any{"ids": []any{mine[2]["id"], randomID()}})})
	p.want(t, 200, "", call{who: "ada", do: "POST " + path + "read-all"})
	p.want(t, 200, "", call{who: "ada", do: "DELETE " + path + "read"})
}
