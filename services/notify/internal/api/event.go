package api

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"google.golang.org/protobuf/proto"

	eventv1 "github.com/pratique-io/pratique/gen/pratique/event/v1"
	intakev1 "github.com/pratique-io/pratique/gen/pratique/intake/v1"
	releasev1 "github.com/pratique-io/pratique/gen/pratique/release/v1"
	"github.com/pratique-io/pratique/internal/bus"
	"github.com/pratique-io/pratique/internal/event"
	"github.com/pratique-io/pratique/internal/failpoint"
	"github.com/pratique-io/pratique/services/notify/internal/app"
	"github.com/pratique-io/pratique/services/notify/internal/domain"
)

// Subscriptions are what notify listens to: all that is news to somebody.
//
// The consumer starts with the first event of the stream, not with new ones: a broker that was wiped is refilled from the outboxes while the
// consumer is being made again, and one that starts at new events would miss what came before it, told or not. Events from before this
// service are discarded by app.Tell, those that were told by the inbox and the plans.
func (s *Server) Subscriptions() []bus.Subscription {
	types := make([]string, 0, len(readers))
	for typ := range readers {
		types = append(types, typ)
	}
	slices.Sort(types)
	return []bus.Subscription{{Purpose: "notices", Types: types, HandleBatch: s.tell}}
}

// tell answers one outcome per event. When a statement failed, nobody knows on account of which event: then a single event gets the error, and
// a batch no outcomes at all, which makes the bus split it until the culprit stands alone.
func (s *Server) tell(ctx context.Context, tx pgx.Tx, batch []event.Envelope) []error {
	outcomes := make([]error, len(batch))
	var news []app.News
	var from []int
	for i, e := range batch {
		fact, err := read(e)
		if err != nil {
			outcomes[i] = bus.Poison(err)
			continue
		}
		news, from = append(news, app.News{Event: e, Fact: fact}), append(from, i)
	}
	if len(news) == 0 {
		return outcomes
	}
	told, err := s.app.Tell(ctx, tx, news)
	if err != nil && len(batch) == 1 {
		return []error{err}
	}
	if err != nil {
		return nil
	}
	for i, outcome := range told {
		outcomes[from[i]] = outcome
	}
	s.telling.Store(true)
	failpoint.Hit("notify.before_commit")
	return outcomes
}

// afterCommit runs after every commit of this service; it looks for the one of a telling.
func (s *Server) afterCommit() {
	if s.telling.Swap(false) {
		failpoint.Hit("notify.after_commit")
	}
	s.follow.wake()
}

// concerning are the messages that name their tenant.
type concerning interface {
	proto.Message
	GetTenantId() string
}

// reader decodes one type of event.
type reader func(e event.Envelope) (domain.Fact, error)

// reads makes a reader of a message and of what to take from it.
func reads[M concerning](make func() M, take func(m M, f *domain.Fact)) reader {
	return func(e event.Envelope) (domain.Fact, error) {
		m := make()
		if err := e.Decode(m); err != nil {
			return domain.Fact{}, err
		}
		if m.GetTenantId() != e.TenantID || e.Tenant() == uuid.Nil || e.Aggregate() == uuid.Nil {
			return domain.Fact{}, fmt.Errorf("event %s: tenant or subject of the envelope is not that of the data", e.ID)
		}
		f := domain.Fact{Event: string(m.ProtoReflect().Descriptor().Name()), Resource: e.Aggregate()}
		var err error
		if asked, ok := any(m).(interface{ GetRequestedBy() string }); ok {
			f.Requester, err = requester(asked.GetRequestedBy())
		}
		take(m, &f)
		return f, err
	}
}

var errRequester = errors.New("requested_by is neither a person's id nor system")

// requester is Nil when nobody in particular asked.
func requester(text string) (uuid.UUID, error) {
	if text == "" || text == "system" {
		return uuid.Nil, nil
	}
	id, err := uuid.Parse(text)
	if err != nil {
		return uuid.Nil, errRequester
	}
	return id, nil
}

func read(e event.Envelope) (domain.Fact, error) {
	r, known := readers[e.Type]
	if !known {
		return domain.Fact{}, fmt.Errorf("event type %s was not asked for", e.Type)
	}
	return r(e)
}

func failure(f *eventv1.Failure) domain.Failure {
	return domain.Failure{Class: f.GetFailureClass(), Code: f.GetFailureCode()}
}

