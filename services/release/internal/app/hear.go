package app

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"google.golang.org/protobuf/types/known/timestamppb"

	releasev1 "github.com/pratique-io/pratique/gen/pratique/release/v1"
	"github.com/pratique-io/pratique/internal/event"
	"github.com/pratique-io/pratique/services/release/internal/domain"
	"github.com/pratique-io/pratique/services/release/internal/store"
)

// ErrKnown is a fact that was known, or an older one.
var ErrKnown = errors.New("nothing new")

// ErrForeign is a fact about a request of one tenant that claims another.
var ErrForeign = errors.New("the event's tenant is not the request's")

// Heard is an event of another service: the facts it holds about one request.
type Heard struct {
	Record, Tenant uuid.UUID
	Facts          []any
	Cause          event.Envelope
}

// Hear folds a batch in, any order and any number of times, and takes the steps that follow. It answers one outcome per fact; an error of the
// database is the outcome of all.
func (a *App) Hear(ctx context.Context, tx pgx.Tx, batch []Heard) []error {
	out := make([]error, len(batch))
	if err := a.hear(ctx, tx, batch, out); err != nil {
		for i := range out {
			out[i] = err
		}
	}
	return out
}

func (a *App) hear(ctx context.Context, tx pgx.Tx, batch []Heard, out []error) error {
	now := a.now()
	tenants := make(map[uuid.UUID]uuid.UUID, len(batch))
	for _, h := range batch {
		if _, ok := tenants[h.Record]; !ok {
			tenants[h.Record] = h.Tenant
		}
	}
	if err := store.Ensure(ctx, tx, tenants, now); err != nil {
		return err
	}
	ids := make([]uuid.UUID, 0, len(tenants))
	for id := range tenants {
		ids = append(ids, id)
	}
	records, err := store.LockAll(ctx, tx, ids)
	if err != nil {
		return err
	}
	book, until := newLedger(), map[uuid.UUID]*time.Time{}
	for i, h := range batch {
		r := records[h.Record]
		if r == nil {
			return fmt.Errorf("release record %s is not there", h.Record)
		}
		if r.Tenant != h.Tenant {
			out[i] = ErrForeign
			continue
		}
		if out[i], err = a.fold(event.WithCause(ctx, h.Cause), book, r, h.Facts, now); err != nil {
			return err
		}
		if out[i] == nil && renews(r, h.Facts) {
			until[r.ID] = r.Facts.Judged.ValidUntil
		}
	}
	if err := store.Extend(ctx, tx, until); err != nil {
		return err
	}
	return book.save(ctx, tx)
}

// renews says whether a passing judgement of what was released has come.
func renews(r *domain.Record, facts []any) bool {
	judged := r.Facts.Judged
	for _, fact := range facts {
		if _, ok := fact.(domain.Judged); ok {
			return r.State == domain.Released && judged.Decision == domain.Pass && judged.Digest == r.Facts.Asked.Digest
		}
	}
	return false
}

// fold learns the facts of one event and tells what follows from them.
func (a *App) fold(ctx context.Context, book *ledger, r *domain.Record, facts []any, now time.Time) (outcome, err error) {
	book.touch(r)
	outcome = ErrKnown
	for _, fact := range facts {
		if !r.Facts.Learn(fact) {
			continue
		}
		outcome, r.UpdatedAt = nil, now
		if removed, ok := fact.(domain.Removed); ok {
			if err := a.tellDeleted(ctx, book, r, removed, now); err != nil {
				return nil, err
			}
		}
	}
	if outcome != nil {
		return outcome, nil
	}
	if step, moved := r.Settle(now); moved {
		err = tellSettled(ctx, book, r, step)
	}
	return outcome, err
}

func (a *App) tellDeleted(ctx context.Context, book *ledger, r *domain.Record, removed domain.Removed, now time.Time) error {
	step, err := r.Noted(now)
	if err != nil {
		return err
	}
	return book.tell(ctx, r, step, &releasev1.QuarantineCopyDeleted{
		ImportId: r.ID.String(), TenantId: r.Tenant.String(), Digest: removed.Digest, Reason: removed.Reason,
	}, self, removed.Reason)
}

// tellSettled tells a step of eligibility.
func tellSettled(ctx context.Context, book *ledger, r *domain.Record, step domain.Step) error {
	asked := r.Facts.Asked
	if step.Verb == domain.Open {
		judged := r.Facts.Judged
		return book.tell(ctx, r, step, &releasev1.ReleaseReady{
			ImportId: r.ID.String(), TenantId: r.Tenant.String(), Digest: asked.Digest, EvidenceHash: judged.EvidenceHash,
			PolicyHash: judged.PolicyHash, ReadyAt: timestamppb.New(step.At), ValidUntil: stamp(judged.ValidUntil),
			RequestedBy: asked.Requester, SourceImageRef: asked.SourceRef,
		}, self, "")
	}
	return book.tell(ctx, r, step, &releasev1.ReleaseBlocked{
		ImportId: r.ID.String(), TenantId: r.Tenant.String(), Digest: asked.Digest, BlockerReason: string(step.Blocker),
		Message: step.Blocker.Text(),
	}, self, step.Blocker.Text())
}

func stamp(t *time.Time) *timestamppb.Timestamp {
	if t == nil {
		return nil
	}
	return timestamppb.New(*t)
}

const expireBatch = 100

// Expire blocks what is ready on evidence that has run out by the clock. It says whether it found any.
func (a *App) Expire(ctx context.Context) (bool, error) {
	if due, err := store.AnyExpired(ctx, a.db, a.now()); err != nil || !due {
		return false, err
	}
	found := false
	err := a.db.Work(ctx, func(tx pgx.Tx) error {
		now := a.now()
		list, err := store.LockExpired(ctx, tx, now, expireBatch)
		if err != nil {
			return err
		}
		book := newLedger()
		for _, r := range list {
			book.touch(r)
			if step, moved := r.Settle(now); moved {
				found = true
				if err := tellSettled(ctx, book, r, step); err != nil {
					return err
				}
			}
		}
		return book.save(ctx, tx)
	})
	return found && err == nil, err
}
