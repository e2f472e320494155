package collect

import (
	"context"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/pratique-io/pratique/internal/document"
	"github.com/pratique-io/pratique/internal/oci"
	"github.com/pratique-io/pratique/services/evidence/internal/domain"
)

// complete compares the platforms of an artifact with those of the image: a foreign one is refused, a missing one noted. It returns the
// platforms to read, with their images.
func (c *collector) complete(a *document.Artifact) (map[string]oci.Digest, error) {
	if c.source == nil {
		return nil, nil // incomplete already, and nothing to compare with
	}
	want := map[string]oci.Digest{}
	for _, p := range c.source.Platforms {
		want[p.Platform] = p.Digest
	}
	have := a.Platforms()
	for _, p := range have {
		if _, ok := want[p]; !ok {
			return nil, refuse(a.Kind, "the %s evidence is about the platform %.80q, which the image does not have", a.Kind, p)
		}
	}
	for _, p := range c.source.Platforms {
		if !slices.Contains(have, p.Platform) {
			c.problem(a.Kind, "the %s evidence says nothing about the platform %.80q", a.Kind, p.Platform)
			delete(want, p.Platform)
		}
	}
	return want, nil
}

// formats are what a bill of materials has to be written in beside our own.
var formats = []document.Format{document.Syft, document.SPDX, document.CycloneDX}

func (c *collector) readSBOM(ctx context.Context) error {
	a := c.got[document.SBOM]
	if a == nil {
		return nil
	}
	images, err := c.complete(a)
	if err != nil {
		return err
	}
	for _, platform := range a.Platforms() {
		image, ok := images[platform]
		if !ok {
			continue
		}
		doc, err := a.SBOM(ctx, platform)
		if err = sort(document.SBOM, err); err != nil {
			return err
		}
		if doc.Image != image {
			return refuse(document.SBOM, "the package list of %.80q is about another image than %s", platform, image)
		}
		if doc.Tool == "" {
			return refuse(document.SBOM, "the package list of %.80q names no tool", platform)
		}
		for _, f := range formats {
			if _, ok := a.Item(platform, f); !ok {
				c.problem(document.SBOM, "the package list of %.80q is not there as %s", platform, f)
			}
		}
		switch {
		case doc.Incomplete:
			c.problem(document.SBOM, "the package list of %.80q is incomplete: %s", platform, strings.Join(doc.Reasons, "; "))
		case doc.PackageCount == 0 && doc.Files > 0:
			c.problem(document.SBOM, "the package list of %.80q is empty, though the image has %d files", platform, doc.Files)
		}
		if err := c.index(platform, doc); err != nil {
			return err
		}
		doc.Packages = nil
		c.sboms[platform] = doc
	}
	return nil
}

// index adds a platform's packages to the component index. All their text is the image's.
func (c *collector) index(platform string, doc *document.SBOMDocument) error {
	for _, p := range doc.Packages {
		if p.Name == "" {
			return refuse(document.SBOM, "the package list of %.80q has a package without a name", platform)
		}
		k := packageKey{domain.Clip(p.Type, 60), domain.Clip(p.Name, 500), domain.Clip(p.Version, 300)}
		if c.packages[k] = true; len(c.packages) > maxPackages {
			return refuse(document.SBOM, "the package lists hold more than %d packages", maxPackages)
		}
		if len(c.out.Components) < domain.MaxComponents {
			c.out.Components = append(c.out.Components, domain.Component{
				Platform: domain.Clip(platform, 200), Type: k.kind, Name: k.name, Version: k.version, PURL: domain.Clip(p.PURL, 1000),
			})
		}
	}
	return nil
}

func (c *collector) readVulnerabilities(ctx context.Context) error {
	a := c.got[document.Vulnerabilities]
	if a == nil {
		return nil
	}
	images, err := c.complete(a)
	if err != nil {
		return err
	}
	for _, platform := range a.Platforms() {
		image, ok := images[platform]
		if !ok {
			continue
		}
		doc, err := a.Vulnerabilities(ctx, platform)
		if err = sort(document.Vulnerabilities, err); err != nil {
			return err
		}
		if err := c.checkScan(platform, image, doc); err != nil {
			return err
		}
		if err := c.takeFindings(platform, doc); err != nil {
			return err
		}
	}
	return nil
}

