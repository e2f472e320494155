package evidence

import (
	"context"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	evidencev1 "github.com/pratique-io/pratique/gen/pratique/evidence/v1"
	"github.com/pratique-io/pratique/internal/document"
	"github.com/pratique-io/pratique/internal/pg/pgtest"
	"github.com/pratique-io/pratique/internal/sample"
	"github.com/pratique-io/pratique/services/evidence/internal/domain"
)

func TestHonestEvidenceIsStoredAndPasses(t *testing.T) {
	t.Parallel()
	w, r := newWorld(t), newRun(t)
	w.succeed(r)
	require.True(t, w.turn("evidence_collect"))
	require.False(t, w.turn("evidence_collect"), "nothing more is owed")
	require.Equal(t, []string{"EvidenceRecorded", "EvidenceDecided"}, names(w.said(r)))
	w.consistent(r)

	b := w.bundle(r)
	require.Equal(t, domain.Judged, b.State)
	m := w.verdict(r)
	require.Equal(t, "pass", m.GetDecision(), m.GetReasons())
	require.Equal(t, r.digest(), m.GetDigest())
	require.Equal(t, b.Hash, m.GetEvidenceHash())
	require.Equal(t, r.target(w)+"@"+r.digest(), m.GetInternalImageRef())
	require.Len(t, m.GetPlatforms(), 2)
	require.Equal(t, []string{string(r.image.Referrers[0].Digest)}, m.GetReferrers())
	require.Len(t, m.GetChecks(), 4)
	require.EqualValues(t, 3, m.GetSbomSummary().GetPackageCount(), "curl once, and one of its own per platform")
	require.Equal(t, "spdx-json", m.GetSbomSummary().GetFormat())
	require.Equal(t, "grype", m.GetScanSummary().GetTool())
	require.Equal(t, "demonstration database of 48 records", m.GetScanSummary().GetDatabaseNote())
	require.Equal(t, domain.DefaultPolicy().Hash(), m.GetPolicyHash())
	require.Equal(t, m.GetPolicyHash(), m.GetPolicySnapshot().AsMap()["hash"])
	require.Equal(t, start.Add(-2*time.Hour).Add(120*time.Hour), m.GetEvidenceExpiresAt().AsTime())
	require.Nil(t, m.GetFailure())
	require.Equal(t, w.documents.host+"/"+domain.Store(r.tenant, r.request)+"@"+m.GetReport().GetDigest(), m.GetReport().GetRef())

	state, _ := w.copyState(r)
	require.Equal(t, "present", state, "what may be released is kept")
	tags, err := w.documents.repo(domain.Store(r.tenant, r.request)).Tags(t.Context())
	require.NoError(t, err)
	require.Len(t, tags, 4, "collectors keep what is tagged")
	var components, documents int
	require.NoError(t, w.db.WorkerPool().QueryRow(t.Context(), "select (select count(*) from component), (select count(*) from document)").Scan(&components, &documents))
	require.Equal(t, 4, components)
	require.Equal(t, 1+8+2+1, documents)
}

