package app

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	errorsv1 "github.com/pratique-io/pratique/gen/pratique/errors/v1"
	"github.com/pratique-io/pratique/internal/fault"
	"github.com/pratique-io/pratique/internal/outbox"
	"github.com/pratique-io/pratique/internal/pg"
	"github.com/pratique-io/pratique/internal/pg/pgtest"
	"github.com/pratique-io/pratique/services/approval/internal/domain"
	"github.com/pratique-io/pratique/services/approval/internal/store"
)

type bundle struct {
	db     *pg.DB
	app    *App
	tenant uuid.UUID
	mel    uuid.UUID
	sam    uuid.UUID
	rita   uuid.UUID
}

func setup(t *testing.T) *bundle {
	t.Helper()
	return &bundle{
		db: pgtest.New(t, "approval", outbox.Migrations, store.Migrations), app: &App{Now: time.Now},
		tenant: uuid.New(), mel: uuid.New(), sam: uuid.New(), rita: uuid.New(),
	}
}

func (b *bundle) ask() Ask {
	return Ask{
		Tenant: b.tenant, Kind: domain.ImportRequest, Subject: uuid.Must(uuid.NewV7()), Requester: b.mel.String(),
		ChainRequesters: []string{b.mel.String()}, Digest: "sha256:00", Facts: map[string]string{"source": "a/b:1"},
	}
}

// gone is the withdrawal of a request that intake had moved on from pending.
func gone(ask Ask) Gone {
	return Gone{Tenant: ask.Tenant, Kind: ask.Kind, Subject: ask.Subject, Requester: ask.Requester, Reason: "withdrawn", Actor: "user:mel"}
}

func (b *bundle) open(t *testing.T, asks ...Ask) []*domain.Case {
	t.Helper()
	require.NoError(t, b.db.Work(t.Context(), func(tx pgx.Tx) error { return b.app.Open(t.Context(), tx, asks) }))
	cases := make([]*domain.Case, len(asks))
	for i, ask := range asks {
		require.NoError(t, b.db.Read(t.Context(), pg.AllTenants(), func(tx pgx.Tx) error {
			id, err := store.Find(t.Context(), tx, ask.Kind, ask.Subject)
			if err != nil {
				return err
			}
			cases[i], err = store.Get(t.Context(), tx, id)
			return err
		}))
	}
	return cases
}

func (b *bundle) vote(ctx context.Context, id, by uuid.UUID, yes bool) (c *domain.Case, err error) {
	err = b.db.Write(ctx, pg.AllTenants(), func(tx pgx.Tx) error {
		c, err = b.app.Decide(ctx, tx, Ballot{Case: id, By: by, Actor: "user:" + by.String(), Yes: yes, Reason: "because"})
		return err
	})
	return c, err
}

// trail counts transitions and outbox events of everything in the schema; versions must be gapless.
func (b *bundle) trail(t *testing.T) (transitions, events int) {
	t.Helper()
	require.NoError(t, b.db.Work(t.Context(), func(tx pgx.Tx) error {
		if err := tx.QueryRow(t.Context(), `select count(*) from case_transition`).Scan(&transitions); err != nil {
			return err
		}
		var gaps int
		if err := tx.QueryRow(t.Context(), `select count(*) from decision_case c where version <> (select count(*) from case_transition t where t.case_id = c.id)`).Scan(&gaps); err != nil {
			return err
		}
		require.Zero(t, gaps, "versions without a transition")
		return tx.QueryRow(t.Context(), `select count(*) from outbox`).Scan(&events)
	}))
	return transitions, events
}

func TestOpening(t *testing.T) {
	t.Parallel()
	t.Run("a subject gets one case however often it asks", func(t *testing.T) {
		b := setup(t)
		ask := b.ask()
		first := b.open(t, ask, ask)
		again := b.open(t, ask)
		require.Equal(t, first[0].ID, again[0].ID)
		transitions, events := b.trail(t)
		require.Equal(t, 1, transitions)
		require.Equal(t, 1, events)
	})
	t.Run("an ask after its withdrawal never opens", func(t *testing.T) {
		b := setup(t)
		ask := b.ask()
		require.NoError(t, b.db.Work(t.Context(), func(tx pgx.Tx) error {
			return b.app.Void(t.Context(), tx, gone(ask))
		}))
		c := b.open(t, ask)[0]
		require.Equal(t, domain.Void, c.State)
		_, err := b.vote(t.Context(), c.ID, b.sam, true)
		require.True(t, fault.Is(err, errorsv1.Reason_REASON_INVALID_LIFECYCLE_ACTION), "%v", err)
	})
	t.Run("an approval that intake never took is void, a rejection stays", func(t *testing.T) {
		b := setup(t)
		asks := []Ask{b.ask(), b.ask()}
		cases := b.open(t, asks...)
		for i, c := range cases {
			_, err := b.vote(t.Context(), c.ID, b.sam, i == 0)
			require.NoError(t, err)
			untaken := gone(asks[i])
			untaken.Untaken = true
			for range 2 {
				require.NoError(t, b.db.Work(t.Context(), func(tx pgx.Tx) error { return b.app.Void(t.Context(), tx, untaken) }))
			}
		}
		after := b.open(t, asks...)
		require.Equal(t, domain.Void, after[0].State)
		require.Len(t, after[0].Votes, 1, "who said yes stays on record")
		require.Equal(t, domain.Rejected, after[1].State)
		transitions, events := b.trail(t)
		require.Equal(t, 5, transitions, "two opened, two decided, one void")
		require.Equal(t, 5, events)
	})
	t.Run("a withdrawal voids an open case and leaves a decided one alone", func(t *testing.T) {
		b := setup(t)
		asks := []Ask{b.ask(), b.ask()}
		cases := b.open(t, asks...)
		_, err := b.vote(t.Context(), cases[1].ID, b.sam, true)
		require.NoError(t, err)
		for _, ask := range asks {
			require.NoError(t, b.db.Work(t.Context(), func(tx pgx.Tx) error {
				return b.app.Void(t.Context(), tx, gone(ask))
			}))
		}
		after := b.open(t, asks...)
		require.Equal(t, domain.Void, after[0].State)
		require.Equal(t, domain.Approved, after[1].State)
	})
}

