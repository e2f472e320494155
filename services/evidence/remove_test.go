package evidence

import (
	"bytes"
	"context"
	"encoding/json"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"

	dispatchv1 "github.com/pratique-io/pratique/gen/pratique/dispatch/v1"
	evidencev1 "github.com/pratique-io/pratique/gen/pratique/evidence/v1"
	intakev1 "github.com/pratique-io/pratique/gen/pratique/intake/v1"
	releasev1 "github.com/pratique-io/pratique/gen/pratique/release/v1"
	"github.com/pratique-io/pratique/internal/document"
	"github.com/pratique-io/pratique/internal/oci"
	"github.com/pratique-io/pratique/services/evidence/internal/domain"
)

// content lists everything a repository was given: manifests and blobs, by digest.
func (r *run) content() (manifests, blobs []oci.Digest) {
	for _, m := range r.image.Manifests {
		manifests = append(manifests, oci.Digest(m.Digest))
	}
	for d := range r.image.Blobs {
		blobs = append(blobs, oci.Digest(d))
	}
	return manifests, blobs
}

// requireGone checks that nothing of a copy can be read any more, as manifest or as bytes.
func (w *world) requireGone(r *run, more ...oci.Digest) {
	w.t.Helper()
	repo := w.quarantine.repo(r.repository())
	tags, err := repo.Tags(w.t.Context())
	if err != nil {
		require.ErrorIs(w.t, err, oci.ErrNotFound)
	}
	require.Empty(w.t, tags)
	manifests, blobs := r.content()
	for _, m := range append(manifests, more...) {
		_, _, err := repo.Resolve(w.t.Context(), string(m))
		require.ErrorIs(w.t, err, oci.ErrNotFound, "manifest %s", m)
	}
	for _, b := range append(append(blobs, manifests...), more...) {
		has, err := repo.HasBlob(w.t.Context(), b)
		require.NoError(w.t, err)
		require.False(w.t, has, "the bytes of %s", b)
	}
}

func (w *world) lastRemoved(r *run) *evidencev1.QuarantineCopyRemoved {
	w.t.Helper()
	events := w.said(r)
	m := new(evidencev1.QuarantineCopyRemoved)
	require.NoError(w.t, events[len(events)-1].Decode(m))
	return m
}

func artifactsOf(m *dispatchv1.RunSucceeded) []oci.Digest {
	var out []oci.Digest
	for _, d := range m.GetDocuments() {
		out = append(out, oci.Digest(d))
	}
	return out
}

func TestAReleasedCopyIsRemovedWholeAndTheDocumentsStay(t *testing.T) {
	t.Parallel()
	w, r := newWorld(t), newRun(t)
	var digests []oci.Digest
	r.message = func(m *dispatchv1.RunSucceeded) { digests = artifactsOf(m) }
	w.succeed(r)
	w.settle()
	require.False(t, w.turn("evidence_remove"), "not while it may be released")
	w.tell(r, &releasev1.ImageReleased{ImportId: r.request.String(), TenantId: r.tenant.String()}, 4)
	require.True(t, w.turn("evidence_remove"))
	w.requireGone(r, digests...)
	require.Len(t, digests, 4)
	m := w.lastRemoved(r)
	require.Equal(t, "released", m.GetReason())
	require.Equal(t, r.digest(), m.GetDigest())
	require.Equal(t, r.target(w), m.GetRepository())
	require.False(t, w.turn("evidence_remove"))
	for _, d := range digests {
		a, err := w.documents.repo(domain.Store(r.tenant, r.request)).Manifest(t.Context(), d)
		require.NoError(t, err, "the documents outlive the copy")
		for _, l := range a.Layers {
			has, err := w.documents.repo(domain.Store(r.tenant, r.request)).HasBlob(t.Context(), l.Digest)
			require.NoError(t, err)
			require.True(t, has)
		}
	}
	w.consistent(r)
}

