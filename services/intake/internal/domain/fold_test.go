package domain

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/pratique-io/pratique/internal/failure"
)

var at = time.Date(2026, 2, 3, 4, 5, 6, 0, time.UTC)

func approved(t *testing.T, kind Type) *Request {
	t.Helper()
	r := &Request{ID: uuid.UUID{1}, Tenant: uuid.UUID{2}, Type: kind}
	r.Begin(at)
	_, err := r.Decide(Approve, "system", "", at, at)
	require.NoError(t, err)
	return r
}

func releaseOf(id string, seq int64, state string) Promotion {
	return Promotion{At: at.Add(time.Duration(seq)), Release: Release{ID: id, Seq: seq, Destination: "trusted/" + id, State: state, Actor: "p"}}
}

// happy is everything that is ever said about one released request.
func happy() []any {
	return []any{
		Queued{Seq: 1, At: at}, Waiting{Seq: 2, Code: failure.DispatcherUnavailable, Since: at},
		Started{Seq: 3, RunID: "r1", Attempt: 1, At: at}, Steps{Seq: 4, List: []RunStep{{Key: "pull", Status: "running"}}},
		Started{Seq: 5, RunID: "r2", Attempt: 2, At: at.Add(1)}, Steps{Seq: 6, List: []RunStep{{Key: "pull", Status: "succeeded"}}},
		Ended{Seq: 7, As: RunSucceeded, RunID: "r2", Attempt: 2, At: at.Add(2)},
		Recorded{Seq: 1, At: at}, Judged{Seq: 2, Verdict: "pass", DecidedAt: at},
		Eligible{Seq: 1, At: at}, releaseOf("a", 2, "approved"), releaseOf("a", 3, "failed"),
		releaseOf("b", 4, "approved"), releaseOf("b", 5, "released"),
		releaseOf("c", 6, "approved"), releaseOf("c", 7, "released"),
		Reconciliation{Seq: 1, Expected: 2}, Reconciliation{Seq: 2, Expected: 2, Receipts: 2},
	}
}

func TestFactsFoldInAnyOrder(t *testing.T) {
	t.Parallel()
	endings := map[string]struct {
		facts []any
		want  State
	}{
		"released": {happy(), State{Success, Completed, Released}},
		"quarantined": {[]any{
			Started{Seq: 1, RunID: "r", Attempt: 1, At: at}, Ended{Seq: 2, As: RunSucceeded, RunID: "r", Attempt: 1, At: at},
			Recorded{Seq: 1, At: at}, Judged{Seq: 2, Verdict: "quarantine", DecidedAt: at}, ReleaseFact{Seq: 1, State: ReleaseBlocked, Blocker: "policy_quarantined"},
		}, State{Quarantined, Completed, ReleaseBlocked}},
		"incomplete": {[]any{
			Started{Seq: 1, RunID: "r", Attempt: 1, At: at}, Ended{Seq: 2, As: RunSucceeded, RunID: "r", Attempt: 1, At: at},
			Judged{Seq: 2, Verdict: "incomplete", DecidedAt: at}, ReleaseFact{Seq: 1, State: ReleaseBlocked, Blocker: "evidence_incomplete"},
		}, State{Success, ReadyForRelease, ReleaseBlocked}},
		"evidence error": {[]any{
			Started{Seq: 1, RunID: "r", Attempt: 1, At: at}, Ended{Seq: 2, As: RunSucceeded, RunID: "r", Attempt: 1, At: at},
			Recorded{Seq: 1, At: at}, Judged{Seq: 2, Verdict: "error", DecidedAt: at},
		}, State{Failed, Completed, NotReady}},
		"run failed": {[]any{
			Queued{Seq: 1, At: at}, Started{Seq: 2, RunID: "r", Attempt: 1, At: at}, Steps{Seq: 3},
			Ended{Seq: 4, As: RunFailed, RunID: "r", Attempt: 1, At: at, Failure: Failure{Class: failure.Runtime, Code: "run_timeout"}},
		}, State{Failed, Completed, NotReady}},
		"never dispatched": {[]any{
			Queued{Seq: 1, At: at}, Waiting{Seq: 2, Code: failure.DispatcherUnavailable, Since: at},
			Ended{Seq: 3, As: RunFailed, At: at, Failure: Failure{Class: failure.Dispatch, Code: "dispatch_timeout"}},
		}, State{Failed, Completed, NotReady}},
		"accepted after quarantine": {[]any{
			Judged{Seq: 2, Verdict: "quarantine", DecidedAt: at}, ReleaseFact{Seq: 1, State: ReleaseBlocked, Blocker: "policy_quarantined"},
			Eligible{Seq: 2, At: at},
		}, State{Quarantined, ReadyForRelease, ReleaseReady}},
	}
	for name, c := range endings {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var first *Request
			for seed := range uint64(400) {
				r, concluded := deliver(t, c.facts, seed)
				require.Equal(t, c.want, r.State, "seed %d", seed)
				require.Equal(t, 1, concluded, "seed %d: one conclusion", seed)
				r.Version = 0 // how many steps it took depends on the order; where it ends does not
				if first == nil {
					first = r
				}
				require.Equal(t, first, r, "seed %d", seed)
			}
		})
	}
}

