package store

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/pratique-io/pratique/internal/page"
	"github.com/pratique-io/pratique/internal/pg"
	"github.com/pratique-io/pratique/services/release/internal/domain"
)

const artifactColumns = `id, tenant_id, record_id, release_id, source_registry, source_image_ref, digest, destination_image_ref, repository,
	trusted_ref, released_at, released_by, valid_until, previous_digest, is_current`

func scanArtifact(row pgx.CollectableRow) (domain.Artifact, error) {
	var a domain.Artifact
	err := row.Scan(&a.ID, &a.Tenant, &a.Record, &a.Release, &a.SourceRegistry, &a.SourceRef, &a.Digest, &a.Destination, &a.Repository,
		&a.TrustedRef, &a.ReleasedAt, &a.ReleasedBy, &a.ValidUntil, &a.PreviousDigest, &a.Current)
	return a, err
}

const retireArtifacts = `
update released_artifact set is_current = false
where destination_image_ref = @destination and digest <> @digest and is_current`

const upsertArtifact = `
insert into released_artifact (id, tenant_id, record_id, release_id, source_registry, source_image_ref, source_name, source_tag, digest,
	destination_image_ref, repository, trusted_ref, released_at, released_by, valid_until, previous_digest, is_current)
values (@id, @tenant, @record, @release, @registry, @ref, @name, @tag, @digest, @destination, @repository, @trusted, @at, @by, @until,
	@previous, true)
on conflict on constraint released_artifact_once do update set record_id = excluded.record_id, release_id = excluded.release_id,
	source_registry = excluded.source_registry, source_image_ref = excluded.source_image_ref, source_name = excluded.source_name,
	source_tag = excluded.source_tag, released_at = excluded.released_at, released_by = excluded.released_by, valid_until = excluded.valid_until,
	previous_digest = excluded.previous_digest, is_current = true
returning id`

// Place makes the digest the one that the destination's tag names. A digest that was there before keeps its row. Answers the row's id.
func Place(ctx context.Context, tx pgx.Tx, a domain.Artifact, source Source) (uuid.UUID, error) {
	args := pgx.NamedArgs{
		"id": a.ID, "tenant": a.Tenant, "record": a.Record, "release": a.Release, "registry": a.SourceRegistry, "ref": a.SourceRef,
		"name": source.Name, "tag": source.Tag, "digest": a.Digest, "destination": a.Destination, "repository": a.Repository,
		"trusted": a.TrustedRef, "at": a.ReleasedAt, "by": a.ReleasedBy, "until": a.ValidUntil, "previous": a.PreviousDigest,
	}
	if _, err := tx.Exec(ctx, retireArtifacts, args); err != nil {
		return uuid.Nil, fmt.Errorf("retire artifacts: %w", err)
	}
	var id uuid.UUID
	if err := tx.QueryRow(ctx, upsertArtifact, args).Scan(&id); err != nil {
		return uuid.Nil, fmt.Errorf("place artifact: %w", err)
	}
	return id, nil
}

const extendArtifacts = `
update released_artifact a set valid_until = r.valid_until
from unnest(@ids::uuid[], @until::timestamptz[]) as r (record_id, valid_until)
where a.record_id = r.record_id and a.valid_until is distinct from r.valid_until`

// Extend gives the artifacts of records the validity that their evidence now has.
func Extend(ctx context.Context, tx pgx.Tx, until map[uuid.UUID]*time.Time) error {
	if len(until) == 0 {
		return nil
	}
	ids, at := make([]uuid.UUID, 0, len(until)), make([]*time.Time, 0, len(until))
	for id, t := range until {
		ids, at = append(ids, id), append(at, t)
	}
	if _, err := tx.Exec(ctx, extendArtifacts, pgx.NamedArgs{"ids": ids, "until": at}); err != nil {
		return fmt.Errorf("extend artifacts: %w", err)
	}
	return nil
}

func artifact(ctx context.Context, tx pgx.Tx, query string, args pgx.NamedArgs) (domain.Artifact, error) {
	rows, err := tx.Query(ctx, query, args)
	if err != nil {
		return domain.Artifact{}, fmt.Errorf("load artifact: %w", err)
	}
	a, err := pgx.CollectExactlyOneRow(rows, scanArtifact)
	if errors.Is(err, pgx.ErrNoRows) {
		return domain.Artifact{}, ErrNone
	}
	if err != nil {
		return domain.Artifact{}, fmt.Errorf("load artifact: %w", err)
	}
	return a, nil
}

const inScope = ` and (@tenant::uuid is null or tenant_id = @tenant)`

