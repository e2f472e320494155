package document

import (
	"time"

	"github.com/pratique-io/pratique/internal/oci"
)

// SourceDocument says what was copied into quarantine. One per artifact, for the whole image.
type SourceDocument struct {
	Reference   string       `json:"reference"`   // host/repository@digest it came from
	Root        Object       `json:"root"`        // the index or manifest that was asked for
	Platforms   []Image      `json:"platforms"`   // images that can run, in the order of the index
	Attachments []Object     `json:"attachments"` // manifests of the index that are not images (build attestations)
	Referrers   []Referrer   `json:"referrers"`   // the pinned list: promotion copies these and no others
	Skipped     []Skipped    `json:"skipped"`     // referrers the source listed that could not be taken, and why
	Layers      []LayerState `json:"layers"`      // every distinct layer
	Bytes       int64        `json:"bytes"`       // of all distinct blobs, as stored
	PulledAt    time.Time    `json:"pulled_at"`
}

// Object is a manifest by digest.
type Object struct {
	Digest    oci.Digest `json:"digest"`
	MediaType string     `json:"media_type"`
	Size      int64      `json:"size"` // bytes of the manifest
}

// Image is one platform's image.
type Image struct {
	Platform     string     `json:"platform"` // as Platform() of the index entry or the config; unique within an image
	OS           string     `json:"os"`
	Architecture string     `json:"architecture"`
	Variant      string     `json:"variant,omitempty"`
	Digest       oci.Digest `json:"digest"` // of the image manifest
	Size         int64      `json:"size"`   // bytes of config and layers as stored
	// ConfigPlatform is what the image's own config says when it differs from the index.
	ConfigPlatform string `json:"config_platform,omitempty"`
}

// Referrer is one artifact that refers to the image or to one of its platforms.
type Referrer struct {
	Digest       oci.Digest `json:"digest"`
	Subject      oci.Digest `json:"subject"`
	ArtifactType string     `json:"artifact_type"`
	Size         int64      `json:"size"` // bytes of the manifest
}

// Skipped is a listed referrer that was not taken.
type Skipped struct {
	Digest oci.Digest `json:"digest"`
	Reason string     `json:"reason"`
}

// LayerState is what opening one layer showed.
type LayerState struct {
	Digest   oci.Digest     `json:"digest"`
	DiffID   oci.Digest     `json:"diff_id"`
	Size     int64          `json:"size"`     // bytes as stored
	Bytes    int64          `json:"bytes"`    // bytes decompressed
	Entries  int            `json:"entries"`  // files, directories, links
	Counts   map[string]int `json:"counts"`   // findings by kind: device, fifo, setuid, setgid, capability, through_symlink, duplicate, reserved_name
	Findings []LayerFinding `json:"findings"` // the first twenty of each kind
}

// LayerFinding is something in a layer worth a reviewer's eye.
type LayerFinding struct {
	Kind string `json:"kind"`
	Path string `json:"path"` // relative to the root; hostile text
}
