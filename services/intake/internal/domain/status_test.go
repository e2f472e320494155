package domain

import (
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/pratique-io/pratique/internal/failure"
)

func TestStatusTable(t *testing.T) {
	t.Parallel()
	// The contract's transitions, written down once more by hand.
	want := map[string]Status{
		"pending approve": Approved, "pending reject": Rejected, "pending withdraw": Withdrawn,
		"approved start": Importing, "approved fail": Failed, "approved withdraw": Withdrawn,
		"importing collect": Importing, "importing succeed": Success, "importing quarantine": Quarantined, "importing fail": Failed,
		"importing withdraw": Withdrawn,
	}
	walked := 0
	for _, from := range Statuses() {
		for _, verb := range append(StatusVerbs(), ReleaseVerbs()...) {
			to, err := Next(from, verb)
			expected, allowed := want[string(from)+" "+string(verb)]
			if !allowed {
				var move *Move
				require.ErrorAs(t, err, &move, "%s %s", from, verb)
				continue
			}
			require.NoError(t, err)
			require.Equal(t, expected, to, "%s %s", from, verb)
			walked++
		}
	}
	require.Equal(t, len(want), walked)
	require.Len(t, lifecycle, len(Statuses()))
	for _, s := range []Status{Rejected, Withdrawn, Success, Quarantined, Failed} {
		require.True(t, s.Terminal(), "%s is terminal", s)
	}
}

func TestReleaseTable(t *testing.T) {
	t.Parallel()
	want := map[string]ReleaseState{
		"not_ready release_ready": ReleaseReady, "not_ready release_block": ReleaseBlocked,
		"ready_for_release release_block": ReleaseBlocked, "ready_for_release release_approve": ReleaseApproved,
		"release_blocked release_ready": ReleaseReady, "release_blocked release_approve": ReleaseApproved,
		"release_approved release": Released, "release_approved release_block": ReleaseBlocked,
		"released recall": Recalled,
	}
	walked := 0
	for _, from := range ReleaseStates() {
		for _, verb := range append(StatusVerbs(), ReleaseVerbs()...) {
			to, err := NextRelease(from, verb)
			expected, allowed := want[string(from)+" "+string(verb)]
			require.Equal(t, allowed, err == nil, "%s %s", from, verb)
			if allowed {
				require.Equal(t, expected, to)
				walked++
			}
		}
	}
	require.Equal(t, len(want), walked)
	require.Equal(t, []Verb{Ready, Grant, Publish}, releasePath(NotReady, Released), "a release fast-forwards through its approval")
	require.Nil(t, releasePath(Recalled, Released), "nothing comes back from a recall")
}

func TestEprTable(t *testing.T) {
	t.Parallel()
	for _, from := range EprStatuses() {
		for _, verb := range append(StatusVerbs(), ReleaseVerbs()...) {
			to, err := NextEpr(from, verb)
			want, allowed := map[Verb]EprStatus{Approve: EprApproved, Reject: EprRejected, Withdraw: EprWithdrawn}[verb]
			require.Equal(t, allowed && from == EprPending, err == nil, "%s %s", from, verb)
			if err == nil {
				require.Equal(t, want, to)
			}
		}
	}
}

// The SQL CHECKs list exactly the states of Go.
func TestChecksMatch(t *testing.T) {
	t.Parallel()
	sql, err := os.ReadFile("../store/migrations/0001_intake.sql")
	require.NoError(t, err)
	list := func(column string, nth int) []string {
		all := regexp.MustCompile(`check \(`+column+` in \(([^)]*)\)\)`).FindAllStringSubmatch(string(sql), -1)
		require.Greater(t, len(all), nth, column)
		var out []string
		for _, item := range strings.Split(all[nth][1], ",") {
			out = append(out, strings.Trim(strings.TrimSpace(item), "'"))
		}
		return out
	}
	require.ElementsMatch(t, texts(Statuses()), list("status", 1), "after tenant.status comes request.status")
	require.ElementsMatch(t, texts(Executions()), list("execution_state", 0))
	require.ElementsMatch(t, texts(ReleaseStates()), list("release_state", 0))
	require.ElementsMatch(t, texts(EprStatuses()), list("status", 2))
	require.ElementsMatch(t, append(failure.Classes(), ""), list("failure_class", 0))
}

func texts[T ~string](in []T) []string {
	out := make([]string, 0, len(in))
	for _, s := range in {
		out = append(out, string(s))
	}
	return out
}

func TestAFailureIsMadeWhole(t *testing.T) {
	t.Parallel()
	require.Equal(t, Failure{Class: "runtime", Code: "run_timeout"}, Failure{Code: "run_timeout"}.sound(failure.RuntimeFailed))
	require.Equal(t, Failure{Class: "runtime", Code: "runtime_failed"}, Failure{}.sound(failure.RuntimeFailed))
	// A class of a newer writer would break the CHECK of the column, and with it every event about the request.
	require.Equal(t, Failure{Class: "auth", Code: "auth_error"}, Failure{Class: "weather", Code: "auth_error"}.sound(failure.RuntimeFailed))
	require.Equal(t, Failure{Class: "runtime", Code: "hail"}, Failure{Class: "weather", Code: "hail"}.sound(failure.RuntimeFailed))
}

func TestEprLifecycle(t *testing.T) {
	t.Parallel()
	day := 24 * time.Hour
	at := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	r := &Registration{ID: uuid.New(), Status: EprPending, Version: 1}
	require.Equal(t, LifecycleNone, r.Lifecycle(at, 30*day))
	require.NoError(t, r.Decide(Approve, "system", "", at, at, 365*day))
	expires := at.Add(365 * day)
	require.Equal(t, expires, *r.ExpiresAt)
	for _, c := range []struct {
		now  time.Time
		want Lifecycle
	}{
		{at, LifecycleActive}, {expires.Add(-30*day - 1), LifecycleActive}, {expires.Add(-30 * day), LifecycleExpiring},
		{expires.Add(-1), LifecycleExpiring}, {expires, LifecycleExpired},
	} {
		require.Equal(t, c.want, r.Lifecycle(c.now, 30*day), c.now)
	}
	r.SuspendedAt = &at
	require.Equal(t, LifecycleSuspended, r.Lifecycle(at, 30*day))
	require.Error(t, r.Decide(Reject, "system", "", at, at, day), "a decision stands")
	require.EqualValues(t, 2, r.Version)
}

func TestRecordID(t *testing.T) {
	t.Parallel()
	made := NewRecordID(time.Date(2026, 3, 4, 23, 0, 0, 0, time.UTC), [4]byte{0, 1, 0xab, 0xff})
	require.Equal(t, "EPR-20260304-0001abff", made)
	for _, good := range []string{made, "a", "A1", "x.y_z-1", strings.Repeat("a", 64)} {
		require.True(t, ValidRecordID(good), good)
	}
	for _, bad := range []string{"", "-a", "a-", "a b", "a/b", "ä", "a\n", strings.Repeat("a", 65)} {
		require.False(t, ValidRecordID(bad), bad)
	}
}
