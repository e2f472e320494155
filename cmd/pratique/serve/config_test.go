package serve

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/pratique-io/pratique/internal/egress"
)

func TestOwnRegistriesAreNeverASource(t *testing.T) {
	cfg := Default()
	cfg.Egress = map[string]Policy{"source": {Allowed: []string{"127.0.0.1:5001"}, Denied: []string{"10.0.0.1:80"}}}
	cfg.Services.Dispatch.Quarantine.Host = "127.0.0.1:5001"
	cfg.Services.Evidence.Quarantine.Host = "127.0.0.1:5001"
	cfg.Services.Evidence.Store.Host = "127.0.0.1:5002"
	cfg.Services.Release.Trusted.Host = "trusted.example.com"
	source := cfg.policies()[egress.Source]
	require.Equal(t, []string{"10.0.0.1:80", "127.0.0.1:5001", "127.0.0.1:5002", "trusted.example.com:443"}, source.Denied)
	outward, err := cfg.egress()
	require.NoError(t, err)
	_, err = outward.DialContext(egress.Source)(t.Context(), "tcp", "127.0.0.1:5001")
	var refused *egress.Refused
	require.ErrorAs(t, err, &refused, "allowed by an operator, and still refused")
}
