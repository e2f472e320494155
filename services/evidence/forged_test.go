package evidence

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	dispatchv1 "github.com/pratique-io/pratique/gen/pratique/dispatch/v1"
	"github.com/pratique-io/pratique/internal/document"
	"github.com/pratique-io/pratique/internal/oci"
	"github.com/pratique-io/pratique/services/evidence/internal/domain"
)

// forgery is one way in which evidence is not what it has to be.
type forgery struct {
	name    string
	verdict string // error: it lies; incomplete: something is missing
	reason  string // part of what is said about it
	forge   func(r *run)
}

var elsewhere = oci.FromBytes([]byte("elsewhere"))

// amd64 applies a change to the first platform only.
func amd64(change func(*document.SBOMDocument)) func(*document.SBOMDocument) {
	return func(d *document.SBOMDocument) {
		if d.Platform == "linux/amd64" {
			change(d)
		}
	}
}

func scan64(change func(*document.VulnerabilityDocument)) func(*document.VulnerabilityDocument) {
	return func(d *document.VulnerabilityDocument) {
		if d.Platform == "linux/amd64" {
			change(d)
		}
	}
}

// without drops the documents of a kind that match.
func without(kind document.Kind, drop func(document.Layer) bool) func(document.Kind, []document.Layer) []document.Layer {
	return func(k document.Kind, layers []document.Layer) []document.Layer {
		if k != kind {
			return layers
		}
		var out []document.Layer
		for _, l := range layers {
			if !drop(l) {
				out = append(out, l)
			}
		}
		return out
	}
}

// replaced puts other bytes under a format's name.
func replaced(r *run, format document.Format, content string) {
	r.layers = func(k document.Kind, layers []document.Layer) []document.Layer {
		for i, l := range layers {
			if k == document.SBOM && l.Format == format && l.Platform == "linux/amd64" {
				layers[i] = r.raw(l.Platform, format, content)
			}
		}
		return layers
	}
}

func heads() []forgery {
	var out []forgery
	for _, kind := range document.Kinds() {
		head := func(change func(*document.Head)) func(*run) {
			return func(r *run) { r.heads[kind] = change }
		}
		out = append(out,
			forgery{fmt.Sprintf("%s about another image", kind), "error", "another image", head(func(h *document.Head) { h.Subject.Digest = elsewhere })},
			forgery{fmt.Sprintf("%s of another run", kind), "error", "from the run", head(func(h *document.Head) { h.Run = "01890000-0000-7000-8000-000000000000" })},
			forgery{fmt.Sprintf("%s of another attempt", kind), "error", "from attempt 2", head(func(h *document.Head) { h.Attempt = 2 })},
			forgery{fmt.Sprintf("%s from the future", kind), "error", "from the future", head(func(h *document.Head) { h.FinishedAt = start.Add(time.Hour) })},
			forgery{fmt.Sprintf("%s with another size of its subject", kind), "error", "describes its subject", head(func(h *document.Head) { h.Subject.Size++ })},
			forgery{fmt.Sprintf("%s not named by the run", kind), "incomplete", "the run named no " + string(kind), func(r *run) {
				r.message = func(m *dispatchv1.RunSucceeded) { delete(m.Documents, string(kind)) }
				if kind != document.Report {
					r.report = func(d *document.ReportDocument) { delete(d.Documents, kind) }
				}
			}},
			forgery{fmt.Sprintf("%s that is not in the registry", kind), "incomplete", "is not in the quarantine registry", func(r *run) {
				r.message = func(m *dispatchv1.RunSucceeded) { m.Documents[string(kind)] = string(elsewhere) }
				if kind != document.Report {
					r.report = func(d *document.ReportDocument) { d.Documents[kind] = elsewhere }
				}
				if kind == document.SBOM {
					r.scan = func(d *document.VulnerabilityDocument) { d.SBOM = elsewhere }
				}
			}},
			forgery{fmt.Sprintf("%s without a tool", kind), "error", "refused", func(r *run) {
				r.manifests[kind] = func(m map[string]any) { m["annotations"].(map[string]any)[document.AnnotationTool] = "" }
			}},
			forgery{fmt.Sprintf("%s with a document of another size", kind), "error", "refused", func(r *run) {
				r.manifests[kind] = func(m map[string]any) {
					l := m["layers"].([]any)[0].(map[string]any)
					l["size"] = l["size"].(float64) + 1
				}
			}},
			forgery{fmt.Sprintf("%s that is oversized", kind), "error", "refused", func(r *run) {
				r.manifests[kind] = func(m map[string]any) { m["layers"].([]any)[0].(map[string]any)["size"] = document.MaxOwn + 1 }
			}},
			forgery{fmt.Sprintf("%s in an unknown format", kind), "error", "unknown format", func(r *run) {
				r.manifests[kind] = func(m map[string]any) {
					m["layers"].([]any)[0].(map[string]any)["annotations"].(map[string]any)[document.AnnotationFormat] = "yaml"
				}
			}},
			forgery{fmt.Sprintf("%s that is not JSON", kind), "error", "not a " + string(kind), func(r *run) {
				r.layers = func(k document.Kind, layers []document.Layer) []document.Layer {
					if k == kind {
						layers[0] = r.raw(layers[0].Platform, document.Pratique, "{]")
					}
					return layers
				}
			}},
		)
	}
	return out
}

