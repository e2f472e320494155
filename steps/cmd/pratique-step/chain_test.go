package main

import (
	"context"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pratique-io/pratique/internal/document"
	"github.com/pratique-io/pratique/internal/oci"
	"github.com/pratique-io/pratique/internal/sample"
	"github.com/pratique-io/pratique/steps/demodb"
	"github.com/pratique-io/pratique/steps/step"
)

// suppressed is what grype knows to be false: Debian does not build the vulnerable part of zlib (anchore/grype issue 2412).
const suppressed = "CVE-2023-45853 zlib1g"

// promised are the CVEs of the sample's list, by platform and package, that have an advisory.
func promised(image, platform string) []string {
	var out []string
	for _, p := range sample.Packages() {
		if p.Image == image && (p.Architecture == "" || strings.HasPrefix(platform, "linux/"+p.Architecture)) {
			for _, v := range p.Vulnerabilities {
				if name := v.CVE + " " + strings.ToLower(p.Name); name != suppressed {
					out = append(out, name)
				}
			}
		}
	}
	slices.Sort(out)
	return out
}

func TestTheVulnerableSampleYieldsExactlyWhatWasPromised(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	report, got, _ := w.chain(sample.Vulnerable())
	ctx := context.Background()
	scans := w.open(document.Vulnerabilities, got)
	require.Equal(t, []string{"linux/amd64", "linux/arm64/v8"}, scans.Platforms())
	for _, platform := range scans.Platforms() {
		scan, err := scans.Vulnerabilities(ctx, platform)
		require.NoError(t, err)
		var found []string
		for _, f := range scan.Findings {
			found = append(found, f.ID+" "+strings.ToLower(f.Package.Name))
			require.NotZero(t, f.CVSSMax, f.ID)
			require.NotEqual(t, "unknown", f.Severity)
			require.NotEmpty(t, f.Package.Locations, f.ID)
			require.Contains(t, f.DataSource, "https://")
		}
		slices.Sort(found)
		require.Equal(t, promised("demo/vulnerable", platform), found)
		require.False(t, scan.Incomplete, scan.Reasons)
		require.Equal(t, "demonstration database of 50 records", scan.Database.Note)
		require.Equal(t, 50, scan.Database.Records)
		require.WithinDuration(t, time.Now(), scan.Database.Built, time.Minute)
		require.Len(t, scan.Canaries, 1)
		require.Equal(t, "critical", scan.Findings[0].Severity)
	}
	amd64, err := scans.Vulnerabilities(ctx, "linux/amd64")
	require.NoError(t, err)
	i := slices.IndexFunc(amd64.Findings, func(f document.Finding) bool { return f.ID == "CVE-2023-44487" })
	require.True(t, amd64.Findings[i].KEV)
	require.Equal(t, []string{"GHSA-qppj-fm5r-hxr3"}, amd64.Findings[i].Aliases)
	require.Equal(t, document.Fix{State: "fixed", Versions: []string{"0.17.0"}}, amd64.Findings[i].Fix)
	require.Equal(t, 3, amd64.Counts.KEV)
	require.Equal(t, []string{"source pass", "sbom pass", "vulnerabilities findings"}, verdicts(report))
	require.Equal(t, scans.Digest, report.Documents[document.Vulnerabilities])
}

func verdicts(r *document.ReportDocument) []string {
	var out []string
	for _, c := range r.Checks {
		out = append(out, c.Name+" "+c.Verdict)
	}
	return out
}

