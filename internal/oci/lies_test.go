package oci

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestManifestsThatAreNotWhatWasAskedFor(t *testing.T) {
	t.Parallel()
	serve := func(contentType, said, body string) *Repository {
		n := &internet{hosts: map[string]http.HandlerFunc{"https://reg.example": func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", contentType)
			if said != "" {
				w.Header().Set("Docker-Content-Digest", said)
			}
			_, _ = io.WriteString(w, body)
		}}}
		r, _ := n.repo(Credential{})
		return r
	}
	good := FromBytes([]byte(goodImage))
	m, err := serve(MediaTypeImage, string(good), goodImage).Manifest(t.Context(), good)
	require.NoError(t, err)
	require.Equal(t, good, m.Digest)
	for _, c := range []struct {
		r      *Repository
		ref    string
		reason Reason
	}{
		{serve(MediaTypeImage, "", goodImage+" "), string(good), ReasonDigestMismatch},
		{serve(MediaTypeImage, string(FromBytes(nil)), goodImage), "v1", ReasonDigestMismatch},
		{serve(MediaTypeImage, "rubbish", goodImage), "v1", ReasonDigestMismatch},
		{serve(MediaTypeIndex, "", goodImage), "v1", ReasonShape},
		{serve("text/html", "", "<html>login</html>"), "v1", ReasonUnsupported},
		{serve(MediaTypeImage, "", strings.Repeat(" ", 4<<20)+goodImage), "v1", ReasonTooLarge},
	} {
		_, _, err := c.r.Resolve(t.Context(), c.ref)
		requireReason(t, err, c.reason)
	}
	for _, ref := range []string{"", "../../x", "a/b", "v1?x", "sha256:abc", "v1#", strings.Repeat("a", 129)} {
		_, _, err := serve(MediaTypeImage, "", goodImage).Resolve(t.Context(), ref)
		require.Error(t, err, ref)
	}
	for _, name := range []string{"", "../app", "App", "a//b"} {
		c, _ := quick()
		c.rt = &internet{}
		_, _, err := c.Repository("reg.example", name, Credential{}).Resolve(t.Context(), "v1")
		require.ErrorContains(t, err, "not a repository")
	}
}

func TestBlobStreams(t *testing.T) {
	t.Parallel()
	content := noise(5, 300_000)
	d := Descriptor{MediaType: "a/b", Digest: FromBytes(content), Size: int64(len(content))}
	read := func(t *testing.T, h http.HandlerFunc, d Descriptor) ([]byte, error) {
		srv := httptest.NewServer(h)
		defer srv.Close()
		c, _ := quick()
		rc, err := c.Repository(srv.Listener.Addr().String(), "app", Credential{}).Blob(t.Context(), d)
		if err != nil {
			return nil, err
		}
		defer rc.Close()
		return io.ReadAll(rc)
	}
	// cut sends at most n bytes per answer and then breaks the connection
	cut := func(n int, ranges bool) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			body := content
			if from, ok := strings.CutPrefix(r.Header.Get("Range"), "bytes="); ok && ranges {
				at, _ := strconv.Atoi(strings.TrimSuffix(from, "-"))
				w.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", at, len(content)-1, len(content)))
				body = content[at:]
				w.Header().Set("Content-Length", strconv.Itoa(len(body)))
				w.WriteHeader(http.StatusPartialContent)
			} else {
				w.Header().Set("Content-Length", strconv.Itoa(len(body)))
			}
			_, _ = w.Write(body[:min(n, len(body))])
		}
	}
	t.Run("are resumed by range", func(t *testing.T) {
		got, err := read(t, cut(90_000, true), d)
		require.NoError(t, err)
		require.Equal(t, content, got)
	})
	t.Run("are resumed without ranges while they get further", func(t *testing.T) {
		calls := 0
		got, err := read(t, func(w http.ResponseWriter, r *http.Request) { calls++; cut(140_000*calls, false)(w, r) }, d)
		require.NoError(t, err)
		require.Equal(t, content, got)
	})
	t.Run("end when nothing more comes", func(t *testing.T) {
		_, err := read(t, cut(100, false), d)
		require.ErrorIs(t, err, ErrUnavailable)
	})
	t.Run("with another range are refused", func(t *testing.T) {
		_, err := read(t, func(w http.ResponseWriter, r *http.Request) {
			if r.Header.Get("Range") != "" {
				w.Header().Set("Content-Range", "bytes 0-9/10")
				w.WriteHeader(http.StatusPartialContent)
				return
			}
			cut(10, false)(w, r)
		}, d)
		require.ErrorIs(t, err, ErrProtocol)
	})
	t.Run("with other bytes are refused, and never given whole", func(t *testing.T) {
		bad := bytes.Clone(content)
		bad[len(bad)-1] ^= 1
		got, err := read(t, func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(bad) }, d)
		requireReason(t, err, ReasonDigestMismatch)
		require.Less(t, len(got), len(content))
	})
	t.Run("with extra bytes are refused", func(t *testing.T) {
		for _, flush := range []bool{true, false} {
			_, err := read(t, func(w http.ResponseWriter, _ *http.Request) {
				if flush {
					w.(http.Flusher).Flush() // no Content-Length
				}
				_, _ = w.Write(append(bytes.Clone(content), 'x'))
			}, d)
			requireReason(t, err, ReasonDigestMismatch)
		}
	})
	t.Run("with a shorter length are refused", func(t *testing.T) {
		_, err := read(t, func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(content[:10]) }, d)
		requireReason(t, err, ReasonDigestMismatch)
	})
	t.Run("of nothing need no request", func(t *testing.T) {
		got, err := read(t, nil, Descriptor{Digest: FromBytes(nil)})
		require.NoError(t, err)
		require.Empty(t, got)
		_, err = read(t, nil, Descriptor{Digest: d.Digest})
		requireReason(t, err, ReasonDigestMismatch)
	})
	t.Run("over the budget are not begun", func(t *testing.T) {
		_, err := read(t, nil, Descriptor{Digest: d.Digest, Size: 1 << 50})
		requireReason(t, err, ReasonTooLarge)
	})
}

