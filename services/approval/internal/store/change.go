package store

import (
	"context"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/pratique-io/pratique/services/approval/internal/domain"
)

// Transition is one version of a case, for the audit trail.
type Transition struct {
	Case   *domain.Case // as it is after the change
	Verb   string
	From   domain.State
	Actor  string
	Reason string
	Event  *uuid.UUID // nil when nothing was told
	At     time.Time
}

const updateCase = `
update decision_case set state = @state, decided_at = @decided_at, decided_by = @decided_by, decision_reason = @reason, version = version + 1,
	updated_at = @at
where id = @id and state = @from and version = @version`

// Move saves a change of a locked case, guarded by the state and version it was made for, and notes the transition. t.Case.Version is the
// old version before the call and the new one after it.
func Move(ctx context.Context, tx pgx.Tx, t Transition) error {
	c := t.Case
	tag, err := tx.Exec(ctx, updateCase, pgx.NamedArgs{
		"id": c.ID, "state": string(c.State), "from": string(t.From), "version": c.Version,
		"decided_at": c.DecidedAt, "decided_by": c.DecidedBy, "reason": c.Reason, "at": t.At,
	})
	if err != nil {
		return fmt.Errorf("move case: %w", err)
	}
	if tag.RowsAffected() != 1 {
		return ErrMoved
	}
	c.Version++
	return Note(ctx, tx, []Transition{t})
}

const insertTransitions = `
insert into case_transition (tenant_id, case_id, version, verb, from_state, to_state, actor, reason, event_id, at)
select * from unnest(@tenant::uuid[], @case::uuid[], @version::bigint[], @verb::text[], @from::text[], @to::text[], @actor::text[],
	@reason::text[], @event::uuid[], @at::timestamptz[])`

// Note appends to the trail.
func Note(ctx context.Context, tx pgx.Tx, list []Transition) error {
	n := len(list)
	tenants, ids, events := make([]uuid.UUID, n), make([]uuid.UUID, n), make([]*uuid.UUID, n)
	versions, at := make([]int64, n), make([]time.Time, n)
	verbs, from, to, actors, reasons := make([]string, n), make([]string, n), make([]string, n), make([]string, n), make([]string, n)
	for i, t := range list {
		tenants[i], ids[i], events[i], versions[i], at[i] = t.Case.Tenant, t.Case.ID, t.Event, t.Case.Version, t.At
		verbs[i], from[i], to[i], actors[i], reasons[i] = t.Verb, string(t.From), string(t.Case.State), t.Actor, t.Reason
	}
	_, err := tx.Exec(ctx, insertTransitions, pgx.NamedArgs{
		"tenant": tenants, "case": ids, "version": versions, "verb": verbs, "from": from, "to": to, "actor": actors, "reason": reasons,
		"event": events, "at": at,
	})
	if err != nil {
		return fmt.Errorf("note transitions: %w", err)
	}
	return nil
}

const insertVote = `insert into vote (tenant_id, case_id, voter, approve, reason, at) values (@tenant, @case, @voter, @approve, @reason, @at)`

// AddVote keeps a person's vote; the primary key allows one.
func AddVote(ctx context.Context, tx pgx.Tx, c *domain.Case, v domain.Vote) error {
	_, err := tx.Exec(ctx, insertVote, pgx.NamedArgs{"tenant": c.Tenant, "case": c.ID, "voter": v.By, "approve": v.Yes, "reason": v.Reason, "at": v.At})
	if err != nil {
		return fmt.Errorf("add vote: %w", err)
	}
	return nil
}

const insertComment = `insert into comment (id, tenant_id, case_id, author, text, at) values (@id, @tenant, @case, @author, @text, @at)`

// AddComment keeps a remark.
func AddComment(ctx context.Context, tx pgx.Tx, c *domain.Case, id uuid.UUID, remark domain.Comment) error {
	_, err := tx.Exec(ctx, insertComment, pgx.NamedArgs{"id": id, "tenant": c.Tenant, "case": c.ID, "author": remark.By, "text": remark.Text, "at": remark.At})
	if err != nil {
		return fmt.Errorf("add comment: %w", err)
	}
	return nil
}

const selectPolicies = `
select kind, tenant_id, required_approvals, due_hours from approval_policy where tenant_id is null or tenant_id = any(@tenants)`

// Policy is how a kind of case is decided.
type Policy struct {
	Required int
	Due      time.Duration
}

// Policies answers the policy of each tenant and kind asked about: the tenant's own, else the global one, else one approval within a week.
func Policies(ctx context.Context, tx pgx.Tx, tenants []uuid.UUID) (func(uuid.UUID, domain.Kind) Policy, error) {
	rows, err := tx.Query(ctx, selectPolicies, pgx.NamedArgs{"tenants": tenants})
	if err != nil {
		return nil, fmt.Errorf("load approval policies: %w", err)
	}
	type key struct {
		tenant uuid.UUID
		kind   domain.Kind
	}
	stored := map[key]Policy{}
	var kind domain.Kind
	var tenant *uuid.UUID
	var required, hours int
	if _, err := pgx.ForEachRow(rows, []any{&kind, &tenant, &required, &hours}, func() error {
		k := key{kind: kind}
		if tenant != nil {
			k.tenant = *tenant
		}
		stored[k] = Policy{Required: required, Due: time.Duration(hours) * time.Hour}
		return nil
	}); err != nil {
		return nil, fmt.Errorf("load approval policies: %w", err)
	}
	return func(tenant uuid.UUID, kind domain.Kind) Policy {
		for _, k := range []key{{tenant, kind}, {uuid.Nil, kind}} {
			if p, ok := stored[k]; ok {
				return p
			}
		}
		return Policy{Required: 1, Due: 7 * 24 * time.Hour}
	}, nil
}
