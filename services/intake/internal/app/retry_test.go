package app

import (
	"errors"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/types/known/timestamppb"

	dispatchv1 "github.com/pratique-io/pratique/gen/pratique/dispatch/v1"
	errorsv1 "github.com/pratique-io/pratique/gen/pratique/errors/v1"
	eventv1 "github.com/pratique-io/pratique/gen/pratique/event/v1"
	evidencev1 "github.com/pratique-io/pratique/gen/pratique/evidence/v1"
	intakev1 "github.com/pratique-io/pratique/gen/pratique/intake/v1"
	"github.com/pratique-io/pratique/internal/auth"
	"github.com/pratique-io/pratique/internal/failure"
	"github.com/pratique-io/pratique/internal/idempotency"
	"github.com/pratique-io/pratique/services/intake/internal/domain"
	"github.com/pratique-io/pratique/services/intake/internal/view"
)

// fails ends the request's run.
func (b *bundle) fails(id uuid.UUID, code string) {
	b.t.Helper()
	require.Equal(b.t, []error{nil}, b.fold(b.fact(id, 9, &dispatchv1.RunFailed{
		ImportId: id.String(), RunId: "run", Attempt: 1, FinishedAt: timestamppb.New(b.clock),
		Failure: &eventv1.Failure{FailureClass: failure.ClassOf(code), FailureCode: code, Message: "it broke"},
	})))
}

func (b *bundle) quarantine(id uuid.UUID) {
	b.t.Helper()
	require.Equal(b.t, []error{nil}, b.fold(b.fact(id, 9, &evidencev1.EvidenceDecided{ImportId: id.String(), Decision: "quarantine", DecidedAt: timestamppb.New(b.clock)})))
}

func (b *bundle) again(who auth.Caller, id uuid.UUID, kind domain.Type) (*intakev1.ImportRequest, error) {
	return b.Retry(b.as(who), &intakev1.RetryImportRequestRequest{Id: id.String()}, Again{ID: id, Type: kind, Method: "RetryImportRequest"})
}

func (b *bundle) retried(who auth.Caller, id uuid.UUID) *intakev1.ImportRequest {
	b.t.Helper()
	out, err := b.again(who, id, domain.TypeQuarantine)
	require.NoError(b.t, err)
	return out
}

// colleague is somebody else of the tenant.
func (b *bundle) colleague(subject string, role auth.Role) auth.Caller {
	_, caller, err := b.know(b.as(auth.Caller{Subject: subject, Tenant: b.tenant, Tenants: map[uuid.UUID][]auth.Role{b.tenant: {role}}}))
	require.NoError(b.t, err)
	return caller
}

func TestARetryCarriesTheApprovalOver(t *testing.T) {
	t.Parallel()
	b := setup(t)
	id := b.approved("library/nginx:1")
	decidedAt := b.clock
	b.fails(id, failure.RunTimeout)
	before := b.request(id)
	b.pinErr, b.clock = errors.New("the source is gone"), b.clock.Add(time.Minute) // the source may be gone: the digest is pinned
	boss := b.colleague("iss|boss", auth.TenantAdmin)
	out := b.retried(boss, id)
	next := uuid.MustParse(out.GetId())

	require.Equal(t, "approved", out.GetStatus())
	require.Equal(t, "awaiting_dispatch", out.GetExecutionState())
	require.Equal(t, id.String(), out.GetRetryOf())
	require.Equal(t, before.SourceDigest, out.GetSourceImageDigest())
	require.Equal(t, "library/nginx:1", out.GetSourceImageRef())
	require.Equal(t, boss.PersonID.String(), out.GetRequestedByUserId())
	decision := out.GetDecisionTimeline()
	require.Equal(t, reviewer.String(), decision.GetDecidedByUserId())
	require.Equal(t, "fine", decision.GetDecisionReason())
	require.Equal(t, decidedAt, decision.GetDecidedAt().AsTime())
	require.Equal(t, id.String(), decision.GetCarriedOverFrom())

	require.Equal(t, []string{"RequestSubmitted", "RequestApproved", "RequestStateChanged"}, b.names(next))
	list := b.events(next)
	var submitted intakev1.RequestSubmitted
	require.NoError(t, list[0].Decode(&submitted))
	require.Equal(t, "user:"+boss.PersonID.String(), list[0].Actor)
	require.Equal(t, []string{id.String(), id.String(), id.String()}, []string{submitted.GetCarriedOverFrom(), submitted.GetRetryOf(), submitted.GetChainId()})
	var told intakev1.RequestApproved
	require.NoError(t, list[1].Decode(&told))
	require.Equal(t, "system", list[1].Actor)
	require.Equal(t, reviewer.String(), told.GetDecidedBy())
	require.Equal(t, id.String(), told.GetCarriedOverFrom())
	require.Equal(t, []string{b.member.PersonID.String(), boss.PersonID.String()}, told.GetChainRequesters())
	line, err := lineOf(list[1])
	require.NoError(t, err)
	require.Equal(t, "carried over from "+id.String()+": fine", line.Reason)
	require.Equal(t, 1, b.count(`select count(*) from request_transition where request_id = $1 and verb = 'approve' and actor = 'system'
		and reason = 'approval of user:' || $2 || ' carried over from ' || $3`, next, reviewer.String(), id.String()))

	after := b.request(id)
	require.Equal(t, before.Version+1, after.Version)
	require.Equal(t, before.State, after.State)
	require.Equal(t, 1, b.count(`select count(*) from request_transition where request_id = $1 and version = $2 and verb = 'record'`, id, after.Version))
	permit, err := b.DispatchPermit(b.as(b.admin), next)
	require.NoError(t, err)
	require.True(t, permit.Allowed)

	_, err = b.again(b.member, id, domain.TypeQuarantine)
	require.Equal(t, next.String(), b.refuses(err, errorsv1.Reason_REASON_IMPORT_NOT_RETRYABLE).Details()["retried_as"])
	_, err = b.again(boss, next, domain.TypeQuarantine)
	b.refuses(err, errorsv1.Reason_REASON_IMPORT_NOT_RETRYABLE) // it has not ended
}

