package release_test

import (
	"context"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	evidencev1 "github.com/pratique-io/pratique/gen/pratique/evidence/v1"
	releasev1 "github.com/pratique-io/pratique/gen/pratique/release/v1"
	"github.com/pratique-io/pratique/internal/oci"
	"github.com/pratique-io/pratique/internal/pg/pgtest"
	"github.com/pratique-io/pratique/internal/sample"
)

// approved makes a release that waits for its first turn.
func (r *room) approved(image sample.Image, change ...func(*releasev1.ReleaseImportRequestRequest)) uuid.UUID {
	r.t.Helper()
	id := r.ready(image)
	_, err := r.release(id, change...)
	require.NoError(r.t, err)
	return id
}

// whole requires that the trusted registry serves the image with its referrers, every byte, and that it was recorded once.
func (r *room) whole(id uuid.UUID, image sample.Image) {
	r.t.Helper()
	repo := r.repository("acme/" + image.Name)
	require.Equal(r.t, image.Root.Digest.String(), r.at("acme/"+image.Name, "1.0"))
	for _, root := range append([]sample.Descriptor{image.Root}, image.Referrers...) {
		tree, err := oci.Walk(r.t.Context(), repo, oci.Digest(root.Digest.String()), oci.DefaultLimits)
		require.NoError(r.t, err)
		for _, m := range tree.Manifests {
			for _, d := range m.Layers {
				has, err := repo.HasBlob(r.t.Context(), d.Digest)
				require.NoError(r.t, err)
				require.True(r.t, has)
			}
		}
	}
	listed, err := repo.Referrers(r.t.Context(), oci.Digest(image.Root.Digest.String()), "")
	require.NoError(r.t, err)
	require.Len(r.t, listed, len(image.Referrers))
	count := 0
	for _, name := range r.told(id) {
		if name == "ImageReleased" {
			count++
		}
	}
	require.Equal(r.t, 1, count, "one ImageReleased")
	var artifacts int
	require.NoError(r.t, r.db.WorkerPool().QueryRow(context.Background(), `select count(*) from released_artifact where record_id = $1`, id).Scan(&artifacts))
	require.Equal(r.t, 1, artifacts)
}

func (r *room) promotion(id uuid.UUID) (state, text, previous string, attempts, waits int) {
	r.t.Helper()
	require.NoError(r.t, r.db.WorkerPool().QueryRow(context.Background(),
		`select state, error, previous_digest, attempts, waits from promotion where record_id = $1 order by id desc limit 1`, id).
		Scan(&state, &text, &previous, &attempts, &waits))
	return state, text, previous, attempts, waits
}

func TestAPromotionBringsTheImageWithItsReferrers(t *testing.T) {
	t.Parallel()
	r := open(t)
	image := sample.Clean()
	require.NotEmpty(t, image.Referrers)
	id := r.approved(image)
	r.quarantine.meet(nil)
	require.True(t, r.turn())
	require.False(t, r.turn(), "nothing is left")
	r.whole(id, image)
	require.Equal(t, []string{"ReleaseReady", "ReleaseApproved", "ImageReleased"}, r.told(id))
	var told releasev1.ImageReleased
	require.NoError(t, r.events(id)[2].Decode(&told))
	require.Equal(t, r.rita.String(), told.GetReleasedBy())
	require.Equal(t, r.trusted.name+"/acme/demo/clean@"+image.Root.Digest.String(), told.GetTrustedRef())
	require.Nil(t, told.PreviousDigest)
	for _, request := range r.quarantine.requests() {
		require.Regexp(t, "^(GET|HEAD) ", request, "quarantine is read only")
	}
}

func TestAReferrerThatWasNotPinnedStaysBehind(t *testing.T) {
	t.Parallel()
	r := open(t)
	image := sample.Clean()
	id := r.ready(image)
	r.peers.change(func() { r.peers.decisions[id.String()].Referrers = nil })
	_, err := r.release(id)
	require.NoError(t, err)
	require.True(t, r.turn())
	listed, err := r.repository("acme/demo/clean").Referrers(t.Context(), oci.Digest(image.Root.Digest.String()), "")
	require.NoError(t, err)
	require.Empty(t, listed)
}

