package store

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/pratique-io/pratique/internal/page"
	"github.com/pratique-io/pratique/internal/pg"
	"github.com/pratique-io/pratique/services/intake/internal/domain"
)

const eprColumns = `
id, tenant_id, epr_record_id, product_name, technology_name, justification, requested_by, status, approved_at, expires_at, suspended_at,
suspension_reason, last_reviewed_at, decided_by, decision_reason, decided_at, version, created_at, updated_at`

func scanEpr(row pgx.CollectableRow) (*domain.Registration, error) {
	var r domain.Registration
	err := row.Scan(&r.ID, &r.Tenant, &r.RecordID, &r.Product, &r.Technology, &r.Justification, &r.RequestedBy, &r.Status, &r.ApprovedAt,
		&r.ExpiresAt, &r.SuspendedAt, &r.SuspensionReason, &r.ReviewedAt, &r.DecidedBy, &r.DecisionReason, &r.DecidedAt, &r.Version,
		&r.CreatedAt, &r.UpdatedAt)
	utc(r.ApprovedAt, r.ExpiresAt, r.SuspendedAt, r.ReviewedAt, r.DecidedAt, &r.CreatedAt, &r.UpdatedAt)
	return &r, err
}

const insertEpr = `
insert into epr_registration (id, tenant_id, epr_record_id, product_name, technology_name, justification, requested_by, status, decided_by,
	decision_reason, version, created_at, updated_at)
values (@id, @tenant, @record, @product, @technology, @justification, @requester, @status, '', '', @version, @created, @created)
on conflict (tenant_id, epr_record_id) where status = 'pending' do nothing`

// InsertEpr stores a new registration; false when one with its record id is already waiting for a decision.
func InsertEpr(ctx context.Context, tx pgx.Tx, r *domain.Registration) (bool, error) {
	tag, err := tx.Exec(ctx, insertEpr, pgx.NamedArgs{
		"id": r.ID, "tenant": r.Tenant, "record": r.RecordID, "product": r.Product, "technology": r.Technology,
		"justification": r.Justification, "requester": r.RequestedBy, "status": r.Status, "version": r.Version, "created": r.CreatedAt,
	})
	if err != nil {
		return false, fmt.Errorf("insert epr registration: %w", err)
	}
	return tag.RowsAffected() == 1, nil
}

const (
	selectEpr = `select ` + eprColumns + ` from epr_registration where id = @id and (@tenant::uuid is null or tenant_id = @tenant)`
	lockEpr   = selectEpr + ` for update`
)

// Epr reads one registration; ErrNone when the scope does not hold it.
func Epr(ctx context.Context, tx pgx.Tx, scope pg.Scope, id uuid.UUID) (*domain.Registration, error) {
	return oneEpr(ctx, tx, selectEpr, pgx.NamedArgs{"id": id, "tenant": tenantArg(scope)})
}

// LockEpr is Epr that holds the row until the transaction ends.
func LockEpr(ctx context.Context, tx pgx.Tx, scope pg.Scope, id uuid.UUID) (*domain.Registration, error) {
	return oneEpr(ctx, tx, lockEpr, pgx.NamedArgs{"id": id, "tenant": tenantArg(scope)})
}

const selectNewestEpr = `
select ` + eprColumns + ` from epr_registration
where tenant_id = @tenant and epr_record_id = @record and status = 'approved'
order by approved_at desc, id desc limit 1`

// NewestEpr reads the newest approved registration of the tenant with that record id; ErrNone when there is none.
func NewestEpr(ctx context.Context, tx pgx.Tx, tenant uuid.UUID, record string) (*domain.Registration, error) {
	return oneEpr(ctx, tx, selectNewestEpr, pgx.NamedArgs{"tenant": tenant, "record": record})
}

const selectLastEpr = `
select ` + eprColumns + ` from epr_registration
where tenant_id = @tenant and epr_record_id = @record
order by created_at desc, id desc limit 1`

// LastEpr reads the newest registration of the tenant with that record id, whatever became of it: what a refusal tells the caller.
func LastEpr(ctx context.Context, tx pgx.Tx, tenant uuid.UUID, record string) (*domain.Registration, error) {
	return oneEpr(ctx, tx, selectLastEpr, pgx.NamedArgs{"tenant": tenant, "record": record})
}

