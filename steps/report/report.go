// Package report is the step that ties the evidence of a run together: one document that names the others by digest and says
// in a few lines what they hold. It decides nothing; it refuses to speak when the pieces do not fit.
package report

import (
	"context"
	"flag"
	"fmt"
	"io"

	"github.com/pratique-io/pratique/internal/document"
	"github.com/pratique-io/pratique/internal/egress"
	"github.com/pratique-io/pratique/internal/oci"
	"github.com/pratique-io/pratique/steps/step"
)

type reporter struct {
	*step.Step
	ref  oci.Reference
	repo *oci.Repository
	doc  document.ReportDocument
}

// Run executes `pratique-step report`.
func Run(ctx context.Context, version string, args []string, log io.Writer) int {
	r := &reporter{}
	flags := flag.NewFlagSet("report", flag.ContinueOnError)
	ref := flags.String("image", "", "host/repository@digest in quarantine")
	auth := flags.String("auth", "", "file with quarantine's credential")
	digests := map[document.Kind]*string{}
	for _, k := range []document.Kind{document.Source, document.SBOM, document.Vulnerabilities} {
		digests[k] = flags.String(string(k), "", "digest of the run's "+string(k)+" evidence")
	}
	var err error
	if r.Step, err = step.New("report", version, flags, args, log); err == nil {
		err = r.connect(*ref, *auth)
	}
	if err == nil {
		err = r.run(ctx, digests)
	}
	return r.Finish(err)
}

func (r *reporter) connect(ref, auth string) (err error) {
	if r.ref, err = step.Pinned("image", ref); err != nil {
		return err
	}
	r.repo, err = r.Repository(egress.Quarantine, r.ref, auth, oci.Limits{})
	return err
}

func (r *reporter) run(ctx context.Context, digests map[document.Kind]*string) error {
	root, err := r.repo.Manifest(ctx, r.ref.Digest)
	if err != nil {
		return fmt.Errorf("image: %w", err)
	}
	r.doc = document.ReportDocument{
		Subject: document.Object{Digest: root.Digest, MediaType: root.MediaType, Size: int64(len(root.Raw))},
		Run:     r.Run, Attempt: r.Attempt, Documents: map[document.Kind]oci.Digest{}, GeneratedAt: r.Now().UTC(),
	}
	opened := map[document.Kind]*document.Artifact{}
	for kind, digest := range digests {
		a, err := r.Evidence(ctx, r.repo, kind, *digest, r.ref.Digest)
		if err != nil {
			return err
		}
		opened[kind], r.doc.Documents[kind] = a, a.Digest
	}
	if err := r.summarise(ctx, opened); err != nil {
		return err
	}
	own, err := document.Own(document.WholeImage, r.doc)
	if err != nil {
		return err
	}
	return r.Publish(ctx, r.repo, document.Report, r.Head(root.Descriptor(), "pratique-step", r.Version), []document.Layer{own})
}

// summarise reads every document once and holds them against each other, platform by platform.
func (r *reporter) summarise(ctx context.Context, opened map[document.Kind]*document.Artifact) error {
	src, err := opened[document.Source].Source(ctx)
	if err != nil {
		return err
	}
	bills, scans := opened[document.SBOM], opened[document.Vulnerabilities]
	if len(bills.Platforms()) != len(src.Platforms) || len(scans.Platforms()) != len(src.Platforms) {
		return fmt.Errorf("%w: %d platforms were pulled, %d listed, %d scanned", document.ErrRefused,
			len(src.Platforms), len(bills.Platforms()), len(scans.Platforms()))
	}
	var unlisted, unscanned, found int
	for _, p := range src.Platforms {
		bill, err := bills.SBOM(ctx, p.Platform)
		if err != nil {
			return err
		}
		scan, err := scans.Vulnerabilities(ctx, p.Platform)
		if err != nil {
			return err
		}
		if bill.Image != p.Digest || scan.Image != p.Digest || scan.SBOM != bills.Digest {
			return fmt.Errorf("%w: the documents of %s speak about different images", document.ErrRefused, p.Platform)
		}
		if r.doc.Database.Digest != "" && r.doc.Database != scan.Database {
			return fmt.Errorf("%w: platforms were matched against different databases", document.ErrRefused)
		}
		r.doc.Database = scan.Database
		if bill.Incomplete {
			unlisted++
		}
		if scan.Incomplete {
			unscanned++
		}
		found += scan.Counts.Total
		r.doc.Platforms = append(r.doc.Platforms, document.PlatformSummary{
			Platform: p.Platform, Image: p.Digest, Packages: bill.PackageCount,
			Incomplete: bill.Incomplete || scan.Incomplete, Findings: scan.Counts,
		})
	}
	r.check(opened[document.Source], document.VerdictPass, fmt.Sprintf("%d platforms, %d layers, %d referrers", len(src.Platforms), len(src.Layers), len(src.Referrers)))
	r.check(bills, verdict(unlisted, 0), fmt.Sprintf("%d platforms incomplete", unlisted))
	r.check(scans, verdict(unscanned, found), fmt.Sprintf("%d findings, %d platforms incomplete", found, unscanned))
	return nil
}

func verdict(incomplete, findings int) string {
	switch {
	case incomplete > 0:
		return document.VerdictIncomplete
	case findings > 0:
		return document.VerdictFindings
	}
	return document.VerdictPass
}

// check adds one line about one piece of evidence.
func (r *reporter) check(a *document.Artifact, verdict, detail string) {
	r.doc.Checks = append(r.doc.Checks, document.Check{
		Name: string(a.Kind), Criticality: "required", Verdict: verdict, Tool: a.Head.Tool,
		ToolVersion: a.Head.ToolVersion, FinishedAt: a.Head.FinishedAt, Detail: detail,
	})
	tool := document.Tool{Name: a.Head.Tool, Version: a.Head.ToolVersion}
	for _, t := range r.doc.Tools {
		if t == tool {
			return
		}
	}
	r.doc.Tools = append(r.doc.Tools, tool)
}