// readers take from each event what people are told of it. The aggregate of release's events is the request.
var readers = map[string]reader{
	"pratique.intake.v1.RequestSubmitted": reads(func() *intakev1.RequestSubmitted { return &intakev1.RequestSubmitted{} },
		func(m *intakev1.RequestSubmitted, f *domain.Fact) {
			f.RequestType, f.Registry, f.Image, f.Digest = m.GetRequestType(), m.GetSourceRegistry(), m.GetSourceImageRef(), m.GetSourceImageDigest()
			f.Reason, f.Carried = m.GetJustification(), m.GetCarriedOverFrom() != ""
		}),
	"pratique.intake.v1.RequestApproved": reads(func() *intakev1.RequestApproved { return &intakev1.RequestApproved{} },
		func(m *intakev1.RequestApproved, f *domain.Fact) {
			f.RequestType, f.Registry, f.Image, f.Digest = m.GetRequestType(), m.GetSourceRegistry(), m.GetSourceImageRef(), m.GetSourceImageDigest()
			f.Reason = m.GetReason()
		}),
	"pratique.intake.v1.RequestRejected": reads(func() *intakev1.RequestRejected { return &intakev1.RequestRejected{} },
		func(m *intakev1.RequestRejected, f *domain.Fact) {
			f.Image, f.Reason = m.GetSourceImageRef(), m.GetReason()
		}),
	"pratique.intake.v1.RequestWithdrawn": reads(func() *intakev1.RequestWithdrawn { return &intakev1.RequestWithdrawn{} },
		func(m *intakev1.RequestWithdrawn, f *domain.Fact) {
			f.RequestType, f.Image, f.Reason = m.GetRequestType(), m.GetSourceImageRef(), m.GetReason()
		}),
	"pratique.intake.v1.QuarantineConcluded": reads(func() *intakev1.QuarantineConcluded { return &intakev1.QuarantineConcluded{} },
		func(m *intakev1.QuarantineConcluded, f *domain.Fact) {
			f.RequestType, f.Status, f.Image, f.Digest = m.GetRequestType(), m.GetStatus(), m.GetSource(), m.GetDigest()
			f.Release, f.Findings, f.Failure = m.GetReleaseState(), m.GetPolicyReasons(), failure(m.GetFailure())
		}),
	"pratique.intake.v1.EprRegistrationRequested": reads(func() *intakev1.EprRegistrationRequested { return &intakev1.EprRegistrationRequested{} },
		func(m *intakev1.EprRegistrationRequested, f *domain.Fact) {
			f.Product, f.EprRecord, f.Reason = m.GetProductName(), m.GetEprRecordId(), m.GetBusinessJustification()
		}),
	"pratique.intake.v1.EprRegistrationApproved": reads(func() *intakev1.EprRegistrationApproved { return &intakev1.EprRegistrationApproved{} },
		func(m *intakev1.EprRegistrationApproved, f *domain.Fact) {
			f.Product, f.EprRecord, f.Reason = m.GetProductName(), m.GetEprRecordId(), m.GetReason()
		}),
	"pratique.intake.v1.EprRegistrationRejected": reads(func() *intakev1.EprRegistrationRejected { return &intakev1.EprRegistrationRejected{} },
		func(m *intakev1.EprRegistrationRejected, f *domain.Fact) {
			f.Product, f.EprRecord, f.Reason = m.GetProductName(), m.GetEprRecordId(), m.GetReason()
		}),
	"pratique.intake.v1.EprRegistrationWithdrawn": reads(func() *intakev1.EprRegistrationWithdrawn { return &intakev1.EprRegistrationWithdrawn{} },
		func(m *intakev1.EprRegistrationWithdrawn, f *domain.Fact) {
			f.Product, f.EprRecord, f.Reason = m.GetProductName(), m.GetEprRecordId(), m.GetReason()
		}),
	"pratique.release.v1.ReleaseReady": reads(func() *releasev1.ReleaseReady { return &releasev1.ReleaseReady{} },
		func(m *releasev1.ReleaseReady, f *domain.Fact) {
			f.Image, f.Digest = m.GetSourceImageRef(), m.GetDigest()
		}),
	"pratique.release.v1.ReleaseApproved": reads(func() *releasev1.ReleaseApproved { return &releasev1.ReleaseApproved{} },
		func(m *releasev1.ReleaseApproved, f *domain.Fact) {
			f.Image, f.Digest, f.Destination = m.GetSourceImageRef(), m.GetDigest(), m.GetDestinationImageRef()
		}),
	"pratique.release.v1.ImageReleased": reads(func() *releasev1.ImageReleased { return &releasev1.ImageReleased{} },
		func(m *releasev1.ImageReleased, f *domain.Fact) {
			f.Image, f.Digest, f.Destination = m.GetSourceImageRef(), m.GetDigest(), m.GetDestinationImageRef()
		}),
	"pratique.release.v1.ReleaseFailed": reads(func() *releasev1.ReleaseFailed { return &releasev1.ReleaseFailed{} },
		func(m *releasev1.ReleaseFailed, f *domain.Fact) {
			f.Image, f.Digest, f.Destination = m.GetSourceImageRef(), m.GetDigest(), m.GetDestinationImageRef()
			f.Blocker, f.Error = m.GetBlockerReason(), m.GetError()
		}),
}