func TestFindingsQuarantineByName(t *testing.T) {
	t.Parallel()
	w, r := newWorld(t), newRun(t)
	r.setImage(sample.Vulnerable())
	for _, p := range r.platforms {
		r.findings[p.Platform] = []document.Finding{finding("CVE-2023-38545", "critical", 9.8, "curl", "7.88.1-10"), finding("CVE-2024-1", "negligible", 0, "curl", "7.88.1-10")}
	}
	w.succeed(r)
	w.settle()
	m := w.verdict(r)
	require.Equal(t, "quarantine", m.GetDecision())
	require.Equal(t, []string{"1 critical finding, 0 allowed: CVE-2023-38545 in curl 7.88.1-10"}, m.GetReasons(), "distinct over platforms")
	require.EqualValues(t, 1, m.GetScanSummary().GetCounts().GetCritical())
	require.EqualValues(t, 1, m.GetScanSummary().GetCounts().GetLow())
	require.InDelta(t, 9.8, m.GetScanSummary().GetMaxCvss(), 0)
	require.Equal(t, "fail", m.GetChecks()[2].GetVerdict())

	t.Run("and is judged again from what is stored, by a policy of the tenant", func(t *testing.T) {
		p := domain.DefaultPolicy()
		p.MaxCritical = 1
		require.NoError(t, w.db.Work(t.Context(), func(tx pgx.Tx) error {
			_, err := tx.Exec(t.Context(), `insert into policy_document (tenant_id, id, version, document, hash, updated_at, updated_by)
				values ($1, gen_random_uuid(), 3, $2, $3, now(), 'somebody')`, r.tenant, p.Content(), p.Hash())
			return err
		}))
		w.quarantine.intercept(func(http.ResponseWriter, *http.Request) bool { t.Error("a registry was asked"); return false })
		w.documents.intercept(func(http.ResponseWriter, *http.Request) bool { t.Error("a registry was asked"); return false })
		require.NoError(t, w.db.Work(t.Context(), func(tx pgx.Tx) error { return w.app.JudgeAgain(t.Context(), tx, r.request) }))
		d, _ := w.decision(r)
		require.Equal(t, "pass", d.Verdict)
		require.EqualValues(t, 2, d.Version)
		require.Equal(t, 3, d.PolicyVersion)
		require.Equal(t, p.Hash(), w.verdict(r).GetPolicyHash())
		require.NotEqual(t, domain.DefaultPolicy().Hash(), p.Hash())
		w.consistent(r)
	})
}

func TestARegistryThatIsAwayIsWaitedFor(t *testing.T) {
	t.Parallel()
	for name, of := range map[string]func(*world) *place{
		"the quarantine registry": func(w *world) *place { return w.quarantine },
		"the evidence store":      func(w *world) *place { return w.documents },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w, r := newWorld(t), newRun(t)
			w.succeed(r)
			of(w).intercept(func(rw http.ResponseWriter, _ *http.Request) bool {
				rw.WriteHeader(http.StatusServiceUnavailable)
				return true
			})
			require.True(t, w.turn("evidence_collect"))
			require.False(t, w.turn("evidence_collect"), "there is a pause")
			require.Equal(t, domain.Collecting, w.bundle(r).State)
			require.Empty(t, w.said(r))
			of(w).intercept(nil)
			w.advance(2 * time.Second)
			require.True(t, w.turn("evidence_collect"))
			require.Equal(t, "pass", w.verdict(r).GetDecision())
			w.consistent(r)
		})
	}
}

func TestDocumentsThatNeverComeAreAnErrorAfterADay(t *testing.T) {
	t.Parallel()
	w, r := newWorld(t), newRun(t)
	w.succeed(r)
	w.quarantine.intercept(func(rw http.ResponseWriter, _ *http.Request) bool {
		rw.WriteHeader(http.StatusUnauthorized)
		return true
	})
	w.advance(24 * time.Hour) // an outage of ours: nobody has asked yet, so the time alone decides nothing
	for range 4 {
		require.True(t, w.turn("evidence_collect"))
		require.Equal(t, domain.Collecting, w.bundle(r).State)
		w.advance(time.Minute)
	}
	require.True(t, w.turn("evidence_collect"))
	m := w.verdict(r)
	require.Equal(t, "error", m.GetDecision())
	require.Equal(t, "scanner_error", m.GetFailure().GetFailureCode())
	require.Contains(t, m.GetFailure().GetMessage(), "could not be fetched for 24h")
	require.Equal(t, domain.Refused, w.bundle(r).State)
}

