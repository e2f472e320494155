package store

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/pratique-io/pratique/internal/pg"
	"github.com/pratique-io/pratique/services/release/internal/domain"
)

// Source is where a request's image came from, in one spelling.
type Source struct{ Name, Tag string }

// recordRow is a row of release_record: as it is read (by name), and as it is handed to jsonb_to_recordset.
type recordRow struct {
	ID               uuid.UUID  `db:"id" json:"id"`
	Tenant           uuid.UUID  `db:"tenant_id" json:"tenant_id"`
	Known            bool       `db:"known" json:"known"`
	Type             string     `db:"request_type" json:"request_type"`
	Requester        string     `db:"requested_by" json:"requested_by"`
	Chain            []string   `db:"chain_requesters" json:"chain_requesters"`
	SourceRegistry   string     `db:"source_registry" json:"source_registry"`
	SourceRef        string     `db:"source_image_ref" json:"source_image_ref"`
	Digest           string     `db:"digest" json:"digest"`
	Destination      string     `db:"destination_image_ref" json:"destination_image_ref"`
	Status           string     `db:"intake_status" json:"intake_status"`
	IntakeSeq        int64      `db:"intake_sequence" json:"intake_sequence"`
	DispatchSeq      int64      `db:"dispatch_sequence" json:"dispatch_sequence"`
	EvidenceSeq      int64      `db:"evidence_sequence" json:"evidence_sequence"`
	Decision         string     `db:"decision" json:"decision"`
	EvidenceDigest   string     `db:"evidence_digest" json:"evidence_digest"`
	EvidenceHash     string     `db:"evidence_hash" json:"evidence_hash"`
	PolicyHash       string     `db:"policy_hash" json:"policy_hash"`
	WouldHaveDecided string     `db:"would_have_decided" json:"would_have_decided"`
	DryRunReleasable bool       `db:"dry_run_releasable" json:"dry_run_releasable"`
	Referrers        []string   `db:"referrers" json:"referrers"`
	ValidUntil       *time.Time `db:"valid_until" json:"valid_until"`
	StaleSeq         int64      `db:"stale_sequence" json:"stale_sequence"`
	StaleAt          *time.Time `db:"stale_at" json:"stale_at"`
	RemovedSeq       int64      `db:"removed_sequence" json:"removed_sequence"`
	RemovedReason    string     `db:"removed_reason" json:"removed_reason"`
	RemovedDigest    string     `db:"removed_digest" json:"removed_digest"`
	State            string     `db:"state" json:"state"`
	Blocker          string     `db:"blocker_reason" json:"blocker_reason"`
	FailedAs         string     `db:"failed_as" json:"failed_as"`
	Version          int64      `db:"version" json:"version"`
	CreatedAt        time.Time  `db:"created_at" json:"-"`
	UpdatedAt        time.Time  `db:"updated_at" json:"updated_at"`

	// Only written.
	SourceName string `db:"-" json:"source_name"`
	SourceTag  string `db:"-" json:"source_tag"`
	OldVersion int64  `db:"-" json:"old_version"`
}

const recordColumns = `id, tenant_id, known, request_type, requested_by, chain_requesters, source_registry, source_image_ref, digest,
	destination_image_ref, intake_status, intake_sequence, dispatch_sequence, evidence_sequence, decision, evidence_digest, evidence_hash,
	policy_hash, would_have_decided, dry_run_releasable, referrers, valid_until, stale_sequence, stale_at, removed_sequence, removed_reason,
	removed_digest, state, blocker_reason, failed_as, version, created_at, updated_at`

