// Package app holds approval's verbs. Each is a transaction script: load and lock, ask the domain, save case, transition and event together.
// Nothing here knows gRPC, logs or calls another service.
package app

import (
	"context"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	approvalv1 "github.com/pratique-io/pratique/gen/pratique/approval/v1"
	"github.com/pratique-io/pratique/internal/event"
	"github.com/pratique-io/pratique/internal/outbox"
	"github.com/pratique-io/pratique/services/approval/internal/domain"
)

// App runs the verbs.
type App struct{ Now func() time.Time }

const system = "system"

func head(c *domain.Case, version int64, actor string) event.Head {
	h := event.Head{Subject: c.ID, Tenant: c.Tenant, Sequence: version, Actor: actor}
	if c.Kind == domain.ImportRequest {
		h.Request = c.Subject
	}
	return h
}

// tell appends one event about a case and answers its id.
func tell(ctx context.Context, tx pgx.Tx, msg proto.Message, h event.Head) (*uuid.UUID, error) {
	e, err := event.New(ctx, msg, h)
	if err != nil {
		return nil, err
	}
	id, err := uuid.Parse(e.ID)
	if err != nil {
		return nil, err
	}
	return &id, outbox.Append(ctx, tx, e)
}

func opened(c *domain.Case) *approvalv1.CaseOpened {
	msg := &approvalv1.CaseOpened{
		CaseId: c.ID.String(), TenantId: c.Tenant.String(), Kind: string(c.Kind), SubjectId: c.Subject.String(), Requester: c.Requester,
		Digest: c.Bound.Digest,
	}
	if c.DueAt != nil {
		msg.DueAt = timestamppb.New(*c.DueAt)
	}
	return msg
}

// ended is the event of a case that left the open state.
func ended(c *domain.Case) proto.Message {
	id, tenant, kind, subject := c.ID.String(), c.Tenant.String(), string(c.Kind), c.Subject.String()
	switch c.State {
	case domain.Approved:
		return &approvalv1.CaseApproved{
			CaseId: id, TenantId: tenant, Kind: kind, SubjectId: subject, DecidedBy: c.DecidedBy, Reason: c.Reason,
			DecidedAt: timestamppb.New(*c.DecidedAt), Digest: c.Bound.Digest,
		}
	case domain.Rejected:
		return &approvalv1.CaseRejected{
			CaseId: id, TenantId: tenant, Kind: kind, SubjectId: subject, DecidedBy: c.DecidedBy, Reason: c.Reason,
			DecidedAt: timestamppb.New(*c.DecidedAt),
		}
	default:
		return &approvalv1.CaseVoided{CaseId: id, TenantId: tenant, Kind: kind, SubjectId: subject, Reason: c.Reason}
	}
}
