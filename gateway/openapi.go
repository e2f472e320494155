package gateway

import (
	_ "embed"
	"net/http"
	"strings"

	"github.com/swaggest/swgui/v5/static"
	"github.com/vearutop/statigz"

	errorsv1 "github.com/pratique-io/pratique/gen/pratique/errors/v1"
	"github.com/pratique-io/pratique/internal/fault"
)

//go:embed openapi.json
var openAPIDocument []byte

// openAPI serves the description of what is built, generated from the protos (openapi_test.go keeps it up to date).
func (g *Gateway) openAPI(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write(openAPIDocument)
}

const (
	pathDocs = "/docs/"
	// docsPolicy lets the page load its own scripts and styles, read the document, call the API it describes, and nothing else.
	docsPolicy = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; " +
		"base-uri 'none'; form-action 'none'; frame-ancestors 'none'"

	docsHTML = `<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Pratique API</title>
<link rel="stylesheet" href="/docs/swagger-ui.css">
<link rel="icon" type="image/png" href="/docs/favicon-32x32.png">
</head>
<body>
<noscript>The description itself is at <a href="/openapi.json">/openapi.json</a>.</noscript>
<div id="ui"></div>
<script src="/docs/swagger-ui-bundle.js"></script>
<script src="/docs/start.js"></script>
</body>
</html>
`
	docsScript = `SwaggerUIBundle({url: "/openapi.json", dom_id: "#ui", deepLinking: true, validatorUrl: null, defaultModelsExpandDepth: -1});
`
)

// docsPage is the readable form: Swagger UI from the binary, on a page of our own, because the one it brings has inline scripts.
func (g *Gateway) docsPage() http.Handler {
	files := statigz.FileServer(static.FS)
	files.OnNotFound = func(w http.ResponseWriter, r *http.Request) {
		g.renderHTTP(w, r, fault.New(errorsv1.Reason_REASON_NOT_FOUND, "there is no such path"))
	}
	assets := http.StripPrefix(strings.TrimSuffix(pathDocs, "/"), files)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Security-Policy", docsPolicy)
		switch r.URL.Path {
		case pathDocs:
			w.Header().Set("Content-Type", "text/html; charset=utf-8")
			_, _ = w.Write([]byte(docsHTML))
		case pathDocs + "start.js":
			w.Header().Set("Content-Type", "text/javascript; charset=utf-8")
			_, _ = w.Write([]byte(docsScript))
		default:
			assets.ServeHTTP(w, r)
		}
	})
}
