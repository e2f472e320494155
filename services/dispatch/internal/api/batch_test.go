package api

import (
	"slices"
	"testing"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"

	dispatchv1 "github.com/pratique-io/pratique/gen/pratique/dispatch/v1"
	intakev1 "github.com/pratique-io/pratique/gen/pratique/intake/v1"
	"github.com/pratique-io/pratique/internal/event"
	"github.com/pratique-io/pratique/services/dispatch/internal/domain"
	"github.com/pratique-io/pratique/services/dispatch/internal/store"
)

func (b *bundle) envelope(id uuid.UUID, msg proto.Message) event.Envelope {
	b.t.Helper()
	b.seq++
	e, err := event.New(b.t.Context(), msg, event.Head{Subject: id, Tenant: b.tenant, Sequence: b.seq, Request: id, Actor: "user:x"})
	require.NoError(b.t, err)
	return e
}

func (b *bundle) yes(id uuid.UUID) event.Envelope {
	return b.envelope(id, &intakev1.RequestApproved{ImportId: id.String(), TenantId: b.tenant.String(), DecidedBy: "system", SourceImageDigest: "sha256:ab"})
}

func (b *bundle) gone(id uuid.UUID) event.Envelope {
	return b.envelope(id, &intakev1.RequestWithdrawn{ImportId: id.String(), TenantId: b.tenant.String()})
}

// batch hands events to a batch handler in one transaction that is kept, and answers the outcomes as texts.
func (b *bundle) batch(handle func(tx pgx.Tx) []error) (texts []string) {
	b.t.Helper()
	require.NoError(b.t, b.db.Work(b.t.Context(), func(tx pgx.Tx) error {
		for _, err := range handle(tx) {
			text := ""
			if err != nil {
				text = err.Error()
			}
			texts = append(texts, text)
		}
		return nil
	}))
	return texts
}

// cell reads one value as the worker.
func cell[T any](b *bundle, query string, args ...any) (out T) {
	b.t.Helper()
	require.NoError(b.t, b.db.WorkerPool().QueryRow(b.t.Context(), query, args...).Scan(&out))
	return out
}

func ids(n int) []uuid.UUID {
	out := make([]uuid.UUID, n)
	for i := range out {
		out[i] = uuid.Must(uuid.NewV7())
	}
	slices.Reverse(out) // not the order that statements take
	return out
}

func TestABatchOfRequestsKeepsTheOrderOfEachRequest(t *testing.T) {
	b := setup(t)
	id := ids(5)
	known := b.approved()
	forged := b.yes(id[4])
	forged.TenantID = uuid.NewString()
	batch := []event.Envelope{b.yes(id[0]), b.yes(id[1]), b.gone(id[2]), b.yes(id[2]), b.gone(id[1]), b.yes(id[0]), b.yes(known), forged, b.yes(id[3])}
	outcomes := b.batch(func(tx pgx.Tx) []error { return b.handler.requests(t.Context(), tx, batch) })
	require.Contains(t, outcomes[7], "different requests or tenants")
	outcomes[7] = ""
	require.Equal(t, []string{"", "", "", "known", "", "known", "known", "", ""}, outcomes)

	states := map[uuid.UUID]domain.State{id[0]: domain.Queued, id[1]: domain.Cancelled, id[2]: domain.Cancelled, id[3]: domain.Queued}
	told := map[uuid.UUID][]string{id[0]: {"RunQueued"}, id[1]: {"RunQueued", "RunCancelled"}, id[3]: {"RunQueued"}}
	for request, state := range states {
		require.NoError(t, b.db.Work(t.Context(), func(tx pgx.Tx) error {
			r, err := store.GetRecord(t.Context(), tx, request)
			require.NoError(t, err)
			require.Equal(t, state, r.State)
			require.Equal(t, request == id[2], r.Tombstone)
			require.Equal(t, int64(len(told[request])), r.Version)
			return nil
		}))
		require.Equal(t, told[request], cell[[]string](b, `select array_agg(split_part(convert_from(body, 'utf8')::jsonb->>'type', '.', 4) order by seq)
			from outbox where convert_from(body, 'utf8')::jsonb->>'subject' = $1`, request.String()))
		require.Equal(t, len(told[request]), cell[int](b, `select count(*) from transition where import_id = $1 and event_id is not null`, request))
	}
	require.Equal(t, 0, cell[int](b, `select count(*) from dispatch_record where id = $1`, id[4]), "a forged event leaves nothing")
	require.Equal(t, 4, cell[int](b, `select count(*) from run_step s join run r on r.id = s.run_id where r.import_id = $1 and s.state = 'pending'`, id[3]))
	require.Equal(t, batch[8].ID, cell[string](b, `select convert_from(body, 'utf8')::jsonb->>'causationid' from outbox
		where convert_from(body, 'utf8')::jsonb->>'subject' = $1`, id[3].String()), "each event names its own cause")
}

