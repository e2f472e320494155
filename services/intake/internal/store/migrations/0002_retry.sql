-- +goose Up
-- Where a request stands in its chain of retries: the original is number 1. One request per place, so that two retries of one request cannot both be.
alter table request
    add column chain_position integer not null default 1 check (chain_position > 0),
    add column retry_of uuid,
    add column cloned_from uuid,
    add check ((chain_position = 1) = (retry_of is null)),
    add check (retry_of is null or cloned_from is null);
create unique index request_chain on request (chain_id, chain_position);
