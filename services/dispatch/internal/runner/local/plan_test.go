package local

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/pratique-io/pratique/internal/egress"
	"github.com/pratique-io/pratique/services/dispatch/internal/domain"
	"github.com/pratique-io/pratique/services/dispatch/internal/runner"
)

func TestTheQuarantineRegistryIsNeverASource(t *testing.T) {
	t.Parallel()
	for target, want := range map[string][]string{
		"quarantine.example.com/q/a/b":      {"metadata:80", "10.0.0.9:5000", "quarantine.example.com:443", "quarantine.example.com:80"},
		"quarantine.example.com:5000/q/a/b": {"metadata:80", "10.0.0.9:5000", "quarantine.example.com:5000"},
	} {
		policies := map[egress.Purpose]egress.Policy{
			egress.Source: {Denied: []string{"metadata:80"}}, egress.Quarantine: {Allowed: []string{"10.0.0.9:5000"}},
		}
		r := &run{owner: &Local{cfg: Config{Egress: policies}}, spec: runner.Spec{Target: target}}
		got := r.network(domain.StepPull).Purposes
		require.Equal(t, want, got[egress.Source].Denied)
		require.Empty(t, got[egress.Quarantine].Denied)
		require.NotContains(t, r.network(domain.StepSBOM).Purposes, egress.Source)
		denied, err := egress.New(egress.Config{Policies: map[egress.Purpose]egress.Policy{egress.Source: {Denied: got[egress.Source].Denied}}})
		require.NoError(t, err, "the dialer understands the list")
		require.NotNil(t, denied)
	}
}
