package release_test

import (
	"bytes"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	releasev1 "github.com/pratique-io/pratique/gen/pratique/release/v1"
	"github.com/pratique-io/pratique/internal/sample"
)

func isManifest(r *http.Request) bool { return strings.Contains(r.URL.Path, "/manifests/") }

// Registries that lie: nothing they do becomes an ImageReleased, and each failure says what it is.
func TestADestinationThatLiesReleasesNothing(t *testing.T) {
	t.Parallel()
	other := sample.Vulnerable()
	for name, tc := range map[string]struct {
		front   func(next http.Handler, w http.ResponseWriter, r *http.Request)
		blocker string
	}{
		"201 without storing": {func(next http.Handler, w http.ResponseWriter, r *http.Request) {
			if r.Method == http.MethodPut && isManifest(r) {
				_, _ = io.Copy(io.Discard, r.Body)
				w.WriteHeader(http.StatusCreated)
				return
			}
			next.ServeHTTP(w, r)
		}, "promotion_failed"},
		"201 without the tag": {func(next http.Handler, w http.ResponseWriter, r *http.Request) {
			if r.Method == http.MethodPut && strings.HasSuffix(r.URL.Path, "/manifests/1.0") {
				_, _ = io.Copy(io.Discard, r.Body)
				w.WriteHeader(http.StatusCreated)
				return
			}
			next.ServeHTTP(w, r)
		}, "promotion_failed"},
		"stored under another digest": {func(next http.Handler, w http.ResponseWriter, r *http.Request) {
			if r.Method == http.MethodPut && isManifest(r) {
				_, _ = io.Copy(io.Discard, r.Body)
				w.Header().Set("Docker-Content-Digest", other.Root.Digest.String())
				w.WriteHeader(http.StatusCreated)
				return
			}
			next.ServeHTTP(w, r)
		}, "promotion_failed"},
		"serves other bytes": {func(next http.Handler, w http.ResponseWriter, r *http.Request) {
			if r.Method == http.MethodGet && isManifest(r) && strings.Contains(r.URL.Path, "sha256:") {
				w.Header().Set("Content-Type", other.Root.MediaType)
				_, _ = w.Write(other.Manifests[len(other.Manifests)-1].Raw)
				return
			}
			next.ServeHTTP(w, r)
		}, "digest_mismatch"},
		"changes one byte": {func(next http.Handler, w http.ResponseWriter, r *http.Request) {
			if r.Method != http.MethodGet || !isManifest(r) {
				next.ServeHTTP(w, r)
				return
			}
			answer := httptest.NewRecorder()
			next.ServeHTTP(answer, r)
			for key, values := range answer.Header() {
				w.Header()[key] = values
			}
			w.WriteHeader(answer.Code)
			_, _ = w.Write(bytes.Replace(answer.Body.Bytes(), []byte("amd64"), []byte("amd65"), 1))
		}, "digest_mismatch"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := open(t)
			image := sample.Clean()
			id := r.approved(image)
			r.trusted.meet(tc.front)
			require.True(t, r.turn())
			r.trusted.meet(nil)
			state, blocker := r.state(id)
			require.Equal(t, "release_blocked "+tc.blocker, state+" "+blocker)
			require.Equal(t, []string{"ReleaseReady", "ReleaseApproved", "ReleaseFailed"}, r.told(id))
			var told releasev1.ReleaseFailed
			require.NoError(t, r.events(id)[2].Decode(&told))
			require.Equal(t, tc.blocker, told.GetBlockerReason())
			require.NotEmpty(t, told.GetError())
			require.False(t, r.verdict(r.as(r.rita), r.trusted.name+"/acme/demo/clean:1.0").GetAllowed())
			// The registry tells the truth again, and somebody releases again.
			_, err := r.release(id)
			require.NoError(t, err)
			require.True(t, r.turn())
			r.whole(id, image)
		})
	}
}

func TestAQuarantineThatServesOtherBytesReleasesNothing(t *testing.T) {
	t.Parallel()
	r := open(t)
	id := r.approved(sample.Clean())
	other := sample.Vulnerable()
	r.quarantine.meet(func(next http.Handler, w http.ResponseWriter, q *http.Request) {
		if isManifest(q) {
			w.Header().Set("Content-Type", other.Root.MediaType)
			_, _ = w.Write(other.Manifests[len(other.Manifests)-1].Raw)
			return
		}
		next.ServeHTTP(w, q)
	})
	r.trusted.meet(nil)
	require.True(t, r.turn())
	require.Empty(t, r.trusted.requests())
	_, blocker := r.state(id)
	require.Equal(t, "digest_mismatch", blocker)
}

func TestABurstOfErrorsIsSurvived(t *testing.T) {
	t.Parallel()
	r := open(t)
	image := sample.Clean()
	id := r.approved(image)
	var left atomic.Int64
	left.Store(6)
	r.trusted.meet(func(next http.Handler, w http.ResponseWriter, q *http.Request) {
		if left.Add(-1) >= 0 {
			w.WriteHeader(http.StatusBadGateway)
			return
		}
		next.ServeHTTP(w, q)
	})
	require.True(t, r.turn())
	state, _, _, attempts, _ := r.promotion(id)
	require.Equal(t, "copying", state)
	require.Equal(t, 1, attempts, "the first try is over")
	for range 3 {
		r.pass(3 * time.Minute)
		r.turn()
	}
	r.whole(id, image)
	require.Equal(t, []string{"ReleaseReady", "ReleaseApproved", "ImageReleased"}, r.told(id))
}

func TestErrorsWithoutEndFailThePromotion(t *testing.T) {
	t.Parallel()
	for name, code := range map[string]int{"server errors": 503, "a credential that is refused": 401, "a rate limit": 429} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := open(t)
			image := sample.Clean()
			id := r.approved(image)
			r.trusted.meet(func(_ http.Handler, w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("WWW-Authenticate", `Basic realm="x"`)
				w.Header().Set("Retry-After", "20") // more than one request waits for by itself
				w.WriteHeader(code)
			})
			turns := 0
			for r.turn() {
				turns++
				r.pass(3 * time.Minute)
			}
			require.Equal(t, 3, turns)
			state, blocker := r.state(id)
			require.Equal(t, "release_blocked promotion_failed", state+" "+blocker)
			r.trusted.meet(nil)
			_, err := r.release(id)
			require.NoError(t, err)
			require.True(t, r.turn())
			r.whole(id, image)
		})
	}
}

// Whoever holds the trusted registry's name to another address does not get the credential or the image.
func TestThePlaceMustStillBeTheTrustedRegistry(t *testing.T) {
	t.Parallel()
	r := open(t)
	id := r.approved(sample.Clean())
	_, err := r.db.WorkerPool().Exec(t.Context(), `update promotion set destination_image_ref = 'evil.example/acme/x:1'`)
	require.NoError(t, err)
	require.True(t, r.turn())
	state, text, _, _, _ := r.promotion(id)
	require.Equal(t, "failed", state)
	require.Contains(t, text, "outside the trusted registry")
}
