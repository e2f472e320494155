package registry

import (
	"bytes"
	"hash/fnv"
	"io"
	"maps"
	"net/http"
	"slices"
	"sync"
)

// stripes is how many locks the repositories share.
const stripes = 64

func stripe(repository string) int {
	h := fnv.New32a()
	_, _ = h.Write([]byte(repository)) // never fails
	return int(h.Sum32() % stripes)
}

// olareg notes whether a repository exists while it loads the index and while
// it starts an upload, and reads that note when it opens a blob, without a
// common lock. These are held around the parts of olareg that touch it: alone
// for the index and upload starts, shared to open a blob; never while a client
// sends or receives.

// pass runs olareg on a request whose answer is held back.
func (r *Registry) pass(held *heldResponse, inner *http.Request, rt route) {
	release := func() {}
	switch rt.kind {
	case manifest, tagList, referrers, uploadStart, blob:
		names := []int{stripe(rt.repository)}
		if from := rt.query.Get("from"); rt.kind == uploadStart && from != "" {
			names = append(names, stripe(from))
			slices.Sort(names) // one order for all, or two mounts wait for each other
			names = slices.Compact(names)
		}
		for _, n := range names {
			r.indexes[n].Lock()
		}
		release = sync.OnceFunc(func() {
			for _, n := range names {
				r.indexes[n].Unlock()
			}
		})
	}
	defer release()
	if rt.kind == uploadStart {
		inner.Body = &notedBody{inner.Body, release}
	}
	r.inner.ServeHTTP(held, inner)
}

// stream runs olareg on a read of a blob.
func (r *Registry) stream(w http.ResponseWriter, inner *http.Request, rt route) {
	mu := &r.indexes[stripe(rt.repository)]
	mu.RLock()
	opened := sync.OnceFunc(mu.RUnlock)
	defer opened()
	r.inner.ServeHTTP(&notedWriter{w, opened}, inner)
}

// notedBody tells when olareg begins to read: the upload is set up by then.
type notedBody struct {
	io.ReadCloser
	begin func()
}

func (b *notedBody) Read(p []byte) (int, error) {
	b.begin()
	return b.ReadCloser.Read(p)
}

// notedWriter tells when olareg begins to answer: the blob is open by then.
type notedWriter struct {
	http.ResponseWriter
	begin func()
}

func (w *notedWriter) WriteHeader(status int) {
	w.begin()
	w.ResponseWriter.WriteHeader(status)
}

func (w *notedWriter) Write(p []byte) (int, error) {
	w.begin()
	return w.ResponseWriter.Write(p)
}

// ReadFrom keeps the kernel's file-to-socket copy.
func (w *notedWriter) ReadFrom(src io.Reader) (int64, error) {
	w.begin()
	return io.Copy(w.ResponseWriter, src)
}

// heldResponse keeps an answer back: until a write is on disk, and of a read
// until no lock is held. It is at most a manifest or a page of referrers.
type heldResponse struct {
	header http.Header
	status int
	body   bytes.Buffer
}

func (h *heldResponse) Header() http.Header { return h.header }

func (h *heldResponse) WriteHeader(status int) {
	if h.status == 0 {
		h.status = status
	}
}

func (h *heldResponse) Write(p []byte) (int, error) {
	h.WriteHeader(http.StatusOK)
	return h.body.Write(p)
}

func (h *heldResponse) release(w http.ResponseWriter) {
	maps.Copy(w.Header(), h.header)
	if h.status == 0 {
		h.status = http.StatusOK
	}
	w.WriteHeader(h.status)
	_, _ = w.Write(h.body.Bytes()) // the client may be gone
}