func TestDeciding(t *testing.T) {
	t.Parallel()
	t.Run("one yes approves by default and tells of it once", func(t *testing.T) {
		b := setup(t)
		c := b.open(t, b.ask())[0]
		decided, err := b.vote(t.Context(), c.ID, b.sam, true)
		require.NoError(t, err)
		require.Equal(t, domain.Approved, decided.State)
		require.Equal(t, b.sam.String(), decided.DecidedBy)
		_, err = b.vote(t.Context(), c.ID, b.rita, false)
		require.True(t, fault.Is(err, errorsv1.Reason_REASON_APPROVAL_ALREADY_DECIDED), "%v", err)
		transitions, events := b.trail(t)
		require.Equal(t, 2, transitions)
		require.Equal(t, 2, events)
	})
	t.Run("the requester may not decide and leaves no trace", func(t *testing.T) {
		b := setup(t)
		c := b.open(t, b.ask())[0]
		_, err := b.vote(t.Context(), c.ID, b.mel, true)
		require.True(t, fault.Is(err, errorsv1.Reason_REASON_SELF_APPROVAL_FORBIDDEN), "%v", err)
		transitions, _ := b.trail(t)
		require.Equal(t, 1, transitions)
	})
	t.Run("a policy of two needs two people", func(t *testing.T) {
		b := setup(t)
		require.NoError(t, b.db.Work(t.Context(), func(tx pgx.Tx) error {
			_, err := tx.Exec(t.Context(), `insert into approval_policy (id, tenant_id, kind, required_approvals, due_hours) values (gen_random_uuid(), $1, 'import_request', 2, 24)`, b.tenant)
			return err
		}))
		c := b.open(t, b.ask())[0]
		require.Equal(t, 2, c.Required)
		first, err := b.vote(t.Context(), c.ID, b.sam, true)
		require.NoError(t, err)
		require.Equal(t, domain.Open, first.State)
		_, err = b.vote(t.Context(), c.ID, b.sam, true)
		require.True(t, fault.Is(err, errorsv1.Reason_REASON_APPROVAL_ALREADY_DECIDED), "%v", err)
		second, err := b.vote(t.Context(), c.ID, b.rita, true)
		require.NoError(t, err)
		require.Equal(t, domain.Approved, second.State)
		transitions, events := b.trail(t)
		require.Equal(t, 3, transitions)
		require.Equal(t, 2, events, "a vote that completes nothing tells nothing")
	})
	t.Run("of many deciding at once, one wins", func(t *testing.T) {
		b := setup(t)
		c := b.open(t, b.ask())[0]
		var group sync.WaitGroup
		errs := make([]error, 8)
		for i := range errs {
			group.Go(func() { _, errs[i] = b.vote(t.Context(), c.ID, uuid.New(), i%2 == 0) })
		}
		group.Wait()
		won := 0
		for _, err := range errs {
			if err == nil {
				won++
				continue
			}
			require.True(t, fault.Is(err, errorsv1.Reason_REASON_APPROVAL_ALREADY_DECIDED), "%v", err)
		}
		require.Equal(t, 1, won)
		transitions, events := b.trail(t)
		require.Equal(t, 2, transitions)
		require.Equal(t, 2, events)
	})
	t.Run("a comment is kept with its author and tells nothing", func(t *testing.T) {
		b := setup(t)
		c := b.open(t, b.ask())[0]
		require.NoError(t, b.db.Write(t.Context(), pg.AllTenants(), func(tx pgx.Tx) error {
			_, err := b.app.Comment(t.Context(), tx, c.ID, b.rita, "user:rita", "who maintains this?")
			return err
		}))
		_, events := b.trail(t)
		require.Equal(t, 1, events)
	})
}

func TestTenancy(t *testing.T) {
	t.Parallel()
	b := setup(t)
	c := b.open(t, b.ask())[0]
	err := b.db.Read(t.Context(), pg.OneTenant(uuid.New()), func(tx pgx.Tx) error {
		_, err := store.Get(t.Context(), tx, c.ID)
		return err
	})
	require.ErrorIs(t, err, store.ErrNone, "row-level security hides another tenant's case")
}