func TestATagThatMovesTellsWhatItNamedBefore(t *testing.T) {
	t.Parallel()
	r := open(t)
	place := r.trusted.name + "/acme/app:1"
	_, first := r.released(sample.Clean(), to(place))
	r.pass(time.Second)
	id, second := r.released(sample.Vulnerable(), to(place))
	require.Equal(t, first.GetDigest(), second.GetPreviousDigest())
	require.Equal(t, second.GetDigest(), r.at("acme/app", "1"))
	var told releasev1.ImageReleased
	require.NoError(t, r.events(id)[2].Decode(&told))
	require.Equal(t, first.GetDigest(), told.GetPreviousDigest())
	require.Equal(t, second.GetDigest(), r.verdict(r.as(r.rita), place).GetDigest(), "the tag is the new one's")
	require.True(t, r.verdict(r.as(r.rita), r.trusted.name+"/acme/app@"+first.GetDigest()).GetAllowed(), "the digest still is released")
	// Back again: the old digest is not at the tag any more, so it may be released there once more.
	_, err := r.release(uuid.MustParse(first.GetImportId()), to(place))
	require.NoError(t, err)
	require.True(t, r.turn())
	require.Equal(t, first.GetDigest(), r.at("acme/app", "1"))
	require.Equal(t, first.GetDigest(), r.verdict(r.as(r.rita), place).GetDigest())
	list, err := r.api.ListReleasedArtifacts(r.as(r.rita), &releasev1.ListReleasedArtifactsRequest{})
	require.NoError(t, err)
	require.Len(t, list.GetData(), 2, "one per place and digest")
}

func TestAReleasedImageGoesToAFurtherPlaceWithoutItsQuarantineCopy(t *testing.T) {
	t.Parallel()
	r := open(t)
	image := sample.Clean()
	id, _ := r.released(image)
	removed := &evidencev1.QuarantineCopyRemoved{ImportId: id.String(), TenantId: r.tenant.String(), Digest: image.Root.Digest.String(), Reason: "released"}
	require.NoError(t, r.hear(r.made(id, 9, removed))[0])
	r.quarantine.meet(func(_ http.Handler, w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNotFound) })
	_, err := r.release(id, to(r.trusted.name+"/acme/second:9"))
	require.NoError(t, err)
	_, err = r.release(id, to(r.trusted.name+"/acme/third:9"))
	require.Error(t, err, "one after the other")
	require.True(t, r.turn())
	require.Equal(t, image.Root.Digest.String(), r.at("acme/second", "9"))
	require.Equal(t, []string{"ReleaseReady", "ReleaseApproved", "ImageReleased", "QuarantineCopyDeleted", "ReleaseApproved", "ImageReleased"}, r.told(id))
	state, _ := r.state(id)
	require.Equal(t, "released", state)
}

func TestWithoutAnAnswerNothingIsReleased(t *testing.T) {
	t.Parallel()
	for _, owner := range []string{"decision", "entitlement"} {
		t.Run(owner, func(t *testing.T) {
			t.Parallel()
			r := open(t)
			image := sample.Clean()
			id := r.approved(image)
			r.peers.change(func() { r.peers.silent[owner] = true })
			r.trusted.meet(nil)
			for range 8 { // more often than a promotion may be tried
				require.True(t, r.turn())
				require.False(t, r.turn(), "it pauses")
				r.pass(3 * time.Minute)
			}
			require.Empty(t, r.trusted.requests(), "not one byte was written or asked for")
			state, _, _, attempts, waits := r.promotion(id)
			require.Equal(t, "approved", state)
			require.Zero(t, attempts)
			require.Equal(t, 8, waits)
			r.peers.change(func() { r.peers.silent[owner] = false })
			require.True(t, r.turn())
			r.whole(id, image)
		})
	}
}