// Most registries take a password at their token service only. A copy that can never be deleted there would stay for ever.
func TestACopyIsRemovedWhereARegistryTakesTokensOnly(t *testing.T) {
	t.Parallel()
	w, r := newWorld(t), newRun(t)
	w.succeed(r)
	w.settle()
	w.tell(r, &releasev1.ImageReleased{ImportId: r.request.String(), TenantId: r.tenant.String()}, 4)
	w.quarantine.intercept(func(out http.ResponseWriter, req *http.Request) bool {
		switch {
		case req.URL.Path == "/token":
			_, _ = out.Write([]byte(`{"token":"granted"}`))
			return true
		case req.Header.Get("Authorization") != "Bearer granted":
			out.Header().Set("WWW-Authenticate", `Bearer realm="http://`+w.quarantine.host+`/token",service="quarantine"`)
			out.WriteHeader(http.StatusUnauthorized)
			return true
		}
		req.SetBasicAuth("evidence", "secret")
		return false
	})
	require.True(t, w.turn("evidence_remove"))
	w.quarantine.intercept(nil)
	w.requireGone(r)
	require.Equal(t, "released", w.lastRemoved(r).GetReason())
}

func TestEveryEndRemovesTheCopy(t *testing.T) {
	t.Parallel()
	for reason, last := range map[string]proto.Message{
		"rejected": &intakev1.RequestRejected{}, "withdrawn": &intakev1.RequestWithdrawn{}, "failed": &dispatchv1.RunFailed{},
	} {
		t.Run(reason, func(t *testing.T) {
			t.Parallel()
			w, r := newWorld(t), newRun(t)
			r.push(w)
			w.tell(r, w.submitted(r), 1)
			w.tell(r, last, 3)
			require.Equal(t, domain.Abandoned, w.bundle(r).State)
			require.True(t, w.turn("evidence_remove"))
			w.requireGone(r)
			require.Equal(t, reason, w.lastRemoved(r).GetReason())
			w.consistent(r)
		})
	}
	t.Run("of a request that never had one too", func(t *testing.T) {
		t.Parallel()
		w, r := newWorld(t), newRun(t)
		w.tell(r, w.submitted(r), 1)
		w.tell(r, &intakev1.RequestRejected{}, 2)
		require.True(t, w.turn("evidence_remove"))
		require.Equal(t, []string{"QuarantineCopyRemoved"}, names(w.said(r)))
	})
}

func TestNothingIsRemovedWhileARunMayWrite(t *testing.T) {
	t.Parallel()
	w, r := newWorld(t), newRun(t)
	w.tell(r, w.submitted(r), 1)
	w.tell(r, w.approved(r), 2)
	w.tell(r, w.started(r), 2)
	w.tell(r, &intakev1.RequestWithdrawn{}, 3)
	require.False(t, w.turn("evidence_remove"))
	r.push(w) // it does write
	w.tell(r, &dispatchv1.RunCancelled{}, 3)
	require.True(t, w.turn("evidence_remove"))
	w.requireGone(r)
	require.Equal(t, "withdrawn", w.lastRemoved(r).GetReason())
}

func TestWhatALateRunLeavesIsRemovedToo(t *testing.T) {
	t.Parallel()
	w, r := newWorld(t), newRun(t)
	w.tell(r, w.submitted(r), 1)
	w.tell(r, w.approved(r), 2)
	w.tell(r, &intakev1.RequestWithdrawn{}, 3) // before we heard that a run had started
	require.True(t, w.turn("evidence_remove"))
	message := r.push(w)
	w.tell(r, message, 5)
	require.True(t, w.turn("evidence_remove"))
	w.requireGone(r)
	require.Equal(t, []string{"QuarantineCopyRemoved", "QuarantineCopyRemoved"}, names(w.said(r)), "told again, for there was more")
	w.tell(r, &dispatchv1.RunCancelled{}, 6)
	require.True(t, w.turn("evidence_remove"))
	require.Len(t, w.said(r), 2, "and not when there was nothing")
	w.consistent(r)
}

