package store

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/pratique-io/pratique/internal/pg"
	"github.com/pratique-io/pratique/services/evidence/internal/domain"
)

const insertDocuments = `
insert into document (tenant_id, bundle_id, kind, platform, format, media_type, digest, size, tool, tool_version, finished_at, artifact, repository)
select @tenant, @id, kind, platform, format, media_type, digest, size, tool, tool_version, finished_at, artifact, repository
from jsonb_to_recordset(@rows::jsonb) as n (kind text, platform text, format text, media_type text, digest text, size bigint, tool text,
	tool_version text, finished_at timestamptz, artifact text, repository text)`

// InsertDocuments writes the list of a bundle's documents.
func InsertDocuments(ctx context.Context, tx pgx.Tx, b *domain.Bundle, documents []domain.Document) error {
	rows := make([]map[string]any, 0, len(documents))
	for _, d := range documents {
		rows = append(rows, map[string]any{"kind": d.Kind, "platform": d.Platform, "format": d.Format, "media_type": d.MediaType,
			"digest": d.Digest, "size": d.Size, "tool": d.Tool, "tool_version": d.ToolVersion,
			"finished_at": d.FinishedAt.UTC().Format(time.RFC3339Nano), "artifact": d.Artifact, "repository": d.Repository})
	}
	raw, err := toJSON(rows)
	if err != nil {
		return err
	}
	if _, err := tx.Exec(ctx, insertDocuments, pgx.NamedArgs{"tenant": b.Tenant, "id": b.ID, "rows": raw}); err != nil {
		return fmt.Errorf("insert documents: %w", err)
	}
	return nil
}

const selectDocuments = `
select kind, platform, format, media_type, digest, size, tool, tool_version, finished_at, artifact, repository from document
where bundle_id = @id and (@tenant::uuid is null or tenant_id = @tenant) and (@kind::text = '' or kind = @kind)
order by array_position(array['source', 'sbom', 'vulnerabilities', 'report'], kind), platform, format`

// Documents lists a bundle's documents in the scope; of one kind, or of all when kind is empty.
func Documents(ctx context.Context, tx pgx.Tx, scope pg.Scope, id uuid.UUID, kind string) ([]domain.Document, error) {
	rows, err := tx.Query(ctx, selectDocuments, pgx.NamedArgs{"id": id, "tenant": tenantArg(scope), "kind": kind})
	if err != nil {
		return nil, fmt.Errorf("list documents: %w", err)
	}
	list, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (d domain.Document, err error) {
		err = row.Scan(&d.Kind, &d.Platform, &d.Format, &d.MediaType, &d.Digest, &d.Size, &d.Tool, &d.ToolVersion, &d.FinishedAt, &d.Artifact,
			&d.Repository)
		d.FinishedAt = d.FinishedAt.UTC()
		return d, err
	})
	if err != nil {
		return nil, fmt.Errorf("list documents: %w", err)
	}
	return list, nil
}

const insertComponents = `
insert into component (tenant_id, bundle_id, platform, type, name, version, purl)
select @tenant, @id, n.platform, n.type, n.name, n.version, n.purl
from unnest(@platform::text[], @type::text[], @name::text[], @version::text[], @purl::text[]) as n (platform, type, name, version, purl)`

// InsertComponents writes the component index of a bundle.
func InsertComponents(ctx context.Context, tx pgx.Tx, b *domain.Bundle, list []domain.Component) error {
	n := len(list)
	platform, kind, name, version, purl := make([]string, n), make([]string, n), make([]string, n), make([]string, n), make([]string, n)
	for i, c := range list {
		platform[i], kind[i], name[i], version[i], purl[i] = c.Platform, c.Type, c.Name, c.Version, c.PURL
	}
	_, err := tx.Exec(ctx, insertComponents, pgx.NamedArgs{"tenant": b.Tenant, "id": b.ID, "platform": platform, "type": kind, "name": name,
		"version": version, "purl": purl})
	if err != nil {
		return fmt.Errorf("insert components: %w", err)
	}
	return nil
}

const insertFindings = `
insert into finding (tenant_id, bundle_id, position, id, package, version, type, severity, cvss, fixable, kev)
select @tenant, @id, n.position, n.id, n.package, n.version, n.type, n.severity, n.cvss, n.fixable, n.kev
from unnest(@ids::text[], @package::text[], @version::text[], @type::text[], @severity::text[], @cvss::float8[], @fixable::boolean[],
	@kev::boolean[]) with ordinality as n (id, package, version, type, severity, cvss, fixable, kev, position)`

// InsertFindings writes the distinct findings of a bundle in their order.
func InsertFindings(ctx context.Context, tx pgx.Tx, b *domain.Bundle, list []domain.Finding) error {
	n := len(list)
	ids, name, version, kind, severity := make([]string, n), make([]string, n), make([]string, n), make([]string, n), make([]string, n)
	cvss, fixable, kev := make([]float64, n), make([]bool, n), make([]bool, n)
	for i, f := range list {
		ids[i], name[i], version[i], kind[i], severity[i] = f.ID, f.Package, f.Version, f.Type, f.Severity
		cvss[i], fixable[i], kev[i] = f.CVSS, f.Fixable, f.KEV
	}
	_, err := tx.Exec(ctx, insertFindings, pgx.NamedArgs{"tenant": b.Tenant, "id": b.ID, "ids": ids, "package": name, "version": version,
		"type": kind, "severity": severity, "cvss": cvss, "fixable": fixable, "kev": kev})
	if err != nil {
		return fmt.Errorf("insert findings: %w", err)
	}
	return nil
}

