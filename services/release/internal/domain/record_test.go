package domain_test

import (
	"slices"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/pratique-io/pratique/services/release/internal/domain"
)

var now = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

const digest = "sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"

func request() domain.Request {
	return domain.Request{Type: domain.TypeQuarantine, Requester: alice, Chain: []string{bob}, SourceRegistry: "docker.io", SourceRef: "nginx:1", Digest: digest}
}

const (
	alice = "0198a000-0000-7000-8000-00000000000a"
	bob   = "0198a000-0000-7000-8000-00000000000b"
)

func judged(seq int64, decision string) domain.Judged {
	until := now.Add(24 * time.Hour)
	return domain.Judged{Seq: seq, Decision: decision, Digest: digest, EvidenceHash: "e1", PolicyHash: "p1", ValidUntil: &until}
}

// after gives a record that has heard the facts, settling after each, and the steps it took.
func after(facts ...any) (*domain.Record, []domain.Step) {
	r := domain.NewRecord(uuid.New(), uuid.New(), now)
	var steps []domain.Step
	for _, f := range facts {
		if r.Facts.Learn(f) {
			if step, moved := r.Settle(now); moved {
				steps = append(steps, step)
			}
		}
	}
	return r, steps
}

func TestEachRuleStandsInTheWayByItself(t *testing.T) {
	t.Parallel()
	past := now.Add(-time.Second)
	change := func(f func(*domain.Judged)) domain.Judged { j := judged(1, domain.Pass); f(&j); return j }
	for name, tc := range map[string]struct {
		facts []any
		rule  string
		want  domain.Blocker
	}{
		"nothing is wrong":             {[]any{request(), judged(1, domain.Pass)}, "", ""},
		"nothing was asked":            {[]any{judged(1, domain.Pass)}, "request_type", domain.ImportNotTerminal},
		"a scan":                       {[]any{domain.Request{Type: domain.TypeScan, Digest: digest}, judged(1, domain.Pass)}, "request_type", domain.ImportNotTerminal},
		"no decision by people":        {[]any{request()}, "import_concluded", domain.ImportNotTerminal},
		"approved, not run":            {[]any{request(), domain.Progress{Seq: 2, Status: domain.Admitted}}, "import_concluded", domain.ImportNotTerminal},
		"the run failed":               {[]any{request(), domain.Broken{Seq: 1}}, "import_concluded", domain.ImportFailed},
		"rejected":                     {[]any{request(), judged(1, domain.Pass), domain.Progress{Seq: 2, Status: domain.Rejected}}, "import_concluded", domain.ImportFailed},
		"withdrawn":                    {[]any{request(), judged(1, domain.Pass), domain.Progress{Seq: 2, Status: domain.Withdrawn}}, "import_concluded", domain.ImportFailed},
		"failed":                       {[]any{request(), judged(1, domain.Pass), domain.Progress{Seq: 2, Status: domain.Failed}}, "import_concluded", domain.ImportFailed},
		"a scanner error":              {[]any{request(), judged(1, domain.Error)}, "import_concluded", domain.ImportFailed},
		"a later scanner error":        {[]any{request(), domain.Progress{Seq: 5, Status: domain.Succeeded}, judged(2, domain.Error)}, "policy_decision", domain.PolicyNotPassed},
		"quarantined":                  {[]any{request(), judged(1, domain.Quarantine)}, "policy_decision", domain.PolicyQuarantined},
		"incomplete":                   {[]any{request(), judged(1, domain.Incomplete)}, "policy_decision", domain.EvidenceIncomplete},
		"a verdict we do not know":     {[]any{request(), domain.Progress{Seq: 5, Status: domain.Succeeded}, judged(1, "fine")}, "policy_decision", domain.PolicyNotPassed},
		"no evidence hash":             {[]any{request(), change(func(j *domain.Judged) { j.EvidenceHash = "" })}, "evidence_recorded", domain.EvidenceIncomplete},
		"dry run would not pass":       {[]any{request(), change(func(j *domain.Judged) { j.WouldHaveDecided = domain.Quarantine })}, "dry_run", domain.DryRun},
		"dry run would pass":           {[]any{request(), change(func(j *domain.Judged) { j.WouldHaveDecided = domain.Pass })}, "", ""},
		"dry run, released all same":   {[]any{request(), change(func(j *domain.Judged) { j.WouldHaveDecided = domain.Quarantine; j.DryRunReleasable = true })}, "", ""},
		"another digest":               {[]any{request(), change(func(j *domain.Judged) { j.Digest = "sha256:bb" })}, "digest_match", domain.DigestMismatch},
		"expired by the clock":         {[]any{request(), change(func(j *domain.Judged) { j.ValidUntil = &past })}, "evidence_fresh", domain.EvidenceStale},
		"called stale":                 {[]any{request(), judged(1, domain.Pass), domain.Stale{Seq: 2, At: past}}, "evidence_fresh", domain.EvidenceStale},
		"stale, then judged again":     {[]any{request(), domain.Stale{Seq: 2, At: past}, judged(3, domain.Pass)}, "", ""},
		"the quarantine copy is gone":  {[]any{request(), judged(1, domain.Pass), domain.Removed{Seq: 3, Reason: "retention"}}, "bytes_available", domain.EvidenceStale},
		"no promise how long it holds": {[]any{request(), change(func(j *domain.Judged) { j.ValidUntil = nil })}, "", ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r, _ := after(tc.facts...)
			ok, reason, rules := r.Eligible(now)
			require.Equal(t, tc.want == "", ok)
			require.Equal(t, tc.want, reason)
			failing := ""
			for _, rule := range rules {
				require.NotEmpty(t, rule.Inputs, rule.Name)
				require.NotEmpty(t, rule.Blocker, rule.Name)
				if !rule.Passed && failing == "" {
					failing = rule.Name
				}
			}
			require.Equal(t, tc.rule, failing)
			releasable, _ := r.Releasable(now)
			require.Equal(t, ok, releasable)
		})
	}
}

