package domain

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestAWithdrawalShowsOnTheStageWhereItHappened(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	r := &Request{Type: TypeQuarantine}
	r.Begin(now)
	_, err := r.Decide(Approve, "sam", "", now, now)
	require.NoError(t, err)
	r.Hear(Started{Seq: 2, RunID: "r", Attempt: 1, At: now}, now)
	r.Hear(Ended{Seq: 3, As: RunSucceeded, RunID: "r", Attempt: 1, At: now}, now)
	require.Equal(t, EvidencePending, r.State.Execution)
	_, err = r.TakeBack("mel", "", now)
	require.NoError(t, err)
	states := map[Execution]string{}
	for _, stage := range r.Stages() {
		states[stage.Key] = stage.State
	}
	require.Equal(t, "complete", states[PipelineRunning], "the run had ended well")
	require.Equal(t, "failed", states[EvidencePending])
}