func TestTheCleanSampleYieldsNothingAndItsWholeTreeIsInQuarantine(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	clean := sample.Clean()
	report, got, image := w.chain(clean)
	ctx := context.Background()
	require.Equal(t, []string{"source pass", "sbom pass", "vulnerabilities pass"}, verdicts(report))
	require.Len(t, report.Platforms, 2)
	for _, p := range report.Platforms {
		require.Zero(t, p.Findings.Total)
		require.Equal(t, 5, p.Packages)
		require.False(t, p.Incomplete)
	}
	src, err := w.open(document.Source, got).Source(ctx)
	require.NoError(t, err)
	require.Equal(t, clean.Root.Digest.String(), src.Root.Digest.String())
	require.Len(t, src.Referrers, len(clean.Referrers))
	require.NotEmpty(t, src.Layers)
	tags, err := w.repo().Tags(ctx)
	require.NoError(t, err)
	tagged := map[oci.Digest]bool{}
	for _, tag := range tags {
		require.True(t, strings.HasPrefix(tag, "run-"+run), tag)
		d, _, err := w.repo().Resolve(ctx, tag)
		require.NoError(t, err)
		tagged[d.Digest] = true
	}
	for _, m := range clean.Manifests {
		require.True(t, tagged[oci.Digest(m.Digest)], "%s has no tag and would be collected", m.Digest)
	}

	bills := w.open(document.SBOM, got)
	for format, mark := range map[document.Format]string{document.Syft: `"artifacts"`, document.SPDX: `"SPDX-2.3"`, document.CycloneDX: `"specVersion":"1.6"`} {
		raw, err := bills.Bytes(ctx, "linux/arm64/v8", format)
		require.NoError(t, err)
		require.Contains(t, strings.ReplaceAll(string(raw), `": "`, `":"`), mark)
	}
	bill, err := bills.SBOM(ctx, "linux/amd64")
	require.NoError(t, err)
	require.Equal(t, "debian", bill.Distro.ID)
	i := slices.IndexFunc(bill.Packages, func(p document.Package) bool { return p.Name == "libc6" })
	require.Equal(t, []string{"glibc"}, bill.Packages[i].Upstreams)

	t.Run("a second run of the same image is a second piece of evidence", func(t *testing.T) {
		again := w.ok(w.pull(w.push(clean)))
		require.Equal(t, got["image"], again.results["image"])
	})
	t.Run("evidence of another run or subject is refused", func(t *testing.T) {
		for name, want := range map[string]document.Want{
			"run":     {Kind: document.SBOM, Subject: oci.Digest(got["image"]), Run: "other"},
			"subject": {Kind: document.SBOM, Subject: oci.FromBytes([]byte("x")), Run: run},
			"kind":    {Kind: document.Source, Subject: oci.Digest(got["image"]), Run: run},
			"attempt": {Kind: document.SBOM, Subject: oci.Digest(got["image"]), Run: run, Attempt: 2},
		} {
			_, err := document.Open(ctx, w.repo(), oci.Digest(got["sbom"]), want)
			require.ErrorIs(t, err, document.ErrRefused, name)
		}
	})
	t.Run("a report over swapped evidence is refused", func(t *testing.T) {
		o := w.step("report", "--image", image, "--auth", w.auth, "--source", got["sbom"], "--sbom", got["sbom"], "--vulnerabilities", got["vulnerabilities"])
		require.Equal(t, step.ExitOther, o.code)
		require.Equal(t, "runtime_failed", o.failure.Code)
	})
}

func TestWhatCannotBeJudgedEndsWithTen(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for _, c := range []struct {
		image  sample.Image
		reason string
	}{
		{sample.MalformedRoot(), "shape"},
		{sample.MalformedDeep(), "ambiguous_keys"},
		{sample.EscapingLayer(), "layer_escape"},
	} {
		o := w.pull(w.push(c.image))
		require.Equal(t, step.ExitUnacceptable, o.code, o.log)
		require.Equal(t, "policy", o.failure.Class)
		require.Equal(t, "image_unacceptable", o.failure.Code)
		require.Contains(t, o.failure.Message, c.reason)
		require.NotContains(t, o.results, "source")
	}
}