func TestEligibilityIsToldOnChangeOnly(t *testing.T) {
	t.Parallel()
	r, steps := after(request(), judged(1, domain.Pass), judged(1, domain.Pass), judged(2, domain.Pass), judged(3, domain.Quarantine),
		judged(4, domain.Quarantine), judged(5, domain.Incomplete), judged(2, domain.Pass), judged(6, domain.Pass))
	var told []string
	for i, s := range steps {
		told = append(told, string(s.Verb)+" "+string(s.Blocker))
		require.EqualValues(t, i+1, s.Version)
	}
	require.Equal(t, []string{"open ", "block policy_quarantined", "block evidence_incomplete", "open "}, told)
	require.Equal(t, domain.Ready, r.State)
	_, steps = after(request(), judged(1, domain.Error))
	require.Empty(t, steps, "a scanner error is a failed import, not a blocked release")
	_, steps = after(domain.Request{Type: domain.TypeScan, Digest: digest}, judged(1, domain.Quarantine))
	require.Empty(t, steps, "a scan is never released")
}

func TestAnyOrderOfFactsAndTwiceComesToTheSame(t *testing.T) {
	t.Parallel()
	stories := map[string][]any{
		"ready": {request(), domain.Progress{Seq: 1, Status: domain.Pending}, domain.Progress{Seq: 2, Status: domain.Admitted},
			judged(2, domain.Pass), domain.Progress{Seq: 5, Status: domain.Succeeded}},
		"quarantined after pass": {request(), domain.Progress{Seq: 4, Status: domain.Succeeded}, judged(2, domain.Pass), judged(3, domain.Quarantine)},
		"stale":                  {request(), judged(2, domain.Pass), domain.Stale{Seq: 3, At: now}, domain.Progress{Seq: 4, Status: domain.Succeeded}},
		"withdrawn under way":    {request(), judged(2, domain.Pass), domain.Progress{Seq: 3, Status: domain.Withdrawn}, domain.Removed{Seq: 3}},
		"failed":                 {request(), domain.Broken{Seq: 3}, domain.Progress{Seq: 3, Status: domain.Failed}},
		"turned to error":        {request(), judged(1, domain.Pass), judged(2, domain.Error), domain.Progress{Seq: 6, Status: domain.Succeeded}},
	}
	for name, facts := range stories {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var want *domain.Record
			permute(facts, func(order []any) {
				got, _ := after(append(slices.Clone(order), order...)...)
				if want == nil {
					want = got
				}
				require.Equal(t, want.State, got.State, "%v", order)
				require.Equal(t, want.Blocker, got.Blocker, "%v", order)
				require.Equal(t, want.Facts, got.Facts, "%v", order)
			})
		})
	}
}

