package oci

import (
	"context"
	"sync"
	"sync/atomic"

	"golang.org/x/sync/errgroup"
)

const defaultWorkers = 8

// Image is one image of a tree.
type Image struct {
	Manifest *Manifest
	Platform *Platform // as the index says; nil for a single image, whose config says it
}

// Tree is everything reachable from one manifest, strictly parsed. Subjects are not part of it.
type Tree struct {
	Root      *Manifest
	Manifests []*Manifest  // children before parents, the root last, each once
	Images    []Image      // in the order of the index
	Blobs     []Descriptor // configs and layers, each digest once
	Bytes     int64        // of the blobs

	heights map[Digest]int // 1 for an image, for pushing level by level
}

type walker struct {
	repo   *Repository
	limits Limits
	mu     sync.Mutex
	found  map[Digest]*Manifest
	sizes  map[Digest]int64
	held   *atomic.Int64 // bytes of manifests so far, of all walks that share a memory
}

// Walk reads the whole tree below root. Beyond what ParseManifest checks, each child must be what its parent's descriptor
// says, manifests may nest limits.Depth deep, and counts and sizes of the whole are bounded.
func Walk(ctx context.Context, repo *Repository, root Digest, limits Limits) (*Tree, error) {
	return walk(ctx, repo, root, limits, new(atomic.Int64))
}

func walk(ctx context.Context, repo *Repository, root Digest, limits Limits, held *atomic.Int64) (*Tree, error) {
	w := &walker{repo: repo, limits: limits.orDefault(), found: map[Digest]*Manifest{}, sizes: map[Digest]int64{}, held: held}
	level := []Descriptor{{Digest: root, Size: -1}}
	for depth := 1; len(level) > 0; depth++ {
		if depth > w.limits.Depth {
			return nil, refuse(ReasonTooLarge, "manifests nest deeper than %d", w.limits.Depth)
		}
		if err := w.fetch(ctx, level); err != nil {
			return nil, err
		}
		var next []Descriptor
		for _, d := range level {
			for _, child := range w.found[d.Digest].Manifests {
				if w.found[child.Digest] == nil && !listed(next, child.Digest) {
					next = append(next, child)
				}
			}
		}
		if level = next; len(w.found)+len(level) > w.limits.Manifests {
			return nil, refuse(ReasonTooLarge, "more than %d manifests", w.limits.Manifests)
		}
	}
	return w.tree(root)
}

func listed(ds []Descriptor, d Digest) bool {
	for i := range ds {
		if ds[i].Digest == d {
			return true
		}
	}
	return false
}

func (w *walker) fetch(ctx context.Context, level []Descriptor) error {
	for _, d := range level {
		if d.Size >= 0 && !isManifestType(d.MediaType) {
			return refuse(ReasonUnsupported, "the index lists a %s", clip(d.MediaType))
		}
	}
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(defaultWorkers)
	for _, d := range level {
		g.Go(func() error {
			m, err := w.repo.Manifest(ctx, d.Digest)
			if err != nil {
				return err
			}
			if w.held.Add(int64(len(m.Raw))) > w.limits.TreeBytes {
				return refuse(ReasonTooLarge, "manifests of more than %d bytes in all", w.limits.TreeBytes)
			}
			w.mu.Lock()
			defer w.mu.Unlock()
			w.found[d.Digest] = m
			return nil
		})
	}
	return g.Wait()
}

func (w *walker) tree(root Digest) (*Tree, error) {
	t := &Tree{Root: w.found[root], heights: map[Digest]int{}}
	if err := w.visit(t, t.Root, nil); err != nil {
		return nil, err
	}
	if t.heights[root] > w.limits.Depth {
		return nil, refuse(ReasonTooLarge, "manifests nest deeper than %d", w.limits.Depth)
	}
	if len(t.Images) == 0 {
		return nil, refuse(ReasonShape, "an index without any image")
	}
	return t, nil
}

// visit adds m after its children. A digest cannot contain itself, so this ends.
func (w *walker) visit(t *Tree, m *Manifest, platform *Platform) error {
	if t.heights[m.Digest] > 0 {
		return nil
	}
	height := 1
	for _, d := range m.Manifests {
		child := w.found[d.Digest]
		if child.MediaType != d.MediaType || int64(len(child.Raw)) != d.Size {
			return refuse(ReasonMediaType, "%s is not what its index says: %d bytes of %s", d.Digest, len(child.Raw), child.MediaType)
		}
		if err := w.visit(t, child, d.Platform); err != nil {
			return err
		}
		height = max(height, 1+t.heights[d.Digest])
	}
	t.heights[m.Digest] = height
	t.Manifests = append(t.Manifests, m)
	if m.IsIndex() {
		return nil
	}
	t.Images = append(t.Images, Image{Manifest: m, Platform: platform})
	for _, d := range append([]Descriptor{*m.Config}, m.Layers...) {
		if err := w.blob(t, d); err != nil {
			return err
		}
	}
	return nil
}

func (w *walker) blob(t *Tree, d Descriptor) error {
	if size, ok := w.sizes[d.Digest]; ok {
		if size != d.Size {
			return refuse(ReasonDescriptor, "%s occurs with two sizes", d.Digest)
		}
		return nil
	}
	w.sizes[d.Digest] = d.Size
	t.Blobs = append(t.Blobs, d)
	if t.Bytes += d.Size; t.Bytes > w.limits.TotalBytes {
		return refuse(ReasonTooLarge, "more than %d bytes in all", w.limits.TotalBytes)
	}
	return nil
}
