package app

import (
	"context"
	"errors"
	"fmt"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"google.golang.org/protobuf/proto"

	errorsv1 "github.com/pratique-io/pratique/gen/pratique/errors/v1"
	releasev1 "github.com/pratique-io/pratique/gen/pratique/release/v1"
	rpcv1 "github.com/pratique-io/pratique/gen/pratique/rpc/v1"
	"github.com/pratique-io/pratique/internal/auth"
	"github.com/pratique-io/pratique/internal/fault"
	"github.com/pratique-io/pratique/internal/idempotency"
	"github.com/pratique-io/pratique/internal/page"
	"github.com/pratique-io/pratique/services/release/internal/domain"
	"github.com/pratique-io/pratique/services/release/internal/store"
)

// Use is somebody's word that they use an artifact.
type Use struct {
	Artifact                    uuid.UUID
	Project, Notes, Environment *string
	Message                     proto.Message // the call as it came, for the idempotency key
}

// Consume records a use of an artifact that is ready for it. answer renders the consumption.
func Consume[T proto.Message](ctx context.Context, a *App, u Use, out T, answer func(store.Consumption) T) (T, error) {
	person, err := a.person(ctx)
	if err != nil {
		return out, err
	}
	scope := auth.From(ctx).Scope()
	err = a.db.Write(ctx, scope, func(tx pgx.Tx) error {
		out, err = idempotency.Run(ctx, tx, u.Message, out, func() (T, error) {
			found, err := store.Artifact(ctx, tx, scope, u.Artifact)
			if err != nil {
				return out, missing("released artifact", err)
			}
			now := a.now()
			if usable, why := found.Usable(now); !usable {
				return out, fault.New(errorsv1.Reason_REASON_INVALID_LIFECYCLE_ACTION, "the image is not ready to be used",
					fault.D("consumption_blocker_reason", why))
			}
			c := store.Consumption{
				Tenant: found.Tenant, Artifact: found.ID, By: person.String(), Project: u.Project, Notes: u.Notes,
				Environment: u.Environment, CreatedAt: now,
			}
			if c.ID, err = uuid.NewV7(); err != nil {
				return out, fmt.Errorf("consumption id: %w", err)
			}
			if err := store.AddConsumption(ctx, tx, c); err != nil {
				return out, err
			}
			return answer(c), a.tellUse(ctx, tx, found, c, person, false)
		})
		return err
	})
	return out, err
}

// tellUse tells that a use began or ended, as one more version of the release record.
func (a *App) tellUse(ctx context.Context, tx pgx.Tx, of domain.Artifact, c store.Consumption, person uuid.UUID, ended bool) error {
	r, err := store.Lock(ctx, tx, of.Record)
	if err != nil {
		return err
	}
	book := newLedger()
	book.touch(r)
	step, err := r.Noted(a.now())
	if err != nil {
		return err
	}
	if err := book.tell(ctx, r, step, &releasev1.ReleaseConsumed{
		ImportId: r.ID.String(), TenantId: r.Tenant.String(), ArtifactId: of.ID.String(), ConsumptionId: c.ID.String(), ConsumedBy: c.By,
		Ended: ended,
	}, "user:"+person.String(), ""); err != nil {
		return err
	}
	return book.save(ctx, tx)
}

// EndUse ends a use of the caller's tenant.
func (a *App) EndUse(ctx context.Context, artifact, consumption uuid.UUID) error {
	person, err := a.person(ctx)
	if err != nil {
		return err
	}
	scope := auth.From(ctx).Scope()
	return a.db.Write(ctx, scope, func(tx pgx.Tx) error {
		found, err := store.Artifact(ctx, tx, scope, artifact)
		if err != nil {
			return missing("released artifact", err)
		}
		ended, err := store.EndConsumption(ctx, tx, scope, artifact, consumption, a.now())
		if errors.Is(err, store.ErrNone) {
			return missing("consumption", err)
		}
		if err != nil {
			return err
		}
		return a.tellUse(ctx, tx, found, ended, person, true)
	})
}

// Uses reads one page of an artifact's open uses, newest first.
func (a *App) Uses(ctx context.Context, artifact uuid.UUID, req page.Request) ([]store.Consumption, *rpcv1.Pagination, error) {
	scope := auth.From(ctx).Scope()
	var list []store.Consumption
	var pagination *rpcv1.Pagination
	err := a.db.Read(ctx, scope, func(tx pgx.Tx) error {
		if _, err := store.Artifact(ctx, tx, scope, artifact); err != nil {
			return missing("released artifact", err)
		}
		found, total, err := store.Consumptions(ctx, tx, scope, artifact, req)
		if err != nil {
			return err
		}
		var last *page.Key
		var more bool
		list, last, more = page.Cut(req, found, func(c store.Consumption) page.Key { return page.Key{At: c.CreatedAt, ID: c.ID} })
		pagination = page.Result(req, total, false, last, more)
		return nil
	})
	return list, pagination, err
}
