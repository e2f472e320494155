package document

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
	"time"

	"github.com/pratique-io/pratique/internal/oci"
)

// Repository is where artifacts are read from; *oci.Repository is one. Both methods verify digests.
type Repository interface {
	Manifest(ctx context.Context, d oci.Digest) (*oci.Manifest, error)
	Blob(ctx context.Context, d oci.Descriptor) (io.ReadCloser, error)
}

// ErrRefused is the error of evidence that is not what it has to be; permanent for that digest. The text says why.
var ErrRefused = errors.New("evidence refused")

func refuse(format string, args ...any) error {
	return fmt.Errorf("%w: "+format, append([]any{ErrRefused}, args...)...)
}

// Want is what the reader knows independently of the evidence: from the request, the run and its result channel.
type Want struct {
	Kind    Kind
	Subject oci.Digest // root of the image
	Run     string     // the run's id
	Attempt int        // 0 accepts any
}

// Artifact is an opened piece of evidence. Its head and the list of its documents are checked; contents are checked as they
// are read.
type Artifact struct {
	Kind   Kind
	Digest oci.Digest
	Head   Head
	Items  []Item
	// Manifest is exactly what was hashed, for readers that store a copy.
	Manifest *oci.Manifest
	repo     Repository
}

// Item is one document of an artifact.
type Item struct {
	Platform   string
	Format     Format
	Descriptor oci.Descriptor
}

// Open reads the artifact with that digest strictly. It must be of the kind, about the subject and from the run that are
// wanted, and hold exactly documents of known formats, each platform with one in the Pratique format. Errors: ErrRefused,
// *oci.Unacceptable, or what the registry gave.
func Open(ctx context.Context, repo Repository, digest oci.Digest, want Want) (*Artifact, error) {
	if !digest.Valid() || !want.Subject.Valid() || want.Run == "" {
		return nil, refuse("asked for without digest, subject or run")
	}
	m, err := repo.Manifest(ctx, digest)
	if err != nil {
		return nil, fmt.Errorf("open %s evidence: %w", want.Kind, err)
	}
	a := &Artifact{Kind: want.Kind, Digest: digest, Manifest: m, repo: repo}
	if err := a.head(m, want); err != nil {
		return nil, err
	}
	return a, a.items(m)
}

func (a *Artifact) head(m *oci.Manifest, want Want) error {
	attempt, err := strconv.Atoi(m.Annotations[AnnotationAttempt])
	if err != nil || attempt < 1 {
		return refuse("attempt %.20q", m.Annotations[AnnotationAttempt])
	}
	finished, err := time.Parse(time.RFC3339Nano, m.Annotations[AnnotationFinishedAt])
	if err != nil {
		return refuse("finished at %.40q", m.Annotations[AnnotationFinishedAt])
	}
	switch {
	case m.MediaType != oci.MediaTypeImage || m.ArtifactType != want.Kind.ArtifactType():
		return refuse("%.80q is not %s evidence", m.ArtifactType, want.Kind)
	case m.Annotations[AnnotationKind] != string(want.Kind):
		return refuse("it says it is %.40q, not %s", m.Annotations[AnnotationKind], want.Kind)
	case m.Subject == nil || m.Subject.Digest != want.Subject:
		return refuse("it is about another image than %s", want.Subject)
	case m.Annotations[AnnotationRun] != want.Run:
		return refuse("it is from the run %.40q, not %s", m.Annotations[AnnotationRun], want.Run)
	case want.Attempt != 0 && attempt != want.Attempt:
		return refuse("it is from attempt %d, not %d", attempt, want.Attempt)
	}
	a.Head = Head{
		Subject: *m.Subject, Run: want.Run, Attempt: attempt, FinishedAt: finished.UTC(),
		Tool: m.Annotations[AnnotationTool], ToolVersion: m.Annotations[AnnotationToolVersion],
	}
	if err := a.Head.check(); err != nil {
		return refuse("%v", err)
	}
	return nil
}

func (a *Artifact) items(m *oci.Manifest) error {
	if len(m.Layers) == 0 || len(m.Layers) > MaxLayers {
		return refuse("%d documents", len(m.Layers))
	}
	own, seen := map[string]bool{}, map[string]bool{}
	for _, d := range m.Layers {
		i := Item{Platform: d.Annotations[AnnotationPlatform], Format: Format(d.Annotations[AnnotationFormat]), Descriptor: d}
		mediaType, ok := a.Kind.MediaType(i.Format)
		key := i.Platform + " " + string(i.Format)
		switch {
		case !ok || d.MediaType != mediaType:
			return refuse("a document of the unknown format %.40q (%.80q)", i.Format, d.MediaType)
		case seen[key]:
			return refuse("two documents for %.80q", key)
		case d.Size > MaxDocument || i.Format == Pratique && d.Size > MaxOwn:
			return refuse("a document of %d bytes", d.Size)
		case len(d.URLs) > 0:
			return refuse("a document that lies elsewhere")
		case (i.Platform == WholeImage) != (a.Kind == Source || a.Kind == Report):
			return refuse("a document for the platform %.80q", i.Platform)
		}
		seen[key] = true
		own[i.Platform] = own[i.Platform] || i.Format == Pratique
		a.Items = append(a.Items, i)
	}
	for platform, ok := range own {
		if !ok {
			return refuse("no summary for the platform %.80q", platform)
		}
	}
	return nil
}

