package registry

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/olareg/olareg/types"
)

const (
	indexFile  = "index.json"
	syncedFile = "_index.json" // last index known to be on disk; no repository can have this name
	layoutFile = "oci-layout"
	uploadsDir = "_uploads"
	layoutText = `{"imageLayoutVersion":"1.0.0"}`
	// writeback is the age after which the kernel has written a file by itself
	// (dirty_expire_centisecs is 30 s, the journal commits every 5 s).
	writeback = 2 * time.Minute
)

type repositoryIndex struct {
	SchemaVersion int `json:"schemaVersion"`
	Manifests     []struct {
		Digest      string            `json:"digest"`
		Annotations map[string]string `json:"annotations"`
	} `json:"manifests"`
}

func readIndex(name string) (repositoryIndex, error) {
	var index repositoryIndex
	raw, err := os.ReadFile(name)
	if err != nil {
		return index, err
	}
	return index, parseIndex(raw, &index)
}

func parseIndex(raw []byte, index *repositoryIndex) error {
	if err := json.Unmarshal(raw, index); err != nil {
		return err
	}
	if index.SchemaVersion != 2 {
		return errors.New("not an index")
	}
	return nil
}

// persist puts on disk what the held answer is about to promise.
func (r *Registry) persist(rt route, method string, held *heldResponse, began time.Time) error {
	dir := filepath.Join(r.dir, filepath.FromSlash(rt.repository))
	switch {
	case rt.kind == manifest && method == http.MethodPut:
		digest := held.header.Get("Docker-Content-Digest")
		if err := r.persistBlob(dir, digest); err != nil {
			return err
		}
		if err := r.persistReferences(dir, digest); err != nil {
			return err
		}
		return r.persistIndex(rt.repository, dir, began)
	case rt.kind == manifest:
		return r.persistIndex(rt.repository, dir, began)
	case rt.kind == blob:
		name, _ := blobPath(dir, rt.reference)
		return syncPath(filepath.Dir(name))
	case held.status == http.StatusCreated:
		if err := r.persistBlob(dir, held.header.Get("Docker-Content-Digest")); err != nil {
			return err
		}
		return r.persistRoot(rt.repository, dir)
	}
	return nil // an upload session promises nothing
}

func (r *Registry) persistBlob(dir, digest string) error {
	name, ok := blobPath(dir, digest)
	if !ok {
		return fmt.Errorf("storage answered with digest %q", digest)
	}
	before, err := os.Stat(name)
	if err != nil {
		return err
	}
	if err := syncPath(name); err != nil {
		return err
	}
	if err := syncPath(filepath.Dir(name)); err != nil {
		return err
	}
	r.synced.add(name, before)
	return nil
}

// persistReferences syncs the blobs a manifest names that may not be on disk:
// those found in place because an earlier push wrote them and never heard back.
func (r *Registry) persistReferences(dir, digest string) error {
	name, _ := blobPath(dir, digest)
	raw, err := os.ReadFile(name)
	if err != nil {
		return err
	}
	type reference struct{ Digest string }
	var named struct {
		Config            reference
		Layers, Manifests []reference
	}
	// olareg accepted it: a field of another shape is one it does not follow.
	var shape *json.UnmarshalTypeError
	if err := json.Unmarshal(raw, &named); err != nil && !errors.As(err, &shape) {
		return err
	}
	for _, ref := range append(append(named.Layers, named.Manifests...), named.Config) {
		name, ok := blobPath(dir, ref.Digest)
		if !ok {
			continue
		}
		info, err := os.Stat(name)
		if errors.Is(err, fs.ErrNotExist) { // a foreign layer
			continue
		}
		if err != nil {
			return err
		}
		if time.Since(info.ModTime()) > writeback || r.synced.has(name, info) {
			continue
		}
		if err := r.persistBlob(dir, ref.Digest); err != nil {
			return err
		}
	}
	return nil
}

func blobPath(dir, digest string) (string, bool) {
	algorithm, encoded, _ := strings.Cut(digest, ":")
	return filepath.Join(dir, "blobs", algorithm, encoded), digestRule.MatchString(digest)
}

// fresh remembers files synced by this process while they are young. The inode
// is part of it: two uploads of one blob replace each other's file.
type fresh struct {
	mu    sync.Mutex
	files map[string]syncedAs
	next  int
}

type syncedAs struct {
	inode    uint64
	modified time.Time
}

func identity(info fs.FileInfo) syncedAs {
	as := syncedAs{modified: info.ModTime()}
	if stat, ok := info.Sys().(*syscall.Stat_t); ok {
		as.inode = stat.Ino
	}
	return as
}

func (f *fresh) add(name string, info fs.FileInfo) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.files) >= f.next {
		maps.DeleteFunc(f.files, func(_ string, as syncedAs) bool { return time.Since(as.modified) > writeback })
		f.next = max(tableSweep, 2*len(f.files))
	}
	f.files[name] = identity(info)
}

func (f *fresh) has(name string, info fs.FileInfo) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	as, ok := f.files[name]
	return ok && as == identity(info)
}

// persistIndex syncs the index and the lists of referrers it names that this
// request wrote. The index is linked first and synced under the second name:
// olareg replaces index.json by renaming and never writes to it again, so the
// link stays whole whatever happens to index.json meanwhile.
func (r *Registry) persistIndex(repository, dir string, began time.Time) error {
	link := filepath.Join(dir, syncedFile+".new")
	if err := os.Remove(link); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := os.Link(filepath.Join(dir, indexFile), link); err != nil {
		return err
	}
	index, err := readIndex(link)
	if err != nil {
		return err
	}
	for _, m := range index.Manifests {
		name, ok := blobPath(dir, m.Digest)
		if m.Annotations[types.AnnotReferrerSubject] == "" || !ok {
			continue
		}
		info, err := os.Stat(name)
		// File times may lag the clock by a tick.
		if err == nil && info.ModTime().After(began.Add(-time.Second)) {
			if err := r.persistBlob(dir, m.Digest); err != nil {
				return err
			}
		}
	}
	if err := syncPath(link); err != nil {
		return err
	}
	if err := os.Rename(link, filepath.Join(dir, syncedFile)); err != nil {
		return err
	}
	if err := syncPath(dir); err != nil {
		return err
	}
	return r.persistRoot(repository, dir)
}

// persistRoot syncs the directories a new repository added, once.
func (r *Registry) persistRoot(repository, dir string) error {
	if _, done := r.rooted.Load(repository); done {
		return nil
	}
	if err := syncPath(filepath.Join(dir, layoutFile)); err != nil {
		return err
	}
	for _, path := range []string{filepath.Join(dir, "blobs"), dir} {
		if err := syncPath(path); err != nil {
			return err
		}
	}
	for path := filepath.Dir(dir); len(path) >= len(filepath.Clean(r.dir)); path = filepath.Dir(path) {
		if err := syncPath(path); err != nil {
			return err
		}
	}
	r.rooted.Store(repository, true)
	return nil
}

func syncPath(name string) error {
	f, err := os.Open(name)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}
