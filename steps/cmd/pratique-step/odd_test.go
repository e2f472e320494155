package main

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"testing"

	"github.com/opencontainers/go-digest"
	"github.com/stretchr/testify/require"

	"github.com/pratique-io/pratique/internal/document"
	"github.com/pratique-io/pratique/internal/oci"
	"github.com/pratique-io/pratique/internal/sample"
	"github.com/pratique-io/pratique/steps/step"
)

// odd builds images the samples do not have.
type odd struct {
	t     *testing.T
	image sample.Image
}

func newOdd(t *testing.T) *odd {
	return &odd{t, sample.Image{Name: "odd/image", Blobs: map[digest.Digest][]byte{}}}
}

func (o *odd) blob(mediaType string, raw []byte) map[string]any {
	d := digest.FromBytes(raw)
	o.image.Blobs[d] = raw
	return map[string]any{"mediaType": mediaType, "digest": d, "size": len(raw)}
}

func (o *odd) manifest(mediaType string, v any) map[string]any {
	raw, err := json.Marshal(v)
	require.NoError(o.t, err)
	m := sample.Manifest{Digest: digest.FromBytes(raw), MediaType: mediaType, Raw: raw}
	o.image.Manifests = append(o.image.Manifests, m)
	o.image.Root = sample.Descriptor{MediaType: mediaType, Digest: m.Digest, Size: int64(len(raw))}
	return map[string]any{"mediaType": mediaType, "digest": m.Digest, "size": len(raw)}
}

func files(t *testing.T, names map[string]string) []byte {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for name, content := range names {
		require.NoError(t, w.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: int64(len(content))}))
		_, err := w.Write([]byte(content))
		require.NoError(t, err)
	}
	require.NoError(t, w.Close())
	return b.Bytes()
}

// platform adds one image of layers; promise replaces the diff ids.
func (o *odd) platform(arch string, promise []digest.Digest, layers ...[]byte) map[string]any {
	diffs, list := []digest.Digest{}, []any{}
	for _, l := range layers {
		diffs = append(diffs, digest.FromBytes(l))
		list = append(list, o.blob("application/vnd.oci.image.layer.v1.tar", l))
	}
	if promise != nil {
		diffs = promise
	}
	cfg, err := json.Marshal(map[string]any{"os": "linux", "architecture": arch, "rootfs": map[string]any{"type": "layers", "diff_ids": diffs}})
	require.NoError(o.t, err)
	return o.child(arch, o.blob("application/vnd.oci.image.config.v1+json", cfg), list)
}

func (o *odd) child(arch string, cfg map[string]any, layers []any) map[string]any {
	d := o.manifest(oci.MediaTypeImage, map[string]any{"schemaVersion": 2, "mediaType": oci.MediaTypeImage, "config": cfg, "layers": layers})
	system := "linux"
	if arch == "unknown" {
		system = arch
	}
	d["platform"] = map[string]any{"os": system, "architecture": arch}
	return d
}

func (o *odd) index(children ...map[string]any) sample.Image {
	o.manifest(oci.MediaTypeIndex, map[string]any{"schemaVersion": 2, "mediaType": oci.MediaTypeIndex, "manifests": children})
	return o.image
}

const dpkg = "Package: libwebp7\nStatus: install ok installed\nArchitecture: amd64\nSource: libwebp\nVersion: 1.2.4-0.2\nDescription: x\n\n"

func release(id, version string) string { return "ID=" + id + "\nVERSION_ID=\"" + version + "\"\n" }

func TestImagesNobodyCanSpeakAboutAreUnacceptable(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	some := files(t, map[string]string{"etc/hostname": "x"})
	for name, build := range map[string]func(o *odd) sample.Image{
		"two images for the platform": func(o *odd) sample.Image {
			return o.index(o.platform("amd64", nil, some), o.platform("amd64", nil, some, some))
		},
		"layer_diff_id": func(o *odd) sample.Image {
			o.platform("amd64", []digest.Digest{digest.FromString("other")}, some)
			return o.image
		},
		"promises 2 layers": func(o *odd) sample.Image {
			o.platform("amd64", []digest.Digest{digest.FromBytes(some), digest.FromBytes(some)}, some)
			return o.image
		},
		"is not a container image": func(o *odd) sample.Image {
			o.child("amd64", o.blob("application/vnd.cncf.helm.config.v1+json", []byte("{}")), []any{})
			return o.image
		},
		"images that could run": func(o *odd) sample.Image {
			return o.index(o.child("unknown", o.blob("application/vnd.oci.image.config.v1+json", []byte("{}")), []any{o.blob("application/vnd.in-toto+json", []byte("{}"))}))
		},
		"more than one document": func(o *odd) sample.Image {
			o.child("amd64", o.blob("application/vnd.oci.image.config.v1+json", []byte(`{"os":"linux","architecture":"amd64","rootfs":{"type":"layers","diff_ids":[]}}{}`)), []any{})
			return o.image
		},
	} {
		o := w.pull(w.push(build(newOdd(t))))
		require.Equal(t, step.ExitUnacceptable, o.code, name+o.log)
		require.Contains(t, o.failure.Message, name)
	}
}

