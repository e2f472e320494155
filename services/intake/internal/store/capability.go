package store

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/pratique-io/pratique/services/intake/internal/domain"
)

// Document is one entitlement document. The zero Document (version 0) stands for one that nobody has set: everything off.
type Document struct {
	ID        uuid.UUID
	Tenant    uuid.UUID // Nil for the document of all tenants
	Switches  domain.Capabilities
	Version   int
	UpdatedAt time.Time
	UpdatedBy string
}

const switchColumns = `id, build, quarantine_request, quarantine_release, ondemand_image_scanning, version, updated_at, updated_by`

const (
	selectDefault  = `select ` + switchColumns + ` from capability_default`
	selectDocument = `select ` + switchColumns + ` from capability_document where tenant_id = @tenant`
)

func scanDocument(row pgx.Row) (Document, error) {
	var d Document
	s := &d.Switches
	err := row.Scan(&d.ID, &s.Build, &s.QuarantineRequest, &s.QuarantineRelease, &s.OndemandScanning, &d.Version, &d.UpdatedAt, &d.UpdatedBy)
	utc(&d.UpdatedAt)
	return d, err
}

// OwnDocument reads exactly the document asked for (Nil: of all tenants), the zero Document when nobody has set it.
func OwnDocument(ctx context.Context, tx pgx.Tx, tenant uuid.UUID) (Document, error) {
	query := selectDocument
	if tenant == uuid.Nil {
		query = selectDefault
	}
	d, err := scanDocument(tx.QueryRow(ctx, query, pgx.NamedArgs{"tenant": tenant}))
	if errors.Is(err, pgx.ErrNoRows) {
		return Document{Tenant: tenant}, nil
	}
	if err != nil {
		return Document{}, fmt.Errorf("read capabilities: %w", err)
	}
	d.Tenant = tenant
	return d, nil
}

// EffectiveDocument is what holds for a tenant: its own document, else the switches of that of all tenants, else everything off. Its version is
// the tenant's own (0 when it has none), which is what a PUT for the tenant is guarded by.
func EffectiveDocument(ctx context.Context, tx pgx.Tx, tenant uuid.UUID) (Document, error) {
	own, err := OwnDocument(ctx, tx, tenant)
	if err != nil || own.Version > 0 {
		return own, err
	}
	global, err := OwnDocument(ctx, tx, uuid.Nil)
	own.Switches = global.Switches
	return own, err
}

const writeColumns = `build, quarantine_request, quarantine_release, ondemand_image_scanning, change_reason, version, updated_at, updated_by`

const (
	writeValues = `@build, @request, @release, @scan, @reason, 1, @now, @by`
	writeUpdate = `
	do update set build = excluded.build, quarantine_request = excluded.quarantine_request, quarantine_release = excluded.quarantine_release,
	ondemand_image_scanning = excluded.ondemand_image_scanning, change_reason = excluded.change_reason, updated_at = excluded.updated_at,
	updated_by = excluded.updated_by, version = d.version + 1
	where @expected::integer is null or d.version = @expected
	returning ` + switchColumns
)

// With an expected version of 1 or more the row must exist; of 0, it must not.
const (
	putDefault = `insert into capability_default as d (id, ` + writeColumns + `)
select @id, ` + writeValues + ` where coalesce(@expected::integer, 0) = 0 or exists (select 1 from capability_default)
on conflict (single) ` + writeUpdate
	putDocument = `insert into capability_document as d (tenant_id, id, ` + writeColumns + `)
select @tenant, @id, ` + writeValues + ` where coalesce(@expected::integer, 0) = 0 or exists (select 1 from capability_document where tenant_id = @tenant)
on conflict (tenant_id) ` + writeUpdate
)

// PutDocument replaces a document. expected refuses a lost update (state_conflict) when it is not the stored version.
func PutDocument(ctx context.Context, tx pgx.Tx, d Document, reason string, expected *int32) (Document, error) {
	query := putDocument
	if d.Tenant == uuid.Nil {
		query = putDefault
	}
	out, err := scanDocument(tx.QueryRow(ctx, query, pgx.NamedArgs{
		"tenant": d.Tenant, "id": d.ID, "build": d.Switches.Build, "request": d.Switches.QuarantineRequest,
		"release": d.Switches.QuarantineRelease, "scan": d.Switches.OndemandScanning, "reason": reason, "now": d.UpdatedAt,
		"by": d.UpdatedBy, "expected": expected,
	}))
	if errors.Is(err, pgx.ErrNoRows) {
		return Document{}, conflict("the document")
	}
	if err != nil {
		return Document{}, fmt.Errorf("write capabilities: %w", err)
	}
	out.Tenant = d.Tenant
	return out, nil
}

// Standing is what every admission and re-check asks about a tenant.
type Standing struct {
	Tenant       Tenant
	Capabilities domain.Capabilities
	Epr          *domain.Registration // newest approved one with the record id; nil when there is none
	LastEpr      *domain.Registration // without an approved one: the newest of any status; nil when there is none
}

// StandingOf reads tenant, capabilities and, when a record id is given, the registration in one place. ErrNone: no such tenant.
func StandingOf(ctx context.Context, tx pgx.Tx, tenant uuid.UUID, record string) (Standing, error) {
	tenants, err := Tenants(ctx, tx, []uuid.UUID{tenant})
	if err != nil {
		return Standing{}, err
	}
	if len(tenants) == 0 {
		return Standing{}, ErrNone
	}
	doc, err := EffectiveDocument(ctx, tx, tenant)
	if err != nil {
		return Standing{}, err
	}
	out := Standing{Tenant: tenants[0], Capabilities: doc.Switches}
	if record == "" {
		return out, nil
	}
	out.Epr, err = NewestEpr(ctx, tx, tenant, record)
	if errors.Is(err, ErrNone) {
		out.Epr = nil
		out.LastEpr, err = LastEpr(ctx, tx, tenant, record)
	}
	if errors.Is(err, ErrNone) {
		out.LastEpr, err = nil, nil
	}
	return out, err
}