func TestARetryWaitsForADecisionWhenTheBasisChanged(t *testing.T) {
	t.Parallel()
	b := setup(t)
	id := b.approved("library/nginx:1")
	b.fails(id, failure.RunTimeout)
	b.set.EprEnforce, b.clock = false, b.clock.Add(time.Minute)
	_, err := b.db.WorkerPool().Exec(t.Context(), `update epr_registration set epr_record_id = 'another'`)
	require.NoError(t, err)
	out := b.retried(b.member, id)
	next := uuid.MustParse(out.GetId())
	require.Equal(t, "pending", out.GetStatus())
	require.Equal(t, domain.BasisNotEnforced, out.GetEprBasis())
	require.Equal(t, []string{"RequestSubmitted"}, b.names(next))
	var submitted intakev1.RequestSubmitted
	require.NoError(t, b.events(next)[0].Decode(&submitted))
	require.Empty(t, submitted.GetCarriedOverFrom())
	require.NoError(t, b.decide(caseImport, next, true))
	require.Equal(t, domain.Approved, b.request(next).State.Status)
}

func TestRetryLimits(t *testing.T) {
	t.Parallel()
	b := setup(t)
	id := b.approved("library/nginx:1")
	for _, wait := range []time.Duration{time.Minute, 2 * time.Minute} { // class runtime
		b.fails(id, failure.RunTimeout)
		at := b.clock.Add(wait)
		b.clock = at.Add(-1500 * time.Millisecond)
		_, err := b.again(b.member, id, domain.TypeQuarantine)
		f := b.refuses(err, errorsv1.Reason_REASON_RETRY_BACKOFF_ACTIVE)
		require.Equal(t, 1500*time.Millisecond, f.RetryAfter())
		require.EqualValues(t, 2, f.Details()["retry_after_seconds"])
		require.Equal(t, at.Format(time.RFC3339Nano), f.Details()["retry_available_at"])
		shown := b.shown(id)
		require.True(t, shown.GetRetryable())
		require.Equal(t, at, shown.GetRetryAvailableAt().AsTime())
		b.clock = at
		id = uuid.MustParse(b.retried(b.member, id).GetId())
		require.False(t, b.shown(id).GetRetryable())
	}
	b.fails(id, failure.RunTimeout)
	require.False(t, b.shown(id).GetRetryable())
	require.Nil(t, b.shown(id).GetRetryAvailableAt())
	_, err := b.again(b.member, id, domain.TypeQuarantine)
	f := b.refuses(err, errorsv1.Reason_REASON_RETRY_ATTEMPT_LIMIT_REACHED)
	require.EqualValues(t, []any{3, 3, "clone"}, []any{number(f.Details()["max_attempts"]), number(f.Details()["current_attempts"]), f.Details()["next_action"]})
}

func number(value any) int {
	switch n := value.(type) {
	case float64:
		return int(n)
	case int:
		return n
	}
	return -1
}

func (b *bundle) shown(id uuid.UUID) *intakev1.ImportRequest {
	out, err := view.Request(b.request(id))
	require.NoError(b.t, err)
	return out
}