// Platforms lists the platforms the artifact speaks about, in its order.
func (a *Artifact) Platforms() []string {
	var out []string
	for _, i := range a.Items {
		if i.Format == Pratique {
			out = append(out, i.Platform)
		}
	}
	return out
}

// Item returns the document of a platform in a format.
func (a *Artifact) Item(platform string, format Format) (Item, bool) {
	for _, i := range a.Items {
		if i.Platform == platform && i.Format == format {
			return i, true
		}
	}
	return Item{}, false
}

// Content streams a document; the last read fails when the bytes do not have its digest.
func (a *Artifact) Content(ctx context.Context, i Item) (io.ReadCloser, error) {
	return a.repo.Blob(ctx, i.Descriptor)
}

// Bytes reads a document whole. Its size was bounded when the artifact was opened.
func (a *Artifact) Bytes(ctx context.Context, platform string, format Format) ([]byte, error) {
	i, ok := a.Item(platform, format)
	if !ok {
		return nil, refuse("no %s document for the platform %.80q", format, platform)
	}
	r, err := a.Content(ctx, i)
	if err != nil {
		return nil, fmt.Errorf("read %s evidence: %w", a.Kind, err)
	}
	defer r.Close()
	raw, err := io.ReadAll(r)
	if err != nil {
		return nil, fmt.Errorf("read %s evidence: %w", a.Kind, err)
	}
	return raw, nil
}

// Source reads the document of a source artifact and checks that it is about the artifact's subject.
func (a *Artifact) Source(ctx context.Context) (*SourceDocument, error) {
	doc, err := read[SourceDocument](ctx, a, Source, WholeImage)
	if err != nil {
		return nil, err
	}
	if doc.Root.Digest != a.Head.Subject.Digest || len(doc.Platforms) == 0 {
		return nil, refuse("a source document about another image or without platforms")
	}
	for _, r := range doc.Referrers {
		if !r.Digest.Valid() {
			return nil, refuse("a referrer that is no digest")
		}
	}
	return doc, nil
}

// SBOM reads one platform's package list.
func (a *Artifact) SBOM(ctx context.Context, platform string) (*SBOMDocument, error) {
	doc, err := read[SBOMDocument](ctx, a, SBOM, platform)
	if err != nil {
		return nil, err
	}
	if doc.Platform != platform || !doc.Image.Valid() || doc.PackageCount != len(doc.Packages) {
		return nil, refuse("a package list that contradicts itself")
	}
	return doc, nil
}

// Vulnerabilities reads one platform's findings; counts are counted again.
func (a *Artifact) Vulnerabilities(ctx context.Context, platform string) (*VulnerabilityDocument, error) {
	doc, err := read[VulnerabilityDocument](ctx, a, Vulnerabilities, platform)
	if err != nil {
		return nil, err
	}
	if doc.Platform != platform || !doc.Image.Valid() || !doc.SBOM.Valid() || doc.Counts != Count(doc.Findings) {
		return nil, refuse("findings that contradict their counts or name no image")
	}
	if doc.Database.Digest == "" || doc.Database.Built.IsZero() || len(doc.Canaries) == 0 {
		return nil, refuse("findings without a database or a canary")
	}
	return doc, nil
}

// Report reads the summary of a run.
func (a *Artifact) Report(ctx context.Context) (*ReportDocument, error) {
	doc, err := read[ReportDocument](ctx, a, Report, WholeImage)
	if err != nil {
		return nil, err
	}
	if doc.Subject.Digest != a.Head.Subject.Digest || doc.Run != a.Head.Run || doc.Attempt != a.Head.Attempt {
		return nil, refuse("a report about another image, run or attempt")
	}
	return doc, nil
}

func read[T any](ctx context.Context, a *Artifact, kind Kind, platform string) (*T, error) {
	if a.Kind != kind {
		return nil, refuse("%s evidence is not %s evidence", a.Kind, kind)
	}
	raw, err := a.Bytes(ctx, platform, Pratique)
	if err != nil {
		return nil, err
	}
	out := new(T)
	if err := json.Unmarshal(raw, out); err != nil { // exactly one value; wrong types fail
		return nil, refuse("not a %s document: %v", kind, err)
	}
	return out, nil
}
