// Package pull is the step that brings an image into quarantine. It alone reaches the source.
//
// Everything is by digest: the source is walked strictly, the whole tree and the pinned referrers are copied and read
// back, and then every layer is opened where it now lies, so that what was looked at is what was stored. Quarantine is an
// untrusted store; an image that turns out unacceptable there is deleted with it.
package pull

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"

	"github.com/pratique-io/pratique/internal/document"
	"github.com/pratique-io/pratique/internal/egress"
	"github.com/pratique-io/pratique/internal/oci"
	"github.com/pratique-io/pratique/steps/image"
	"github.com/pratique-io/pratique/steps/layer"
	"github.com/pratique-io/pratique/steps/step"
)

// puller is one pull under way.
type puller struct {
	*step.Step
	from, to  oci.Reference
	src, dst  *oci.Repository
	limits    oci.Limits
	layers    layer.Limits
	doc       document.SourceDocument
	tree      *oci.Tree
	referrers []*oci.Tree
}

// Run executes `pratique-step pull`.
func Run(ctx context.Context, version string, args []string, log io.Writer) int {
	p := &puller{}
	flags := flag.NewFlagSet("pull", flag.ContinueOnError)
	source := flags.String("source", "", "host/repository@digest to bring in")
	sourceAuth := flags.String("source-auth", "", "file with the source's credential")
	target := flags.String("target", "", "host/repository in quarantine")
	targetAuth := flags.String("target-auth", "", "file with quarantine's credential")
	flags.Int64Var(&p.limits.TotalBytes, "max-bytes", 0, "bytes of the whole image as stored (0: default)")
	flags.Int64Var(&p.layers.Bytes, "max-unpacked-bytes", 0, "bytes of all layers decompressed (0: default)")
	flags.Int64Var(&p.layers.Ratio, "max-ratio", 0, "decompressed to compressed, per layer (0: default)")
	flags.IntVar(&p.layers.Entries, "max-entries", 0, "files of all layers (0: default)")
	flags.DurationVar(&p.layers.Time, "max-layer-time", 0, "time to read one layer (0: default)")
	var err error
	if p.Step, err = step.New("pull", version, flags, args, log); err == nil {
		err = p.connect(*source, *sourceAuth, *target, *targetAuth)
	}
	if err == nil {
		err = p.run(ctx)
	}
	return p.Finish(err)
}

func (p *puller) connect(source, sourceAuth, target, targetAuth string) (err error) {
	if p.from, err = step.Pinned("source", source); err != nil {
		return err
	}
	if p.to, err = oci.ParseDestination(target); err != nil {
		return fmt.Errorf("--target: %w", err)
	}
	if p.to.Tag != "" {
		return errors.New("--target: give host/repository without a tag")
	}
	if p.src, err = p.Repository(egress.Source, p.from, sourceAuth, p.limits); err != nil {
		return err
	}
	p.dst, err = p.Repository(egress.Quarantine, p.to, targetAuth, p.limits)
	return err
}

func (p *puller) run(ctx context.Context) error {
	p.doc = document.SourceDocument{
		Reference: p.from.String(), Attachments: []document.Object{}, Referrers: []document.Referrer{},
		Skipped: []document.Skipped{}, PulledAt: p.Now().UTC(),
	}
	var err error
	if p.tree, err = oci.Walk(ctx, p.src, p.from.Digest, p.limits); err != nil {
		return fmt.Errorf("source: %w", err)
	}
	p.Info("source walked", "digest", p.from.Digest, "manifests", len(p.tree.Manifests), "blobs", len(p.tree.Blobs), "bytes", p.tree.Bytes)
	images, attachments, err := image.Images(ctx, p.src, p.tree)
	if err != nil {
		return fmt.Errorf("source: %w", err)
	}
	if err := p.pin(ctx, images); err != nil {
		return err
	}
	if err := p.copy(ctx); err != nil {
		return err
	}
	if err := p.inspect(ctx, images); err != nil {
		return err
	}
	return p.record(ctx, images, attachments)
}

// maxReferrers bounds the pinned list.
const maxReferrers = 200

// pin decides which referrers belong to the evidence. Anybody who may push beside an image may attach anything to it, so a
// listed referrer that is malformed, speaks about something else or could itself be run is left out, not a reason to refuse
// the image.
func (p *puller) pin(ctx context.Context, images []image.Image) error {
	subjects := []oci.Digest{p.tree.Root.Digest}
	for _, i := range images {
		if i.Manifest.Digest != p.tree.Root.Digest {
			subjects = append(subjects, i.Manifest.Digest)
		}
	}
	listed := 0
	for _, subject := range subjects {
		found, err := p.src.Referrers(ctx, subject, "")
		if err != nil {
			return fmt.Errorf("referrers of %s: %w", subject, err)
		}
		for _, d := range found {
			if listed++; listed > maxReferrers {
				return step.Unacceptable("more than %d referrers", maxReferrers)
			}
			if err := p.pinOne(ctx, subject, d); err != nil {
				return err
			}
		}
	}
	return nil
}

