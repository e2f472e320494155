package store

import (
	"context"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/pratique-io/pratique/services/dispatch/internal/domain"
)

// News is a request that dispatch hears of for the first time: its record, first attempt and first transition.
type News struct {
	Record     domain.Record
	Run        domain.Attempt
	Transition domain.Transition
}

// Steps stand in one list for all runs, each with the place of its run. Records are inserted in the order of their ids, so that two
// batches cannot wait for each other.
const insertQueuedSQL = `with news as (
	select * from unnest(@ids::uuid[], @tenants::uuid[], @states::text[], @versions::bigint[], @attempts::int[], @types::text[],
		@registries::text[], @refs::text[], @digests::text[], @auths::text[], @created::timestamptz[], @queued::timestamptz[],
		@due::timestamptz[], @runs::uuid[], @run_states::text[], @names::text[], @verbs::text[], @actors::text[], @reasons::text[],
		@events::uuid[], @ats::timestamptz[])
		as n (id, tenant_id, state, version, attempt, request_type, source_registry, source_image_ref, source_digest, registry_auth,
		created_at, queued_at, due_at, run_id, run_state, name, verb, actor, reason, event_id, at)
), added as (
	insert into dispatch_record (id, tenant_id, state, version, attempt, request_type, source_registry, source_image_ref, source_digest,
		registry_auth, created_at, queued_at, due_at, tombstone)
	select id, tenant_id, state, version, attempt, request_type, source_registry, source_image_ref, source_digest, registry_auth,
		created_at, queued_at, due_at, false
	from news order by id
	on conflict (id) do nothing
	returning id
), began as (
	insert into run (id, tenant_id, import_id, attempt, state, name, queued_at)
	select run_id, tenant_id, id, attempt, run_state, name, queued_at from news join added using (id)
	returning id, tenant_id
), planned as (
	insert into run_step (run_id, tenant_id, step_key, position, state, attempts)
	select began.id, began.tenant_id, s.step_key, s.position, s.state, s.attempts
	from began join unnest(@step_runs::uuid[], @keys::text[], @positions::int[], @step_states::text[], @tries::int[])
		as s (run_id, step_key, position, state, attempts) on s.run_id = began.id
), noted as (
	insert into transition (tenant_id, import_id, version, from_state, to_state, verb, actor, reason, event_id, at)
	select tenant_id, id, version, '', state, verb, actor, reason, event_id, at from news join added using (id)
)
select id from added`

// InsertQueued adds requests with all they begin with, in one statement, and answers the ids of those that were not known in any form.
func InsertQueued(ctx context.Context, tx pgx.Tx, list []News) (map[uuid.UUID]bool, error) {
	rows, err := tx.Query(ctx, insertQueuedSQL, newsArgs(list))
	if err != nil {
		return nil, fmt.Errorf("insert dispatch records: %w", err)
	}
	added := map[uuid.UUID]bool{}
	var id uuid.UUID
	if _, err := pgx.ForEachRow(rows, []any{&id}, func() error { added[id] = true; return nil }); err != nil {
		return nil, fmt.Errorf("insert dispatch records: %w", err)
	}
	return added, nil
}

func newsArgs(list []News) pgx.NamedArgs {
	n := len(list)
	ids, tenants, runs, events := make([]uuid.UUID, n), make([]uuid.UUID, n), make([]uuid.UUID, n), make([]*uuid.UUID, n)
	versions, attempts := make([]int64, n), make([]int, n)
	created, queued, due, ats := make([]time.Time, n), make([]time.Time, n), make([]time.Time, n), make([]time.Time, n)
	text := map[string][]string{}
	for _, key := range []string{"states", "types", "registries", "refs", "digests", "auths", "run_states", "names", "verbs", "actors", "reasons"} {
		text[key] = make([]string, n)
	}
	var stepRuns []uuid.UUID
	var keys, stepStates []string
	var positions, tries []int
	for i, news := range list {
		r, run, t := news.Record, news.Run, news.Transition
		ids[i], tenants[i], versions[i], attempts[i] = r.ID, r.Tenant, r.Version, r.Attempt
		created[i], queued[i], due[i], ats[i] = r.CreatedAt, r.QueuedAt, r.DueAt, t.At
		runs[i], events[i] = run.ID, nullID(t.Event)
		text["states"][i], text["types"][i], text["auths"][i] = string(r.State), r.RequestType, r.RegistryAuth
		text["registries"][i], text["refs"][i], text["digests"][i] = r.SourceRegistry, r.SourceImageRef, r.SourceDigest
		text["run_states"][i], text["names"][i] = string(run.State), run.Name
		text["verbs"][i], text["actors"][i], text["reasons"][i] = string(t.Verb), t.Actor, t.Reason
		for place, step := range run.Steps {
			stepRuns, keys, stepStates = append(stepRuns, run.ID), append(keys, step.Key), append(stepStates, string(step.State))
			positions, tries = append(positions, place+1), append(tries, step.Attempts)
		}
	}
	args := pgx.NamedArgs{"ids": ids, "tenants": tenants, "versions": versions, "attempts": attempts, "created": created, "queued": queued,
		"due": due, "ats": ats, "runs": runs, "events": events, "step_runs": stepRuns, "keys": keys, "step_states": stepStates,
		"positions": positions, "tries": tries}
	for key, values := range text {
		args[key] = values
	}
	return args
}
