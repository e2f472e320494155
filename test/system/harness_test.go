// Package system tells the whole story of the product: once as `pratique up` runs it, in one process, and once with every service in a
// process of its own that is killed at named places, every message delivered twice and out of order, and the broker's store wiped half-way.
// Afterwards the invariants are checked by SQL and by walking the stream.
package system

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pratique-io/pratique/cmd/pratique/demo"
	"github.com/pratique-io/pratique/cmd/pratique/serve"
	"github.com/pratique-io/pratique/cmd/pratique/up"
	"github.com/pratique-io/pratique/internal/pg/pgtest"
)

// root is the checkout.
const root = "../.."

// build compiles a program once per test run; Go's cache makes a second time quick.
func build(t *testing.T, name, dir, pkg string, flags ...string) string {
	t.Helper()
	out, err := filepath.Abs(filepath.Join(buildDir, name))
	require.NoError(t, err)
	args := append(append([]string{"build", "-trimpath", "-o", out}, flags...), pkg) // as make does, so that Go has compiled it already
	command := exec.Command("go", args...)
	command.Dir = filepath.Join(root, dir)
	command.Env = append(os.Environ(), "GOWORK=off", "GOFLAGS=-buildvcs=false")
	raw, err := command.CombinedOutput()
	require.NoError(t, err, "go build %s: %s", pkg, raw)
	return out
}

var (
	buildDir string
	stepOnce sync.Once
	stepPath string
)

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "pratique-system-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	if err := os.Chmod(dir, 0o711); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	buildDir = dir
	code := m.Run()
	_ = os.RemoveAll(dir)
	os.Exit(code)
}

// step is the scanner program.
func step(t *testing.T) string {
	t.Helper()
	stepOnce.Do(func() { stepPath = build(t, "pratique-step", "steps", "./cmd/pratique-step") })
	return stepPath
}

// product is a running product under test.
type product struct {
	*up.Running
	dir string
	log *slog.Logger
}

// start brings up what the services stand on, and the named services in this process.
func start(t *testing.T, services []string) *product {
	t.Helper()
	dir := pgtest.Dir(t)
	log := slog.New(slog.NewJSONHandler(testWriter{t}, &slog.HandlerOptions{Level: slog.LevelWarn}))
	running, err := up.Start(t.Context(), up.Options{Data: dir, Listen: freeAddress(t), Services: services, StepProgram: step(t), Log: log})
	require.NoError(t, err)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		if err := running.Stop(ctx); err != nil {
			t.Errorf("stopping: %v", err)
		}
	})
	return &product{Running: running, dir: dir, log: log}
}

// stage is the product as the story sees it.
func (p *product) stage(t *testing.T) demo.Stage {
	return demo.StageOf(p.Connection, func(persona string) (string, error) { return up.Token(p.dir, persona) }, t.Logf)
}

// testWriter sends log lines to the test; lines after its end are dropped.
type testWriter struct{ t *testing.T }

func (w testWriter) Write(line []byte) (int, error) {
	if w.t.Context().Err() == nil {
		w.t.Log(strings.TrimSpace(string(line)))
	}
	return len(line), nil
}

// child is one service in a process of its own, started again whenever it dies, like an orchestrator would.
type child struct {
	name     string
	binary   string
	config   string
	points   []string // failpoints, one for each life; afterwards it lives undisturbed
	chaos    string
	deaths   int
	mu       sync.Mutex
	command  *exec.Cmd
	stopping bool
	done     chan struct{}
	errors   strings.Builder
}

func (c *child) run(t *testing.T) {
	c.done = make(chan struct{})
	go func() {
		defer close(c.done)
		for life := 0; ; life++ {
			command := exec.Command(c.binary, "serve", c.name, "--config", c.config)
			// Short leases: what a killed process held is free again soon.
			command.Env = append(os.Environ(), "PRATIQUE_BUS_CHAOS="+c.chaos, "PRATIQUE_RELEASE_PROMOTION_LEASE=2s", "PRATIQUE_EVIDENCE_LEASE=3s")
			if life < len(c.points) {
				command.Env = append(command.Env, "PRATIQUE_FAILPOINT="+c.points[life])
			}
			command.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
			var log tail
			command.Stderr = &log
			if dir := os.Getenv("PRATIQUE_TEST_LOGS"); dir != "" { // for whoever looks into a failure
				if file, err := os.OpenFile(filepath.Join(dir, c.name+".log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644); err == nil {
					command.Stderr = io.MultiWriter(&log, file)
					defer file.Close()
				}
			}
			c.mu.Lock()
			if c.stopping {
				c.mu.Unlock()
				return
			}
			if err := command.Start(); err != nil {
				c.mu.Unlock()
				t.Errorf("%s: %v", c.name, err)
				return
			}
			c.command = command
			c.mu.Unlock()
			err := command.Wait()
			c.mu.Lock()
			stopping := c.stopping
			if !stopping {
				c.deaths++
				if !killed(err) {
					fmt.Fprintf(&c.errors, "%s ended by itself: %v\n%s\n", c.name, err, log.String())
				}
			}
			c.mu.Unlock()
			if stopping {
				return
			}
		}
	}()
}

func killed(err error) bool {
	var exit *exec.ExitError
	if !errors.As(err, &exit) {
		return false
	}
	status, ok := exit.Sys().(syscall.WaitStatus)
	return ok && status.Signaled() && status.Signal() == syscall.SIGKILL
}

// kill is kill -9 by pid.
func (c *child) kill(t *testing.T) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.command != nil {
		if err := syscall.Kill(c.command.Process.Pid, syscall.SIGKILL); err != nil {
			t.Logf("%s was already gone: %v", c.name, err)
		}
	}
}

func (c *child) stop() {
	c.mu.Lock()
	c.stopping = true
	if c.command != nil {
		_ = c.command.Process.Signal(syscall.SIGTERM)
	}
	c.mu.Unlock()
	select {
	case <-c.done:
	case <-time.After(12 * time.Second):
		c.mu.Lock()
		_ = c.command.Process.Kill()
		c.mu.Unlock()
		<-c.done
	}
}

func (c *child) history() (int, string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.deaths, c.errors.String()
}

// tail keeps the end of what a process writes.
type tail struct {
	mu  sync.Mutex
	raw []byte
}

func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	const most = 8 << 10
	t.raw = append(t.raw, p...)
	if len(t.raw) > most {
		t.raw = t.raw[len(t.raw)-most:]
	}
	return len(p), nil
}

func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return string(t.raw)
}

// children starts every service and the gateway, each in its own process.
func children(t *testing.T, p *product, binary, chaos string, points map[string][]string) map[string]*child {
	t.Helper()
	all := map[string]*child{}
	for _, name := range append(serve.Names(), "gateway") {
		c := &child{name: name, binary: binary, config: p.ConfigPath, points: points[name], chaos: chaos}
		c.run(t)
		all[name] = c
	}
	t.Cleanup(func() {
		var group sync.WaitGroup
		for _, c := range all {
			group.Go(c.stop)
		}
		group.Wait()
		for _, c := range all {
			if _, problems := c.history(); problems != "" {
				t.Error(problems)
			}
		}
	})
	return all
}
