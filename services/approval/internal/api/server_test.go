package api

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/timestamppb"

	approvalv1 "github.com/pratique-io/pratique/gen/pratique/approval/v1"
	errorsv1 "github.com/pratique-io/pratique/gen/pratique/errors/v1"
	intakev1 "github.com/pratique-io/pratique/gen/pratique/intake/v1"
	"github.com/pratique-io/pratique/internal/auth"
	"github.com/pratique-io/pratique/internal/fault"
	"github.com/pratique-io/pratique/internal/idempotency"
	"github.com/pratique-io/pratique/internal/outbox"
	"github.com/pratique-io/pratique/internal/pg"
	"github.com/pratique-io/pratique/internal/pg/pgtest"
	"github.com/pratique-io/pratique/services/approval/internal/app"
	"github.com/pratique-io/pratique/services/approval/internal/domain"
	"github.com/pratique-io/pratique/services/approval/internal/store"
)

// intake answers one request to whoever asks.
type intake struct {
	intakev1.RequestServiceClient
	request *intakev1.ImportRequest
}

func (i *intake) GetImportRequest(context.Context, *intakev1.GetImportRequestRequest, ...grpc.CallOption) (*intakev1.ImportRequest, error) {
	return i.request, nil
}

type bundle struct {
	*Server
	t      *testing.T
	db     *pg.DB
	intake *intake
	sam    auth.Caller // a reviewer
}

func setup(t *testing.T) *bundle {
	t.Helper()
	b := &bundle{t: t, intake: &intake{}, db: pgtest.New(t, "approval", outbox.Migrations, idempotency.Migrations, store.Migrations)}
	b.sam = auth.Caller{Subject: "iss|sam", PersonID: uuid.New(), SystemRoles: []auth.Role{auth.SecurityReviewer}}
	b.Server = New(b.db, &app.App{Now: time.Now}, b.intake, nil)
	b.patience = 50 * time.Millisecond
	return b
}

func (b *bundle) ctx() context.Context { return auth.With(b.t.Context(), b.sam) }

// open makes a case about a request of somebody else.
func (b *bundle) open() (id, subject uuid.UUID) {
	ask := app.Ask{Tenant: uuid.New(), Kind: domain.ImportRequest, Subject: uuid.New(), Requester: uuid.NewString(), Facts: map[string]string{}}
	require.NoError(b.t, b.db.Work(b.t.Context(), func(tx pgx.Tx) error { return b.app.Open(b.t.Context(), tx, []app.Ask{ask}) }))
	id, err := b.find(b.ctx(), ask.Kind, ask.Subject)
	require.NoError(b.t, err)
	return id, ask.Subject
}

func (b *bundle) refuses(err error, reason errorsv1.Reason, fields ...string) {
	b.t.Helper()
	require.True(b.t, fault.Is(err, reason), "%v", err)
	for _, field := range fields {
		require.Contains(b.t, fault.Of(err).FieldErrors(), field)
	}
}

func TestTextsAreCheckedBeforeTheDatabaseSeesThem(t *testing.T) {
	t.Parallel()
	b := setup(t)
	id, _ := b.open()
	const invalid = errorsv1.Reason_REASON_VALIDATION_FAILED
	for name, text := range map[string]string{
		"NUL, which no column holds": "a\x00b", "an escape sequence": "\x1b[2J", "too long": strings.Repeat("x", maxText+1),
	} {
		_, err := b.ApproveCase(b.ctx(), &approvalv1.DecideRequest{Id: id.String(), Reason: &text})
		b.refuses(err, invalid, "reason")
		_, err = b.CommentCase(b.ctx(), &approvalv1.CommentCaseRequest{Id: id.String(), Text: text})
		require.Error(t, err, name)
		b.refuses(err, invalid, "text")
	}
	blank := " \n\t "
	_, err := b.RejectCase(b.ctx(), &approvalv1.DecideRequest{Id: id.String(), Reason: &blank})
	b.refuses(err, invalid, "reason")
	_, err = b.CommentCase(b.ctx(), &approvalv1.CommentCaseRequest{Id: id.String(), Text: blank})
	b.refuses(err, invalid, "text")
	lines := "see:\n\tthe list\n"
	out, err := b.RejectCase(b.ctx(), &approvalv1.DecideRequest{Id: id.String(), Reason: &lines})
	require.NoError(t, err)
	require.Equal(t, "see:\n\tthe list", out.GetDecisionReason())
}

func TestListFiltersAreChecked(t *testing.T) {
	t.Parallel()
	b := setup(t)
	urn := uuid.New().URN()
	_, err := b.ListCases(b.ctx(), &approvalv1.ListCasesRequest{TenantId: &urn, DueBefore: &timestamppb.Timestamp{Seconds: 1 << 62}})
	b.refuses(err, errorsv1.Reason_REASON_VALIDATION_FAILED, "tenant_id", "due_before")
}

func TestAScanHasNothingToDecide(t *testing.T) {
	t.Parallel()
	b := setup(t)
	id := uuid.NewString()
	b.intake.request = &intakev1.ImportRequest{
		Id: id, RequestType: "scan", DecisionTimeline: &intakev1.DecisionTimeline{DecisionStatus: "approved", DecidedByUserId: new("system")},
	}
	_, err := b.ApproveImportRequest(b.ctx(), &approvalv1.DecideRequest{Id: id})
	b.refuses(err, errorsv1.Reason_REASON_APPROVAL_ALREADY_DECIDED)
	require.Equal(t, "system", fault.Of(err).Details()["decided_by"])
}

func TestADecisionMadeThroughTheRequestIsTheCases(t *testing.T) {
	t.Parallel()
	b := setup(t)
	id, subject := b.open()
	b.intake.request = &intakev1.ImportRequest{Id: subject.String(), RequestType: "quarantine", DecisionTimeline: &intakev1.DecisionTimeline{DecisionStatus: "approved"}}
	out, err := b.ApproveImportRequest(b.ctx(), &approvalv1.DecideRequest{Id: subject.String()})
	require.NoError(t, err)
	require.Equal(t, subject.String(), out.GetId())
	c, err := b.GetCase(b.ctx(), &approvalv1.GetCaseRequest{Id: id.String()})
	require.NoError(t, err)
	require.Equal(t, "approved", c.GetState())
	_, err = b.RejectCase(b.ctx(), &approvalv1.DecideRequest{Id: id.String(), Reason: new("no")})
	b.refuses(err, errorsv1.Reason_REASON_APPROVAL_ALREADY_DECIDED)
}
