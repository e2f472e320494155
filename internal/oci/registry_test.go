package oci

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/olareg/olareg"
	"github.com/olareg/olareg/config"
	"github.com/stretchr/testify/require"
)

// registry is a real embedded registry behind a recorder; before may answer a request in its place.
type registry struct {
	*httptest.Server
	mu     sync.Mutex
	calls  []string
	before func(http.ResponseWriter, *http.Request) bool
}

func newRegistry(t *testing.T, change func(*config.Config)) *registry {
	yes := true
	conf := config.Config{
		Storage: config.ConfigStorage{StoreType: config.StoreMem},
		API:     config.ConfigAPI{DeleteEnabled: &yes, Blob: config.ConfigAPIBlob{DeleteEnabled: &yes}},
		Log:     slog.New(slog.DiscardHandler),
	}
	if change != nil {
		change(&conf)
	}
	inner := olareg.New(conf)
	r := &registry{}
	r.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		r.mu.Lock()
		r.calls = append(r.calls, req.Method+" "+req.URL.Path)
		before := r.before
		r.mu.Unlock()
		if before == nil || !before(w, req) {
			inner.ServeHTTP(w, req)
		}
	}))
	t.Cleanup(func() { r.Close(); _ = inner.Close() })
	return r
}

func (r *registry) host() string { return r.Listener.Addr().String() }

// take returns the requests since the last take.
func (r *registry) take() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	c := r.calls
	r.calls = nil
	return c
}

func (r *registry) intercept(f func(http.ResponseWriter, *http.Request) bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.before = f
}

// quick is a client that does not wait but remembers how long it would have.
func quick(opts ...Option) (*Client, *[]time.Duration) {
	var mu sync.Mutex
	waits := &[]time.Duration{}
	c := NewClient(&http.Transport{MaxIdleConnsPerHost: 16}, opts...)
	c.sleep = func(ctx context.Context, d time.Duration) error {
		mu.Lock()
		defer mu.Unlock()
		*waits = append(*waits, d)
		return ctx.Err()
	}
	return c, waits
}

func (r *registry) repo(name string, opts ...Option) *Repository {
	c, _ := quick(opts...)
	return c.Repository(r.host(), name, Credential{})
}

func pushBlob(t *testing.T, r *Repository, mediaType string, content []byte) Descriptor {
	d := Descriptor{MediaType: mediaType, Digest: FromBytes(content), Size: int64(len(content))}
	require.NoError(t, r.PushBlob(t.Context(), d, bytes.NewReader(content)))
	return Descriptor{MediaType: mediaType, Digest: d.Digest, Size: d.Size}
}

func pushDoc(t *testing.T, r *Repository, tag, mediaType string, doc map[string]any) Descriptor {
	doc["schemaVersion"], doc["mediaType"] = 2, mediaType
	raw, err := json.Marshal(doc)
	require.NoError(t, err)
	if tag == "" {
		tag = string(FromBytes(raw))
	}
	d, err := r.PushManifest(t.Context(), tag, mediaType, raw)
	require.NoError(t, err)
	require.Equal(t, FromBytes(raw), d)
	return Descriptor{MediaType: mediaType, Digest: d, Size: int64(len(raw))}
}

func noise(seed uint64, n int) []byte {
	out := make([]byte, n)
	rng := rand.New(rand.NewPCG(seed, 1))
	for i := range out {
		out[i] = byte(rng.Uint32())
	}
	return out
}

func pushImage(t *testing.T, r *Repository, seed uint64, layers int, extra map[string]any) Descriptor {
	return pushAs(t, r, "application/vnd.oci.image.config.v1+json", seed, layers, extra)
}

// pushArtifact pushes what refers to an image and is none.
func pushArtifact(t *testing.T, r *Repository, seed uint64, extra map[string]any) Descriptor {
	return pushAs(t, r, "application/vnd.example.config.v1+json", seed, 1, extra)
}

func pushAs(t *testing.T, r *Repository, configType string, seed uint64, layers int, extra map[string]any) Descriptor {
	config := pushBlob(t, r, configType, fmt.Appendf(nil, `{"os":"linux","architecture":"amd64","seed":%d}`, seed))
	var list []Descriptor
	for i := range layers {
		list = append(list, pushBlob(t, r, "application/vnd.oci.image.layer.v1.tar", noise(seed*100+uint64(i), 50_000+i)))
	}
	list = append(list, pushBlob(t, r, "application/vnd.oci.image.layer.v1.tar", []byte("shared by all")))
	doc := map[string]any{"config": config, "layers": list}
	for k, v := range extra {
		doc[k] = v
	}
	return pushDoc(t, r, "", MediaTypeImage, doc)
}