func TestAnOwnerWhoChangesTheirMindStopsTheRelease(t *testing.T) {
	t.Parallel()
	change := map[string]func(*evidencev1.CurrentDecision){
		"the decision":  func(d *evidencev1.CurrentDecision) { d.Decision = "quarantine" },
		"freshness":     func(d *evidencev1.CurrentDecision) { d.Fresh = false },
		"the digest":    func(d *evidencev1.CurrentDecision) { d.Digest = sample.Vulnerable().Root.Digest.String() },
		"the evidence":  func(d *evidencev1.CurrentDecision) { d.EvidenceHash = "evidence-2" },
		"the policy":    func(d *evidencev1.CurrentDecision) { d.PolicyHash = "policy-2" },
		"no expiry yet": func(d *evidencev1.CurrentDecision) { d.ValidUntil.Seconds = 1 },
	}
	for name, f := range change {
		for n, when := range map[int]string{1: "before the first write", 2: "before the tag"} {
			t.Run(name+" "+when, func(t *testing.T) {
				t.Parallel()
				r := open(t)
				image := sample.Clean()
				id := r.approved(image)
				r.peers.change(func() {
					r.peers.onDecision = func(asked int, d *evidencev1.CurrentDecision) {
						if asked >= n {
							f(d)
						}
					}
				})
				r.trusted.meet(nil)
				require.True(t, r.turn())
				require.Equal(t, n == 1, len(r.trusted.requests()) == 0)
				require.Empty(t, r.at("acme/demo/clean", "1.0"), "nothing is tagged")
				state, text, _, _, _ := r.promotion(id)
				require.Equal(t, "failed", state)
				require.NotEmpty(t, text)
				now, blocker := r.state(id)
				require.Equal(t, "release_blocked promotion_failed", now+" "+blocker)
				require.Equal(t, []string{"ReleaseReady", "ReleaseApproved", "ReleaseFailed"}, r.told(id))
				// The owners agree again: somebody may release again.
				r.peers.change(func() { r.peers.onDecision = nil })
				_, err := r.release(id)
				require.NoError(t, err)
				require.True(t, r.turn())
				r.whole(id, image)
			})
		}
	}
}

func TestATenantThatLosesItsRightOrItsFactsStopsTheRelease(t *testing.T) {
	t.Parallel()
	for name, f := range map[string]func(r *room, id uuid.UUID){
		"capability":   func(r *room, id uuid.UUID) { r.peers.entitlements[id.String()].Allowed = false },
		"slug":         func(r *room, id uuid.UUID) { r.peers.entitlements[id.String()].TenantSlug = "renamed" },
		"other tenant": func(r *room, id uuid.UUID) { r.peers.entitlements[id.String()].TenantId = newID().String() },
		"gone":         func(r *room, id uuid.UUID) { delete(r.peers.entitlements, id.String()) },
		"no evidence":  func(r *room, id uuid.UUID) { delete(r.peers.decisions, id.String()) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := open(t)
			id := r.approved(sample.Clean())
			r.peers.change(func() { f(r, id) })
			r.trusted.meet(nil)
			require.True(t, r.turn())
			require.Empty(t, r.trusted.requests())
			state, _, _, _, _ := r.promotion(id)
			require.Equal(t, "failed", state)
		})
	}
	r := open(t)
	id := r.approved(sample.Clean())
	require.NoError(t, r.hear(r.made(id, 4, r.decided(id, sample.Clean(), "quarantine")))[0])
	require.True(t, r.turn())
	require.Equal(t, []string{"ReleaseReady", "ReleaseApproved", "ReleaseFailed", "ReleaseBlocked"}, r.told(id))
	_, blocker := r.state(id)
	require.Equal(t, "policy_quarantined", blocker)
}

// blocker holds up the n-th request to a registry until it is let go.
type blocker struct {
	mu      sync.Mutex
	n       int
	reached chan struct{}
	let     chan struct{}
}

func (b *blocker) front(next http.Handler, w http.ResponseWriter, r *http.Request) {
	b.mu.Lock()
	b.n--
	mine := b.n == 0
	b.mu.Unlock()
	if mine {
		close(b.reached)
		<-b.let
	}
	next.ServeHTTP(w, r)
}

