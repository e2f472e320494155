package store

import (
	"context"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/pratique-io/pratique/internal/page"
	"github.com/pratique-io/pratique/services/approval/internal/domain"
)

// Filter narrows a list; nil means any.
type Filter struct {
	Kind, State *string
	Tenant      *uuid.UUID
	DueBefore   *time.Time
}

const listWhere = `
from decision_case
where (@kind::text is null or kind = @kind) and (@state::text is null or state = @state) and (@tenant::uuid is null or tenant_id = @tenant)
	and (@due_before::timestamptz is null or due_at < @due_before)`

const listCases = `select ` + caseColumns + listWhere + `
	and (@after_at::timestamptz is null or (created_at, id) < (@after_at, @after_id::uuid))
order by created_at desc, id desc limit @limit offset @offset`

const countCases = `select count(*) from (select 1 ` + listWhere + ` limit @most) as counted`

// List reads one page, newest first, with one row more than asked when there is one, and the count up to page.CountLimit.
func List(ctx context.Context, tx pgx.Tx, f Filter, req page.Request) ([]*domain.Case, int, error) {
	args := pgx.NamedArgs{
		"kind": f.Kind, "state": f.State, "tenant": f.Tenant, "due_before": f.DueBefore, "after_at": nil, "after_id": nil,
		"limit": req.Limit + 1, "offset": req.Offset, "most": page.CountLimit,
	}
	if req.After != nil {
		args["after_at"], args["after_id"] = req.After.At, req.After.ID
	}
	rows, err := tx.Query(ctx, listCases, args)
	if err != nil {
		return nil, 0, fmt.Errorf("list cases: %w", err)
	}
	cases, err := pgx.CollectRows(rows, scanCase)
	if err != nil {
		return nil, 0, fmt.Errorf("list cases: %w", err)
	}
	if err := fill(ctx, tx, cases); err != nil {
		return nil, 0, err
	}
	var total int
	if err := tx.QueryRow(ctx, countCases, args).Scan(&total); err != nil {
		return nil, 0, fmt.Errorf("count cases: %w", err)
	}
	return cases, total, nil
}
