package app

import (
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	approvalv1 "github.com/pratique-io/pratique/gen/pratique/approval/v1"
	dispatchv1 "github.com/pratique-io/pratique/gen/pratique/dispatch/v1"
	errorsv1 "github.com/pratique-io/pratique/gen/pratique/errors/v1"
	eventv1 "github.com/pratique-io/pratique/gen/pratique/event/v1"
	evidencev1 "github.com/pratique-io/pratique/gen/pratique/evidence/v1"
	intakev1 "github.com/pratique-io/pratique/gen/pratique/intake/v1"
	notifyv1 "github.com/pratique-io/pratique/gen/pratique/notify/v1"
	releasev1 "github.com/pratique-io/pratique/gen/pratique/release/v1"
	"github.com/pratique-io/pratique/internal/bus"
	"github.com/pratique-io/pratique/internal/event"
	"github.com/pratique-io/pratique/services/intake/internal/domain"
	"github.com/pratique-io/pratique/services/intake/internal/view"
)

// story is every event that other services say about one released request.
func (b *bundle) story(id uuid.UUID) []event.Envelope {
	at, text := timestamppb.New(b.clock), id.String()
	policy, err := structpb.NewStruct(map[string]any{"max_critical": 0})
	require.NoError(b.t, err)
	release := uuid.NewSHA1(id, []byte("release")).String()
	var out []event.Envelope
	sequences := map[string]int64{}
	add := func(producer string, msg proto.Message) {
		sequences[producer]++
		out = append(out, b.fact(id, sequences[producer], msg))
	}
	add("dispatch", &dispatchv1.RunQueued{ImportId: text, QueuedAt: at})
	add("dispatch", &dispatchv1.RunStarted{ImportId: text, RunId: "run", Attempt: 1, ProviderId: "provider", PipelineRunName: "name", PipelineNamespace: "space", StartedAt: at})
	add("dispatch", &dispatchv1.RunStepChanged{ImportId: text, RunId: "run", Steps: []*dispatchv1.RunStep{{StepKey: "pull", Status: "running", Attempts: 1}}})
	add("dispatch", &dispatchv1.RunStepChanged{ImportId: text, RunId: "run", Steps: []*dispatchv1.RunStep{{StepKey: "pull", Status: "succeeded", Attempts: 1}}})
	add("dispatch", &dispatchv1.RunSucceeded{ImportId: text, RunId: "run", Attempt: 1, FinishedAt: at})
	add("evidence", &evidencev1.EvidenceRecorded{ImportId: text, RecordedAt: at})
	add("evidence", &evidencev1.EvidenceDecided{
		ImportId: text, Decision: "pass", Reasons: []string{"nothing found"}, EvidenceHash: "sha256:e", DecidedAt: at, EvidenceReadyAt: at,
		EvidenceExpiresAt: at, PolicySnapshot: policy, InternalImageRef: "quarantine/q@sha256:1", SbomSummary: &intakev1.SbomSummary{Format: "spdx-json", PackageCount: 7},
		ScanSummary: &intakev1.ScanSummary{Tool: "grype", Counts: &intakev1.SeverityCounts{Low: 3}},
		Checks:      []*intakev1.CheckResult{{Name: "vulnerabilities", Criticality: "required", Verdict: "pass", FinishedAt: at}},
		Report:      &eventv1.Report{Ref: "evidence/r", Digest: "sha256:2"},
	})
	add("release", &releasev1.ReleaseReady{ImportId: text, ReadyAt: at, ValidUntil: at})
	add("release", &releasev1.ReleaseApproved{ImportId: text, ReleaseId: release, DestinationImageRef: "trusted/red/x:1", ReleasedBy: "p", ApprovedAt: at})
	add("release", &releasev1.ImageReleased{ImportId: text, ReleaseId: release, DestinationImageRef: "trusted/red/x:1", ReleasedBy: "p", ReleasedAt: at, ValidUntil: at})
	add("notify", &notifyv1.ReconciliationChanged{ImportId: text, ExpectedRecipients: 2, ReceiptCount: 1, DeliveryState: "partial"})
	add("notify", &notifyv1.ReconciliationChanged{ImportId: text, ExpectedRecipients: 2, ReceiptCount: 2, DeliveryState: "delivered"})
	return out
}

