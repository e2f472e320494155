package sample

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"debug/buildinfo"
	"debug/elf"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/stretchr/testify/require"

	"github.com/pratique-io/pratique/internal/oci"
	"github.com/pratique-io/pratique/internal/registry"
)

// golden holds the digests every machine must arrive at. A change of content
// is a change here.
var golden = map[string]string{
	"demo/clean":          "sha256:9dcdf3b689a5b1ed79418dbb2745f07b1ea2c637b31cbe63ff07483d39459c67",
	"demo/vulnerable":     "sha256:a4dc24ad2e6fb00af3526120e2aa60eb8406f3fa020d288359006b3460a3814a",
	"demo/malformed-root": "sha256:b1f4c2fca3e229df27ac895e8150075a7a3de2f8d8730df21035e478c35b7007",
	"demo/malformed-deep": "sha256:33f79ffe141f3905504d278e20b2368f2c8f144ae9f8145dcc63f8304918171f",
	"demo/escaping-layer": "sha256:ab4e1fea23f87f9ff95fd0af2458553807dc7ed50f1466da4841cdd553595e96",
}

func TestTheSameBytesComeOutEachTime(t *testing.T) {
	t.Parallel()
	again := All()
	require.Len(t, again, len(golden))
	for i, image := range All() {
		require.Equal(t, image, again[i])
		require.Equal(t, golden[image.Name], image.Root.Digest.String(), image.Name)
		require.NotEmpty(t, image.Note)
		for d, content := range image.Blobs {
			require.Equal(t, d, digest.FromBytes(content))
		}
	}
}

func find(t *testing.T, image Image, d digest.Digest) Manifest {
	t.Helper()
	for _, m := range image.Manifests {
		if m.Digest == d {
			require.Equal(t, d, digest.FromBytes(m.Raw))
			return m
		}
	}
	require.Failf(t, "manifest missing", "%s of %s", d, image.Name)
	return Manifest{}
}

// child decodes the manifest of one platform.
func child(t *testing.T, image Image, arch string) ocispec.Manifest {
	t.Helper()
	var root ocispec.Index
	require.NoError(t, json.Unmarshal(find(t, image, image.Root.Digest).Raw, &root))
	for _, d := range root.Manifests {
		if d.Platform.Architecture == arch {
			var m ocispec.Manifest
			raw := find(t, image, d.Digest).Raw
			require.Equal(t, d.Size, int64(len(raw)))
			require.NoError(t, json.Unmarshal(raw, &m))
			return m
		}
	}
	require.Failf(t, "platform missing", "%s of %s", arch, image.Name)
	return ocispec.Manifest{}
}

// files unpacks a platform's layers and checks each against its diff id.
func files(t *testing.T, image Image, m ocispec.Manifest) map[string][]byte {
	t.Helper()
	var config ocispec.Image
	require.NoError(t, json.Unmarshal(image.Blobs[m.Config.Digest], &config))
	require.Len(t, config.RootFS.DiffIDs, len(m.Layers))
	require.Len(t, config.History, len(m.Layers))
	out := map[string][]byte{}
	for i, layer := range m.Layers {
		z, err := gzip.NewReader(bytes.NewReader(image.Blobs[layer.Digest]))
		require.NoError(t, err)
		content, err := io.ReadAll(z)
		require.NoError(t, err)
		require.Equal(t, config.RootFS.DiffIDs[i], digest.FromBytes(content))
		for r := tar.NewReader(bytes.NewReader(content)); ; {
			h, err := r.Next()
			if errors.Is(err, io.EOF) {
				break
			}
			require.NoError(t, err)
			require.True(t, h.ModTime.Equal(made))
			require.Zero(t, h.Uid)
			if parent := filepath.Dir(strings.TrimSuffix(h.Name, "/")); parent != "." {
				require.Contains(t, out, parent+"/", "%s comes before its directory", h.Name)
			}
			out[h.Name], err = io.ReadAll(r)
			require.NoError(t, err)
			require.Len(t, out[h.Name], int(h.Size))
		}
	}
	return out
}

