package app

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"google.golang.org/protobuf/types/known/timestamppb"

	evidencev1 "github.com/pratique-io/pratique/gen/pratique/evidence/v1"
	"github.com/pratique-io/pratique/internal/document"
	"github.com/pratique-io/pratique/internal/failpoint"
	"github.com/pratique-io/pratique/internal/lease"
	"github.com/pratique-io/pratique/internal/oci"
	"github.com/pratique-io/pratique/internal/outbox"
	"github.com/pratique-io/pratique/services/evidence/internal/collect"
	"github.com/pratique-io/pratique/services/evidence/internal/domain"
	"github.com/pratique-io/pratique/services/evidence/internal/store"
)

// missingTries is how often an artifact that the registry does not have is looked for before it counts as missing.
const missingTries = 3

// Collect takes one bundle that is owed, fetches and verifies its documents, copies them, records and judges. It may die anywhere: the
// copies are by digest and are made again, and nothing is recorded before all of them are there.
func (a *App) Collect(ctx context.Context) (didWork bool, err error) {
	var b *domain.Bundle
	var term lease.Term
	err = a.DB.Work(ctx, func(tx pgx.Tx) (err error) {
		now := a.now()
		b, term, err = store.LeaseBundle(ctx, tx, now, now.Add(a.Lease))
		return err
	})
	if errors.Is(err, store.ErrNone) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	failpoint.Hit("evidence.before_collect")
	working, stop := a.keep(ctx, func(ctx context.Context, until time.Time) error {
		return store.RenewBundle(ctx, a.DB.WorkerPool(), b.ID, term.Token, until)
	})
	result, err := a.fetch(working, b)
	stop()
	switch {
	case err == nil:
		failpoint.Hit("evidence.before_record")
		err = a.record(ctx, b, result)
	case ctx.Err() != nil:
		giveBack(ctx, func(ctx context.Context) error { return store.ReleaseBundle(ctx, a.DB.WorkerPool(), b.ID, term.Token) })
		return true, ctx.Err()
	default:
		err = a.failed(ctx, b, err)
	}
	if errors.Is(err, store.ErrLost) { // whoever has it now does the same
		a.Log.WarnContext(ctx, "lease on a bundle was lost", "tenant_id", b.Tenant, "request_id", b.ID)
		return true, nil
	}
	return true, err
}

// fetch verifies, then copies: what is refused never reaches the evidence store.
func (a *App) fetch(ctx context.Context, b *domain.Bundle) (collect.Result, error) {
	source := a.Quarantine.Repository(domain.Repository(b.Tenant, b.ID))
	result, err := collect.Verify(ctx, source, collect.Input{
		Tenant: b.Tenant, Request: b.ID, Digest: b.Digest, Run: b.Run, Attempt: b.Attempt, Image: b.Image, Repository: b.Repository,
		Artifacts: b.Artifacts, Final: b.Tries+1 >= missingTries,
	}, a.now())
	if err != nil {
		return collect.Result{}, err
	}
	name := domain.Store(b.Tenant, b.ID)
	target := a.Store.Repository(name)
	for _, kind := range document.Kinds() {
		digest, ok := result.Artifacts[kind]
		if !ok {
			continue
		}
		// tagged, so that no collector takes them; their subject is not in this repository, and stays with the quarantine copy
		opts := oci.CopyOptions{Tags: []string{string(kind) + "-" + tagOf(b.Run)}}
		if _, err := oci.Copy(ctx, source, target, digest, opts); err != nil {
			return collect.Result{}, fmt.Errorf("store %s evidence: %w", kind, err)
		}
	}
	for i := range result.Documents {
		result.Documents[i].Repository = name
	}
	failpoint.Hit("evidence.after_copy")
	return result, nil
}

// tagOf makes a run's id fit for a tag; ids are UUIDs, and anything else is hashed.
func tagOf(run string) string {
	if id, err := uuid.Parse(run); err == nil {
		return id.String()
	}
	return oci.FromBytes([]byte(run)).Hex()[:32]
}

// failed decides between trying again and deciding for good.
// leastTries is how often a registry is asked before its silence counts as an answer.
const leastTries = 5

func (a *App) failed(ctx context.Context, b *domain.Bundle, cause error) error {
	var refused *collect.Refused
	if errors.As(cause, &refused) {
		return a.refuse(ctx, b, refused.Kind, refused.Text)
	}
	now := a.now()
	// After an outage of ours the time may be over before anybody has tried: one failure then proves nothing.
	if now.Sub(b.Since) >= a.CollectFor && b.Tries+1 >= leastTries {
		return a.refuse(ctx, b, string(document.Source), fmt.Sprintf("the documents could not be fetched for %s: %s", a.CollectFor, brief(cause)))
	}
	a.Log.WarnContext(ctx, "evidence could not be collected, trying again", "tenant_id", b.Tenant, "request_id", b.ID, "run_id", b.Run,
		"attempt", b.Tries+1, "err", cause)
	wait := min(time.Second<<min(b.Tries, 9), 5*time.Minute)
	return a.DB.Work(ctx, func(tx pgx.Tx) error {
		return store.PostponeBundle(ctx, tx, b.ID, b.Lease, now.Add(wait), brief(cause))
	})
}

