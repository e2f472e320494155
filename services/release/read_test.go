package release_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	errorsv1 "github.com/pratique-io/pratique/gen/pratique/errors/v1"
	evidencev1 "github.com/pratique-io/pratique/gen/pratique/evidence/v1"
	intakev1 "github.com/pratique-io/pratique/gen/pratique/intake/v1"
	releasev1 "github.com/pratique-io/pratique/gen/pratique/release/v1"
	"github.com/pratique-io/pratique/internal/pg"
	"github.com/pratique-io/pratique/internal/sample"
)

func (r *room) visible(ctx context.Context, table string, tenant uuid.UUID) int {
	r.t.Helper()
	var n int
	require.NoError(r.t, r.db.Read(ctx, pg.OneTenant(tenant), func(tx pgx.Tx) error {
		return tx.QueryRow(ctx, "select count(*) from "+pgx.Identifier{table}.Sanitize()).Scan(&n)
	}))
	return n
}

// released brings an image to the trusted registry.
func (r *room) released(image sample.Image, change ...func(*releasev1.ReleaseImportRequestRequest)) (uuid.UUID, *releasev1.ReleasedArtifact) {
	r.t.Helper()
	id := r.ready(image)
	_, err := r.release(id, change...)
	require.NoError(r.t, err)
	require.True(r.t, r.turn())
	state, blocker := r.state(id)
	require.Equal(r.t, "released", state, blocker)
	list, err := r.api.ListReleasedArtifacts(r.as(r.rita), &releasev1.ListReleasedArtifactsRequest{})
	require.NoError(r.t, err)
	return id, list.GetData()[0]
}

func TestReleasedArtifactsAreFoundByWhoMaySeeThem(t *testing.T) {
	t.Parallel()
	r := open(t)
	_, clean := r.released(sample.Clean())
	r.pass(time.Minute)
	_, vulnerable := r.released(sample.Vulnerable()) // as far as release is concerned: evidence said pass

	ask := func(ctx context.Context, change func(*releasev1.ListReleasedArtifactsRequest)) []string {
		req := &releasev1.ListReleasedArtifactsRequest{}
		change(req)
		list, err := r.api.ListReleasedArtifacts(ctx, req)
		require.NoError(t, err)
		require.EqualValues(t, len(list.GetData()), list.GetPagination().GetTotal())
		var ids []string
		for _, a := range list.GetData() {
			ids = append(ids, a.GetId())
		}
		return ids
	}
	search := func(text string) func(*releasev1.ListReleasedArtifactsRequest) {
		return func(q *releasev1.ListReleasedArtifactsRequest) { q.Search = &text }
	}
	all := func(*releasev1.ListReleasedArtifactsRequest) {}
	require.Equal(t, []string{vulnerable.GetId(), clean.GetId()}, ask(r.member(r.tenant), all), "newest first")
	require.Equal(t, []string{clean.GetId()}, ask(r.member(r.tenant), search("DEMO/clean")))
	require.Equal(t, []string{clean.GetId()}, ask(r.as(r.rita), search(clean.GetDigest()[:30])))
	require.Len(t, ask(r.as(r.rita), search(strings.ToUpper(r.trusted.name))), 2)
	require.Empty(t, ask(r.as(r.rita), search("%")), "a percent sign is a character")
	require.Empty(t, ask(r.member(newID()), all))
	other := newID().String()
	require.Empty(t, ask(r.as(r.rita), func(q *releasev1.ListReleasedArtifactsRequest) { q.TenantId = &other }))
	_, err := r.api.ListReleasedArtifacts(r.member(r.tenant), &releasev1.ListReleasedArtifactsRequest{TenantId: &other})
	reasonOf(t, err, errorsv1.Reason_REASON_TENANT_CONTEXT_MISMATCH)

	one := int32(1)
	first, err := r.api.ListReleasedArtifacts(r.member(r.tenant), &releasev1.ListReleasedArtifactsRequest{Limit: &one})
	require.NoError(t, err)
	token := first.GetPagination().GetNextPageToken()
	next, err := r.api.ListReleasedArtifacts(r.member(r.tenant), &releasev1.ListReleasedArtifactsRequest{Limit: &one, PageToken: &token})
	require.NoError(t, err)
	require.Equal(t, clean.GetId(), next.GetData()[0].GetId())
	require.Empty(t, next.GetPagination().GetNextPageToken())

	got, err := r.api.GetReleasedArtifact(r.member(r.tenant), &releasev1.GetReleasedArtifactRequest{Id: clean.GetId()})
	require.NoError(t, err)
	require.True(t, got.GetConsumptionReady())
	require.Equal(t, r.trusted.name+"/acme/demo/clean@"+clean.GetDigest(), got.GetTrustedRef())
	_, err = r.api.GetReleasedArtifact(r.member(newID()), &releasev1.GetReleasedArtifactRequest{Id: clean.GetId()})
	reasonOf(t, err, errorsv1.Reason_REASON_NOT_FOUND)
	r.pass(31 * 24 * time.Hour)
	got, err = r.api.GetReleasedArtifact(r.as(r.rita), &releasev1.GetReleasedArtifactRequest{Id: clean.GetId()})
	require.NoError(t, err)
	require.False(t, got.GetConsumptionReady())
	require.Equal(t, "evidence_expired", got.GetConsumptionBlockerReason())
}