func TestNothingIsRemovedWhileDocumentsAreOwed(t *testing.T) {
	t.Parallel()
	w, r := newWorld(t), newRun(t)
	w.succeed(r)
	w.tell(r, &intakev1.RequestWithdrawn{}, 3)
	require.False(t, w.turn("evidence_remove"))
	w.settle()
	require.Equal(t, "pass", w.verdict(r).GetDecision(), "what was found stays on record")
	require.True(t, w.turn("evidence_remove"))
	w.requireGone(r)
	require.Equal(t, []string{"EvidenceRecorded", "EvidenceDecided", "QuarantineCopyRemoved"}, names(w.said(r)))
	w.consistent(r)
}

func TestQuarantinedCopiesAreKeptForTheirRetention(t *testing.T) {
	t.Parallel()
	w, r := newWorld(t), newRun(t)
	r.findings["linux/amd64"] = []document.Finding{finding("CVE-1", "critical", 9, "curl", "7")}
	w.succeed(r)
	w.settle()
	w.advance(168*time.Hour - time.Second)
	w.turn("evidence_expire")
	require.False(t, w.turn("evidence_remove"))
	w.advance(time.Second)
	require.True(t, w.turn("evidence_expire"))
	require.True(t, w.turn("evidence_remove"))
	w.requireGone(r)
	require.Equal(t, "retention", w.lastRemoved(r).GetReason())
}

func TestPassingCopiesAreKeptAsLongAsTheyMayBeReleased(t *testing.T) {
	t.Parallel()
	w, r := newWorld(t), newRun(t)
	w.succeed(r)
	w.settle()
	w.advance(20 * 24 * time.Hour)
	for w.turn("evidence_expire") {
	}
	require.False(t, w.turn("evidence_remove"))
}

func TestCopiesOfScansAndOfErrorsGoAtOnce(t *testing.T) {
	t.Parallel()
	w, scan, failed := newWorld(t), newRun(t), newRun(t)
	scan.kind = domain.Scan
	failed.message = func(m *dispatchv1.RunSucceeded) { m.ImageDigest = "" }
	for reason, r := range map[string]*run{"retention": scan, "failed": failed} {
		w.succeed(r)
		w.settle()
		require.True(t, w.turn("evidence_remove"))
		w.requireGone(r)
		require.Equal(t, reason, w.lastRemoved(r).GetReason())
		w.consistent(r)
	}
}

func TestAFailureAnywhereInARemovalIsMadeGood(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for after := 0; after < 75; after += 6 {
		r := newRun(t)
		var digests []oci.Digest
		digests = artifactsOf(r.push(w))
		w.tell(r, w.submitted(r), 1)
		w.tell(r, &intakev1.RequestRejected{}, 3)
		var left atomic.Int64
		left.Store(int64(after))
		w.quarantine.intercept(func(rw http.ResponseWriter, _ *http.Request) bool {
			if left.Add(-1) < 0 {
				rw.WriteHeader(http.StatusForbidden)
				return true
			}
			return false
		})
		require.True(t, w.turn("evidence_remove"))
		w.quarantine.intercept(nil)
		if state, _ := w.copyState(r); state != "removed" {
			require.Empty(t, w.said(r), "nothing is told before it is so")
			require.False(t, w.turn("evidence_remove"), "there is a pause")
			w.advance(time.Minute)
			require.True(t, w.turn("evidence_remove"))
		}
		w.requireGone(r, digests...)
		require.Equal(t, []string{"QuarantineCopyRemoved"}, names(w.said(r)))
		w.consistent(r)
	}
}