func messages() []forgery {
	message := func(change func(*dispatchv1.RunSucceeded)) func(*run) { return func(r *run) { r.message = change } }
	return []forgery{
		{"another image copied", "error", "was asked for", message(func(m *dispatchv1.RunSucceeded) { m.ImageDigest = string(elsewhere) })},
		{"no image copied", "error", "was asked for", message(func(m *dispatchv1.RunSucceeded) { m.ImageDigest = "" })},
		{"another repository", "error", "the run wrote to", message(func(m *dispatchv1.RunSucceeded) { m.QuarantineRepository = "h/q/other/request" })},
		{"an unknown kind", "error", "unknown kind", message(func(m *dispatchv1.RunSucceeded) { m.Documents["virus"] = string(elsewhere) })},
		{"a digest that is none", "error", "refused", message(func(m *dispatchv1.RunSucceeded) { m.Documents["sbom"] = "latest" })},
		{"two kinds swapped", "error", "is not sbom evidence", message(func(m *dispatchv1.RunSucceeded) {
			m.Documents["sbom"], m.Documents["vulnerabilities"] = m.Documents["vulnerabilities"], m.Documents["sbom"]
		})},
		{"one artifact for two kinds", "error", "is not vulnerabilities evidence", message(func(m *dispatchv1.RunSucceeded) { m.Documents["vulnerabilities"] = m.Documents["sbom"] })},
		{"the image itself as evidence", "error", "refused", message(func(m *dispatchv1.RunSucceeded) { m.Documents["source"] = m.ImageDigest })},
		{"no evidence at all", "incomplete", "the run named no source evidence", message(func(m *dispatchv1.RunSucceeded) { m.Documents = nil })},
	}
}

// disguised pins an image that has the requested one as its subject.
func disguised(r *run) {
	image := func(d *document.SourceDocument) oci.Digest {
		config := []byte(`{"os":"linux","architecture":"amd64"}`)
		layer := []byte("a file system that nobody looked at")
		raw, err := json.Marshal(map[string]any{
			"schemaVersion": 2, "mediaType": oci.MediaTypeImage, "artifactType": "application/vnd.example.signature",
			"config":  oci.Descriptor{MediaType: "application/vnd.oci.image.config.v1+json", Digest: oci.FromBytes(config), Size: int64(len(config))},
			"layers":  []oci.Descriptor{{MediaType: "application/vnd.oci.image.layer.v1.tar", Digest: oci.FromBytes(layer), Size: int64(len(layer))}},
			"subject": oci.Descriptor{MediaType: d.Root.MediaType, Digest: d.Root.Digest, Size: d.Root.Size},
		})
		require.NoError(r.t, err)
		digest := oci.FromBytes(raw)
		r.pushed = func(repo *oci.Repository, _ map[document.Kind]oci.Digest) {
			for _, content := range [][]byte{config, layer} {
				require.NoError(r.t, repo.PushBlob(r.t.Context(), oci.Descriptor{Digest: oci.FromBytes(content), Size: int64(len(content))}, bytes.NewReader(content)))
			}
			_, err := repo.PushManifest(r.t.Context(), string(digest), oci.MediaTypeImage, raw)
			require.NoError(r.t, err)
		}
		return digest
	}
	r.source = func(d *document.SourceDocument) {
		d.Referrers = append(d.Referrers, document.Referrer{Digest: image(d), Subject: d.Root.Digest})
	}
}