// record writes what was verified and judges it in the same transaction.
func (a *App) record(ctx context.Context, read *domain.Bundle, result collect.Result) error {
	return a.DB.Work(ctx, func(tx pgx.Tx) error {
		b, err := a.still(ctx, tx, read)
		if err != nil {
			return err
		}
		now := a.now()
		b.Evidence, b.RecordedAt = result.Evidence, now
		b.Hash = domain.HashDocuments(b.Digest, b.Run, result.Documents)
		recorded, err := b.Move(domain.Record, actor, "", now)
		if err != nil {
			return err
		}
		first, err := say(ctx, b, &recorded, &evidencev1.EvidenceRecorded{
			ImportId: b.ID.String(), TenantId: b.Tenant.String(), Digest: b.Digest, RunId: b.Run, EvidenceHash: b.Hash,
			DocumentCount: int32(len(result.Documents)), RecordedAt: timestamppb.New(now),
		})
		if err != nil {
			return err
		}
		if err := store.InsertDocuments(ctx, tx, b, result.Documents); err != nil {
			return err
		}
		if err := store.InsertComponents(ctx, tx, b, result.Components); err != nil {
			return err
		}
		if err := store.InsertFindings(ctx, tx, b, result.Evidence.Findings); err != nil {
			return err
		}
		if err := outbox.Append(ctx, tx, first); err != nil {
			return err
		}
		return a.decide(ctx, tx, b, domain.Decide, []domain.Transition{recorded})
	})
}

// refuse decides error: the evidence is none.
func (a *App) refuse(ctx context.Context, read *domain.Bundle, kind, text string) error {
	a.Log.WarnContext(ctx, "evidence is refused", "tenant_id", read.Tenant, "request_id", read.ID, "run_id", read.Run, "kind", kind, "err", text)
	return a.DB.Work(ctx, func(tx pgx.Tx) error {
		b, err := a.still(ctx, tx, read)
		if err != nil {
			return err
		}
		b.Evidence = domain.Evidence{Subject: b.Digest, Problems: []domain.Problem{{Kind: kind, Outcome: domain.OutcomeError, Text: text}}}
		return a.decide(ctx, tx, b, domain.Refuse, nil)
	})
}

// still locks a bundle that this program has leased.
func (a *App) still(ctx context.Context, tx pgx.Tx, read *domain.Bundle) (*domain.Bundle, error) {
	b, err := store.LockBundle(ctx, tx, read.ID)
	if err != nil {
		return nil, err
	}
	if b.Lease != read.Lease || b.State != domain.Collecting {
		return nil, store.ErrLost
	}
	return b, nil
}

// decide judges the bundle as it stands, and writes bundle, decision, trail, event and what becomes of the copy.
func (a *App) decide(ctx context.Context, tx pgx.Tx, b *domain.Bundle, verb domain.Verb, before []domain.Transition) error {
	now := a.now()
	policy, err := store.Policy(ctx, tx, b.Tenant)
	if err != nil {
		return err
	}
	r, err := store.Request(ctx, tx, b.ID)
	if err != nil {
		return err
	}
	d := domain.Judge(policy, b.Evidence, now)
	move, err := b.Move(verb, actor, d.Verdict, now)
	if err != nil {
		return err
	}
	b.DecisionVersion++
	b.ExpiresAt = time.Time{}
	if d.Verdict == domain.VerdictPass || d.Verdict == domain.VerdictQuarantine {
		b.ExpiresAt = d.ExpiresAt // what is incomplete cannot become stale
	}
	msg, err := a.decided(b, d)
	if err != nil {
		return err
	}
	e, err := say(ctx, b, &move, msg)
	if err != nil {
		return err
	}
	if err := store.SaveBundle(ctx, tx, b, uuid.Nil, append(before, move)...); err != nil {
		return err
	}
	if err := store.InsertDecision(ctx, tx, b, d); err != nil {
		return err
	}
	if err := a.retain(ctx, tx, r, d); err != nil {
		return err
	}
	return outbox.Append(ctx, tx, e)
}

// retain says how long the copy is kept after the decision. One that is condemned already stays so.
func (a *App) retain(ctx context.Context, tx pgx.Tx, r domain.Request, d domain.Decision) error {
	until, reason := domain.Retain(r.Type, d, a.Retention)
	if reason != "" {
		return a.condemn(ctx, tx, r, reason)
	}
	return store.RetainCopy(ctx, tx, r.ID, until, a.now())
}

// JudgeAgain decides about a judged or stale bundle anew, from what is stored: after its policy or what is known about its findings
// changed. No document is read and nothing runs.
func (a *App) JudgeAgain(ctx context.Context, tx pgx.Tx, id uuid.UUID) error {
	b, err := store.LockBundle(ctx, tx, id)
	if err != nil {
		return err
	}
	if b.Evidence.Findings, err = store.Findings(ctx, tx, b); err != nil {
		return err
	}
	return a.decide(ctx, tx, b, domain.Decide, nil)
}
