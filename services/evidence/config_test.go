package evidence

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestTheConfigurationTellsEveryProblem(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	_, err := New(Config{Quarantine: Registry{Username: "x"}}, Deps{DB: w.db})
	for _, path := range []string{"evidence.quarantine.host", "evidence.quarantine.password", "evidence.store.host", "evidence.collect_for", "evidence.lease", "evidence.collectors"} {
		require.ErrorContains(t, err, path)
	}
	require.Len(t, w.Loops(), 4)
	seen := map[string]bool{}
	for _, l := range w.Loops() {
		require.False(t, seen[l.Name])
		require.Positive(t, l.Every)
		seen[l.Name] = true
	}
	require.NotPanics(t, func() { new(Service).Subscriptions() }, "topology is made of a service that was never built")
	require.Equal(t, 168*time.Hour, Default().CopyRetention)
}