func sources() []forgery {
	source := func(change func(*document.SourceDocument)) func(*run) { return func(r *run) { r.source = change } }
	return []forgery{
		{"a source document about another root", "error", "another image", source(func(d *document.SourceDocument) { d.Root.Digest = elsewhere })},
		{"a source document with another size of the root", "error", "another root", source(func(d *document.SourceDocument) { d.Root.Size++ })},
		{"a platform that the image does not have", "error", "does not have", source(func(d *document.SourceDocument) { d.Platforms[0].Digest = elsewhere })},
		{"a platform kept silent", "error", "keeps silent", source(func(d *document.SourceDocument) { d.Platforms = d.Platforms[:1] })},
		{"a platform called an attachment", "error", "keeps silent", source(func(d *document.SourceDocument) {
			d.Attachments = []document.Object{{Digest: d.Platforms[1].Digest}}
			d.Platforms = d.Platforms[:1]
		})},
		{"a platform listed twice", "error", "", source(func(d *document.SourceDocument) { d.Platforms = append(d.Platforms, d.Platforms[0]) })},
		{"platforms under each other's name", "error", "its index calls it", source(func(d *document.SourceDocument) {
			d.Platforms[0].Digest, d.Platforms[1].Digest = d.Platforms[1].Digest, d.Platforms[0].Digest
		})},
		{"two platforms of one name", "error", "twice", source(func(d *document.SourceDocument) { d.Platforms[1].Platform = d.Platforms[0].Platform })},
		{"no platforms", "error", "without platforms", source(func(d *document.SourceDocument) { d.Platforms = nil })},
		{"a referrer that is no digest", "error", "no digest", source(func(d *document.SourceDocument) { d.Referrers[0].Digest = "x" })},
		{"a referrer pinned twice", "error", "twice", source(func(d *document.SourceDocument) { d.Referrers = append(d.Referrers, d.Referrers[0]) })},
		{"a referrer that is not there", "error", "is not in the quarantine registry", source(func(d *document.SourceDocument) { d.Referrers[0].Digest = elsewhere })},
		{"a platform pinned as a referrer", "error", "an image of its own", source(func(d *document.SourceDocument) {
			d.Referrers = append(d.Referrers, document.Referrer{Digest: d.Platforms[0].Digest})
		})},
		{"an image in the guise of a referrer", "error", "an image of its own", disguised},
		{"too many referrers", "error", "pins 1001", source(func(d *document.SourceDocument) {
			for len(d.Referrers) < 1001 {
				d.Referrers = append(d.Referrers, d.Referrers[0])
			}
		})},
	}
}

func bills() []forgery {
	sbom := func(change func(*document.SBOMDocument)) func(*run) { return func(r *run) { r.sbom = amd64(change) } }
	out := []forgery{
		{"a package list of another image", "error", "another image", sbom(func(d *document.SBOMDocument) { d.Image = elsewhere })},
		{"a package list that miscounts", "error", "contradicts itself", sbom(func(d *document.SBOMDocument) { d.PackageCount = 9 })},
		{"a package list without a tool", "error", "names no tool", sbom(func(d *document.SBOMDocument) { d.Tool = "" })},
		{"a package without a name", "error", "without a name", sbom(func(d *document.SBOMDocument) { d.Packages[0].Name = "" })},
		{"a list that says it is incomplete", "incomplete", "no data about Plan 9", sbom(func(d *document.SBOMDocument) { d.Incomplete, d.Reasons = true, []string{"no data about Plan 9"} })},
		{"an empty list of an image with files", "incomplete", "is empty, though the image has 12 files", sbom(func(d *document.SBOMDocument) { d.Packages = []document.Package{} })},
		{"a platform without a package list", "incomplete", "says nothing about the platform", func(r *run) {
			r.layers = without(document.SBOM, func(l document.Layer) bool { return l.Platform == "linux/arm64/v8" })
		}},
		{"a package list of a foreign platform", "error", "which the image does not have", func(r *run) {
			r.layers = func(k document.Kind, layers []document.Layer) []document.Layer {
				if k == document.SBOM {
					layers = append(layers, r.own("plan9/mips", r.bill(document.Image{Platform: "plan9/mips", Digest: elsewhere})))
				}
				return layers
			}
		}},
	}
	for _, f := range []document.Format{document.Syft, document.SPDX, document.CycloneDX} {
		out = append(out,
			forgery{"no " + string(f), "incomplete", "is not there as " + string(f), func(r *run) {
				r.layers = without(document.SBOM, func(l document.Layer) bool { return l.Format == f && l.Platform == "linux/amd64" })
			}},
			forgery{"broken " + string(f), "error", "is none", func(r *run) { replaced(r, f, `{"spdxVersion":1,"bomFormat":1,"artifacts":`) }},
			forgery{"something else as " + string(f), "error", "is none", func(r *run) { replaced(r, f, `{"inner":{"spdxVersion":1,"bomFormat":1,"artifacts":[]}}`) }},
			forgery{"two documents in one " + string(f), "error", "is none", func(r *run) { replaced(r, f, `{"spdxVersion":1,"bomFormat":1,"artifacts":[]}{}`) }},
			forgery{"a list as " + string(f), "error", "is none", func(r *run) { replaced(r, f, `["spdxVersion","bomFormat","artifacts"]`) }},
			forgery{"a deep " + string(f), "error", "is none", func(r *run) {
				replaced(r, f, `{"spdxVersion":1,"bomFormat":1,"artifacts":`+strings.Repeat("[", 5000)+strings.Repeat("]", 5000)+`}`)
			}},
			forgery{"one endless word as " + string(f), "error", "is none", func(r *run) {
				replaced(r, f, `{"spdxVersion":1,"bomFormat":1,"artifacts":"`+strings.Repeat("a", 18<<20)+`"}`)
			}},
		)
	}
	return out
}