func TestADatabaseThatCannotBeTrustedEndsWithFourteen(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	got := w.ok(w.pull(w.push(sample.Clean()))).results
	image := w.quarantine + "/q/acme/r1@" + got["image"]
	bill := w.ok(w.step("sbom", "--image", image, "--auth", w.auth)).results["sbom"]
	scan := func(args ...string) outcome {
		return w.step("vulnerabilities", append([]string{"--image", image, "--auth", w.auth, "--sbom", bill}, args...)...)
	}
	mute := []demodb.Advisory{{ID: "CVE-2020-0001", Severity: "low", CVSS: "CVSS:3.1/AV:N/AC:L/PR:N/UI:N/S:U/C:L/I:N/A:N",
		Affects: []demodb.Affects{{Where: "npm", Package: "left-pad", Range: "< 0.0.0", Fix: "0.0.0"}}}}
	broken := w.database(nil)
	f, err := os.OpenFile(filepath.Join(broken, "6", "vulnerability.db"), os.O_APPEND|os.O_WRONLY, 0)
	require.NoError(t, err)
	_, err = f.WriteString("x")
	require.NoError(t, err)
	require.NoError(t, f.Close())
	for name, c := range map[string]struct {
		args []string
		text string
	}{
		"a canary that is not found": {[]string{"--database", w.database(mute)}, "canary"},
		"an empty database":          {[]string{"--database", w.database([]demodb.Advisory{})}, "no record"},
		"a changed database":         {[]string{"--database", broken}, "checksum"},
		"a database that is missing": {[]string{"--database", t.TempDir()}, "does not exist"},
		"a database that is too old": {[]string{"--database", w.db, "--max-age", "1ns"}, "max allowed age"},
	} {
		o := scan(c.args...)
		require.Equal(t, step.ExitScanner, o.code, name+o.log)
		require.Equal(t, "scanner_error", o.failure.Code, name)
		require.Contains(t, o.failure.Message, c.text, name)
		require.NotContains(t, o.results, "vulnerabilities", name)
	}

	t.Run("a mirror is fetched through the rules and gives the same", func(t *testing.T) {
		mirror := httptest.NewServer(http.FileServer(http.Dir(w.db)))
		defer mirror.Close()
		o := scan("--database-url", mirror.URL)
		require.Equal(t, step.ExitOther, o.code, "loopback was not allowed for databases")
		require.Equal(t, "policy_blocked", o.failure.Code)
		w.network = w.file("network-db.json", map[string]any{"purposes": map[string]any{
			"quarantine": map[string]any{"allowed": []string{w.quarantine}},
			"database":   map[string]any{"allowed": []string{strings.TrimPrefix(mirror.URL, "http://")}},
		}})
		require.NotEmpty(t, w.ok(scan("--database-url", mirror.URL)).results["vulnerabilities"])
		archives, err := filepath.Glob(filepath.Join(w.db, "v6", "*.tar.gz"))
		require.NoError(t, err)
		require.NoError(t, os.WriteFile(archives[0], []byte("other"), 0o600))
		o = scan("--database-url", mirror.URL)
		require.Equal(t, step.ExitScanner, o.code)
		require.Contains(t, o.failure.Message, "the listing says")
	})
}

func TestFailuresOfTheWorldHaveCodesOfTheirOwn(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	source := w.push(sample.Clean())
	target := w.quarantine + "/q/acme/r1"
	good := filepath.Join(w.dir, "source-auth.json")
	bad := w.file("bad.json", map[string]string{"username": "reader", "password": "canary-wrong"})
	missing := w.source + "/demo/clean@sha256:" + strings.Repeat("0", 64)
	limited := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, _ *http.Request) {
		rw.Header().Set("Retry-After", "3600")
		rw.WriteHeader(http.StatusTooManyRequests)
	}))
	t.Cleanup(limited.Close)
	busy := strings.TrimPrefix(limited.URL, "http://")
	w.network = w.file("more.json", map[string]any{"purposes": map[string]any{
		"source":     map[string]any{"allowed": []string{w.source, busy, "127.0.0.1:1"}, "denied": []string{w.quarantine}},
		"quarantine": map[string]any{"allowed": []string{w.quarantine}},
	}})
	digest := "@sha256:" + strings.Repeat("0", 64)
	for name, c := range map[string]struct {
		source, auth, target string
		exit                 int
		code                 string
	}{
		"a wrong credential":               {source, bad, target, step.ExitAuth, "auth_error"},
		"no credential":                    {source, "", target, step.ExitAuth, "auth_error"},
		"an image that is gone":            {missing, good, target, step.ExitConnectivity, "connectivity_error"},
		"a registry that limits the rate":  {busy + "/a" + digest, "", target, step.ExitRateLimited, "source_rate_limited"},
		"quarantine named as the source":   {w.quarantine + "/q/acme/r1" + digest, good, target, step.ExitOther, "policy_blocked"},
		"an internal address":              {"169.254.169.254/a/b" + digest, "", target, step.ExitOther, "policy_blocked"},
		"another repository of quarantine": {source, good, w.quarantine + "/q/other/r2", step.ExitAuth, "auth_error"},
		"a source by tag":                  {w.source + "/demo/clean:latest", good, target, step.ExitOther, "runtime_failed"},
		"a file that is not there":         {source, filepath.Join(w.dir, "nowhere"), target, step.ExitOther, "runtime_failed"},
	} {
		o := w.step("pull", "--source", c.source, "--source-auth", c.auth, "--target", c.target, "--target-auth", w.auth)
		require.Equal(t, c.exit, o.code, name+o.log)
		require.Equal(t, c.code, o.failure.Code, name+o.log)
	}
}