func TestWhoAndWhatMayBeRetried(t *testing.T) {
	t.Parallel()
	b := setup(t)
	id := b.approved("library/nginx:1")
	b.quarantine(id)
	b.clock = b.clock.Add(10 * time.Minute)
	_, err := b.again(b.colleague("iss|col", auth.TenantMember), id, domain.TypeQuarantine)
	b.refuses(err, errorsv1.Reason_REASON_PERMISSION_DENIED)
	stranger := auth.Caller{Subject: "iss|far", Tenant: b.other, Tenants: map[uuid.UUID][]auth.Role{b.other: {auth.TenantAdmin}}}
	_, err = b.again(stranger, id, domain.TypeQuarantine)
	b.refuses(err, errorsv1.Reason_REASON_NOT_FOUND)
	_, err = b.again(b.member, id, domain.TypeScan)
	b.refuses(err, errorsv1.Reason_REASON_NOT_FOUND)

	b.entitle(b.tenant, domain.Capabilities{})
	_, err = b.again(b.member, id, domain.TypeQuarantine)
	b.refuses(err, errorsv1.Reason_REASON_TENANT_CAPABILITY_NOT_ENTITLED)
	require.Equal(t, 1, b.count(`select count(*) from denial where reason = 'tenant_capability_not_entitled'`))
	b.entitle(b.tenant, domain.Capabilities{QuarantineRequest: true, OndemandScanning: true})

	open := b.create(b.ask("library/nginx:1", "EPR-library-nginx-1")) // an open one of the same digest stands in the way
	_, err = b.again(b.member, id, domain.TypeQuarantine)
	require.Equal(t, open.GetId(), b.refuses(err, errorsv1.Reason_REASON_DUPLICATE_REQUEST).Details()["existing_id"])
	require.True(t, b.shown(id).GetRetryable(), "what was refused left nothing")
	require.NoError(t, b.decide(caseImport, uuid.MustParse(open.GetId()), false))
	_, err = b.again(b.member, uuid.MustParse(open.GetId()), domain.TypeQuarantine)
	b.refuses(err, errorsv1.Reason_REASON_IMPORT_NOT_RETRYABLE)
	b.retried(b.member, id)

	scan := uuid.MustParse(b.create(b.scan("library/other:1")).GetId())
	b.fails(scan, failure.DispatchError)
	b.clock = b.clock.Add(30 * time.Second)
	out, err := b.again(b.member, scan, domain.TypeScan)
	require.NoError(t, err)
	require.Equal(t, []string{"approved", "system", ""}, []string{
		out.GetStatus(), out.GetDecisionTimeline().GetDecidedByUserId(), out.GetDecisionTimeline().GetCarriedOverFrom(),
	})
}

func TestOfTwoRetriesAtOnceOneIs(t *testing.T) {
	t.Parallel()
	b := setup(t)
	id := b.approved("library/nginx:1")
	b.fails(id, failure.RunTimeout)
	b.clock = b.clock.Add(time.Minute)
	errs := make([]error, 4)
	var wg sync.WaitGroup
	for i := range errs {
		wg.Go(func() { _, errs[i] = b.again(b.member, id, domain.TypeQuarantine) })
	}
	wg.Wait()
	failed := slices.DeleteFunc(errs, func(err error) bool { return err == nil })
	require.Len(t, failed, 3)
	for _, err := range failed {
		b.refuses(err, errorsv1.Reason_REASON_IMPORT_NOT_RETRYABLE)
	}
	require.Equal(t, 1, b.count(`select count(*) from request where retry_of = $1`, id))
}

func TestARetryIsRepeatedByItsKey(t *testing.T) {
	t.Parallel()
	b := setup(t)
	id := b.approved("library/nginx:1")
	b.fails(id, failure.RunTimeout)
	b.clock = b.clock.Add(time.Minute)
	ctx := idempotency.With(b.as(b.member), "key-1", "/RetryImportRequest")
	ctx = metadata.NewIncomingContext(ctx, metadata.Pairs(auth.HeaderIdempotency, "key-1"))
	in, what := &intakev1.RetryImportRequestRequest{Id: id.String()}, Again{ID: id, Type: domain.TypeQuarantine}
	first, err := b.Retry(ctx, in, what)
	require.NoError(t, err)
	second, err := b.Retry(ctx, in, what)
	require.NoError(t, err)
	require.Equal(t, first.GetId(), second.GetId())
}

func TestAClone(t *testing.T) {
	t.Parallel()
	b := setup(t)
	id := b.approved("library/nginx:1")
	clone := func(who auth.Caller, ref string) (*intakev1.ImportRequest, error) {
		return b.Clone(b.as(who), &intakev1.CloneImportRequestRequest{Id: id.String()}, Again{ID: id, Type: domain.TypeQuarantine, Method: "CloneImportRequest"},
			func(r *domain.Request) (Ask, error) { return b.ask(ref, r.EprRecordID), nil })
	}
	_, err := clone(b.member, "library/nginx:1")
	b.refuses(err, errorsv1.Reason_REASON_DUPLICATE_REQUEST)
	stranger := auth.Caller{Subject: "iss|far", Tenant: b.other, Tenants: map[uuid.UUID][]auth.Role{b.other: {auth.TenantAdmin}}}
	_, err = clone(stranger, "library/nginx:2")
	b.refuses(err, errorsv1.Reason_REASON_NOT_FOUND)
	pins := b.pins
	out, err := clone(b.colleague("iss|col", auth.TenantMember), "library/nginx:2")
	require.NoError(t, err)
	require.Equal(t, pins+1, b.pins)
	require.Equal(t, []string{"pending", id.String(), ""}, []string{out.GetStatus(), out.GetClonedFrom(), out.GetRetryOf()})
	got := b.request(uuid.MustParse(out.GetId()))
	require.Equal(t, got.ID, got.ChainID)
	require.Equal(t, 1, got.ChainPosition)
	require.Len(t, got.ChainRequesters, 1)
	require.Equal(t, id, got.ClonedFrom)
}
