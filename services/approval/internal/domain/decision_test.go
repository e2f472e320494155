package domain

import (
	"testing"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
)

func TestEveryStateAndVerb(t *testing.T) {
	want := map[State]map[Verb]State{
		Open:     {Approve: Approved, Reject: Rejected, Lapse: Void},
		Approved: {Lapse: Void},
	}
	for _, state := range States() {
		for _, verb := range []Verb{Approve, Reject, Lapse} {
			to, ok := Next(state, verb)
			expected, known := want[state][verb]
			require.Equal(t, known, ok, "%s %s", state, verb)
			require.Equal(t, expected, to, "%s %s", state, verb)
		}
	}
	_, ok := Next("unheard", Approve)
	require.False(t, ok)
}

func TestAdmit(t *testing.T) {
	sam, mel, old := uuid.New(), uuid.New(), uuid.New()
	open := func() *Case {
		return &Case{State: Open, Required: 2, Requester: mel.String(), ChainRequesters: []string{old.String(), mel.String()}}
	}
	t.Run("a reviewer who asked for nothing may vote", func(t *testing.T) {
		require.Equal(t, Accepted, open().Admit(sam))
	})
	t.Run("the requester may not", func(t *testing.T) {
		require.Equal(t, OwnRequest, open().Admit(mel))
	})
	t.Run("nor may whoever asked earlier in the chain", func(t *testing.T) {
		require.Equal(t, OwnRequest, open().Admit(old))
	})
	t.Run("nobody votes twice", func(t *testing.T) {
		c := open()
		require.Equal(t, Verb(""), c.Count(Vote{By: sam, Yes: true}))
		require.Equal(t, AlreadyVoted, c.Admit(sam))
	})
	for state, refusal := range map[State]Refusal{Approved: Decided, Rejected: Decided, Void: Gone} {
		t.Run("nobody votes on a case that is "+string(state), func(t *testing.T) {
			c := open()
			c.State = state
			require.Equal(t, refusal, c.Admit(sam))
		})
	}
}

func TestCount(t *testing.T) {
	t.Run("as many yeses as required approve", func(t *testing.T) {
		c := &Case{State: Open, Required: 2}
		require.Equal(t, Verb(""), c.Count(Vote{By: uuid.New(), Yes: true}))
		require.Equal(t, Approve, c.Count(Vote{By: uuid.New(), Yes: true}))
	})
	t.Run("one no rejects, whatever came before", func(t *testing.T) {
		c := &Case{State: Open, Required: 3}
		require.Equal(t, Verb(""), c.Count(Vote{By: uuid.New(), Yes: true}))
		require.Equal(t, Reject, c.Count(Vote{By: uuid.New()}))
	})
}