func recordOf(row recordRow) *domain.Record {
	r := &domain.Record{
		ID: row.ID, Tenant: row.Tenant, State: domain.State(row.State), Blocker: domain.Blocker(row.Blocker),
		FailedAs: domain.Blocker(row.FailedAs), Version: row.Version, CreatedAt: row.CreatedAt.UTC(), UpdatedAt: row.UpdatedAt.UTC(),
	}
	f := &r.Facts
	if row.Known {
		f.Asked = &domain.Request{
			Type: row.Type, Requester: row.Requester, Chain: row.Chain, SourceRegistry: row.SourceRegistry, SourceRef: row.SourceRef,
			Digest: row.Digest, Destination: row.Destination,
		}
	}
	f.Progress = domain.Progress{Seq: row.IntakeSeq, Status: domain.Status(row.Status)}
	if row.DispatchSeq > 0 {
		f.Broken = &domain.Broken{Seq: row.DispatchSeq}
	}
	if row.EvidenceSeq > 0 {
		f.Judged = &domain.Judged{
			Seq: row.EvidenceSeq, Decision: row.Decision, Digest: row.EvidenceDigest, EvidenceHash: row.EvidenceHash, PolicyHash: row.PolicyHash,
			WouldHaveDecided: row.WouldHaveDecided, DryRunReleasable: row.DryRunReleasable, Referrers: row.Referrers, ValidUntil: utc(row.ValidUntil),
		}
	}
	if row.StaleSeq > 0 && row.StaleAt != nil {
		f.Stale = &domain.Stale{Seq: row.StaleSeq, At: row.StaleAt.UTC()}
	}
	if row.RemovedSeq > 0 {
		f.Removed = &domain.Removed{Seq: row.RemovedSeq, Reason: row.RemovedReason, Digest: row.RemovedDigest}
	}
	return r
}

func utc(t *time.Time) *time.Time {
	if t == nil {
		return nil
	}
	at := t.UTC()
	return &at
}

func rowOf(r *domain.Record, source Source, old int64) recordRow {
	row := recordRow{
		ID: r.ID, Tenant: r.Tenant, Chain: []string{}, Referrers: []string{}, Status: string(r.Facts.Progress.Status),
		IntakeSeq: r.Facts.Progress.Seq, State: string(r.State), Blocker: string(r.Blocker), FailedAs: string(r.FailedAs), Version: r.Version,
		UpdatedAt: r.UpdatedAt, SourceName: source.Name, SourceTag: source.Tag, OldVersion: old,
	}
	if a := r.Facts.Asked; a != nil {
		row.Known, row.Type, row.Requester, row.Chain = true, a.Type, a.Requester, a.Chain
		row.SourceRegistry, row.SourceRef, row.Digest, row.Destination = a.SourceRegistry, a.SourceRef, a.Digest, a.Destination
	}
	if b := r.Facts.Broken; b != nil {
		row.DispatchSeq = b.Seq
	}
	if j := r.Facts.Judged; j != nil {
		row.EvidenceSeq, row.Decision, row.EvidenceDigest, row.EvidenceHash, row.PolicyHash = j.Seq, j.Decision, j.Digest, j.EvidenceHash, j.PolicyHash
		row.WouldHaveDecided, row.DryRunReleasable, row.ValidUntil = j.WouldHaveDecided, j.DryRunReleasable, j.ValidUntil
		row.Referrers = append(row.Referrers, j.Referrers...)
	}
	if s := r.Facts.Stale; s != nil {
		row.StaleSeq, row.StaleAt = s.Seq, &s.At
	}
	if m := r.Facts.Removed; m != nil {
		row.RemovedSeq, row.RemovedReason, row.RemovedDigest = m.Seq, m.Reason, m.Digest
	}
	return row
}

// Empty rows come first, so that two consumers that hear of a request at once meet at the row's lock and neither overwrites the other.
const insertRecords = `
insert into release_record (id, tenant_id, known, request_type, requested_by, chain_requesters, source_registry, source_image_ref, source_name,
	source_tag, digest, destination_image_ref, intake_status, intake_sequence, dispatch_sequence, evidence_sequence, decision, evidence_digest,
	evidence_hash, policy_hash, would_have_decided, dry_run_releasable, referrers, stale_sequence, removed_sequence, removed_reason,
	removed_digest, state, blocker_reason, failed_as, version, created_at, updated_at)
select id, tenant, false, '', '', '{}', '', '', '', '', '', '', '', 0, 0, 0, '', '', '', '', '', false, '{}', 0, 0, '', '', 'not_ready', '', '', 0,
	@now, @now
from unnest(@ids::uuid[], @tenants::uuid[]) as new (id, tenant)
on conflict (id) do nothing`

// Ensure makes empty records for requests that were never heard of.
func Ensure(ctx context.Context, tx pgx.Tx, tenants map[uuid.UUID]uuid.UUID, now time.Time) error {
	ids := make([]uuid.UUID, 0, len(tenants))
	for id := range tenants {
		ids = append(ids, id)
	}
	slices.SortFunc(ids, func(a, b uuid.UUID) int { return slices.Compare(a[:], b[:]) }) // one order of locks for all
	owners := make([]uuid.UUID, len(ids))
	for i, id := range ids {
		owners[i] = tenants[id]
	}
	if _, err := tx.Exec(ctx, insertRecords, pgx.NamedArgs{"ids": ids, "tenants": owners, "now": now}); err != nil {
		return fmt.Errorf("insert release records: %w", err)
	}
	return nil
}

