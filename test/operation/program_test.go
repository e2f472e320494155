// Package operation runs the real program as users and operators do: starts and stops it, makes the mistakes people make, kills it, watches it,
// and follows the runbook. Whatever a test starts is gone when the test is.
package operation

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// testVersion is what the build is told to call itself.
const testVersion = "v1.2.3-operation"

// binDir holds pratique and pratique-step; users of their own may pass through.
var binDir string

func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) int {
	dir, err := os.MkdirTemp("", "pratique-operation-")
	if err == nil {
		binDir = dir
		defer os.RemoveAll(dir)
		err = os.Chmod(dir, 0o711)
	}
	if err == nil {
		err = errors.Join(compile("../..", "pratique", "-ldflags", "-X main.version="+testVersion), compile("../../steps", "pratique-step"))
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return m.Run()
}

func compile(module, name string, flags ...string) error {
	command := exec.Command("go", append(append([]string{"build", "-trimpath", "-o", filepath.Join(binDir, name)}, flags...), "./cmd/"+name)...)
	command.Dir = module
	command.Env = append(os.Environ(), "GOWORK=off", "GOFLAGS=-buildvcs=false")
	if out, err := command.CombinedOutput(); err != nil {
		return fmt.Errorf("go build %s: %w: %s", name, err, out)
	}
	return os.Chmod(filepath.Join(binDir, name), 0o755)
}

// output collects what a program writes.
type output struct {
	mu  sync.Mutex
	raw bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.raw.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.raw.String()
}

// program is a running pratique.
type program struct {
	cmd         *exec.Cmd
	out, errors output
	ended       chan struct{}
}

// call says how to run it.
type call struct {
	env  []string
	user *syscall.Credential // nil: ourselves
	args []string
}

func pratique(args ...string) call { return call{args: args} }

// start starts the program; it ends with the test at the latest, and with this process.
func (c call) start(t *testing.T) *program {
	t.Helper()
	p := &program{cmd: exec.Command(filepath.Join(binDir, "pratique"), c.args...), ended: make(chan struct{})}
	p.cmd.Env = append(os.Environ(), c.env...)
	p.cmd.Dir = "/"
	p.cmd.Stdout, p.cmd.Stderr = &p.out, &p.errors
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL, Credential: c.user}
	p.cmd.WaitDelay = 5 * time.Second
	require.NoError(t, p.cmd.Start())
	go func() {
		_ = p.cmd.Wait() // the exit code is asked for where it matters
		close(p.ended)
	}()
	t.Cleanup(func() {
		_ = p.cmd.Process.Signal(syscall.SIGTERM) // it has usually ended
		select {
		case <-p.ended:
		case <-time.After(12 * time.Second):
			_ = p.cmd.Process.Kill()
			<-p.ended
		}
		if t.Failed() {
			t.Logf("pratique %s\n%s%s", strings.Join(c.args, " "), p.out.String(), p.errors.String())
		}
	})
	return p
}

// run lets the program come to its end by itself and gives its exit code.
func (c call) run(t *testing.T, within time.Duration) (*program, int) {
	t.Helper()
	p := c.start(t)
	return p, p.wait(t, within)
}

func (p *program) wait(t *testing.T, within time.Duration) int {
	t.Helper()
	select {
	case <-p.ended:
	case <-time.After(within):
		require.FailNow(t, "still running", "after %s: %s%s", within, p.out.String(), p.errors.String())
	}
	return p.cmd.ProcessState.ExitCode()
}

// signal sends a signal and waits for the end.
func (p *program) signal(t *testing.T, signal os.Signal, within time.Duration) int {
	t.Helper()
	require.NoError(t, p.cmd.Process.Signal(signal))
	return p.wait(t, within)
}

// says waits for a text on standard output.
func (p *program) says(t *testing.T, text string, within time.Duration) {
	t.Helper()
	deadline := time.After(within)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for !strings.Contains(p.out.String(), text) {
		select {
		case <-p.ended:
			if !strings.Contains(p.out.String(), text) {
				require.FailNow(t, "it ended", "before it said %q: %s%s", text, p.out.String(), p.errors.String())
			}
		case <-deadline:
			require.FailNow(t, "it does not say "+text, "%s%s", p.out.String(), p.errors.String())
		case <-tick.C:
		}
	}
}

// folder is an empty directory that other users may pass through.
func folder(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "pratique-op-")
	require.NoError(t, err)
	require.NoError(t, os.Chmod(dir, 0o711))
	t.Cleanup(func() {
		require.Empty(t, users(dir), "processes outlive the test")
		require.NoError(t, os.RemoveAll(dir))
	})
	return dir
}

func freeAddress(t *testing.T) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer listener.Close()
	return listener.Addr().String()
}

// users lists the processes that run from, in, or on a directory.
func users(dir string) []string {
	var found []string
	entries, _ := os.ReadDir("/proc") // there is one
	for _, entry := range entries {
		pid, err := strconv.Atoi(entry.Name())
		if err != nil || pid == os.Getpid() {
			continue
		}
		proc := filepath.Join("/proc", entry.Name())
		line, _ := os.ReadFile(filepath.Join(proc, "cmdline")) // it may just have ended
		cwd, _ := os.Readlink(filepath.Join(proc, "cwd"))
		exe, _ := os.Readlink(filepath.Join(proc, "exe"))
		for _, sign := range []string{string(line), cwd, exe} {
			if strings.Contains(sign, dir) {
				found = append(found, fmt.Sprintf("%d %s", pid, strings.ReplaceAll(string(line), "\x00", " ")))
				break
			}
		}
	}
	return found
}

// unlocked tells whether nobody holds the lock of a data directory.
func unlocked(t *testing.T, data string) bool {
	t.Helper()
	file, err := os.Open(filepath.Join(data, "lock"))
	require.NoError(t, err)
	defer file.Close()
	return syscall.Flock(int(file.Fd()), syscall.LOCK_EX|syscall.LOCK_NB) == nil
}
