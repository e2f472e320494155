package registry

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/partial"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/stretchr/testify/require"
)

type client struct {
	t    *testing.T
	host string
}

func (c client) ref(s string) name.Reference {
	c.t.Helper()
	ref, err := name.ParseReference(c.host+"/"+s, name.Insecure)
	require.NoError(c.t, err)
	return ref
}

func (c client) at(repository string, h v1.Hash) name.Digest {
	c.t.Helper()
	d, err := name.NewDigest(c.host+"/"+repository+"@"+h.String(), name.Insecure)
	require.NoError(c.t, err)
	return d
}

func (l login) option() remote.Option {
	return remote.WithAuth(&authn.Basic{Username: l.name, Password: l.password})
}

func serve(t *testing.T, cfg Config) (client, *Registry) {
	t.Helper()
	r := open(t, cfg)
	s := httptest.NewServer(r)
	t.Cleanup(s.Close)
	return client{t, strings.TrimPrefix(s.URL, "http://")}, r
}

func status(t *testing.T, err error) int {
	t.Helper()
	var e *transport.Error
	require.True(t, errors.As(err, &e), "%v", err)
	return e.StatusCode
}

func artifact(t *testing.T, subject v1.Descriptor, note string) v1.Image {
	t.Helper()
	img := mutate.MediaType(mutate.ConfigMediaType(empty.Image, "application/vnd.test.note"), types.OCIManifestSchema1)
	img = mutate.Annotations(img, map[string]string{"note": note}).(v1.Image)
	return mutate.Subject(img, subject).(v1.Image)
}

func TestARealClientPushesPullsMountsRefersAndDeletes(t *testing.T) {
	t.Parallel()
	c, _ := serve(t, Config{RunKey: testKey, Users: []User{
		{"evidence", "e", Full(Pull, Delete)}, {"pusher", "p", Full(Pull, Push)},
	}})
	runA, evidence, pusher := run(t, repoA, Pull, Push), login{"evidence", "e"}, login{"pusher", "p"}

	index, err := random.Index(4096, 2, 2)
	require.NoError(t, err)
	require.NoError(t, remote.WriteIndex(c.ref(repoA+":run-1"), index, runA.option()))
	want, err := index.Digest()
	require.NoError(t, err)

	got, err := remote.Get(c.ref(repoA+":run-1"), runA.option())
	require.NoError(t, err)
	require.Equal(t, want, got.Digest)
	pulled, err := got.ImageIndex()
	require.NoError(t, err)
	children, err := pulled.IndexManifest()
	require.NoError(t, err)
	require.Len(t, children.Manifests, 2)
	for _, child := range children.Manifests {
		img, err := pulled.Image(child.Digest)
		require.NoError(t, err)
		layers, err := img.Layers()
		require.NoError(t, err)
		for _, layer := range layers {
			rc, err := layer.Compressed()
			require.NoError(t, err)
			_, err = io.Copy(io.Discard, rc) // verifies the digest
			require.NoError(t, err)
		}
	}

	err = remote.WriteIndex(c.ref(repoB+":run-1"), index, runA.option())
	require.Equal(t, http.StatusForbidden, status(t, err))

	t.Run("a mount from a repository that may be pulled makes no upload", func(t *testing.T) {
		img, err := pulled.Image(children.Manifests[0].Digest)
		require.NoError(t, err)
		layers, err := img.Layers()
		require.NoError(t, err)
		h, err := layers[0].Digest()
		require.NoError(t, err)
		w := mountBlob(t, c, pusher, repoB, h.String(), repoA)
		require.Equal(t, http.StatusCreated, w)
		require.Equal(t, http.StatusForbidden, mountBlob(t, c, run(t, "q/new", Pull, Push), "q/new", h.String(), repoA))
		require.Equal(t, http.StatusForbidden, mountBlob(t, c, pusher, "q/new", h.String(), "../"+repoA))
	})

	t.Run("two referrers pushed at once are both listed", func(t *testing.T) {
		desc, err := partial.Descriptor(index)
		require.NoError(t, err)
		var wg sync.WaitGroup
		errs := make([]error, 8)
		for i := range errs {
			wg.Go(func() {
				img := artifact(t, *desc, strings.Repeat("x", i+1))
				h, err := img.Digest()
				if err != nil {
					errs[i] = err
					return
				}
				errs[i] = remote.Write(c.at(repoA, h), img, runA.option())
			})
		}
		wg.Wait()
		require.NoError(t, errors.Join(errs...))
		list, err := remote.Referrers(c.at(repoA, want), runA.option())
		require.NoError(t, err)
		manifest, err := list.IndexManifest()
		require.NoError(t, err)
		require.Len(t, manifest.Manifests, len(errs))
	})

	t.Run("only the delete right deletes", func(t *testing.T) {
		require.Equal(t, http.StatusForbidden, status(t, remote.Delete(c.at(repoA, want), runA.option())))
		require.NoError(t, remote.Delete(c.at(repoA, want), evidence.option()))
		_, err := remote.Get(c.ref(repoA+":run-1"), evidence.option())
		require.Equal(t, http.StatusNotFound, status(t, err))
	})
}

func mountBlob(t *testing.T, c client, l login, to, digest, from string) int {
	t.Helper()
	req, err := http.NewRequest("POST", "http://"+c.host+"/v2/"+to+"/blobs/uploads/?mount="+digest+"&from="+from, nil)
	require.NoError(t, err)
	l.on(req)
	resp, err := http.DefaultClient.Do(req)
	require.NoError(t, err)
	require.NoError(t, resp.Body.Close())
	return resp.StatusCode
}