func oneEpr(ctx context.Context, tx pgx.Tx, query string, args pgx.NamedArgs) (*domain.Registration, error) {
	rows, err := tx.Query(ctx, query, args)
	if err != nil {
		return nil, fmt.Errorf("read epr registration: %w", err)
	}
	r, err := pgx.CollectExactlyOneRow(rows, scanEpr)
	return r, found("read epr registration", err)
}

const updateEpr = `
update epr_registration
set status = @status, approved_at = @approved, expires_at = @expires, last_reviewed_at = @reviewed, decided_by = @by, decision_reason = @reason,
	decided_at = @decided, version = @version, updated_at = @updated
where id = @id and version = @version - 1 and status = 'pending'`

// SaveEpr writes a decided registration, guarded by the version before.
func SaveEpr(ctx context.Context, tx pgx.Tx, r *domain.Registration) error {
	tag, err := tx.Exec(ctx, updateEpr, pgx.NamedArgs{
		"id": r.ID, "status": r.Status, "approved": r.ApprovedAt, "expires": r.ExpiresAt, "reviewed": r.ReviewedAt, "by": r.DecidedBy,
		"reason": r.DecisionReason, "decided": r.DecidedAt, "version": r.Version, "updated": r.UpdatedAt,
	})
	if err != nil {
		return fmt.Errorf("save epr registration: %w", err)
	}
	if tag.RowsAffected() != 1 {
		return conflict("the registration")
	}
	return nil
}

// EprTransition is one version of a registration for the audit trail.
type EprTransition struct {
	Tenant, Registration uuid.UUID
	Version              int64
	Verb                 domain.Verb
	From, To             domain.EprStatus
	Actor, Reason        string
	Event, Cause         uuid.UUID
	At                   time.Time
}

const insertEprTransition = `
insert into epr_transition (tenant_id, registration_id, version, verb, from_status, to_status, actor, reason, event_id, cause_id, at)
values (@tenant, @registration, @version, @verb, @from, @to, @actor, @reason, @event, @cause, @at)`

// InsertEprTransition appends to the trail.
func InsertEprTransition(ctx context.Context, tx pgx.Tx, t EprTransition) error {
	_, err := tx.Exec(ctx, insertEprTransition, pgx.NamedArgs{
		"tenant": t.Tenant, "registration": t.Registration, "version": t.Version, "verb": t.Verb, "from": t.From, "to": t.To,
		"actor": t.Actor, "reason": t.Reason, "event": t.Event, "cause": orNull(t.Cause), "at": t.At,
	})
	if err != nil {
		return fmt.Errorf("insert epr transition: %w", err)
	}
	return nil
}

// EprFilter narrows a list of registrations. Empty fields do not.
type EprFilter struct {
	Tenant    uuid.UUID
	Status    string
	Lifecycle domain.Lifecycle
	Search    string
	Now       time.Time
	Window    time.Duration // before expiry, in which a registration counts as expiring
}

// inLifecycle restates domain.Registration.Lifecycle in SQL; a test holds the two together.
var inLifecycle = map[domain.Lifecycle]string{
	domain.LifecycleActive:    "(status = 'approved' and suspended_at is null and expires_at - @window::interval > @now::timestamptz)",
	domain.LifecycleExpiring:  "(status = 'approved' and suspended_at is null and expires_at - @window::interval <= @now::timestamptz and expires_at > @now::timestamptz)",
	domain.LifecycleExpired:   "(status = 'approved' and suspended_at is null and expires_at <= @now::timestamptz)",
	domain.LifecycleSuspended: "(status = 'approved' and suspended_at is not null)",
}

// Eprs reads one page (with one surplus row, for page.Cut) and counts the whole, to page.CountLimit.
func Eprs(ctx context.Context, tx pgx.Tx, q EprFilter, req page.Request) ([]*domain.Registration, int, error) {
	f := newFilter()
	if q.Tenant != uuid.Nil {
		f.add("tenant_id = @tenant", "tenant", q.Tenant)
	}
	f.addText("status = @status", "status", q.Status)
	f.addText("position(@search in search_text) > 0", "search", strings.ToLower(q.Search))
	if condition, ok := inLifecycle[q.Lifecycle]; ok {
		f.add(condition, "now", q.Now)
		f.args["window"] = q.Window
	}
	return list(ctx, tx, "epr_registration", eprColumns, f, req, scanEpr)
}