const selectFindings = `
select id, package, version, type, severity, cvss, fixable, kev from finding where tenant_id = @tenant and bundle_id = @id order by position`

// Findings reads what InsertFindings wrote, so that a bundle can be judged again without its documents.
func Findings(ctx context.Context, tx pgx.Tx, b *domain.Bundle) ([]domain.Finding, error) {
	rows, err := tx.Query(ctx, selectFindings, pgx.NamedArgs{"tenant": b.Tenant, "id": b.ID})
	if err != nil {
		return nil, fmt.Errorf("list findings: %w", err)
	}
	list, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (f domain.Finding, err error) {
		return f, row.Scan(&f.ID, &f.Package, &f.Version, &f.Type, &f.Severity, &f.CVSS, &f.Fixable, &f.KEV)
	})
	if err != nil {
		return nil, fmt.Errorf("list findings: %w", err)
	}
	return list, nil
}

const insertDecision = `
insert into decision (tenant_id, bundle_id, version, verdict, would_have, reasons, rules, checks, policy_hash, policy_version, snapshot,
	evidence_hash, releasable, decided_at, expires_at)
values (@tenant, @id, @version, @verdict, @would, @reasons, @rules, @checks, @policy_hash, @policy_version, @snapshot, @hash, @releasable,
	@decided, @expires)`

// InsertDecision appends to the history of a bundle's decisions.
func InsertDecision(ctx context.Context, tx pgx.Tx, b *domain.Bundle, d domain.Decision) error {
	rules, err := toJSON(d.Rules)
	if err != nil {
		return err
	}
	checks, err := toJSON(d.Checks)
	if err != nil {
		return err
	}
	snapshot, err := toJSON(d.Policy.Snapshot())
	if err != nil {
		return err
	}
	reasons := d.Reasons
	if reasons == nil {
		reasons = []string{}
	}
	_, err = tx.Exec(ctx, insertDecision, pgx.NamedArgs{
		"tenant": b.Tenant, "id": b.ID, "version": b.DecisionVersion, "verdict": d.Verdict, "would": d.WouldHave, "reasons": reasons,
		"rules": rules, "checks": checks, "policy_hash": d.Policy.Hash(), "policy_version": d.Policy.Head.Version, "snapshot": snapshot,
		"hash": b.Hash, "releasable": d.Releasable(), "decided": d.DecidedAt, "expires": orNull(d.ExpiresAt),
	})
	if err != nil {
		return fmt.Errorf("insert decision: %w", err)
	}
	return nil
}

// Decided is a stored decision.
type Decided struct {
	Version       int64
	Verdict       string
	WouldHave     string
	Reasons       []string
	Rules         []domain.Rule
	PolicyHash    string
	PolicyVersion int
	Snapshot      map[string]any
	Releasable    bool
	DecidedAt     time.Time
	ExpiresAt     time.Time
}

const selectDecision = `
select version, verdict, would_have, reasons, rules, policy_hash, policy_version, snapshot, releasable, decided_at, expires_at from decision
where bundle_id = @id and (@tenant::uuid is null or tenant_id = @tenant) order by version desc limit 1`

// Decision reads the newest decision about a bundle in the scope; ErrNone before the first.
func Decision(ctx context.Context, tx pgx.Tx, scope pg.Scope, id uuid.UUID) (Decided, error) {
	var d Decided
	var rules, snapshot []byte
	var expires *time.Time
	err := tx.QueryRow(ctx, selectDecision, pgx.NamedArgs{"id": id, "tenant": tenantArg(scope)}).Scan(&d.Version, &d.Verdict, &d.WouldHave,
		&d.Reasons, &rules, &d.PolicyHash, &d.PolicyVersion, &snapshot, &d.Releasable, &d.DecidedAt, &expires)
	if err := found("read decision", err); err != nil {
		return Decided{}, err
	}
	d.DecidedAt, d.ExpiresAt = d.DecidedAt.UTC(), orZero(expires)
	return d, errors.Join(json.Unmarshal(rules, &d.Rules), json.Unmarshal(snapshot, &d.Snapshot))
}

const selectPolicy = `
select id, version, document, updated_at, updated_by from policy_document where tenant_id = @tenant order by version desc limit 1`

// Policy is what a tenant's evidence is judged by: its own policy, else the default.
func Policy(ctx context.Context, tx pgx.Tx, tenant uuid.UUID) (domain.Policy, error) {
	var (
		id   uuid.UUID
		head = domain.Head{Tenant: tenant}
		raw  []byte
	)
	err := tx.QueryRow(ctx, selectPolicy, pgx.NamedArgs{"tenant": tenant}).Scan(&id, &head.Version, &raw, &head.UpdatedAt, &head.UpdatedBy)
	if errors.Is(err, pgx.ErrNoRows) {
		return domain.DefaultPolicy(), nil
	}
	if err != nil {
		return domain.Policy{}, fmt.Errorf("read policy: %w", err)
	}
	head.ID = id.String()
	return domain.ParsePolicy(raw, head)
}
