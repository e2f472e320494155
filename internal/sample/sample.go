// Package sample makes the container images of the demo and the system tests:
// one that passes, one with known vulnerabilities, and three that must be
// refused. They are generated, so no binary lies in the repository, and the
// same bytes come out on every machine and with every Go version: times are
// fixed and layers are stored, not compressed, inside their gzip frame.
//
// Packages lists what the images contain and which published vulnerabilities
// those versions have; the demo's vulnerability database is written from it.
package sample

import (
	"encoding/json"
	"fmt"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Descriptor is an OCI content descriptor.
type Descriptor = ocispec.Descriptor

// Manifest is one manifest with its exact bytes.
type Manifest struct {
	Digest    digest.Digest
	MediaType string
	Raw       []byte
}

// Image is everything a registry needs to hold one image.
type Image struct {
	Name  string // repository to push to, such as "demo/clean"
	Note  string // one sentence for the demo's output: what should happen to it
	Root  Descriptor
	Blobs map[digest.Digest][]byte
	// Manifests in push order: children, root, referrers.
	Manifests []Manifest
	// Referrers are the manifests whose subject is the root.
	Referrers []Descriptor
}

// made is the time in every tar entry, configuration and document.
var made = time.Date(2024, time.January, 15, 12, 0, 0, 0, time.UTC)

// All gives every image: clean, vulnerable, then those to be refused.
func All() []Image {
	return []Image{Clean(), Vulnerable(), MalformedRoot(), MalformedDeep(), EscapingLayer()}
}

// builder collects the parts of one image.
type builder struct{ image Image }

func newBuilder(name, note string) *builder {
	return &builder{Image{Name: name, Note: note, Blobs: map[digest.Digest][]byte{}}}
}

func (b *builder) blob(mediaType string, content []byte) Descriptor {
	d := Descriptor{MediaType: mediaType, Digest: digest.FromBytes(content), Size: int64(len(content))}
	b.image.Blobs[d.Digest] = content
	return d
}

func (b *builder) manifest(mediaType string, raw []byte) Descriptor {
	d := Descriptor{MediaType: mediaType, Digest: digest.FromBytes(raw), Size: int64(len(raw))}
	b.image.Manifests = append(b.image.Manifests, Manifest{d.Digest, mediaType, raw})
	return d
}

// platform adds one platform's image made of the given layers and returns its
// descriptor for the index, together with the manifest it wrote.
func (b *builder) platform(arch string, layers ...[]file) (Descriptor, ocispec.Manifest) {
	m := b.describe(arch, layers...)
	d := b.manifest(ocispec.MediaTypeImageManifest, encode(m))
	d.Platform = platformOf(arch)
	return d, m
}

func platformOf(arch string) *ocispec.Platform {
	p := &ocispec.Platform{OS: "linux", Architecture: arch}
	if arch == "arm64" {
		p.Variant = "v8"
	}
	return p
}

// describe adds layers and configuration and returns the manifest, not added.
func (b *builder) describe(arch string, layers ...[]file) ocispec.Manifest {
	m := ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2},
		MediaType: ocispec.MediaTypeImageManifest,
	}
	config := ocispec.Image{
		Created:  &made,
		Platform: *platformOf(arch),
		Config: ocispec.ImageConfig{
			User:       "65532:65532",
			Env:        []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"},
			Entrypoint: []string{"/usr/local/bin/demo"},
			WorkingDir: "/",
		},
		RootFS: ocispec.RootFS{Type: "layers"},
	}
	for _, files := range layers {
		content := archive(files)
		packed := pack(content)
		m.Layers = append(m.Layers, b.blob(ocispec.MediaTypeImageLayerGzip, packed))
		config.RootFS.DiffIDs = append(config.RootFS.DiffIDs, digest.FromBytes(content))
		config.History = append(config.History, ocispec.History{Created: &made, CreatedBy: "pratique sample"})
	}
	m.Config = b.blob(ocispec.MediaTypeImageConfig, encode(config))
	return m
}

func index(children ...Descriptor) ocispec.Index {
	return ocispec.Index{
		Versioned: specs.Versioned{SchemaVersion: 2},
		MediaType: ocispec.MediaTypeImageIndex,
		Manifests: children,
	}
}

// root adds the index as the image's root.
func (b *builder) root(i ocispec.Index) {
	b.image.Root = b.manifest(ocispec.MediaTypeImageIndex, encode(i))
}

// refer adds an artifact that has the root as its subject.
func (b *builder) refer(artifactType string, document []byte) {
	subject := b.image.Root
	d := b.manifest(ocispec.MediaTypeImageManifest, encode(ocispec.Manifest{
		Versioned:    specs.Versioned{SchemaVersion: 2},
		MediaType:    ocispec.MediaTypeImageManifest,
		ArtifactType: artifactType,
		Config:       b.blob(ocispec.MediaTypeEmptyJSON, []byte("{}")),
		Layers:       []Descriptor{b.blob(artifactType, document)},
		Subject:      &subject,
		Annotations:  map[string]string{ocispec.AnnotationCreated: made.Format(time.RFC3339)},
	}))
	d.ArtifactType = artifactType
	b.image.Referrers = append(b.image.Referrers, d)
}

// encode marshals this package's own values, which always succeeds.
func encode(v any) []byte {
	raw, err := json.Marshal(v)
	if err != nil {
		panic(fmt.Sprintf("sample: %v", err))
	}
	return raw
}
