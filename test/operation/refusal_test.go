package operation

import (
	"encoding/json"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// refused runs a call that must fail soon, say why in one place, and leave nothing running.
func refused(t *testing.T, c call, data string, says ...string) *program {
	t.Helper()
	p, code := c.run(t, 20*time.Second)
	require.Equal(t, 1, code, p.out.String())
	for _, text := range says {
		require.Contains(t, p.errors.String(), text)
	}
	require.NotContains(t, p.out.String(), "ready")
	if data != "" {
		require.Empty(t, users(data))
	}
	return p
}

func occupied(t *testing.T) (address string, port int) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	t.Cleanup(func() { listener.Close() })
	return listener.Addr().String(), listener.Addr().(*net.TCPAddr).Port
}

func TestUpNamesEveryTakenPort(t *testing.T) {
	t.Parallel()
	data := folder(t)
	address, _ := occupied(t)
	ports := map[string]int{}
	for _, name := range []string{"quarantine", "nats", "ops"} {
		_, ports[name] = occupied(t)
	}
	raw, err := json.Marshal(ports)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(filepath.Join(data, "ports.json"), raw, 0o600))
	require.NoError(t, os.WriteFile(filepath.Join(data, "lock"), nil, 0o600)) // as an earlier start leaves it
	p := refused(t, pratique("up", "--data", data, "--listen", address), data, address, "--listen HOST:PORT", "quarantine", "nats", "ops", "ports.json")
	require.Equal(t, 4, strings.Count(p.errors.String(), "address already in use"))
	require.True(t, unlocked(t, data))
}

func TestUpExplainsAnAddressThatIsNone(t *testing.T) {
	t.Parallel()
	for _, listen := range []string{"8080", "127.0.0.1:99999", "192.0.2.1:80"} {
		p := refused(t, pratique("up", "--data", filepath.Join(folder(t), "data"), "--listen", listen), "", listen, "--listen takes HOST:PORT of this machine")
		require.NotContains(t, p.errors.String(), "another program")
	}
}

func TestUpNeedsItsScannerProgram(t *testing.T) {
	t.Parallel()
	data := filepath.Join(folder(t), "data")
	refused(t, pratique("up", "--data", data, "--listen", "127.0.0.1:0", "--step", "/nowhere/pratique-step"), data,
		"pratique-step is missing", "--step", "/nowhere/pratique-step")
	refused(t, pratique("up", "--data", data, "--listen", "127.0.0.1:0", "--step", "/bin/true"), data, "/bin/true", "is not pratique-step")
	refused(t, pratique("up", "--data", data, "--listen", "127.0.0.1:0", "--step", "/bin/false"), data, "demonstration database")
}

// Its mode would be changed, and a folder of somebody's own must not be.
func TestUpTakesNoFolderThatHoldsOtherThings(t *testing.T) {
	t.Parallel()
	dir := folder(t)
	require.NoError(t, os.WriteFile(filepath.Join(dir, "thesis.tex"), nil, 0o600))
	require.NoError(t, os.Chmod(dir, 0o755))
	refused(t, pratique("up", "--data", dir, "--listen", "127.0.0.1:0"), dir, dir, "holds other files")
	info, err := os.Stat(dir)
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o755), info.Mode().Perm())
	refused(t, pratique("up", "--data", filepath.Join(dir, "thesis.tex"), "--listen", "127.0.0.1:0"), dir, "not a directory")
}

func TestUpExplainsAFolderItCannotUse(t *testing.T) {
	t.Parallel()
	dir := folder(t)
	closed := filepath.Join(dir, "closed")
	require.NoError(t, os.Mkdir(closed, 0o500))
	c := pratique("up", "--data", filepath.Join(closed, "data"), "--listen", "127.0.0.1:0")
	if os.Geteuid() == 0 {
		c.user = &syscall.Credential{Uid: 65534, Gid: 65534}
	}
	refused(t, c, dir, closed, "permission denied")

	if os.Geteuid() == 0 { // below a folder that only root may search, where the database's user cannot go
		private := filepath.Join(dir, "private")
		require.NoError(t, os.Mkdir(private, 0o700))
		refused(t, pratique("up", "--data", filepath.Join(private, "data"), "--listen", "127.0.0.1:0"), dir, "may not search "+private, "choose a data directory elsewhere")
		foreign := filepath.Join(dir, "foreign")
		require.NoError(t, os.Mkdir(foreign, 0o777))
		require.NoError(t, os.Chmod(foreign, 0o777))
		c := pratique("up", "--data", foreign, "--listen", "127.0.0.1:0")
		c.user = &syscall.Credential{Uid: 65534, Gid: 65534}
		refused(t, c, dir, foreign, "belongs to somebody else")
	}
}

func TestMistakesOnTheCommandLine(t *testing.T) {
	t.Parallel()
	empty := folder(t)
	for _, mistake := range []struct {
		args []string
		says []string
	}{
		{[]string{"token", "--as", "nobody", "--data", empty}, []string{"ada, mel, omar, sam, rita, root"}},
		{[]string{"token", "--data", empty}, []string{"ada, mel, omar, sam, rita, root"}},
		{[]string{"token", "--as", "mel", "--data", empty}, []string{"start `pratique up --data " + empty}},
		{[]string{"nonsense"}, []string{`unknown command "nonsense"`}},
		{[]string{"config", "chek"}, []string{"no `pratique config chek`"}},
		{[]string{"up", "--data", empty, "--services", "intake,mail"}, []string{`no service "mail"`, "approval"}},
		{[]string{"up", "--data", empty, "--log-level", "loud"}, []string{"debug, info, warn or error"}},
		{[]string{"serve"}, []string{"requires at least 1 arg"}},
		{[]string{"serve", "intake"}, []string{`"config" not set`}},
		{[]string{"config", "check", "--config", "/nowhere.yaml"}, []string{"/nowhere.yaml", "no such file"}},
		{[]string{"deadletter", "list", "mail", "--config", "/nowhere.yaml"}, []string{`no service "mail"`, "approval"}},
		{[]string{"demo", "--image", "no spaces please"}, []string{"--image no spaces please"}},
		{[]string{"demo", "--summary", "/nowhere/at/all.json"}, []string{"--summary", "/nowhere/at/all.json"}},
	} {
		t.Run(strings.Join(mistake.args[:min(len(mistake.args), 2)], " "), func(t *testing.T) {
			refused(t, pratique(mistake.args...), empty, mistake.says...)
		})
	}
}

func TestVersionIsWhatTheBuildSaid(t *testing.T) {
	t.Parallel()
	p, code := pratique("version").run(t, 10*time.Second)
	require.Zero(t, code)
	require.Equal(t, testVersion+"\n", p.out.String())
}
