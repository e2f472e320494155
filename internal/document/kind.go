// Package document owns the formats of evidence: what the steps of a run write into the quarantine repository and what the
// evidence service reads from there.
//
// Each piece of evidence is an OCI artifact whose subject is the root of the image it speaks about, so that it is addressed
// by digest, cannot be moved to another image, and travels as any artifact does. Its layers are documents, one per platform
// and format. Writers and readers share this package and nothing else: a step is untrusted, so reading is strict and
// bounded and believes neither names nor sizes.
package document

import (
	"fmt"
	"slices"
)

// Kind is what a piece of evidence is about.
type Kind string

// The kinds there are. A run writes one artifact of each.
const (
	Source          Kind = "source"          // what was copied: root, platforms, referrers, layers
	SBOM            Kind = "sbom"            // packages per platform, in four formats
	Vulnerabilities Kind = "vulnerabilities" // findings per platform
	Report          Kind = "report"          // the run's summary, naming the others by digest
)

// Kinds returns all kinds in the order a run writes them.
func Kinds() []Kind { return []Kind{Source, SBOM, Vulnerabilities, Report} }

// ParseKind accepts exactly the names above.
func ParseKind(s string) (Kind, error) {
	if k := Kind(s); slices.Contains(Kinds(), k) {
		return k, nil
	}
	return "", fmt.Errorf("%.40q is not a kind of evidence", s)
}

// ArtifactType is the artifactType of the kind's manifests.
func (k Kind) ArtifactType() string {
	return "application/vnd.pratique.evidence." + string(k) + ".v1+json"
}

// Format is how one document of an artifact is written.
type Format string

// The formats. Pratique is the kind's own struct in this package and is always there; the others are for other readers.
const (
	Pratique  Format = "pratique-json"
	Syft      Format = "syft-json"      // SBOM only: the scanner's own, what re-scans read
	SPDX      Format = "spdx-json"      // SBOM only: SPDX 2.3
	CycloneDX Format = "cyclonedx-json" // SBOM only: CycloneDX 1.6
)

// MediaType is the media type of a document of kind k in format f; ok is false when the kind has no such format.
func (k Kind) MediaType(f Format) (mediaType string, ok bool) {
	if f == Pratique {
		return "application/vnd.pratique." + string(k) + ".v1+json", true
	}
	if k != SBOM {
		return "", false
	}
	mediaType, ok = map[Format]string{
		Syft: "application/vnd.syft+json", SPDX: "application/spdx+json", CycloneDX: "application/vnd.cyclonedx+json",
	}[f]
	return mediaType, ok
}

// WholeImage stands in the place of a platform for documents about all of the image.
const WholeImage = ""

// Annotations of manifests and layers.
const (
	AnnotationKind        = "io.pratique.kind"
	AnnotationRun         = "io.pratique.run"
	AnnotationAttempt     = "io.pratique.attempt"
	AnnotationTool        = "io.pratique.tool"
	AnnotationToolVersion = "io.pratique.tool-version"
	AnnotationFinishedAt  = "io.pratique.finished-at"
	AnnotationPlatform    = "io.pratique.platform" // on layers; absent for the whole image
	AnnotationFormat      = "io.pratique.format"   // on layers
)

// Bounds on what is read. Larger evidence is refused, as it is when written.
const (
	MaxDocument = 256 << 20 // bytes of one document in any format
	MaxOwn      = 64 << 20  // bytes of one document in the Pratique format
	MaxLayers   = 400       // documents of one artifact: 100 platforms
)