const lockRecords = `select ` + recordColumns + ` from release_record where id = any(@ids) order by id for update`

// LockAll loads records for a change.
func LockAll(ctx context.Context, tx pgx.Tx, ids []uuid.UUID) (map[uuid.UUID]*domain.Record, error) {
	list, err := records(ctx, tx, lockRecords, pgx.NamedArgs{"ids": ids})
	if err != nil {
		return nil, err
	}
	out := make(map[uuid.UUID]*domain.Record, len(list))
	for _, r := range list {
		out[r.ID] = r
	}
	return out, nil
}

// Lock loads one record for a change.
func Lock(ctx context.Context, tx pgx.Tx, id uuid.UUID) (*domain.Record, error) {
	return one(records(ctx, tx, lockRecords, pgx.NamedArgs{"ids": []uuid.UUID{id}}))
}

const getRecord = `select ` + recordColumns + ` from release_record where id = @id and (@tenant::uuid is null or tenant_id = @tenant)`

// Record loads one record in the scope.
func Record(ctx context.Context, tx pgx.Tx, scope pg.Scope, id uuid.UUID) (*domain.Record, error) {
	return one(records(ctx, tx, getRecord, pgx.NamedArgs{"id": id, "tenant": tenantOf(scope)}))
}

const expiredDue = `
select exists (select from release_record where state = 'ready_for_release' and valid_until <= @now)`

// AnyExpired says whether LockExpired would find something: one round trip, for the many turns in which it would not.
func AnyExpired(ctx context.Context, db *pg.DB, now time.Time) (bool, error) {
	return due(ctx, db, expiredDue, now)
}

const lockExpired = `
select ` + recordColumns + ` from release_record
where state = 'ready_for_release' and valid_until <= @now
order by valid_until limit @most for update skip locked`

// LockExpired loads records that are ready on evidence that has run out.
func LockExpired(ctx context.Context, tx pgx.Tx, now time.Time, most int) ([]*domain.Record, error) {
	return records(ctx, tx, lockExpired, pgx.NamedArgs{"now": now, "most": most})
}

const newestBySource = `
select ` + recordColumns + ` from release_record
where known and source_name = @name and source_tag = @tag and (@tenant::uuid is null or tenant_id = @tenant)
order by created_at desc, id desc limit 1`

// NewestBySource finds the newest request for a source tag.
func NewestBySource(ctx context.Context, tx pgx.Tx, scope pg.Scope, source Source) (*domain.Record, error) {
	return one(records(ctx, tx, newestBySource, pgx.NamedArgs{"name": source.Name, "tag": source.Tag, "tenant": tenantOf(scope)}))
}

const newestByDigest = `
select ` + recordColumns + ` from release_record
where known and digest = @digest and (@tenant::uuid is null or tenant_id = @tenant)
order by created_at desc, id desc limit 1`

// NewestByDigest finds the newest request for a digest.
func NewestByDigest(ctx context.Context, tx pgx.Tx, scope pg.Scope, digest string) (*domain.Record, error) {
	return one(records(ctx, tx, newestByDigest, pgx.NamedArgs{"digest": digest, "tenant": tenantOf(scope)}))
}

func one(list []*domain.Record, err error) (*domain.Record, error) {
	if err == nil && len(list) == 0 {
		err = ErrNone
	}
	if err != nil {
		return nil, err
	}
	return list[0], nil
}

func records(ctx context.Context, tx pgx.Tx, query string, args pgx.NamedArgs) ([]*domain.Record, error) {
	rows, err := tx.Query(ctx, query, args)
	if err != nil {
		return nil, fmt.Errorf("load release records: %w", err)
	}
	found, err := pgx.CollectRows(rows, pgx.RowToStructByName[recordRow])
	if err != nil {
		return nil, fmt.Errorf("load release records: %w", err)
	}
	out := make([]*domain.Record, len(found))
	for i, row := range found {
		out[i] = recordOf(row)
	}
	return out, nil
}

