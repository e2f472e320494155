package release_test

import (
	"context"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"

	dispatchv1 "github.com/pratique-io/pratique/gen/pratique/dispatch/v1"
	errorsv1 "github.com/pratique-io/pratique/gen/pratique/errors/v1"
	evidencev1 "github.com/pratique-io/pratique/gen/pratique/evidence/v1"
	intakev1 "github.com/pratique-io/pratique/gen/pratique/intake/v1"
	releasev1 "github.com/pratique-io/pratique/gen/pratique/release/v1"
	"github.com/pratique-io/pratique/internal/auth"
	"github.com/pratique-io/pratique/internal/event"
	"github.com/pratique-io/pratique/internal/idempotency"
	"github.com/pratique-io/pratique/internal/sample"
)

func to(ref string) func(*releasev1.ReleaseImportRequestRequest) {
	return func(req *releasev1.ReleaseImportRequestRequest) { req.DestinationImageRef = &ref }
}

func TestAReleaseIsRefusedInTheOrderOfTheContract(t *testing.T) {
	t.Parallel()
	r := open(t)
	image := sample.Clean()
	id := r.ready(image)
	wrong := "evil.example/x:1"

	_, err := r.api.ReleaseImportRequest(r.as(r.rita), &releasev1.ReleaseImportRequestRequest{Id: "nonsense"})
	reasonOf(t, err, errorsv1.Reason_REASON_INVALID_ID)
	long := string(make([]byte, 5000))
	_, err = r.release(id, func(q *releasev1.ReleaseImportRequestRequest) { q.Reason = &long })
	reasonOf(t, err, errorsv1.Reason_REASON_VALIDATION_FAILED)
	_, err = r.release(newID())
	reasonOf(t, err, errorsv1.Reason_REASON_NOT_FOUND)

	// Everything is wrong at once; what comes first in the contract is what is said.
	hash := "other"
	everything := func(q *releasev1.ReleaseImportRequestRequest) {
		q.DestinationImageRef, q.ExpectedEvidenceHash = &wrong, &hash
	}
	asAlice := func() error {
		req := &releasev1.ReleaseImportRequestRequest{Id: id.String()}
		everything(req)
		_, err := r.api.ReleaseImportRequest(r.as(r.alice), req)
		return err
	}
	r.hear(r.made(id, 4, r.decided(id, image, "quarantine")))
	for reason, want := range map[string]errorsv1.Reason{
		"tenant_disabled":                errorsv1.Reason_REASON_TENANT_DISABLED,
		"tenant_capability_not_entitled": errorsv1.Reason_REASON_TENANT_CAPABILITY_NOT_ENTITLED,
	} {
		r.peers.change(func() { e := r.peers.entitlements[id.String()]; e.Allowed, e.Reason = false, reason })
		reasonOf(t, asAlice(), want)
	}
	r.peers.change(func() { e := r.peers.entitlements[id.String()]; e.Allowed, e.Reason = true, "" })
	details := reasonOf(t, asAlice(), errorsv1.Reason_REASON_RELEASE_NOT_ELIGIBLE)
	require.Equal(t, map[string]any{
		"import_id": id.String(), "import_status": "quarantined", "release_state": "release_blocked",
		"release_blocker_reason": "policy_quarantined", "next_action": "see_explain",
	}, details)
	r.hear(r.made(id, 5, r.decided(id, image, "pass")))
	r.peers.change(func() { e := r.peers.entitlements[id.String()]; e.Allowed, e.Reason = false, "epr_not_in_force" })
	require.Equal(t, "epr_not_in_force", reasonOf(t, asAlice(), errorsv1.Reason_REASON_RELEASE_NOT_ELIGIBLE)["release_blocker_reason"])
	r.peers.change(func() { e := r.peers.entitlements[id.String()]; e.Allowed, e.Reason = true, "" })
	reasonOf(t, asAlice(), errorsv1.Reason_REASON_SELF_APPROVAL_FORBIDDEN)
	_, err = r.release(id, everything)
	reasonOf(t, err, errorsv1.Reason_REASON_APPROVAL_LAPSED)
	_, err = r.release(id, to(wrong))
	reasonOf(t, err, errorsv1.Reason_REASON_DESTINATION_NOT_ALLOWED)
	_, err = r.release(id, to("not fully qualified"))
	reasonOf(t, err, errorsv1.Reason_REASON_VALIDATION_FAILED)
	require.NotContains(t, r.told(id), "ReleaseApproved")

	got, err := r.release(id)
	require.NoError(t, err)
	require.Equal(t, "release_approved", got.GetReleaseState())
	require.Len(t, got.GetReleases(), 1)
	require.Equal(t, r.trusted.name+"/acme/"+image.Name+":1.0", got.GetReleases()[0].GetDestinationImageRef())
	details = reasonOf(t, second(r.release(id)), errorsv1.Reason_REASON_RELEASE_NOT_ELIGIBLE)
	require.Equal(t, "release_approved", details["release_state"])
	require.True(t, r.turn())
	reasonOf(t, second(r.release(id)), errorsv1.Reason_REASON_ALREADY_RELEASED)
}

