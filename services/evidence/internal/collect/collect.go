// Package collect turns a run's artifacts into evidence, or refuses them. A step is untrusted: only digests that came through the runner's
// result channel are fetched, everything is hashed on the way, and each statement is held against what we know without the steps: the
// digest that was asked for, the image that lies in quarantine, the run and its attempt. What contradicts is refused; what is missing
// makes the evidence incomplete.
package collect

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/pratique-io/pratique/internal/document"
	"github.com/pratique-io/pratique/internal/oci"
	"github.com/pratique-io/pratique/services/evidence/internal/domain"
)

// Input is what is known independently of the evidence.
type Input struct {
	Tenant, Request uuid.UUID
	Digest          string            // as asked for
	Run             string            // from RunSucceeded, as all below
	Attempt         int               // 1 for the first
	Image           string            // digest of the copy
	Repository      string            // host/repository of the copy
	Artifacts       map[string]string // digests by kind
	// Final takes what the registry does not have as missing for good.
	Final bool
}

// Refused is the error of evidence that is not what it has to be. Permanent.
type Refused struct {
	Kind string // of evidence
	Text string // a sentence for people, cleaned
}

// Error implements error.
func (r *Refused) Error() string { return r.Kind + ": " + r.Text }

func refuse(kind document.Kind, format string, args ...any) error {
	return &Refused{Kind: string(kind), Text: domain.Clip(fmt.Sprintf(format, args...), 300)}
}

// ErrMissing is the error of an artifact that the registry does not have; it may yet come.
var ErrMissing = errors.New("not in the quarantine registry")

// Result is evidence that holds together.
type Result struct {
	Evidence   domain.Evidence
	Documents  []domain.Document // without Repository
	Components []domain.Component
	Artifacts  map[document.Kind]oci.Digest // those that are there, to be copied
}

// skew is how far a clock elsewhere may be ahead of ours.
const skew = 10 * time.Minute

// Bounds over all platforms of one image.
const (
	maxPackages  = 500_000
	maxFindings  = 300_000
	maxReferrers = 1000
)

// collector reads one run's artifacts.
type collector struct {
	in   Input
	repo *oci.Repository
	now  time.Time
	tree *oci.Tree
	got  map[document.Kind]*document.Artifact
	out  Result

	source   *document.SourceDocument
	sboms    map[string]*document.SBOMDocument // packages are dropped once indexed
	findings []domain.Finding
	reports  map[string]document.Counts // findings per platform
	datasets map[string]bool            // digests of the databases used
	packages map[packageKey]bool
}

type packageKey struct{ kind, name, version string }

// Verify fetches and checks everything. Errors: *Refused, ErrMissing, or what the registry gave.
func Verify(ctx context.Context, repo *oci.Repository, in Input, now time.Time) (Result, error) {
	c := &collector{
		in: in, repo: repo, now: now, got: map[document.Kind]*document.Artifact{}, sboms: map[string]*document.SBOMDocument{},
		reports: map[string]document.Counts{}, datasets: map[string]bool{}, packages: map[packageKey]bool{},
	}
	c.out.Artifacts = map[document.Kind]oci.Digest{}
	c.out.Evidence = domain.Evidence{Subject: in.Digest, Platforms: []domain.Platform{}, Referrers: []string{}, Problems: []domain.Problem{}, Tools: []domain.Tool{}}
	for _, step := range []func(context.Context) error{c.image, c.open, c.readSource, c.readSBOM, c.readVulnerabilities, c.readReport, c.readFormats} {
		if err := step(ctx); err != nil {
			return Result{}, err
		}
	}
	c.conclude()
	return c.out, nil
}

// sort tells what kind of failure reading one kind of evidence was.
func sort(kind document.Kind, err error) error {
	var bad *oci.Unacceptable
	var refused *Refused
	switch {
	case err == nil || errors.As(err, &refused):
		return err
	case errors.Is(err, document.ErrRefused):
		_, text, _ := strings.Cut(err.Error(), document.ErrRefused.Error()+": ")
		return refuse(kind, "the %s evidence is refused: %s", kind, text)
	case errors.As(err, &bad):
		return refuse(kind, "the %s evidence is refused: %s", kind, bad.Error())
	case errors.Is(err, oci.ErrNotFound):
		return fmt.Errorf("%s evidence: %w: %w", kind, ErrMissing, err)
	}
	return fmt.Errorf("%s evidence: %w", kind, err)
}

