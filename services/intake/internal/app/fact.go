package app

import (
	"fmt"
	"time"

	"github.com/google/uuid"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	dispatchv1 "github.com/pratique-io/pratique/gen/pratique/dispatch/v1"
	eventv1 "github.com/pratique-io/pratique/gen/pratique/event/v1"
	evidencev1 "github.com/pratique-io/pratique/gen/pratique/evidence/v1"
	notifyv1 "github.com/pratique-io/pratique/gen/pratique/notify/v1"
	releasev1 "github.com/pratique-io/pratique/gen/pratique/release/v1"
	"github.com/pratique-io/pratique/internal/event"
	"github.com/pratique-io/pratique/services/intake/internal/domain"
	"github.com/pratique-io/pratique/services/intake/internal/view"
)

func nameOf(msg proto.Message) string { return string(msg.ProtoReflect().Descriptor().FullName()) }

// reader turns an event into a domain fact and says which request it is about.
type reader func(e event.Envelope) (importID string, fact any, err error)

// readers are the facts of other services that a request is built from.
var readers = map[string]reader{
	nameOf(&dispatchv1.RunQueued{}):           readQueued,
	nameOf(&dispatchv1.RunWaiting{}):          readWaiting,
	nameOf(&dispatchv1.RunStarted{}):          readStarted,
	nameOf(&dispatchv1.RunStepChanged{}):      readSteps,
	nameOf(&dispatchv1.RunSucceeded{}):        readSucceeded,
	nameOf(&dispatchv1.RunFailed{}):           readFailed,
	nameOf(&dispatchv1.RunCancelled{}):        readCancelled,
	nameOf(&evidencev1.EvidenceRecorded{}):    readRecorded,
	nameOf(&evidencev1.EvidenceDecided{}):     readJudged,
	nameOf(&releasev1.ReleaseReady{}):         readEligible,
	nameOf(&releasev1.ReleaseBlocked{}):       readBlocked,
	nameOf(&releasev1.ReleaseApproved{}):      readGranted,
	nameOf(&releasev1.ImageReleased{}):        readPublished,
	nameOf(&releasev1.ReleaseFailed{}):        readUnpublished,
	nameOf(&notifyv1.ReconciliationChanged{}): readReconciliation,
}

// factOf reads an event of readers.
func factOf(e event.Envelope) (uuid.UUID, any, error) {
	read, ok := readers[e.Type]
	if !ok {
		return uuid.Nil, nil, fmt.Errorf("event %s is no fact about a request", e.Type)
	}
	text, fact, err := read(e)
	if err != nil {
		return uuid.Nil, nil, err
	}
	id, err := uuid.Parse(text)
	if err != nil {
		return uuid.Nil, nil, fmt.Errorf("import id: %w", err)
	}
	return id, fact, nil
}

// when is a time of the message, else of the event. Kept in microseconds, as the database does.
func when(t *timestamppb.Timestamp, e event.Envelope) time.Time {
	if t.IsValid() {
		return t.AsTime().Truncate(time.Microsecond)
	}
	return e.Time.UTC().Truncate(time.Microsecond)
}

func maybe(t *timestamppb.Timestamp) *time.Time {
	if !t.IsValid() {
		return nil
	}
	at := t.AsTime().Truncate(time.Microsecond)
	return &at
}

func told(f *eventv1.Failure) domain.Failure {
	return domain.Failure{Class: f.GetFailureClass(), Code: f.GetFailureCode(), Message: f.GetMessage()}
}

func readQueued(e event.Envelope) (string, any, error) {
	var m dispatchv1.RunQueued
	err := e.Decode(&m)
	return m.GetImportId(), domain.Queued{Seq: e.Sequence, At: when(m.GetQueuedAt(), e)}, err
}

func readWaiting(e event.Envelope) (string, any, error) {
	var m dispatchv1.RunWaiting
	err := e.Decode(&m)
	return m.GetImportId(), domain.Waiting{Seq: e.Sequence, Code: m.GetFailureCode(), Message: m.GetMessage(), Since: when(m.GetSince(), e)}, err
}

func readStarted(e event.Envelope) (string, any, error) {
	var m dispatchv1.RunStarted
	err := e.Decode(&m)
	return m.GetImportId(), domain.Started{
		Seq: e.Sequence, RunID: m.GetRunId(), Attempt: int(m.GetAttempt()), Provider: m.GetProviderId(), RunName: m.GetPipelineRunName(),
		Namespace: m.GetPipelineNamespace(), At: when(m.GetStartedAt(), e),
	}, err
}

func readSteps(e event.Envelope) (string, any, error) {
	var m dispatchv1.RunStepChanged
	err := e.Decode(&m)
	fact := domain.Steps{Seq: e.Sequence}
	for _, s := range m.GetSteps() {
		fact.List = append(fact.List, domain.RunStep{
			Key: s.GetStepKey(), Status: s.GetStatus(), Attempts: int(s.GetAttempts()), LastError: s.GetLastError(),
			StartedAt: maybe(s.GetStartedAt()), CompletedAt: maybe(s.GetCompletedAt()),
		})
	}
	return m.GetImportId(), fact, err
}

func readSucceeded(e event.Envelope) (string, any, error) {
	var m dispatchv1.RunSucceeded
	err := e.Decode(&m)
	return m.GetImportId(), domain.Ended{
		Seq: e.Sequence, As: domain.RunSucceeded, RunID: m.GetRunId(), Attempt: int(m.GetAttempt()), At: when(m.GetFinishedAt(), e),
	}, err
}