func second[T any](_ T, err error) error { return err }

func TestARequestThatReleaseHasNotHeardOfIsNotEligible(t *testing.T) {
	t.Parallel()
	r := open(t)
	id := newID()
	r.peers.agree(id, r.submitted(id, sample.Clean()), r.decided(id, sample.Clean(), "pass"))
	r.peers.change(func() { r.peers.requests[id.String()].Status = "pending" })
	details := reasonOf(t, second(r.release(id)), errorsv1.Reason_REASON_RELEASE_NOT_ELIGIBLE)
	require.Equal(t, "pending", details["import_status"])
	require.Equal(t, "not_ready", details["release_state"])
	require.Equal(t, "import_not_terminal", details["release_blocker_reason"])
}

func TestNobodyReleasesWhenIntakeDoesNotAnswer(t *testing.T) {
	t.Parallel()
	r := open(t)
	id := r.ready(sample.Clean())
	r.peers.change(func() { r.peers.silent["entitlement"] = true })
	reasonOf(t, second(r.release(id)), errorsv1.Reason_REASON_DEPENDENCY_UNAVAILABLE)
	r.peers.change(func() { r.peers.silent["entitlement"], r.peers.silent["request"] = false, true })
	got, err := r.release(id) // decided; intake merely cannot show it
	require.NoError(t, err)
	require.Equal(t, "release_approved", got.GetReleaseState())
	require.Len(t, got.GetReleases(), 1)
}

func TestNobodyInTheRetryChainReleases(t *testing.T) {
	t.Parallel()
	r := open(t)
	image, id := sample.Clean(), newID()
	retrier := uuid.NewString()
	retry := r.submitted(id, image) // alice asked first, somebody else retried; the approval was carried over
	retry.RequestedBy, retry.ChainRequesters, retry.CarriedOverFrom = retrier, []string{r.alice.String(), retrier}, uuid.NewString()
	require.NoError(t, image.Push(t.Context(), nil, r.quarantine.name, "q/"+r.tenant.String()+"/"+id.String(), "run-1", "owner", password))
	r.peers.agree(id, retry, r.decided(id, image, "pass"))
	for _, err := range r.hear(r.made(id, 1, retry), r.made(id, 3, r.decided(id, image, "pass"))) {
		require.NoError(t, err)
	}
	alice := auth.With(t.Context(), auth.Caller{Subject: "iss|alice", PersonID: r.alice, SystemRoles: []auth.Role{auth.SecurityReviewer}})
	_, err := r.api.ReleaseImportRequest(alice, &releasev1.ReleaseImportRequestRequest{Id: id.String()})
	reasonOf(t, err, errorsv1.Reason_REASON_SELF_APPROVAL_FORBIDDEN)
}

func TestSomebodyWhomTheDirectoryDoesNotKnowIsAskedFor(t *testing.T) {
	t.Parallel()
	r := open(t)
	id := r.ready(sample.Clean())
	unknown := auth.With(t.Context(), auth.Caller{Subject: "iss|alice", SystemRoles: []auth.Role{auth.SecurityReviewer}})
	req := &releasev1.ReleaseImportRequestRequest{Id: id.String()}
	_, err := r.api.ReleaseImportRequest(unknown, req)
	reasonOf(t, err, errorsv1.Reason_REASON_DEPENDENCY_UNAVAILABLE)
	r.peers.change(func() { r.peers.me = r.alice })
	_, err = r.api.ReleaseImportRequest(unknown, req)
	reasonOf(t, err, errorsv1.Reason_REASON_SELF_APPROVAL_FORBIDDEN)
}

func TestOneKeyReleasesOnce(t *testing.T) {
	t.Parallel()
	r := open(t)
	id := r.ready(sample.Clean())
	ctx := idempotency.With(r.as(r.rita), "key-1", "/pratique.release.v1.ReleaseService/ReleaseImportRequest")
	req := &releasev1.ReleaseImportRequestRequest{Id: id.String()}
	first, err := r.api.ReleaseImportRequest(ctx, req)
	require.NoError(t, err)
	require.True(t, r.turn())
	again, err := r.api.ReleaseImportRequest(ctx, req)
	require.NoError(t, err)
	require.Equal(t, first.GetReleases()[0].GetId(), again.GetReleases()[0].GetId())
	_, err = r.api.ReleaseImportRequest(ctx, &releasev1.ReleaseImportRequestRequest{Id: id.String(), Reason: &first.Id})
	reasonOf(t, err, errorsv1.Reason_REASON_IDEMPOTENCY_KEY_REUSED)
	require.Equal(t, []string{"ReleaseReady", "ReleaseApproved", "ImageReleased"}, r.told(id))
}

