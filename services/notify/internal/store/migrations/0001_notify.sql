-- +goose Up

-- Since when this service listens. News from before is not told: whoever installs notify beside a running system, or makes its schema anew,
-- must not get a month of old events. It is kept here and not on the broker, so that a broker that was wiped and refilled loses nothing.
create table notify_start (
    singleton  boolean     primary key default true check (singleton),
    started_at timestamptz not null default now()
);
insert into notify_start default values;
select pratique_share('notify_start');

-- One thing that people were to be told of, with how many. Never deleted: when its receipts have aged away, it is what still knows that this
-- was told, so that an event that comes again, even under another id, tells nobody. It names no person.
-- tenant_id is the zero UUID for things of no tenant; row-level security then shows them to no single tenant.
create table notification_plan (
    id                  uuid        primary key,
    tenant_id           uuid        not null,
    event_id            uuid        not null,
    event_type          text        not null,
    notification_type   text        not null check (notification_type <> ''),
    idempotency_key     text        not null, -- <aggregate>:<sequence>
    expected_recipients int         not null check (expected_recipients >= 0),
    created_at          timestamptz not null,
    constraint notification_plan_once unique (tenant_id, notification_type, idempotency_key)
);
select pratique_protect('notification_plan');

-- The durable proof that one recipient was told one thing once, by one channel. It has no foreign keys: it outlives the notification, and its
-- plan outlives it.
create table receipt (
    id                uuid        primary key, -- the idempotency key towards a provider
    tenant_id         uuid        not null,
    plan_id           uuid        not null,
    recipient         uuid        not null,    -- person
    channel           text        not null check (channel in ('in_app')),
    notification_type text        not null,
    idempotency_key   text        not null,
    why               text        not null check (why in ('requester', 'role', 'escalation', 'fallback')),
    created_at        timestamptz not null,
    constraint receipt_once unique (tenant_id, recipient, channel, notification_type, idempotency_key)
);
create index receipt_created on receipt (created_at);
select pratique_protect('receipt');

-- The last number given to a notification of each person. Its row lock is held to the end of the transaction, so a person's numbers become
-- visible in their order, without gaps: a stream that has seen number n never misses a lower one.
create table mailbox (
    recipient uuid   primary key,
    last_seq  bigint not null
) with (fillfactor = 50);
select pratique_share('mailbox');

-- What a person reads, in the words it was told in. Indexes begin with the recipient, not the tenant: a person reads over all tenants.
create table notification (
    id                    uuid        primary key, -- that of its receipt
    tenant_id             uuid        not null,
    recipient             uuid        not null,
    seq                   bigint      not null,
    title                 text        not null check (length(title) between 1 and 200),
    message               text        not null check (length(message) <= 2000),
    notification_type     text        not null,
    related_resource_type text        not null check (related_resource_type in ('import_request', 'epr_registration', 'provider')),
    related_resource_id   uuid        not null,
    link                  text        not null,
    failure_class         text        check (failure_class in ('dispatch', 'connectivity', 'auth', 'policy', 'runtime')),
    failure_code          text,
    hint                  text,
    read_at               timestamptz,
    created_at            timestamptz not null,
    constraint notification_order unique (recipient, seq)
) with (fillfactor = 85);
create index notification_list on notification (recipient, created_at desc, id desc);
create index notification_unread on notification (recipient, created_at desc, id desc) where read_at is null;
select pratique_protect('notification');

-- Callers read over tenants, so it is the person that bounds them: store.As sets it in each of their transactions.
-- +goose StatementBegin
do $$
declare
    api constant text := current_schema() || '_api';
begin
    execute format($q$create policy own_only on notification as restrictive to %I
        using (recipient = (select nullif(current_setting('pratique.person_id', true), '')::uuid))$q$, api);
    execute format('revoke insert, update on notification from %I', api);
    execute format('grant update (read_at) on notification to %I', api);
    execute format('revoke all on receipt, notification_plan, notify_start from %I', api);
    execute format('revoke insert, update, delete on mailbox from %I', api);
    execute format('revoke insert, update, delete on notify_start from %I', current_schema() || '_worker');
    execute format('revoke update, delete on notification_plan from %I', current_schema() || '_worker');
end $$;
-- +goose StatementEnd
