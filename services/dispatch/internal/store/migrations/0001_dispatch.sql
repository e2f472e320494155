-- +goose Up
-- One row per request. A tombstone is a request that was withdrawn before its approval arrived: it keeps the approval from starting a run.
create table dispatch_record (
	id               uuid        primary key, -- the request's id
	tenant_id        uuid        not null,
	state            text        not null check (state in ('queued', 'waiting', 'starting', 'running', 'succeeded', 'failed', 'cancelled')),
	version          bigint      not null check (version >= 0),
	attempt          int         not null check (attempt between 0 and 3),
	request_type     text        not null,
	source_registry  text        not null,
	source_image_ref text        not null,
	source_digest    text        not null,
	registry_auth    text        not null,
	provider_id      uuid,
	quarantine_target text       not null default '',
	cancel_at        timestamptz,
	cancel_reason    text        not null default '',
	failure_class    text        not null default '',
	failure_code     text        not null default '',
	failure_message  text        not null default '',
	created_at       timestamptz not null,
	queued_at        timestamptz not null,
	expires_at       timestamptz,
	due_at           timestamptz not null,
	lease_token      bigint      not null default 0,
	leased_until     timestamptz not null default '-infinity',
	tombstone        boolean     not null default false,
	check (state not in ('starting', 'running') or (provider_id is not null and expires_at is not null and attempt > 0)),
	check ((state = 'failed') = (failure_code <> '')),
	check (not tombstone or state = 'cancelled')
) with (fillfactor = 85);
-- The queue, by tenant: who is served next is asked per tenant.
create index dispatch_record_owed on dispatch_record (tenant_id, created_at, id) where state in ('queued', 'waiting');
create index dispatch_record_active on dispatch_record (tenant_id, provider_id) where state in ('starting', 'running');
create index dispatch_record_waits on dispatch_record (queued_at) where state in ('queued', 'waiting');
select pratique_protect('dispatch_record');

-- One row per attempt.
create table run (
	id              uuid        primary key,
	tenant_id       uuid        not null,
	import_id       uuid        not null references dispatch_record (id),
	attempt         int         not null check (attempt between 1 and 3),
	provider_id     uuid,
	state           text        not null check (state in ('queued', 'starting', 'running', 'succeeded', 'failed', 'cancelled')),
	name            text        not null,
	namespace       text        not null default '',
	results         jsonb       not null default '{}',
	failure_class   text        not null default '',
	failure_code    text        not null default '',
	failure_message text        not null default '',
	log_cursor      bigint      not null default 0, -- lines taken over from the runner
	log_lines       int         not null default 0, -- lines kept, against the bound
	log_bytes       bigint      not null default 0,
	log_full        boolean     not null default false,
	queued_at       timestamptz not null,
	started_at      timestamptz,
	ended_at        timestamptz,
	unique (import_id, attempt),
	check (state <> 'succeeded' or results ? 'image')
) with (fillfactor = 85);
create index run_tenant on run (tenant_id, import_id, attempt);
select pratique_protect('run');

create table run_step (
	run_id     uuid        not null references run (id),
	step_key   text        not null check (step_key in ('pull', 'sbom', 'vulnerabilities', 'report')),
	tenant_id  uuid        not null,
	position   int         not null,
	state      text        not null check (state in ('pending', 'running', 'succeeded', 'failed', 'skipped')),
	attempts   int         not null,
	last_error text        not null default '',
	started_at timestamptz,
	ended_at   timestamptz,
	primary key (run_id, step_key)
) with (fillfactor = 85);
select pratique_protect('run_step');

-- The audit trail: one row per version, and never changed. from_state is empty for the first.
create table transition (
	tenant_id  uuid        not null,
	import_id  uuid        not null,
	version    bigint      not null,
	from_state text        not null,
	to_state   text        not null,
	verb       text        not null,
	actor      text        not null,
	reason     text        not null,
	event_id   uuid, -- null: of no interest to others
	at         timestamptz not null,
	primary key (import_id, version)
);
create index transition_tenant on transition (tenant_id, import_id);
select pratique_protect('transition');
-- +goose StatementBegin
do $body$ begin
	execute format('revoke update, delete on transition from %I, %I', current_schema() || '_api', current_schema() || '_worker');
end $body$;
-- +goose StatementEnd

-- Log lines of a request are numbered without gaps in the order in which they become visible: whoever adds lines holds the head.
create table log_head (
	import_id     uuid   primary key,
	tenant_id     uuid   not null,
	last_sequence bigint not null,
	closed        boolean not null default false -- the request ended without a run
) with (fillfactor = 85);
select pratique_protect('log_head');

create table log_line (
	tenant_id uuid        not null,
	import_id uuid        not null,
	sequence  bigint      not null,
	source    text        not null check (source in ('run', 'lifecycle')),
	run_id    uuid,
	step      text        not null,
	level     text        not null check (level in ('debug', 'info', 'warn', 'error')),
	message   text        not null,
	at        timestamptz not null,
	primary key (tenant_id, import_id, sequence)
);
create index log_line_newest on log_line (tenant_id, import_id, at desc, sequence desc);
select pratique_protect('log_line');

-- Providers belong to no tenant.
create table provider (
	id         uuid        primary key,
	name       text        not null,
	type       text        not null,
	status     text        not null check (status in ('online', 'offline', 'draining')),
	enabled    boolean, -- quarantine_dispatch_enabled; null: not said
	priority   int         not null,
	max_runs   int         not null,
	version    bigint      not null default 0,
	readiness  jsonb       not null default '{}',
	ready      boolean     not null default false,
	seen_at    timestamptz not null,
	created_at timestamptz not null
);
select pratique_share('provider');
