package oci

import (
	"bytes"
	"encoding/json"
	"errors"
	"mime"
	"regexp"
	"slices"
	"strings"
)

// Media types of the manifests we accept. Schema 1 is refused: its digest does not cover what a client sees.
const (
	MediaTypeImage       = "application/vnd.oci.image.manifest.v1+json"
	MediaTypeIndex       = "application/vnd.oci.image.index.v1+json"
	MediaTypeDockerImage = "application/vnd.docker.distribution.manifest.v2+json"
	MediaTypeDockerList  = "application/vnd.docker.distribution.manifest.list.v2+json"
)

// Limits bound what a tree may hold. The zero value of a field means DefaultLimits' value.
type Limits struct {
	ManifestBytes int64 // one manifest
	Descriptors   int   // in one manifest
	BlobBytes     int64 // one config or layer, as its descriptor says
	TotalBytes    int64 // all distinct blobs of a tree
	Manifests     int   // in a tree
	TreeBytes     int64 // all manifests of what is walked or copied at once: they are held in memory
	Depth         int   // levels of manifests: index, index, image is 3
}

// DefaultLimits are the limits of ParseManifest, and of Walk and Copy where nothing else is said.
var DefaultLimits = Limits{
	ManifestBytes: 4 << 20, Descriptors: 1000, BlobBytes: 32 << 30, TotalBytes: 64 << 30, Manifests: 1000, TreeBytes: 32 << 20,
	Depth: 3,
}

func (l Limits) orDefault() Limits {
	pick := func(v *int64, d int64) {
		if *v <= 0 || *v > d && v == &l.ManifestBytes {
			*v = d
		}
	}
	pick(&l.ManifestBytes, DefaultLimits.ManifestBytes)
	pick(&l.BlobBytes, DefaultLimits.BlobBytes)
	pick(&l.TotalBytes, DefaultLimits.TotalBytes)
	pick(&l.TreeBytes, DefaultLimits.TreeBytes)
	for v, d := range map[*int]int{&l.Descriptors: DefaultLimits.Descriptors, &l.Manifests: DefaultLimits.Manifests, &l.Depth: DefaultLimits.Depth} {
		if *v <= 0 {
			*v = d
		}
	}
	return l
}

// Platform is what an index says an image runs on.
type Platform struct {
	OS           string `json:"os"`
	Architecture string `json:"architecture"`
	Variant      string `json:"variant,omitempty"`
	OSVersion    string `json:"os.version,omitempty"`
}

// String gives "os/architecture[/variant]".
func (p Platform) String() string {
	s := p.OS + "/" + p.Architecture
	if p.Variant != "" {
		s += "/" + p.Variant
	}
	return s
}

// Descriptor points at content by digest, size and media type.
type Descriptor struct {
	MediaType    string            `json:"mediaType"`
	Digest       Digest            `json:"digest"`
	Size         int64             `json:"size"` // bytes
	ArtifactType string            `json:"artifactType,omitempty"`
	Annotations  map[string]string `json:"annotations,omitempty"`
	Platform     *Platform         `json:"platform,omitempty"`
	URLs         []string          `json:"urls,omitempty"` // never contacted
	Data         []byte            `json:"data,omitempty"` // checked against digest and size
}

// Manifest is a manifest or index that passed every check. Raw is exactly what was hashed.
type Manifest struct {
	Digest       Digest
	MediaType    string
	Raw          []byte
	ArtifactType string
	Config       *Descriptor  // images only
	Layers       []Descriptor // images only
	Manifests    []Descriptor // indexes only
	Subject      *Descriptor
	Annotations  map[string]string
}

// IsIndex reports whether m lists manifests rather than layers.
func (m *Manifest) IsIndex() bool { return isIndexType(m.MediaType) }

// Descriptor returns what points at m.
func (m *Manifest) Descriptor() Descriptor {
	return Descriptor{MediaType: m.MediaType, Digest: m.Digest, Size: int64(len(m.Raw))}
}

func isIndexType(t string) bool { return t == MediaTypeIndex || t == MediaTypeDockerList }
func isManifestType(t string) bool {
	return isIndexType(t) || t == MediaTypeImage || t == MediaTypeDockerImage
}

type document struct {
	SchemaVersion *int              `json:"schemaVersion"`
	MediaType     *string           `json:"mediaType"`
	ArtifactType  string            `json:"artifactType"`
	Config        *Descriptor       `json:"config"`
	Layers        []Descriptor      `json:"layers"`
	Manifests     []Descriptor      `json:"manifests"`
	Subject       *Descriptor       `json:"subject"`
	Annotations   map[string]string `json:"annotations"`
}

// ParseManifest reads a manifest strictly, with contentType as the registry's Content-Type header or the descriptor's
// media type. Errors are *Unacceptable.
func ParseManifest(raw []byte, contentType string) (*Manifest, error) {
	return parseManifest(raw, contentType, DefaultLimits)
}

func parseManifest(raw []byte, contentType string, limits Limits) (*Manifest, error) {
	if int64(len(raw)) > limits.ManifestBytes {
		return nil, refuse(ReasonTooLarge, "a manifest of more than %d bytes", limits.ManifestBytes)
	}
	mediaType, bad := manifestType(contentType)
	if bad != nil {
		return nil, bad
	}
	if bad := checkDocument(raw); bad != nil {
		return nil, bad
	}
	var keys map[string]json.RawMessage
	if err := json.Unmarshal(raw, &keys); err != nil {
		return nil, refuse(ReasonShape, "not an object")
	}
	if err := checkShape(keys, mediaType); err != nil {
		return nil, err
	}
	var doc document
	if err := json.Unmarshal(raw, &doc); err != nil {
		var bad *Unacceptable
		if errors.As(err, &bad) {
			return nil, bad
		}
		return nil, refuse(ReasonShape, "a field has the wrong type: %s", clip(err.Error()))
	}
	if bad := doc.check(mediaType, limits); bad != nil {
		return nil, bad
	}
	return &Manifest{
		Digest: FromBytes(raw), MediaType: mediaType, Raw: bytes.Clone(raw), ArtifactType: doc.ArtifactType, Config: doc.Config,
		Layers: doc.Layers, Manifests: doc.Manifests, Subject: doc.Subject, Annotations: doc.Annotations,
	}, nil
}