func TestAUseIsRecordedAndEnded(t *testing.T) {
	t.Parallel()
	r := open(t)
	id, a := r.released(sample.Clean())
	prod := "prod"
	c, err := r.api.ConsumeArtifact(r.member(r.tenant), &releasev1.ConsumeArtifactRequest{Id: a.GetId(), Environment: &prod})
	require.NoError(t, err)
	require.Equal(t, r.alice.String(), c.GetConsumedBy())
	require.Equal(t, "prod", c.GetEnvironment())
	_, err = r.api.ConsumeArtifact(r.member(newID()), &releasev1.ConsumeArtifactRequest{Id: a.GetId()})
	reasonOf(t, err, errorsv1.Reason_REASON_NOT_FOUND)
	list := func() int {
		out, err := r.api.ListConsumptions(r.member(r.tenant), &releasev1.ListConsumptionsRequest{Id: a.GetId()})
		require.NoError(t, err)
		return len(out.GetData())
	}
	require.Equal(t, 1, list())
	drop := &releasev1.DeleteConsumptionRequest{Id: a.GetId(), Cid: c.GetId()}
	_, err = r.api.DeleteConsumption(r.member(newID()), drop)
	reasonOf(t, err, errorsv1.Reason_REASON_NOT_FOUND)
	_, err = r.api.DeleteConsumption(r.member(r.tenant), drop)
	require.NoError(t, err)
	require.Zero(t, list())
	_, err = r.api.DeleteConsumption(r.member(r.tenant), drop)
	reasonOf(t, err, errorsv1.Reason_REASON_NOT_FOUND)
	require.Equal(t, []string{"ReleaseReady", "ReleaseApproved", "ImageReleased", "ReleaseConsumed", "ReleaseConsumed"}, r.told(id))
	r.pass(31 * 24 * time.Hour)
	_, err = r.api.ConsumeArtifact(r.member(r.tenant), &releasev1.ConsumeArtifactRequest{Id: a.GetId()})
	require.Equal(t, "evidence_expired", reasonOf(t, err, errorsv1.Reason_REASON_INVALID_LIFECYCLE_ACTION)["consumption_blocker_reason"])
}

func (r *room) verdict(ctx context.Context, ref string) *releasev1.Verdict {
	r.t.Helper()
	v, err := r.api.GetVerdict(ctx, &releasev1.GetVerdictRequest{Ref: ref})
	require.NoError(r.t, err)
	require.Equal(r.t, ref, v.GetRef())
	require.NotEmpty(r.t, v.GetReasons())
	return v
}

