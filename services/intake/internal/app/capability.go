package app

import (
	"context"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	intakev1 "github.com/pratique-io/pratique/gen/pratique/intake/v1"
	"github.com/pratique-io/pratique/internal/auth"
	"github.com/pratique-io/pratique/internal/event"
	"github.com/pratique-io/pratique/internal/outbox"
	"github.com/pratique-io/pratique/internal/pg"
	"github.com/pratique-io/pratique/services/intake/internal/domain"
	"github.com/pratique-io/pratique/services/intake/internal/store"
)

// Document reads what an administrator sees: a tenant's effective document under the tenant's name, or (Nil) that of all tenants.
func (a *App) Document(ctx context.Context, tenant uuid.UUID) (store.Document, error) {
	var out store.Document
	err := a.db.Read(ctx, pg.AllTenants(), func(tx pgx.Tx) error {
		if err := tenantExists(ctx, tx, tenant); err != nil {
			return err
		}
		var err error
		if tenant == uuid.Nil {
			out, err = store.OwnDocument(ctx, tx, uuid.Nil)
		} else {
			out, err = store.EffectiveDocument(ctx, tx, tenant)
		}
		return err
	})
	return out, err
}

// EffectiveDocument is what holds for the caller's tenant.
func (a *App) EffectiveDocument(ctx context.Context, tenant uuid.UUID) (store.Document, error) {
	var out store.Document
	err := a.db.Read(ctx, pg.OneTenant(tenant), func(tx pgx.Tx) error {
		var err error
		out, err = store.EffectiveDocument(ctx, tx, tenant)
		return err
	})
	return out, err
}

func tenantExists(ctx context.Context, tx pgx.Tx, tenant uuid.UUID) error {
	if tenant == uuid.Nil {
		return nil
	}
	found, err := store.Tenants(ctx, tx, []uuid.UUID{tenant})
	if err == nil && len(found) == 0 {
		err = notFound("tenant")
	}
	return err
}

// PutDocument replaces a document (tenant Nil: that of all tenants). expected, when given, refuses a lost update.
func (a *App) PutDocument(ctx context.Context, tenant uuid.UUID, switches domain.Capabilities, reason string, expected *int32) (store.Document, error) {
	ctx, caller, err := a.know(ctx)
	if err != nil {
		return store.Document{}, err
	}
	id, err := newID()
	if err != nil {
		return store.Document{}, err
	}
	var out store.Document
	err = a.db.Write(ctx, pg.AllTenants(), func(tx pgx.Tx) error {
		if err := tenantExists(ctx, tx, tenant); err != nil {
			return err
		}
		out, err = store.PutDocument(ctx, tx, store.Document{
			ID: id, Tenant: tenant, Switches: switches, UpdatedAt: a.now(), UpdatedBy: caller.PersonID.String(),
		}, reason, expected)
		if err != nil {
			return err
		}
		return tellCapabilities(ctx, tx, out, reason, caller)
	})
	return out, err
}

func tellCapabilities(ctx context.Context, tx pgx.Tx, d store.Document, reason string, caller auth.Caller) error {
	msg := &intakev1.CapabilitiesChanged{
		Build: d.Switches.Build, QuarantineRequest: d.Switches.QuarantineRequest, QuarantineRelease: d.Switches.QuarantineRelease,
		OndemandImageScanning: d.Switches.OndemandScanning, Version: int32(min(d.Version, 1<<30)), ChangeReason: reason,
	}
	if d.Tenant != uuid.Nil {
		msg.TenantId = d.Tenant.String()
	}
	e, err := event.New(ctx, msg, event.Head{Subject: d.ID, Tenant: d.Tenant, Sequence: int64(d.Version), Actor: caller.Actor()})
	if err != nil {
		return err
	}
	return outbox.Append(ctx, tx, e)
}
