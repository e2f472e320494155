package app

import (
	"testing"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"

	approvalv1 "github.com/pratique-io/pratique/gen/pratique/approval/v1"
	intakev1 "github.com/pratique-io/pratique/gen/pratique/intake/v1"
	"github.com/pratique-io/pratique/internal/event"
	"github.com/pratique-io/pratique/services/intake/internal/domain"
)

func TestABatchOfDecisionsIsTakenInItsOrder(t *testing.T) {
	t.Parallel()
	t.Run("together", func(t *testing.T) {
		t.Parallel()
		decideBatch(t, func(b *bundle, list []event.Envelope) (out []error) {
			require.NoError(t, b.db.Work(t.Context(), func(tx pgx.Tx) error { out = b.DecideAll(t.Context(), tx, list); return nil }))
			return out
		})
	})
	t.Run("apart", func(t *testing.T) {
		t.Parallel()
		decideBatch(t, func(b *bundle, list []event.Envelope) (out []error) {
			for _, e := range list {
				require.NoError(t, b.db.Work(t.Context(), func(tx pgx.Tx) error { out = append(out, b.Decide(t.Context(), tx, e)); return nil }))
			}
			return out
		})
	})
}

func decideBatch(t *testing.T, decide func(*bundle, []event.Envelope) []error) {
	b := setup(t)
	b.registered("EPR-1")
	register := func(record string) uuid.UUID {
		out, err := b.CreateEpr(b.as(b.member), &intakev1.CreateEprRegistrationRequest{}, Register{RecordID: record, Product: "p", Technology: "t"})
		require.NoError(t, err)
		return uuid.MustParse(out.GetId())
	}
	id := make([]uuid.UUID, 5)
	for i, ref := range []string{"library/a:1", "library/b:1", "library/c:1", "library/d:1", "library/e:1"} {
		id[i] = uuid.MustParse(b.create(b.ask(ref, "EPR-1")).GetId())
	}
	// The record of the last request has expired; a new registration of it is decided in the middle of the batch.
	b.clock = b.clock.Add(366 * day)
	again := register("EPR-1")
	yes := func(kind string, subject uuid.UUID, digest string) event.Envelope {
		return b.fact(uuid.New(), 2, &approvalv1.CaseApproved{Kind: kind, SubjectId: subject.String(), Digest: digest, DecidedBy: reviewer.String()})
	}
	no := func(subject uuid.UUID) event.Envelope {
		var msg proto.Message = &approvalv1.CaseRejected{Kind: caseImport, SubjectId: subject.String(), DecidedBy: reviewer.String()}
		return b.fact(uuid.New(), 2, msg)
	}
	list := []event.Envelope{
		yes(caseImport, id[0], ""), yes(caseEpr, again, ""), yes(caseImport, id[1], digestOf("another")), no(id[2]), yes(caseImport, id[2], ""),
		yes(caseImport, uuid.New(), ""), yes("other", id[3], ""), yes(caseImport, id[4], ""), yes(caseImport, id[3], ""), no(id[3]),
	}
	outcomes := decide(b, list)
	require.Len(t, outcomes, len(list))
	for i, want := range []string{"", "", "not the request's", "", "not_pending", "no_request", "other_kind", "", "", "not_pending"} {
		if want == "" {
			require.NoError(t, outcomes[i], i)
		} else {
			require.ErrorContains(t, outcomes[i], want, i)
		}
	}
	for i, want := range []struct {
		status domain.Status
		names  []string
	}{
		{domain.Failed, []string{"RequestSubmitted", "RequestStateChanged", "RequestStateChanged", "QuarantineConcluded"}}, // before the registration
		{domain.Pending, []string{"RequestSubmitted"}},
		{domain.Rejected, []string{"RequestSubmitted", "RequestRejected", "RequestStateChanged"}},
		{domain.Approved, []string{"RequestSubmitted", "RequestApproved", "RequestStateChanged"}},
		{domain.Approved, []string{"RequestSubmitted", "RequestApproved", "RequestStateChanged"}},
	} {
		r := b.request(id[i])
		require.Equal(t, want.status, r.State.Status, i)
		require.Equal(t, want.names, b.names(id[i]), i)
		require.Equal(t, int(r.Version), b.count(`select count(distinct version) from request_transition where request_id = $1`, id[i]), "no gap")
	}
	told := b.events(id[4])
	require.Equal(t, list[7].ID, told[1].CausationID, "each event names its own cause")
}
