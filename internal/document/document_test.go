package document_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pratique-io/pratique/internal/document"
	"github.com/pratique-io/pratique/internal/oci"
)

var (
	at      = time.Date(2026, 1, 2, 3, 4, 5, 6, time.UTC)
	subject = oci.Descriptor{MediaType: oci.MediaTypeIndex, Digest: oci.FromBytes([]byte("image")), Size: 5}
	head    = document.Head{Subject: subject, Run: "r1", Attempt: 2, Tool: "syft", ToolVersion: "1.54.0", FinishedAt: at}
)

// shelf is a registry of whatever bytes a forger likes.
type shelf map[oci.Digest][]byte

func (s shelf) put(raw []byte) oci.Digest { d := oci.FromBytes(raw); s[d] = raw; return d }

func (s shelf) Manifest(_ context.Context, d oci.Digest) (*oci.Manifest, error) {
	raw, ok := s[d]
	if !ok {
		return nil, oci.ErrNotFound
	}
	m, err := oci.ParseManifest(raw, oci.MediaTypeImage)
	if err == nil {
		m.Digest = d
	}
	return m, err
}

func (s shelf) Blob(_ context.Context, d oci.Descriptor) (io.ReadCloser, error) {
	raw, ok := s[d.Digest]
	if !ok {
		return nil, oci.ErrNotFound
	}
	return io.NopCloser(bytes.NewReader(raw)), nil
}

func bill(platform string) document.SBOMDocument {
	return document.SBOMDocument{
		Platform: platform, Image: oci.FromBytes([]byte(platform)), PackageCount: 1, Tool: "syft", ToolVersion: "1",
		Packages: []document.Package{{Name: "a", Version: "1", Type: "deb"}}, GeneratedAt: at,
	}
}

// pack puts an sbom artifact with these documents on the shelf.
func pack(t *testing.T, s shelf, docs ...document.SBOMDocument) *document.Packed {
	var layers []document.Layer
	for _, d := range docs {
		own, err := document.Own(d.Platform, d)
		require.NoError(t, err)
		raw, err := json.Marshal(d)
		require.NoError(t, err)
		s.put(raw)
		layers = append(layers, own)
	}
	p, err := document.Pack(document.SBOM, head, layers)
	require.NoError(t, err)
	s.put(p.Manifest)
	return p
}

func want() document.Want {
	return document.Want{Kind: document.SBOM, Subject: subject.Digest, Run: "r1", Attempt: 2}
}

func TestWhatIsPackedIsOpened(t *testing.T) {
	t.Parallel()
	s := shelf{}
	p := pack(t, s, bill("linux/amd64"), bill("linux/arm64"))
	require.Equal(t, p.Digest, pack(t, s, bill("linux/amd64"), bill("linux/arm64")).Digest, "the same input gives the same digest")
	a, err := document.Open(context.Background(), s, p.Digest, want())
	require.NoError(t, err)
	require.Equal(t, head, a.Head)
	require.Equal(t, []string{"linux/amd64", "linux/arm64"}, a.Platforms())
	doc, err := a.SBOM(context.Background(), "linux/arm64")
	require.NoError(t, err)
	require.Equal(t, bill("linux/arm64"), *doc)
	for _, k := range document.Kinds() {
		got, err := document.ParseKind(string(k))
		require.NoError(t, err)
		require.Equal(t, k, got)
	}
	_, err = document.ParseKind("sbom ")
	require.Error(t, err)
}

// forge changes the manifest of honest evidence.
type forge struct {
	name   string
	change func(m map[string]any)
}

func annotations(m map[string]any) map[string]any { return m["annotations"].(map[string]any) }

func layerOf(m map[string]any) map[string]any { return m["layers"].([]any)[0].(map[string]any) }

func forgeries() []forge {
	out := []forge{
		{"another artifact type", func(m map[string]any) { m["artifactType"] = document.Source.ArtifactType() }},
		{"a later version", func(m map[string]any) { m["artifactType"] = "application/vnd.pratique.evidence.sbom.v2+json" }},
		{"no artifact type", func(m map[string]any) { delete(m, "artifactType") }},
		{"no subject", func(m map[string]any) { delete(m, "subject") }},
		{"another subject", func(m map[string]any) { m["subject"].(map[string]any)["digest"] = oci.FromBytes([]byte("x")) }},
		{"a subject without size", func(m map[string]any) { m["subject"].(map[string]any)["size"] = 0 }},
		{"no annotations", func(m map[string]any) { delete(m, "annotations") }},
		{"no documents", func(m map[string]any) { m["layers"] = []any{} }},
		{"the same document twice", func(m map[string]any) { m["layers"] = append(m["layers"].([]any), layerOf(m)) }},
		{"an unknown format", func(m map[string]any) { layerOf(m)["annotations"].(map[string]any)[document.AnnotationFormat] = "xml" }},
		{"a format of another kind's media type", func(m map[string]any) { layerOf(m)["mediaType"] = "application/spdx+json" }},
		{"a document without annotations", func(m map[string]any) { delete(layerOf(m), "annotations") }},
		{"a document for no platform", func(m map[string]any) {
			delete(layerOf(m)["annotations"].(map[string]any), document.AnnotationPlatform)
		}},
		{"a platform without summary", func(m map[string]any) {
			layerOf(m)["mediaType"] = "application/spdx+json"
			layerOf(m)["annotations"].(map[string]any)[document.AnnotationFormat] = "spdx-json"
		}},
		{"a document beyond the limit", func(m map[string]any) { layerOf(m)["size"] = document.MaxOwn + 1 }},
		{"a document that lies elsewhere", func(m map[string]any) { layerOf(m)["urls"] = []string{"https://example.com/"} }},
		{"more documents than allowed", func(m map[string]any) {
			var many []any
			for i := range document.MaxLayers + 1 {
				l := map[string]any{}
				for k, v := range layerOf(m) {
					l[k] = v
				}
				l["annotations"] = map[string]any{document.AnnotationFormat: "pratique-json", document.AnnotationPlatform: fmt.Sprint("p", i)}
				many = append(many, l)
			}
			m["layers"] = many
		}},
		{"a manifest and an index at once", func(m map[string]any) { m["manifests"] = []any{} }},
	}
	for key, values := range map[string][]string{
		document.AnnotationKind:        {"source", "SBOM", "sbom ", ""},
		document.AnnotationRun:         {"r2", "R1", "r1 ", ""},
		document.AnnotationAttempt:     {"1", "3", "0", "-2", "two", "", "2.0"},
		document.AnnotationTool:        {""},
		document.AnnotationToolVersion: {""},
		document.AnnotationFinishedAt:  {"", "yesterday", "2026-13-01T00:00:00Z", "1767322000", "0001-01-01T00:00:00Z"},
	} {
		for _, v := range values {
			out = append(out, forge{fmt.Sprintf("%s is %q", key, v), func(m map[string]any) { annotations(m)[key] = v }})
		}
		out = append(out, forge{"no " + key, func(m map[string]any) { delete(annotations(m), key) }})
	}
	return out
}