// fleet pushes an index over two platforms (one of them below a nested index) and two referrers, one on a platform.
func fleet(t *testing.T, r *Repository) (root Descriptor, referrers []Digest) {
	a, b := pushImage(t, r, 1, 3, nil), pushImage(t, r, 2, 2, nil)
	a.Platform, b.Platform = &Platform{OS: "linux", Architecture: "amd64"}, &Platform{OS: "linux", Architecture: "arm64"}
	nested := pushDoc(t, r, "", MediaTypeIndex, map[string]any{"manifests": []Descriptor{b}})
	root = pushDoc(t, r, "v1", MediaTypeIndex, map[string]any{"manifests": []Descriptor{a, nested}})
	sbom := pushArtifact(t, r, 3, map[string]any{"subject": root, "artifactType": "application/sbom"})
	a.Platform = nil
	sig := pushArtifact(t, r, 4, map[string]any{"subject": a, "artifactType": "application/sig"})
	return root, []Digest{sbom.Digest, sig.Digest}
}

func TestCopyBringsTheWholeTreeAndThePinnedReferrers(t *testing.T) {
	t.Parallel()
	from, to := newRegistry(t, nil), newRegistry(t, nil)
	src, dst := from.repo("up/app"), to.repo("team/app")
	root, referrers := fleet(t, src)
	unpinned := pushArtifact(t, src, 9, map[string]any{"subject": root, "artifactType": "application/late"})
	old := pushImage(t, dst, 7, 1, nil)
	m, err := dst.Manifest(t.Context(), old.Digest)
	require.NoError(t, err)
	_, err = dst.PushManifest(t.Context(), "prod", MediaTypeImage, m.Raw)
	require.NoError(t, err)
	to.take()

	called := 0
	report, err := Copy(t.Context(), src, dst, root.Digest, CopyOptions{Referrers: referrers, Tags: []string{"prod", "v1"}, BeforeTag: func(ctx context.Context) error {
		called++
		for _, d := range append([]Digest{root.Digest}, referrers...) {
			_, err := dst.Manifest(ctx, d)
			require.NoError(t, err, "everything is there before the tag")
		}
		d, _, err := dst.Resolve(ctx, "prod")
		require.NoError(t, err)
		require.Equal(t, old.Digest, d.Digest)
		return nil
	}})
	require.NoError(t, err)
	require.Equal(t, 1, called)
	require.Equal(t, CopyReport{
		Root: root.Digest, Manifests: 6, Blobs: 11, BlobsPresent: 1, Bytes: report.Bytes, Previous: map[string]Digest{"prod": old.Digest},
	}, report)
	require.Greater(t, report.Bytes, int64(300_000))

	for _, tag := range []string{"prod", "v1"} {
		d, _, err := dst.Resolve(t.Context(), tag)
		require.NoError(t, err)
		require.Equal(t, root.Digest, d.Digest)
	}
	tree, err := Walk(t.Context(), dst, root.Digest, Limits{})
	require.NoError(t, err)
	require.Len(t, tree.Images, 2)
	require.Equal(t, "linux/amd64", tree.Images[0].Platform.String())
	require.Len(t, tree.Manifests, 4)
	require.Equal(t, root.Digest, tree.Manifests[3].Digest)
	for _, b := range tree.Blobs {
		rc, err := dst.Blob(t.Context(), b)
		require.NoError(t, err)
		_, err = io.Copy(io.Discard, rc)
		require.NoError(t, err)
		require.NoError(t, rc.Close())
	}
	found, err := dst.Referrers(t.Context(), root.Digest, "")
	require.NoError(t, err)
	require.Len(t, found, 1)
	_, err = dst.Manifest(t.Context(), unpinned.Digest)
	require.ErrorIs(t, err, ErrNotFound, "what was not pinned is not copied")

	t.Run("and a repeat sends nothing", func(t *testing.T) {
		to.take()
		report, err := Copy(t.Context(), src, dst, root.Digest, CopyOptions{Referrers: referrers, Tags: []string{"prod"}, TrustPresent: true})
		require.NoError(t, err)
		require.Equal(t, CopyReport{Root: root.Digest, ManifestsPresent: 6, Previous: map[string]Digest{"prod": root.Digest}}, report)
		for _, c := range to.take() {
			require.True(t, strings.HasPrefix(c, "GET "), c)
		}
		report, err = Copy(t.Context(), src, dst, root.Digest, CopyOptions{Referrers: referrers, Tags: []string{"prod"}})
		require.NoError(t, err)
		require.Equal(t, 12, report.BlobsPresent)
		for _, c := range to.take() {
			require.False(t, strings.HasPrefix(c, "P"), c)
		}
	})
}