func TestEveryListedPackageIsRecordedWhereScannersLook(t *testing.T) {
	t.Parallel()
	platforms := map[string]map[string]map[string][]byte{}
	for _, image := range []Image{Clean(), Vulnerable()} {
		platforms[image.Name] = map[string]map[string][]byte{}
		for _, arch := range architectures {
			platforms[image.Name][arch] = files(t, image, child(t, image, arch))
		}
	}
	for _, p := range Packages() {
		for _, arch := range architectures {
			if p.Architecture != "" && p.Architecture != arch {
				continue
			}
			all := platforms[p.Image][arch]
			release := string(all["usr/lib/os-release"])
			switch p.Ecosystem {
			case Deb:
				require.Contains(t, release, "ID=debian\n")
				record := string(all["var/lib/dpkg/status"]) + string(all["var/lib/dpkg/status.d/"+p.Name])
				require.Contains(t, record, "Package: "+p.Name+"\n")
				require.Contains(t, record, "\nVersion: "+p.Version+"\n")
				require.Contains(t, record, "\nArchitecture: "+arch+"\n")
				if p.Source != p.Name {
					require.Contains(t, record, "\nSource: "+p.Source+"\n")
				}
			case Apk:
				require.Contains(t, release, "ID=alpine\n")
				require.Contains(t, string(all["lib/apk/db/installed"]), "P:"+p.Name+"\nV:"+p.Version+"\n")
			case NPM:
				var manifest struct{ Name, Version string }
				require.NoError(t, json.Unmarshal(all["srv/app/node_modules/"+p.Name+"/package.json"], &manifest))
				require.Equal(t, p.Version, manifest.Version)
			case Python:
				metadata := string(all["usr/local/lib/python3.11/site-packages/"+p.Name+"-"+p.Version+".dist-info/METADATA"])
				require.Contains(t, metadata, "\nName: "+p.Name+"\nVersion: "+p.Version+"\n")
			case Go:
				info, err := buildinfo.Read(bytes.NewReader(all["usr/local/bin/demo"]))
				require.NoError(t, err)
				require.Equal(t, goVersion, info.GoVersion)
				require.Equal(t, "example.org/demo", info.Main.Path)
				found := ""
				for _, dep := range info.Deps {
					if dep.Path == p.Name {
						found = dep.Version
					}
				}
				require.Equal(t, p.Version, found)
			default:
				require.Failf(t, "unknown ecosystem", "%s", p.Ecosystem)
			}
		}
	}
}

func TestTheCleanImageHasNothingListedAndTheVulnerableOneEverything(t *testing.T) {
	t.Parallel()
	seen := map[string]bool{}
	for _, p := range Packages() {
		if p.Image == cleanName {
			require.Empty(t, p.Vulnerabilities, p.Name)
		}
		for _, v := range p.Vulnerabilities {
			seen[p.Ecosystem] = true
			require.NotEqual(t, p.Version, v.FixedIn)
			require.Contains(t, []string{"critical", "high", "medium", "low"}, v.Severity)
			require.Equal(t, v.GHSA == "", p.Ecosystem == Deb || p.Ecosystem == Apk)
		}
	}
	require.Len(t, seen, 5)
}

func TestTheGoProgramIsAnExecutable(t *testing.T) {
	t.Parallel()
	raw := goProgram(installed(vulnerableName, "amd64", Go))
	f, err := elf.NewFile(bytes.NewReader(raw))
	require.NoError(t, err)
	require.Equal(t, elf.EM_X86_64, f.Machine)
	require.NotNil(t, f.Section(".go.buildinfo"))
	if runtime.GOOS != "linux" || runtime.GOARCH != "amd64" {
		return // it is still read as an ELF file above; only Linux on amd64 can run it
	}
	name := filepath.Join(t.TempDir(), "demo")
	require.NoError(t, os.WriteFile(name, raw, 0o700))
	require.NoError(t, exec.Command(name).Run(), "it runs and exits 0")
}

func TestTheReferrerNamesTheRoot(t *testing.T) {
	t.Parallel()
	image := Clean()
	require.Len(t, image.Referrers, 1)
	var m ocispec.Manifest
	require.NoError(t, json.Unmarshal(find(t, image, image.Referrers[0].Digest).Raw, &m))
	require.Equal(t, image.Root.Digest, m.Subject.Digest)
	require.Equal(t, "application/spdx+json", m.ArtifactType)
	require.True(t, json.Valid(image.Blobs[m.Layers[0].Digest]))
}

// keys lists an object's keys as they are written, doubles included.
func keys(t *testing.T, raw []byte) map[string]int {
	t.Helper()
	out := map[string]int{}
	d := json.NewDecoder(bytes.NewReader(raw))
	_, err := d.Token()
	require.NoError(t, err)
	for d.More() {
		key, err := d.Token()
		require.NoError(t, err)
		out[key.(string)]++
		var skipped json.RawMessage
		require.NoError(t, d.Decode(&skipped))
	}
	return out
}