func TestEventsInAnyOrder(t *testing.T) {
	t.Parallel()
	b := setup(t)
	var want *intakev1.ImportRequest
	for seed := range uint64(30) {
		id := b.approved("library/nginx:" + string(rune('a'+seed/10)) + string(rune('0'+seed%10)))
		rng := rand.New(rand.NewPCG(seed, 11))
		story := b.story(id)
		delivery := slices.Clone(story)
		for _, e := range story { // duplicates that the inbox did not catch: the same fact said again
			if rng.IntN(2) == 0 {
				delivery = append(delivery, e)
			}
		}
		if seed > 0 {
			rng.Shuffle(len(delivery), func(i, j int) { delivery[i], delivery[j] = delivery[j], delivery[i] })
		}
		for len(delivery) > 0 {
			n := min(1+rng.IntN(5), len(delivery))
			for _, err := range b.fold(delivery[:n]...) {
				if err != nil {
					require.ErrorContains(t, err, "old", "seed %d", seed)
				}
			}
			delivery = delivery[n:]
		}
		r := b.request(id)
		got, err := view.Request(r)
		require.NoError(t, err)
		b.checkTrail(r, seed)
		require.Equal(t, "succeeded", r.RunSteps()[0].Status)

		// What differs between two requests, not between two orders.
		got.Id, got.Version, got.EprRecordId, got.SourceImageRef, got.SourceImageDigest, got.Platforms = "", 0, "", "", "", nil
		for _, rel := range got.GetReleases() {
			rel.Id = ""
		}
		if want == nil {
			want = got
			require.Equal(t, "success", got.GetStatus())
			require.Equal(t, "completed", got.GetExecutionState())
			require.Equal(t, "released", got.GetReleaseState())
			require.Equal(t, "name", got.GetPipelineRunName())
			require.EqualValues(t, 7, got.GetSbomSummary().GetPackageCount())
			require.Equal(t, "delivered", got.GetNotificationReconciliation().GetDeliveryState())
			require.Len(t, got.GetReleases(), 1)
			require.NotNil(t, got.GetReleaseReadyAt())
		}
		require.True(t, proto.Equal(want, got), "seed %d:\n%s\n%s", seed, want, got)
	}
}

// checkTrail: versions without gaps, each state change told exactly once at its version, one conclusion.
func (b *bundle) checkTrail(r *domain.Request, seed uint64) {
	t := b.t
	rows, err := b.db.WorkerPool().Query(t.Context(), `select version, to_status, to_release,
		(from_status, from_execution, from_release) <> (to_status, to_execution, to_release), coalesce(event_id::text, '')
		from request_transition where request_id = $1 order by version`, r.ID)
	require.NoError(t, err)
	type row struct {
		Version         int64
		Status, Release string
		Moved           bool
		Event           string
	}
	trail, err := pgx.CollectRows(rows, pgx.RowToStructByPos[row])
	require.NoError(t, err)
	told, concluded := map[string]int64{}, 0
	for _, e := range b.events(r.ID) {
		switch shortName(e.Type) {
		case "RequestStateChanged", "RequestSubmitted":
			told[e.ID] = e.Sequence
		case "QuarantineConcluded":
			concluded++
			var msg intakev1.QuarantineConcluded
			require.NoError(t, e.Decode(&msg))
			require.Equal(t, "success", msg.GetStatus())
			require.Equal(t, "pass", msg.GetPolicyDecision())
			require.Len(t, msg.GetChecks(), 1)
			require.NotEqual(t, "not_ready", msg.GetReleaseState())
		}
	}
	require.Equal(t, 1, concluded, "seed %d", seed)
	require.Len(t, trail, int(r.Version))
	moves := 0
	for i, step := range trail {
		require.EqualValues(t, i+1, step.Version, "seed %d", seed)
		require.Equal(t, step.Moved, step.Event != "", "seed %d version %d", seed, step.Version)
		if step.Moved {
			moves++
			require.Equal(t, step.Version, told[step.Event])
		}
	}
	require.Len(t, told, moves, "seed %d: every change has one event", seed)
	require.Equal(t, string(r.State.Status), trail[len(trail)-1].Status)
	require.Equal(t, string(r.State.Release), trail[len(trail)-1].Release)
}