func scans() []forgery {
	scan := func(change func(*document.VulnerabilityDocument)) func(*run) {
		return func(r *run) { r.scan = scan64(change) }
	}
	bad := func(change func(*document.Finding)) func(*run) {
		return func(r *run) {
			r.scan = scan64(func(d *document.VulnerabilityDocument) {
				f := finding("CVE-1", "low", 1, "curl", "7")
				change(&f)
				d.Findings = []document.Finding{f}
				d.Counts = document.Count(d.Findings)
			})
		}
	}
	return []forgery{
		{"findings of another image", "error", "another image", scan(func(d *document.VulnerabilityDocument) { d.Image = elsewhere })},
		{"findings made from another package list", "error", "another package list", scan(func(d *document.VulnerabilityDocument) { d.SBOM = elsewhere })},
		{"findings that are hidden from the counts", "error", "contradict their counts", scan(func(d *document.VulnerabilityDocument) {
			d.Findings = []document.Finding{finding("CVE-1", "critical", 9, "curl", "7")}
		})},
		{"findings without a database", "error", "without a database", scan(func(d *document.VulnerabilityDocument) { d.Database.Digest = "" })},
		{"a database of no age", "error", "without a database", scan(func(d *document.VulnerabilityDocument) { d.Database.Built = time.Time{} })},
		{"a database from the future", "error", "from the future", scan(func(d *document.VulnerabilityDocument) { d.Database.Built = start.Add(time.Hour) })},
		{"no canary", "error", "canary", scan(func(d *document.VulnerabilityDocument) { d.Canaries = nil })},
		{"no scanner", "error", "name no tool", scan(func(d *document.VulnerabilityDocument) { d.Tool = "" })},
		{"no scanner version", "error", "name no tool", scan(func(d *document.VulnerabilityDocument) { d.ToolVersion = "" })},
		{"a scan from the future", "error", "from the future", scan(func(d *document.VulnerabilityDocument) { d.ScannedAt = start.Add(time.Hour) })},
		{"a finding without an id", "error", "impossible score", bad(func(f *document.Finding) { f.ID = "" })},
		{"a finding with an impossible score", "error", "impossible score", bad(func(f *document.Finding) { f.CVSSMax = 11 })},
		{"a finding with a negative score", "error", "impossible score", bad(func(f *document.Finding) { f.CVSSMax = -1 })},
		{"a scan of none of the packages", "incomplete", "looked at none of 2 packages", scan(func(d *document.VulnerabilityDocument) { d.Packages = 0 })},
		{"a scan that says it is incomplete", "incomplete", "no data about this distribution", scan(func(d *document.VulnerabilityDocument) {
			d.Incomplete, d.Reasons = true, []string{"no data about this distribution"}
		})},
		{"a platform that was not scanned", "incomplete", "says nothing about the platform", func(r *run) {
			r.layers = without(document.Vulnerabilities, func(l document.Layer) bool { return l.Platform == "linux/amd64" })
		}},
		{"a database that is too old", "incomplete", "the vulnerability database is too old", func(r *run) {
			r.built = func() document.Database {
				return document.Database{Digest: "sha256:old", Built: start.Add(-120*time.Hour - time.Second), Schema: "6"}
			}
		}},
		{"evidence that is too old", "incomplete", "the evidence is too old", func(r *run) {
			r.heads[document.SBOM] = func(h *document.Head) { h.FinishedAt = start.Add(-31 * 24 * time.Hour) }
		}},
	}
}