func (c *collector) problem(kind document.Kind, format string, args ...any) {
	c.out.Evidence.Problems = append(c.out.Evidence.Problems, domain.Problem{
		Kind: string(kind), Outcome: domain.OutcomeIncomplete, Text: domain.Clip(fmt.Sprintf(format, args...), 300),
	})
}

// image reads the copy in quarantine: the only witness of what was asked for that no step could make up.
func (c *collector) image(ctx context.Context) error {
	if c.in.Image != c.in.Digest {
		return refuse(document.Source, "the run copied %.80q, %s was asked for", c.in.Image, c.in.Digest)
	}
	if want := domain.Repository(c.in.Tenant, c.in.Request); !strings.HasSuffix(c.in.Repository, "/"+want) {
		return refuse(document.Source, "the run wrote to %.200q, not to %s", c.in.Repository, want)
	}
	tree, err := oci.Walk(ctx, c.repo, oci.Digest(c.in.Digest), oci.DefaultLimits)
	if errors.Is(err, oci.ErrNotFound) && c.in.Final {
		return refuse(document.Source, "the image copy is not in the quarantine registry")
	}
	c.tree = tree
	return sort(document.Source, err)
}

// open opens the four artifacts. Each kind needs one of its own.
func (c *collector) open(ctx context.Context) error {
	for kind := range c.in.Artifacts {
		if _, err := document.ParseKind(kind); err != nil {
			return refuse(document.Report, "the run names evidence of the unknown kind %.40q", kind)
		}
	}
	for _, kind := range document.Kinds() {
		digest := c.in.Artifacts[string(kind)]
		if digest == "" {
			c.problem(kind, "the run named no %s evidence", kind)
			continue
		}
		a, err := document.Open(ctx, c.repo, oci.Digest(digest), document.Want{
			Kind: kind, Subject: oci.Digest(c.in.Digest), Run: c.in.Run, Attempt: c.in.Attempt,
		})
		if err = sort(kind, err); err != nil {
			if errors.Is(err, ErrMissing) && c.in.Final {
				c.problem(kind, "the %s evidence is not in the quarantine registry", kind)
				continue
			}
			return err
		}
		if root := c.tree.Root.Descriptor(); a.Head.Subject.Size != root.Size || a.Head.Subject.MediaType != root.MediaType {
			return refuse(kind, "the %s evidence describes its subject as %d bytes of %.80q, which it is not", kind, a.Head.Subject.Size, a.Head.Subject.MediaType)
		}
		if a.Head.FinishedAt.After(c.now.Add(skew)) {
			return refuse(kind, "the %s evidence is from the future: %s", kind, a.Head.FinishedAt.Format(time.RFC3339))
		}
		c.take(a)
	}
	return nil
}

func (c *collector) take(a *document.Artifact) {
	e := &c.out.Evidence
	c.got[a.Kind] = a
	c.out.Artifacts[a.Kind] = a.Digest
	tool := domain.Tool{Kind: string(a.Kind), Name: domain.Clip(a.Head.Tool, 100), Version: domain.Clip(a.Head.ToolVersion, 100), FinishedAt: a.Head.FinishedAt}
	e.Tools = append(e.Tools, tool)
	if e.OldestAt.IsZero() || tool.FinishedAt.Before(e.OldestAt) {
		e.OldestAt = tool.FinishedAt
	}
	for _, i := range a.Items {
		c.out.Documents = append(c.out.Documents, domain.Document{
			Kind: string(a.Kind), Platform: domain.Clip(i.Platform, 200), Format: Format(i.Format), MediaType: i.Descriptor.MediaType,
			Digest: string(i.Descriptor.Digest), Size: i.Descriptor.Size, Tool: tool.Name, ToolVersion: tool.Version,
			FinishedAt: tool.FinishedAt, Artifact: string(a.Digest),
		})
	}
}

// Format is how a document's format is called outside: our own is plain "json".
func Format(f document.Format) string {
	if f == document.Pratique {
		return "json"
	}
	return string(f)
}

// conclude folds what was read per platform.
func (c *collector) conclude() {
	e := &c.out.Evidence
	e.MediaType = c.tree.Root.MediaType
	all, counts, most := domain.Distinct(c.findings)
	e.Findings, e.Counts, e.MaxCVSS = all[:min(len(all), domain.MaxFindings)], counts, most
	e.Packages = len(c.packages)
	e.Components = len(c.out.Components)
	if d, ok := c.out.Artifacts[document.Report]; ok {
		e.Report = string(d)
	}
}

