package gateway

import (
	"flag"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/pratique-io/pratique/gateway/internal/openapi"
)

var update = flag.Bool("update", false, "write the generated documents instead of comparing")

// The served document is generated: it says what the protos say, and a change of a proto that forgets it fails here.
func TestGeneratedOpenAPIDocument(t *testing.T) {
	routes, err := Routes()
	require.NoError(t, err)
	var operations []openapi.Operation
	for _, route := range routes {
		fields := route.RPC.Output().Fields()
		operations = append(operations, openapi.Operation{
			Method: route.Method, Path: route.Path, Status: route.Status,
			List:      fields.ByName("data") != nil && fields.ByName("pagination") != nil,
			QueryOnly: queryOnly[route.RPC.Input().FullName()],
		})
	}
	var documents [][]byte
	require.NoError(t, filepath.WalkDir("../gen/openapi", func(path string, entry fs.DirEntry, err error) error {
		if err != nil || !strings.HasSuffix(path, ".json") {
			return err
		}
		raw, err := os.ReadFile(path)
		documents = append(documents, raw)
		return err
	}))
	built, err := openapi.Build(documents, operations)
	require.NoError(t, err)
	if *update {
		require.NoError(t, os.WriteFile("openapi.json", built, 0o644))
	}
	stored, err := os.ReadFile("openapi.json")
	require.NoError(t, err)
	require.Equal(t, string(built), string(stored), "gateway/openapi.json is out of date: make generate")
}

// described is the document as it is served.
func described(t *testing.T) map[string]any {
	t.Helper()
	got := start(t).send("GET", "/openapi.json", "")
	require.Equal(t, http.StatusOK, got.status)
	require.Equal(t, "application/json", got.header.Get("Content-Type"))
	require.Equal(t, "3.1.0", got.body["openapi"])
	return got.body
}

// walk visits every object of a document.
func walk(value any, at string, visit func(at string, object map[string]any)) {
	switch v := value.(type) {
	case []any:
		for i, item := range v {
			walk(item, fmt.Sprintf("%s/%d", at, i), visit)
		}
	case map[string]any:
		visit(at, v)
		for name, item := range v {
			walk(item, at+"/"+name, visit)
		}
	}
}

func TestTheServedDocumentDescribesEveryRouteAndNothingElse(t *testing.T) {
	t.Parallel()
	document := described(t)
	routes, err := Routes()
	require.NoError(t, err)
	served := map[string]bool{
		"get " + pathLogStream: true, "get " + pathNotificationStream: true, "get " + pathExplain: true, "get " + pathDocument: true,
		"get /.well-known/pratique/keys": true,
	}
	paths, _ := document["paths"].(map[string]any)
	for _, route := range routes {
		name := strings.ToLower(route.Method) + " " + route.Path
		served[name] = true
		item, _ := paths[route.Path].(map[string]any)
		operation, ok := item[strings.ToLower(route.Method)].(map[string]any)
		require.True(t, ok, "%s is not described", name)
		responses, _ := operation["responses"].(map[string]any)
		require.Contains(t, responses, strconv.Itoa(route.Status), name)
		require.Contains(t, responses, "default", name)
		require.Equal(t, route.Body != "", operation["requestBody"] != nil, "%s: body", name)
	}
	for path, item := range paths {
		for method := range item.(map[string]any) {
			require.True(t, served[method+" "+path], "%s %s is described and not served", method, path)
		}
	}
}

func TestEveryReferenceResolvesAndEveryNameIsSnakeCase(t *testing.T) {
	t.Parallel()
	document := described(t)
	references, names := 0, 0
	walk(document, "#", func(at string, object map[string]any) {
		if reference, ok := object["$ref"].(string); ok {
			references++
			var target any = document
			for _, part := range strings.Split(strings.TrimPrefix(reference, "#/"), "/") {
				next, _ := target.(map[string]any)
				target = next[part]
			}
			require.NotNil(t, target, "%s at %s leads nowhere", reference, at)
		}
		if properties, ok := object["properties"].(map[string]any); ok && !strings.HasSuffix(at, "/properties") {
			for name := range properties {
				names++
				require.Equal(t, strings.ToLower(name), name, "%s/%s", at, name)
			}
		}
		if object["in"] == "query" {
			name, _ := object["name"].(string)
			require.Equal(t, strings.ToLower(name), name, at)
		}
	})
	require.Greater(t, references, 50)
	require.Greater(t, names, 100)
}

func TestTheDocumentationPageNeedsNobodyElse(t *testing.T) {
	t.Parallel()
	s := start(t)
	got := s.send("GET", "/docs", "")
	require.Equal(t, "/docs/", got.header.Get("Location"))
	page := s.send("GET", "/docs/", "")
	require.Equal(t, http.StatusOK, page.status)
	require.Equal(t, "text/html; charset=utf-8", page.header.Get("Content-Type"))
	html := string(page.raw)
	require.NotContains(t, html, "http://")
	require.NotContains(t, html, "https://")
	require.NotContains(t, html, "//cdn")
	require.NotRegexp(t, `<script>|<style|\son\w+=|javascript:|style="`, html, "the policy forbids what stands inline")
	policy := page.header.Get("Content-Security-Policy")
	require.NotContains(t, policy, "unsafe")
	require.NotContains(t, policy, "http")
	assets := regexp.MustCompile(`(?:src|href)="(/docs/[^"]+)"`).FindAllStringSubmatch(html, -1)
	require.Len(t, assets, 4)
	for _, asset := range assets {
		got := s.send("GET", asset[1], "")
		require.Equal(t, http.StatusOK, got.status, asset[1])
		require.NotEmpty(t, got.raw)
		require.NotContains(t, got.header.Get("Content-Type"), "text/plain", "nosniff makes browsers refuse it: %s", asset[1])
	}
	require.Contains(t, string(s.send("GET", "/docs/start.js", "").raw), "SwaggerUIBundle")
	require.Contains(t, string(s.send("GET", "/docs/swagger-ui-bundle.js", "").raw), "SwaggerUIBundle")
	require.Empty(t, s.took())
}
