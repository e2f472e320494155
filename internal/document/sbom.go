package document

import (
	"time"

	"github.com/pratique-io/pratique/internal/oci"
)

// SBOMDocument is the stable, scanner-neutral part of one platform's bill of materials: what indexes and policies read.
// The same artifact holds the scanner's own format, SPDX and CycloneDX beside it.
type SBOMDocument struct {
	Platform     string     `json:"platform"`
	Image        oci.Digest `json:"image"` // the platform's image manifest
	Distro       Distro     `json:"distro"`
	PackageCount int        `json:"package_count"`
	Packages     []Package  `json:"packages"`
	Files        int        `json:"files"` // plain files with content, over all layers
	// Incomplete: the list cannot be the whole truth. Reasons say why. Never a pass.
	Incomplete  bool      `json:"incomplete"`
	Reasons     []string  `json:"reasons,omitempty"`
	Tool        string    `json:"tool"`
	ToolVersion string    `json:"tool_version"`
	GeneratedAt time.Time `json:"generated_at"`
}

// Distro is the distribution found in the image; empty for images without one.
type Distro struct {
	ID      string `json:"id,omitempty"`
	Version string `json:"version,omitempty"`
	Name    string `json:"name,omitempty"`
}

// Package is one installed package. All text comes from the image and is hostile.
type Package struct {
	Name      string   `json:"name"`
	Version   string   `json:"version"`
	Type      string   `json:"type"` // deb, apk, npm, python, go-module and so on
	PURL      string   `json:"purl,omitempty"`
	Upstreams []string `json:"upstreams,omitempty"` // source packages, name or name@version
	Licenses  []string `json:"licenses,omitempty"`  // as declared; not normalised
	Locations []string `json:"locations,omitempty"` // paths, at most MaxLocations
}

// MaxLocations bounds the paths listed per package.
const MaxLocations = 20
