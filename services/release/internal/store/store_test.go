package store_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/pratique-io/pratique/internal/pg"
	"github.com/pratique-io/pratique/internal/pg/pgtest"
	"github.com/pratique-io/pratique/services/release/internal/domain"
	"github.com/pratique-io/pratique/services/release/internal/store"
)

var now = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

func saved(t *testing.T, db *pg.DB, r *domain.Record, old int64) error {
	t.Helper()
	return db.Work(t.Context(), func(tx pgx.Tx) error {
		if err := store.Ensure(t.Context(), tx, map[uuid.UUID]uuid.UUID{r.ID: r.Tenant}, now); err != nil {
			return err
		}
		return store.Save(t.Context(), tx, []store.Change{{Record: r, Old: old, Source: store.Source{Name: "docker.io/library/nginx", Tag: "1"}}})
	})
}

func full() *domain.Record {
	until := now.Add(time.Hour)
	r := domain.NewRecord(uuid.Must(uuid.NewV7()), uuid.Must(uuid.NewV7()), now)
	r.Facts = domain.Facts{
		Asked: &domain.Request{
			Type: "quarantine", Requester: "a", Chain: []string{"a", "b, \"c\""}, SourceRegistry: "docker.io", SourceRef: "nginx:1", Digest: "sha256:1",
			Destination: "t/x:1",
		},
		Progress: domain.Progress{Seq: 3, Status: domain.Succeeded}, Broken: &domain.Broken{Seq: 4},
		Judged: &domain.Judged{
			Seq: 5, Decision: "pass", Digest: "sha256:1", EvidenceHash: "e", PolicyHash: "p", WouldHaveDecided: "pass", DryRunReleasable: true,
			Referrers: []string{"sha256:2", "sha256:3"}, ValidUntil: &until,
		},
		Stale: &domain.Stale{Seq: 2, At: now}, Removed: &domain.Removed{Seq: 9, Reason: "retention", Digest: "sha256:1"},
	}
	return r
}

func TestARecordComesBackAsItWasSaved(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t, "release", store.Migrations)
	r := full()
	r.State, r.Version = domain.Ready, 1
	require.NoError(t, saved(t, db, r, 0))
	var got *domain.Record
	require.NoError(t, db.Read(t.Context(), pg.OneTenant(r.Tenant), func(tx pgx.Tx) (err error) {
		got, err = store.Record(t.Context(), tx, pg.OneTenant(r.Tenant), r.ID)
		return err
	}))
	require.Equal(t, r, got)
	require.ErrorIs(t, saved(t, db, r, 0), store.ErrMoved, "guarded by the version")
}

func TestTheTableHoldsExactlyTheStatesOfTheDomain(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t, "release", store.Migrations)
	for _, state := range append(domain.States(), "other") {
		r := full()
		r.State, r.Version = state, 1
		if state == domain.Blocked {
			r.Blocker = domain.PolicyQuarantined
		}
		err := saved(t, db, r, 0)
		require.Equal(t, state == "other", pg.IsCheck(err, ""), "%s: %v", state, err)
	}
	for _, blocker := range append(domain.Blockers(), "other", "") {
		r := full()
		r.State, r.Blocker, r.Version = domain.Blocked, blocker, 1
		err := saved(t, db, r, 0)
		require.Equal(t, blocker == "other" || blocker == "", pg.IsCheck(err, ""), "%s: %v", blocker, err)
	}
	for _, verb := range append(domain.Verbs(), "other") {
		r := full()
		require.NoError(t, saved(t, db, r, 0))
		err := db.Work(t.Context(), func(tx pgx.Tx) error {
			return store.Trail(t.Context(), tx, []store.Transition{{
				Record: r.ID, Tenant: r.Tenant, Step: domain.Step{Verb: verb, Version: 1, At: now}, Event: uuid.Must(uuid.NewV7()).String(),
			}})
		})
		require.Equal(t, verb == "other", pg.IsCheck(err, ""), "%s: %v", verb, err)
	}
}

