package evidence

import (
	"bytes"
	"encoding/json"
	"io"
	"maps"
	"net/http"
	"testing"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/types/known/timestamppb"

	dispatchv1 "github.com/pratique-io/pratique/gen/pratique/dispatch/v1"
	"github.com/pratique-io/pratique/internal/document"
	"github.com/pratique-io/pratique/internal/oci"
	"github.com/pratique-io/pratique/internal/sample"
	"github.com/pratique-io/pratique/services/evidence/internal/domain"
)

// run makes the evidence of one run as the steps would, and lets a forger lay hands on every part of it before it is packed.
type run struct {
	t               testing.TB
	tenant, request uuid.UUID
	kind            string
	run             string
	attempt         int
	image           sample.Image
	platforms       []document.Image
	findings        map[string][]document.Finding
	built           func() document.Database

	heads     map[document.Kind]func(*document.Head)
	source    func(*document.SourceDocument)
	sbom      func(*document.SBOMDocument)
	scan      func(*document.VulnerabilityDocument)
	report    func(*document.ReportDocument)
	layers    func(document.Kind, []document.Layer) []document.Layer
	manifests map[document.Kind]func(map[string]any)
	message   func(*dispatchv1.RunSucceeded)
	pushed    func(*oci.Repository, map[document.Kind]oci.Digest)
}

func newRun(t testing.TB) *run {
	t.Helper()
	id := func() uuid.UUID { u, err := uuid.NewV7(); require.NoError(t, err); return u }
	r := &run{t: t, tenant: id(), request: id(), kind: "quarantine", run: id().String(), attempt: 1, image: sample.Clean(),
		findings: map[string][]document.Finding{}, heads: map[document.Kind]func(*document.Head){}, manifests: map[document.Kind]func(map[string]any){}}
	r.built = func() document.Database {
		return document.Database{Digest: "sha256:demo", Built: start.Add(-2 * 3600e9), Schema: "6", Note: "demonstration database of 48 records"}
	}
	r.setImage(sample.Clean())
	return r
}

func (r *run) setImage(i sample.Image) {
	r.image, r.platforms = i, nil
	for _, m := range i.Manifests {
		if m.Digest != i.Root.Digest {
			continue
		}
		var index struct{ Manifests []oci.Descriptor }
		require.NoError(r.t, json.Unmarshal(m.Raw, &index))
		for _, d := range index.Manifests {
			r.platforms = append(r.platforms, document.Image{Platform: d.Platform.String(), OS: d.Platform.OS, Architecture: d.Platform.Architecture,
				Variant: d.Platform.Variant, Digest: d.Digest, Size: 1})
		}
	}
}

func (r *run) digest() string { return string(r.image.Root.Digest) }

func (r *run) repository() string { return domain.Repository(r.tenant, r.request) }

func (r *run) target(w *world) string { return w.quarantine.host + "/" + r.repository() }

func finding(id, severity string, cvss float64, name, version string) document.Finding {
	return document.Finding{ID: id, Severity: severity, CVSSMax: cvss, Package: document.Package{Name: name, Version: version, Type: "deb"},
		Fix: document.Fix{State: "fixed", Versions: []string{"9"}}}
}

// push does what a run does, and returns what dispatch would say about it.
func (r *run) push(w *world) *dispatchv1.RunSucceeded {
	r.t.Helper()
	repo := w.quarantine.repo(r.repository())
	require.NoError(r.t, r.image.Push(r.t.Context(), http.DefaultTransport, w.quarantine.host, r.repository(), "run-"+r.run, "runner", "runner"))
	digests := map[document.Kind]oci.Digest{}
	digests[document.Source] = r.pack(w, repo, document.Source, r.sourceLayers())
	digests[document.SBOM] = r.pack(w, repo, document.SBOM, r.sbomLayers())
	scans, counts := r.scanLayers(digests[document.SBOM])
	digests[document.Vulnerabilities] = r.pack(w, repo, document.Vulnerabilities, scans)
	digests[document.Report] = r.pack(w, repo, document.Report, r.reportLayers(maps.Clone(digests), counts))
	if r.pushed != nil {
		r.pushed(repo, digests)
	}
	m := &dispatchv1.RunSucceeded{ImportId: r.request.String(), TenantId: r.tenant.String(), RunId: r.run, Attempt: int32(r.attempt),
		QuarantineRepository: r.target(w), ImageDigest: r.digest(), Documents: map[string]string{}, FinishedAt: timestamppb.New(start)}
	for k, d := range digests {
		m.Documents[string(k)] = string(d)
	}
	if r.message != nil {
		r.message(m)
	}
	return m
}

