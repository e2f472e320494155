package store

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/pratique-io/pratique/internal/page"
	"github.com/pratique-io/pratique/internal/pg"
)

// Consumption says that somebody uses an artifact.
type Consumption struct {
	ID          uuid.UUID
	Tenant      uuid.UUID
	Artifact    uuid.UUID
	By          string // person id
	Project     *string
	Notes       *string
	Environment *string
	CreatedAt   time.Time
}

const consumptionColumns = `id, tenant_id, artifact_id, consumed_by, project_id, notes, environment, created_at`

func scanConsumption(row pgx.CollectableRow) (Consumption, error) {
	var c Consumption
	err := row.Scan(&c.ID, &c.Tenant, &c.Artifact, &c.By, &c.Project, &c.Notes, &c.Environment, &c.CreatedAt)
	return c, err
}

const insertConsumption = `
insert into consumption (id, tenant_id, artifact_id, consumed_by, project_id, notes, environment, created_at)
values (@id, @tenant, @artifact, @by, @project, @notes, @environment, @at)`

// AddConsumption keeps one.
func AddConsumption(ctx context.Context, tx pgx.Tx, c Consumption) error {
	_, err := tx.Exec(ctx, insertConsumption, pgx.NamedArgs{
		"id": c.ID, "tenant": c.Tenant, "artifact": c.Artifact, "by": c.By, "project": c.Project, "notes": c.Notes,
		"environment": c.Environment, "at": c.CreatedAt,
	})
	if err != nil {
		return fmt.Errorf("add consumption: %w", err)
	}
	return nil
}

const endConsumption = `
update consumption set ended_at = @at
where id = @id and artifact_id = @artifact and ended_at is null and (@tenant::uuid is null or tenant_id = @tenant)
returning ` + consumptionColumns

// EndConsumption ends an open one in the scope; ErrNone when there is none.
func EndConsumption(ctx context.Context, tx pgx.Tx, scope pg.Scope, artifact, id uuid.UUID, at time.Time) (Consumption, error) {
	rows, err := tx.Query(ctx, endConsumption, pgx.NamedArgs{"id": id, "artifact": artifact, "tenant": tenantOf(scope), "at": at})
	if err != nil {
		return Consumption{}, fmt.Errorf("end consumption: %w", err)
	}
	c, err := pgx.CollectExactlyOneRow(rows, scanConsumption)
	if errors.Is(err, pgx.ErrNoRows) {
		return Consumption{}, ErrNone
	}
	return c, err
}

const consumptionsWhere = `
from consumption where artifact_id = @artifact and ended_at is null and (@tenant::uuid is null or tenant_id = @tenant)`

const listConsumptions = `select ` + consumptionColumns + consumptionsWhere + `
	and (@after_at::timestamptz is null or (created_at, id) < (@after_at, @after_id::uuid))
order by created_at desc, id desc limit @limit offset @offset`

const countConsumptions = `select count(*) from (select 1 ` + consumptionsWhere + ` limit @most) as counted`

// Consumptions reads one page of an artifact's open ones, newest first, with one row more than asked when there is one, and the count.
func Consumptions(ctx context.Context, tx pgx.Tx, scope pg.Scope, artifact uuid.UUID, req page.Request) ([]Consumption, int, error) {
	args := pageArgs(req)
	args["artifact"], args["tenant"] = artifact, tenantOf(scope)
	rows, err := tx.Query(ctx, listConsumptions, args)
	if err != nil {
		return nil, 0, fmt.Errorf("list consumptions: %w", err)
	}
	list, err := pgx.CollectRows(rows, scanConsumption)
	if err != nil {
		return nil, 0, fmt.Errorf("list consumptions: %w", err)
	}
	var total int
	if err := tx.QueryRow(ctx, countConsumptions, args).Scan(&total); err != nil {
		return nil, 0, fmt.Errorf("count consumptions: %w", err)
	}
	return list, total, nil
}