func TestNothingIsReadyWithoutAPassOfExactlyItsDigest(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t, "release", store.Migrations)
	for name, spoil := range map[string]func(*domain.Record){
		"another verdict": func(r *domain.Record) { r.Facts.Judged.Decision = "quarantine" },
		"another digest":  func(r *domain.Record) { r.Facts.Judged.Digest = "sha256:2" },
		"no hash":         func(r *domain.Record) { r.Facts.Judged.EvidenceHash = "" },
		"no judgement":    func(r *domain.Record) { r.Facts.Judged = nil },
		"a scan":          func(r *domain.Record) { r.Facts.Asked.Type = "scan" },
		"unknown":         func(r *domain.Record) { r.Facts.Asked = nil },
	} {
		r := full()
		r.State, r.Version = domain.Ready, 1
		spoil(r)
		require.True(t, pg.IsCheck(saved(t, db, r, 0), ""), name)
	}
}

func TestOnePromotionIsClaimedByOne(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t, "release", store.Migrations)
	var ids []uuid.UUID
	for i, place := range []string{"t/a:1", "t/a:1", "t/b:1"} {
		r := full()
		require.NoError(t, saved(t, db, r, 0))
		p := store.Promotion{
			ID: uuid.Must(uuid.NewV7()), Tenant: r.Tenant, Record: r.ID, Destination: place, Digest: fmt.Sprint(i), Actor: "x", CreatedAt: now,
		}
		ids = append(ids, p.ID)
		require.NoError(t, db.Work(t.Context(), func(tx pgx.Tx) error { return store.AddPromotion(t.Context(), tx, p) }))
		p.ID = uuid.Must(uuid.NewV7())
		require.ErrorIs(t, db.Work(t.Context(), func(tx pgx.Tx) error { return store.AddPromotion(t.Context(), tx, p) }), store.ErrMoved)
	}
	claim := func(at time.Time) (p store.Promotion, err error) {
		err = db.Work(t.Context(), func(tx pgx.Tx) (err error) {
			p, err = store.Claim(t.Context(), tx, at, at.Add(time.Minute))
			return err
		})
		return p, err
	}
	first, err := claim(now)
	require.NoError(t, err)
	require.Equal(t, ids[0], first.ID)
	require.False(t, first.Term().Over(now))
	third, err := claim(now)
	require.NoError(t, err)
	require.Equal(t, ids[2], third.ID, "the second waits for the first: they go to one place")
	_, err = claim(now)
	require.ErrorIs(t, err, store.ErrNone)

	again, err := claim(now.Add(time.Minute))
	require.NoError(t, err)
	require.Equal(t, first.ID, again.ID)
	for name, act := range map[string]func(tx pgx.Tx) error{
		"renew":    func(tx pgx.Tx) error { return store.Renew(t.Context(), tx, first, now) },
		"begin":    func(tx pgx.Tx) error { return store.Begin(t.Context(), tx, first) },
		"previous": func(tx pgx.Tx) error { return store.NotePrevious(t.Context(), tx, first, "d") },
		"postpone": func(tx pgx.Tx) error { return store.Postpone(t.Context(), tx, first, store.Delay{Until: now}) },
		"finish":   func(tx pgx.Tx) error { return store.Finish(t.Context(), tx, first, "released", "", now) },
	} {
		require.ErrorIs(t, db.Work(t.Context(), act), store.ErrMoved, name)
	}
	require.NoError(t, db.Work(t.Context(), func(tx pgx.Tx) error { return store.Finish(t.Context(), tx, again, "failed", "why", now) }))
	second, err := claim(now.Add(time.Minute))
	require.NoError(t, err)
	require.Equal(t, ids[1], second.ID)
}

func TestQueriesHoldTheirTenantWithoutRowSecurity(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t, "release", store.Migrations)
	r := full()
	require.NoError(t, saved(t, db, r, 0))
	// The worker role sees every tenant: only the predicates hold here.
	for tenant, visible := range map[uuid.UUID]bool{r.Tenant: true, uuid.New(): false} {
		require.NoError(t, db.Work(t.Context(), func(tx pgx.Tx) error {
			scope := pg.OneTenant(tenant)
			_, byID := store.Record(t.Context(), tx, scope, r.ID)
			_, byDigest := store.NewestByDigest(t.Context(), tx, scope, "sha256:1")
			_, bySource := store.NewestBySource(t.Context(), tx, scope, store.Source{Name: "docker.io/library/nginx", Tag: "1"})
			for _, err := range []error{byID, byDigest, bySource} {
				if visible {
					require.NoError(t, err)
				} else {
					require.ErrorIs(t, err, store.ErrNone)
				}
			}
			return nil
		}))
	}
}
