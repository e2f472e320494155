package system

import (
	"net"
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pratique-io/pratique/cmd/pratique/demo"
	"github.com/pratique-io/pratique/cmd/pratique/serve"
)

func freeAddress(t *testing.T) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer func() { require.NoError(t, listener.Close()) }()
	return listener.Addr().String()
}

func TestTheStoryInOneProcess(t *testing.T) {
	p := start(t, append(serve.Names(), "gateway"))
	outcomes, err := demo.Tell(t.Context(), p.stage(t))
	require.NoError(t, err)
	require.Equal(t, "released", outcomes[0].ReleaseState)
	p.settle(t)
	p.checkInvariants(t)
}

// awaitDirectory waits until every service has heard who is who: before that each denies everybody, as it must.
func awaitDirectory(t *testing.T, api *demo.API) {
	t.Helper()
	for _, look := range []struct{ persona, path string }{
		{"mel", "/api/v1/images/import-requests"}, {"omar", "/api/v1/images/import-requests"}, {"root", "/api/v1/admin/cases"}, {"sam", "/api/v1/admin/cases"},
		{"rita", "/api/v1/admin/cases"}, {"root", "/api/v1/admin/infrastructure/providers"}, {"mel", "/api/v1/settings/quarantine-policy"},
		{"mel", "/api/v1/images/released-artifacts"}, {"rita", "/api/v1/images/released-artifacts"}, {"ada", "/api/v1/notifications"},
	} {
		_, err := api.Until(t.Context(), look.persona, look.path, look.persona+" to be known", time.Minute, func(a demo.Answer) (bool, error) {
			return a.Status == http.StatusOK, nil
		})
		require.NoError(t, err)
	}
}

// Each service dies at each of its named places, once per life, while the story is told; every message comes twice and out of order; the
// broker loses its store half-way.
func TestTheStoryWithFaults(t *testing.T) {
	p := start(t, nil)
	binary := build(t, "pratique", ".", "./cmd/pratique", "-tags", "failpoints")
	all := children(t, p, binary, "42,2,true", failpoints())
	stage := p.stage(t)
	stage.API.Patience = 2 * time.Minute
	stage.Limit = 5 * time.Minute
	wiped := make(chan error, 1)
	stage.Say = func(format string, args ...any) {
		t.Logf(format, args...)
		if len(args) > 0 && args[0] == 8 { // the requests are approved, runs are under way
			wiped <- p.RestartBroker(t.Context(), true)
		}
	}
	awaitDirectory(t, stage.API)
	_, err := demo.Tell(t.Context(), stage)
	require.NoError(t, err)
	require.NoError(t, <-wiped)
	p.settle(t)
	p.checkInvariants(t)
	deaths := 0
	for _, c := range all {
		n, _ := c.history()
		t.Logf("%s died %d times", c.name, n)
		deaths += n
	}
	require.GreaterOrEqual(t, deaths, 6, "the faults did not happen")
}