const getArtifact = `select ` + artifactColumns + ` from released_artifact where id = @id` + inScope

// Artifact loads one artifact in the scope.
func Artifact(ctx context.Context, tx pgx.Tx, scope pg.Scope, id uuid.UUID) (domain.Artifact, error) {
	return artifact(ctx, tx, getArtifact, pgx.NamedArgs{"id": id, "tenant": tenantOf(scope)})
}

const artifactAtTag = `select ` + artifactColumns + ` from released_artifact where destination_image_ref = @destination and is_current` + inScope

// AtTag finds what a tag of the trusted registry names.
func AtTag(ctx context.Context, tx pgx.Tx, scope pg.Scope, destination string) (domain.Artifact, error) {
	return artifact(ctx, tx, artifactAtTag, pgx.NamedArgs{"destination": destination, "tenant": tenantOf(scope)})
}

const artifactByDigest = `
select ` + artifactColumns + ` from released_artifact
where digest = @digest and (@repository = '' or repository = @repository)` + inScope + `
order by valid_until desc nulls first, released_at desc, id desc limit 1`

// ByDigest finds a digest in a repository of the trusted registry (host/repository), or anywhere there when repository is empty: the one that
// is valid for longest.
func ByDigest(ctx context.Context, tx pgx.Tx, scope pg.Scope, repository, digest string) (domain.Artifact, error) {
	return artifact(ctx, tx, artifactByDigest, pgx.NamedArgs{"digest": digest, "repository": repository, "tenant": tenantOf(scope)})
}

const artifactBySource = `
select ` + artifactColumns + ` from released_artifact
where source_name = @name and source_tag = @tag` + inScope + `
order by released_at desc, id desc limit 1`

// BySource finds the newest release of a source tag.
func BySource(ctx context.Context, tx pgx.Tx, scope pg.Scope, source Source) (domain.Artifact, error) {
	return artifact(ctx, tx, artifactBySource, pgx.NamedArgs{"name": source.Name, "tag": source.Tag, "tenant": tenantOf(scope)})
}

const artifactOfRecord = `
select ` + artifactColumns + ` from released_artifact where record_id = @record order by released_at desc, id desc limit 1`

// OfRecord finds where a record's bytes already are; for workers.
func OfRecord(ctx context.Context, tx pgx.Tx, record uuid.UUID) (domain.Artifact, error) {
	return artifact(ctx, tx, artifactOfRecord, pgx.NamedArgs{"record": record})
}

// ArtifactFilter narrows the list; Search is a part of registry, references or digest, in any case.
type ArtifactFilter struct {
	Tenant *uuid.UUID // nil: all of the scope
	Search string
}

const artifactsWhere = `
from released_artifact
where (@tenant::uuid is null or tenant_id = @tenant) and (@search = '' or search_text like @search)`

const listArtifacts = `select ` + artifactColumns + artifactsWhere + `
	and (@after_at::timestamptz is null or (released_at, id) < (@after_at, @after_id::uuid))
order by released_at desc, id desc limit @limit offset @offset`

const countArtifacts = `select count(*) from (select 1 ` + artifactsWhere + ` limit @most) as counted`

var likeText = strings.NewReplacer(`\`, `\\`, `%`, `\%`, `_`, `\_`)

// Artifacts reads one page, newest release first, with one row more than asked when there is one, and the count up to page.CountLimit.
func Artifacts(ctx context.Context, tx pgx.Tx, f ArtifactFilter, req page.Request) ([]domain.Artifact, int, error) {
	args := pageArgs(req)
	args["tenant"], args["search"] = f.Tenant, ""
	if f.Search != "" {
		args["search"] = "%" + likeText.Replace(strings.ToLower(f.Search)) + "%"
	}
	rows, err := tx.Query(ctx, listArtifacts, args)
	if err != nil {
		return nil, 0, fmt.Errorf("list artifacts: %w", err)
	}
	list, err := pgx.CollectRows(rows, scanArtifact)
	if err != nil {
		return nil, 0, fmt.Errorf("list artifacts: %w", err)
	}
	var total int
	if err := tx.QueryRow(ctx, countArtifacts, args).Scan(&total); err != nil {
		return nil, 0, fmt.Errorf("count artifacts: %w", err)
	}
	return list, total, nil
}

func pageArgs(req page.Request) pgx.NamedArgs {
	args := pgx.NamedArgs{"after_at": nil, "after_id": nil, "limit": req.Limit + 1, "offset": req.Offset, "most": page.CountLimit}
	if req.After != nil {
		args["after_at"], args["after_id"] = req.After.At, req.After.ID
	}
	return args
}
