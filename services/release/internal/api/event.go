package api

import (
	"context"
	"errors"
	"fmt"
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
	"github.com/pratique-io/pratique/services/release/internal/app"
	"github.com/pratique-io/pratique/services/release/internal/domain"
)

func nameOf(msg proto.Message) string { return string(msg.ProtoReflect().Descriptor().FullName()) }

// reader turns an event into facts and says which request and tenant it claims to be about.
type reader func(e event.Envelope) (importID, tenantID string, facts []any, err error)

var readers = map[string]reader{
	nameOf(&intakev1.RequestSubmitted{}):        readSubmitted,
	nameOf(&intakev1.RequestApproved{}):         readApproved,
	nameOf(&intakev1.RequestRejected{}):         readRejected,
	nameOf(&intakev1.RequestWithdrawn{}):        readWithdrawn,
	nameOf(&intakev1.RequestStateChanged{}):     readStateChanged,
	nameOf(&dispatchv1.RunFailed{}):             readRunFailed,
	nameOf(&evidencev1.EvidenceDecided{}):       readDecided,
	nameOf(&evidencev1.EvidenceStale{}):         readStale,
	nameOf(&evidencev1.QuarantineCopyRemoved{}): readRemoved,
}

// Subscription is release's interest in the facts that releases rest on.
func Subscription(a *app.App) bus.Subscription {
	types := make([]string, 0, len(readers))
	for name := range readers {
		types = append(types, name)
	}
	return bus.Subscription{Purpose: "facts", Types: types, HandleBatch: func(ctx context.Context, tx pgx.Tx, batch []event.Envelope) []error {
		return handle(ctx, tx, a, batch)
	}}
}

func handle(ctx context.Context, tx pgx.Tx, a *app.App, batch []event.Envelope) []error {
	out := make([]error, len(batch))
	var heard []app.Heard
	var at []int // index in batch of each heard one
	for i, e := range batch {
		h, err := read(e)
		if err != nil {
			out[i] = bus.Poison(err)
			continue
		}
		heard, at = append(heard, h), append(at, i)
	}
	if len(heard) == 0 {
		return out
	}
	for i, err := range a.Hear(ctx, tx, heard) {
		switch {
		case errors.Is(err, app.ErrKnown):
			err = bus.Discard("known")
		case errors.Is(err, app.ErrForeign):
			err = bus.Poison(err)
		}
		out[at[i]] = err
	}
	return out
}

func read(e event.Envelope) (app.Heard, error) {
	reader, ok := readers[e.Type]
	if !ok {
		return app.Heard{}, fmt.Errorf("event %s is no fact about a release", e.Type)
	}
	if e.Sequence < 1 {
		return app.Heard{}, fmt.Errorf("event %s has no sequence", e.Type)
	}
	request, tenant, facts, err := reader(e)
	if err != nil {
		return app.Heard{}, err
	}
	h := app.Heard{Facts: facts, Cause: e}
	if h.Record, err = uuid.Parse(request); err != nil || h.Record == uuid.Nil {
		return app.Heard{}, fmt.Errorf("%s: import id %q", e.Type, request)
	}
	if h.Tenant, err = uuid.Parse(tenant); err != nil || h.Tenant == uuid.Nil {
		return app.Heard{}, fmt.Errorf("%s: tenant id %q", e.Type, tenant)
	}
	// The head is what the bus authorised and routed by; the body must not say otherwise.
	if h.Tenant != e.Tenant() || h.Record != e.Aggregate() {
		return app.Heard{}, fmt.Errorf("%s: head and body name different things", e.Type)
	}
	return h, nil
}

func typeOf(text string) (string, error) {
	if text != domain.TypeQuarantine && text != domain.TypeScan {
		return "", fmt.Errorf("request type %q is not known", text)
	}
	return text, nil
}

