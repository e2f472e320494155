-- +goose Up
-- What intake says about tenants, people and roles, as last heard. Shared by all callers of the service: authorisation reads it
-- before any tenant is selected, and system bindings belong to no tenant.
create table directory_tenant (
    tenant_id uuid primary key,
    slug      text   not null,
    name      text   not null,
    status    text   not null check (status in ('active', 'disabled')),
    sequence  bigint not null
);
-- Not unique: events arrive out of order, so two rows may hold one slug for a moment. Resolving picks none of two.
create index directory_tenant_slug on directory_tenant (slug);

create table directory_person (
    person_id uuid primary key,
    subject   text   not null check (subject <> ''),
    name      text   not null,
    email     text   not null,
    groups    text[] not null,
    sequence  bigint not null
);
create index directory_person_subject on directory_person (subject);
create index directory_person_groups on directory_person using gin (groups);

create table directory_binding (
    binding_id uuid primary key,
    subject    text    not null,
    group_name text    not null,
    role       text    not null check (role in ('system_admin', 'security_reviewer', 'auditor', 'tenant_admin', 'tenant_member', 'tenant_viewer')),
    tenant_id  uuid,
    active     boolean not null,
    sequence   bigint  not null,
    check ((subject = '') <> (group_name = '')),
    check ((tenant_id is null) = (role in ('system_admin', 'security_reviewer', 'auditor')))
);
create index directory_binding_subject on directory_binding (subject) where active and subject <> '';
create index directory_binding_group on directory_binding (group_name) where active and group_name <> '';
create index directory_binding_role on directory_binding (tenant_id, role) where active;

select pratique_share('directory_tenant');
select pratique_share('directory_person');
select pratique_share('directory_binding');
