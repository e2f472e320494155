-- +goose Up

-- What each consumer of this service has claimed. Partitioned by the day inside the event's UUIDv7, so that old days are
-- dropped, and an event older than the oldest day is recognisably too old.
create table inbox (
	consumer   text        not null,
	event_id   uuid        not null,
	created_at timestamptz not null default now(),
	primary key (consumer, event_id)
) partition by range (event_id);
create table inbox_default partition of inbox default;

-- Since when a consumer exists that starts at new events; a refilled broker must not bring it what was before.
create table inbox_consumer (
	consumer   text        primary key,
	since_at   timestamptz not null
);

-- Only events whose handling failed have a row here, until it succeeds or the event is dead.
create table inbox_attempt (
	consumer       text        not null,
	event_id       uuid        not null,
	attempt        int         not null default 0,
	early_since_at timestamptz,             -- first time it was early
	error          text        not null default '',
	updated_at     timestamptz not null default now(),
	primary key (consumer, event_id)
);

-- The newest sequence a projection has seen of an aggregate, for projections whose own rows cannot say (see Newer).
create table inbox_sequence (
	projection   text    not null,
	aggregate_id uuid    not null,
	sequence     bigint  not null,
	primary key (projection, aggregate_id)
);

create table dead_letter (
	id         uuid        primary key,
	consumer   text        not null,
	event_id   uuid,                        -- null when the body is no event
	tenant_id  uuid,
	type       text        not null default '',
	subject    text        not null,
	body       bytea       not null,
	body_hash  bytea       not null,        -- sha-256
	error      text        not null,
	attempt    int         not null,
	state      text        not null check (state in ('dead', 'requeued', 'resolved')),
	created_at timestamptz not null default now(),
	updated_at timestamptz not null default now(),
	unique (consumer, body_hash)
);
create index dead_letter_state on dead_letter (state, consumer, created_at) where state <> 'resolved';

-- +goose StatementBegin
do $$
declare
	t text;
begin
	-- Consumers run as the worker; callers have no business here.
	foreach t in array array['inbox', 'inbox_consumer', 'inbox_attempt', 'inbox_sequence', 'dead_letter'] loop
		execute format('grant select, insert, update, delete on %I to %I', t, current_schema() || '_worker');
	end loop;
end $$;
-- +goose StatementEnd

-- +goose StatementBegin
create function inbox_upkeep(keep interval) returns void language plpgsql security definer
set search_path from current set lock_timeout = '500ms' as $$
declare
	today constant date := (now() at time zone 'utc')::date;
	day   date;
	name  text;
	low   uuid;
	high  uuid;
begin
	for day in select today + n from generate_series(-1, 6) n loop
		name := 'inbox_' || to_char(day, 'YYYYMMDD');
		low  := inbox_floor(day);
		high := inbox_floor(day + 1);
		continue when to_regclass(name) is not null;
		continue when exists (select from inbox_default where event_id >= low and event_id < high);
		execute format('create table %I (like inbox including defaults including constraints)', name);
		execute format('alter table inbox attach partition %I for values from (%L) to (%L)', name, low, high);
	end loop;
	for name in
		select c.relname from pg_inherits i join pg_class c on c.oid = i.inhrelid
		where i.inhparent = 'inbox'::regclass and c.relname ~ '^inbox_[0-9]{8}$'
			and to_date(right(c.relname, 8), 'YYYYMMDD') + 1 <= ((now() - keep) at time zone 'utc')::date
	loop
		execute format('drop table %I', name);
	end loop;
	delete from inbox_default where event_id < inbox_floor(((now() - keep) at time zone 'utc')::date);
	delete from inbox_attempt where updated_at < now() - keep;
	delete from dead_letter where state = 'resolved' and updated_at < now() - keep;
end $$;
-- +goose StatementEnd

-- The lowest UUIDv7 of a day.
-- +goose StatementBegin
create function inbox_floor(day date) returns uuid language sql stable as $$
	select (lpad(to_hex((extract(epoch from day::timestamp at time zone 'utc') * 1000)::bigint), 12, '0')
		|| '00000000000000000000')::uuid
$$;
-- +goose StatementEnd

-- +goose StatementBegin
do $$
begin
	revoke all on function inbox_upkeep(interval) from public;
	execute format('grant execute on function inbox_upkeep(interval) to %I', current_schema() || '_worker');
	perform inbox_upkeep('45 days');
end $$;
-- +goose StatementEnd
