package sample

import (
	"bytes"
	"encoding/json"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Architectures are the platforms of every sample: linux on these.
var architectures = []string{"amd64", "arm64"}

const readme = "A sample image of Pratique. It does nothing.\n"

// Clean is a small Debian 12 image for two platforms whose packages have no
// known vulnerability in the demo's database, with an SPDX document as referrer.
func Clean() Image {
	b := newBuilder(cleanName, "clean: no known vulnerability; passes and can be released")
	b.root(index(cleanChildren(b)...))
	b.refer("application/spdx+json", spdx(b.image))
	return b.image
}

func cleanChildren(b *builder) []Descriptor {
	var children []Descriptor
	for _, arch := range architectures {
		d, _ := b.platform(arch, append(system(debianRelease), statusDir(cleanName, arch)...), application())
		children = append(children, d)
	}
	return children
}

func application() []file { return []file{text("srv/app/README", readme)} }

// Vulnerable has known vulnerabilities in five ecosystems: linux/amd64 is
// Debian 12 with npm, Python and Go packages, linux/arm64 is Alpine 3.18.
func Vulnerable() Image {
	b := newBuilder(vulnerableName, "vulnerable: known and exploited vulnerabilities in five ecosystems; stays in quarantine")
	debian, _ := b.platform("amd64", append(system(debianRelease), statusFile(vulnerableName, "amd64")...), languages(vulnerableName, "amd64"))
	alpine, _ := b.platform("arm64", append(system(alpineRelease), apkInstalled(vulnerableName, "arm64")...), application())
	b.root(index(debian, alpine))
	return b.image
}

// MalformedRoot has a root that is an index and an image at once: it lists
// manifests and layers. Readers disagree on what it is, so it is refused when
// it is asked for. Registries take it.
func MalformedRoot() Image {
	b := newBuilder("demo/malformed-root", "malformed root: both manifests and layers; refused when it is asked for")
	children := cleanChildren(b)
	m := b.describe("amd64", system(debianRelease), application())
	b.image.Root = b.manifest(ocispec.MediaTypeImageIndex, encode(struct {
		ocispec.Index
		Config Descriptor   `json:"config"`
		Layers []Descriptor `json:"layers"`
	}{index(children...), m.Config, m.Layers}))
	return b.image
}

// MalformedDeep has a proper index, but the linux/arm64 manifest names its
// layers twice: a reader that takes the first list sees the clean image, one
// that takes the last sees the vulnerable one. Only a reader of every manifest
// notices.
func MalformedDeep() Image {
	b := newBuilder("demo/malformed-deep", "malformed child: a manifest with two lists of layers; refused by the deep check of the pull step")
	good, _ := b.platform("amd64", append(system(debianRelease), statusDir(cleanName, "amd64")...), application())
	shown := b.describe("arm64", append(system(debianRelease), statusDir(cleanName, "arm64")...))
	used := b.describe("arm64", append(system(alpineRelease), apkInstalled(vulnerableName, "arm64")...))
	first := encode(shown)
	raw := append(bytes.TrimSuffix(first, []byte("}")), `,"layers":`...)
	raw = append(append(raw, encode(used.Layers)...), '}')
	child := b.manifest(ocispec.MediaTypeImageManifest, raw)
	child.Platform = platformOf("arm64")
	b.root(index(good, child))
	return b.image
}

// EscapingLayer has proper manifests, but a layer of linux/arm64 holds a file
// whose name leaves the root of the image.
func EscapingLayer() Image {
	b := newBuilder("demo/escaping-layer", "escaping layer: a file name that leaves the root; refused by the deep check of the pull step")
	good, _ := b.platform("amd64", append(system(debianRelease), statusDir(cleanName, "amd64")...), application())
	bad, _ := b.platform("arm64", append(system(debianRelease), statusDir(cleanName, "arm64")...),
		[]file{text("srv/app/../../../etc/cron.d/sample", "# sample\n")})
	b.root(index(good, bad))
	return b.image
}

// spdx describes the clean image's packages as a supplier would.
func spdx(image Image) []byte {
	type spdxPackage struct {
		Name             string `json:"name"`
		ID               string `json:"SPDXID"`
		Version          string `json:"versionInfo"`
		DownloadLocation string `json:"downloadLocation"`
		FilesAnalyzed    bool   `json:"filesAnalyzed"`
	}
	var packages []spdxPackage
	for _, p := range installed(image.Name, "amd64", Deb) {
		packages = append(packages, spdxPackage{p.Name, "SPDXRef-Package-" + p.Name, p.Version, "NOASSERTION", false})
	}
	raw, err := json.MarshalIndent(map[string]any{
		"spdxVersion":       "SPDX-2.3",
		"dataLicense":       "CC0-1.0",
		"SPDXID":            "SPDXRef-DOCUMENT",
		"name":              image.Name,
		"documentNamespace": "https://pratique.example/spdx/" + image.Root.Digest.Encoded(),
		"creationInfo":      map[string]any{"created": made.Format(time.RFC3339), "creators": []string{"Tool: pratique-sample"}},
		"packages":          packages,
	}, "", "  ")
	must(err)
	return raw
}
