package operation

import (
	"context"
	"encoding/pem"
	"net/http"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/stretchr/testify/require"

	"github.com/pratique-io/pratique/cmd/pratique/demo"
	"github.com/pratique-io/pratique/cmd/pratique/up"
	"github.com/pratique-io/pratique/internal/sample"
)

func TestUpStartsStopsAndKeepsWhatItHad(t *testing.T) {
	t.Parallel()
	data := filepath.Join(folder(t), "data")
	h := open(t, data, call{})
	checkConnection(t, h.Connection)

	second, code := pratique("up", "--data", data, "--listen", "127.0.0.1:0").run(t, 5*time.Second)
	require.Equal(t, 1, code)
	require.Contains(t, second.errors.String(), "another pratique runs on this data directory")
	require.Contains(t, second.errors.String(), data)
	epr := h.furnish(t) // the first goes on
	h.push(t, sample.Clean(), "kept/image")
	id := h.ask(t, epr, "kept/image:1.0")
	token, err := up.Token(data, "mel")
	require.NoError(t, err)
	before := h.Connection

	require.Zero(t, h.signal(t, syscall.SIGTERM, stopLimit))
	require.Empty(t, users(data), "processes are left")
	require.True(t, unlocked(t, data))

	h = &house{program: pratique("up", "--data", data, "--listen", before.REST[len("http://"):]).start(t), data: data}
	h.says(t, "\nready\n", startLimit)
	h.connect(t)
	require.Equal(t, before, h.Connection, "ports, keys, passwords and tenants stay")
	h.api.Token = func(string) (string, error) { return token, nil }
	answer := h.expect(t, "mel", http.MethodGet, imports+"/"+id, nil, http.StatusOK, "")
	require.Equal(t, "kept/image:1.0", answer.Get("data.source_image_ref"))
	require.Zero(t, h.signal(t, os.Interrupt, stopLimit))
}

func checkConnection(t *testing.T, c up.Connection) {
	t.Helper()
	require.Regexp(t, `^http://127\.0\.0\.1:[1-9]\d*$`, c.REST)
	require.Regexp(t, `^127\.0\.0\.1:[1-9]\d*$`, c.GRPC)
	require.Regexp(t, `^http://127\.0\.0\.1:[1-9]\d*$`, c.Issuer)
	for _, name := range []string{"upstream", "quarantine", "trusted"} {
		require.Regexp(t, `^127\.0\.0\.1:[1-9]\d*$`, c.Registries[name].Address, name)
	}
	for _, name := range []string{"upstream", "trusted"} {
		require.NotEmpty(t, c.Registries[name].Username, name)
		require.NotEmpty(t, c.Registries[name].Password, name)
	}
	block, _ := pem.Decode([]byte(c.PublicKey))
	require.NotNil(t, block)
	require.Equal(t, "PUBLIC KEY", block.Type)
	for _, url := range []string{c.Issuer + "/.well-known/openid-configuration", c.REST + "/openapi.json", c.Ops + "/readyz"} {
		response, err := http.Get(url)
		require.NoError(t, err)
		require.NoError(t, response.Body.Close())
		require.Equal(t, http.StatusOK, response.StatusCode, url)
	}
	checkSubscriber(t, c)
}

// The subscriber of connection.json reads and cannot write.
func checkSubscriber(t *testing.T, c up.Connection) {
	t.Helper()
	refused := make(chan error, 8)
	conn, err := nats.Connect(c.NATS.URL, nats.UserInfo(c.NATS.User, c.NATS.Password), nats.CustomInboxPrefix("_INBOX_"+c.NATS.User),
		nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) { refused <- err }))
	require.NoError(t, err)
	defer conn.Close()
	require.NoError(t, conn.Publish("pratique.intake.v1.request_approved._", []byte("{}")))
	require.NoError(t, conn.Flush())
	select {
	case err := <-refused:
		require.ErrorIs(t, err, nats.ErrPermissionViolation)
	case <-time.After(5 * time.Second):
		require.FailNow(t, "a subscriber may publish")
	}
}