func TestACrashBetweenCopyAndRecordIsMadeGood(t *testing.T) {
	t.Parallel()
	w, r := newWorld(t), newRun(t)
	w.succeed(r)
	admin := pgtest.Admin(t, w.db)
	_, err := admin.Exec(t.Context(), `create function fail() returns trigger language plpgsql as $$ begin raise exception 'disk full'; end $$;
		create trigger fail before insert on decision for each row execute function fail()`)
	require.NoError(t, err)
	for _, l := range w.Loops() {
		if l.Name == "evidence_collect_1" {
			_, err := l.Run(t.Context())
			require.ErrorContains(t, err, "disk full")
		}
	}
	require.Empty(t, w.said(r), "all or nothing")
	var rows int
	require.NoError(t, admin.QueryRow(t.Context(), "select (select count(*) from document) + (select count(*) from finding) + (select count(*) from component)").Scan(&rows))
	require.Zero(t, rows)
	_, err = admin.Exec(t.Context(), "drop trigger fail on decision")
	require.NoError(t, err)

	require.False(t, w.turn("evidence_collect"), "whoever crashed holds the lease until it ends")
	w.advance(31 * time.Second)
	w.documents.intercept(nil)
	require.True(t, w.turn("evidence_collect"))
	require.Equal(t, []string{"EvidenceRecorded", "EvidenceDecided"}, names(w.said(r)))
	for _, asked := range w.documents.requests() {
		require.False(t, strings.HasPrefix(asked, http.MethodPatch), "the documents are there already: %s", asked)
	}
	w.consistent(r)
}

func TestAFailureInTheMiddleOfACopyIsMadeGood(t *testing.T) {
	t.Parallel()
	for after := 1; after <= 33; after += 4 {
		w, r := newWorld(t), newRun(t)
		w.succeed(r)
		var left atomic.Int64
		left.Store(int64(after))
		w.documents.intercept(func(rw http.ResponseWriter, _ *http.Request) bool {
			if left.Add(-1) < 0 {
				rw.WriteHeader(http.StatusForbidden) // not retried inside
				return true
			}
			return false
		})
		w.turn("evidence_collect")
		w.documents.intercept(nil)
		w.settle()
		require.Equal(t, "pass", w.verdict(r).GetDecision())
		require.Equal(t, []string{"EvidenceRecorded", "EvidenceDecided"}, names(w.said(r)))
	}
}

func TestALostLeaseWritesNothing(t *testing.T) {
	t.Parallel()
	w, r := newWorld(t), newRun(t)
	w.succeed(r)
	var once sync.Once
	w.documents.intercept(func(http.ResponseWriter, *http.Request) bool {
		once.Do(func() { // while it copies, somebody else takes the bundle
			if _, err := w.db.WorkerPool().Exec(context.Background(), "update bundle set lease_token = lease_token + 1"); err != nil {
				t.Error(err)
			}
		})
		return false
	})
	require.True(t, w.turn("evidence_collect"))
	require.Empty(t, w.said(r))
	require.Equal(t, domain.Collecting, w.bundle(r).State)
}

func TestEvidenceBecomesStaleByTheClock(t *testing.T) {
	t.Parallel()
	w, r := newWorld(t), newRun(t)
	w.succeed(r)
	w.settle()
	require.False(t, w.turn("evidence_expire"))
	expires := w.bundle(r).ExpiresAt
	w.advance(expires.Sub(w.now()) - time.Microsecond)
	require.False(t, w.turn("evidence_expire"))
	w.advance(time.Microsecond)
	require.True(t, w.turn("evidence_expire"))
	require.False(t, w.turn("evidence_expire"), "once")
	require.Equal(t, domain.Stale, w.bundle(r).State)
	events := w.said(r)
	m := new(evidencev1.EvidenceStale)
	require.NoError(t, events[len(events)-1].Decode(m))
	require.Equal(t, expires, m.GetExpiredAt().AsTime())
	w.consistent(r)
}

func TestIncompleteEvidenceCannotBecomeStale(t *testing.T) {
	t.Parallel()
	w, r := newWorld(t), newRun(t)
	r.built = func() document.Database {
		return document.Database{Digest: "sha256:old", Built: start.Add(-121 * time.Hour), Schema: "6"}
	}
	w.succeed(r)
	w.settle()
	require.Equal(t, "incomplete", w.verdict(r).GetDecision())
	w.advance(100 * 24 * time.Hour)
	w.turn("evidence_expire")
	require.Equal(t, []string{"EvidenceRecorded", "EvidenceDecided"}, names(w.said(r)))
}