func TestWhatNoTagNamesIsRemovedToo(t *testing.T) {
	t.Parallel()
	w, r := newWorld(t), newRun(t)
	r.push(w)
	repo := w.quarantine.repo(r.repository())
	var more []oci.Digest
	subject := oci.Digest(r.image.Manifests[0].Digest)
	for i := range 3 { // a chain of referrers beginning at a child of the index, none tagged
		blob := bytes.Repeat([]byte{'a' + byte(i)}, 100)
		require.NoError(t, repo.PushBlob(t.Context(), oci.Descriptor{Digest: oci.FromBytes(blob), Size: 100}, bytes.NewReader(blob)))
		raw, err := json.Marshal(map[string]any{"schemaVersion": 2, "mediaType": oci.MediaTypeImage, "artifactType": "application/x.hidden",
			"config":  map[string]any{"mediaType": "application/vnd.oci.empty.v1+json", "digest": oci.FromBytes(blob), "size": 100},
			"layers":  []any{},
			"subject": map[string]any{"mediaType": oci.MediaTypeImage, "digest": subject, "size": 1}})
		require.NoError(t, err)
		d, err := repo.PushManifest(t.Context(), string(oci.FromBytes(raw)), oci.MediaTypeImage, raw)
		require.NoError(t, err)
		more = append(more, d)
		subject = d
	}
	w.tell(r, w.submitted(r), 1)
	w.tell(r, &intakev1.RequestRejected{}, 3)
	require.True(t, w.turn("evidence_remove"))
	w.requireGone(r, more...)
	for i := range 3 {
		has, err := repo.HasBlob(t.Context(), oci.FromBytes(bytes.Repeat([]byte{'a' + byte(i)}, 100)))
		require.NoError(t, err)
		require.False(t, has)
	}
}

func TestManifestsThatWeRefuseToReadAreRemovedAllTheSame(t *testing.T) {
	t.Parallel()
	w, r := newWorld(t), newRun(t)
	r.push(w)
	odd := []byte(`{"schemaVersion":2,"mediaType":"` + oci.MediaTypeImage + `","config":{"mediaType":"a/b","digest":"` + string(oci.FromBytes([]byte("{}"))) +
		`","size":2},"layers":[],"Layers":[],"layers":[]}`)
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPut, "http://"+w.quarantine.host+"/v2/"+r.repository()+"/manifests/odd", bytes.NewReader(odd))
	require.NoError(t, err)
	req.SetBasicAuth("runner", "runner")
	req.Header.Set("Content-Type", oci.MediaTypeImage)
	resp, err := http.DefaultClient.Do(req)
	require.NoError(t, err)
	require.NoError(t, resp.Body.Close())
	require.Equal(t, http.StatusCreated, resp.StatusCode)
	w.tell(r, w.submitted(r), 1)
	w.tell(r, &intakev1.RequestRejected{}, 3)
	require.True(t, w.turn("evidence_remove"))
	w.requireGone(r, oci.FromBytes(odd))
}

func TestACopyCondemnedAnewWhileItIsRemovedIsLookedAtAgain(t *testing.T) {
	t.Parallel()
	w, r := newWorld(t), newRun(t)
	r.push(w)
	w.tell(r, w.submitted(r), 1)
	w.tell(r, &intakev1.RequestRejected{}, 3)
	event := w.envelope(r, &dispatchv1.RunFailed{}, 4)
	var once atomic.Bool
	w.quarantine.intercept(func(_ http.ResponseWriter, req *http.Request) bool {
		if strings.HasPrefix(req.Method, "DELETE") && once.CompareAndSwap(false, true) {
			if err := w.hear(event); err != nil {
				t.Error(err)
			}
		}
		return false
	})
	require.True(t, w.turn("evidence_remove"))
	state, _ := w.copyState(r)
	require.Equal(t, "to_remove", state)
	require.Empty(t, w.said(r))
	require.True(t, w.turn("evidence_remove"))
	w.requireGone(r)
	require.Equal(t, []string{"QuarantineCopyRemoved"}, names(w.said(r)))
}

func TestAStoppedProgramGivesItsLeaseBack(t *testing.T) {
	t.Parallel()
	w, r := newWorld(t), newRun(t)
	w.succeed(r)
	ctx, cancel := context.WithCancel(t.Context())
	w.quarantine.intercept(func(http.ResponseWriter, *http.Request) bool { cancel(); return false })
	for _, l := range w.Loops() {
		if l.Name == "evidence_collect_1" {
			_, err := l.Run(ctx)
			require.ErrorIs(t, err, context.Canceled)
		}
	}
	w.quarantine.intercept(nil)
	require.Zero(t, w.bundle(r).Tries)
	require.True(t, w.turn("evidence_collect"), "at once")
	require.Equal(t, "pass", w.verdict(r).GetDecision())
}