// readSource takes the platforms and the pinned referrers, and holds the platforms against the image itself.
func (c *collector) readSource(ctx context.Context) error {
	a := c.got[document.Source]
	if a == nil {
		return nil
	}
	doc, err := a.Source(ctx)
	if err = sort(document.Source, err); err != nil {
		return err
	}
	if doc.Root.Size != int64(len(c.tree.Root.Raw)) || doc.Root.MediaType != c.tree.Root.MediaType {
		return refuse(document.Source, "the source evidence describes another root than the one in quarantine")
	}
	runnable := map[oci.Digest]*oci.Platform{}
	for _, i := range c.tree.Images {
		if !attestation(i) {
			runnable[i.Manifest.Digest] = i.Platform
		}
	}
	names := map[string]bool{}
	for _, p := range doc.Platforms {
		says, ok := runnable[p.Digest]
		switch {
		case !ok:
			return refuse(document.Source, "the source evidence names a platform that the image does not have: %.80q", p.Platform)
		case names[p.Platform] || p.Platform == document.WholeImage:
			return refuse(document.Source, "the source evidence names the platform %.80q twice or not at all", p.Platform)
		case says != nil && (says.OS != p.OS || says.Architecture != p.Architecture || says.Variant != p.Variant):
			return refuse(document.Source, "the source evidence calls %s %.80q, its index calls it %.80q", p.Digest, p.Platform, says.String())
		}
		names[p.Platform] = true
		delete(runnable, p.Digest)
		c.out.Evidence.Platforms = append(c.out.Evidence.Platforms, domain.Platform{
			Name: domain.Clip(p.Platform, 200), OS: domain.Clip(p.OS, 60), Arch: domain.Clip(p.Architecture, 60),
			Variant: domain.Clip(p.Variant, 60), Digest: string(p.Digest),
		})
	}
	for d := range runnable {
		return refuse(document.Source, "the source evidence keeps silent about %s, which can run", d)
	}
	if len(doc.Referrers) > maxReferrers {
		return refuse(document.Source, "the source evidence pins %d referrers", len(doc.Referrers))
	}
	if err := c.readReferrers(ctx, doc); err != nil {
		return err
	}
	c.source = doc
	return nil
}

// readReferrers takes the pinned referrers. A release brings them along, so each has to speak about this image and be none itself: what
// could run and came this way would be in the trusted registry with nobody having looked at it.
func (c *collector) readReferrers(ctx context.Context, doc *document.SourceDocument) error {
	const kind = document.Source
	known, pinned := map[oci.Digest]bool{}, map[oci.Digest]bool{}
	for _, m := range c.tree.Manifests {
		known[m.Digest] = true
	}
	subjects := map[oci.Digest]oci.Digest{}
	for _, r := range doc.Referrers {
		if pinned[r.Digest] {
			return refuse(kind, "the source evidence pins the referrer %s twice", r.Digest)
		}
		pinned[r.Digest] = true
		tree, err := oci.Walk(ctx, c.repo, r.Digest, oci.DefaultLimits)
		if errors.Is(err, oci.ErrNotFound) && c.in.Final {
			return refuse(kind, "the pinned referrer %s is not in the quarantine registry", r.Digest)
		}
		if err = sort(kind, err); err != nil {
			return err
		}
		if tree.Runnable() != nil {
			return refuse(kind, "the pinned referrer %s is an image of its own", r.Digest)
		}
		for _, m := range tree.Manifests { // only digests are kept: there may be many trees
			known[m.Digest] = true
		}
		if subjects[r.Digest] = ""; tree.Root.Subject != nil {
			subjects[r.Digest] = tree.Root.Subject.Digest
		}
		c.out.Evidence.Referrers = append(c.out.Evidence.Referrers, string(r.Digest))
	}
	for digest, subject := range subjects {
		if !known[subject] {
			return refuse(kind, "the pinned referrer %s speaks about another image", digest)
		}
	}
	return nil
}

// attestation recognises what build tools attach to an index: for no platform, and nothing but statements in it. What calls itself
// "unknown" but has other layers is treated as the image it may be.
func attestation(i oci.Image) bool {
	p := i.Platform
	if p == nil || p.OS != "unknown" || p.Architecture != "unknown" {
		return false
	}
	return !slices.ContainsFunc(i.Manifest.Layers, func(d oci.Descriptor) bool { return d.MediaType != "application/vnd.in-toto+json" })
}
