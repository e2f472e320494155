package app

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"google.golang.org/protobuf/types/known/timestamppb"

	evidencev1 "github.com/pratique-io/pratique/gen/pratique/evidence/v1"
	intakev1 "github.com/pratique-io/pratique/gen/pratique/intake/v1"
	releasev1 "github.com/pratique-io/pratique/gen/pratique/release/v1"
	"github.com/pratique-io/pratique/internal/pg"
	"github.com/pratique-io/pratique/services/release/internal/domain"
	"github.com/pratique-io/pratique/services/release/internal/peer"
	"github.com/pratique-io/pratique/services/release/internal/store"
)

// Job is a claimed promotion with where its bytes are, when they already are in the trusted registry.
type Job struct {
	store.Promotion
	From *domain.Artifact // nil: the quarantine copy
}

// Claim leases the promotion that is due for longest; false when none is.
func (a *App) Claim(ctx context.Context, term time.Duration) (Job, bool, error) {
	var job Job
	if due, err := store.AnyDue(ctx, a.db, a.now()); err != nil || !due {
		return job, false, err
	}
	err := a.db.Work(ctx, func(tx pgx.Tx) error {
		now := a.now()
		var err error
		if job.Promotion, err = store.Claim(ctx, tx, now, now.Add(term)); err != nil {
			return err
		}
		there, err := store.OfRecord(ctx, tx, job.Record)
		if err == nil && there.Digest == job.Digest {
			job.From = &there
		}
		if errors.Is(err, store.ErrNone) {
			err = nil
		}
		return err
	})
	if errors.Is(err, store.ErrNone) {
		return Job{}, false, nil
	}
	return job, err == nil, err
}

// Refusal is an owner's no: the promotion ends.
type Refusal struct{ Why string }

// Error implements error.
func (r *Refusal) Error() string { return r.Why }

// Leave is an owner's yes, as of now.
type Leave struct {
	ValidUntil *time.Time
	Referrers  []string
}

// Ask asks the owners whether the promotion may go on: evidence for its decision, intake for the entitlement, and our own facts. A *Refusal is
// final; any other error means that somebody could not answer.
func (a *App) Ask(ctx context.Context, job Job) (Leave, error) {
	decision, err := a.peers.Decision(ctx, job.Record)
	if peer.Missing(err) {
		return Leave{}, &Refusal{Why: "evidence knows no decision about this image"}
	}
	if err != nil {
		return Leave{}, err
	}
	entitlement, err := a.peers.Entitlement(ctx, job.Record)
	if peer.Missing(err) {
		return Leave{}, &Refusal{Why: "intake does not know this request"}
	}
	if err != nil {
		return Leave{}, err
	}
	var r *domain.Record
	if err := a.db.Read(ctx, pg.OneTenant(job.Tenant), func(tx pgx.Tx) (err error) {
		r, err = store.Record(ctx, tx, pg.OneTenant(job.Tenant), job.Record)
		return err
	}); err != nil {
		return Leave{}, err
	}
	now := a.now()
	if why := objection(job, decision, entitlement, now); why != "" {
		return Leave{}, &Refusal{Why: why}
	}
	if ok, reason := r.Standing(now, job.From != nil); !ok {
		return Leave{}, &Refusal{Why: string(reason) + ": " + reason.Text()}
	}
	leave := Leave{Referrers: decision.GetReferrers()}
	if decision.GetValidUntil().IsValid() {
		at := decision.GetValidUntil().AsTime().Truncate(time.Microsecond)
		leave.ValidUntil = &at
	}
	return leave, nil
}

// objection says what in the owners' answers is against the promotion; empty when nothing is. What was decided on must still be what is.
func objection(job Job, d *evidencev1.CurrentDecision, e *intakev1.Entitlement, now time.Time) string {
	switch {
	case !e.GetAllowed():
		reason := e.GetReason()
		if reason == "" {
			reason = "not entitled"
		}
		return "intake says: " + reason
	case e.GetTenantId() != job.Tenant.String():
		return "intake says: the request is another tenant's"
	case !strings.HasPrefix(job.Destination[strings.IndexByte(job.Destination, '/')+1:], e.GetTenantSlug()+"/"):
		return "the tenant's place in the trusted registry is another one now"
	case d.GetDecision() != domain.Pass:
		return "evidence says: the decision is " + d.GetDecision()
	case d.GetDigest() != job.Digest:
		return "evidence says: the decision is about another digest"
	case !d.GetFresh(), d.GetValidUntil().IsValid() && !now.Before(d.GetValidUntil().AsTime()):
		return "evidence says: it is stale"
	case d.GetEvidenceHash() != job.EvidenceHash, d.GetPolicyHash() != job.PolicyHash:
		return "approval_lapsed: the evidence or the policy is no longer what the release was decided on"
	}
	return ""
}