// kill -9 of everything while runs are under way: the next start brings the requests to their end, and nobody is told twice.
func TestKilledWhileRunsAreUnderWay(t *testing.T) {
	t.Parallel()
	data := filepath.Join(folder(t), "data")
	h := open(t, data, call{})
	epr := h.furnish(t)
	h.push(t, sample.Clean(), "killed/good")
	good := h.ask(t, epr, "killed/good:1.0")
	h.approve(t, good)
	h.push(t, sample.Vulnerable(), "killed/bad")
	bad := h.ask(t, epr, "killed/bad:1.0")
	h.approve(t, bad)
	h.until(t, "mel", imports+"/"+good, "a run", func(a demo.Answer) (bool, error) {
		return a.Get("data.execution_state") == "pipeline_running", nil
	})
	require.Equal(t, -1, h.signal(t, syscall.SIGKILL, stopLimit))
	require.Eventually(t, func() bool { return len(users(data)) == 0 }, 15*time.Second, 50*time.Millisecond, "what it started dies with it")

	h = open(t, data, call{})
	h.passes(t, good)
	h.release(t, good)
	h.until(t, "mel", imports+"/"+bad, "the vulnerable image in quarantine", func(a demo.Answer) (bool, error) {
		return a.Get("data.status") == "quarantined" && a.Get("data.release_state") == "release_blocked", nil
	})
	want := map[string]int{
		"external_image_import_approved " + good: 1, "external_image_import_completed " + good: 1, "release_approved " + good: 1,
		"release_released " + good: 1, "external_image_import_approved " + bad: 1, "external_image_import_quarantined " + bad: 1,
	}
	for _, persona := range []string{"mel", "ada"} {
		require.Eventually(t, func() bool { return covers(h.told(t, persona), want) }, 30*time.Second, 200*time.Millisecond, "%s is told of everything", persona)
	}
	require.Zero(t, h.signal(t, syscall.SIGTERM, stopLimit))

	h = open(t, data, call{}) // what the restart itself might repeat is also said only once
	for _, persona := range []string{"mel", "ada"} {
		for what, n := range h.told(t, persona) {
			require.Equal(t, 1, n, "%s was told of %s", persona, what)
		}
	}
}

func covers(heard, want map[string]int) bool {
	for what := range want {
		if heard[what] == 0 {
			return false
		}
	}
	return true
}

// An ordinary user without any rights beyond their own folder runs the whole product.
func TestAnOrdinaryUserBringsAnImageThrough(t *testing.T) {
	t.Parallel()
	place := folder(t)
	c := call{env: []string{"TMPDIR=" + place, "HOME=" + place}}
	if os.Geteuid() == 0 {
		const nobody = 65534
		require.NoError(t, os.Chown(place, nobody, nobody))
		c.user = &syscall.Credential{Uid: nobody, Gid: nobody}
	}
	h := open(t, filepath.Join(place, "data"), c)
	epr := h.furnish(t)
	h.push(t, sample.Clean(), "ordinary/image")
	id := h.ask(t, epr, "ordinary/image:1.0")
	h.approve(t, id)
	h.passes(t, id)
	_, digest := h.release(t, id)
	require.Equal(t, string(sample.Clean().Root.Digest), digest)
	require.Zero(t, h.signal(t, syscall.SIGTERM, stopLimit))
	entries, err := os.ReadDir(place)
	require.NoError(t, err)
	require.Len(t, entries, 1, "only the data stays: %v", entries)
}

// Interrupted while it starts, it ends at once and leaves nothing.
func TestInterruptedWhileItStarts(t *testing.T) {
	t.Parallel()
	data := filepath.Join(folder(t), "data")
	p := pratique("up", "--data", data, "--listen", "127.0.0.1:0").start(t)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	for len(users(filepath.Join(data, "postgres"))) == 0 { // Postgres is being made or started
		require.NoError(t, ctx.Err())
		require.NotContains(t, p.out.String(), "ready")
	}
	require.NotZero(t, p.signal(t, os.Interrupt, stopLimit))
	require.Contains(t, p.errors.String(), "interrupted")
	require.Empty(t, users(data))
	require.True(t, unlocked(t, data))
	h := open(t, data, call{}) // and starts the next time
	require.Zero(t, h.signal(t, syscall.SIGTERM, stopLimit))
}
