// Package image reads the images of a tree: which of them can run, on what, and what their configs promise.
package image

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/pratique-io/pratique/internal/oci"
	"github.com/pratique-io/pratique/steps/step"
)

// Image is one image that can run.
type Image struct {
	Manifest *oci.Manifest
	Platform oci.Platform // as the index says; of a single image, as its config says
	Config   Config
}

// Config is what matters of an image's config.
type Config struct {
	OS           string `json:"os"`
	Architecture string `json:"architecture"`
	Variant      string `json:"variant"`
	OSVersion    string `json:"os.version"`
	RootFS       struct {
		Type    string       `json:"type"`
		DiffIDs []oci.Digest `json:"diff_ids"`
	} `json:"rootfs"`
}

// Platform is the config's own word.
func (c Config) Platform() oci.Platform {
	return oci.Platform{OS: c.OS, Architecture: c.Architecture, Variant: c.Variant, OSVersion: c.OSVersion}
}

// Key names the image's platform; unique within a tree.
func (i Image) Key() string {
	if i.Platform.OSVersion != "" {
		return i.Platform.String() + ":" + i.Platform.OSVersion
	}
	return i.Platform.String()
}

// Size is the bytes of config and layers as stored.
func (i Image) Size() int64 {
	n := i.Manifest.Config.Size
	for _, l := range i.Manifest.Layers {
		n += l.Size
	}
	return n
}

const (
	typeConfig       = "application/vnd.oci.image.config.v1+json"
	typeDockerConfig = "application/vnd.docker.container.image.v1+json"
	typeAttestation  = "application/vnd.in-toto+json"
	maxConfig        = 8 << 20
	maxImages        = 100
)

// Images reads the configs of a tree's images. attachments are manifests beside them that hold nothing that could run. Two
// images for one platform, and anything that is neither image nor attestation, is unacceptable: nobody could say what
// would run, or what was judged.
func Images(ctx context.Context, repo *oci.Repository, tree *oci.Tree) (images []Image, attachments []*oci.Manifest, err error) {
	taken := map[string]bool{}
	for _, entry := range tree.Images {
		if attestation(entry) {
			attachments = append(attachments, entry.Manifest)
			continue
		}
		cfg, err := config(ctx, repo, entry.Manifest)
		if err != nil {
			return nil, nil, err
		}
		img := Image{Manifest: entry.Manifest, Platform: cfg.Platform(), Config: cfg}
		if entry.Platform != nil {
			img.Platform = *entry.Platform
		}
		if img.Platform.OS == "" || img.Platform.Architecture == "" {
			return nil, nil, step.Unacceptable("%s says no platform", entry.Manifest.Digest)
		}
		if taken[img.Key()] {
			return nil, nil, step.Unacceptable("two images for the platform %.80q", img.Key())
		}
		taken[img.Key()] = true
		images = append(images, img)
	}
	if len(images) == 0 || len(images) > maxImages {
		return nil, nil, step.Unacceptable("%d images that could run; at least 1 and at most %d are supported", len(images), maxImages)
	}
	return images, attachments, nil
}

// attestation recognises what build tools attach to an index: a manifest for no platform that holds statements only. One
// that calls itself "unknown" but has other layers is treated as the image it may be.
func attestation(i oci.Image) bool {
	p := i.Platform
	if p == nil || p.OS != "unknown" || p.Architecture != "unknown" {
		return false
	}
	return !slices.ContainsFunc(i.Manifest.Layers, func(d oci.Descriptor) bool { return d.MediaType != typeAttestation })
}

func config(ctx context.Context, repo *oci.Repository, m *oci.Manifest) (Config, error) {
	var cfg Config
	d := *m.Config
	if d.MediaType != typeConfig && d.MediaType != typeDockerConfig {
		return cfg, step.Unacceptable("%s is not a container image but has the config type %.80q", m.Digest, d.MediaType)
	}
	if d.Size > maxConfig {
		return cfg, step.Unacceptable("the config of %s has %d bytes", m.Digest, d.Size)
	}
	raw, err := Bytes(ctx, repo, d)
	if err != nil {
		return cfg, err
	}
	dec := json.NewDecoder(bytes.NewReader(raw))
	if err := dec.Decode(&cfg); err != nil {
		return cfg, step.Unacceptable("the config of %s is not JSON", m.Digest)
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return cfg, step.Unacceptable("the config of %s is more than one document", m.Digest)
	}
	if cfg.RootFS.Type != "layers" || len(cfg.RootFS.DiffIDs) != len(m.Layers) {
		return cfg, step.Unacceptable("the config of %s promises %d layers (%.20q), the manifest has %d",
			m.Digest, len(cfg.RootFS.DiffIDs), cfg.RootFS.Type, len(m.Layers))
	}
	return cfg, nil
}

// Bytes reads a blob whole; the descriptor's size must have been bounded.
func Bytes(ctx context.Context, repo *oci.Repository, d oci.Descriptor) ([]byte, error) {
	r, err := repo.Blob(ctx, d)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	raw, err := io.ReadAll(r)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", d.Digest, err)
	}
	return raw, nil
}