// Begin notes that bytes are about to be written. Like all that follows it fails with store.ErrMoved when the lease went to somebody else.
func (a *App) Begin(ctx context.Context, job Job) error {
	return a.db.Work(ctx, func(tx pgx.Tx) error { return store.Begin(ctx, tx, job.Promotion) })
}

// Renew prolongs the lease and answers its new end.
func (a *App) Renew(ctx context.Context, job Job, term time.Duration) (time.Time, error) {
	until := a.now().Add(term)
	return until, a.db.Work(ctx, func(tx pgx.Tx) error { return store.Renew(ctx, tx, job.Promotion, until) })
}

// NotePrevious keeps what the tag names before it moves.
func (a *App) NotePrevious(ctx context.Context, job Job, digest string) error {
	return a.db.Work(ctx, func(tx pgx.Tx) error { return store.NotePrevious(ctx, tx, job.Promotion, digest) })
}

// Postpone gives the promotion back for now.
func (a *App) Postpone(ctx context.Context, job Job, wait time.Duration, d store.Delay) error {
	d.Until = a.now().Add(wait)
	return a.db.Work(ctx, func(tx pgx.Tx) error { return store.Postpone(ctx, tx, job.Promotion, d) })
}

// Publish records that the digest is at its destination: promotion, artifact, record and event in one transaction.
func (a *App) Publish(ctx context.Context, job Job, leave Leave, previous string) error {
	return a.db.Work(ctx, func(tx pgx.Tx) error {
		now := a.now()
		r, err := store.Lock(ctx, tx, job.Record)
		if err != nil {
			return err
		}
		if err := store.Finish(ctx, tx, job.Promotion, "released", "", now); err != nil {
			return err
		}
		repository := job.Destination[:strings.LastIndexByte(job.Destination, ':')]
		artifact := domain.Artifact{
			Tenant: job.Tenant, Record: job.Record, Release: job.ID, SourceRegistry: r.Facts.Asked.SourceRegistry,
			SourceRef: r.Facts.Asked.SourceRef, Digest: job.Digest, Destination: job.Destination, Repository: repository,
			TrustedRef: repository + "@" + job.Digest, ReleasedAt: now, ReleasedBy: job.Actor, ValidUntil: leave.ValidUntil,
			PreviousDigest: previous,
		}
		if artifact.ID, err = uuid.NewV7(); err != nil {
			return fmt.Errorf("artifact id: %w", err)
		}
		if _, err := store.Place(ctx, tx, artifact, sourceOf(r)); err != nil {
			return err
		}
		book := newLedger()
		book.touch(r)
		step, err := r.Published(now)
		if err != nil {
			return err
		}
		told := &releasev1.ImageReleased{
			ImportId: r.ID.String(), TenantId: r.Tenant.String(), ReleaseId: job.ID.String(), Digest: job.Digest,
			DestinationImageRef: job.Destination, TrustedRef: artifact.TrustedRef, ReleasedBy: job.Actor, ReleasedAt: timestamppb.New(now),
			ValidUntil: stamp(leave.ValidUntil), RequestedBy: r.Facts.Asked.Requester, SourceImageRef: r.Facts.Asked.SourceRef,
		}
		if previous != "" {
			told.PreviousDigest = &previous
		}
		if err := book.tell(ctx, r, step, told, self, job.Reason); err != nil {
			return err
		}
		return book.save(ctx, tx)
	})
}

// Fail records that the promotion came to nothing.
func (a *App) Fail(ctx context.Context, job Job, as domain.Blocker, why string) error {
	return a.db.Work(ctx, func(tx pgx.Tx) error {
		now := a.now()
		r, err := store.Lock(ctx, tx, job.Record)
		if err != nil {
			return err
		}
		if err := store.Finish(ctx, tx, job.Promotion, "failed", why, now); err != nil {
			return err
		}
		book := newLedger()
		book.touch(r)
		steps, err := r.Unpublished(as, now)
		if err != nil {
			return err
		}
		told := &releasev1.ReleaseFailed{
			ImportId: r.ID.String(), TenantId: r.Tenant.String(), ReleaseId: job.ID.String(), Digest: job.Digest,
			DestinationImageRef: job.Destination, ReleasedBy: job.Actor, BlockerReason: string(as), Error: why, FailedAt: timestamppb.New(now),
			RequestedBy: r.Facts.Asked.Requester, SourceImageRef: r.Facts.Asked.SourceRef,
		}
		if err := book.tell(ctx, r, steps[0], told, self, why); err != nil {
			return err
		}
		for _, step := range steps[1:] {
			if err := tellSettled(ctx, book, r, step); err != nil {
				return err
			}
		}
		return book.save(ctx, tx)
	})
}
