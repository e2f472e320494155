package directory

import (
	"context"
	"errors"
	"fmt"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/pratique-io/pratique/internal/auth"
	"github.com/pratique-io/pratique/internal/pg"
)

const selectTenantByID = `
select tenant_id, slug, name, status = 'disabled' from directory_tenant where tenant_id = @tenant`

// TenantByID finds a tenant; false when not heard of yet.
func TenantByID(ctx context.Context, tx pgx.Tx, id uuid.UUID) (Tenant, bool, error) {
	return oneTenant(ctx, tx, selectTenantByID, pgx.NamedArgs{"tenant": id})
}

const selectTenantBySlug = `
select tenant_id, slug, name, status = 'disabled' from directory_tenant where slug = @slug`

// TenantBySlug finds a tenant; false when not heard of yet, or when two hold the slug because one rename has not arrived.
func TenantBySlug(ctx context.Context, tx pgx.Tx, slug string) (Tenant, bool, error) {
	return oneTenant(ctx, tx, selectTenantBySlug, pgx.NamedArgs{"slug": slug})
}

func oneTenant(ctx context.Context, tx pgx.Tx, sql string, args pgx.NamedArgs) (Tenant, bool, error) {
	rows, err := tx.Query(ctx, sql, args)
	if err != nil {
		return Tenant{}, false, fmt.Errorf("find tenant: %w", err)
	}
	t, err := pgx.CollectExactlyOneRow(rows, pgx.RowToStructByPos[Tenant])
	if errors.Is(err, pgx.ErrNoRows) || errors.Is(err, pgx.ErrTooManyRows) {
		return Tenant{}, false, nil
	}
	if err != nil {
		return Tenant{}, false, fmt.Errorf("find tenant: %w", err)
	}
	return t, true, nil
}

// Tenant finds the tenant a system caller names, by id or slug; false when there is none. Part of auth.Directory.
func (r *Resolver) Tenant(ctx context.Context, ref auth.TenantRef) (id uuid.UUID, found bool, err error) {
	err = r.db.Read(ctx, pg.AllTenants(), func(tx pgx.Tx) error {
		var t Tenant
		if ref.ID != uuid.Nil {
			t, found, err = TenantByID(ctx, tx, ref.ID)
		} else {
			t, found, err = TenantBySlug(ctx, tx, ref.Slug)
		}
		id = t.ID
		return err
	})
	return id, found, err
}