func TestCopyNeedsTwoRequestsPerBlobAtTheDestination(t *testing.T) {
	t.Parallel()
	from, to := newRegistry(t, nil), newRegistry(t, nil)
	root := pushImage(t, from.repo("a"), 1, 10, nil)
	from.take()
	report, err := Copy(t.Context(), from.repo("a"), to.repo("b"), root.Digest, CopyOptions{})
	require.NoError(t, err)
	require.Equal(t, 12, report.Blobs)
	require.Len(t, from.take(), 1+12)
	require.Len(t, to.take(), 1+2*12+1+1, "look, two per blob, the manifest, read back")
}

func TestCopyMountsWithinOneHost(t *testing.T) {
	t.Parallel()
	reg := newRegistry(t, nil)
	root := pushImage(t, reg.repo("q/app"), 1, 5, nil)
	reg.take()
	report, err := Copy(t.Context(), reg.repo("q/app"), reg.repo("trusted/app"), root.Digest, CopyOptions{Tags: []string{"v1"}})
	require.NoError(t, err)
	require.Equal(t, 7, report.BlobsMounted)
	require.Zero(t, report.Bytes)
	for _, c := range reg.take() {
		require.NotContains(t, c, "GET /v2/q/app/blobs")
	}

	t.Run("and uploads where mounting is refused", func(t *testing.T) {
		reg.intercept(func(w http.ResponseWriter, r *http.Request) bool {
			if r.URL.Query().Get("mount") != "" {
				w.WriteHeader(http.StatusForbidden)
				return true
			}
			return false
		})
		report, err := Copy(t.Context(), reg.repo("q/app"), reg.repo("other/app"), root.Digest, CopyOptions{})
		require.NoError(t, err)
		require.Equal(t, 7, report.Blobs)
	})
}

func TestCopyStopsBeforeTheTagWhenToldTo(t *testing.T) {
	t.Parallel()
	from, to := newRegistry(t, nil), newRegistry(t, nil)
	root := pushImage(t, from.repo("a"), 1, 1, nil)
	lapsed := fmt.Errorf("the decision lapsed")
	_, err := Copy(t.Context(), from.repo("a"), to.repo("b"), root.Digest, CopyOptions{Tags: []string{"v1"}, BeforeTag: func(context.Context) error { return lapsed }})
	require.ErrorIs(t, err, lapsed)
	_, _, err = to.repo("b").Resolve(t.Context(), "v1")
	require.ErrorIs(t, err, ErrNotFound)
}

func TestCopyRefusesAPinnedReferrerOfSomethingElse(t *testing.T) {
	t.Parallel()
	from, to := newRegistry(t, nil), newRegistry(t, nil)
	src := from.repo("a")
	root, other := pushImage(t, src, 1, 1, nil), pushImage(t, src, 2, 1, nil)
	stray := pushArtifact(t, src, 3, map[string]any{"subject": other, "artifactType": "a/b"})
	for _, d := range []Digest{stray.Digest, other.Digest} {
		_, err := Copy(t.Context(), src, to.repo("b"), root.Digest, CopyOptions{Referrers: []Digest{d}})
		requireReason(t, err, ReasonReferrer)
	}
	require.Empty(t, to.take())
}

// Whoever may push beside an image could otherwise have another one brought into the trusted registry, unseen, under its wing.
func TestCopyRefusesAnImageInTheGuiseOfAReferrer(t *testing.T) {
	t.Parallel()
	from, to := newRegistry(t, nil), newRegistry(t, nil)
	src := from.repo("a")
	root := pushImage(t, src, 1, 1, nil)
	image := pushImage(t, src, 2, 1, map[string]any{"subject": root, "artifactType": "application/sig"})
	docker := pushAs(t, src, "application/vnd.docker.container.image.v1+json", 3, 1, map[string]any{"subject": root})
	nested := pushDoc(t, src, "", MediaTypeIndex, map[string]any{"manifests": []Descriptor{pushImage(t, src, 4, 1, nil)}, "subject": root})
	for _, d := range []Digest{image.Digest, docker.Digest, nested.Digest} {
		_, err := Copy(t.Context(), src, to.repo("b"), root.Digest, CopyOptions{Referrers: []Digest{d}})
		requireReason(t, err, ReasonReferrer)
	}
	require.Empty(t, to.take())
	statement := pushBlob(t, src, "application/vnd.dev.cosign.simplesigning.v1+json", []byte(`{"critical":{}}`))
	config := pushBlob(t, src, "application/vnd.oci.image.config.v1+json", []byte(`{}`))
	signature := pushDoc(t, src, "", MediaTypeImage, map[string]any{"config": config, "layers": []Descriptor{statement}, "subject": root})
	_, err := Copy(t.Context(), src, to.repo("b"), root.Digest, CopyOptions{Referrers: []Digest{signature.Digest}})
	require.NoError(t, err)
}

