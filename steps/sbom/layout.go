package sbom

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"strings"

	"github.com/pratique-io/pratique/internal/oci"
	"github.com/pratique-io/pratique/steps/image"
	"github.com/pratique-io/pratique/steps/layer"
)

// layout is an OCI image layout holding one image at a time. Blobs that platforms share are fetched once.
type layout struct{ dir string }

func (l layout) path(d oci.Digest) string {
	return filepath.Join(l.dir, "blobs", d.Algorithm(), d.Hex())
}

// write makes the layout hold exactly img.
func (l layout) write(ctx context.Context, repo *oci.Repository, img image.Image) error {
	for _, d := range append([]oci.Descriptor{*img.Manifest.Config}, img.Manifest.Layers...) {
		if err := l.fetch(ctx, repo, d); err != nil {
			return err
		}
	}
	if err := l.put(l.path(img.Manifest.Digest), img.Manifest.Raw); err != nil {
		return err
	}
	index, err := json.Marshal(map[string]any{
		"schemaVersion": 2, "mediaType": oci.MediaTypeIndex, "manifests": []oci.Descriptor{img.Manifest.Descriptor()},
	})
	if err != nil {
		return err
	}
	if err := l.put(filepath.Join(l.dir, "index.json"), index); err != nil {
		return err
	}
	return l.put(filepath.Join(l.dir, "oci-layout"), []byte(`{"imageLayoutVersion":"1.0.0"}`))
}

func (l layout) put(name string, content []byte) error {
	if err := os.MkdirAll(filepath.Dir(name), 0o700); err != nil {
		return err
	}
	return os.WriteFile(name, content, 0o600)
}

// fetch brings one blob; the reader verifies size and digest.
func (l layout) fetch(ctx context.Context, repo *oci.Repository, d oci.Descriptor) (err error) {
	name := l.path(d.Digest)
	if _, err := os.Stat(name); err == nil {
		return nil
	}
	if err := os.MkdirAll(filepath.Dir(name), 0o700); err != nil {
		return err
	}
	r, err := repo.Blob(ctx, d)
	if err != nil {
		return err
	}
	defer r.Close()
	f, err := os.OpenFile(name+".part", os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(f, r)
	if err = errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("fetch %s: %w", d.Digest, err)
	}
	return os.Rename(name+".part", name)
}

// sighting is what our own walk saw in the layers of one image.
type sighting struct {
	files     int
	databases map[string]string // path of a package database to the package type it should yield; still there on top
}

// evidence walks the layers bottom up, applying deletions.
func (l layout) evidence(ctx context.Context, img image.Image, inspector *layer.Inspector) (sighting, error) {
	out := sighting{databases: map[string]string{}}
	for _, d := range img.Manifest.Layers {
		added := map[string]string{}
		inspector.Visit = func(e layer.Entry) {
			out.delete(e.Name)
			if e.Regular() && e.Size > 0 {
				out.files++
				if kind := packageType(e.Name); kind != "" {
					added[e.Name] = kind
				}
			}
		}
		f, err := os.Open(l.path(d.Digest))
		if err != nil {
			return out, err
		}
		_, err = inspector.Inspect(ctx, f, d.MediaType)
		if err = errors.Join(err, f.Close()); err != nil {
			return out, fmt.Errorf("layer %s: %w", d.Digest, err)
		}
		for name, kind := range added {
			out.databases[name] = kind
		}
	}
	return out, nil
}

// delete drops databases of lower layers that a whiteout removes.
func (s sighting) delete(name string) {
	gone, ok := strings.CutPrefix(path.Base(name), ".wh.")
	if !ok {
		return
	}
	under := path.Join(path.Dir(name), gone)
	if gone == ".wh..opq" {
		under = path.Dir(name)
	}
	for p := range s.databases {
		if under == "." || p == under || strings.HasPrefix(p, under+"/") {
			delete(s.databases, p)
		}
	}
}

// packageType says which packages a file must yield when it is there and not empty.
func packageType(name string) string {
	dir, base := path.Split(name)
	switch {
	case name == "var/lib/dpkg/status", dir == "var/lib/dpkg/status.d/" && !strings.HasSuffix(base, ".md5sums"):
		return "deb"
	case name == "lib/apk/db/installed", name == "usr/lib/apk/db/installed":
		return "apk"
	case dir == "var/lib/rpm/" || dir == "usr/lib/sysimage/rpm/" || dir == "usr/share/rpm/":
		if base == "Packages" || base == "Packages.db" || base == "rpmdb.sqlite" {
			return "rpm"
		}
	case base == "METADATA" && strings.HasSuffix(dir, ".dist-info/"):
		return "python"
	}
	return ""
}