// A process that hangs at any request to the trusted registry, or dies there, is overtaken by another when its lease is over; when it wakes up
// again it records nothing.
func TestAnotherProcessTakesOverAtEveryStep(t *testing.T) {
	t.Parallel()
	r := open(t)
	image := sample.Clean()
	probe := r.approved(image)
	r.trusted.meet(nil)
	require.True(t, r.turn())
	r.whole(probe, image)
	steps := len(r.trusted.requests())
	require.Greater(t, steps, 10)
	for n := 1; n <= steps; n++ {
		r := open(t)
		id := r.approved(image)
		other, _ := r.start()
		b := &blocker{n: n, reached: make(chan struct{}), let: make(chan struct{})}
		r.trusted.meet(b.front)
		letGo := sync.OnceFunc(func() { close(b.let) })
		t.Cleanup(letGo) // the registry's server waits for its requests
		gone := make(chan error, 1)
		go func() {
			_, err := promoteLoop(r.svc).Run(context.WithoutCancel(t.Context()))
			gone <- err
		}()
		select {
		case <-b.reached:
		case err := <-gone: // this time it needed fewer requests
			require.NoError(t, err)
			r.trusted.meet(nil)
			r.whole(id, image)
			continue
		}
		did, err := promoteLoop(other).Run(t.Context())
		require.NoError(t, err)
		require.False(t, did, "the lease holds")
		r.pass(2 * time.Minute)
		did, err = promoteLoop(other).Run(t.Context())
		require.NoError(t, err)
		require.True(t, did)
		r.whole(id, image)
		letGo()
		require.NoError(t, <-gone)
		r.whole(id, image)
		require.False(t, r.turn(), "step %d: nothing is owed", n)
	}
}

// The database refuses each write of a promotion once; the turn after the lease is over makes it good.
func TestEveryWriteMayFailOnce(t *testing.T) {
	t.Parallel()
	for _, point := range []string{
		"before update of state on promotion", "before insert on released_artifact", "before update on release_record",
		"before insert on release_transition", "before insert on outbox", "before update of leased_until on promotion",
		"before update of finished_at on promotion",
	} {
		t.Run(point, func(t *testing.T) {
			t.Parallel()
			r := open(t)
			image := sample.Clean()
			id := r.approved(image)
			admin := pgtest.Admin(t, r.db)
			_, err := admin.Exec(t.Context(), `create function refuse() returns trigger language plpgsql as $$ begin raise exception 'disk full'; end $$;
				create trigger refuse `+point+` for each row execute function refuse()`)
			require.NoError(t, err)
			_, _ = promoteLoop(r.svc).Run(t.Context()) // fails or postpones, as it must
			require.NotContains(t, r.told(id), "ImageReleased")
			table := point[strings.LastIndexByte(point, ' ')+1:]
			_, err = admin.Exec(t.Context(), "drop trigger refuse on "+table)
			require.NoError(t, err)
			r.pass(3 * time.Minute)
			require.True(t, r.turn())
			r.whole(id, image)
		})
	}
}

func TestWhatATagNamedBeforeSurvivesACrashAfterTheTag(t *testing.T) {
	t.Parallel()
	r := open(t)
	place := r.trusted.name + "/acme/app:1"
	_, first := r.released(sample.Clean(), to(place))
	id := r.approved(sample.Vulnerable(), to(place))
	admin := pgtest.Admin(t, r.db)
	_, err := admin.Exec(t.Context(), `create function refuse() returns trigger language plpgsql as $$ begin raise exception 'dead'; end $$;
		create trigger refuse before insert on released_artifact for each row execute function refuse()`)
	require.NoError(t, err)
	_, err = promoteLoop(r.svc).Run(t.Context())
	require.ErrorContains(t, err, "dead")
	require.Equal(t, sample.Vulnerable().Root.Digest.String(), r.at("acme/app", "1"), "the tag has moved already")
	_, err = admin.Exec(t.Context(), "drop trigger refuse on released_artifact")
	require.NoError(t, err)
	r.pass(2 * time.Minute)
	require.True(t, r.turn())
	var told releasev1.ImageReleased
	require.NoError(t, r.events(id)[2].Decode(&told))
	require.Equal(t, first.GetDigest(), told.GetPreviousDigest())
}

func TestAStoppingProcessGivesItsWorkBack(t *testing.T) {
	t.Parallel()
	r := open(t)
	image := sample.Clean()
	id := r.approved(image)
	ctx, stop := context.WithCancel(t.Context())
	r.trusted.meet(func(next http.Handler, w http.ResponseWriter, q *http.Request) {
		if q.Method == http.MethodPut {
			stop()
		}
		next.ServeHTTP(w, q)
	})
	did, err := promoteLoop(r.svc).Run(ctx)
	require.NoError(t, err)
	require.True(t, did)
	_, _, _, attempts, waits := r.promotion(id)
	require.Zero(t, attempts+waits, "nobody failed")
	r.trusted.meet(nil)
	require.True(t, r.turn(), "at once: the lease was given back")
	r.whole(id, image)
}