func TestAnyOrderOfEventsComesToTheSameRow(t *testing.T) {
	t.Parallel()
	r := open(t)
	image := sample.Clean()
	story := func(id uuid.UUID) []event.Envelope {
		return []event.Envelope{
			r.made(id, 1, r.submitted(id, image)),
			r.made(id, 2, &intakev1.RequestApproved{
				ImportId: id.String(), TenantId: r.tenant.String(), RequestType: "quarantine", RequestedBy: r.alice.String(),
				SourceRegistry: "docker.io", SourceImageRef: image.Name + ":1.0", SourceImageDigest: image.Root.Digest.String(),
			}),
			r.made(id, 3, r.decided(id, image, "pass")),
			r.made(id, 4, &evidencev1.EvidenceStale{ImportId: id.String(), TenantId: r.tenant.String()}),
			r.made(id, 6, &evidencev1.QuarantineCopyRemoved{ImportId: id.String(), TenantId: r.tenant.String(), Reason: "retention", Digest: "d"}),
		}
	}
	count := 0
	var walk func(n int, order []int)
	walk = func(n int, order []int) {
		if len(order) == n {
			id := newID()
			events := story(id)
			for _, i := range order {
				r.hear(events[i])
			}
			for _, err := range r.hear(events...) { // again, in one batch
				require.Error(t, err)
				require.Contains(t, err.Error(), "known")
			}
			state, blocker := r.state(id)
			require.Equal(t, "release_blocked evidence_stale", state+" "+blocker, "%v", order)
			count++
			return
		}
		for i := range n {
			if !contains(order, i) {
				walk(n, append(order[:len(order):len(order)], i))
			}
		}
	}
	walk(5, nil)
	require.Equal(t, 120, count)
}

func contains(list []int, x int) bool {
	for _, y := range list {
		if x == y {
			return true
		}
	}
	return false
}

func TestEventsThatCannotBeTrueAreRefused(t *testing.T) {
	t.Parallel()
	r := open(t)
	id := r.ready(sample.Clean())
	other := newID()
	msg := &intakev1.RequestWithdrawn{ImportId: id.String(), TenantId: other.String()}
	e, err := event.New(t.Context(), msg, event.Head{Subject: id, Tenant: other, Sequence: 9, Request: id})
	require.NoError(t, err)
	require.ErrorContains(t, r.hear(e)[0], "tenant")
	require.ErrorContains(t, r.hear(r.made(id, 9, msg))[0], "head and body")
	require.ErrorContains(t, r.hear(r.made(id, 9, &intakev1.RequestStateChanged{ImportId: id.String(), TenantId: r.tenant.String(), Status: "odd"}))[0], "status")
	require.ErrorContains(t, r.hear(r.made(id, 0, &dispatchv1.RunFailed{ImportId: id.String(), TenantId: r.tenant.String()}))[0], "sequence")
	state, _ := r.state(id)
	require.Equal(t, "ready_for_release", state)
}

func TestABatchSettlesEachRecordOnce(t *testing.T) {
	t.Parallel()
	r := open(t)
	image := sample.Clean()
	a, b := newID(), newID()
	for _, err := range r.hear(
		r.made(a, 3, r.decided(a, image, "pass")), r.made(b, 1, r.submitted(b, image)), r.made(a, 1, r.submitted(a, image)),
		r.made(b, 3, r.decided(b, image, "quarantine")), r.made(b, 4, r.decided(b, image, "pass")),
	) {
		require.NoError(t, err)
	}
	require.Equal(t, []string{"ReleaseReady"}, r.told(a))
	require.Equal(t, []string{"ReleaseBlocked", "ReleaseReady"}, r.told(b))
	withdrawn := &intakev1.RequestWithdrawn{ImportId: a.String(), TenantId: r.tenant.String()}
	removed := &evidencev1.QuarantineCopyRemoved{ImportId: a.String(), TenantId: r.tenant.String(), Digest: "d", Reason: "withdrawn"}
	r.hear(r.made(a, 9, withdrawn), r.made(a, 9, removed), r.made(a, 10, proto.CloneOf(removed)))
	require.Equal(t, []string{"ReleaseReady", "ReleaseBlocked", "QuarantineCopyDeleted"}, r.told(a))
	_, blocker := r.state(a)
	require.Equal(t, "import_failed", blocker)
}

func TestReadyEndsWithTheEvidence(t *testing.T) {
	t.Parallel()
	r := open(t)
	id := r.ready(sample.Clean())
	require.False(t, r.expire())
	r.pass(31 * 24 * time.Hour)
	require.Equal(t, "evidence_stale", reasonOf(t, second(r.release(id)), errorsv1.Reason_REASON_RELEASE_NOT_ELIGIBLE)["release_blocker_reason"])
	require.True(t, r.expire())
	require.False(t, r.expire())
	require.Equal(t, []string{"ReleaseReady", "ReleaseBlocked"}, r.told(id))
}

func TestTheApiIsHeldToItsTenantByRowSecurityAlone(t *testing.T) {
	t.Parallel()
	r := open(t)
	id := r.ready(sample.Clean())
	_, err := r.release(id)
	require.NoError(t, err)
	require.True(t, r.turn())
	for _, table := range []string{"release_record", "promotion", "released_artifact", "release_transition"} {
		require.Equal(t, 0, r.visible(context.Background(), table, newID()), table)
		require.NotZero(t, r.visible(context.Background(), table, r.tenant), table)
	}
}