func (r *run) pack(w *world, repo *oci.Repository, kind document.Kind, layers []document.Layer) oci.Digest {
	r.t.Helper()
	if r.layers != nil {
		layers = r.layers(kind, layers)
	}
	head := document.Head{
		Subject: oci.Descriptor{MediaType: r.image.Root.MediaType, Digest: oci.Digest(r.image.Root.Digest), Size: r.image.Root.Size},
		Run:     r.run, Attempt: r.attempt, Tool: "pratique-step", ToolVersion: "0.1", FinishedAt: start.Add(-3600e9),
	}
	if kind == document.SBOM {
		head.Tool = "syft"
	}
	if change := r.heads[kind]; change != nil {
		change(&head)
	}
	packed, err := document.Pack(kind, head, layers)
	require.NoError(r.t, err)
	tag := "run-" + r.run + "-" + string(kind)
	require.NoError(r.t, packed.Push(r.t.Context(), repo, tag))
	change := r.manifests[kind]
	if change == nil {
		return packed.Digest
	}
	var m map[string]any
	require.NoError(r.t, json.Unmarshal(packed.Manifest, &m))
	change(m)
	raw, err := json.Marshal(m)
	require.NoError(r.t, err)
	d, err := repo.PushManifest(r.t.Context(), tag, oci.MediaTypeImage, raw)
	require.NoError(r.t, err)
	return d
}

func (r *run) own(platform string, v any) document.Layer {
	r.t.Helper()
	l, err := document.Own(platform, v)
	require.NoError(r.t, err)
	return l
}

func (r *run) raw(platform string, format document.Format, content string) document.Layer {
	return document.Layer{Platform: platform, Format: format, Digest: oci.FromBytes([]byte(content)), Size: int64(len(content)),
		Open: func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader([]byte(content))), nil }}
}

func (r *run) sourceLayers() []document.Layer {
	doc := document.SourceDocument{Reference: "docker.io/demo/clean@" + r.digest(), PulledAt: start, Platforms: append([]document.Image{}, r.platforms...),
		Root: document.Object{Digest: oci.Digest(r.image.Root.Digest), MediaType: r.image.Root.MediaType, Size: r.image.Root.Size}}
	for _, d := range r.image.Referrers {
		doc.Referrers = append(doc.Referrers, document.Referrer{Digest: oci.Digest(d.Digest), Subject: doc.Root.Digest, ArtifactType: d.ArtifactType, Size: d.Size})
	}
	if r.source != nil {
		r.source(&doc)
	}
	return []document.Layer{r.own(document.WholeImage, doc)}
}

func (r *run) bill(p document.Image) document.SBOMDocument {
	doc := document.SBOMDocument{Platform: p.Platform, Image: p.Digest, Files: 12, Tool: "syft", ToolVersion: "1.54.0", GeneratedAt: start,
		Packages: []document.Package{
			{Name: "curl", Version: "7.88.1-10", Type: "deb", PURL: "pkg:deb/debian/curl@7.88.1-10"},
			{Name: "only-" + p.Architecture, Version: "1", Type: "deb"},
		}}
	if r.sbom != nil {
		r.sbom(&doc)
	}
	if doc.PackageCount == 0 {
		doc.PackageCount = len(doc.Packages)
	}
	return doc
}

func (r *run) sbomLayers() []document.Layer {
	var out []document.Layer
	for _, p := range r.platforms {
		out = append(out, r.own(p.Platform, r.bill(p)), r.raw(p.Platform, document.Syft, `{"artifacts":[],"p":"`+p.Platform+`"}`),
			r.raw(p.Platform, document.SPDX, `{"spdxVersion":"SPDX-2.3","p":"`+p.Platform+`"}`),
			r.raw(p.Platform, document.CycloneDX, `{"bomFormat":"CycloneDX","p":"`+p.Platform+`"}`))
	}
	return out
}

func (r *run) scanLayers(bill oci.Digest) ([]document.Layer, map[string]document.Counts) {
	var out []document.Layer
	counts := map[string]document.Counts{}
	for _, p := range r.platforms {
		doc := document.VulnerabilityDocument{Platform: p.Platform, Image: p.Digest, SBOM: bill, Packages: r.bill(p).PackageCount,
			Findings: r.findings[p.Platform], Database: r.built(), Canaries: []document.Canary{{ID: "CVE-2021-44228", Package: "java-archive:log4j-core@2.14.1"}},
			Tool: "grype", ToolVersion: "0.119.0", ScannedAt: start.Add(-3600e9)}
		doc.Counts = document.Count(doc.Findings)
		if r.scan != nil {
			r.scan(&doc)
		}
		counts[p.Platform] = doc.Counts
		out = append(out, r.own(p.Platform, doc))
	}
	return out, counts
}

func (r *run) reportLayers(digests map[document.Kind]oci.Digest, counts map[string]document.Counts) []document.Layer {
	doc := document.ReportDocument{Run: r.run, Attempt: r.attempt, Documents: digests, Database: r.built(), GeneratedAt: start,
		Subject: document.Object{Digest: oci.Digest(r.image.Root.Digest), MediaType: r.image.Root.MediaType, Size: r.image.Root.Size}}
	for _, p := range r.platforms {
		doc.Platforms = append(doc.Platforms, document.PlatformSummary{Platform: p.Platform, Image: p.Digest, Packages: 2, Findings: counts[p.Platform]})
	}
	for _, k := range []document.Kind{document.Source, document.SBOM, document.Vulnerabilities} {
		doc.Checks = append(doc.Checks, document.Check{Name: string(k), Criticality: "required", Verdict: document.VerdictPass, Tool: "t", ToolVersion: "1", FinishedAt: start})
	}
	if r.report != nil {
		r.report(&doc)
	}
	return []document.Layer{r.own(document.WholeImage, doc)}
}
