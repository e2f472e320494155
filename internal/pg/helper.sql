-- What migrations call. Installed in the service's schema before its migrations run, by its owner.
-- SCHEMA is replaced by the schema's name.

-- Row-level security for a table with a column tenant_id uuid. Callers (and the owner, who is bound too:
-- a data migration says  set local pratique.all_tenants = 'on'  first) see their tenant or, when authorisation
-- said so, all. The subselects are evaluated once per query, not per row. A setting that once was set locally
-- reads as '' afterwards, hence nullif. A view over such a table runs with its owner's policy, which shows a worker
-- nothing: make it  with (security_invoker = true).
create or replace function pratique_protect(target text) returns void language plpgsql as $body$
declare
	tenant constant text := $q$tenant_id = (select nullif(current_setting('pratique.tenant_id', true), '')::uuid)
		or (select current_setting('pratique.all_tenants', true) = 'on')$q$;
begin
	execute format('alter table SCHEMA.%I enable row level security', target);
	execute format('alter table SCHEMA.%I force row level security', target);
	execute format('drop policy if exists tenant_scope on SCHEMA.%I', target);
	execute format('drop policy if exists worker_scope on SCHEMA.%I', target);
	execute format('create policy tenant_scope on SCHEMA.%I to SCHEMA_api, SCHEMA_owner using (%s) with check (%s)',
		target, tenant, tenant);
	execute format('create policy worker_scope on SCHEMA.%I to SCHEMA_worker using (true) with check (true)', target);
	perform pratique_share(target);
end
$body$;

-- Grants only, for a table without tenant_id. An append-only table revokes update and delete afterwards.
create or replace function pratique_share(target text) returns void language plpgsql as $body$
begin
	execute format('grant select, insert, update, delete on SCHEMA.%I to SCHEMA_api, SCHEMA_worker', target);
end
$body$;

revoke all on function pratique_protect(text), pratique_share(text) from public;
alter default privileges in schema SCHEMA grant usage, select on sequences to SCHEMA_api, SCHEMA_worker;
