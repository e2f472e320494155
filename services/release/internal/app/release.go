package app

import (
	"context"
	"errors"
	"fmt"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	errorsv1 "github.com/pratique-io/pratique/gen/pratique/errors/v1"
	intakev1 "github.com/pratique-io/pratique/gen/pratique/intake/v1"
	releasev1 "github.com/pratique-io/pratique/gen/pratique/release/v1"
	"github.com/pratique-io/pratique/internal/auth"
	"github.com/pratique-io/pratique/internal/failpoint"
	"github.com/pratique-io/pratique/internal/fault"
	"github.com/pratique-io/pratique/internal/idempotency"
	"github.com/pratique-io/pratique/internal/oci"
	"github.com/pratique-io/pratique/internal/pg"
	"github.com/pratique-io/pratique/services/release/internal/domain"
	"github.com/pratique-io/pratique/services/release/internal/peer"
	"github.com/pratique-io/pratique/services/release/internal/store"
)

// Wish is what somebody asks to have released. Empty fields were not given.
type Wish struct {
	Record       uuid.UUID
	Destination  string
	EvidenceHash string
	PolicyHash   string
	Reason       string
	Message      proto.Message // the call as it came, for the idempotency key
}

// errFresh ends the look for an earlier answer: there is none.
var errFresh = errors.New("no earlier answer")

// Release decides to promote a request's digest and answers the event that tells it. Checked in this order: capability, eligibility,
// four-eyes, expected hashes, destination, already released.
func (a *App) Release(ctx context.Context, w Wish) (*releasev1.ReleaseApproved, error) {
	scope := auth.From(ctx).Scope()
	// A repeated call is answered as it was the first time, whatever became of the request since.
	receipt, err := a.recall(ctx, scope, w)
	if err == nil || !errors.Is(err, errFresh) {
		return receipt, err
	}
	var unheard *intakev1.ImportRequest
	if _, err := a.record(ctx, scope, w.Record); err != nil {
		if !errors.Is(err, store.ErrNone) {
			return nil, err
		}
		if unheard, err = a.peers.Request(ctx, w.Record); err != nil { // not_found when the caller may not see it either
			return nil, err
		}
	}
	slug, unfit, err := a.entitled(ctx, w.Record)
	if err != nil {
		return nil, err
	}
	if unheard != nil {
		return nil, notEligible(w.Record, domain.Status(unheard.GetStatus()), domain.NotReady, domain.ImportNotTerminal)
	}
	person, err := a.person(ctx)
	if err != nil {
		return nil, err
	}
	err = a.db.Write(ctx, scope, func(tx pgx.Tx) error {
		receipt, err = idempotency.Run(ctx, tx, w.Message, &releasev1.ReleaseApproved{}, func() (*releasev1.ReleaseApproved, error) {
			return a.grant(ctx, tx, scope, w, person, slug, unfit)
		})
		failpoint.Hit("release.before_commit_approve")
		return err
	})
	return receipt, err
}

// recall looks for the answer to an earlier call with the same idempotency key; errFresh when there is none.
func (a *App) recall(ctx context.Context, scope pg.Scope, w Wish) (*releasev1.ReleaseApproved, error) {
	var receipt *releasev1.ReleaseApproved
	err := a.db.Write(ctx, scope, func(tx pgx.Tx) (err error) {
		receipt, err = idempotency.Run(ctx, tx, w.Message, &releasev1.ReleaseApproved{}, func() (*releasev1.ReleaseApproved, error) {
			return nil, errFresh
		})
		return err
	})
	return receipt, err
}

// record loads a record of which intake has told; store.ErrNone otherwise.
func (a *App) record(ctx context.Context, scope pg.Scope, id uuid.UUID) (*domain.Record, error) {
	var r *domain.Record
	err := a.db.Read(ctx, scope, func(tx pgx.Tx) (err error) {
		r, err = store.Record(ctx, tx, scope, id)
		return err
	})
	if err == nil && !r.Known() {
		err = store.ErrNone
	}
	return r, err
}

// entitled asks intake for the tenant's right to have the request released, and for the tenant's slug. A registration that is not in force is
// no matter of capability: it comes back as a blocker.
func (a *App) entitled(ctx context.Context, id uuid.UUID) (slug string, unfit domain.Blocker, err error) {
	answer, err := a.peers.Entitlement(ctx, id)
	if peer.Missing(err) {
		return "", "", err
	}
	if err != nil {
		return "", "", fault.New(errorsv1.Reason_REASON_DEPENDENCY_UNAVAILABLE, "intake did not answer whether the tenant may release",
			fault.D("service", "intake"), fault.Cause(err))
	}
	if answer.GetAllowed() {
		return answer.GetTenantSlug(), "", nil
	}
	tenant := fault.D("tenant_id", answer.GetTenantId())
	switch answer.GetReason() {
	case fault.CodeOf(errorsv1.Reason_REASON_TENANT_DISABLED):
		return "", "", fault.New(errorsv1.Reason_REASON_TENANT_DISABLED, "the tenant is disabled", tenant)
	case string(domain.EprNotInForce):
		return answer.GetTenantSlug(), domain.EprNotInForce, nil
	}
	return "", "", fault.New(errorsv1.Reason_REASON_TENANT_CAPABILITY_NOT_ENTITLED, "the tenant may not have images released", tenant,
		fault.D("capability_key", "quarantine_release"))
}