func TestEachMalformedImageIsWrongInItsOwnWayOnly(t *testing.T) {
	t.Parallel()
	root := func(i Image) map[string]int { return keys(t, find(t, i, i.Root.Digest).Raw) }
	require.Subset(t, root(MalformedRoot()), map[string]int{"manifests": 1, "layers": 1})

	deep := MalformedDeep()
	require.NotContains(t, root(deep), "layers")
	doubled := 0
	for _, m := range deep.Manifests {
		for _, n := range keys(t, m.Raw) {
			if n > 1 {
				doubled++
				require.NotEqual(t, deep.Root.Digest, m.Digest)
			}
		}
	}
	require.Equal(t, 1, doubled)

	escaping := EscapingLayer()
	m := child(t, escaping, "arm64")
	z, err := gzip.NewReader(bytes.NewReader(escaping.Blobs[m.Layers[1].Digest]))
	require.NoError(t, err)
	h, err := tar.NewReader(z).Next()
	if !errors.Is(err, tar.ErrInsecurePath) {
		require.NoError(t, err)
	}
	require.False(t, filepath.IsLocal(filepath.FromSlash(h.Name)))
	for _, m := range escaping.Manifests {
		for key, n := range keys(t, m.Raw) {
			require.Equal(t, 1, n, key)
		}
	}
}

func TestTheStrictRulesRefuseTheMalformedManifestsAndNoOthers(t *testing.T) {
	t.Parallel()
	refused := map[string][]digest.Digest{}
	for _, image := range All() {
		for _, m := range image.Manifests {
			if _, err := oci.ParseManifest(m.Raw, m.MediaType); err != nil {
				var u *oci.Unacceptable
				require.ErrorAs(t, err, &u)
				refused[image.Name] = append(refused[image.Name], m.Digest)
			}
		}
	}
	root, deep := MalformedRoot(), MalformedDeep()
	require.Len(t, refused, 2)
	require.Equal(t, []digest.Digest{root.Root.Digest}, refused[root.Name], "at once, when it is asked for")
	require.Equal(t, []digest.Digest{deep.Manifests[1].Digest}, refused[deep.Name], "the child only")
}

func TestEveryImageCanBePushedToTheUpstreamRegistryAndReadBack(t *testing.T) {
	t.Parallel()
	r, err := registry.Open(registry.Config{Name: "upstream", Dir: t.TempDir(), Volatile: true,
		Users: []registry.User{{Name: "demo", Password: "pw", Access: registry.Full(registry.Pull, registry.Push)}}})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, r.Close()) })
	s := httptest.NewServer(r)
	t.Cleanup(s.Close)
	host := strings.TrimPrefix(s.URL, "http://")
	get := func(target string) []byte {
		req, err := http.NewRequest("GET", s.URL+target, nil)
		require.NoError(t, err)
		req.SetBasicAuth("demo", "pw")
		resp, err := http.DefaultClient.Do(req)
		require.NoError(t, err)
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		require.NoError(t, err)
		require.Equal(t, http.StatusOK, resp.StatusCode, "%s: %s", target, body)
		return body
	}
	for _, image := range All() {
		require.ErrorContains(t, image.Push(t.Context(), nil, host, image.Name, "1.0", "demo", "wrong"), "401")
		require.NoError(t, image.Push(t.Context(), nil, host, image.Name, "1.0", "demo", "pw"))
		require.NoError(t, image.Push(t.Context(), nil, host, image.Name, "1.0", "demo", "pw"), "pushing twice is harmless")
		require.Equal(t, find(t, image, image.Root.Digest).Raw, get("/v2/"+image.Name+"/manifests/1.0"))
		for _, m := range image.Manifests {
			require.Equal(t, m.Raw, get("/v2/"+image.Name+"/manifests/"+m.Digest.String()))
		}
		for d, content := range image.Blobs {
			require.Equal(t, content, get("/v2/"+image.Name+"/blobs/"+d.String()))
		}
		var list ocispec.Index
		require.NoError(t, json.Unmarshal(get("/v2/"+image.Name+"/referrers/"+image.Root.Digest.String()), &list))
		require.Len(t, list.Manifests, len(image.Referrers))
	}
}

func TestOnlyLoopbackIsSpokenToWithoutTLS(t *testing.T) {
	t.Parallel()
	for host, want := range map[string]string{
		"127.0.0.1:5000": "http://127.0.0.1:5000", "localhost:5000": "http://localhost:5000", "[::1]:5000": "http://[::1]:5000",
		"localhost": "http://localhost", "10.0.0.1:5000": "https://10.0.0.1:5000", "registry.example": "https://registry.example",
		"http://registry.example/": "http://registry.example", "localhost.example:5000": "https://localhost.example:5000",
	} {
		require.Equal(t, want, baseURL(host))
	}
}
