package operation

import (
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/crane"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
	"github.com/stretchr/testify/require"

	"github.com/pratique-io/pratique/internal/registry"
	"github.com/pratique-io/pratique/internal/sample"
)

// elsewhere is a registry on this machine that is none of ours, holding the clean image at team/app:1.0. It gives the host:port.
func elsewhere(t *testing.T) string {
	t.Helper()
	opened, err := registry.Open(registry.Config{
		Name: "elsewhere", Dir: t.TempDir(), Anonymous: registry.Full(registry.Pull, registry.Push), Volatile: true, Log: slog.New(slog.DiscardHandler),
	})
	require.NoError(t, err)
	server := httptest.NewServer(opened)
	t.Cleanup(func() {
		server.Close()
		require.NoError(t, opened.Close())
	})
	host := strings.TrimPrefix(server.URL, "http://")
	require.NoError(t, sample.Clean().Push(t.Context(), nil, host, "team/app", "1.0", "", ""))
	return host
}

// A client that is not ours puts an image in and takes the released one out; it does not come into quarantine.
func TestAForeignClient(t *testing.T) {
	t.Parallel()
	data := filepath.Join(folder(t), "data")
	h := open(t, data, call{})
	want := sample.Clean().Root.Digest.String()
	upstream, quarantine, trusted := h.Registries["upstream"], h.Registries["quarantine"], h.Registries["trusted"]
	as := func(username, password string) crane.Option {
		return crane.WithAuth(&authn.Basic{Username: username, Password: password})
	}
	require.NoError(t, crane.Copy(elsewhere(t)+"/team/app:1.0", upstream.Address+"/team/app:1.0", crane.WithAuth(authn.Anonymous), crane.Insecure), "anyone may push into upstream")

	checkEmptyCredentials(t, upstream.Address, http.StatusOK)
	checkEmptyCredentials(t, trusted.Address, http.StatusUnauthorized)

	epr := h.furnish(t)
	id := h.ask(t, epr, "team/app:1.0")
	h.approve(t, id)
	h.passes(t, id)

	catalog, err := crane.Catalog(trusted.Address, as(trusted.Username, trusted.Password), crane.Insecure)
	require.NoError(t, err)
	require.Empty(t, catalog, "nothing is released yet")
	copied := h.expect(t, "mel", http.MethodGet, imports+"/"+id, nil, http.StatusOK, "").Get("data.internal_image_ref")
	require.True(t, strings.HasPrefix(copied, quarantine.Address) && strings.HasSuffix(copied, "@"+want), copied)
	for who, option := range map[string]crane.Option{
		"nobody": crane.WithAuth(authn.Anonymous), "the reader": as(trusted.Username, trusted.Password), "the pusher": as(upstream.Username, upstream.Password),
	} {
		_, err := crane.Manifest(copied, option, crane.Insecure)
		requireStatus(t, err, http.StatusUnauthorized, who)
		_, err = crane.Catalog(quarantine.Address, option, crane.Insecure)
		requireStatus(t, err, http.StatusUnauthorized, who)
	}

	reference, digest := h.release(t, id)
	require.Equal(t, want, digest)
	repository := reference[:strings.LastIndex(reference, ":")]
	reader := as(trusted.Username, trusted.Password)
	got, err := crane.Digest(reference, reader, crane.Insecure)
	require.NoError(t, err)
	require.Equal(t, want, got)
	image, err := crane.Pull(repository+"@"+want, reader, crane.Insecure)
	require.NoError(t, err)
	require.NoError(t, crane.Save(image, reference, filepath.Join(t.TempDir(), "image.tar")), "every blob is there and is what its digest says")
	_, err = crane.Digest(reference, crane.WithAuth(authn.Anonymous), crane.Insecure)
	requireStatus(t, err, http.StatusUnauthorized, "trusted wants to know who reads")
	requireStatus(t, crane.Tag(reference, "mine", reader, crane.Insecure), http.StatusForbidden, "the reader only reads")
	require.Zero(t, h.signal(t, syscall.SIGTERM, stopLimit))
}

// skopeo sends empty credentials when it was given none: that is anybody, where anybody may.
func checkEmptyCredentials(t *testing.T, address string, status int) {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), http.MethodHead, "http://"+address+"/v2/team/app/manifests/1.0", nil)
	require.NoError(t, err)
	request.SetBasicAuth("", "")
	response, err := http.DefaultClient.Do(request)
	require.NoError(t, err)
	require.NoError(t, response.Body.Close())
	require.Equal(t, status, response.StatusCode)
}

func requireStatus(t *testing.T, err error, status int, who string) {
	t.Helper()
	var refused *transport.Error
	require.Error(t, err, who)
	require.True(t, errors.As(err, &refused), "%s: %v", who, err)
	require.Equal(t, status, refused.StatusCode, who)
}