// deliver tells the facts in a seeded order, each once or several times, and checks that versions have no gaps.
func deliver(t *testing.T, facts []any, seed uint64) (*Request, int) {
	t.Helper()
	rng := rand.New(rand.NewPCG(seed, 7))
	var list []any
	for _, f := range facts {
		for range 1 + rng.IntN(3) {
			list = append(list, f)
		}
	}
	if seed > 0 { // seed 0 is the true order
		rng.Shuffle(len(list), func(i, j int) { list[i], list[j] = list[j], list[i] })
	}
	r := approved(t, TypeQuarantine)
	version, state, concluded := r.Version, r.State, 0
	for _, f := range list {
		steps, _ := r.Hear(f, at)
		for _, s := range steps {
			version++
			require.Equal(t, version, s.Version)
			require.Equal(t, state, s.From)
			state = s.To
			if s.From.Status != s.To.Status {
				to, err := Next(s.From.Status, s.Verb)
				require.NoError(t, err)
				require.Equal(t, to, s.To.Status)
			}
		}
		require.Equal(t, state, r.State)
		if r.Conclude(at) {
			concluded++
		}
	}
	return r, concluded
}

func TestFastForward(t *testing.T) {
	t.Parallel()
	verbs := func(steps []Step) (out []Verb) {
		for _, s := range steps {
			out = append(out, s.Verb)
		}
		return out
	}
	t.Run("a success before its start walks through importing", func(t *testing.T) {
		r := approved(t, TypeQuarantine)
		steps, known := r.Hear(Ended{Seq: 9, As: RunSucceeded, RunID: "r", Attempt: 1, At: at}, at)
		require.True(t, known)
		require.Equal(t, []Verb{Start, Collect}, verbs(steps))
		require.Equal(t, State{Importing, EvidencePending, NotReady}, r.State)
		steps, known = r.Hear(Started{Seq: 3, RunID: "r", Attempt: 1, RunName: "run-1", At: at}, at)
		require.True(t, known, "the late start still fills in its fields")
		require.Equal(t, []Verb{Record}, verbs(steps))
		require.Equal(t, "run-1", r.Facts.Started.RunName)
	})
	t.Run("a verdict alone walks all the way", func(t *testing.T) {
		r := approved(t, TypeScan)
		steps, _ := r.Hear(Judged{Seq: 1, Verdict: "pass"}, at)
		require.Equal(t, []Verb{Start, Collect, Succeed}, verbs(steps))
		require.Equal(t, State{Success, Completed, NotReady}, r.State)
		require.True(t, r.Conclude(at), "a scan ends with its verdict")
		require.False(t, r.Conclude(at))
	})
	t.Run("release is not shown ahead of the evidence", func(t *testing.T) {
		r := approved(t, TypeQuarantine)
		r.Hear(Eligible{Seq: 1, At: at}, at)
		require.Equal(t, NotReady, r.State.Release)
		r.Hear(Judged{Seq: 1, Verdict: "pass"}, at)
		require.Equal(t, ReleaseReady, r.State.Release)
	})
	t.Run("release never speaks about scans", func(t *testing.T) {
		r := approved(t, TypeScan)
		r.Hear(Judged{Seq: 1, Verdict: "pass"}, at)
		r.Hear(Eligible{Seq: 1, At: at}, at)
		require.Equal(t, NotReady, r.State.Release)
	})
	t.Run("an unknown verdict fails closed", func(t *testing.T) {
		r := approved(t, TypeQuarantine)
		r.Hear(Judged{Seq: 1, Verdict: "splendid"}, at)
		require.Equal(t, Failed, r.State.Status)
		require.Equal(t, failure.ScannerError, r.Failure().Code)
	})
	t.Run("what is withdrawn stays withdrawn whatever arrives", func(t *testing.T) {
		r := approved(t, TypeQuarantine)
		_, err := r.TakeBack("p", "", at)
		require.NoError(t, err)
		for _, f := range append(happy(), Ended{Seq: 20, As: RunCancelled, RunID: "r", Attempt: 1, At: at}) {
			r.Hear(f, at)
		}
		require.Equal(t, State{Withdrawn, Completed, NotReady}, r.State)
		require.False(t, r.Conclude(at))
		require.Nil(t, r.Failure())
	})
	t.Run("a run cancelled under an open request fails it, so that nothing waits for ever", func(t *testing.T) {
		r := approved(t, TypeQuarantine)
		steps, _ := r.Hear(Ended{Seq: 2, As: RunCancelled, RunID: "r", Attempt: 1, At: at}, at)
		require.Equal(t, []Verb{Start, Fail}, verbs(steps))
		require.Equal(t, failure.RuntimeFailed, r.Failure().Code)
	})
	t.Run("a refusal after the approval is a failure of policy", func(t *testing.T) {
		r := approved(t, TypeQuarantine)
		_, err := r.Refuse("tenant disabled", at)
		require.NoError(t, err)
		require.Equal(t, &Failure{Class: failure.Policy, Code: failure.PolicyBlocked, Message: "tenant disabled"}, r.Failure())
		r.Hear(Ended{Seq: 2, As: RunCancelled, At: at}, at)
		require.Equal(t, failure.PolicyBlocked, r.Failure().Code, "dispatch ending its record changes nothing")
		require.Equal(t, "failed", r.Stages()[1].State)
	})
	t.Run("waiting shows while approved and goes with the start", func(t *testing.T) {
		r := approved(t, TypeQuarantine)
		r.Hear(Waiting{Seq: 2, Since: at}, at)
		require.Equal(t, Approved, r.State.Status)
		require.Equal(t, &Failure{Class: failure.Dispatch, Code: failure.DispatcherUnavailable}, r.Failure())
		r.Hear(Started{Seq: 3, RunID: "r", Attempt: 1, At: at}, at)
		require.Nil(t, r.Failure())
	})
	t.Run("a failed promotion blocks and may be repeated", func(t *testing.T) {
		r := approved(t, TypeQuarantine)
		r.Hear(Judged{Seq: 1, Verdict: "pass"}, at)
		r.Hear(Eligible{Seq: 1, At: at}, at)
		failed := releaseOf("a", 3, "failed")
		failed.Blocker = "promotion_failed"
		r.Hear(failed, at)
		require.Equal(t, State{Success, ReadyForRelease, ReleaseBlocked}, r.State)
		require.Equal(t, "promotion_failed", r.Blocker())
		require.True(t, r.Eligible())
		r.Hear(releaseOf("b", 4, "approved"), at)
		require.Equal(t, ReleaseApproved, r.State.Release)
		require.Empty(t, r.Blocker())
		require.False(t, r.Eligible())
	})
	t.Run("a new verdict changes what is true now, not what the run came to", func(t *testing.T) {
		r := approved(t, TypeQuarantine)
		r.Hear(Judged{Seq: 1, Verdict: "pass"}, at)
		r.Hear(Judged{Seq: 2, Verdict: "quarantine"}, at)
		require.Equal(t, Success, r.State.Status)
		require.Equal(t, "quarantine", r.Facts.Judged.Verdict)
	})
}

