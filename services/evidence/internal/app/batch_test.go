package app_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"

	dispatchv1 "github.com/pratique-io/pratique/gen/pratique/dispatch/v1"
	intakev1 "github.com/pratique-io/pratique/gen/pratique/intake/v1"
	"github.com/pratique-io/pratique/internal/event"
	"github.com/pratique-io/pratique/internal/outbox"
	"github.com/pratique-io/pratique/internal/pg"
	"github.com/pratique-io/pratique/internal/pg/pgtest"
	"github.com/pratique-io/pratique/services/evidence/internal/app"
	"github.com/pratique-io/pratique/services/evidence/internal/store"
)

var digest = "sha256:" + strings.Repeat("ab", 32)

type bundle struct {
	*app.App
	t      *testing.T
	db     *pg.DB
	tenant uuid.UUID
}

func setup(t *testing.T) *bundle {
	t.Helper()
	t.Parallel()
	db := pgtest.New(t, "evidence", store.Migrations, outbox.Migrations)
	return &bundle{App: &app.App{DB: db, Now: time.Now}, t: t, db: db, tenant: uuid.Must(uuid.NewV7())}
}

func ids(n int) []uuid.UUID {
	out := make([]uuid.UUID, n)
	for i := range out {
		out[i] = uuid.Must(uuid.NewV7())
	}
	slices.Reverse(out) // not the order that statements take
	return out
}

func (b *bundle) event(id uuid.UUID, sequence int64, msg proto.Message) event.Envelope {
	b.t.Helper()
	e, err := event.New(b.t.Context(), msg, event.Head{Subject: id, Tenant: b.tenant, Sequence: sequence, Request: id, Actor: "system"})
	require.NoError(b.t, err)
	return e
}

func (b *bundle) submitted(id uuid.UUID) event.Envelope {
	return b.event(id, 1, &intakev1.RequestSubmitted{ImportId: id.String(), TenantId: b.tenant.String(), RequestType: "quarantine", SourceImageDigest: digest})
}

func (b *bundle) approved(id uuid.UUID) event.Envelope {
	return b.event(id, 2, &intakev1.RequestApproved{ImportId: id.String(), TenantId: b.tenant.String(), RequestType: "quarantine", SourceImageDigest: digest})
}

func (b *bundle) started(id uuid.UUID, sequence int64) event.Envelope {
	return b.event(id, sequence, &dispatchv1.RunStarted{ImportId: id.String(), TenantId: b.tenant.String(), RunId: "run"})
}

func (b *bundle) succeeded(id uuid.UUID, sequence int64) event.Envelope {
	return b.event(id, sequence, &dispatchv1.RunSucceeded{ImportId: id.String(), TenantId: b.tenant.String(), RunId: "run", Attempt: 1,
		ImageDigest: digest, Documents: map[string]string{"sbom": digest}})
}

func (b *bundle) failed(id uuid.UUID, sequence int64) event.Envelope {
	return b.event(id, sequence, &dispatchv1.RunFailed{ImportId: id.String(), TenantId: b.tenant.String(), RunId: "run"})
}

// batch answers the outcomes as texts; the transaction is kept, whatever they are.
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

func (b *bundle) requested(batch ...event.Envelope) []string {
	b.t.Helper()
	return b.batch(func(tx pgx.Tx) []error { return b.RequestedAll(b.t.Context(), tx, batch) })
}

func (b *bundle) ran(batch ...event.Envelope) []string {
	b.t.Helper()
	return b.batch(func(tx pgx.Tx) []error { return b.RunsChanged(b.t.Context(), tx, batch) })
}

// row reads one row as the worker; empty when there is none.
func (b *bundle) row(query string, id uuid.UUID) string {
	b.t.Helper()
	rows, err := b.db.WorkerPool().Query(b.t.Context(), query, id)
	require.NoError(b.t, err)
	list, err := pgx.CollectRows(rows, pgx.RowTo[string])
	require.NoError(b.t, err)
	return strings.Join(list, "; ")
}

