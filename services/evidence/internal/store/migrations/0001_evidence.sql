-- +goose Up
-- Intake's requests as evidence knows them: what a bundle is held against.
create table request (
    id              uuid primary key,
    tenant_id       uuid        not null,
    request_type    text        not null check (request_type in ('quarantine', 'scan')),
    digest          text        not null check (digest ~ '^sha(256|512):[0-9a-f]{64,128}$'),
    approved        boolean     not null,
    outcome         text        not null default '' check (outcome in ('', 'rejected', 'withdrawn')),
    intake_sequence bigint      not null,
    updated_at      timestamptz not null
);
create index request_tenant on request (tenant_id, id);
select pratique_protect('request');

-- One bundle per request. `facts` is what judging needs beside the findings, so that judging again reads no document.
create table bundle (
    id                uuid primary key references request,
    tenant_id         uuid        not null,
    state             text        not null check (state in ('awaiting', 'collecting', 'recorded', 'judged', 'stale', 'refused', 'abandoned')),
    version           bigint      not null check (version >= 0),
    digest            text        not null,
    run_state         text        not null default '' check (run_state in ('', 'running', 'ended')),
    run_id            text        not null default '',
    attempt           integer     not null default 0,
    image_digest      text        not null default '',
    repository        text        not null default '',
    artifacts         jsonb       not null default '{}',
    dispatch_sequence bigint      not null default 0,
    evidence_hash     text        not null default '',
    facts             jsonb       not null default '{}',
    recorded_at       timestamptz,
    expires_at        timestamptz,
    decision_version  bigint      not null default 0,
    collect_since_at  timestamptz,
    tries             integer     not null default 0,
    last_error        text        not null default '',
    due_at            timestamptz not null default '-infinity',
    lease_token       bigint      not null default 0,
    leased_until      timestamptz not null default '-infinity',
    created_at        timestamptz not null,
    updated_at        timestamptz not null,
    -- what is recorded has a hash and a time; what is judged has a decision
    check (state not in ('recorded', 'judged', 'stale') or (evidence_hash <> '' and recorded_at is not null)),
    check (state not in ('judged', 'stale', 'refused') or decision_version > 0),
    check (state not in ('collecting') or (run_id <> '' and collect_since_at is not null))
) with (fillfactor = 85);
create index bundle_tenant on bundle (tenant_id, id);
create index bundle_due on bundle (due_at) where state = 'collecting';
create index bundle_expiring on bundle (expires_at) where state = 'judged';
select pratique_protect('bundle');

create table bundle_transition (
    tenant_id  uuid        not null,
    bundle_id  uuid        not null references bundle,
    version    bigint      not null,
    verb       text        not null,
    from_state text        not null,
    to_state   text        not null,
    actor      text        not null,
    reason     text        not null,
    event_id   uuid,
    cause_id   uuid,
    at         timestamptz not null,
    primary key (tenant_id, bundle_id, version)
);
select pratique_protect('bundle_transition');

create table document (
    tenant_id    uuid        not null,
    bundle_id    uuid        not null references bundle,
    kind         text        not null check (kind in ('source', 'sbom', 'vulnerabilities', 'report')),
    platform     text        not null,
    format       text        not null,
    media_type   text        not null,
    digest       text        not null,
    size         bigint      not null check (size >= 0),
    tool         text        not null check (tool <> ''),
    tool_version text        not null check (tool_version <> ''),
    finished_at  timestamptz not null,
    artifact     text        not null,
    repository   text        not null,
    primary key (tenant_id, bundle_id, kind, platform, format)
);
select pratique_protect('document');

-- The component index: which image has which package. Bounded per bundle (domain.MaxComponents).
create table component (
    tenant_id uuid not null,
    bundle_id uuid not null references bundle,
    platform  text not null,
    type      text not null,
    name      text not null,
    version   text not null,
    purl      text not null
);
create index component_bundle on component (tenant_id, bundle_id);
create index component_name on component (tenant_id, name, version);
select pratique_protect('component');

-- Distinct findings, most severe first; bounded per bundle (domain.MaxFindings).
create table finding (
    tenant_id uuid             not null,
    bundle_id uuid             not null references bundle,
    position  integer          not null,
    id        text             not null,
    package   text             not null,
    version   text             not null,
    type      text             not null,
    severity  text             not null check (severity in ('critical', 'high', 'medium', 'low', 'unknown')),
    cvss      double precision not null check (cvss between 0 and 10),
    fixable   boolean          not null,
    kev       boolean          not null,
    primary key (tenant_id, bundle_id, position)
);
create index finding_id on finding (tenant_id, id);
select pratique_protect('finding');

-- A tenant's own policy, one row per version; the newest is in force. Without one the default of the program is.
create table policy_document (
    tenant_id  uuid        not null,
    id         uuid        not null,
    version    integer     not null check (version > 0),
    document   jsonb       not null,
    hash       text        not null,
    updated_at timestamptz not null,
    updated_by text        not null,
    primary key (tenant_id, version)
);
select pratique_protect('policy_document');

-- Every decision ever made, append-only, with the policy it was made by.
create table decision (
    tenant_id      uuid        not null,
    bundle_id      uuid        not null references bundle,
    version        bigint      not null check (version > 0),
    verdict        text        not null check (verdict in ('pass', 'quarantine', 'incomplete', 'error')),
    would_have     text        not null default '' check (would_have in ('', 'quarantine')),
    reasons        text[]      not null,
    rules          jsonb       not null,
    checks         jsonb       not null,
    policy_hash    text        not null,
    policy_version integer     not null,
    snapshot       jsonb       not null,
    evidence_hash  text        not null,
    releasable     boolean     not null,
    decided_at     timestamptz not null,
    expires_at     timestamptz,
    primary key (tenant_id, bundle_id, version)
);
select pratique_protect('decision');

-- What the quarantine registry holds per request, and whether it has to go.
create table quarantine_copy (
    id           uuid primary key references request,
    tenant_id    uuid        not null,
    repository   text        not null,
    digest       text        not null,
    state        text        not null check (state in ('present', 'to_remove', 'removed')),
    reason       text        not null default '' check (reason in ('', 'released', 'rejected', 'withdrawn', 'failed', 'retention')),
    retain_until timestamptz,
    inventory    jsonb       not null default '{}',
    told_at      timestamptz,
    tries        integer     not null default 0,
    last_error   text        not null default '',
    due_at       timestamptz not null default '-infinity',
    lease_token  bigint      not null default 0,
    leased_until timestamptz not null default '-infinity',
    created_at   timestamptz not null,
    updated_at   timestamptz not null,
    check (state = 'present' or reason <> '')
) with (fillfactor = 85);
create index quarantine_copy_tenant on quarantine_copy (tenant_id, id);
create index quarantine_copy_due on quarantine_copy (due_at) where state = 'to_remove';
create index quarantine_copy_retained on quarantine_copy (retain_until) where state = 'present' and retain_until is not null;
select pratique_protect('quarantine_copy');

-- What is written once stays: neither callers nor loops may change history.
-- +goose StatementBegin
do $$
declare r text;
begin
    foreach r in array array['_api', '_worker'] loop
        execute format('revoke update, delete on bundle_transition, decision from %I', current_schema() || r);
    end loop;
end $$;
-- +goose StatementEnd