func TestAVerdictNeverFails(t *testing.T) {
	t.Parallel()
	r := open(t)
	ctx := r.member(r.tenant)
	_, a := r.released(sample.Clean())
	repository := r.trusted.name + "/acme/demo/clean"
	for _, ref := range []string{repository + ":1.0", repository + "@" + a.GetDigest(), repository + ":other@" + a.GetDigest(), "docker.io/demo/clean:1.0",
		"ghcr.io/anywhere/else@" + a.GetDigest()} {
		v := r.verdict(ctx, ref)
		require.True(t, v.GetAllowed(), ref)
		require.Equal(t, []string{"released"}, v.GetReasons(), ref)
		require.Equal(t, a.GetTrustedRef(), v.GetTrustedRef(), ref)
		require.Equal(t, !strings.HasPrefix(ref, "docker.io"), v.GetAuthoritative(), ref)
		require.NotNil(t, v.GetValidUntil(), ref)
		require.NotEmpty(t, v.GetReleaseId(), ref)
	}
	for ref, want := range map[string]string{
		"nonsense": "invalid_reference", "docker.io/a b": "invalid_reference", strings.Repeat("x", 5000): "invalid_reference", "a/../b": "invalid_reference",
		repository: "unknown_image", repository + ":2.0": "unknown_image", repository + "@sha256:" + strings.Repeat("0", 64): "unknown_image",
		"docker.io/demo/unheard:1": "not_requested",
	} {
		v := r.verdict(ctx, ref)
		require.False(t, v.GetAllowed(), ref)
		require.Equal(t, []string{want}, v.GetReasons(), ref)
		require.NotEmpty(t, v.GetNextAction(), ref)
	}
	require.False(t, r.verdict(r.member(newID()), repository+":1.0").GetAllowed(), "another tenant's")
	require.False(t, r.verdict(r.member(newID()), "x.io/y@"+a.GetDigest()).GetAllowed(), "another tenant's")
	require.True(t, r.verdict(r.as(r.rita), repository+":1.0").GetAllowed())
	_, err := r.api.GetVerdict(ctx, &releasev1.GetVerdictRequest{})
	reasonOf(t, err, errorsv1.Reason_REASON_VALIDATION_FAILED)
	r.pass(31 * 24 * time.Hour)
	v := r.verdict(ctx, repository+":1.0")
	require.False(t, v.GetAllowed())
	require.Equal(t, []string{"evidence_expired"}, v.GetReasons())
}

func TestAVerdictSaysWhereAnImageIs(t *testing.T) {
	t.Parallel()
	r := open(t)
	image := sample.Clean()
	id := newID()
	says := func(want ...string) {
		t.Helper()
		for _, ref := range []string{"docker.io/" + image.Name + ":1.0", "x.io/y@" + image.Root.Digest.String()} {
			v := r.verdict(r.member(r.tenant), ref)
			require.Equal(t, want, v.GetReasons())
			require.False(t, v.GetAllowed())
			require.False(t, v.GetAuthoritative())
		}
	}
	r.hear(r.made(id, 1, r.submitted(id, image)))
	says("pending_decision")
	r.hear(r.made(id, 2, &intakev1.RequestStateChanged{ImportId: id.String(), TenantId: r.tenant.String(), Status: "importing"}))
	says("not_released")
	r.hear(r.made(id, 3, r.decided(id, image, "quarantine")))
	says("quarantined")
	r.hear(r.made(id, 4, r.decided(id, image, "incomplete")))
	says("not_released", "evidence_incomplete")
	r.hear(r.made(id, 5, r.decided(id, image, "pass")))
	says("not_released")
	r.hear(r.made(id, 6, &intakev1.RequestRejected{ImportId: id.String(), TenantId: r.tenant.String()}))
	says("rejected")
}

func TestEligibilityIsExplainedRuleByRule(t *testing.T) {
	t.Parallel()
	r := open(t)
	id := r.ready(sample.Clean())
	explain := func(ctx context.Context, id string) *releasev1.EligibilityExplanation {
		out, err := r.api.ExplainEligibility(ctx, &releasev1.ExplainEligibilityRequest{Id: id})
		require.NoError(t, err)
		return out
	}
	out := explain(r.member(r.tenant), id.String())
	require.True(t, out.GetEligible())
	require.Nil(t, out.BlockerReason)
	require.Len(t, out.GetRules(), 10)
	for _, rule := range out.GetRules() {
		require.Equal(t, "pass", rule.GetOutcome(), rule.GetRule())
	}
	r.hear(r.made(id, 4, &evidencev1.EvidenceStale{ImportId: id.String(), TenantId: r.tenant.String()}))
	out = explain(r.as(r.rita), id.String())
	require.Equal(t, "evidence_stale", out.GetBlockerReason())
	_, err := r.api.ExplainEligibility(r.member(newID()), &releasev1.ExplainEligibilityRequest{Id: newID().String()})
	reasonOf(t, err, errorsv1.Reason_REASON_NOT_FOUND)

	unheard := newID()
	r.peers.agree(unheard, r.submitted(unheard, sample.Clean()), r.decided(unheard, sample.Clean(), "pass"))
	r.peers.change(func() { r.peers.requests[unheard.String()].Status = "pending" })
	out = explain(r.member(r.tenant), unheard.String())
	require.False(t, out.GetEligible())
	require.Equal(t, "import_not_terminal", out.GetBlockerReason())
}
