package main

import (
	"context"
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	dispatchv1 "github.com/pratique-io/pratique/gen/pratique/dispatch/v1"
	evidencev1 "github.com/pratique-io/pratique/gen/pratique/evidence/v1"
	intakev1 "github.com/pratique-io/pratique/gen/pratique/intake/v1"
	"github.com/pratique-io/pratique/internal/bus"
	"github.com/pratique-io/pratique/internal/event"
	"github.com/pratique-io/pratique/internal/outbox"
)

// pipeline is the no-op pipeline. dispatch has no seam for a runner, and evidence reads its documents from a registry, so their loops do not run:
// instead a consumer in dispatch's place answers RunQueued with RunStarted and RunSucceeded, and one in evidence's place answers RunSucceeded with
// EvidenceRecorded and EvidenceDecided, through those services' own outboxes and relays. What their loops would write besides (leases, run states,
// steps, documents, the policy's rules) is not written, so P1 measures the path of events, not those loops.
type pipeline struct {
	digests sync.Map // request id -> digest, noted by who asked
}

const actor = "service:bench"

func (p *pipeline) subscriptions(service string) []bus.Subscription {
	switch service {
	case "dispatch":
		return []bus.Subscription{{Purpose: "noop", Types: []string{"pratique.dispatch.v1.RunQueued"}, HandleBatch: each(p.run)}}
	case "evidence":
		return []bus.Subscription{{Purpose: "noop", Types: []string{"pratique.dispatch.v1.RunSucceeded"}, HandleBatch: each(p.judge)}}
	}
	return nil
}

// each makes a batch handler of what answers one event: all answers are appended in one statement.
func each(answer func(e event.Envelope) ([]proto.Message, error)) func(context.Context, pgx.Tx, []event.Envelope) []error {
	return func(ctx context.Context, tx pgx.Tx, batch []event.Envelope) []error {
		outcomes := make([]error, len(batch))
		var told []event.Envelope
		for i, e := range batch {
			messages, err := answer(e)
			for n, msg := range messages {
				var one event.Envelope
				if one, err = event.New(event.WithCause(ctx, e), msg, event.Head{Subject: e.Aggregate(), Tenant: e.Tenant(),
					Sequence: e.Sequence + int64(n) + 1, Request: e.Aggregate(), Actor: actor}); err != nil {
					break
				}
				told = append(told, one)
			}
			outcomes[i] = err
		}
		if err := outbox.Append(ctx, tx, told...); err != nil {
			for i := range outcomes {
				outcomes[i] = err
			}
		}
		return outcomes
	}
}

// digest is early while whoever asked has not noted it: the events are faster than the answer.
func (p *pipeline) digest(e event.Envelope) (string, error) {
	digest, known := p.digests.Load(e.Subject)
	if !known {
		return "", bus.Early("not_noted")
	}
	return digest.(string), nil
}

func (p *pipeline) run(e event.Envelope) ([]proto.Message, error) {
	digest, err := p.digest(e)
	if err != nil {
		return nil, err
	}
	id, tenant, run, now := e.Subject, e.TenantID, uuid.NewString(), timestamppb.New(time.Now())
	repository := nowhere + "/q/" + tenant + "/" + id
	documents := map[string]string{}
	for _, kind := range []string{"source", "sbom", "vulnerabilities", "report"} {
		documents[kind] = digestOf(id + kind)
	}
	return []proto.Message{
		&dispatchv1.RunStarted{ImportId: id, TenantId: tenant, RunId: run, Attempt: 1, ProviderId: uuid.NewString(), PipelineRunName: "noop-" + id,
			StartedAt: now, QuarantineRepository: repository},
		&dispatchv1.RunSucceeded{ImportId: id, TenantId: tenant, RunId: run, Attempt: 1, QuarantineRepository: repository, ImageDigest: digest,
			Documents: documents, FinishedAt: now},
	}, nil
}

func (p *pipeline) judge(e event.Envelope) ([]proto.Message, error) {
	digest, err := p.digest(e)
	if err != nil {
		return nil, err
	}
	id, tenant, now := e.Subject, e.TenantID, time.Now()
	hash, expires := digestOf(id+"evidence"), timestamppb.New(now.Add(24*time.Hour))
	return []proto.Message{
		&evidencev1.EvidenceRecorded{ImportId: id, TenantId: tenant, Digest: digest, EvidenceHash: hash, DocumentCount: 4, RecordedAt: timestamppb.New(now)},
		&evidencev1.EvidenceDecided{ImportId: id, TenantId: tenant, Digest: digest, Decision: "pass", EvidenceHash: hash, PolicyHash: digestOf("policy"),
			PolicyVersion: 1, DecidedAt: timestamppb.New(now), EvidenceReadyAt: timestamppb.New(now), EvidenceExpiresAt: expires,
			ScanSummary: &intakev1.ScanSummary{}, SbomSummary: &intakev1.SbomSummary{Format: "spdx", PackageCount: 100},
			Platforms:        []*intakev1.Platform{{Os: "linux", Architecture: "amd64", Digest: digestOf(id + "amd64")}},
			InternalImageRef: nowhere + "/q/" + tenant + "/" + id + "@" + digest},
	}, nil
}