func readFailed(e event.Envelope) (string, any, error) {
	var m dispatchv1.RunFailed
	err := e.Decode(&m)
	return m.GetImportId(), domain.Ended{
		Seq: e.Sequence, As: domain.RunFailed, RunID: m.GetRunId(), Attempt: int(m.GetAttempt()), Failure: told(m.GetFailure()),
		At: when(m.GetFinishedAt(), e),
	}, err
}

func readCancelled(e event.Envelope) (string, any, error) {
	var m dispatchv1.RunCancelled
	err := e.Decode(&m)
	return m.GetImportId(), domain.Ended{
		Seq: e.Sequence, As: domain.RunCancelled, RunID: m.GetRunId(), Attempt: int(m.GetAttempt()), At: when(m.GetFinishedAt(), e),
	}, err
}

func readRecorded(e event.Envelope) (string, any, error) {
	var m evidencev1.EvidenceRecorded
	err := e.Decode(&m)
	return m.GetImportId(), domain.Recorded{Seq: e.Sequence, At: when(m.GetRecordedAt(), e)}, err
}

func readJudged(e event.Envelope) (string, any, error) {
	var m evidencev1.EvidenceDecided
	if err := e.Decode(&m); err != nil {
		return "", nil, err
	}
	j := domain.Judged{
		Seq: e.Sequence, Verdict: m.GetDecision(), Reasons: m.GetReasons(), WouldHave: m.GetWouldHaveDecided(),
		EvidenceHash: m.GetEvidenceHash(), DecidedAt: when(m.GetDecidedAt(), e), ReadyAt: maybe(m.GetEvidenceReadyAt()),
		ExpiresAt: maybe(m.GetEvidenceExpiresAt()), InternalRef: m.GetInternalImageRef(), Failure: told(m.GetFailure()),
	}
	var err error
	if j.Policy, err = view.Keep(m.GetPolicySnapshot()); err != nil {
		return "", nil, err
	}
	if j.Scan, err = view.Keep(m.GetScanSummary()); err != nil {
		return "", nil, err
	}
	if j.Sbom, err = view.Keep(m.GetSbomSummary()); err != nil {
		return "", nil, err
	}
	if j.Report, err = view.Keep(m.GetReport()); err != nil {
		return "", nil, err
	}
	if j.Checks, err = view.KeepAll(m.GetChecks()); err != nil {
		return "", nil, err
	}
	j.Platforms, err = view.KeepAll(m.GetPlatforms())
	return m.GetImportId(), j, err
}

func readEligible(e event.Envelope) (string, any, error) {
	var m releasev1.ReleaseReady
	err := e.Decode(&m)
	return m.GetImportId(), domain.Eligible{Seq: e.Sequence, At: when(m.GetReadyAt(), e), ValidUntil: maybe(m.GetValidUntil())}, err
}

func readBlocked(e event.Envelope) (string, any, error) {
	var m releasev1.ReleaseBlocked
	err := e.Decode(&m)
	return m.GetImportId(), domain.ReleaseFact{
		Seq: e.Sequence, State: domain.ReleaseBlocked, Blocker: m.GetBlockerReason(), Message: m.GetMessage(),
	}, err
}

func readGranted(e event.Envelope) (string, any, error) {
	var m releasev1.ReleaseApproved
	err := e.Decode(&m)
	return m.GetImportId(), domain.Promotion{
		At: when(m.GetApprovedAt(), e),
		Release: domain.Release{
			ID: m.GetReleaseId(), Seq: e.Sequence, Destination: m.GetDestinationImageRef(), Digest: m.GetDigest(), State: "approved",
			Actor: m.GetReleasedBy(),
		},
	}, err
}

func readPublished(e event.Envelope) (string, any, error) {
	var m releasev1.ImageReleased
	err := e.Decode(&m)
	at := when(m.GetReleasedAt(), e)
	return m.GetImportId(), domain.Promotion{
		At: at, ValidUntil: maybe(m.GetValidUntil()),
		Release: domain.Release{
			ID: m.GetReleaseId(), Seq: e.Sequence, Destination: m.GetDestinationImageRef(), Digest: m.GetDigest(), State: "released",
			Actor: m.GetReleasedBy(), ReleasedAt: &at,
		},
	}, err
}

func readUnpublished(e event.Envelope) (string, any, error) {
	var m releasev1.ReleaseFailed
	err := e.Decode(&m)
	blocker := m.GetBlockerReason()
	if blocker == "" {
		blocker = "promotion_failed"
	}
	return m.GetImportId(), domain.Promotion{
		At: when(m.GetFailedAt(), e), Blocker: blocker,
		Release: domain.Release{
			ID: m.GetReleaseId(), Seq: e.Sequence, Destination: m.GetDestinationImageRef(), Digest: m.GetDigest(), State: "failed",
			Actor: m.GetReleasedBy(), Error: m.GetError(),
		},
	}, err
}

func readReconciliation(e event.Envelope) (string, any, error) {
	var m notifyv1.ReconciliationChanged
	err := e.Decode(&m)
	return m.GetImportId(), domain.Reconciliation{
		Seq: e.Sequence, EventType: m.GetDecisionEventType(), Key: m.GetIdempotencyKey(), Expected: int(m.GetExpectedRecipients()),
		Receipts: int(m.GetReceiptCount()), InApp: int(m.GetInAppNotificationCount()), DeliveryMode: m.GetDeliveryState(),
	}, err
}
