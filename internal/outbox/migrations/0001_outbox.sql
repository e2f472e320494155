-- +goose Up

-- Events, in the transaction that makes them true. Append-only; read by the relay in the order (xid, seq), which no
-- transaction that commits later can undercut, as long as only xids below the snapshot's xmin are read.
create sequence outbox_seq;
create table outbox (
	seq        bigint      not null default nextval('outbox_seq'),
	xid        xid8        not null default pg_current_xact_id(),
	event_id   uuid        not null,
	tenant_id  uuid,                    -- null: an event of no tenant
	subject    text        not null,
	body       bytea       not null,    -- the envelope as it is published, byte for byte
	created_at timestamptz not null default now()
) partition by range (created_at);
create index outbox_order on outbox (xid, seq);

-- Takes what no day was made for, so that appending never fails for want of a partition.
create table outbox_default partition of outbox default;

create table outbox_cursor (
	singleton  boolean     primary key default true check (singleton),
	xid        xid8        not null default '0',
	seq        bigint      not null default 0,
	generation bigint      not null default 0, -- the fence: +1 at each takeover
	system_id  bigint      not null default 0, -- of the database server; another one means a logical restore
	last_xid   xid8        not null default '0',
	updated_at timestamptz not null default now()
);
insert into outbox_cursor default values;

-- What each stream acknowledged: the event at stream_seq is the last one this service knows to be stored. All rows up to
-- (xid, seq) that belong to the stream are in it at or below stream_seq. The newest mark per stream is the live one, older
-- ones are kept sparsely, to find how far a rolled-back stream lost us.
create table outbox_mark (
	stream     text        not null,
	stream_seq bigint      not null,
	event_id   uuid        not null,
	xid        xid8        not null,
	seq        bigint      not null,
	stream_at  timestamptz not null, -- when the stream was created
	created_at timestamptz not null default now(),
	primary key (stream, stream_seq)
);

-- +goose StatementBegin
do $$
declare
	api    constant text := current_schema() || '_api';
	worker constant text := current_schema() || '_worker';
begin
	-- Callers may only append, and only for whom they may act; events of no tenant may come from any caller.
	alter table outbox enable row level security;
	alter table outbox force row level security;
	execute format($q$create policy tenant_scope on outbox for insert to %I with check (
		tenant_id is null
		or tenant_id = (select nullif(current_setting('pratique.tenant_id', true), '')::uuid)
		or (select current_setting('pratique.all_tenants', true) = 'on'))$q$, api);
	execute format('create policy worker_scope on outbox to %I using (true) with check (true)', worker);
	execute format('grant insert on outbox to %I', api);
	execute format('grant select, insert on outbox to %I', worker);
	execute format('grant usage on sequence outbox_seq to %I, %I', api, worker);
	execute format('grant select, update on outbox_cursor to %I', worker);
	execute format('grant select, insert, update, delete on outbox_mark to %I', worker);
end $$;
-- +goose StatementEnd

-- Days are made ahead and dropped behind by the owner on the relay's behalf. Nothing here waits long for a lock: what does
-- not work now is done at the next call.
-- +goose StatementBegin
create function outbox_upkeep(keep interval) returns void language plpgsql security definer
set search_path from current set lock_timeout = '500ms' as $$
declare
	today constant date := (now() at time zone 'utc')::date;
	day   date;
	name  text;
begin
	for day in select today + n from generate_series(0, 6) n loop
		name := 'outbox_' || to_char(day, 'YYYYMMDD');
		continue when to_regclass(name) is not null;
		-- Rows of that day in the default partition would forbid it; that day then lives there.
		continue when exists (select from outbox_default
			where created_at >= day::timestamp at time zone 'utc' and created_at < (day + 1)::timestamp at time zone 'utc');
		execute format('create table %I (like outbox including defaults including constraints)', name);
		execute format('alter table outbox attach partition %I for values from (%L) to (%L)', name,
			day::timestamp at time zone 'utc', (day + 1)::timestamp at time zone 'utc');
	end loop;
	for name in
		select c.relname from pg_inherits i join pg_class c on c.oid = i.inhrelid
		where i.inhparent = 'outbox'::regclass and c.relname ~ '^outbox_[0-9]{8}$'
			and to_date(right(c.relname, 8), 'YYYYMMDD') + 1 <= ((now() - keep) at time zone 'utc')::date
	loop
		execute format('drop table %I', name);
	end loop;
	delete from outbox_default where created_at < now() - keep;
	delete from outbox_mark where created_at < now() - keep;
end $$;

-- After a logical restore xids start over: rows carry xids of a server that is gone, which may never be reached here. All get
-- the lowest, in the order of their numbers, and the cursor goes to the beginning, because what the consumers remember was
-- restored too.
create function outbox_rebase() returns void language plpgsql security definer
set search_path from current as $$
begin
	update outbox set xid = '3';
	delete from outbox_mark;
end $$;
-- +goose StatementEnd

-- +goose StatementBegin
do $$
begin
	execute format('create policy owner_scope on outbox to %I using (true) with check (true)', current_schema() || '_owner');
	execute format('revoke all on function outbox_upkeep(interval), outbox_rebase() from public');
	execute format('grant execute on function outbox_upkeep(interval), outbox_rebase() to %I', current_schema() || '_worker');
	perform outbox_upkeep('30 days');
end $$;
-- +goose StatementEnd