// Each manifest may be large and each tree may have many: what counts for memory is all of them together.
func TestManifestsAreBoundedInAll(t *testing.T) {
	t.Parallel()
	src := newRegistry(t, nil).repo("a")
	padded := func(seed uint64, extra map[string]any) Descriptor {
		extra["annotations"] = map[string]string{"pad": strings.Repeat("x", 30_000)}
		return pushArtifact(t, src, seed, extra)
	}
	var list []Descriptor
	for i := range 12 {
		list = append(list, padded(uint64(i), map[string]any{}))
	}
	wide := pushDoc(t, src, "", MediaTypeIndex, map[string]any{"manifests": list})
	require.EqualValues(t, 32<<20, DefaultLimits.TreeBytes)
	limits := Limits{TreeBytes: 300_000}
	_, err := Walk(t.Context(), src, wide.Digest, limits)
	requireReason(t, err, ReasonTooLarge)
	root := pushImage(t, src, 50, 1, nil)
	var referrers []Digest
	for i := range 12 {
		referrers = append(referrers, padded(uint64(100+i), map[string]any{"subject": root}).Digest)
	}
	to := newRegistry(t, nil)
	_, err = Copy(t.Context(), src, to.repo("b"), root.Digest, CopyOptions{Referrers: referrers, Limits: limits})
	requireReason(t, err, ReasonTooLarge)
	require.Empty(t, to.take())
}

func TestReferrersFallBackToTheTag(t *testing.T) {
	t.Parallel()
	no := false
	old := newRegistry(t, func(c *config.Config) { c.API.Referrer.Enabled = &no })
	from := newRegistry(t, nil)
	src, dst := from.repo("a"), old.repo("b")
	root, referrers := fleet(t, src)
	second := pushArtifact(t, src, 8, map[string]any{"subject": root, "artifactType": "application/vex"})
	_, err := Copy(t.Context(), src, dst, root.Digest, CopyOptions{Referrers: append(referrers, second.Digest)})
	require.NoError(t, err)
	for _, r := range []*Repository{src, dst} {
		all, err := r.Referrers(t.Context(), root.Digest, "")
		require.NoError(t, err)
		require.Len(t, all, 2)
		one, err := r.Referrers(t.Context(), root.Digest, "application/vex")
		require.NoError(t, err)
		require.Len(t, one, 1)
		require.Equal(t, second.Digest, one[0].Digest)
		none, err := r.Referrers(t.Context(), second.Digest, "")
		require.NoError(t, err)
		require.Empty(t, none)
	}
}

func TestTagsAndDeletion(t *testing.T) {
	t.Parallel()
	r := newRegistry(t, nil).repo("app")
	root := pushImage(t, r, 1, 1, nil)
	m, err := r.Manifest(t.Context(), root.Digest)
	require.NoError(t, err)
	for _, tag := range []string{"a", "b"} {
		_, err := r.PushManifest(t.Context(), tag, MediaTypeImage, m.Raw)
		require.NoError(t, err)
	}
	tags, err := r.Tags(t.Context())
	require.NoError(t, err)
	require.ElementsMatch(t, []string{"a", "b"}, tags)
	require.NoError(t, r.DeleteTag(t.Context(), "a"))
	_, _, err = r.Resolve(t.Context(), "a")
	require.ErrorIs(t, err, ErrNotFound)
	require.NoError(t, r.DeleteManifest(t.Context(), root.Digest))
	_, err = r.Manifest(t.Context(), root.Digest)
	require.ErrorIs(t, err, ErrNotFound)
	require.ErrorIs(t, r.DeleteManifest(t.Context(), root.Digest), ErrNotFound)

	no := false
	r = newRegistry(t, func(c *config.Config) { c.API.DeleteEnabled = &no }).repo("app")
	root = pushImage(t, r, 1, 1, nil)
	require.ErrorIs(t, r.DeleteManifest(t.Context(), root.Digest), ErrUnsupported)
}

func requireReason(t *testing.T, err error, reason Reason) {
	t.Helper()
	var bad *Unacceptable
	require.ErrorAs(t, err, &bad)
	require.Equal(t, reason, bad.Reason, bad.Detail)
}
