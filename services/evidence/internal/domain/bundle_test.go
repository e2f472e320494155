package domain_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pratique-io/pratique/services/evidence/internal/domain"
)

func TestEveryStateAndVerbOfABundle(t *testing.T) {
	t.Parallel()
	allowed := map[[2]string]domain.State{
		{"awaiting", "collect"}: domain.Collecting, {"awaiting", "abandon"}: domain.Abandoned,
		{"collecting", "record"}: domain.Recorded, {"collecting", "refuse"}: domain.Refused,
		{"recorded", "decide"}: domain.Judged, {"judged", "decide"}: domain.Judged, {"stale", "decide"}: domain.Judged,
		{"judged", "expire"}: domain.Stale, {"judged", "remove_copy"}: domain.Judged, {"stale", "remove_copy"}: domain.Stale,
		{"refused", "remove_copy"}: domain.Refused, {"abandoned", "remove_copy"}: domain.Abandoned,
	}
	for _, from := range domain.States() {
		for _, verb := range domain.Verbs() {
			want, ok := allowed[[2]string{string(from), string(verb)}]
			b := domain.Bundle{State: from, Version: 4}
			move, err := b.Move(verb, "system", "why", now)
			if !ok {
				require.Error(t, err, "%s %s", from, verb)
				require.Equal(t, from, b.State)
				require.EqualValues(t, 4, b.Version)
				continue
			}
			require.NoError(t, err, "%s %s", from, verb)
			require.Equal(t, want, b.State)
			require.Equal(t, domain.Transition{From: from, To: want, Verb: verb, Version: 5, Actor: "system", Reason: "why", At: now}, move)
		}
	}
}

func TestEveryStateAndVerbOfACopy(t *testing.T) {
	t.Parallel()
	for _, from := range domain.CopyStates() {
		to, err := domain.NextCopy(from, domain.Condemn)
		require.NoError(t, err)
		require.Equal(t, domain.ToRemove, to)
		to, err = domain.NextCopy(from, domain.Erase)
		require.Equal(t, from == domain.ToRemove, err == nil, "only what is condemned is erased")
		require.Equal(t, err == nil, to == domain.Removed)
	}
}

func TestWhatMayStillBeReleasedIsKept(t *testing.T) {
	t.Parallel()
	week := 168 * time.Hour
	for _, c := range []struct {
		kind, verdict string
		until         time.Time
		now           string
	}{
		{"quarantine", domain.VerdictPass, time.Time{}, ""},
		{"quarantine", domain.VerdictQuarantine, now.Add(week), ""},
		{"quarantine", domain.VerdictIncomplete, now.Add(week), ""},
		{"quarantine", domain.VerdictError, time.Time{}, domain.ReasonFailed},
		{"scan", domain.VerdictPass, time.Time{}, domain.ReasonRetention},
		{"scan", domain.VerdictQuarantine, time.Time{}, domain.ReasonRetention},
		{"scan", domain.VerdictError, time.Time{}, domain.ReasonFailed},
	} {
		until, reason := domain.Retain(c.kind, domain.Decision{Verdict: c.verdict, DecidedAt: now}, week)
		require.Equal(t, c.until, until, c)
		require.Equal(t, c.now, reason, c)
	}
}

func TestTheEvidenceHashBindsEveryFieldAndNoOrder(t *testing.T) {
	t.Parallel()
	a := domain.Document{Kind: "sbom", Platform: "linux/amd64", Format: "json", MediaType: "m", Digest: "sha256:a", Size: 1, Tool: "t", ToolVersion: "1", FinishedAt: now}
	b := a
	b.Kind = "source"
	want := domain.HashDocuments("d", "r", []domain.Document{a, b})
	require.Equal(t, want, domain.HashDocuments("d", "r", []domain.Document{b, a}))
	seen := map[string]bool{want: true, domain.HashDocuments("other", "r", []domain.Document{a, b}): true, domain.HashDocuments("d", "other", []domain.Document{a, b}): true}
	require.Len(t, seen, 3)
	for _, change := range []func(*domain.Document){
		func(d *domain.Document) { d.Kind = "report" }, func(d *domain.Document) { d.Platform = "x" }, func(d *domain.Document) { d.Format = "x" },
		func(d *domain.Document) { d.MediaType = "x" }, func(d *domain.Document) { d.Digest = "x" }, func(d *domain.Document) { d.Size = 2 },
		func(d *domain.Document) { d.Tool = "x" }, func(d *domain.Document) { d.ToolVersion = "x" },
		func(d *domain.Document) { d.FinishedAt = now.Add(1) },
		func(d *domain.Document) { d.Platform, d.Format = "linux/amd64\",\"json", "" },
	} {
		c := a
		change(&c)
		h := domain.HashDocuments("d", "r", []domain.Document{c, b})
		require.False(t, seen[h])
		seen[h] = true
	}
}
