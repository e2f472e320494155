// Package view shows domain values as the messages of the contract. What is derived for readers only (hints, eligibility, stages) is
// derived here or in domain, never stored.
package view

import (
	"encoding/json"
	"fmt"
	"time"

	"github.com/google/uuid"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	intakev1 "github.com/pratique-io/pratique/gen/pratique/intake/v1"
	"github.com/pratique-io/pratique/internal/failure"
	"github.com/pratique-io/pratique/services/intake/internal/domain"
)

// Request is the request object of the contract.
func Request(r *domain.Request) (*intakev1.ImportRequest, error) {
	out := &intakev1.ImportRequest{
		Id: idText(r.ID), TenantId: r.Tenant.String(), RequestedByUserId: r.RequestedBy.String(), RequestType: string(r.Type),
		ArtifactType: r.ArtifactType, EprRecordId: r.EprRecordID, EprBasis: text(r.EprBasis), SourceRegistry: r.SourceRegistry,
		SourceImageRef: r.SourceImageRef, Justification: r.Justification, CreatedAt: timestamppb.New(r.CreatedAt),
		UpdatedAt: timestamppb.New(r.UpdatedAt), SourceImageDigest: r.SourceDigest, Platforms: Platforms(r.Platforms),
		Status: string(r.State.Status), ExecutionState: string(r.State.Execution),
		ExecutionStateUpdatedAt: timestamppb.New(r.ExecutionAt), ReleaseState: string(r.State.Release),
		ReleaseEligible: r.Eligible(), ReleaseBlockerReason: text(r.Blocker()),
		DestinationImageRef: text(r.DestinationRef), Version: r.Version,
	}
	if f := r.Failure(); f != nil {
		out.FailureClass, out.FailureCode, out.ErrorMessage = text(f.Class), text(f.Code), text(f.Message)
		out.RemediationHint = text(failure.HintOf(f.Code))
	}
	if r.RetryOf != uuid.Nil {
		out.RetryOf = text(r.RetryOf.String())
	}
	if r.ClonedFrom != uuid.Nil {
		out.ClonedFrom = text(r.ClonedFrom.String())
	}
	if retry := r.Retry(); retry.Allowed() {
		out.Retryable, out.RetryAvailableAt = true, timestamppb.New(retry.At)
	}
	run(out, &r.Facts)
	released(out, r)
	decided(out, &r.Facts)
	if err := judged(out, r.Facts.Judged); err != nil {
		return nil, fmt.Errorf("show request %s: %w", r.ID, err)
	}
	return out, nil
}

func run(out *intakev1.ImportRequest, f *domain.Facts) {
	if f.Queued != nil {
		out.DispatchQueuedAt = timestamppb.New(f.Queued.At)
	}
	if s := f.Started; s != nil {
		out.PipelineStartedAt, out.Attempt = timestamppb.New(s.At), int32(min(s.Attempt, 1<<30))
		out.ProviderId, out.PipelineRunName, out.PipelineNamespace = text(s.Provider), text(s.RunName), text(s.Namespace)
	}
}

func released(out *intakev1.ImportRequest, r *domain.Request) {
	f := &r.Facts
	if !r.Releasable() {
		return
	}
	if e := f.Eligible; e != nil {
		out.ReleaseReadyAt, out.ValidUntil = timestamppb.New(e.At), stamp(e.ValidUntil)
	}
	if f.Release != nil {
		out.ReleaseReason = text(f.Release.Message)
	}
	if p := f.Published; p != nil {
		out.ReleasedAt, out.ReleaseActorUserId, out.DestinationImageRef = timestamppb.New(p.At), text(p.Actor), text(p.Destination)
		if p.ValidUntil != nil {
			out.ValidUntil = stamp(p.ValidUntil)
		}
	}
	for _, rel := range f.Releases {
		out.Releases = append(out.Releases, &intakev1.Release{
			Id: rel.ID, DestinationImageRef: rel.Destination, Digest: rel.Digest, State: rel.State, Actor: rel.Actor,
			ReleasedAt: stamp(rel.ReleasedAt), Error: text(rel.Error),
		})
	}
}

func decided(out *intakev1.ImportRequest, f *domain.Facts) {
	d := f.Decision
	out.DecisionTimeline = &intakev1.DecisionTimeline{
		DecisionStatus: d.Status, DecisionReason: text(d.Reason), DecidedByUserId: text(d.By), DecidedAt: stamp(d.At),
		CarriedOverFrom: text(d.CarriedFrom),
	}
	if n := f.Reconciliation; n != nil {
		out.NotificationReconciliation = &intakev1.NotificationReconciliation{
			DecisionEventType: n.EventType, IdempotencyKey: n.Key, ExpectedRecipients: int32(n.Expected), ReceiptCount: int32(n.Receipts),
			InAppNotificationCount: int32(n.InApp), DeliveryState: n.DeliveryMode,
		}
	}
}