func TestForgedEvidenceIsRefused(t *testing.T) {
	t.Parallel()
	cases := forgeries()
	require.GreaterOrEqual(t, len(cases), 42)
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			s := shelf{}
			p := pack(t, s, bill("linux/amd64"))
			var m map[string]any
			require.NoError(t, json.Unmarshal(p.Manifest, &m))
			c.change(m)
			raw, err := json.Marshal(m)
			require.NoError(t, err)
			_, err = document.Open(context.Background(), s, s.put(raw), want())
			require.Error(t, err)
			if !strings.Contains(err.Error(), "unacceptable") {
				require.ErrorIs(t, err, document.ErrRefused)
			}
		})
	}
}

func TestDocumentsThatContradictThemselvesAreRefused(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	liar := bill("linux/amd64")
	liar.PackageCount = 7
	faceless := bill("linux/arm64")
	faceless.Image = ""
	s := shelf{}
	a, err := document.Open(ctx, s, pack(t, s, liar, faceless).Digest, want())
	require.NoError(t, err)
	for _, platform := range []string{"linux/amd64", "linux/arm64", "linux/none"} {
		_, err = a.SBOM(ctx, platform)
		require.ErrorIs(t, err, document.ErrRefused, platform)
	}
	_, err = a.Source(ctx)
	require.ErrorIs(t, err, document.ErrRefused)

	good := document.VulnerabilityDocument{
		Platform: "p", Image: subject.Digest, SBOM: subject.Digest, Canaries: []document.Canary{{ID: "CVE-1"}},
		Findings: []document.Finding{{ID: "CVE-2", Severity: "High", KEV: true}}, Database: document.Database{Digest: "sha256:x", Built: at},
	}
	good.Counts = document.Count(good.Findings)
	require.Equal(t, document.Counts{High: 1, Total: 1, KEV: 1}, good.Counts)
	for name, change := range map[string]func(*document.VulnerabilityDocument){
		"":                    func(*document.VulnerabilityDocument) {},
		"counts":              func(d *document.VulnerabilityDocument) { d.Counts.High = 0 },
		"no canary":           func(d *document.VulnerabilityDocument) { d.Canaries = nil },
		"no database":         func(d *document.VulnerabilityDocument) { d.Database.Digest = "" },
		"database of no date": func(d *document.VulnerabilityDocument) { d.Database.Built = time.Time{} },
		"another platform":    func(d *document.VulnerabilityDocument) { d.Platform = "q" },
		"no sbom":             func(d *document.VulnerabilityDocument) { d.SBOM = "" },
	} {
		doc := good
		change(&doc)
		own, err := document.Own("p", doc)
		require.NoError(t, err)
		raw, err := json.Marshal(doc)
		require.NoError(t, err)
		s.put(raw)
		p, err := document.Pack(document.Vulnerabilities, head, []document.Layer{own})
		require.NoError(t, err)
		a, err := document.Open(ctx, s, s.put(p.Manifest), document.Want{Kind: document.Vulnerabilities, Subject: subject.Digest, Run: "r1"})
		require.NoError(t, err)
		_, err = a.Vulnerabilities(ctx, "p")
		if name == "" {
			require.NoError(t, err)
		} else {
			require.ErrorIs(t, err, document.ErrRefused, name)
		}
	}
}

func TestPackRefusesWhatNobodyCouldOpen(t *testing.T) {
	t.Parallel()
	own, err := document.Own("p", bill("p"))
	require.NoError(t, err)
	for name, f := range map[string]func() (document.Kind, document.Head, []document.Layer){
		"no documents": func() (document.Kind, document.Head, []document.Layer) { return document.SBOM, head, nil },
		"twice": func() (document.Kind, document.Head, []document.Layer) {
			return document.SBOM, head, []document.Layer{own, own}
		},
		"no run": func() (document.Kind, document.Head, []document.Layer) {
			h := head
			h.Run = ""
			return document.SBOM, h, []document.Layer{own}
		},
		"a format the kind has not": func() (document.Kind, document.Head, []document.Layer) {
			l := own
			l.Format = document.SPDX
			return document.Source, head, []document.Layer{l}
		},
	} {
		kind, h, layers := f()
		_, err := document.Pack(kind, h, layers)
		require.Error(t, err, name)
	}
}