func TestABatchOfLinesIsNumberedPerRequestInItsOrder(t *testing.T) {
	b := setup(t)
	id := ids(2)
	heard := b.envelope(id[0], &intakev1.RequestSubmitted{ImportId: id[0].String(), TenantId: b.tenant.String(), SourceImageRef: "a:1"})
	tell := b.subs["lifecycle"].HandleBatch
	require.Equal(t, []string{""}, b.batch(func(tx pgx.Tx) []error { return tell(t.Context(), tx, []event.Envelope{heard}) }))
	other := b.envelope(id[1], &intakev1.RequestSubmitted{ImportId: id[1].String(), TenantId: b.tenant.String(), SourceImageRef: "b:1"})
	forged := b.yes(id[0])
	forged.TenantID = uuid.NewString()
	batch := []event.Envelope{b.yes(id[0]), other, forged, b.gone(id[1]), b.yes(id[0])}
	outcomes := b.batch(func(tx pgx.Tx) []error { return tell(t.Context(), tx, batch) })
	require.Contains(t, outcomes[2], "different requests or tenants")
	outcomes[2] = ""
	require.Equal(t, make([]string, len(batch)), outcomes)

	lines := func(request uuid.UUID) (out []string) {
		require.NoError(t, b.db.Work(t.Context(), func(tx pgx.Tx) error {
			list, err := store.LinesAfter(t.Context(), tx, request, 0, 10)
			for i, l := range list {
				require.Equal(t, int64(i+1), l.Sequence, "without gaps")
				require.Equal(t, "lifecycle", l.Source)
				out = append(out, l.Message)
			}
			return err
		}))
		return out
	}
	require.Equal(t, []string{"Request submitted for a:1, pinned to .", "Request approved by policy.", "Request approved by policy."}, lines(id[0]))
	require.Equal(t, []string{"Request submitted for b:1, pinned to .", "Request withdrawn."}, lines(id[1]))
	const head = `select format('%s %s', last_sequence, closed) from log_head where import_id = $1`
	require.Equal(t, "3 f", cell[string](b, head, id[0]))
	require.Equal(t, "2 t", cell[string](b, head, id[1]))
}

func TestARetryWithACarriedApprovalIsQueuedAndItsLogSaysWhy(t *testing.T) {
	b := setup(t)
	id, from := b.submitted(), uuid.NewString()
	require.NoError(t, b.tell(id, &intakev1.RequestApproved{
		ImportId: id.String(), TenantId: b.tenant.String(), SourceImageDigest: "sha256:ab", DecidedBy: uuid.NewString(), Reason: "fine", CarriedOverFrom: from,
	}))
	require.Equal(t, string(domain.Queued), cell[string](b, `select state from dispatch_record where id = $1`, id))
	page, err := b.runs.ListLogs(b.member(b.tenant), &dispatchv1.ListLogsRequest{Id: id.String()})
	require.NoError(t, err)
	var texts []string
	for _, l := range page.GetLogs() {
		texts = append(texts, l.GetMessage())
	}
	require.Contains(t, texts, "Approval carried over from request "+from+": fine.")
}
