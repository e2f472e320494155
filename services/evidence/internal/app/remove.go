package app

import (
	"context"
	"errors"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"google.golang.org/protobuf/types/known/timestamppb"

	evidencev1 "github.com/pratique-io/pratique/gen/pratique/evidence/v1"
	"github.com/pratique-io/pratique/internal/failpoint"
	"github.com/pratique-io/pratique/internal/lease"
	"github.com/pratique-io/pratique/internal/outbox"
	"github.com/pratique-io/pratique/services/evidence/internal/domain"
	"github.com/pratique-io/pratique/services/evidence/internal/store"
)

// Remove takes one condemned copy and deletes all of it.
func (a *App) Remove(ctx context.Context) (didWork bool, err error) {
	var c *domain.Copy
	var term lease.Term
	err = a.DB.Work(ctx, func(tx pgx.Tx) (err error) {
		now := a.now()
		c, term, err = store.LeaseCopy(ctx, tx, now, now.Add(a.Lease))
		return err
	})
	if errors.Is(err, store.ErrNone) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	working, stop := a.keep(ctx, func(ctx context.Context, until time.Time) error {
		return store.RenewCopy(ctx, a.DB.WorkerPool(), c.ID, term.Token, until)
	})
	found, err := a.erase(working, c, term.Token)
	stop()
	switch {
	case err == nil:
		failpoint.Hit("evidence.after_remove")
		err = a.removed(ctx, c, term.Token, found)
	case ctx.Err() != nil:
		giveBack(ctx, func(ctx context.Context) error { return store.ReleaseCopy(ctx, a.DB.WorkerPool(), c.ID, term.Token) })
		return true, ctx.Err()
	case !errors.Is(err, store.ErrLost):
		a.Log.WarnContext(ctx, "quarantine copy could not be removed, trying again", "tenant_id", c.Tenant, "request_id", c.ID, "err", err)
		cause := brief(err)
		err = a.DB.Work(ctx, func(tx pgx.Tx) error {
			return store.PostponeCopy(ctx, tx, c.ID, term.Token, a.now(), cause)
		})
	}
	if errors.Is(err, store.ErrLost) { // condemned again, or in other hands
		return true, nil
	}
	return true, err
}

// erase writes down what is there before it deletes any of it, since the second half could not be named without the first.
func (a *App) erase(ctx context.Context, c *domain.Copy, token int64) (found bool, err error) {
	inventory, err := a.Quarantine.Survey(ctx, c.Repository, c.Inventory)
	if err != nil {
		return false, err
	}
	if len(inventory.Manifests) == 0 && len(inventory.Blobs) == 0 {
		return false, nil
	}
	err = a.DB.Work(ctx, func(tx pgx.Tx) error { return store.KeepInventory(ctx, tx, c.ID, token, inventory) })
	if err != nil {
		return false, err
	}
	return true, a.Quarantine.Erase(ctx, c.Repository, inventory)
}

// removed records that the copy is gone. It is said once, and again only when a late run had left something more.
func (a *App) removed(ctx context.Context, c *domain.Copy, token int64, found bool) error {
	return a.DB.Work(ctx, func(tx pgx.Tx) error {
		now := a.now()
		b, err := store.LockBundle(ctx, tx, c.ID) // bundle before copy, as everywhere
		if err != nil {
			return err
		}
		to, err := domain.NextCopy(c.State, domain.Erase)
		if err != nil {
			return err
		}
		c.State = to
		tell := found || !c.Told
		if err := store.RemoveCopy(ctx, tx, c, token, tell, now); err != nil || !tell {
			return err
		}
		move, err := b.Move(domain.RemoveCopy, actor, c.Reason, now)
		if err != nil {
			return err
		}
		e, err := say(ctx, b, &move, &evidencev1.QuarantineCopyRemoved{ImportId: c.ID.String(), TenantId: c.Tenant.String(), Digest: c.Digest,
			Repository: a.Quarantine.Host() + "/" + c.Repository, Reason: c.Reason})
		if err != nil {
			return err
		}
		if err := store.SaveBundle(ctx, tx, b, uuid.Nil, move); err != nil {
			return err
		}
		return outbox.Append(ctx, tx, e)
	})
}

// sweep is how many rows the clock moves in one transaction.
const sweep = 50

// Expire lets judged evidence become stale by the clock, and condemns copies that were kept long enough.
func (a *App) Expire(ctx context.Context) (didWork bool, err error) {
	err = a.DB.Work(ctx, func(tx pgx.Tx) error {
		expired, err := store.ExpiredBundles(ctx, tx, a.now(), sweep)
		if err != nil {
			return err
		}
		for _, id := range expired {
			if err := a.expire(ctx, tx, id); err != nil {
				return err
			}
		}
		retired, err := store.RetiredCopies(ctx, tx, a.now(), sweep)
		if err != nil {
			return err
		}
		for _, id := range retired {
			r, err := store.Request(ctx, tx, id)
			if err != nil {
				return err
			}
			if err := a.condemn(ctx, tx, r, domain.ReasonRetention); err != nil {
				return err
			}
		}
		didWork = len(expired)+len(retired) > 0
		return nil
	})
	return didWork, err
}

func (a *App) expire(ctx context.Context, tx pgx.Tx, id uuid.UUID) error {
	b, err := store.LockBundle(ctx, tx, id)
	if err != nil {
		return err
	}
	move, err := b.Move(domain.Expire, actor, "", a.now())
	if err != nil {
		return err
	}
	e, err := say(ctx, b, &move, &evidencev1.EvidenceStale{ImportId: b.ID.String(), TenantId: b.Tenant.String(), Digest: b.Digest,
		ExpiredAt: timestamppb.New(b.ExpiresAt)})
	if err != nil {
		return err
	}
	if err := store.SaveBundle(ctx, tx, b, uuid.Nil, move); err != nil {
		return err
	}
	return outbox.Append(ctx, tx, e)
}
