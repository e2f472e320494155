package domain

import (
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/pratique-io/pratique/internal/failure"
)

// ended is a request of a chain as it stood when it came to its end.
func ended(status Status, code string, position int) *Request {
	r := &Request{
		ID: uuid.New(), Type: TypeQuarantine, State: State{Status: status, Execution: Completed, Release: NotReady}, ChainPosition: position,
		ExecutionAt: time.Date(2026, 5, 6, 7, 8, 9, 0, time.UTC), SourceDigest: "sha256:1", EprRecordID: "EPR-1", EprBasis: BasisLocal,
		ChainRequesters: []uuid.UUID{uuid.New()},
	}
	r.Facts.Ended = &Ended{As: RunFailed, Failure: Failure{Class: failure.ClassOf(code), Code: code}}
	return r
}

// The contract's table, section 6, written down a second time: requests in the chain, backoff before the second, third, ... request.
var retries = map[string][]time.Duration{
	failure.Dispatch:     {30 * time.Second, time.Minute, 2 * time.Minute, 4 * time.Minute},
	failure.Connectivity: {2 * time.Minute, 4 * time.Minute},
	failure.Auth:         {5 * time.Minute},
	failure.Policy:       {10 * time.Minute},
	failure.Runtime:      {time.Minute, 2 * time.Minute},
}

func TestRetryByStatusClassAndPlaceInTheChain(t *testing.T) {
	t.Parallel()
	for _, status := range Statuses() {
		for _, code := range failure.Codes() {
			for position := 1; position <= 6; position++ {
				r := ended(status, code, position)
				got := r.Retry()
				waits := retries[failure.ClassOf(code)]
				if status == Quarantined { // its class is always policy
					waits = retries[failure.Policy]
				}
				switch {
				case status != Failed && status != Quarantined, status == Failed && code == failure.ImageUnacceptable:
					require.False(t, got.Allowed(), "%s %s %d", status, code, position)
					require.False(t, got.Exhausted(), "%s %s %d", status, code, position)
				case position > len(waits):
					require.True(t, got.Exhausted(), "%s %s %d", status, code, position)
					require.Equal(t, len(waits)+1, got.Limit)
				default:
					require.True(t, got.Allowed(), "%s %s %d", status, code, position)
					require.Equal(t, r.ExecutionAt.Add(waits[position-1]), got.At, "%s %s %d", status, code, position)
				}
				step := r.RetryAs(uuid.New(), r.ExecutionAt)
				require.False(t, step.Moved())
				require.False(t, r.Retry().Allowed(), "only the newest of a chain")
				require.False(t, r.Retry().Exhausted())
			}
		}
	}
}

func TestBackoffIsCapped(t *testing.T) {
	t.Parallel()
	limit := failure.Limit{Requests: 100, Backoff: 5 * time.Minute}
	for position, want := range map[int]time.Duration{1: 5, 2: 10, 3: 20, 4: 30, 5: 30, 90: 30} {
		require.Equal(t, want*time.Minute, limit.Wait(position), position)
	}
	require.Equal(t, 30*time.Minute, failure.Limit{Backoff: time.Hour}.Wait(1))
	require.Zero(t, failure.LimitOf("invented"))
}

func TestASuccessorCarriesTheApprovalOfTheSameBytesOnTheSameBasis(t *testing.T) {
	t.Parallel()
	decider, retrier, at := uuid.New(), uuid.New(), time.Date(2026, 5, 6, 0, 0, 0, 0, time.UTC)
	approved := func() *Request {
		r := ended(Failed, failure.RunTimeout, 1)
		r.Facts.Decision = Decision{Status: string(Approved), By: decider.String(), Reason: "fine", At: &at}
		return r
	}
	last := approved()
	next := last.Successor(retrier, BasisLocal)
	require.Equal(t, 2, next.ChainPosition)
	require.Equal(t, last.ID, next.RetryOf)
	require.Equal(t, append(append([]uuid.UUID{}, last.ChainRequesters...), retrier), next.ChainRequesters)
	require.Equal(t, &Decision{Status: string(Approved), By: decider.String(), Reason: "fine", At: &at, CarriedFrom: last.ID.String()}, next.Carried(last))

	next.ID, next.Facts.Decision = uuid.New(), *next.Carried(last)
	third := next.Successor(retrier, BasisLocal)
	require.Equal(t, next.ChainRequesters, third.ChainRequesters, "everyone once")
	require.Equal(t, last.ID.String(), third.Carried(next).CarriedFrom, "the request that was decided about, not the one between")

	for name, change := range map[string]func(last, next *Request){
		"another digest":                  func(_, next *Request) { next.SourceDigest = "sha256:2" },
		"another basis":                   func(_, next *Request) { next.EprBasis = BasisNotEnforced },
		"never approved":                  func(last, _ *Request) { last.Facts.Decision.Status = string(Rejected) },
		"a scan is the system's to grant": func(_, next *Request) { next.Type = TypeScan },
		"the approver is in the chain":    func(_, next *Request) { next.ChainRequesters = append(next.ChainRequesters, decider) },
	} {
		last := approved()
		next := last.Successor(retrier, BasisLocal)
		change(last, next)
		require.Nil(t, next.Carried(last), name)
	}
}