func TestStages(t *testing.T) {
	t.Parallel()
	show := func(r *Request) string {
		out := ""
		for _, s := range r.Stages() {
			out += s.State[:2] + " "
		}
		return out
	}
	pending := &Request{Type: TypeQuarantine}
	pending.Begin(at)
	require.Equal(t, "cu pe pe pe pe pe ", show(pending))
	require.Equal(t, "security_reviewer", pending.WaitingFor().Who)
	require.Equal(t, "co cu pe pe pe pe ", show(approved(t, TypeQuarantine)))

	rejected := &Request{Type: TypeQuarantine}
	rejected.Begin(at)
	_, err := rejected.Decide(Reject, "p", "no", at, at)
	require.NoError(t, err)
	require.Equal(t, "fa pe pe pe pe co ", show(rejected))
	require.Nil(t, rejected.WaitingFor())

	failed := approved(t, TypeQuarantine)
	failed.Hear(Ended{Seq: 1, As: RunFailed, RunID: "r", Attempt: 1, Failure: Failure{Code: "run_timeout"}, At: at}, at)
	require.Equal(t, "co co fa pe pe co ", show(failed))

	blocked := approved(t, TypeQuarantine)
	blocked.Hear(Judged{Seq: 1, Verdict: "incomplete"}, at)
	require.Equal(t, "evidence", blocked.WaitingFor().Who, "release has not spoken")
	blocked.Hear(ReleaseFact{Seq: 1, State: ReleaseBlocked, Blocker: "evidence_incomplete"}, at)
	require.Equal(t, "co co co co fa pe ", show(blocked))

	quarantined := approved(t, TypeQuarantine)
	quarantined.Hear(Judged{Seq: 1, Verdict: "quarantine"}, at)
	require.Equal(t, "co co co fa pe co ", show(quarantined))

	done := approved(t, TypeQuarantine)
	for _, f := range happy() {
		done.Hear(f, at)
	}
	require.Equal(t, "co co co co co co ", show(done))

	for _, from := range []Status{Pending, Approved, Importing} {
		r := &Request{Type: TypeQuarantine}
		r.Begin(at)
		if from != Pending {
			r = approved(t, TypeQuarantine)
		}
		if from == Importing {
			r.Hear(Started{Seq: 1, RunID: "r", Attempt: 1, At: at}, at)
		}
		_, err := r.TakeBack("p", "", at)
		require.NoError(t, err)
		n := map[Status]int{Pending: 0, Approved: 1, Importing: 2}[from]
		require.Equal(t, "failed", r.Stages()[n].State, fmt.Sprintf("withdrawn while %s", from))
	}
}
