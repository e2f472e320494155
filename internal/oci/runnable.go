package oci

import "strings"

// The config types that make a runtime take a manifest for an image.
const (
	mediaTypeConfig       = "application/vnd.oci.image.config.v1+json"
	mediaTypeDockerConfig = "application/vnd.docker.container.image.v1+json"
)

// Runnable says whether a runtime could run m: it has an image's config, and a layer that may be a file system. What build and signing tools
// attach with an image's config holds JSON statements only.
func (m *Manifest) Runnable() bool {
	if m.Config == nil || m.Config.MediaType != mediaTypeConfig && m.Config.MediaType != mediaTypeDockerConfig {
		return false
	}
	for _, d := range m.Layers {
		if !strings.HasSuffix(d.MediaType, "+json") && !strings.HasSuffix(d.MediaType, "/json") {
			return true
		}
	}
	return false
}

// Runnable answers a manifest of the tree that a runtime could run; nil when there is none. In the tree of a referrer it would be an image
// that came along without anybody having looked at it.
func (t *Tree) Runnable() *Manifest {
	for _, m := range t.Manifests {
		if m.Runnable() {
			return m
		}
	}
	return nil
}
