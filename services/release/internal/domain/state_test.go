package domain_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/pratique-io/pratique/services/release/internal/domain"
)

func TestEveryStateKnowsExactlyItsVerbs(t *testing.T) {
	t.Parallel()
	want := map[domain.State]map[domain.Verb]domain.State{
		domain.NotReady: {domain.Open: domain.Ready, domain.Block: domain.Blocked, domain.Note: domain.NotReady},
		domain.Ready:    {domain.Block: domain.Blocked, domain.Approve: domain.Approved, domain.Note: domain.Ready},
		domain.Blocked: {
			domain.Open: domain.Ready, domain.Block: domain.Blocked, domain.Approve: domain.Approved, domain.Note: domain.Blocked,
		},
		domain.Approved: {domain.Publish: domain.Released, domain.Fail: domain.Blocked, domain.Note: domain.Approved},
		domain.Released: {
			domain.Approve: domain.Released, domain.Publish: domain.Released, domain.Fail: domain.Released, domain.Note: domain.Released,
		},
		domain.Recalled: {domain.Note: domain.Recalled},
	}
	for _, from := range domain.States() {
		for _, verb := range domain.Verbs() {
			to, err := domain.Next(from, verb)
			if expected, ok := want[from][verb]; ok {
				require.NoError(t, err, "%s %s", from, verb)
				require.Equal(t, expected, to, "%s %s", from, verb)
				continue
			}
			var conflict *domain.Conflict
			require.ErrorAs(t, err, &conflict, "%s %s", from, verb)
		}
	}
}

func TestEveryBlockerHasAText(t *testing.T) {
	t.Parallel()
	for _, b := range append(domain.Blockers(), domain.EprNotInForce) {
		require.NotEmpty(t, b.Text(), b)
	}
}