func readSubmitted(e event.Envelope) (string, string, []any, error) {
	var m intakev1.RequestSubmitted
	if err := e.Decode(&m); err != nil {
		return "", "", nil, err
	}
	kind, err := typeOf(m.GetRequestType())
	return m.GetImportId(), m.GetTenantId(), []any{
		domain.Request{
			Type: kind, Requester: m.GetRequestedBy(), Chain: m.GetChainRequesters(), SourceRegistry: m.GetSourceRegistry(),
			SourceRef: m.GetSourceImageRef(), Digest: m.GetSourceImageDigest(), Destination: m.GetDestinationImageRef(),
		},
		domain.Progress{Seq: e.Sequence, Status: domain.Pending},
	}, err
}

func readApproved(e event.Envelope) (string, string, []any, error) {
	var m intakev1.RequestApproved
	if err := e.Decode(&m); err != nil {
		return "", "", nil, err
	}
	kind, err := typeOf(m.GetRequestType())
	return m.GetImportId(), m.GetTenantId(), []any{
		domain.Request{
			Type: kind, Requester: m.GetRequestedBy(), Chain: m.GetChainRequesters(), SourceRegistry: m.GetSourceRegistry(),
			SourceRef: m.GetSourceImageRef(), Digest: m.GetSourceImageDigest(), Destination: m.GetDestinationImageRef(),
		},
		domain.Progress{Seq: e.Sequence, Status: domain.Admitted},
	}, err
}

func readRejected(e event.Envelope) (string, string, []any, error) {
	var m intakev1.RequestRejected
	err := e.Decode(&m)
	return m.GetImportId(), m.GetTenantId(), []any{domain.Progress{Seq: e.Sequence, Status: domain.Rejected}}, err
}

func readWithdrawn(e event.Envelope) (string, string, []any, error) {
	var m intakev1.RequestWithdrawn
	err := e.Decode(&m)
	return m.GetImportId(), m.GetTenantId(), []any{domain.Progress{Seq: e.Sequence, Status: domain.Withdrawn}}, err
}

func readStateChanged(e event.Envelope) (string, string, []any, error) {
	var m intakev1.RequestStateChanged
	if err := e.Decode(&m); err != nil {
		return "", "", nil, err
	}
	status := domain.Status(m.GetStatus())
	if !status.Known() {
		return "", "", nil, fmt.Errorf("status %q is not known", m.GetStatus())
	}
	return m.GetImportId(), m.GetTenantId(), []any{domain.Progress{Seq: e.Sequence, Status: status}}, nil
}

func readRunFailed(e event.Envelope) (string, string, []any, error) {
	var m dispatchv1.RunFailed
	err := e.Decode(&m)
	return m.GetImportId(), m.GetTenantId(), []any{domain.Broken{Seq: e.Sequence}}, err
}

func readDecided(e event.Envelope) (string, string, []any, error) {
	var m evidencev1.EvidenceDecided
	err := e.Decode(&m)
	return m.GetImportId(), m.GetTenantId(), []any{domain.Judged{
		Seq: e.Sequence, Decision: m.GetDecision(), Digest: m.GetDigest(), EvidenceHash: m.GetEvidenceHash(), PolicyHash: m.GetPolicyHash(),
		WouldHaveDecided: m.GetWouldHaveDecided(), DryRunReleasable: m.GetDryRunReleasable(), Referrers: m.GetReferrers(),
		ValidUntil: maybe(m.GetEvidenceExpiresAt()),
	}}, err
}

func readStale(e event.Envelope) (string, string, []any, error) {
	var m evidencev1.EvidenceStale
	err := e.Decode(&m)
	at := e.Time
	if m.GetExpiredAt().IsValid() {
		at = m.GetExpiredAt().AsTime()
	}
	return m.GetImportId(), m.GetTenantId(), []any{domain.Stale{Seq: e.Sequence, At: at.UTC().Truncate(time.Microsecond)}}, err
}

func readRemoved(e event.Envelope) (string, string, []any, error) {
	var m evidencev1.QuarantineCopyRemoved
	err := e.Decode(&m)
	return m.GetImportId(), m.GetTenantId(), []any{domain.Removed{Seq: e.Sequence, Reason: m.GetReason(), Digest: m.GetDigest()}}, err
}

func maybe(t *timestamppb.Timestamp) *time.Time {
	if !t.IsValid() {
		return nil
	}
	at := t.AsTime().Truncate(time.Microsecond)
	return &at
}
