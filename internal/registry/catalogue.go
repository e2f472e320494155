package registry

import (
	"encoding/json"
	"fmt"
	"io/fs"
	"net/http"
	"net/url"
	"path/filepath"
	"slices"
	"strconv"
)

const cataloguePage = 1000 // repositories in one answer

// serveCatalogue lists the repositories that hold at least one manifest, in
// lexical order; olareg has no catalogue.
func (r *Registry) serveCatalogue(w http.ResponseWriter, rt route) {
	limit := cataloguePage
	if raw := rt.query.Get("n"); raw != "" {
		n, err := strconv.Atoi(raw)
		if err != nil || n < 1 {
			badQuery.write(w, r.name)
			return
		}
		limit = min(n, cataloguePage)
	}
	names, more, err := r.list(rt.query.Get("last"), limit)
	if err != nil {
		r.log.Error("registry catalogue unreadable", "err", err)
		(&problem{http.StatusInternalServerError, "UNKNOWN", "the catalogue could not be read"}).write(w, r.name)
		return
	}
	body, err := json.Marshal(map[string][]string{"repositories": names})
	if err != nil { // strings always marshal
		body = nil
	}
	if more {
		next := url.Values{"n": {strconv.Itoa(limit)}, "last": {names[len(names)-1]}}
		w.Header().Set("Link", fmt.Sprintf("</v2/_catalog?%s>; rel=\"next\"", next.Encode()))
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Content-Length", strconv.Itoa(len(body)))
	_, _ = w.Write(body) // the client may be gone
}

func (r *Registry) list(after string, limit int) (names []string, more bool, err error) {
	all := []string{}
	err = walkRepositories(r.dir, func(name, dir string) error {
		index, err := readIndex(filepath.Join(dir, indexFile))
		if err == nil && len(index.Manifests) > 0 {
			all = append(all, name)
		}
		return nil
	})
	if err != nil {
		return nil, false, err
	}
	slices.Sort(all)
	names = []string{}
	for _, name := range all {
		if name <= after {
			continue
		}
		if len(names) == limit {
			return names, true, nil
		}
		names = append(names, name)
	}
	return names, false, nil
}

// walkRepositories calls visit for every directory that may be a repository.
func walkRepositories(root string, visit func(name, dir string) error) error {
	return filepath.WalkDir(root, func(dir string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if !d.IsDir() || dir == root {
			return nil
		}
		name, err := filepath.Rel(root, dir)
		if err != nil {
			return err
		}
		name = filepath.ToSlash(name)
		if !repositoryOK(name) { // blobs, _uploads
			return fs.SkipDir
		}
		return visit(name, dir)
	})
}
