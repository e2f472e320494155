package depot

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"

	"github.com/pratique-io/pratique/internal/oci"
	"github.com/pratique-io/pratique/services/evidence/internal/domain"
)

// maxContent bounds what one repository may hold before a person has to look at it.
const maxContent = 200_000

// survey collects what a repository holds.
type survey struct {
	depot     *Depot
	name      string
	seen      map[oci.Digest]bool
	manifests []string
	blobs     map[string]bool
}

// Survey lists everything in the repository that can be named: what its tags name, what hangs below or refers to that, and what was known
// before. A repository that does not exist is empty.
func (d *Depot) Survey(ctx context.Context, name string, known domain.Inventory) (domain.Inventory, error) {
	s := &survey{depot: d, name: name, seen: map[oci.Digest]bool{}, blobs: map[string]bool{}}
	for _, b := range known.Blobs {
		s.blobs[b] = true
	}
	tags, err := d.Repository(name).Tags(ctx)
	if err != nil && !errors.Is(err, oci.ErrNotFound) {
		return domain.Inventory{}, fmt.Errorf("survey %s: %w", name, err)
	}
	queue := slices.Clone(tags)
	queue = append(queue, known.Manifests...)
	for len(queue) > 0 {
		found, err := s.visit(ctx, queue[0])
		if err != nil {
			return domain.Inventory{}, fmt.Errorf("survey %s: %w", name, err)
		}
		queue = append(queue[1:], found...)
		if len(s.seen)+len(s.blobs) > maxContent {
			return domain.Inventory{}, fmt.Errorf("survey %s: more than %d pieces of content", name, maxContent)
		}
	}
	out := domain.Inventory{Manifests: s.manifests}
	for b := range s.blobs {
		out.Blobs = append(out.Blobs, b)
	}
	slices.Sort(out.Blobs)
	return out, nil
}

// visit notes one manifest and returns what it leads to.
func (s *survey) visit(ctx context.Context, ref string) ([]string, error) {
	if d := oci.Digest(ref); s.seen[d] {
		return nil, nil
	}
	digest, raw, err := s.depot.read(ctx, s.name, ref)
	if errors.Is(err, oci.ErrNotFound) {
		if d := oci.Digest(ref); d.Valid() { // deleted as a manifest; its bytes may still be there as a blob
			s.seen[d] = true
			s.manifests = append(s.manifests, ref)
			s.blobs[ref] = true
		}
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	if s.seen[digest] {
		return nil, nil
	}
	s.seen[digest] = true
	s.manifests = append(s.manifests, string(digest))
	s.blobs[string(digest)] = true
	children := s.links(raw)
	referrers, err := s.referrers(ctx, digest)
	return append(children, referrers...), err
}

// links reads what a manifest points at, believing nothing but the form of digests.
func (s *survey) links(raw []byte) (children []string) {
	type pointer struct {
		Digest  string `json:"digest"`
		BlobSum string `json:"blobSum"`
	}
	var doc struct {
		Config    json.RawMessage   `json:"config"`
		Layers    []json.RawMessage `json:"layers"`
		Manifests []json.RawMessage `json:"manifests"`
		Blobs     []json.RawMessage `json:"blobs"`
		FSLayers  []json.RawMessage `json:"fsLayers"`
	}
	_ = json.Unmarshal(raw, &doc) // what cannot be read leads nowhere
	each := func(list []json.RawMessage, visit func(string)) {
		for _, r := range list {
			var p pointer
			if json.Unmarshal(r, &p) != nil {
				continue
			}
			for _, d := range []string{p.Digest, p.BlobSum} {
				if oci.Digest(d).Valid() {
					visit(d)
				}
			}
		}
	}
	each(slices.Concat([]json.RawMessage{doc.Config}, doc.Layers, doc.Blobs, doc.FSLayers), func(d string) { s.blobs[d] = true })
	each(doc.Manifests, func(d string) { children = append(children, d) })
	return children
}

// referrers lists what refers to a digest. Where the list is too strange for internal/oci it is read leniently, one page: what is not
// tagged and beyond it is found by the next survey, when the first ones are gone.
func (s *survey) referrers(ctx context.Context, digest oci.Digest) ([]string, error) {
	var out []string
	listed, err := s.depot.Repository(s.name).Referrers(ctx, digest, "")
	var bad *oci.Unacceptable
	switch {
	case errors.Is(err, oci.ErrNotFound):
		return nil, nil
	case errors.As(err, &bad):
		status, raw, err := s.depot.send(ctx, http.MethodGet, s.name, "referrers/"+string(digest))
		if err != nil || status != http.StatusOK {
			return nil, errors.Join(err, fmt.Errorf("referrers: status %d", status))
		}
		return s.links(raw), nil
	case err != nil:
		return nil, err
	}
	for _, d := range listed {
		out = append(out, string(d.Digest))
	}
	return out, nil
}

// Erase deletes what the inventory lists, then makes sure that the repository answers with nothing any more. It may be repeated at any
// point. Registries that cannot delete blobs collect them by themselves once no manifest names them.
func (d *Depot) Erase(ctx context.Context, name string, inventory domain.Inventory) error {
	repo := d.Repository(name)
	for _, m := range inventory.Manifests {
		if err := repo.DeleteManifest(ctx, oci.Digest(m)); err != nil && !errors.Is(err, oci.ErrNotFound) {
			return fmt.Errorf("erase %s: %w", name, err)
		}
	}
	for _, b := range inventory.Blobs {
		if err := repo.DeleteBlob(ctx, oci.Digest(b)); !blobGone(err) {
			return fmt.Errorf("erase %s: %w", name, err)
		}
	}
	return d.empty(ctx, name, inventory)
}

// blobGone: deleted, gone before, or not offered here, which registries say in several ways.
func blobGone(err error) bool {
	return err == nil || errors.Is(err, oci.ErrNotFound) || errors.Is(err, oci.ErrUnsupported) || errors.Is(err, oci.ErrProtocol)
}

// errLeft says that something survived its deletion.
var errLeft = errors.New("the repository still answers")

func (d *Depot) empty(ctx context.Context, name string, inventory domain.Inventory) error {
	tags, err := d.Repository(name).Tags(ctx)
	if err != nil && !errors.Is(err, oci.ErrNotFound) {
		return fmt.Errorf("look into %s: %w", name, err)
	}
	if len(tags) > 0 {
		return fmt.Errorf("%s: %w with %d tags", name, errLeft, len(tags))
	}
	for _, m := range inventory.Manifests {
		_, _, err := d.read(ctx, name, m)
		if err == nil {
			return fmt.Errorf("%s: %w with manifest %s", name, errLeft, m)
		}
		if !errors.Is(err, oci.ErrNotFound) {
			return fmt.Errorf("look into %s: %w", name, err)
		}
	}
	return nil
}