func TestEarlyFacts(t *testing.T) {
	t.Parallel()
	b := setup(t)
	early := func(err error, why string) {
		t.Helper()
		var outcome *bus.Outcome
		require.ErrorAs(t, err, &outcome)
		require.Equal(t, why, outcome.Error())
	}
	early(b.fold(b.story(uuid.New())[0])[0], "no_request")
	b.registered("EPR-1")
	pending := uuid.MustParse(b.create(b.ask("library/nginx:1", "EPR-1")).GetId())
	ready := b.approved("library/redis:1")
	outcomes := b.fold(b.story(pending)[1], b.story(ready)[1], b.fact(pending, 1, &dispatchv1.RunQueued{ImportId: "no id"}))
	early(outcomes[0], "not_decided")
	require.NoError(t, outcomes[1], "one outcome per event: the others go on")
	require.ErrorContains(t, outcomes[2], "import id")
	require.Equal(t, domain.Importing, b.request(ready).State.Status)
	early(b.decide(caseImport, uuid.New(), true), "no_request")
	early(b.decide(caseEpr, uuid.New(), true), "no_registration")
}

func TestDecisions(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.registered("EPR-1")
	make := func(ref string) uuid.UUID { return uuid.MustParse(b.create(b.ask(ref, "EPR-1")).GetId()) }

	approved := make("library/a:1")
	require.NoError(t, b.decide(caseImport, approved, true))
	require.Equal(t, []string{"RequestSubmitted", "RequestApproved", "RequestStateChanged"}, b.names(approved))
	require.Equal(t, "user:"+reviewer.String(), b.events(approved)[1].Actor)
	require.ErrorContains(t, b.decide(caseImport, approved, false), "not_pending", "a decision stands")

	rejected := make("library/b:1")
	require.NoError(t, b.decide(caseImport, rejected, false))
	require.Equal(t, []string{"RequestSubmitted", "RequestRejected", "RequestStateChanged"}, b.names(rejected))
	require.Equal(t, domain.State{Status: domain.Rejected, Execution: domain.Completed, Release: domain.NotReady}, b.request(rejected).State)

	withdrawn := make("library/c:1")
	_, err := b.Withdraw(b.as(b.member), withdrawn, "mistake")
	require.NoError(t, err)
	require.ErrorContains(t, b.decide(caseImport, withdrawn, true), "not_pending")
	require.Equal(t, []string{"RequestSubmitted", "RequestWithdrawn", "RequestStateChanged"}, b.names(withdrawn))

	blocked := make("library/d:1")
	b.entitle(b.tenant, domain.Capabilities{})
	require.NoError(t, b.decide(caseImport, blocked, true))
	r := b.request(blocked)
	require.Equal(t, domain.Failed, r.State.Status)
	require.Equal(t, "policy_blocked", r.Failure().Code)
	require.Equal(t, "approved", r.Facts.Decision.Status)
	require.Equal(t, []string{"RequestSubmitted", "RequestStateChanged", "RequestStateChanged", "QuarantineConcluded"}, b.names(blocked),
		"dispatch starts from RequestApproved, which is never said")

	b.entitle(b.tenant, domain.Capabilities{QuarantineRequest: true})
	other := make("library/e:1")
	digest := b.fact(uuid.New(), 2, &approvalv1.CaseApproved{Kind: caseImport, SubjectId: other.String(), Digest: digestOf("another")})
	err = b.work(func(tx pgx.Tx) error { return b.Decide(t.Context(), tx, digest) })
	require.ErrorContains(t, err, "not the request's", "an approval of other bytes approves nothing")
	require.Equal(t, domain.Pending, b.request(other).State.Status)
}