const updateRecords = `
update release_record as t set known = r.known, request_type = r.request_type, requested_by = r.requested_by,
	chain_requesters = r.chain_requesters, source_registry = r.source_registry, source_image_ref = r.source_image_ref,
	source_name = r.source_name, source_tag = r.source_tag, digest = r.digest, destination_image_ref = r.destination_image_ref,
	intake_status = r.intake_status, intake_sequence = r.intake_sequence, dispatch_sequence = r.dispatch_sequence,
	evidence_sequence = r.evidence_sequence, decision = r.decision, evidence_digest = r.evidence_digest, evidence_hash = r.evidence_hash,
	policy_hash = r.policy_hash, would_have_decided = r.would_have_decided, dry_run_releasable = r.dry_run_releasable, referrers = r.referrers,
	valid_until = r.valid_until, stale_sequence = r.stale_sequence, stale_at = r.stale_at, removed_sequence = r.removed_sequence,
	removed_reason = r.removed_reason, removed_digest = r.removed_digest, state = r.state, blocker_reason = r.blocker_reason,
	failed_as = r.failed_as, version = r.version, updated_at = r.updated_at
from jsonb_to_recordset(@rows::jsonb) as r (id uuid, old_version bigint, known boolean, request_type text, requested_by text,
	chain_requesters text[], source_registry text, source_image_ref text, source_name text, source_tag text, digest text,
	destination_image_ref text, intake_status text, intake_sequence bigint, dispatch_sequence bigint, evidence_sequence bigint, decision text,
	evidence_digest text, evidence_hash text, policy_hash text, would_have_decided text, dry_run_releasable boolean, referrers text[],
	valid_until timestamptz, stale_sequence bigint, stale_at timestamptz, removed_sequence bigint, removed_reason text, removed_digest text,
	state text, blocker_reason text, failed_as text, version bigint, updated_at timestamptz)
where t.id = r.id and t.version = r.old_version`

// Change is one record as it shall be, with the version it was loaded at.
type Change struct {
	Record *domain.Record
	Source Source
	Old    int64
}

// Save writes changed records in one statement, guarded by their versions.
func Save(ctx context.Context, tx pgx.Tx, changes []Change) error {
	if len(changes) == 0 {
		return nil
	}
	rows := make([]recordRow, len(changes))
	for i, c := range changes {
		rows[i] = rowOf(c.Record, c.Source, c.Old)
	}
	raw, err := json.Marshal(rows)
	if err != nil {
		return fmt.Errorf("save release records: %w", err)
	}
	tag, err := tx.Exec(ctx, updateRecords, pgx.NamedArgs{"rows": string(raw)})
	if err != nil {
		return fmt.Errorf("save release records: %w", err)
	}
	if tag.RowsAffected() != int64(len(changes)) {
		return ErrMoved
	}
	return nil
}

// Transition is one version of a record, for the audit trail.
type Transition struct {
	Record uuid.UUID
	Tenant uuid.UUID
	Step   domain.Step
	Actor  string
	Reason string
	Event  string // id
}

const insertTransitions = `
insert into release_transition (tenant_id, record_id, version, verb, from_state, to_state, blocker_reason, actor, reason, event_id, at)
select * from unnest(@tenants::uuid[], @records::uuid[], @versions::bigint[], @verbs::text[], @from::text[], @to::text[], @blockers::text[],
	@actors::text[], @reasons::text[], @events::uuid[], @at::timestamptz[])`

// Trail appends to the audit trail.
func Trail(ctx context.Context, tx pgx.Tx, list []Transition) error {
	if len(list) == 0 {
		return nil
	}
	n := len(list)
	tenants, ids, versions, at := make([]uuid.UUID, n), make([]uuid.UUID, n), make([]int64, n), make([]time.Time, n)
	verbs, from, to, blockers := make([]string, n), make([]string, n), make([]string, n), make([]string, n)
	actors, reasons, events := make([]string, n), make([]string, n), make([]string, n)
	for i, t := range list {
		tenants[i], ids[i], versions[i], at[i] = t.Tenant, t.Record, t.Step.Version, t.Step.At
		verbs[i], from[i], to[i], blockers[i] = string(t.Step.Verb), string(t.Step.From), string(t.Step.To), string(t.Step.Blocker)
		actors[i], reasons[i], events[i] = t.Actor, t.Reason, t.Event
	}
	_, err := tx.Exec(ctx, insertTransitions, pgx.NamedArgs{
		"tenants": tenants, "records": ids, "versions": versions, "verbs": verbs, "from": from, "to": to, "blockers": blockers,
		"actors": actors, "reasons": reasons, "events": events, "at": at,
	})
	if err != nil {
		return fmt.Errorf("note release transitions: %w", err)
	}
	return nil
}