func (c *collector) checkScan(platform string, image oci.Digest, doc *document.VulnerabilityDocument) error {
	const kind = document.Vulnerabilities
	switch {
	case doc.Image != image:
		return refuse(kind, "the findings of %.80q are about another image than %s", platform, image)
	case doc.Tool == "" || doc.ToolVersion == "":
		return refuse(kind, "the findings of %.80q name no tool", platform)
	case c.in.Artifacts[string(document.SBOM)] != "" && string(doc.SBOM) != c.in.Artifacts[string(document.SBOM)]:
		return refuse(kind, "the findings of %.80q were made from another package list", platform)
	case doc.ScannedAt.After(c.now.Add(skew)) || doc.Database.Built.After(c.now.Add(skew)):
		return refuse(kind, "the findings of %.80q or their database are from the future", platform)
	}
	switch s := c.sboms[platform]; {
	case doc.Incomplete:
		c.problem(kind, "the scan of %.80q is incomplete: %s", platform, strings.Join(doc.Reasons, "; "))
	case s != nil && s.PackageCount > 0 && doc.Packages == 0: // folding some is normal, all is not
		c.problem(kind, "the scanner of %.80q looked at none of %d packages", platform, s.PackageCount)
	}
	e := &c.out.Evidence
	e.Scanner = domain.Tool{Kind: string(kind), Name: domain.Clip(doc.Tool, 100), Version: domain.Clip(doc.ToolVersion, 100)}
	built := doc.Database.Built.UTC().Truncate(time.Microsecond)
	if e.Database.BuiltAt.IsZero() || built.Before(e.Database.BuiltAt) {
		e.Database = domain.Database{Digest: domain.Clip(doc.Database.Digest, 200), BuiltAt: built, Note: domain.Clip(doc.Database.Note, 200)}
	}
	c.datasets[doc.Database.Digest] = true
	c.reports[platform] = doc.Counts
	return nil
}

func (c *collector) takeFindings(platform string, doc *document.VulnerabilityDocument) error {
	for _, f := range doc.Findings {
		if f.ID == "" || f.Package.Name == "" || math.IsNaN(f.CVSSMax) || f.CVSSMax < 0 || f.CVSSMax > 10 {
			return refuse(document.Vulnerabilities, "a finding of %.80q has no id, no package or an impossible score", platform)
		}
		c.findings = append(c.findings, domain.Finding{
			ID: domain.Clip(f.ID, 120), Package: domain.Clip(f.Package.Name, 500), Version: domain.Clip(f.Package.Version, 300),
			Type: domain.Clip(f.Package.Type, 60), Severity: f.Severity, CVSS: f.CVSSMax, Fixable: f.Fix.State == "fixed", KEV: f.KEV,
		})
	}
	if len(c.findings) > maxFindings {
		return refuse(document.Vulnerabilities, "more than %d findings", maxFindings)
	}
	return nil
}

// readReport holds the run's own summary against the rest; it must name exactly the artifacts that we were told of.
func (c *collector) readReport(ctx context.Context) error {
	const kind = document.Report
	a := c.got[kind]
	if a == nil {
		return nil
	}
	doc, err := a.Report(ctx)
	if err = sort(kind, err); err != nil {
		return err
	}
	for _, k := range []document.Kind{document.Source, document.SBOM, document.Vulnerabilities} {
		if said, told := string(doc.Documents[k]), c.in.Artifacts[string(k)]; said != told {
			return refuse(kind, "the report names %.80q as %s evidence, the run named %.80q", said, k, told)
		}
	}
	if len(c.datasets) > 0 && !c.datasets[doc.Database.Digest] {
		return refuse(kind, "the report names another vulnerability database than the findings")
	}
	for _, check := range doc.Checks {
		switch check.Verdict {
		case document.VerdictPass, document.VerdictFindings:
		case document.VerdictIncomplete:
			if check.Criticality != "advisory" && !c.troubled(check.Name) {
				c.problem(kind, "the run could not complete its check %.60q: %s", check.Name, check.Detail)
			}
		default:
			return refuse(kind, "the report holds the unknown verdict %.40q", check.Verdict)
		}
	}
	return c.checkSummaries(doc)
}

// troubled says whether a problem with that kind of evidence is known already: one telling is enough.
func (c *collector) troubled(kind string) bool {
	return slices.ContainsFunc(c.out.Evidence.Problems, func(p domain.Problem) bool { return p.Kind == kind })
}

func (c *collector) checkSummaries(doc *document.ReportDocument) error {
	const kind = document.Report
	if c.source == nil {
		return nil
	}
	listed := map[string]document.PlatformSummary{}
	for _, p := range doc.Platforms {
		listed[p.Platform] = p
	}
	if len(listed) != len(doc.Platforms) || len(listed) > len(c.source.Platforms) {
		return refuse(kind, "the report lists platforms that the image does not have")
	}
	for _, p := range c.source.Platforms {
		line, ok := listed[p.Platform]
		counts, scanned := c.reports[p.Platform]
		switch {
		case !ok:
			c.problem(kind, "the report says nothing about the platform %.80q", p.Platform)
			continue
		case line.Image != p.Digest:
			return refuse(kind, "the report on %.80q is about another image", p.Platform)
		case scanned && line.Findings != counts:
			return refuse(kind, "the report on %.80q counts other findings than there are", p.Platform)
		case line.Incomplete && len(c.out.Evidence.Problems) == 0:
			c.problem(kind, "the report calls the platform %.80q incomplete", p.Platform)
		}
	}
	return nil
}