func TestWithdraw(t *testing.T) {
	t.Parallel()
	b := setup(t)
	id := b.approved("library/a:1")
	colleague := b.member
	colleague.Subject, colleague.PersonID = "iss|bob", uuid.New()
	_, err := b.Withdraw(b.as(colleague), id, "")
	b.refuses(err, errorsv1.Reason_REASON_PERMISSION_DENIED)
	stranger := b.member
	stranger.Tenant = b.other
	_, err = b.Withdraw(b.as(stranger), id, "")
	b.refuses(err, errorsv1.Reason_REASON_NOT_FOUND)
	r, err := b.Withdraw(b.as(b.admin), id, "gone")
	require.NoError(t, err)
	require.Equal(t, domain.Withdrawn, r.State.Status)
	require.Equal(t, "approved", r.Facts.Decision.Status, "the decision stays on the record")
	_, err = b.Withdraw(b.as(b.member), id, "")
	require.Equal(t, "withdrawn", b.refuses(err, errorsv1.Reason_REASON_IMPORT_NOT_WITHDRAWABLE).Details()["import_status"])
	for _, e := range b.story(id) {
		b.fold(e)
	}
	require.Equal(t, domain.Withdrawn, b.request(id).State.Status)
	require.NotContains(t, b.names(id), "QuarantineConcluded")
	b.create(b.ask("library/a:1", b.epr(id))) // the digest is free again
}

// epr is the record id that a request rests on.
func (b *bundle) epr(id uuid.UUID) string { return b.request(id).EprRecordID }

func TestPermit(t *testing.T) {
	t.Parallel()
	b := setup(t)
	ctx := b.as(b.admin)
	good := b.approved("library/a:1")
	p, err := b.DispatchPermit(ctx, good)
	require.NoError(t, err)
	require.True(t, p.Allowed)
	require.Equal(t, "library/a:1", p.Request.SourceImageRef)
	e, err := b.ReleaseEntitlement(ctx, good)
	require.NoError(t, err)
	require.True(t, e.Allowed)
	require.Equal(t, "red", e.Tenant.Slug)

	b.clock = b.clock.Add(366 * day)
	e, err = b.ReleaseEntitlement(ctx, good)
	require.NoError(t, err)
	require.Equal(t, "epr_not_in_force", e.Reason)
	p, err = b.DispatchPermit(ctx, good)
	require.NoError(t, err)
	require.False(t, p.Allowed)
	require.Equal(t, "policy_blocked", p.Reason)
	require.Equal(t, domain.Failed, b.request(good).State.Status)
	p, err = b.DispatchPermit(ctx, good)
	require.NoError(t, err)
	require.Equal(t, "policy_blocked", p.Reason, "the answer stays")

	withdrawn := b.approved("library/b:1")
	_, err = b.Withdraw(b.as(b.member), withdrawn, "")
	require.NoError(t, err)
	p, err = b.DispatchPermit(ctx, withdrawn)
	require.NoError(t, err)
	require.Equal(t, "withdrawn", p.Reason)
	_, err = b.DispatchPermit(ctx, uuid.New())
	b.refuses(err, errorsv1.Reason_REASON_NOT_FOUND)

	b.entitle(b.tenant, domain.Capabilities{QuarantineRequest: true})
	e, err = b.ReleaseEntitlement(ctx, withdrawn)
	require.NoError(t, err)
	require.Equal(t, "tenant_capability_not_entitled", e.Reason)
	_, err = b.db.WorkerPool().Exec(t.Context(), `update tenant set status = 'disabled'`)
	require.NoError(t, err)
	e, err = b.ReleaseEntitlement(ctx, withdrawn)
	require.NoError(t, err)
	require.Equal(t, "tenant_disabled", e.Reason)
}