func judged(out *intakev1.ImportRequest, j *domain.Judged) error {
	if j == nil {
		return nil
	}
	out.PolicyDecision, out.PolicyReasons, out.WouldHaveDecided = text(j.Verdict), j.Reasons, text(j.WouldHave)
	out.EvidenceHash, out.InternalImageRef = text(j.EvidenceHash), text(j.InternalRef)
	out.EvidenceReadyAt, out.EvidenceExpiresAt = stamp(j.ReadyAt), stamp(j.ExpiresAt)
	var err error
	if out.PolicySnapshot, err = read(j.Policy, &structpb.Struct{}); err != nil {
		return err
	}
	if out.ScanSummary, err = read(j.Scan, &intakev1.ScanSummary{}); err != nil {
		return err
	}
	if out.SbomSummary, err = read(j.Sbom, &intakev1.SbomSummary{}); err != nil {
		return err
	}
	if out.Checks, err = Checks(j); err != nil {
		return err
	}
	if len(out.Platforms) == 0 {
		out.Platforms, err = readAll(j.Platforms, func() *intakev1.Platform { return &intakev1.Platform{} })
	}
	return err
}

// Checks are the checks' verdicts that the evidence brought.
func Checks(j *domain.Judged) ([]*intakev1.CheckResult, error) {
	return readAll(j.Checks, func() *intakev1.CheckResult { return &intakev1.CheckResult{} })
}

// Platforms shows the platforms of an index.
func Platforms(list []domain.Platform) []*intakev1.Platform {
	out := make([]*intakev1.Platform, 0, len(list))
	for _, p := range list {
		out = append(out, &intakev1.Platform{Os: p.OS, Architecture: p.Architecture, Variant: text(p.Variant), Digest: p.Digest})
	}
	return out
}

// Keep turns a message into what facts hold; nil for a nil message.
func Keep(msg proto.Message) (json.RawMessage, error) {
	if msg == nil || !msg.ProtoReflect().IsValid() {
		return nil, nil
	}
	raw, err := protojson.MarshalOptions{UseProtoNames: true}.Marshal(msg)
	if err != nil {
		return nil, fmt.Errorf("keep %s: %w", msg.ProtoReflect().Descriptor().Name(), err)
	}
	return raw, nil
}

// KeepAll is Keep for a list.
func KeepAll[T proto.Message](list []T) (json.RawMessage, error) {
	if len(list) == 0 {
		return nil, nil
	}
	raws := make([]json.RawMessage, 0, len(list))
	for _, msg := range list {
		raw, err := Keep(msg)
		if err != nil {
			return nil, err
		}
		raws = append(raws, raw)
	}
	return json.Marshal(raws)
}

// Read is the reverse of Keep; the zero T for nothing kept.
func Read[T proto.Message](raw json.RawMessage, into T) (T, error) { return read(raw, into) }

func read[T proto.Message](raw json.RawMessage, into T) (T, error) {
	var none T
	if len(raw) == 0 {
		return none, nil
	}
	if err := (protojson.UnmarshalOptions{DiscardUnknown: true}).Unmarshal(raw, into); err != nil {
		return none, fmt.Errorf("read kept %s: %w", into.ProtoReflect().Descriptor().Name(), err)
	}
	return into, nil
}

func readAll[T proto.Message](raw json.RawMessage, empty func() T) ([]T, error) {
	if len(raw) == 0 {
		return nil, nil
	}
	var raws []json.RawMessage
	if err := json.Unmarshal(raw, &raws); err != nil {
		return nil, fmt.Errorf("read kept list: %w", err)
	}
	out := make([]T, 0, len(raws))
	for _, one := range raws {
		msg, err := read(one, empty())
		if err != nil {
			return nil, err
		}
		out = append(out, msg)
	}
	return out, nil
}

func text(s string) *string {
	if s == "" {
		return nil
	}
	return &s
}

func stamp(t *time.Time) *timestamppb.Timestamp {
	if t == nil {
		return nil
	}
	return timestamppb.New(*t)
}

// idText leaves the id of what does not exist (validate_only) empty.
func idText(id uuid.UUID) string {
	if id == uuid.Nil {
		return ""
	}
	return id.String()
}