func TestTheCatalogueListsPagesOfRepositoriesWithManifests(t *testing.T) {
	t.Parallel()
	c, r := serve(t, Config{Volatile: true, Users: []User{{"all", "pw", Full(Pull, Push)}}})
	all := login{"all", "pw"}
	img, err := random.Image(64, 1)
	require.NoError(t, err)
	want := []string{"a", "a/b", "a/b/c", "z"}
	for _, repository := range want {
		require.NoError(t, remote.Write(c.ref(repository+":x"), img, all.option()))
	}
	require.Equal(t, http.StatusAccepted, do(t, r, all, "POST", "/v2/only-an-upload/blobs/uploads/", "").Code)
	reg, err := name.NewRegistry(c.host, name.Insecure)
	require.NoError(t, err)
	got, err := remote.Catalog(t.Context(), reg, all.option(), remote.WithPageSize(2))
	require.NoError(t, err)
	require.Equal(t, want, got)
}

func TestCollectionKeepsWhatIsListedAndFreshBlobs(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	cfg := Config{Name: "test", Dir: dir, Users: []User{{"all", "pw", Full(Pull, Push, Delete)}}, Now: func() time.Time { return testNow }}
	all := login{"all", "pw"}
	r, err := Open(cfg)
	require.NoError(t, err)
	s := httptest.NewServer(r)
	c := client{t, strings.TrimPrefix(s.URL, "http://")}
	img, err := random.Image(512, 2)
	require.NoError(t, err)
	h, err := img.Digest()
	require.NoError(t, err)
	desc, err := partial.Descriptor(img)
	require.NoError(t, err)
	require.NoError(t, remote.Write(c.at("app", h), img, all.option())) // untagged
	note := artifact(t, *desc, "kept")
	noteHash, err := note.Digest()
	require.NoError(t, err)
	require.NoError(t, remote.Write(c.at("app", noteHash), note, all.option()))
	// A referrer of something that was never here, as in the evidence store.
	require.NoError(t, remote.Write(c.at("documents", noteHash), note, all.option()))
	// A push that has sent its blobs but not yet its manifest.
	layers, err := img.Layers()
	require.NoError(t, err)
	repo, err := name.NewRepository(c.host+"/waiting", name.Insecure)
	require.NoError(t, err)
	require.NoError(t, remote.WriteLayer(repo, layers[0], all.option()))
	layerHash, err := layers[0].Digest()
	require.NoError(t, err)
	s.Close()
	require.NoError(t, r.Close()) // olareg collects every repository it holds

	c, _ = serve(t, cfg)
	_, err = remote.Get(c.at("app", h), all.option())
	require.NoError(t, err)
	for _, repository := range []string{"app", "documents"} {
		list, err := remote.Referrers(c.at(repository, h), all.option())
		require.NoError(t, err)
		manifest, err := list.IndexManifest()
		require.NoError(t, err)
		require.Len(t, manifest.Manifests, 1, repository)
		require.Equal(t, noteHash, manifest.Manifests[0].Digest)
	}
	require.Equal(t, http.StatusOK, headBlob(t, c, all, "waiting", layerHash.String()))
}

func TestAStalledClientHoldsUpNobodyElse(t *testing.T) {
	t.Parallel()
	c, _ := serve(t, Config{Volatile: true, Users: []User{{"all", "pw", Full(Pull, Push, Delete)}}})
	all := login{"all", "pw"}
	img, err := random.Image(16<<20, 1) // more than the sockets hold
	require.NoError(t, err)
	require.NoError(t, remote.Write(c.ref("app:big"), img, all.option()))
	layers, err := img.Layers()
	require.NoError(t, err)
	h, err := layers[0].Digest()
	require.NoError(t, err)
	for _, stalled := range []string{
		"GET /v2/app/blobs/" + h.String() + " HTTP/1.1",
		"PUT /v2/app/manifests/half HTTP/1.1\r\nContent-Length: 500",
		"POST /v2/app/blobs/uploads/?digest=" + someDigest + " HTTP/1.1\r\nContent-Length: 500",
	} {
		conn, err := net.Dial("tcp", c.host)
		require.NoError(t, err)
		defer conn.Close()
		_, err = conn.Write([]byte(stalled + "\r\nHost: x\r\nAuthorization: Basic YWxsOnB3\r\n\r\n{"))
		require.NoError(t, err)
		if strings.HasPrefix(stalled, "GET") {
			_, err = conn.Read(make([]byte, 1)) // it is being answered
			require.NoError(t, err)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	small, err := random.Image(64, 1)
	require.NoError(t, err)
	require.NoError(t, remote.Write(c.ref("app:small"), small, all.option(), remote.WithContext(ctx)))
	require.NoError(t, remote.Delete(c.ref("app:small"), all.option(), remote.WithContext(ctx)))
}

func headBlob(t *testing.T, c client, l login, repository, digest string) int {
	t.Helper()
	req, err := http.NewRequest("HEAD", "http://"+c.host+"/v2/"+repository+"/blobs/"+digest, nil)
	require.NoError(t, err)
	l.on(req)
	resp, err := http.DefaultClient.Do(req)
	require.NoError(t, err)
	require.NoError(t, resp.Body.Close())
	return resp.StatusCode
}
