package store

import (
	"context"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/pratique-io/pratique/services/evidence/internal/domain"
)

// Move is a transition with the event that caused it; Nil when none did.
type Move struct {
	domain.Transition
	Cause uuid.UUID
}

// Saved is a bundle as it shall be, with what moved it there since it was read: one move per version.
type Saved struct {
	Bundle *domain.Bundle
	Moves  []Move
}

const saveBundles = `
with saved as (
	update bundle as b
	set state = n.state, version = n.version, run_id = n.run, attempt = n.attempt, image_digest = n.image, repository = n.repository,
		artifacts = n.artifacts, evidence_hash = n.hash, facts = n.facts, recorded_at = n.recorded, expires_at = n.expires,
		run_state = n.run_state, dispatch_sequence = n.dispatch, decision_version = n.decision, collect_since_at = n.since, tries = n.tries,
		leased_until = case when n.state = 'collecting' then b.leased_until else '-infinity' end, updated_at = n.updated
	from unnest(@ids::uuid[], @was::bigint[], @leases::bigint[], @states::text[], @versions::bigint[], @runs::text[], @attempts::int[],
		@images::text[], @repositories::text[], @artifacts::jsonb[], @hashes::text[], @facts::jsonb[], @recorded::timestamptz[],
		@expires::timestamptz[], @run_states::text[], @dispatch::bigint[], @decisions::bigint[], @since::timestamptz[], @tries::int[],
		@updated::timestamptz[])
		as n (id, was, lease, state, version, run, attempt, image, repository, artifacts, hash, facts, recorded, expires, run_state, dispatch,
		decision, since, tries, updated)
	where b.id = n.id and b.version = n.was and b.lease_token = n.lease
	returning b.id, b.tenant_id
), moved as (
	insert into bundle_transition (tenant_id, bundle_id, version, verb, from_state, to_state, actor, reason, event_id, cause_id, at)
	select saved.tenant_id, saved.id, m.version, m.verb, m.from_state, m.to_state, m.actor, m.reason, m.event_id, m.cause_id, m.at
	from unnest(@moved::uuid[], @move_versions::bigint[], @verbs::text[], @froms::text[], @tos::text[], @actors::text[], @reasons::text[],
		@events::uuid[], @causes::uuid[], @ats::timestamptz[])
		as m (id, version, verb, from_state, to_state, actor, reason, event_id, cause_id, at)
	join saved on saved.id = m.id
)
select count(*) from saved`

// SaveBundle is SaveBundles for one; cause is that of all its moves.
func SaveBundle(ctx context.Context, tx pgx.Tx, b *domain.Bundle, cause uuid.UUID, moves ...domain.Transition) error {
	one := Saved{Bundle: b}
	for _, m := range moves {
		one.Moves = append(one.Moves, Move{Transition: m, Cause: cause})
	}
	return SaveBundles(ctx, tx, []Saved{one})
}

// SaveBundles writes bundles as they shall be, each guarded by the version and lease it was read with, and appends what moved them there.
// ErrLost when any of them is not as it was read.
func SaveBundles(ctx context.Context, tx pgx.Tx, list []Saved) error {
	if len(list) == 0 {
		return nil
	}
	args, err := bundleArgs(list)
	if err != nil {
		return err
	}
	moveArgs(args, list)
	var saved int
	if err := tx.QueryRow(ctx, saveBundles, args).Scan(&saved); err != nil {
		return fmt.Errorf("save bundles: %w", err)
	}
	if saved != len(list) {
		return fmt.Errorf("save bundles: %w", ErrLost)
	}
	return nil
}

func bundleArgs(list []Saved) (pgx.NamedArgs, error) {
	n := len(list)
	ids, text, number, times := make([]uuid.UUID, n), map[string][]string{}, map[string][]int64{}, map[string][]*time.Time{}
	for _, key := range []string{"states", "runs", "images", "repositories", "hashes", "run_states"} {
		text[key] = make([]string, n)
	}
	for _, key := range []string{"was", "leases", "versions", "attempts", "dispatch", "decisions", "tries"} {
		number[key] = make([]int64, n)
	}
	for _, key := range []string{"recorded", "expires", "since", "updated"} {
		times[key] = make([]*time.Time, n)
	}
	artifacts, facts := make([][]byte, n), make([][]byte, n)
	for i, s := range list {
		b := s.Bundle
		var err error
		if artifacts[i], err = toJSON(b.Artifacts); err != nil {
			return nil, err
		}
		if facts[i], err = toJSON(b.Evidence); err != nil {
			return nil, err
		}
		ids[i], text["states"][i], text["runs"][i], text["images"][i] = b.ID, string(b.State), b.Run, b.Image
		text["repositories"][i], text["hashes"][i], text["run_states"][i] = b.Repository, b.Hash, string(b.RunState)
		number["was"][i], number["leases"][i], number["versions"][i] = b.Version-int64(len(s.Moves)), b.Lease, b.Version
		number["attempts"][i], number["dispatch"][i], number["decisions"][i] = int64(b.Attempt), b.DispatchSequence, b.DecisionVersion
		number["tries"][i], times["recorded"][i], times["expires"][i] = int64(b.Tries), orNull(b.RecordedAt), orNull(b.ExpiresAt)
		times["since"][i], times["updated"][i] = orNull(b.Since), orNull(b.UpdatedAt)
	}
	args := pgx.NamedArgs{"ids": ids, "artifacts": artifacts, "facts": facts}
	for key, values := range text {
		args[key] = values
	}
	for key, values := range number {
		args[key] = values
	}
	for key, values := range times {
		args[key] = values
	}
	return args, nil
}

func moveArgs(args pgx.NamedArgs, list []Saved) {
	var moved []uuid.UUID
	var events, causes []*uuid.UUID
	var versions []int64
	var verbs, froms, tos, actors, reasons []string
	var ats []time.Time
	for _, s := range list {
		for _, m := range s.Moves {
			moved, versions, ats = append(moved, s.Bundle.ID), append(versions, m.Version), append(ats, m.At)
			events, causes = append(events, idOrNull(m.Event)), append(causes, idOrNull(m.Cause))
			verbs, froms, tos = append(verbs, string(m.Verb)), append(froms, string(m.From)), append(tos, string(m.To))
			actors, reasons = append(actors, m.Actor), append(reasons, m.Reason)
		}
	}
	for key, values := range map[string]any{"moved": moved, "move_versions": versions, "verbs": verbs, "froms": froms, "tos": tos,
		"actors": actors, "reasons": reasons, "events": events, "causes": causes, "ats": ats} {
		args[key] = values
	}
}
