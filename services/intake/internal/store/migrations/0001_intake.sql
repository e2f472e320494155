-- +goose Up
-- Tenants, people, role bindings: the truth of the directory that every service projects.
create table tenant (
    tenant_id  uuid primary key,
    slug       text        not null unique check (slug ~ '^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$'),
    name       text        not null check (length(name) between 1 and 200),
    status     text        not null check (status in ('active', 'disabled')),
    version    bigint      not null check (version > 0),
    created_at timestamptz not null,
    updated_at timestamptz not null
);
select pratique_protect('tenant');

-- People belong to no tenant: one person may hold roles in several.
create table person (
    id           uuid primary key,
    subject      text        not null unique check (subject <> ''),
    name         text        not null,
    email        text        not null,
    groups       text[]      not null,
    version      bigint      not null check (version > 0),
    created_at   timestamptz not null,
    last_seen_at timestamptz
);
select pratique_share('person');

-- tenant_id is null for system roles, which only an all-tenants scope sees.
create table role_binding (
    id         uuid primary key,
    tenant_id  uuid,
    subject    text        not null,
    group_name text        not null,
    role       text        not null check (role in ('system_admin', 'security_reviewer', 'auditor', 'tenant_admin', 'tenant_member', 'tenant_viewer')),
    version    bigint      not null check (version > 0),
    created_at timestamptz not null,
    check ((subject = '') <> (group_name = '')),
    check ((tenant_id is null) = (role in ('system_admin', 'security_reviewer', 'auditor')))
);
create unique index role_binding_once on role_binding (tenant_id, subject, group_name, role) nulls not distinct;
select pratique_protect('role_binding');

-- The entitlements: one document for all tenants, one per tenant that replaces it. The first is a single row of its own, because row-level
-- security would hide a row without tenant from the tenants it is for.
create table capability_default (
    id                      uuid primary key,
    single                  boolean     not null default true unique check (single),
    build                   boolean     not null,
    quarantine_request      boolean     not null,
    quarantine_release      boolean     not null,
    ondemand_image_scanning boolean     not null,
    change_reason           text        not null,
    version                 integer     not null check (version > 0),
    updated_at              timestamptz not null,
    updated_by              text        not null
);
select pratique_share('capability_default');

create table capability_document (
    tenant_id               uuid primary key references tenant,
    id                      uuid        not null unique,
    build                   boolean     not null,
    quarantine_request      boolean     not null,
    quarantine_release      boolean     not null,
    ondemand_image_scanning boolean     not null,
    change_reason           text        not null,
    version                 integer     not null check (version > 0),
    updated_at              timestamptz not null,
    updated_by              text        not null
);
select pratique_protect('capability_document');

-- One row per request: what was asked, where it stands, and all that was heard of it (facts). The columns beside facts are what lists filter by.
create table request (
    id                     uuid primary key,
    tenant_id              uuid        not null references tenant,
    request_type           text        not null check (request_type in ('quarantine', 'scan')),
    artifact_type          text        not null check (artifact_type in ('image')),
    requested_by           uuid        not null,
    epr_record_id          text        not null,
    epr_basis              text        not null check (epr_basis in ('', 'local', 'external', 'not_enforced', 'allowed_on_error')),
    source_registry        text        not null,
    source_image_ref       text        not null,
    source_image_digest    text        not null check (source_image_digest ~ '^sha256:[0-9a-f]{64}$|^sha512:[0-9a-f]{128}$'),
    platforms              jsonb       not null,
    destination_image_ref  text        not null,
    justification          text        not null,
    chain_id               uuid        not null,
    chain_requesters       uuid[]      not null,
    status                 text        not null check (status in ('pending', 'approved', 'rejected', 'withdrawn', 'importing', 'success', 'quarantined', 'failed')),
    execution_state        text        not null check (execution_state in ('awaiting_approval', 'awaiting_dispatch', 'pipeline_running', 'evidence_pending', 'ready_for_release', 'completed')),
    release_state          text        not null check (release_state in ('not_ready', 'ready_for_release', 'release_blocked', 'release_approved', 'released', 'recalled')),
    release_blocker_reason text        not null,
    failure_class          text        not null check (failure_class in ('', 'dispatch', 'connectivity', 'auth', 'policy', 'runtime')),
    failure_code           text        not null,
    policy_decision        text        not null,
    facts                  jsonb       not null,
    execution_state_at     timestamptz not null,
    concluded_at           timestamptz,
    version                bigint      not null check (version > 0),
    created_at             timestamptz not null,
    updated_at             timestamptz not null,
    search_text            text        not null generated always as
        (lower(source_registry || '/' || source_image_ref || ' ' || epr_record_id || ' ' || destination_image_ref)) stored,
    check ((request_type = 'scan') = (epr_basis = '')),
    check (request_type = 'quarantine' or release_state = 'not_ready'),
    check (release_state = 'not_ready' or status in ('success', 'quarantined')),
    check ((failure_class = '') = (failure_code = '')),
    check (status <> 'failed' or failure_code <> ''),
    check (concluded_at is null or status in ('success', 'quarantined', 'failed')),
    check ((status = 'pending') = (execution_state = 'awaiting_approval')),
    check ((status = 'approved') = (execution_state = 'awaiting_dispatch'))
) with (fillfactor = 85);
-- One open request per tenant, type and digest.
create unique index request_open on request (tenant_id, request_type, source_image_digest)
    where status in ('pending', 'approved', 'importing');
