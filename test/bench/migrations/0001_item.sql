-- +goose Up

-- What P2's handler changes: a state row and its trail, shaped like a service's own.
create table item (
	run        int         not null,
	id         uuid        not null,
	tenant_id  uuid        not null,
	state      text        not null check (state in ('pending', 'approved')),
	version    bigint      not null default 1,
	sequence   bigint      not null default 0,
	digest     text        not null,
	note       text        not null,
	updated_at timestamptz not null default now(),
	primary key (id, run)
) with (fillfactor = 85);
create index item_live on item (tenant_id, updated_at) where state = 'pending';

create table item_transition (
	id         uuid        primary key,
	run        int         not null,
	item_id    uuid        not null,
	tenant_id  uuid        not null,
	version    bigint      not null,
	from_state text        not null,
	to_state   text        not null,
	actor      text        not null,
	reason     text        not null,
	cause_id   uuid        not null,
	at         timestamptz not null default now(),
	unique (item_id, run, version)
);

select pratique_protect('item');
select pratique_protect('item_transition');
