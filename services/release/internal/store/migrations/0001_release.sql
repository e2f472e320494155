-- +goose Up
-- One row per request, its id the request's: what other services said about it (a projection, each producer with its own sequence) and where
-- its release stands (ours). version is the aggregate's version; facts that move nothing leave it.
create table release_record (
    id                    uuid primary key,
    tenant_id             uuid        not null,
    known                 boolean     not null, -- intake told what was asked for; until then the row only holds what came early
    request_type          text        not null check (request_type in ('', 'quarantine', 'scan')),
    requested_by          text        not null,
    chain_requesters      text[]      not null,
    source_registry       text        not null,
    source_image_ref      text        not null,
    source_name           text        not null, -- host/repository in one spelling, what verdicts look for
    source_tag            text        not null,
    digest                text        not null,
    destination_image_ref text        not null,
    intake_status         text        not null check (intake_status in ('', 'pending', 'approved', 'importing', 'success', 'quarantined', 'rejected', 'withdrawn', 'failed')),
    intake_sequence       bigint      not null,
    dispatch_sequence     bigint      not null, -- of RunFailed; 0: the run did not fail
    evidence_sequence     bigint      not null, -- of EvidenceDecided; 0: not judged
    decision              text        not null,
    evidence_digest       text        not null,
    evidence_hash         text        not null,
    policy_hash           text        not null,
    would_have_decided    text        not null,
    dry_run_releasable    boolean     not null,
    referrers             text[]      not null,
    valid_until           timestamptz,
    stale_sequence        bigint      not null, -- of EvidenceStale; counts when newer than evidence_sequence
    stale_at              timestamptz,
    removed_sequence      bigint      not null, -- of QuarantineCopyRemoved; 0: the copy is there
    removed_reason        text        not null,
    removed_digest        text        not null,
    state                 text        not null check (state in ('not_ready', 'ready_for_release', 'release_blocked', 'release_approved', 'released', 'recalled')),
    blocker_reason        text        not null check (blocker_reason in ('', 'policy_not_passed', 'policy_quarantined', 'evidence_incomplete', 'evidence_stale', 'import_failed', 'import_not_terminal', 'promotion_failed', 'digest_mismatch', 'dry_run_not_releasable')),
    failed_as             text        not null check (failed_as in ('', 'promotion_failed', 'digest_mismatch')),
    version               bigint      not null check (version >= 0),
    created_at            timestamptz not null,
    updated_at            timestamptz not null,
    check ((state = 'release_blocked') = (blocker_reason <> '')),
    check (known or state = 'not_ready'),
    check (state = 'not_ready' or request_type = 'quarantine'),
    -- Nothing becomes releasable without a passing judgement of exactly the digest that was asked for.
    check (state not in ('ready_for_release', 'release_approved', 'released') or (digest <> '' and evidence_sequence > 0)),
    check (state <> 'ready_for_release' or (decision = 'pass' and evidence_digest = digest and evidence_hash <> ''))
) with (fillfactor = 85);
create index release_record_source on release_record (source_name, source_tag, created_at desc, id desc) where known;
create index release_record_digest on release_record (digest, created_at desc, id desc) where known;
create index release_record_expiry on release_record (valid_until) where state = 'ready_for_release';
select pratique_protect('release_record');

-- One promotion of one digest to one place.
create table promotion (
    id                    uuid primary key,
    tenant_id             uuid        not null,
    record_id             uuid        not null references release_record,
    destination_image_ref text        not null,
    digest                text        not null,
    state                 text        not null check (state in ('approved', 'copying', 'released', 'failed')),
    actor                 text        not null check (actor <> ''), -- person id
    reason                text        not null,
    evidence_hash         text        not null, -- what the release was decided on; another one lapses it
    policy_hash           text        not null,
    attempts              int         not null default 0, -- that failed and may be repeated
    waits                 int         not null default 0, -- turns in which an owner did not answer
    due_at                timestamptz not null,
    lease_token           bigint      not null default 0,
    leased_until          timestamptz not null default '-infinity',
    error                 text        not null default '',
    previous_digest       text        not null default '', -- noted before the tag moves
    created_at            timestamptz not null,
    finished_at           timestamptz,
    check ((state in ('released', 'failed')) = (finished_at is not null)),
    check (state <> 'failed' or error <> '')
) with (fillfactor = 85);
create unique index promotion_open on promotion (record_id) where state in ('approved', 'copying');
create index promotion_due on promotion (due_at, id) where state in ('approved', 'copying');
create index promotion_place on promotion (destination_image_ref, id) where state in ('approved', 'copying');
select pratique_protect('promotion');

create table released_artifact (
    id                    uuid primary key,
    tenant_id             uuid        not null,
    record_id             uuid        not null references release_record,
    release_id            uuid        not null references promotion,
    source_registry       text        not null,
    source_image_ref      text        not null,
    source_name           text        not null,
    source_tag            text        not null,
    digest                text        not null,
    destination_image_ref text        not null,
    repository            text        not null,
    trusted_ref           text        not null,
    released_at           timestamptz not null,
    released_by           text        not null,
    valid_until           timestamptz,
    previous_digest       text        not null,
    is_current            boolean     not null, -- the tag names this digest
    search_text           text        not null generated always as
        (lower(source_registry || '/' || source_image_ref || ' ' || destination_image_ref || ' ' || digest)) stored,
    constraint released_artifact_once unique (destination_image_ref, digest)
);
create unique index released_artifact_current on released_artifact (destination_image_ref) where is_current;
create index released_artifact_list on released_artifact (tenant_id, released_at desc, id desc);
create index released_artifact_list_all on released_artifact (released_at desc, id desc);
create index released_artifact_digest on released_artifact (digest, released_at desc, id desc);
create index released_artifact_source on released_artifact (source_name, source_tag, released_at desc, id desc);
create index released_artifact_record on released_artifact (record_id);
select pratique_protect('released_artifact');

-- Who uses what. Ended ones are kept, for the question who used it then.
create table consumption (
    id          uuid primary key,
    tenant_id   uuid        not null,
    artifact_id uuid        not null references released_artifact,
    consumed_by text        not null check (consumed_by <> ''),
    project_id  text,
    notes       text,
    environment text,
    created_at  timestamptz not null,
    ended_at    timestamptz
);
create index consumption_open on consumption (artifact_id, created_at desc, id desc) where ended_at is null;
select pratique_protect('consumption');

-- Append-only: the audit trail. One row per version of a record, each with the event that told it.
create table release_transition (
    tenant_id      uuid        not null,
    record_id      uuid        not null references release_record,
    version        bigint      not null check (version > 0),
    verb           text        not null check (verb in ('open', 'block', 'approve', 'publish', 'fail', 'note')),
    from_state     text        not null,
    to_state       text        not null,
    blocker_reason text        not null,
    actor          text        not null,
    reason         text        not null,
    event_id       uuid        not null,
    at             timestamptz not null,
    primary key (record_id, version)
);
select pratique_protect('release_transition');
-- +goose StatementBegin
do $$
begin
    execute format('revoke update, delete on release_transition from %I, %I', current_schema() || '_api', current_schema() || '_worker');
end $$;
-- +goose StatementEnd