create index request_list on request (tenant_id, request_type, created_at desc, id desc);
create index request_list_all on request (request_type, created_at desc, id desc);
create index request_status on request (tenant_id, request_type, status, created_at desc, id desc);
create index request_status_all on request (request_type, status, created_at desc, id desc);
create index request_digest on request (source_image_digest);
select pratique_protect('request');

-- One row per version of a request, from 1 without gaps. Append-only: the audit trail.
create table request_transition (
    tenant_id         uuid        not null,
    request_id        uuid        not null references request,
    version           bigint      not null check (version > 0),
    verb              text        not null,
    from_status       text        not null,
    to_status         text        not null,
    from_execution    text        not null,
    to_execution      text        not null,
    from_release      text        not null,
    to_release        text        not null,
    actor             text        not null,
    reason            text        not null,
    event_id          uuid, -- the RequestStateChanged (or RequestSubmitted) that told of it; null when nothing moved
    cause_id          uuid, -- the event that caused it, when one did
    at                timestamptz not null,
    primary key (request_id, version)
);
select pratique_protect('request_transition');

create table epr_registration (
    id                uuid primary key,
    tenant_id         uuid        not null references tenant,
    epr_record_id     text        not null,
    product_name      text        not null,
    technology_name   text        not null,
    justification     text        not null,
    requested_by      uuid        not null,
    status            text        not null check (status in ('pending', 'approved', 'rejected', 'withdrawn')),
    approved_at       timestamptz,
    expires_at        timestamptz,
    suspended_at      timestamptz,
    suspension_reason text        not null default '',
    last_reviewed_at  timestamptz,
    decided_by        text        not null,
    decision_reason   text        not null,
    decided_at        timestamptz,
    version           bigint      not null check (version > 0),
    created_at        timestamptz not null,
    updated_at        timestamptz not null,
    search_text       text        not null generated always as
        (lower(epr_record_id || ' ' || product_name || ' ' || technology_name)) stored,
    check ((status = 'approved') = (approved_at is not null)),
    check ((status = 'approved') = (expires_at is not null)),
    check ((status = 'pending') = (decided_at is null))
) with (fillfactor = 85);
create unique index epr_open on epr_registration (tenant_id, epr_record_id) where status = 'pending';
create index epr_record on epr_registration (tenant_id, epr_record_id, approved_at desc) where status = 'approved';
create index epr_list on epr_registration (tenant_id, created_at desc, id desc);
create index epr_list_all on epr_registration (created_at desc, id desc);
select pratique_protect('epr_registration');

create table epr_transition (
    tenant_id       uuid        not null,
    registration_id uuid        not null references epr_registration,
    version         bigint      not null check (version > 0),
    verb            text        not null,
    from_status     text        not null,
    to_status       text        not null,
    actor           text        not null,
    reason          text        not null,
    event_id        uuid        not null,
    cause_id        uuid,
    at              timestamptz not null,
    primary key (registration_id, version)
);
select pratique_protect('epr_transition');

-- How often a tenant was refused what, and when last.
create table denial (
    id         uuid primary key,
    tenant_id  uuid        not null,
    capability text        not null,
    reason     text        not null,
    count      bigint      not null check (count > 0),
    last_at    timestamptz not null,
    unique (tenant_id, capability, reason)
) with (fillfactor = 85);
select pratique_protect('denial');

-- The trail of a request over all services, as the events told it. No reference to request: an event may be here before its request is.
create table timeline (
    event_id   uuid        not null,
    tenant_id  uuid        not null,
    request_id uuid        not null,
    at         timestamptz not null,
    actor      text        not null,
    service    text        not null,
    action     text        not null,
    from_state text        not null,
    to_state   text        not null,
    reason     text        not null,
    primary key (request_id, at, event_id)
);
select pratique_protect('timeline');

-- +goose StatementBegin
do $$
declare r text; t text;
begin
    foreach r in array array['_api', '_worker'] loop
        foreach t in array array['request_transition', 'epr_transition', 'timeline'] loop
            execute format('revoke update, delete on %I from %I', t, current_schema() || r);
        end loop;
    end loop;
end $$;
-- +goose StatementEnd