// manifestType reads a Content-Type header: one of the four types, with no parameter but charset=utf-8.
func manifestType(header string) (string, *Unacceptable) {
	if len(header) > 256 {
		return "", refuse(ReasonMediaType, "an overlong content type")
	}
	t, params, err := mime.ParseMediaType(header)
	if err != nil {
		return "", refuse(ReasonMediaType, "content type %s", clip(header))
	}
	for k, v := range params {
		if k != "charset" || !strings.EqualFold(v, "utf-8") {
			return "", refuse(ReasonMediaType, "content type %s", clip(header))
		}
	}
	if !isManifestType(t) {
		return "", refuse(ReasonUnsupported, "content type %s", clip(header))
	}
	return t, nil
}

// foreignKeys belong to other kinds of document; a reader that knows that kind would read ours as one.
var foreignKeys = []string{"fsLayers", "history", "signatures", "blobs"}

// knownKeys are the keys we read; another spelling of one would be read by lax decoders only.
var knownKeys = []string{"schemaVersion", "mediaType", "artifactType", "config", "layers", "manifests", "subject", "annotations"}

func checkShape(keys map[string]json.RawMessage, mediaType string) error {
	if err := exactKeys(keys, slices.Concat(knownKeys, foreignKeys)); err != nil {
		return err
	}
	need, never := []string{"schemaVersion", "config", "layers"}, []string{"manifests"}
	if isIndexType(mediaType) {
		need, never = []string{"schemaVersion", "manifests"}, []string{"layers", "config"}
	}
	for _, k := range slices.Concat(never, foreignKeys) {
		if _, ok := keys[k]; ok {
			return refuse(ReasonShape, "%q does not belong into a %s", k, mediaType)
		}
	}
	for _, k := range need {
		if v, ok := keys[k]; !ok || string(v) == "null" {
			return refuse(ReasonShape, "%q is missing", k)
		}
	}
	return nil
}

func (d *document) check(mediaType string, limits Limits) *Unacceptable {
	if *d.SchemaVersion != 2 {
		return refuse(ReasonUnsupported, "schemaVersion %d", *d.SchemaVersion)
	}
	switch {
	case d.MediaType == nil: // optional in OCI documents; Docker's require it
		if mediaType == MediaTypeDockerImage || mediaType == MediaTypeDockerList {
			return refuse(ReasonMediaType, "the body names no media type")
		}
	case *d.MediaType != mediaType:
		return refuse(ReasonMediaType, "the body says %s, the registry %s", clip(*d.MediaType), mediaType)
	}
	if n := len(d.Layers) + len(d.Manifests); n > limits.Descriptors {
		return refuse(ReasonTooLarge, "%d descriptors", n)
	}
	if d.ArtifactType != "" && !mediaTypePattern.MatchString(d.ArtifactType) {
		return refuse(ReasonMediaType, "artifact type %s", clip(d.ArtifactType))
	}
	return d.checkDescriptors(limits)
}

func (d *document) checkDescriptors(limits Limits) *Unacceptable {
	total, seen := int64(0), map[Digest]Descriptor{}
	visit := func(where string, x *Descriptor, most int64) *Unacceptable {
		if bad := x.check(where, most); bad != nil {
			return bad
		}
		if prior, ok := seen[x.Digest]; ok && prior.Size != x.Size {
			return refuse(ReasonDescriptor, "%s: %s occurs with two sizes", where, x.Digest)
		} else if !ok {
			total += x.Size
		}
		seen[x.Digest] = *x
		if total > limits.TotalBytes {
			return refuse(ReasonTooLarge, "more than %d bytes in all", limits.TotalBytes)
		}
		return nil
	}
	if d.Subject != nil {
		if bad := visit("subject", d.Subject, limits.ManifestBytes); bad != nil {
			return bad
		}
	}
	if d.Config != nil {
		if bad := visit("config", d.Config, limits.BlobBytes); bad != nil {
			return bad
		}
	}
	for i := range d.Layers {
		if bad := visit("layers", &d.Layers[i], limits.BlobBytes); bad != nil {
			return bad
		}
	}
	for i := range d.Manifests {
		if bad := visit("manifests", &d.Manifests[i], limits.ManifestBytes); bad != nil {
			return bad
		}
	}
	return nil
}

var mediaTypePattern = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9!#$&^_.+-]{0,126}/[A-Za-z0-9][A-Za-z0-9!#$&^_.+-]{0,126}$`)

func (d *Descriptor) check(where string, most int64) *Unacceptable {
	switch {
	case !d.Digest.Valid():
		return refuse(ReasonDescriptor, "%s: digest %s", where, clip(string(d.Digest)))
	case d.Size < 0:
		return refuse(ReasonDescriptor, "%s: size %d", where, d.Size)
	case d.Size > most:
		return refuse(ReasonTooLarge, "%s: size %d, at most %d", where, d.Size, most)
	case !mediaTypePattern.MatchString(d.MediaType):
		return refuse(ReasonDescriptor, "%s: media type %s", where, clip(d.MediaType))
	case d.Data != nil && (int64(len(d.Data)) != d.Size || !d.Digest.Matches(d.Data)):
		return refuse(ReasonDescriptor, "%s: inline data is not what its digest says", where)
	}
	return nil
}
