package operation

import (
	"encoding/json"
	"net/http"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pratique-io/pratique/cmd/pratique/serve"
)

// part is one `pratique serve` process.
type part struct {
	*program
	ops string
}

func startPart(t *testing.T, data, name string) *part {
	t.Helper()
	ops := freeAddress(t)
	return &part{program: pratique("serve", name, "--config", filepath.Join(data, "config.yaml"), "--ops-listen", ops).start(t), ops: "http://" + ops}
}

// ready asks /readyz and gives its checks.
func (p *part) ready(t *testing.T) (bool, map[string]string) {
	t.Helper()
	response, err := http.Get(p.ops + "/readyz")
	if err != nil {
		return false, nil // it does not listen yet
	}
	defer response.Body.Close()
	var body struct {
		Checks map[string]string `json:"checks"`
	}
	require.NoError(t, json.NewDecoder(response.Body).Decode(&body))
	return response.StatusCode == http.StatusOK, body.Checks
}

func TestEachServiceInAProcessOfItsOwn(t *testing.T) {
	t.Parallel()
	data := filepath.Join(folder(t), "data")
	h := open(t, data, call{}, "--services", "none")
	parts := map[string]*part{}
	for _, name := range append(serve.Names(), "gateway") {
		parts[name] = startPart(t, data, name)
	}
	for name, p := range parts {
		p.says(t, "ready\n", startLimit)
		ok, checks := p.ready(t)
		require.True(t, ok, "%s: %v", name, checks)
		if name != "gateway" {
			require.Subset(t, checks, map[string]string{name + " database": "ok", name + " bus": "ok"})
		}
		response, err := http.Get(p.ops + "/livez")
		require.NoError(t, err)
		require.NoError(t, response.Body.Close())
		require.Equal(t, http.StatusOK, response.StatusCode)
	}
	const ofNotify, ofIntake = "/api/v1/notifications", imports
	h.expect(t, "mel", http.MethodGet, ofNotify, nil, http.StatusOK, "")

	require.Zero(t, parts["notify"].signal(t, syscall.SIGTERM, stopLimit))
	h.api.Patience = 0
	refused := h.expect(t, "mel", http.MethodGet, ofNotify, nil, http.StatusServiceUnavailable, "dependency_unavailable")
	require.NotEmpty(t, refused.Get("error.message"))
	h.expect(t, "mel", http.MethodGet, ofIntake, nil, http.StatusOK, "")
	for _, name := range []string{"intake", "approval", "dispatch", "evidence", "release", "gateway"} {
		ok, checks := parts[name].ready(t)
		require.True(t, ok, "%s: %v", name, checks)
	}

	// A second one of a service is told that its address is taken; the first goes on.
	second, code := pratique("serve", "intake", "--config", filepath.Join(data, "config.yaml")).run(t, 30*time.Second)
	require.Equal(t, 1, code)
	require.Contains(t, second.errors.String(), "is another program using it")
	h.expect(t, "mel", http.MethodGet, ofIntake, nil, http.StatusOK, "")

	parts["notify"] = startPart(t, data, "notify")
	parts["notify"].says(t, "ready\n", startLimit)
	h.api.Patience = 10 * time.Second // the gateway's connection finds back
	h.expect(t, "mel", http.MethodGet, ofNotify, nil, http.StatusOK, "")
	for name, p := range parts {
		require.Zero(t, p.signal(t, syscall.SIGTERM, stopLimit), name)
	}
	require.Zero(t, h.signal(t, syscall.SIGTERM, stopLimit))
}

// Some services in `up`, the others beside it, from the file as it is.
func TestSomeServicesBesideUp(t *testing.T) {
	t.Parallel()
	data := filepath.Join(folder(t), "data")
	h := open(t, data, call{}, "--services", "intake,approval,dispatch,evidence,release,gateway")
	notify := startPart(t, data, "notify")
	notify.says(t, "ready\n", startLimit)
	h.expect(t, "mel", http.MethodGet, "/api/v1/notifications", nil, http.StatusOK, "")
	h.expect(t, "mel", http.MethodGet, imports, nil, http.StatusOK, "")
	require.Zero(t, notify.signal(t, syscall.SIGTERM, stopLimit))
	require.Zero(t, h.signal(t, syscall.SIGTERM, stopLimit))
}