func reports() []forgery {
	report := func(change func(*document.ReportDocument)) func(*run) { return func(r *run) { r.report = change } }
	return []forgery{
		{"a report about another image", "error", "another image", report(func(d *document.ReportDocument) { d.Subject.Digest = elsewhere })},
		{"a report of another run", "error", "another image, run or attempt", report(func(d *document.ReportDocument) { d.Run = "x" })},
		{"a report that names another package list", "error", "the report names", report(func(d *document.ReportDocument) { d.Documents[document.SBOM] = elsewhere })},
		{"a report that names no findings", "error", "the report names", report(func(d *document.ReportDocument) { delete(d.Documents, document.Vulnerabilities) })},
		{"a report with another database", "error", "another vulnerability database", report(func(d *document.ReportDocument) { d.Database.Digest = "sha256:x" })},
		{"a report that counts other findings", "error", "counts other findings", report(func(d *document.ReportDocument) { d.Platforms[0].Findings.Critical = 1 })},
		{"a report with an unknown verdict", "error", "unknown verdict", report(func(d *document.ReportDocument) { d.Checks[0].Verdict = "fine" })},
		{"a report with a foreign platform", "error", "does not have", report(func(d *document.ReportDocument) {
			d.Platforms = append(d.Platforms, document.PlatformSummary{Platform: "plan9/mips"})
		})},
		{"a report about another platform's image", "error", "about another image", report(func(d *document.ReportDocument) { d.Platforms[0].Image = elsewhere })},
		{"a report that leaves a platform out", "incomplete", "says nothing about the platform", report(func(d *document.ReportDocument) { d.Platforms = d.Platforms[:1] })},
		{"a report with an incomplete check", "incomplete", "could not complete its check", report(func(d *document.ReportDocument) { d.Checks[1].Verdict = document.VerdictIncomplete })},
		{"a report that calls a platform incomplete", "incomplete", "calls the platform", report(func(d *document.ReportDocument) { d.Platforms[0].Incomplete = true })},
	}
}

func TestForgedEvidenceNeverPasses(t *testing.T) {
	t.Parallel()
	var all []forgery
	for _, list := range [][]forgery{heads(), messages(), sources(), bills(), scans(), reports()} {
		all = append(all, list...)
	}
	require.Greater(t, len(all), 100)
	w := newWorld(t) // one world: requests do not touch each other
	for _, f := range all {
		r := newRun(t)
		f.forge(r)
		w.succeed(r)
		w.settle()
		m := w.verdict(r)
		require.Equal(t, f.verdict, m.GetDecision(), "%s: %v", f.name, m.GetReasons())
		require.Contains(t, strings.Join(m.GetReasons(), "; "), f.reason, f.name)
		b := w.bundle(r)
		if f.verdict == "error" {
			require.Equal(t, domain.Refused, b.State, f.name)
			require.Equal(t, []string{"EvidenceDecided"}, names(w.said(r)), f.name)
			require.Equal(t, "scanner_error", m.GetFailure().GetFailureCode(), f.name)
			require.Nil(t, m.GetScanSummary(), "nothing of forged evidence is repeated")
			_, err := w.documents.repo(domain.Store(r.tenant, r.request)).Tags(t.Context())
			require.ErrorIs(t, err, oci.ErrNotFound, "%s: nothing forged is stored", f.name)
			state, reason := w.copyState(r)
			require.Equal(t, "to_remove failed", state+" "+reason, f.name)
		} else {
			require.Equal(t, domain.Judged, b.State, f.name)
			require.Equal(t, []string{"EvidenceRecorded", "EvidenceDecided"}, names(w.said(r)), f.name)
			require.Nil(t, m.GetFailure(), f.name)
		}
		w.consistent(r)
		w.mu.Lock()
		w.at = start
		w.mu.Unlock()
	}
}

func TestHostileTextInHonestEvidenceIsStoredAsText(t *testing.T) {
	t.Parallel()
	w, r := newWorld(t), newRun(t)
	hostile := "na\x00me\x1b[2J\u202e<script>" + strings.Repeat("x", 5000)
	r.sbom = func(d *document.SBOMDocument) { d.Packages[0].Name, d.Packages[0].PURL = hostile, hostile }
	for _, p := range r.platforms {
		r.findings[p.Platform] = []document.Finding{finding(hostile, hostile, 5, hostile, hostile), finding("CVE-1", "critical", 9, hostile, hostile)}
	}
	w.succeed(r)
	w.settle()
	m := w.verdict(r)
	require.Equal(t, "quarantine", m.GetDecision())
	require.NotContains(t, m.GetReasons()[0], "\x1b")
	require.Less(t, len(m.GetReasons()[0]), 500)
	require.EqualValues(t, 1, m.GetScanSummary().GetCounts().GetUnknown(), "a severity that nobody knows is unknown")
}
