package app

import (
	"context"
	"errors"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	errorsv1 "github.com/pratique-io/pratique/gen/pratique/errors/v1"
	rpcv1 "github.com/pratique-io/pratique/gen/pratique/rpc/v1"
	"github.com/pratique-io/pratique/internal/auth"
	"github.com/pratique-io/pratique/internal/fault"
	"github.com/pratique-io/pratique/internal/oci"
	"github.com/pratique-io/pratique/internal/page"
	"github.com/pratique-io/pratique/internal/pg"
	"github.com/pratique-io/pratique/services/release/internal/domain"
	"github.com/pratique-io/pratique/services/release/internal/peer"
	"github.com/pratique-io/pratique/services/release/internal/store"
)

// Now is the clock that answers are judged by.
func (a *App) Now() time.Time { return a.now() }

// Artifact reads one released artifact that the caller may see.
func (a *App) Artifact(ctx context.Context, id uuid.UUID) (domain.Artifact, error) {
	scope := auth.From(ctx).Scope()
	var out domain.Artifact
	err := a.db.Read(ctx, scope, func(tx pgx.Tx) (err error) {
		out, err = store.Artifact(ctx, tx, scope, id)
		return missing("released artifact", err)
	})
	return out, err
}

// Artifacts reads one page, newest release first. tenant narrows a system role's list and must be a tenant caller's own; Nil is all.
func (a *App) Artifacts(ctx context.Context, tenant uuid.UUID, search string, req page.Request) ([]domain.Artifact, *rpcv1.Pagination, error) {
	caller := auth.From(ctx)
	filter := store.ArtifactFilter{Search: search}
	switch {
	case !caller.Scope().All && tenant != uuid.Nil && tenant != caller.Tenant:
		return nil, nil, fault.New(errorsv1.Reason_REASON_TENANT_CONTEXT_MISMATCH, "lists of other tenants are for system roles")
	case !caller.Scope().All:
		filter.Tenant = &caller.Tenant
	case tenant != uuid.Nil:
		filter.Tenant = &tenant
	}
	var list []domain.Artifact
	var pagination *rpcv1.Pagination
	err := a.db.Read(ctx, caller.Scope(), func(tx pgx.Tx) error {
		found, total, err := store.Artifacts(ctx, tx, filter, req)
		if err != nil {
			return err
		}
		var last *page.Key
		var more bool
		list, last, more = page.Cut(req, found, func(x domain.Artifact) page.Key { return page.Key{At: x.ReleasedAt, ID: x.ID} })
		pagination = page.Result(req, total, false, last, more)
		return nil
	})
	return list, pagination, err
}

// Verdict says whether the image that the text names may be used, as far as the caller's tenants are concerned. What cannot be read, and what
// nobody knows, is a verdict too.
func (a *App) Verdict(ctx context.Context, text string) (domain.Verdict, error) {
	ref, err := oci.ParseReference(text)
	if err != nil {
		return domain.InvalidReference(), nil
	}
	if ref.Tag == "" && ref.Digest == "" {
		ref.Tag = "latest" // as every runtime reads it
	}
	ours := ref.Host == strings.ToLower(a.trusted)
	scope := auth.From(ctx).Scope()
	var artifact *domain.Artifact
	var record *domain.Record
	err = a.db.Read(ctx, scope, func(tx pgx.Tx) (err error) {
		if artifact, err = released(ctx, tx, scope, ref, ours); err != nil || artifact != nil || ours {
			return err
		}
		record, err = requested(ctx, tx, scope, ref)
		return err
	})
	if err != nil {
		return domain.Verdict{}, err
	}
	return domain.Judge(ours, artifact, record, !ours && ref.Digest == "", a.now()), nil
}

func released(ctx context.Context, tx pgx.Tx, scope pg.Scope, ref oci.Reference, ours bool) (*domain.Artifact, error) {
	var a domain.Artifact
	var err error
	switch {
	case ours && ref.Digest != "":
		a, err = store.ByDigest(ctx, tx, scope, ref.Host+"/"+ref.Repository, string(ref.Digest))
	case ours:
		a, err = store.AtTag(ctx, tx, scope, ref.String())
	case ref.Digest != "": // the same bytes, wherever they came from
		a, err = store.ByDigest(ctx, tx, scope, "", string(ref.Digest))
	default:
		a, err = store.BySource(ctx, tx, scope, originOf(ref))
	}
	if errors.Is(err, store.ErrNone) {
		return nil, nil
	}
	return &a, err
}

func requested(ctx context.Context, tx pgx.Tx, scope pg.Scope, ref oci.Reference) (*domain.Record, error) {
	var r *domain.Record
	var err error
	if ref.Digest != "" {
		r, err = store.NewestByDigest(ctx, tx, scope, string(ref.Digest))
	} else {
		r, err = store.NewestBySource(ctx, tx, scope, originOf(ref))
	}
	if errors.Is(err, store.ErrNone) {
		return nil, nil
	}
	return r, err
}

// Explain lists every rule of eligibility as it stands. For a request that we have not heard of yet, intake says whether the caller may see it.
func (a *App) Explain(ctx context.Context, id uuid.UUID) (bool, domain.Blocker, []domain.Rule, error) {
	r, err := a.record(ctx, auth.From(ctx).Scope(), id)
	if errors.Is(err, store.ErrNone) {
		seen, asked := a.peers.Request(ctx, id)
		if asked != nil {
			return false, "", nil, asked
		}
		r, err = domain.NewRecord(id, uuid.Nil, a.now()), nil
		r.Facts.Learn(domain.Progress{Seq: 1, Status: domain.Status(seen.GetStatus())})
		r.Facts.Learn(domain.Request{Type: seen.GetRequestType(), Digest: seen.GetSourceImageDigest()})
	}
	if err != nil {
		return false, "", nil, err
	}
	ok, reason, rules := r.Eligible(a.now())
	if !ok || !r.Known() {
		return false, reason, rules, nil
	}
	return a.explainEntitlement(ctx, r, rules)
}

// explainEntitlement adds intake's word, which releasing needs besides; without an answer the rule fails, as a release would.
func (a *App) explainEntitlement(ctx context.Context, r *domain.Record, rules []domain.Rule) (bool, domain.Blocker, []domain.Rule, error) {
	answer, err := a.peers.Entitlement(ctx, r.ID)
	rule := domain.Rule{Name: "entitlement", Inputs: map[string]any{"answer": "none"}}
	if err != nil && !peer.Missing(err) {
		return false, "", append(rules, rule), nil
	}
	rule.Passed = answer.GetAllowed()
	rule.Inputs["answer"] = "allowed"
	if !rule.Passed {
		rule.Inputs["answer"] = answer.GetReason()
		rule.Blocker = domain.Blocker(answer.GetReason())
	}
	return rule.Passed, rule.Blocker, append(rules, rule), nil
}