func permute(list []any, visit func([]any)) {
	var walk func(int)
	walk = func(k int) {
		if k == len(list) {
			visit(list)
			return
		}
		for i := k; i < len(list); i++ {
			list[k], list[i] = list[i], list[k]
			walk(k + 1)
			list[k], list[i] = list[i], list[k]
		}
	}
	walk(0)
}

func TestAFailedPromotionMayBeRepeated(t *testing.T) {
	t.Parallel()
	r, _ := after(request(), judged(1, domain.Pass))
	_, err := r.Grant(now)
	require.NoError(t, err)
	ok, reason := r.Releasable(now)
	require.False(t, ok)
	require.Empty(t, reason)
	steps, err := r.Unpublished(domain.PromotionFailed, now)
	require.NoError(t, err)
	require.Len(t, steps, 1)
	require.Equal(t, domain.Blocked, r.State)
	eligible, why, _ := r.Eligible(now)
	require.False(t, eligible)
	require.Equal(t, domain.PromotionFailed, why)
	r.Facts.Learn(judged(2, domain.Pass))
	_, moved := r.Settle(now)
	require.False(t, moved, "another pass does not take the failure back")
	_, err = r.Grant(now)
	require.NoError(t, err)
	require.Equal(t, domain.Approved, r.State)

	r.Facts.Learn(judged(3, domain.Quarantine))
	_, moved = r.Settle(now)
	require.False(t, moved, "while it is promoted the promotion decides")
	steps, err = r.Unpublished(domain.PromotionFailed, now)
	require.NoError(t, err)
	require.Len(t, steps, 2)
	require.Equal(t, domain.PolicyQuarantined, r.Blocker, "the better reason")
	r.Facts.Learn(judged(4, domain.Pass))
	step, moved := r.Settle(now)
	require.True(t, moved)
	require.Equal(t, domain.Ready, step.To)
}

func TestAReleasedRecordStaysReleased(t *testing.T) {
	t.Parallel()
	r, _ := after(request(), judged(1, domain.Pass))
	_, err := r.Grant(now)
	require.NoError(t, err)
	_, err = r.Published(now)
	require.NoError(t, err)
	r.Facts.Learn(domain.Removed{Seq: 2, Reason: "released"})
	ok, _ := r.Releasable(now)
	require.True(t, ok, "to a further place, from the trusted registry")
	_, err = r.Grant(now)
	require.NoError(t, err)
	_, err = r.Unpublished(domain.PromotionFailed, now)
	require.NoError(t, err)
	require.Equal(t, domain.Released, r.State)
	require.Empty(t, r.FailedAs)
}

func TestNobodyOfTheChainReleases(t *testing.T) {
	t.Parallel()
	r, _ := after(request())
	require.False(t, r.MayRelease(uuid.MustParse(alice)))
	require.False(t, r.MayRelease(uuid.MustParse(bob)))
	require.False(t, r.MayRelease(uuid.Nil))
	require.True(t, r.MayRelease(uuid.New()))
}
