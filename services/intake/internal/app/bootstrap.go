package app

import (
	"context"
	"errors"
	"fmt"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"google.golang.org/protobuf/proto"

	intakev1 "github.com/pratique-io/pratique/gen/pratique/intake/v1"
	"github.com/pratique-io/pratique/internal/auth"
	"github.com/pratique-io/pratique/internal/event"
	"github.com/pratique-io/pratique/internal/outbox"
	"github.com/pratique-io/pratique/services/intake/internal/store"
)

// Founding is what an installation begins with.
type Founding struct {
	Tenants  []store.Tenant // id Nil: made
	Bindings []FoundingBinding
}

// FoundingBinding gives a person a role; TenantSlug is empty for system roles.
type FoundingBinding struct {
	Person     store.Person // subject, name, e-mail
	Role       auth.Role
	TenantSlug string
}

// Bootstrap makes what is missing and tells the directory of exactly that. It never changes what exists: what was made is its owner's.
func (a *App) Bootstrap(ctx context.Context, f Founding) error {
	return a.db.Work(ctx, func(tx pgx.Tx) error {
		if err := store.LockBootstrap(ctx, tx); err != nil {
			return err
		}
		for _, t := range f.Tenants {
			if err := a.foundTenant(ctx, tx, t); err != nil {
				return err
			}
		}
		for _, b := range f.Bindings {
			if err := a.foundBinding(ctx, tx, b); err != nil {
				return err
			}
		}
		return nil
	})
}

func (a *App) foundTenant(ctx context.Context, tx pgx.Tx, t store.Tenant) error {
	wanted := t.ID
	if t.ID == uuid.Nil {
		var err error
		if t.ID, err = newID(); err != nil {
			return err
		}
	}
	made, err := store.InsertTenant(ctx, tx, t, a.now())
	if err != nil {
		return err
	}
	if !made {
		stored, err := store.TenantBySlug(ctx, tx, t.Slug)
		if err == nil && wanted != uuid.Nil && stored.ID != wanted {
			err = fmt.Errorf("bootstrap: tenant %s exists with id %s, not %s", t.Slug, stored.ID, wanted)
		}
		return err
	}
	return tellSystem(ctx, tx, &intakev1.TenantChanged{
		TenantId: t.ID.String(), Slug: t.Slug, Name: t.Name, Status: store.TenantActive,
	}, event.Head{Subject: t.ID, Tenant: t.ID, Sequence: 1})
}

func (a *App) foundBinding(ctx context.Context, tx pgx.Tx, b FoundingBinding) error {
	row := store.Binding{Subject: b.Person.Subject, Role: string(b.Role)}
	if b.TenantSlug != "" {
		tenant, err := store.TenantBySlug(ctx, tx, b.TenantSlug)
		if errors.Is(err, store.ErrNone) {
			return fmt.Errorf("bootstrap: binding of %s names tenant %s, which does not exist", b.Person.Subject, b.TenantSlug)
		}
		if err != nil {
			return err
		}
		row.Tenant = tenant.ID
	}
	if _, err := ensurePerson(ctx, tx, b.Person, false, a.now()); err != nil {
		return err
	}
	var err error
	if row.ID, err = newID(); err != nil {
		return err
	}
	made, err := store.InsertBinding(ctx, tx, row, a.now())
	if err != nil || !made {
		return err
	}
	msg := &intakev1.RoleBindingChanged{BindingId: row.ID.String(), Subject: row.Subject, Role: row.Role}
	if row.Tenant != uuid.Nil {
		msg.TenantId = row.Tenant.String()
	}
	return tellSystem(ctx, tx, msg, event.Head{Subject: row.ID, Tenant: row.Tenant, Sequence: 1})
}

func tellSystem(ctx context.Context, tx pgx.Tx, msg proto.Message, head event.Head) error {
	head.Actor = system
	e, err := event.New(ctx, msg, head)
	if err != nil {
		return err
	}
	return outbox.Append(ctx, tx, e)
}