func TestAListThatCannotBeWholeIsIncompleteAndNeverPasses(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for name, c := range map[string]struct {
		layers   [][]byte
		packages int
		reason   string // empty: complete
		sbom     string // verdicts
		scan     string
	}{
		"files and no package": {[][]byte{files(t, map[string]string{"app": "binary"})}, 0, "among 1 files", "incomplete", "incomplete"},
		"nothing at all":       {[][]byte{files(t, nil)}, 0, "", "pass", "pass"},
		"a garbled package database": {[][]byte{files(t, map[string]string{"var/lib/dpkg/status": "what is this\n", "usr/lib/python3/a-1.dist-info/METADATA": "Metadata-Version: 2.1\nName: a\nVersion: 1\n"})},
			1, "no deb package", "incomplete", "incomplete"},
		"a database that a later layer deletes": {[][]byte{
			files(t, map[string]string{"var/lib/dpkg/status": "garbled\n", "usr/lib/python3/a-1.dist-info/METADATA": "Metadata-Version: 2.1\nName: a\nVersion: 1\n"}),
			files(t, map[string]string{"var/lib/.wh.dpkg": ""})}, 1, "", "pass", "pass"},
		"a distribution the database does not know": {[][]byte{files(t, map[string]string{"etc/os-release": release("debian", "10"), "var/lib/dpkg/status": dpkg})}, 1, "", "pass", "incomplete"},
		"packages of no distribution":               {[][]byte{files(t, map[string]string{"var/lib/dpkg/status": dpkg})}, 1, "", "pass", "incomplete"},
		"a distribution it knows":                   {[][]byte{files(t, map[string]string{"etc/os-release": release("debian", "12"), "var/lib/dpkg/status": dpkg})}, 1, "", "pass", "findings"},
	} {
		o := newOdd(t)
		o.platform("amd64", nil, c.layers...)
		report, got, _ := w.chain(o.image)
		bill, err := w.open(document.SBOM, got).SBOM(context.Background(), "linux/amd64")
		require.NoError(t, err)
		require.Equal(t, c.packages, bill.PackageCount, name)
		require.Equal(t, c.reason != "", bill.Incomplete, "%s: %v", name, bill.Reasons)
		if c.reason != "" {
			require.Contains(t, bill.Reasons[0], c.reason, name)
		}
		require.Equal(t, []string{"source pass", "sbom " + c.sbom, "vulnerabilities " + c.scan}, verdicts(report), name)
	}
}

func TestAttestationsAreKeptAndForeignReferrersLeftOut(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	o := newOdd(t)
	empty := o.blob("application/vnd.oci.empty.v1+json", []byte("{}"))
	image := o.platform("amd64", nil, files(t, map[string]string{"app": "binary"}))
	statement := o.child("unknown", o.blob("application/vnd.oci.image.config.v1+json", []byte("{}")), []any{o.blob("application/vnd.in-toto+json", []byte(`{"a":1}`))})
	img := o.index(image, statement)
	root := o.image.Root
	subject := map[string]any{"mediaType": root.MediaType, "digest": root.Digest, "size": root.Size}
	o.manifest(oci.MediaTypeImage, map[string]any{"schemaVersion": 2, "mediaType": oci.MediaTypeImage, "artifactType": "application/vnd.example+json", "config": empty, "layers": []any{empty}, "subject": subject})
	// an image that only says it is about this one
	disguised := o.platform("arm64", nil, files(t, map[string]string{"app": "unseen"}))
	var guise map[string]any
	require.NoError(t, json.Unmarshal(o.image.Manifests[len(o.image.Manifests)-1].Raw, &guise))
	guise["subject"], guise["artifactType"] = subject, "application/vnd.disguise+json"
	disguised = o.manifest(oci.MediaTypeImage, guise)
	// a signature of one platform, and one that is malformed: its layers are given twice
	raw, err := json.Marshal(map[string]any{"schemaVersion": 2, "mediaType": oci.MediaTypeImage, "artifactType": "application/vnd.bad+json", "config": empty, "subject": subject})
	require.NoError(t, err)
	bad := append(bytes.TrimSuffix(raw, []byte("}")), []byte(`,"layers":[],"layers":[]}`)...)
	o.image.Manifests = append(o.image.Manifests, sample.Manifest{Digest: digest.FromBytes(bad), MediaType: oci.MediaTypeImage, Raw: bad})
	img.Manifests, img.Blobs = o.image.Manifests, o.image.Blobs
	got := w.ok(w.pull(w.push(img))).results
	src, err := w.open(document.Source, got).Source(context.Background())
	require.NoError(t, err)
	require.Len(t, src.Platforms, 1)
	require.Len(t, src.Attachments, 1)
	require.Len(t, src.Referrers, 1)
	require.Equal(t, "application/vnd.example+json", src.Referrers[0].ArtifactType)
	skipped := []string{}
	for _, s := range src.Skipped {
		skipped = append(skipped, s.Digest.String())
	}
	require.ElementsMatch(t, []string{digest.FromBytes(bad).String(), fmt.Sprint(disguised["digest"])}, skipped)
}

func TestCredentialsMayComeAsKubernetesMakesThem(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	source := w.push(sample.Clean())
	auth := w.file("dockerconfig.json", map[string]any{"auths": map[string]any{w.quarantine: map[string]string{"username": w.cred.Username, "password": w.cred.Password}}})
	w.auth = auth
	w.ok(w.pull(source))
	w.auth = w.file("elsewhere.json", map[string]any{"auths": map[string]any{"example.com": map[string]string{"username": "a", "password": "b"}}})
	require.Equal(t, step.ExitOther, w.pull(source).code)
}

func TestTheProgramSaysWhatItTakesAndLeavesNothingBehind(t *testing.T) {
	var out bytes.Buffer
	t.Setenv("TMPDIR", t.TempDir())
	private := os.TempDir()
	require.Equal(t, step.ExitOther, realMain(nil, &out))
	require.Equal(t, step.ExitOther, realMain([]string{"destroy"}, &out))
	require.Equal(t, step.ExitOther, realMain([]string{"pull"}, &out))
	require.Contains(t, out.String(), "--results is required")
	require.Zero(t, realMain([]string{"version"}, &out))
	left, err := os.ReadDir(private)
	require.NoError(t, err)
	require.Empty(t, left)
}
