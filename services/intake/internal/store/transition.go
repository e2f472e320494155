package store

import (
	"context"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/pratique-io/pratique/services/intake/internal/domain"
)

// Transition is one version of a request for the audit trail.
type Transition struct {
	Tenant  uuid.UUID
	Request uuid.UUID
	Step    domain.Step
	Actor   string
	Reason  string
	Event   uuid.UUID // the event that tells of it; Nil when nothing moved
	Cause   uuid.UUID // the event that caused it; Nil when a call did
	At      time.Time
}

const insertTransitions = `
insert into request_transition (tenant_id, request_id, version, verb, from_status, to_status, from_execution, to_execution, from_release,
	to_release, actor, reason, event_id, cause_id, at)
select * from unnest(@tenant::uuid[], @request::uuid[], @version::bigint[], @verb::text[], @from_status::text[], @to_status::text[],
	@from_execution::text[], @to_execution::text[], @from_release::text[], @to_release::text[], @actor::text[], @reason::text[],
	@event::uuid[], @cause::uuid[], @at::timestamptz[])`

// InsertTransitions appends to the trail, in one statement.
func InsertTransitions(ctx context.Context, tx pgx.Tx, list []Transition) error {
	if len(list) == 0 {
		return nil
	}
	n := len(list)
	tenants, requests := make([]uuid.UUID, n), make([]uuid.UUID, n)
	events, causes := make([]*uuid.UUID, n), make([]*uuid.UUID, n)
	versions, at := make([]int64, n), make([]time.Time, n)
	text := map[string][]string{}
	for _, key := range []string{"verb", "from_status", "to_status", "from_execution", "to_execution", "from_release", "to_release", "actor", "reason"} {
		text[key] = make([]string, n)
	}
	for i, t := range list {
		tenants[i], requests[i], versions[i], at[i] = t.Tenant, t.Request, t.Step.Version, t.At
		events[i], causes[i] = orNull(t.Event), orNull(t.Cause)
		text["verb"][i], text["actor"][i], text["reason"][i] = string(t.Step.Verb), t.Actor, t.Reason
		text["from_status"][i], text["to_status"][i] = string(t.Step.From.Status), string(t.Step.To.Status)
		text["from_execution"][i], text["to_execution"][i] = string(t.Step.From.Execution), string(t.Step.To.Execution)
		text["from_release"][i], text["to_release"][i] = string(t.Step.From.Release), string(t.Step.To.Release)
	}
	args := pgx.NamedArgs{"tenant": tenants, "request": requests, "version": versions, "event": events, "cause": causes, "at": at}
	for key, values := range text {
		args[key] = values
	}
	if _, err := tx.Exec(ctx, insertTransitions, args); err != nil {
		return fmt.Errorf("insert transitions: %w", err)
	}
	return nil
}

func orNil(id *uuid.UUID) uuid.UUID {
	if id == nil {
		return uuid.Nil
	}
	return *id
}

func orNull(id uuid.UUID) *uuid.UUID {
	if id == uuid.Nil {
		return nil
	}
	return &id
}
