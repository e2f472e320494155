-- +goose Up
-- First answers of calls that carried an idempotency key. A row lives in the transaction of what it answers for: it exists
-- exactly when the call succeeded. tenant_id is the zero UUID for callers without a selected tenant.
create table idempotency_key (
    tenant_id  uuid        not null,
    principal  text        not null check (principal <> ''),
    method     text        not null check (method <> ''),
    key        text        not null check (length(key) between 1 and 255),
    body_hash  bytea       not null check (length(body_hash) = 32),
    response   bytea,
    created_at timestamptz not null,
    primary key (tenant_id, principal, method, key)
);
create index idempotency_key_created on idempotency_key (created_at);

select pratique_protect('idempotency_key');
