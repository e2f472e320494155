package api

import (
	"slices"
	"testing"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"

	approvalv1 "github.com/pratique-io/pratique/gen/pratique/approval/v1"
	errorsv1 "github.com/pratique-io/pratique/gen/pratique/errors/v1"
	intakev1 "github.com/pratique-io/pratique/gen/pratique/intake/v1"
	"github.com/pratique-io/pratique/internal/event"
)

// A retry that carries its approval over never has a case, in whatever order its submission and its withdrawal arrive.
func TestACarriedApprovalOpensNoCase(t *testing.T) {
	t.Parallel()
	b := setup(t)
	count := func() (n int) {
		require.NoError(t, b.db.WorkerPool().QueryRow(t.Context(), `select count(*) from decision_case`).Scan(&n))
		return n
	}
	deliver := func(e event.Envelope) (out error) {
		require.NoError(t, b.db.Work(t.Context(), func(tx pgx.Tx) error {
			if e.Type == "pratique.intake.v1.RequestSubmitted" {
				out = b.Server.Subscriptions()[0].HandleBatch(t.Context(), tx, []event.Envelope{e})[0]
			} else {
				out = b.Server.Subscriptions()[1].Handle(t.Context(), tx, e)
			}
			return nil
		}))
		return out
	}
	for _, reverse := range []bool{false, true} {
		tenant, id, from := uuid.New(), uuid.New(), uuid.NewString()
		var list []event.Envelope
		for _, msg := range []proto.Message{
			&intakev1.RequestSubmitted{ImportId: id.String(), TenantId: tenant.String(), RequestType: "quarantine", RequestedBy: uuid.NewString(), CarriedOverFrom: from},
			&intakev1.RequestWithdrawn{ImportId: id.String(), TenantId: tenant.String(), RequestType: "quarantine", FromStatus: "approved", CarriedOverFrom: from},
		} {
			e, err := event.New(t.Context(), msg, event.Head{Subject: id, Tenant: tenant, Sequence: 1, Request: id, Actor: "user:x"})
			require.NoError(t, err)
			list = append(list, e)
		}
		if reverse {
			slices.Reverse(list)
		}
		for _, e := range list {
			require.ErrorContains(t, deliver(e), "no_decision_needed")
		}
		require.Zero(t, count())
	}
	// The same without a carried approval is a case.
	tenant, id := uuid.New(), uuid.New()
	e, err := event.New(t.Context(), &intakev1.RequestSubmitted{ImportId: id.String(), TenantId: tenant.String(), RequestType: "quarantine", RequestedBy: uuid.NewString()},
		event.Head{Subject: id, Tenant: tenant, Sequence: 1, Request: id, Actor: "user:x"})
	require.NoError(t, err)
	require.NoError(t, deliver(e))
	require.Equal(t, 1, count())
}

func TestACarriedApprovalLeavesNothingToDecide(t *testing.T) {
	t.Parallel()
	b := setup(t)
	id := uuid.NewString()
	b.intake.request = &intakev1.ImportRequest{
		Id: id, RequestType: "quarantine", DecisionTimeline: &intakev1.DecisionTimeline{
			DecisionStatus: "approved", DecidedByUserId: new("somebody"), CarriedOverFrom: new(uuid.NewString()),
		},
	}
	_, err := b.ApproveImportRequest(b.ctx(), &approvalv1.DecideRequest{Id: id})
	b.refuses(err, errorsv1.Reason_REASON_APPROVAL_ALREADY_DECIDED)
}
