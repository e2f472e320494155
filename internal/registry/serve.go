package registry

import (
	"bytes"
	"errors"
	"io"
	"maps"
	"net/http"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"sync"
	"time"

	"github.com/olareg/olareg/types"
)

// ServeHTTP answers one request of the distribution protocol.
func (r *Registry) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	r.life.RLock()
	defer r.life.RUnlock()
	w.Header().Set("Docker-Distribution-Api-Version", "registry/2.0")
	if r.closed {
		unavailable.write(w, r.name)
		return
	}
	who, err := r.authenticate(req)
	if err != nil {
		unauthorized.write(w, r.name)
		return
	}
	rt, p := parseRoute(req.URL)
	if p == nil {
		p = r.authorise(who, rt, req.Method)
	}
	if p == denied && who.anonymous {
		p = unauthorized
	}
	if p != nil {
		if p == denied {
			r.log.Info("registry request denied", "actor", who.id, "method", req.Method, "repository", rt.repository)
		}
		p.write(w, r.name)
		return
	}
	r.answer(w, req, who, rt)
}

func (r *Registry) authorise(who principal, rt route, method string) *problem {
	action, ok := rt.action(method)
	switch {
	case !ok:
		return badMethod
	case rt.kind == ping:
		// A client that gets 200 without credentials never sends any.
		if who.anonymous && len(r.users)+len(r.runKey) > 0 {
			return unauthorized
		}
		return nil
	case rt.kind == catalogue:
		if !who.mayList() {
			return denied
		}
		return nil
	case !who.may(action, rt.repository):
		return denied
	}
	if rt.kind == uploadStart {
		if from := rt.query.Get("from"); from != "" && (!repositoryOK(from) || !who.may(Pull, from)) {
			return denied
		}
	}
	if rt.kind == uploadSession && !r.sessions.owned(rt.reference, rt.repository, who.id) {
		return unknownUpload
	}
	return nil
}

func (r *Registry) answer(w http.ResponseWriter, req *http.Request, who principal, rt route) {
	if rt.kind == catalogue {
		r.serveCatalogue(w, rt)
		return
	}
	if p := r.absent(&rt, req.Method); p != nil && rt.kind == referrers {
		w.Header().Set("Content-Type", types.MediaTypeOCI1ManifestList)
		_, _ = io.WriteString(w, noReferrers) // the client may be gone
		return
	} else if p != nil {
		p.write(w, r.name)
		return
	}
	inner := rebuild(req, rt)
	switch {
	case rt.kind == blob && req.Method != http.MethodDelete:
		r.stream(w, inner, rt)
	case req.Method == http.MethodGet || req.Method == http.MethodHead:
		held := &heldResponse{header: w.Header().Clone()}
		r.pass(held, inner, rt)
		held.release(w)
	default:
		r.change(w, inner, who, rt)
	}
}

// change runs a writing request and answers when its effect is on disk.
func (r *Registry) change(w http.ResponseWriter, inner *http.Request, who principal, rt route) {
	if rt.kind == manifest {
		if p := holdBody(w, inner); p != nil {
			p.write(w, r.name)
			return
		}
		mu := &r.writers[stripe(rt.repository)]
		mu.Lock()
		defer mu.Unlock()
	}
	began := time.Now() // compared with file times, so not the injected clock
	held := &heldResponse{header: w.Header().Clone()}
	r.pass(held, inner, rt)
	r.follow(held, inner.Method, who, rt)
	if !r.volatile && (held.status == http.StatusCreated || held.status == http.StatusAccepted) {
		if err := r.persist(rt, inner.Method, held, began); err != nil {
			r.log.Error("registry change not made durable", "repository", rt.repository, "err", err)
			notStored.write(w, r.name)
			return
		}
	}
	held.release(w)
}

// noReferrers is the answer for a subject nobody refers to; never 404.
const noReferrers = `{"schemaVersion":2,"mediaType":"` + types.MediaTypeOCI1ManifestList + `","manifests":[]}`

// absent answers for repositories that do not exist. olareg would keep every
// name it was ever asked for in memory.
func (r *Registry) absent(rt *route, method string) *problem {
	exists := func(repository string) bool {
		_, err := os.Stat(filepath.Join(r.dir, filepath.FromSlash(repository), indexFile))
		return err == nil
	}
	if rt.kind == uploadStart {
		if from := rt.query.Get("from"); from != "" && !exists(from) {
			rt.query.Del("from") // nothing to mount: an ordinary upload begins
			rt.query.Del("mount")
		}
		return nil
	}
	if rt.kind == ping || method == http.MethodPut || exists(rt.repository) {
		return nil
	}
	return unknownName
}

// rebuild makes the request olareg sees: the parsed route, no credentials, no
// other headers than those the protocol knows.
func rebuild(req *http.Request, rt route) *http.Request {
	inner := req.Clone(req.Context())
	inner.URL = &url.URL{Path: rt.path(), RawQuery: rt.query.Encode()}
	inner.RequestURI = inner.URL.RequestURI()
	inner.Header = http.Header{}
	for _, key := range []string{"Accept", "Content-Type", "Content-Length", "Content-Range", "Range", "If-Range"} {
		if values, ok := req.Header[key]; ok {
			inner.Header[key] = values
		}
	}
	return inner
}

// holdBody reads a manifest before olareg takes its repository lock, so that a
// slow client holds up nobody but itself.
func holdBody(w http.ResponseWriter, req *http.Request) *problem {
	body, err := io.ReadAll(http.MaxBytesReader(w, req.Body, manifestLimit))
	if err != nil {
		var limit *http.MaxBytesError
		if errors.As(err, &limit) {
			return tooLarge
		}
		return unreadableBody
	}
	req.Body = io.NopCloser(bytes.NewReader(body))
	req.ContentLength = int64(len(body))
	return nil
}

// follow keeps the table of upload sessions in step with what olareg answered.
func (r *Registry) follow(held *heldResponse, method string, who principal, rt route) {
	switch {
	case rt.kind == uploadStart && held.status == http.StatusAccepted:
		if location, err := url.Parse(held.header.Get("Location")); err == nil {
			r.sessions.add(path.Base(location.Path), rt.repository, who.id, time.Now())
		}
	case rt.kind == uploadSession && (held.status == http.StatusCreated || method == http.MethodDelete):
		r.sessions.drop(rt.reference)
	}
}

// sessions remembers who opened an upload. olareg finds a session by its name
// within a repository, whoever asks.
type sessions struct {
	mu   sync.Mutex
	open map[string]session
	next int // size at which expired entries are looked for
}

type session struct {
	repository, owner string
	began             time.Time
}

// tableSweep is the size from which a table of recent things is cleaned.
const tableSweep = 1024

func newSessions() *sessions { return &sessions{open: map[string]session{}, next: tableSweep} }

func (s *sessions) add(id, repository, owner string, now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.open) >= s.next {
		maps.DeleteFunc(s.open, func(_ string, o session) bool { return now.Sub(o.began) > 2*grace })
		s.next = max(tableSweep, 2*len(s.open))
	}
	s.open[id] = session{repository, owner, now}
}

func (s *sessions) owned(id, repository, owner string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	o, ok := s.open[id]
	return ok && o.repository == repository && o.owner == owner
}

func (s *sessions) drop(id string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.open, id)
}
