package directory

import (
	"context"
	"fmt"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	intakev1 "github.com/pratique-io/pratique/gen/pratique/intake/v1"
	"github.com/pratique-io/pratique/internal/bus"
	"github.com/pratique-io/pratique/internal/event"
)

const (
	tenantChanged  = "pratique.intake.v1.TenantChanged"
	personChanged  = "pratique.intake.v1.PersonChanged"
	bindingChanged = "pratique.intake.v1.RoleBindingChanged"

	older = "older_than_known"
)

// Subscription keeps the copy in step with intake; every service has one.
func Subscription() bus.Subscription {
	return bus.Subscription{
		Purpose: "directory",
		Types:   []string{tenantChanged, personChanged, bindingChanged},
		Handle:  apply,
	}
}

func apply(ctx context.Context, tx pgx.Tx, e event.Envelope) error {
	switch e.Type {
	case tenantChanged:
		return applyTenant(ctx, tx, e)
	case personChanged:
		return applyPerson(ctx, tx, e)
	case bindingChanged:
		return applyBinding(ctx, tx, e)
	}
	return bus.Discard("not_directory")
}

const upsertTenant = `
insert into directory_tenant (tenant_id, slug, name, status, sequence)
values (@tenant, @slug, @name, @status, @sequence)
on conflict (tenant_id) do update
set slug = excluded.slug, name = excluded.name, status = excluded.status, sequence = excluded.sequence
where directory_tenant.sequence < excluded.sequence`

func applyTenant(ctx context.Context, tx pgx.Tx, e event.Envelope) error {
	var m intakev1.TenantChanged
	if err := e.Decode(&m); err != nil {
		return bus.Poison(err)
	}
	id, err := uuid.Parse(m.GetTenantId())
	if err != nil {
		return bus.Poison(fmt.Errorf("tenant id: %w", err))
	}
	if m.GetStatus() != statusActive && m.GetStatus() != statusDisabled {
		return bus.Poison(fmt.Errorf("tenant status %q is not known", m.GetStatus()))
	}
	return upsert(ctx, tx, upsertTenant, pgx.NamedArgs{
		"tenant": id, "slug": m.GetSlug(), "name": m.GetName(), "status": m.GetStatus(), "sequence": e.Sequence,
	})
}

const upsertPerson = `
insert into directory_person (person_id, subject, name, email, groups, sequence)
values (@person, @subject, @name, @email, @groups, @sequence)
on conflict (person_id) do update
set subject = excluded.subject, name = excluded.name, email = excluded.email, groups = excluded.groups, sequence = excluded.sequence
where directory_person.sequence < excluded.sequence`

func applyPerson(ctx context.Context, tx pgx.Tx, e event.Envelope) error {
	var m intakev1.PersonChanged
	if err := e.Decode(&m); err != nil {
		return bus.Poison(err)
	}
	id, err := uuid.Parse(m.GetPersonId())
	if err != nil {
		return bus.Poison(fmt.Errorf("person id: %w", err))
	}
	if m.GetSubject() == "" {
		return bus.Poison(fmt.Errorf("person %s has no subject", id))
	}
	groups := m.GetGroups()
	if groups == nil {
		groups = []string{}
	}
	return upsert(ctx, tx, upsertPerson, pgx.NamedArgs{
		"person": id, "subject": m.GetSubject(), "name": m.GetName(), "email": m.GetEmail(), "groups": groups, "sequence": e.Sequence,
	})
}

const upsertBinding = `
insert into directory_binding (binding_id, subject, group_name, role, tenant_id, active, sequence)
values (@binding, @subject, @group, @role, @tenant, @active, @sequence)
on conflict (binding_id) do update
set subject = excluded.subject, group_name = excluded.group_name, role = excluded.role, tenant_id = excluded.tenant_id,
    active = excluded.active, sequence = excluded.sequence
where directory_binding.sequence < excluded.sequence`

func applyBinding(ctx context.Context, tx pgx.Tx, e event.Envelope) error {
	var m intakev1.RoleBindingChanged
	if err := e.Decode(&m); err != nil {
		return bus.Poison(err)
	}
	args, err := bindingArgs(&m, e.Sequence)
	if err != nil {
		return bus.Poison(err)
	}
	return upsert(ctx, tx, upsertBinding, args)
}

func upsert(ctx context.Context, tx pgx.Tx, sql string, args pgx.NamedArgs) error {
	tag, err := tx.Exec(ctx, sql, args)
	if err != nil {
		return fmt.Errorf("project directory event: %w", err)
	}
	if tag.RowsAffected() == 0 {
		return bus.Discard(older)
	}
	return nil
}