func (p *puller) pinOne(ctx context.Context, subject oci.Digest, d oci.Descriptor) error {
	tree, err := oci.Walk(ctx, p.src, d.Digest, p.limits)
	var bad *oci.Unacceptable
	reason := ""
	switch {
	case errors.As(err, &bad):
		reason = bad.Error()
	case errors.Is(err, oci.ErrNotFound):
		reason = "listed but not there"
	case err != nil:
		return fmt.Errorf("referrer %s: %w", d.Digest, err)
	case tree.Root.Subject == nil || tree.Root.Subject.Digest != subject:
		reason = "its subject is something else"
	case tree.Runnable() != nil:
		reason = "it is an image of its own, which nobody asked for"
	}
	if reason != "" {
		p.Log("warn", "referrer left out", "digest", d.Digest, "reason", reason)
		p.doc.Skipped = append(p.doc.Skipped, document.Skipped{Digest: d.Digest, Reason: reason})
		return nil
	}
	kind := tree.Root.ArtifactType
	if kind == "" && tree.Root.Config != nil {
		kind = tree.Root.Config.MediaType
	}
	p.referrers = append(p.referrers, tree)
	p.doc.Referrers = append(p.doc.Referrers, document.Referrer{
		Digest: tree.Root.Digest, Subject: subject, ArtifactType: kind, Size: int64(len(tree.Root.Raw)),
	})
	return nil
}

// copy brings everything into quarantine and tags each manifest: registries collect what has no tag.
func (p *puller) copy(ctx context.Context) error {
	opts := oci.CopyOptions{Tags: []string{"run-" + p.Run}, Limits: p.limits}
	for _, r := range p.referrers {
		opts.Referrers = append(opts.Referrers, r.Root.Digest)
	}
	report, err := oci.Copy(ctx, p.src, p.dst, p.from.Digest, opts)
	if err != nil {
		return fmt.Errorf("copy: %w", err)
	}
	for _, tree := range append([]*oci.Tree{p.tree}, p.referrers...) {
		for _, m := range tree.Manifests {
			if m.Digest == p.tree.Root.Digest {
				continue
			}
			tag := "run-" + p.Run + "-" + m.Digest.Hex()[:16]
			if _, err := p.dst.PushManifest(ctx, tag, m.MediaType, m.Raw); err != nil {
				return fmt.Errorf("tag %s: %w", m.Digest, err)
			}
		}
	}
	p.Info("copied into quarantine", "blobs", report.Blobs, "present", report.BlobsPresent, "mounted", report.BlobsMounted, "bytes", report.Bytes)
	return nil
}

// inspect opens every layer once, from quarantine, and holds it against what each config promises.
func (p *puller) inspect(ctx context.Context, images []image.Image) error {
	inspector := layer.NewInspector(p.layers)
	done := map[oci.Digest]oci.Digest{}
	for _, img := range images {
		for n, d := range img.Manifest.Layers {
			if len(d.URLs) > 0 {
				return step.Unacceptable("layer %s lies outside the registry", d.Digest)
			}
			if _, ok := done[d.Digest]; !ok {
				report, err := p.open(ctx, inspector, d)
				if err != nil {
					return fmt.Errorf("layer %d of %s (%s): %w", n+1, img.Key(), d.Digest, err)
				}
				done[d.Digest] = report.DiffID
			}
			if promised := img.Config.RootFS.DiffIDs[n]; promised != done[d.Digest] {
				return fmt.Errorf("layer %d of %s (%s): %w", n+1, img.Key(), d.Digest,
					&layer.Unacceptable{Reason: layer.ReasonDiffID, Detail: fmt.Sprintf("its content is %s, the config promises %.90q", done[d.Digest], promised)})
			}
		}
	}
	p.Info("layers opened", "layers", len(done))
	return nil
}

func (p *puller) open(ctx context.Context, inspector *layer.Inspector, d oci.Descriptor) (*layer.Report, error) {
	r, err := p.dst.Blob(ctx, d)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	report, err := inspector.Inspect(ctx, r, d.MediaType)
	if err != nil {
		return nil, err
	}
	state := document.LayerState{
		Digest: d.Digest, DiffID: report.DiffID, Size: d.Size, Bytes: report.Bytes, Entries: report.Entries,
		Counts: report.Counts, Findings: []document.LayerFinding{},
	}
	for _, f := range report.Findings {
		state.Findings = append(state.Findings, document.LayerFinding{Kind: f.Kind, Path: f.Path})
	}
	p.doc.Layers = append(p.doc.Layers, state)
	return report, nil
}

func (p *puller) record(ctx context.Context, images []image.Image, attachments []*oci.Manifest) error {
	p.doc.Root = object(p.tree.Root)
	p.doc.Bytes = p.tree.Bytes
	for _, m := range attachments {
		p.doc.Attachments = append(p.doc.Attachments, object(m))
	}
	for _, i := range images {
		out := document.Image{
			Platform: i.Key(), OS: i.Platform.OS, Architecture: i.Platform.Architecture, Variant: i.Platform.Variant,
			Digest: i.Manifest.Digest, Size: i.Size(),
		}
		if says := i.Config.Platform(); says.OS != i.Platform.OS || says.Architecture != i.Platform.Architecture {
			out.ConfigPlatform = says.String()
		}
		p.doc.Platforms = append(p.doc.Platforms, out)
	}
	own, err := document.Own(document.WholeImage, p.doc)
	if err != nil {
		return err
	}
	head := p.Head(p.tree.Root.Descriptor(), "pratique-step", p.Version)
	if err := p.Publish(ctx, p.dst, document.Source, head, []document.Layer{own}); err != nil {
		return err
	}
	return p.Result("image", p.tree.Root.Digest.String())
}

func object(m *oci.Manifest) document.Object {
	return document.Object{Digest: m.Digest, MediaType: m.MediaType, Size: int64(len(m.Raw))}
}