const (
	requestRow = `select format('%s %s', approved, intake_sequence) from request where id = $1`
	bundleRow  = `select format('%s v%s run %s seq %s', state, version, run_state, dispatch_sequence) from bundle where id = $1`
	movesRow   = `select format('%s:%s %s>%s', version, verb, from_state, to_state) from bundle_transition where bundle_id = $1 order by version`
	copyRow    = `select format('%s %s', state, reason) from quarantine_copy where id = $1`
)

func TestABatchOfRequestsIsHeardInItsOrder(t *testing.T) {
	b := setup(t)
	id := ids(4)
	forged := b.submitted(id[3])
	forged.TenantID = uuid.NewString()
	outcomes := b.requested(b.submitted(id[0]), b.approved(id[1]), b.approved(id[0]), b.submitted(id[1]), forged, b.submitted(id[2]), b.approved(id[0]))
	require.Contains(t, outcomes[4], "without tenant or digest")
	outcomes[4] = ""
	require.Equal(t, []string{"", "", "", "older_than_known", "", "", "older_than_known"}, outcomes)
	for i, want := range []string{"t 2", "t 2", "f 1", ""} {
		require.Equal(t, want, b.row(requestRow, id[i]), i)
	}
	for i, want := range []string{"awaiting v0 run  seq 0", "awaiting v0 run  seq 0", "awaiting v0 run  seq 0", ""} {
		require.Equal(t, want, b.row(bundleRow, id[i]), i)
	}
	require.Equal(t, []string{"", "older_than_known"}, b.requested(b.approved(id[2]), b.submitted(id[0])), "in a later batch too")
	require.Equal(t, "t 2", b.row(requestRow, id[2]))
}

func TestABatchOfRunsDoesWhatItsEventsDoOneByOne(t *testing.T) {
	t.Run("together", func(t *testing.T) {
		runBatch(t, func(b *bundle, list []event.Envelope) []string { return b.ran(list...) })
	})
	t.Run("apart", func(t *testing.T) {
		runBatch(t, func(b *bundle, list []event.Envelope) (out []string) {
			for _, e := range list {
				out = append(out, b.ran(e)...)
			}
			return out
		})
	})
}

func runBatch(t *testing.T, hear func(*bundle, []event.Envelope) []string) {
	b := setup(t)
	id := ids(6)
	for _, request := range id[:4] {
		require.Equal(t, []string{"", ""}, b.requested(b.submitted(request), b.approved(request)))
	}
	require.Equal(t, []string{""}, b.requested(b.submitted(id[4])))
	foreign := b.started(id[0], 9)
	foreign.TenantID = uuid.NewString()
	outcomes := hear(b, []event.Envelope{
		b.started(id[0], 2), b.started(id[1], 2), b.succeeded(id[0], 3), // a whole run
		b.succeeded(id[2], 3), b.started(id[2], 2), // in the wrong order
		b.failed(id[1], 3), b.succeeded(id[1], 4), // ended, and then it had not
		b.succeeded(id[4], 3), b.started(id[5], 2), // not approved, not known
		foreign, b.failed(id[0], 4), b.started(id[3], 2),
	})
	require.Contains(t, outcomes[9], "another tenant")
	outcomes[9] = ""
	require.Equal(t, []string{"", "", "", "", "older_than_known", "", "", "request_not_approved", "request_unknown", "", "already_collected", ""}, outcomes)
	for i, want := range []struct{ bundle, moves, copied string }{
		{"collecting v1 run ended seq 3", "1:collect awaiting>collecting", "present "},
		{"abandoned v1 run ended seq 4", "1:abandon awaiting>abandoned", "to_remove failed"},
		{"collecting v1 run ended seq 3", "1:collect awaiting>collecting", "present "},
		{"awaiting v0 run running seq 2", "", "present "},
		{"awaiting v0 run  seq 0", "", ""},
		{"", "", ""},
	} {
		require.Equal(t, want.bundle, b.row(bundleRow, id[i]), i)
		require.Equal(t, want.moves, b.row(movesRow, id[i]), i)
		require.Equal(t, want.copied, b.row(copyRow, id[i]), i)
	}
}