func TestAnUploadOfWrongBytesLeavesNothing(t *testing.T) {
	t.Parallel()
	reg := newRegistry(t, nil)
	r := reg.repo("app")
	d := Descriptor{Digest: FromBytes([]byte("right")), Size: 5}
	for _, content := range []string{"wrong", "righ", "right!", ""} {
		err := r.PushBlob(t.Context(), d, strings.NewReader(content))
		require.Error(t, err, content)
		has, err := r.HasBlob(t.Context(), d.Digest)
		require.NoError(t, err)
		require.False(t, has)
	}
	require.NoError(t, r.PushBlob(t.Context(), d, strings.NewReader("right")))
	require.NoError(t, r.PushBlob(t.Context(), Descriptor{Digest: FromBytes(nil)}, strings.NewReader("")))
	has, err := r.HasBlob(t.Context(), FromBytes(nil))
	require.NoError(t, err)
	require.True(t, has)
}

func TestCopyNoticesARegistryThatLies(t *testing.T) {
	t.Parallel()
	from := newRegistry(t, nil)
	src := from.repo("a")
	root := pushImage(t, src, 1, 2, nil)
	t.Run("201 without storing the manifest", func(t *testing.T) {
		to := newRegistry(t, nil)
		to.intercept(func(w http.ResponseWriter, r *http.Request) bool {
			lie := r.Method == http.MethodPut && strings.Contains(r.URL.Path, "/manifests/")
			if lie {
				w.WriteHeader(http.StatusCreated)
			}
			return lie
		})
		tagged := false
		_, err := Copy(t.Context(), src, to.repo("b"), root.Digest, CopyOptions{Tags: []string{"v1"}, BeforeTag: func(context.Context) error { tagged = true; return nil }})
		require.ErrorIs(t, err, ErrProtocol)
		require.ErrorContains(t, err, "not there")
		require.False(t, tagged)
	})
	t.Run("201 under another digest", func(t *testing.T) {
		to := newRegistry(t, nil)
		to.intercept(func(w http.ResponseWriter, r *http.Request) bool {
			lie := r.Method == http.MethodPut && strings.Contains(r.URL.Path, "/manifests/")
			if lie {
				w.Header().Set("Docker-Content-Digest", string(FromBytes(nil)))
				w.WriteHeader(http.StatusCreated)
			}
			return lie
		})
		_, err := Copy(t.Context(), src, to.repo("b"), root.Digest, CopyOptions{})
		require.ErrorIs(t, err, ErrProtocol)
	})
	t.Run("a tag that stays where it was", func(t *testing.T) {
		to := newRegistry(t, nil)
		to.intercept(func(w http.ResponseWriter, r *http.Request) bool {
			lie := r.Method == http.MethodPut && strings.HasSuffix(r.URL.Path, "/manifests/v1")
			if lie {
				w.WriteHeader(http.StatusCreated)
			}
			return lie
		})
		_, err := Copy(t.Context(), src, to.repo("b"), root.Digest, CopyOptions{Tags: []string{"v1"}})
		require.ErrorContains(t, err, "does not name")
	})
	t.Run("uploads that break are begun anew", func(t *testing.T) {
		to := newRegistry(t, nil)
		var mu sync.Mutex
		broken := 0
		to.intercept(func(w http.ResponseWriter, r *http.Request) bool {
			mu.Lock()
			defer mu.Unlock()
			if r.Method != http.MethodPut || !strings.Contains(r.URL.Path, "/blobs/") || broken >= 3 {
				return false
			}
			broken++
			w.WriteHeader([]int{http.StatusBadGateway, http.StatusNotFound, http.StatusBadGateway}[broken-1])
			return true
		})
		report, err := Copy(t.Context(), src, to.repo("b"), root.Digest, CopyOptions{Workers: 1})
		require.NoError(t, err)
		require.Equal(t, 4, report.Blobs)
		require.Equal(t, 3, broken)
	})
	t.Run("a source layer with other bytes", func(t *testing.T) {
		to := newRegistry(t, nil)
		from.intercept(func(w http.ResponseWriter, r *http.Request) bool {
			lie := r.Method == http.MethodGet && strings.Contains(r.URL.Path, "/blobs/")
			if lie {
				_, _ = w.Write(noise(77, 50_000))
			}
			return lie
		})
		defer from.intercept(nil)
		_, err := Copy(t.Context(), src, to.repo("b"), root.Digest, CopyOptions{Tags: []string{"v1"}})
		requireReason(t, err, ReasonDigestMismatch)
		_, err = to.repo("b").Manifest(t.Context(), root.Digest)
		require.ErrorIs(t, err, ErrNotFound)
	})
}
