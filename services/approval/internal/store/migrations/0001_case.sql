-- +goose Up
-- "case" is a word of SQL, so the table is called decision_case.
create table decision_case (
    id                 uuid primary key,
    tenant_id          uuid        not null,
    kind               text        not null check (kind in ('epr_registration', 'import_request')),
    subject_id         uuid        not null,
    requester          text        not null,
    chain_requesters   text[]      not null,
    state              text        not null check (state in ('open', 'approved', 'rejected', 'void')),
    required_approvals int         not null check (required_approvals > 0),
    digest             text        not null,
    evidence_hash      text        not null,
    policy_hash        text        not null,
    facts              jsonb       not null,
    due_at             timestamptz,
    decided_at         timestamptz,
    decided_by         text        not null,
    decision_reason    text        not null,
    version            bigint      not null check (version > 0),
    created_at         timestamptz not null,
    updated_at         timestamptz not null,
    check ((state = 'open') = (decided_at is null)),
    check (state not in ('approved', 'rejected') or decided_by <> ''),
    -- One case per subject, so that a second delivery or a tombstone finds the first.
    constraint decision_case_subject unique (kind, subject_id)
) with (fillfactor = 85);
create index decision_case_list on decision_case (created_at desc, id desc);
create index decision_case_open on decision_case (tenant_id, created_at desc, id desc) where state = 'open';
select pratique_protect('decision_case');

create table vote (
    tenant_id uuid        not null,
    case_id   uuid        not null references decision_case,
    voter     uuid        not null,
    approve   boolean     not null,
    reason    text        not null,
    at        timestamptz not null,
    primary key (case_id, voter)
);
select pratique_protect('vote');

create table comment (
    id        uuid primary key,
    tenant_id uuid        not null,
    case_id   uuid        not null references decision_case,
    author    uuid        not null,
    text      text        not null check (length(text) between 1 and 4000),
    at        timestamptz not null
);
create index comment_case on comment (case_id, at);
select pratique_protect('comment');

-- Append-only: the audit trail. One row per version of a case.
create table case_transition (
    tenant_id  uuid        not null,
    case_id    uuid        not null references decision_case,
    version    bigint      not null check (version > 0),
    verb       text        not null,
    from_state text        not null,
    to_state   text        not null,
    actor      text        not null,
    reason     text        not null,
    event_id   uuid, -- null when nothing was told: a vote that completes nothing, a comment
    at         timestamptz not null,
    primary key (case_id, version)
);
select pratique_protect('case_transition');
revoke update, delete on case_transition from approval_api, approval_worker;

-- How many people must agree; the row without a tenant is the default of all. Written by a later settings API.
create table approval_policy (
    id                 uuid primary key,
    tenant_id          uuid,
    kind               text not null check (kind in ('epr_registration', 'import_request')),
    required_approvals int  not null check (required_approvals between 1 and 10),
    due_hours          int  not null check (due_hours between 1 and 8760)
);
create unique index approval_policy_once on approval_policy (tenant_id, kind) nulls not distinct;
select pratique_protect('approval_policy');
