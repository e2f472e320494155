package source

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	errorsv1 "github.com/pratique-io/pratique/gen/pratique/errors/v1"
	"github.com/pratique-io/pratique/internal/egress"
	"github.com/pratique-io/pratique/internal/fault"
	"github.com/pratique-io/pratique/internal/oci"
	"github.com/pratique-io/pratique/services/intake/internal/domain"
)

const (
	indexType = oci.MediaTypeIndex
	imageType = oci.MediaTypeImage
	blank     = `"digest":"sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855","size":0`
)

func image(config string) string {
	return fmt.Sprintf(`{"schemaVersion":2,"mediaType":%q,"config":{"mediaType":%q,%s},"layers":[]}`, imageType, config, blank)
}

// crowd is an index of n images of one platform each.
func crowd(n int) string {
	entries := make([]string, n)
	for i := range entries {
		entries[i] = fmt.Sprintf(`{"mediaType":%q,"digest":"sha256:%064x","size":9,"platform":{"os":"linux","architecture":"arm64"}}`, imageType, i)
	}
	return fmt.Sprintf(`{"schemaVersion":2,"mediaType":%q,"manifests":[%s]}`, indexType, strings.Join(entries, ","))
}

func TestPin(t *testing.T) {
	t.Parallel()
	index := fmt.Sprintf(`{"schemaVersion":2,"mediaType":%q,"manifests":[
		{"mediaType":%q,%s,"platform":{"os":"linux","architecture":"amd64"}},
		{"mediaType":%q,"digest":"sha256:%s","size":9,"platform":{"os":"linux","architecture":"arm64","variant":"v8"}},
		{"mediaType":%q,"digest":"sha256:%s","size":9,"platform":{"os":"unknown","architecture":"unknown"}}]}`,
		indexType, imageType, blank, imageType, strings.Repeat("a", 64), imageType, strings.Repeat("b", 64))
	for name, c := range map[string]struct {
		status    int
		mediaType string
		body      string
		reason    errorsv1.Reason
		platforms int
	}{
		"an index is pinned with its platforms":        {200, indexType, index, 0, 2},
		"an image is pinned":                           {200, imageType, image("application/vnd.oci.image.config.v1+json"), 0, 0},
		"what is no image is unacceptable":             {200, imageType, image("application/vnd.cncf.helm.config.v1+json"), errorsv1.Reason_REASON_IMAGE_UNACCEPTABLE, 0},
		"an empty index is unacceptable":               {200, indexType, fmt.Sprintf(`{"schemaVersion":2,"mediaType":%q,"manifests":[]}`, indexType), errorsv1.Reason_REASON_IMAGE_UNACCEPTABLE, 0},
		"duplicate keys are unacceptable":              {200, indexType, strings.Replace(index, `"schemaVersion":2`, `"schemaVersion":2,"schemaVersion":2`, 1), errorsv1.Reason_REASON_IMAGE_UNACCEPTABLE, 0},
		"body and content type must agree":             {200, imageType, index, errorsv1.Reason_REASON_IMAGE_UNACCEPTABLE, 0},
		"a platform that is no name is unacceptable":   {200, indexType, strings.Replace(index, `"v8"`, `"`+strings.Repeat("v", 200)+`"`, 1), errorsv1.Reason_REASON_IMAGE_UNACCEPTABLE, 0},
		"a platform with markup is unacceptable":       {200, indexType, strings.Replace(index, `"arm64"`, `"<arm64>"`, 1), errorsv1.Reason_REASON_IMAGE_UNACCEPTABLE, 0},
		"an index of very many images is unacceptable": {200, indexType, crowd(maxPlatforms + 1), errorsv1.Reason_REASON_IMAGE_UNACCEPTABLE, 0},
		"an index of many images is pinned":            {200, indexType, crowd(maxPlatforms), 0, maxPlatforms},
		"404 is not found":                             {404, "application/json", `{}`, errorsv1.Reason_REASON_SOURCE_NOT_FOUND, 0},
		"401 is unauthorized":                          {401, "application/json", `{}`, errorsv1.Reason_REASON_SOURCE_UNAUTHORIZED, 0},
		"403 is unauthorized":                          {403, "application/json", `{}`, errorsv1.Reason_REASON_SOURCE_UNAUTHORIZED, 0},
		"429 is rate limited, with the time asked":     {429, "application/json", `{}`, errorsv1.Reason_REASON_SOURCE_RATE_LIMITED, 0},
		"500 is unavailable":                           {500, "application/json", `{}`, errorsv1.Reason_REASON_SOURCE_UNAVAILABLE, 0},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if r.URL.Path != "/v2/library/app/manifests/1" {
					w.WriteHeader(http.StatusTeapot)
					return
				}
				w.Header().Set("Content-Type", c.mediaType)
				w.Header().Set("Retry-After", "3600")
				w.WriteHeader(c.status)
				_, _ = w.Write([]byte(c.body))
			}))
			t.Cleanup(srv.Close)
			host := strings.TrimPrefix(srv.URL, "http://")
			out, err := finder(t, host).Pin(t.Context(), oci.Reference{Host: host, Repository: "library/app", Tag: "1"})
			if c.reason != 0 {
				require.True(t, fault.Is(err, c.reason), "%v", err)
				if c.reason == errorsv1.Reason_REASON_SOURCE_RATE_LIMITED {
					require.InDelta(t, 3600, fault.Of(err).RetryAfter().Seconds(), 1)
				}
				return
			}
			require.NoError(t, err)
			sum := sha256.Sum256([]byte(c.body))
			require.Equal(t, "sha256:"+hex.EncodeToString(sum[:]), out.Digest)
			require.Len(t, out.Platforms, c.platforms, "attestations are no platform")
			if c.platforms == 2 {
				require.Equal(t, domain.Platform{OS: "linux", Architecture: "arm64", Variant: "v8", Digest: "sha256:" + strings.Repeat("a", 64)}, out.Platforms[1])
			}
		})
	}
}

func TestEgressRefusalIsSourceNotAllowed(t *testing.T) {
	t.Parallel()
	asked := false
	srv := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { asked = true }))
	t.Cleanup(srv.Close)
	host := strings.TrimPrefix(srv.URL, "http://")
	_, err := finder(t, "127.0.0.1:1").Pin(t.Context(), oci.Reference{Host: host, Repository: "library/app", Tag: "1"})
	require.True(t, fault.Is(err, errorsv1.Reason_REASON_SOURCE_NOT_ALLOWED), "%v", err)
	require.False(t, asked)
}

// finder may reach exactly one internal host, as an operator would allow it.
func finder(t *testing.T, allowed string) *Finder {
	t.Helper()
	e, err := egress.New(egress.Config{Policies: map[egress.Purpose]egress.Policy{egress.Source: {Allowed: []string{allowed}}}})
	require.NoError(t, err)
	return New(e.Transport(egress.Source))
}
