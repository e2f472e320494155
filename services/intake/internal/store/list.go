package store

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/pratique-io/pratique/internal/page"
	"github.com/pratique-io/pratique/services/intake/internal/domain"
)

// filter collects conditions and their arguments. Conditions are constants of this package; values only ever travel as arguments.
type filter struct {
	where []string
	args  pgx.NamedArgs
}

func newFilter() *filter { return &filter{args: pgx.NamedArgs{}} }

func (f *filter) add(condition, name string, value any) {
	f.where = append(f.where, condition)
	f.args[name] = value
}

func (f *filter) addText(condition, name, value string) {
	if value != "" {
		f.add(condition, name, value)
	}
}

func (f *filter) clause() string {
	if len(f.where) == 0 {
		return "true"
	}
	return strings.Join(f.where, " and ")
}

// RequestFilter narrows a list of requests. Empty fields do not.
type RequestFilter struct {
	Type          domain.Type
	Tenant        uuid.UUID // Nil: every tenant of the scope
	Status        string
	Execution     string
	Release       string
	FailureClass  string
	Digest        string
	RequestedBy   uuid.UUID
	Search        string // part of registry, reference, EPR record id or destination, in any case
	CreatedAfter  *time.Time
	CreatedBefore *time.Time
}

func (q RequestFilter) filter() *filter {
	f := newFilter()
	f.add("request_type = @type", "type", q.Type)
	if q.Tenant != uuid.Nil {
		f.add("tenant_id = @tenant", "tenant", q.Tenant)
	}
	f.addText("status = @status", "status", q.Status)
	f.addText("execution_state = @execution", "execution", q.Execution)
	f.addText("release_state = @release", "release", q.Release)
	f.addText("failure_class = @class", "class", q.FailureClass)
	f.addText("source_image_digest = @digest", "digest", q.Digest)
	f.addText("position(@search in search_text) > 0", "search", strings.ToLower(q.Search))
	if q.RequestedBy != uuid.Nil {
		f.add("requested_by = @requester", "requester", q.RequestedBy)
	}
	if q.CreatedAfter != nil {
		f.add("created_at > @after_time", "after_time", *q.CreatedAfter)
	}
	if q.CreatedBefore != nil {
		f.add("created_at < @before_time", "before_time", *q.CreatedBefore)
	}
	return f
}

// Requests reads one page (with one surplus row, for page.Cut) and counts the whole, to page.CountLimit.
func Requests(ctx context.Context, tx pgx.Tx, q RequestFilter, req page.Request) ([]*domain.Request, int, error) {
	return list(ctx, tx, "request", requestColumns, q.filter(), req, scanRequest)
}

// list runs the two queries that every list is made of. table and columns are constants of this package.
func list[T any](ctx context.Context, tx pgx.Tx, table, columns string, f *filter, req page.Request, scan pgx.RowToFunc[T]) ([]T, int, error) {
	var total int
	count := fmt.Sprintf(`select count(*) from (select 1 from %s where %s limit %d) as counted`, table, f.clause(), page.CountLimit)
	if err := tx.QueryRow(ctx, count, f.args).Scan(&total); err != nil {
		return nil, 0, fmt.Errorf("count %s: %w", table, err)
	}
	if req.After != nil {
		f.add("(created_at, id) < (@key_at, @key_id)", "key_at", req.After.At)
		f.args["key_id"] = req.After.ID
	}
	f.args["limit"], f.args["offset"] = req.Limit+1, req.Offset
	query := fmt.Sprintf(`select %s from %s where %s order by created_at desc, id desc limit @limit offset @offset`, columns, table, f.clause())
	rows, err := tx.Query(ctx, query, f.args)
	if err != nil {
		return nil, 0, fmt.Errorf("list %s: %w", table, err)
	}
	out, err := pgx.CollectRows(rows, scan)
	if err != nil {
		return nil, 0, fmt.Errorf("list %s: %w", table, err)
	}
	return out, total, nil
}
