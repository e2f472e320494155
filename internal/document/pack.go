package document

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"time"

	"github.com/pratique-io/pratique/internal/oci"
)

// Head is who made a piece of evidence, about what, and when.
type Head struct {
	Subject     oci.Descriptor // root of the image: media type, digest, size
	Run         string         // the run's id
	Attempt     int            // 1 for the first
	Tool        string
	ToolVersion string
	FinishedAt  time.Time
}

// Layer is one document to be packed.
type Layer struct {
	Platform string // WholeImage for none
	Format   Format
	Digest   oci.Digest
	Size     int64
	Open     func() (io.ReadCloser, error)
}

// Own makes the layer of a kind's own struct. It fails when the document is larger than a reader would accept.
func Own(platform string, v any) (Layer, error) {
	raw, err := json.Marshal(v)
	if err != nil {
		return Layer{}, fmt.Errorf("document: %w", err)
	}
	if len(raw) > MaxOwn {
		return Layer{}, fmt.Errorf("document of %d bytes is more than %d", len(raw), MaxOwn)
	}
	return Layer{Platform: platform, Format: Pratique, Digest: oci.FromBytes(raw), Size: int64(len(raw)),
		Open: func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(raw)), nil }}, nil
}

// File makes a layer of a file, which must stay unchanged until it is pushed.
func File(platform string, format Format, path string) (Layer, error) {
	f, err := os.Open(path)
	if err != nil {
		return Layer{}, fmt.Errorf("document: %w", err)
	}
	defer f.Close()
	h := sha256.New()
	n, err := io.Copy(h, f)
	if err != nil {
		return Layer{}, fmt.Errorf("document: %w", err)
	}
	if n > MaxDocument {
		return Layer{}, fmt.Errorf("%s document of %d bytes is more than %d", format, n, MaxDocument)
	}
	return Layer{Platform: platform, Format: format, Digest: oci.Digest("sha256:" + hex.EncodeToString(h.Sum(nil))), Size: n,
		Open: func() (io.ReadCloser, error) { return os.Open(path) }}, nil
}

// Packed is an artifact ready to be pushed.
type Packed struct {
	Digest   oci.Digest
	Manifest []byte
	layers   []Layer
	blobs    []oci.Descriptor
}

// empty is the config of artifacts that have none (OCI image spec 1.1).
var empty = oci.Descriptor{MediaType: "application/vnd.oci.empty.v1+json", Digest: oci.FromBytes([]byte("{}")), Size: 2}

type manifest struct {
	SchemaVersion int               `json:"schemaVersion"`
	MediaType     string            `json:"mediaType"`
	ArtifactType  string            `json:"artifactType"`
	Config        oci.Descriptor    `json:"config"`
	Layers        []oci.Descriptor  `json:"layers"`
	Subject       oci.Descriptor    `json:"subject"`
	Annotations   map[string]string `json:"annotations"`
}

// Pack makes the artifact of one kind. The same input gives the same digest.
func Pack(kind Kind, head Head, layers []Layer) (*Packed, error) {
	if err := head.check(); err != nil {
		return nil, err
	}
	if len(layers) == 0 || len(layers) > MaxLayers {
		return nil, fmt.Errorf("%s evidence of %d documents", kind, len(layers))
	}
	subject := head.Subject
	m := manifest{
		SchemaVersion: 2, MediaType: oci.MediaTypeImage, ArtifactType: kind.ArtifactType(), Config: empty,
		Subject: oci.Descriptor{MediaType: subject.MediaType, Digest: subject.Digest, Size: subject.Size},
		Annotations: map[string]string{
			AnnotationKind: string(kind), AnnotationRun: head.Run, AnnotationAttempt: strconv.Itoa(head.Attempt),
			AnnotationTool: head.Tool, AnnotationToolVersion: head.ToolVersion,
			AnnotationFinishedAt: head.FinishedAt.UTC().Format(time.RFC3339Nano),
		},
	}
	seen := map[string]bool{}
	for _, l := range layers {
		mediaType, ok := kind.MediaType(l.Format)
		if key := l.Platform + " " + string(l.Format); !ok || seen[key] {
			return nil, fmt.Errorf("%s evidence with an unknown or repeated document %q", kind, key)
		} else {
			seen[key] = true
		}
		d := oci.Descriptor{MediaType: mediaType, Digest: l.Digest, Size: l.Size, Annotations: map[string]string{AnnotationFormat: string(l.Format)}}
		if l.Platform != WholeImage {
			d.Annotations[AnnotationPlatform] = l.Platform
		}
		m.Layers = append(m.Layers, d)
	}
	raw, err := json.Marshal(m)
	if err != nil {
		return nil, fmt.Errorf("evidence manifest: %w", err)
	}
	return &Packed{Digest: oci.FromBytes(raw), Manifest: raw, layers: layers, blobs: m.Layers}, nil
}

func (h Head) check() error {
	if !h.Subject.Digest.Valid() || h.Subject.Size <= 0 || h.Subject.MediaType == "" {
		return errors.New("evidence without a subject")
	}
	if h.Run == "" || h.Attempt < 1 || h.Tool == "" || h.ToolVersion == "" || h.FinishedAt.IsZero() {
		return errors.New("evidence without run, attempt, tool, version or time")
	}
	return nil
}

// Push writes the artifact: blobs, then the manifest under the tag. Registries collect what has no tag.
func (p *Packed) Push(ctx context.Context, repo *oci.Repository, tag string) error {
	if err := repo.PushBlob(ctx, empty, bytes.NewReader([]byte("{}"))); err != nil {
		return fmt.Errorf("push evidence: %w", err)
	}
	for i, l := range p.layers {
		if err := pushLayer(ctx, repo, p.blobs[i], l); err != nil {
			return fmt.Errorf("push evidence: %w", err)
		}
	}
	got, err := repo.PushManifest(ctx, tag, oci.MediaTypeImage, p.Manifest)
	if err != nil {
		return fmt.Errorf("push evidence: %w", err)
	}
	if got != p.Digest {
		return fmt.Errorf("push evidence: the registry stored %s, not %s", got, p.Digest)
	}
	return nil
}

func pushLayer(ctx context.Context, repo *oci.Repository, d oci.Descriptor, l Layer) error {
	content, err := l.Open()
	if err != nil {
		return err
	}
	defer content.Close()
	return repo.PushBlob(ctx, oci.Descriptor{MediaType: d.MediaType, Digest: d.Digest, Size: d.Size}, content)
}