// grant decides on the locked record and writes the promotion with the event.
func (a *App) grant(ctx context.Context, tx pgx.Tx, scope pg.Scope, w Wish, person uuid.UUID, slug string, unfit domain.Blocker) (*releasev1.ReleaseApproved, error) {
	r, err := store.Lock(ctx, tx, w.Record)
	if err != nil {
		return nil, missing("import request", err)
	}
	now := a.now()
	ok, reason := r.Releasable(now)
	if ok && unfit != "" {
		ok, reason = false, unfit
	}
	if promoting, err := store.IsPromoting(ctx, tx, r.ID); err != nil {
		return nil, err
	} else if !ok || promoting {
		return nil, notEligible(r.ID, r.Facts.Status(), r.State, reason)
	}
	if !r.MayRelease(person) {
		return nil, fault.New(errorsv1.Reason_REASON_SELF_APPROVAL_FORBIDDEN, "whoever requested an image does not release it")
	}
	judged := r.Facts.Judged
	if w.EvidenceHash != "" && w.EvidenceHash != judged.EvidenceHash || w.PolicyHash != "" && w.PolicyHash != judged.PolicyHash {
		return nil, fault.New(errorsv1.Reason_REASON_APPROVAL_LAPSED, "the evidence or the policy is no longer what was shown",
			fault.D("evidence_hash", judged.EvidenceHash), fault.D("policy_hash", judged.PolicyHash))
	}
	place, err := a.place(ctx, tx, scope, r, slug, w.Destination)
	if err != nil {
		return nil, err
	}
	p := store.Promotion{
		Tenant: r.Tenant, Record: r.ID, Destination: place.String(), Digest: r.Facts.Asked.Digest, Actor: person.String(), Reason: w.Reason,
		EvidenceHash: judged.EvidenceHash, PolicyHash: judged.PolicyHash, CreatedAt: now,
	}
	if p.ID, err = uuid.NewV7(); err != nil {
		return nil, fmt.Errorf("release id: %w", err)
	}
	return a.approve(ctx, tx, r, p)
}

// place is where the image goes, within the rules and not there already.
func (a *App) place(ctx context.Context, tx pgx.Tx, scope pg.Scope, r *domain.Record, slug, named string) (oci.Reference, error) {
	place, err := Place(a.trusted, slug, *r.Facts.Asked, named)
	if errors.Is(err, ErrNotAllowed) {
		return place, fault.New(errorsv1.Reason_REASON_DESTINATION_NOT_ALLOWED, err.Error(), fault.D("destination_image_ref", place.String()),
			fault.D("allowed_prefix", a.trusted+"/"+slug+"/"))
	}
	if err != nil {
		return place, fault.Fields().Add("destination_image_ref", err.Error()).Err()
	}
	there, err := store.AtTag(ctx, tx, scope, place.String())
	if err == nil && there.Digest == r.Facts.Asked.Digest {
		return place, fault.New(errorsv1.Reason_REASON_ALREADY_RELEASED, "this image already is there", fault.D("release_id", there.Release),
			fault.D("destination_image_ref", there.Destination))
	}
	if err != nil && !errors.Is(err, store.ErrNone) {
		return place, err
	}
	return place, nil
}

func (a *App) approve(ctx context.Context, tx pgx.Tx, r *domain.Record, p store.Promotion) (*releasev1.ReleaseApproved, error) {
	book := newLedger()
	book.touch(r)
	step, err := r.Grant(p.CreatedAt)
	if err != nil {
		return nil, err
	}
	if err := store.AddPromotion(ctx, tx, p); err != nil {
		return nil, err
	}
	told := &releasev1.ReleaseApproved{
		ImportId: r.ID.String(), TenantId: r.Tenant.String(), ReleaseId: p.ID.String(), Digest: p.Digest, DestinationImageRef: p.Destination,
		ReleasedBy: p.Actor, EvidenceHash: p.EvidenceHash, PolicyHash: p.PolicyHash, ApprovedAt: timestamppb.New(p.CreatedAt),
		RequestedBy: r.Facts.Asked.Requester, SourceImageRef: r.Facts.Asked.SourceRef,
	}
	if err := book.tell(ctx, r, step, told, "user:"+p.Actor, p.Reason); err != nil {
		return nil, err
	}
	return told, book.save(ctx, tx)
}

func notEligible(id uuid.UUID, status domain.Status, state domain.State, reason domain.Blocker) error {
	text := reason.Text()
	switch {
	case state == domain.Approved || state == domain.Released && reason == "":
		text = "a promotion is on its way"
	case state == domain.Recalled:
		text = "the release was recalled; ask for the image again"
	}
	return fault.New(errorsv1.Reason_REASON_RELEASE_NOT_ELIGIBLE, "the image may not be released: "+text, fault.D("import_id", id),
		fault.D("import_status", string(status)), fault.D("release_state", string(state)), fault.D("release_blocker_reason", string(reason)))
}
