// Package sbom is the step that lists the packages of every platform of an image, from quarantine and nowhere else.
//
// The catalogue is syft's, run in this process on an OCI layout in a private directory; no other way of getting at an image
// is offered to it, since it would fall through to container engines and the network. Beside it the layers are walked by
// our own eyes: a list that is empty although the files say otherwise is incomplete, which never passes.
package sbom

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/anchore/syft/syft"
	"github.com/anchore/syft/syft/cataloging"
	"github.com/anchore/syft/syft/format/cyclonedxjson"
	"github.com/anchore/syft/syft/format/spdxjson"
	"github.com/anchore/syft/syft/format/syftjson"
	syftsbom "github.com/anchore/syft/syft/sbom"
	"github.com/anchore/syft/syft/source"

	"github.com/pratique-io/pratique/internal/document"
	"github.com/pratique-io/pratique/internal/egress"
	"github.com/pratique-io/pratique/internal/oci"
	"github.com/pratique-io/pratique/steps/image"
	"github.com/pratique-io/pratique/steps/layer"
	"github.com/pratique-io/pratique/steps/step"
)

type lister struct {
	*step.Step
	ref    oci.Reference
	repo   *oci.Repository
	limits oci.Limits
	dir    string // of the layout and the documents
	tool   string // syft's version
}

// Run executes `pratique-step sbom`.
func Run(ctx context.Context, version string, args []string, log io.Writer) int {
	l := &lister{tool: step.ModuleVersion("github.com/anchore/syft")}
	flags := flag.NewFlagSet("sbom", flag.ContinueOnError)
	ref := flags.String("image", "", "host/repository@digest in quarantine")
	auth := flags.String("auth", "", "file with quarantine's credential")
	limit := flags.Duration("max-time", 0, "time for the whole step (0: no limit of its own)")
	flags.Int64Var(&l.limits.TotalBytes, "max-bytes", 0, "bytes of the whole image as stored (0: default)")
	var err error
	if l.Step, err = step.New("sbom", version, flags, args, log); err == nil {
		err = l.connect(*ref, *auth)
	}
	if err == nil {
		bounded, cancel := step.Within(ctx, *limit)
		defer cancel()
		err = l.run(bounded)
	}
	return l.Finish(err)
}

func (l *lister) connect(ref, auth string) (err error) {
	if l.ref, err = step.Pinned("image", ref); err != nil {
		return err
	}
	if l.repo, err = l.Repository(egress.Quarantine, l.ref, auth, l.limits); err != nil {
		return err
	}
	l.dir, err = l.Temp()
	return err
}

func (l *lister) run(ctx context.Context) error {
	tree, err := oci.Walk(ctx, l.repo, l.ref.Digest, l.limits)
	if err != nil {
		return fmt.Errorf("image: %w", err)
	}
	images, _, err := image.Images(ctx, l.repo, tree)
	if err != nil {
		return fmt.Errorf("image: %w", err)
	}
	var layers []document.Layer
	inspector := layer.NewInspector(layer.Limits{})
	for n, img := range images {
		made, err := l.platform(ctx, n, img, inspector)
		if err != nil {
			return fmt.Errorf("%s: %w", img.Key(), err)
		}
		layers = append(layers, made...)
	}
	return l.Publish(ctx, l.repo, document.SBOM, l.Head(tree.Root.Descriptor(), "syft", l.tool), layers)
}

// platform makes the four documents of one image.
func (l *lister) platform(ctx context.Context, n int, img image.Image, inspector *layer.Inspector) ([]document.Layer, error) {
	at := layout{dir: filepath.Join(l.dir, "layout")}
	if err := at.write(ctx, l.repo, img); err != nil {
		return nil, err
	}
	seen, err := at.evidence(ctx, img, inspector)
	if err != nil {
		return nil, err
	}
	result, err := l.catalogue(ctx, at.dir, img)
	if err != nil {
		return nil, err
	}
	doc := summarise(result, seen)
	doc.Platform, doc.Image, doc.Tool, doc.ToolVersion, doc.GeneratedAt = img.Key(), img.Manifest.Digest, "syft", l.tool, l.Now().UTC()
	own, err := document.Own(img.Key(), doc)
	if err != nil {
		return nil, err
	}
	l.Info("packages listed", "platform", img.Key(), "packages", doc.PackageCount, "files", doc.Files, "incomplete", doc.Incomplete)
	layers := []document.Layer{own}
	for _, format := range []document.Format{document.Syft, document.SPDX, document.CycloneDX} {
		made, err := encode(filepath.Join(l.dir, fmt.Sprintf("%d-%s", n, format)), img.Key(), format, *result)
		if err != nil {
			return nil, err
		}
		layers = append(layers, made)
	}
	return layers, nil
}

// catalogue runs syft. Whatever it stumbles over is the scanner's failure, never a shorter list.
func (l *lister) catalogue(ctx context.Context, dir string, img image.Image) (_ *syftsbom.SBOM, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = step.Scanner("syft gave up: %v", p)
		}
	}()
	alias := source.Alias{Name: l.ref.Host + "/" + l.ref.Repository, Version: img.Manifest.Digest.String()}
	src, err := syft.GetSource(ctx, dir, syft.DefaultGetSourceConfig().WithSources("oci-dir").WithAlias(alias))
	if err != nil {
		return nil, classify(ctx, "open", err)
	}
	defer src.Close()
	cfg := syft.DefaultCreateSBOMConfig().WithTool("syft", l.tool).WithParallelism(2)
	// Advisories of Go modules name functions; with the functions of a binary at hand fewer findings are false.
	cfg.Packages.Golang = cfg.Packages.Golang.WithCaptureSymbols(cataloging.SymbolScopeAll)
	out, err := syft.CreateSBOM(ctx, src, cfg)
	if err != nil {
		return nil, classify(ctx, "catalogue", err)
	}
	return out, nil
}

func classify(ctx context.Context, what string, err error) error {
	if ctx.Err() != nil {
		return step.Scanner("%s: %v", what, context.Cause(ctx))
	}
	return step.Scanner("%s: %v", what, err)
}

// encode writes one format to a file: bills of large images are larger than memory should be asked for three times.
func encode(path, platform string, format document.Format, s syftsbom.SBOM) (document.Layer, error) {
	var encoder syftsbom.FormatEncoder
	var err error
	switch format {
	case document.SPDX:
		encoder, err = spdxjson.NewFormatEncoderWithConfig(spdxjson.EncoderConfig{Version: "2.3"})
	case document.CycloneDX:
		encoder, err = cyclonedxjson.NewFormatEncoderWithConfig(cyclonedxjson.EncoderConfig{Version: "1.6"})
	default:
		encoder = syftjson.NewFormatEncoder()
	}
	if err != nil {
		return document.Layer{}, step.Scanner("%s: %v", format, err)
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return document.Layer{}, err
	}
	if err := errors.Join(encoder.Encode(f, s), f.Close()); err != nil {
		return document.Layer{}, step.Scanner("%s: %v", format, err)
	}
	return document.File(platform, format, path)
}
