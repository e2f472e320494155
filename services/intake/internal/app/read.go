package app

import (
	"context"
	"slices"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	errorsv1 "github.com/pratique-io/pratique/gen/pratique/errors/v1"
	rpcv1 "github.com/pratique-io/pratique/gen/pratique/rpc/v1"
	"github.com/pratique-io/pratique/internal/auth"
	"github.com/pratique-io/pratique/internal/fault"
	"github.com/pratique-io/pratique/internal/page"
	"github.com/pratique-io/pratique/internal/pg"
	"github.com/pratique-io/pratique/services/intake/internal/domain"
	"github.com/pratique-io/pratique/services/intake/internal/store"
)

// Request reads one request that the caller may see; not_found otherwise.
func (a *App) Request(ctx context.Context, id uuid.UUID) (*domain.Request, error) {
	scope := auth.From(ctx).Scope()
	var out *domain.Request
	err := a.db.Read(ctx, scope, func(tx pgx.Tx) error {
		var err error
		out, err = store.Request(ctx, tx, scope, id)
		return missing("request", err)
	})
	return out, err
}

// Requests reads one page. tenant narrows a system role's list and must be a tenant caller's own.
func (a *App) Requests(ctx context.Context, q store.RequestFilter, req page.Request) ([]*domain.Request, *rpcv1.Pagination, error) {
	caller := auth.From(ctx)
	tenant, err := listTenant(caller, q.Tenant)
	if err != nil {
		return nil, nil, err
	}
	q.Tenant = tenant
	var rows []*domain.Request
	var pagination *rpcv1.Pagination
	err = a.db.Read(ctx, caller.Scope(), func(tx pgx.Tx) error {
		found, total, err := store.Requests(ctx, tx, q, req)
		if err != nil {
			return err
		}
		var last *page.Key
		var more bool
		rows, last, more = page.Cut(req, found, func(r *domain.Request) page.Key { return page.Key{At: r.CreatedAt, ID: r.ID} })
		pagination = page.Result(req, total, false, last, more)
		return nil
	})
	return rows, pagination, err
}

// listTenant is the tenant a list is limited to; Nil for all of a system role's.
func listTenant(caller auth.Caller, asked uuid.UUID) (uuid.UUID, error) {
	if caller.Scope().All {
		return asked, nil
	}
	if asked != uuid.Nil && asked != caller.Tenant {
		return uuid.Nil, fault.New(errorsv1.Reason_REASON_TENANT_CONTEXT_MISMATCH, "lists of other tenants are for system roles")
	}
	return caller.Tenant, nil
}

// Timeline reads one page of a request's trail, oldest first.
func (a *App) Timeline(ctx context.Context, id uuid.UUID, req page.Request) ([]store.Line, *rpcv1.Pagination, error) {
	scope := auth.From(ctx).Scope()
	var rows []store.Line
	var pagination *rpcv1.Pagination
	err := a.db.Read(ctx, scope, func(tx pgx.Tx) error {
		if _, err := store.Request(ctx, tx, scope, id); err != nil {
			return missing("request", err)
		}
		found, total, err := store.Lines(ctx, tx, id, req)
		if err != nil {
			return err
		}
		var last *page.Key
		var more bool
		rows, last, more = page.Cut(req, found, func(l store.Line) page.Key { return page.Key{At: l.At, ID: l.Event} })
		pagination = page.Result(req, total, false, last, more)
		return nil
	})
	return rows, pagination, err
}

// Epr reads one registration that the caller may see; not_found otherwise.
func (a *App) Epr(ctx context.Context, id uuid.UUID) (*domain.Registration, error) {
	scope := auth.From(ctx).Scope()
	var out *domain.Registration
	err := a.db.Read(ctx, scope, func(tx pgx.Tx) error {
		var err error
		out, err = store.Epr(ctx, tx, scope, id)
		return missing("registration", err)
	})
	return out, err
}

// Eprs reads one page of registrations.
func (a *App) Eprs(ctx context.Context, q store.EprFilter, req page.Request) ([]*domain.Registration, *rpcv1.Pagination, error) {
	caller := auth.From(ctx)
	tenant, err := listTenant(caller, q.Tenant)
	if err != nil {
		return nil, nil, err
	}
	q.Tenant, q.Now, q.Window = tenant, a.now(), a.set.EprWindow
	var rows []*domain.Registration
	var pagination *rpcv1.Pagination
	err = a.db.Read(ctx, caller.Scope(), func(tx pgx.Tx) error {
		found, total, err := store.Eprs(ctx, tx, q, req)
		if err != nil {
			return err
		}
		var last *page.Key
		var more bool
		rows, last, more = page.Cut(req, found, func(r *domain.Registration) page.Key { return page.Key{At: r.CreatedAt, ID: r.ID} })
		pagination = page.Result(req, total, false, last, more)
		return nil
	})
	return rows, pagination, err
}

// Self is the caller as Pratique knows them.
type Self struct {
	Caller   auth.Caller
	Tenants  []store.Tenant // of the caller's roles
	Selected uuid.UUID      // the tenant this call acts for, or the only one; Nil otherwise
	Document store.Document // what holds for the selected tenant
}

// Me makes the caller known and says who they are.
func (a *App) Me(ctx context.Context) (Self, error) {
	ctx, caller, err := a.know(ctx)
	if err != nil {
		return Self{}, err
	}
	out := Self{Caller: caller, Selected: caller.Tenant}
	ids := make([]uuid.UUID, 0, len(caller.Tenants))
	for id := range caller.Tenants {
		ids = append(ids, id)
	}
	if out.Selected == uuid.Nil && len(ids) == 1 {
		out.Selected = ids[0]
	}
	if out.Selected != uuid.Nil && !slices.Contains(ids, out.Selected) && !caller.Scope().All {
		out.Selected = uuid.Nil
	}
	// All tenants, because somebody may have several; only those of their own roles are read.
	err = a.db.Read(ctx, pg.AllTenants(), func(tx pgx.Tx) error {
		if out.Tenants, err = store.Tenants(ctx, tx, ids); err != nil {
			return err
		}
		if out.Selected == uuid.Nil {
			return nil
		}
		out.Document, err = store.EffectiveDocument(ctx, tx, out.Selected)
		return err
	})
	return out, err
}
