package local

import (
	"bufio"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pratique-io/pratique/services/dispatch/internal/runner"
	"github.com/pratique-io/pratique/services/dispatch/internal/runner/conformance"
)

// TestMain makes the test binary its own step program, and its own runner that can be killed.
func TestMain(m *testing.M) {
	if conformance.Fake() {
		return
	}
	if dir := os.Getenv("PRATIQUE_TEST_HOST"); dir != "" {
		host(dir)
		return
	}
	os.Exit(m.Run())
}

// host is a runner process for crash tests: it reads a spec, runs it, and tells what happens until it is killed.
func host(dir string) {
	r, err := New(config(dir), slog.New(slog.DiscardHandler))
	if err != nil {
		panic(err)
	}
	var spec runner.Spec
	if err := json.NewDecoder(os.Stdin).Decode(&spec); err != nil {
		panic(err)
	}
	ctx := contextOf()
	if err := r.Start(ctx, spec); err != nil {
		panic(err)
	}
	for {
		status, _ := r.Poll(ctx, spec.Name)
		lines, _ := r.Logs(ctx, spec.Name, 0, 1000)
		for _, line := range lines {
			if line.Message == conformance.Ready {
				fmt.Println("ready", r.find(spec.Name).pid())
			}
		}
		if status.State.Ended() {
			fmt.Println("ended 0")
		}
		time.Sleep(10 * time.Millisecond)
	}
}

func config(dir string) Config {
	binary, err := os.Executable()
	if err != nil {
		panic(err)
	}
	return Config{Dir: dir, Binary: binary, Memory: 200 << 20}
}

// place is a directory that the users of runs can reach.
func place(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	require.NoError(t, os.Chmod(dir, 0o711))
	require.NoError(t, os.Chmod(filepath.Dir(dir), 0o711))
	return filepath.Join(dir, "runner")
}

func open(t *testing.T, cfg Config) *Local {
	t.Helper()
	r, err := New(cfg, slog.New(slog.DiscardHandler))
	require.NoError(t, err)
	t.Cleanup(r.Close)
	return r
}

func harness(level Level) conformance.Harness {
	return conformance.Harness{
		New: func(t *testing.T) runner.Runner {
			cfg := config(place(t))
			cfg.level = level
			return open(t, cfg)
		},
		Crash: crash,
	}
}

func crash(t *testing.T, spec runner.Spec, ended bool) (runner.Runner, func() bool) {
	dir := place(t)
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), "PRATIQUE_TEST_HOST="+dir)
	raw, err := json.Marshal(spec)
	require.NoError(t, err)
	cmd.Stdin = strings.NewReader(string(raw))
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	want := "ready %d"
	if ended {
		want = "ended %d"
	}
	pid, lines := 0, bufio.NewScanner(out)
	for lines.Scan() {
		if n, _ := fmt.Sscanf(lines.Text(), want, &pid); n == 1 {
			break
		}
	}
	require.NoError(t, lines.Err())
	step, stepErr := identify(pid)
	require.NoError(t, cmd.Process.Kill())
	_ = cmd.Wait()
	return open(t, config(dir)), func() bool {
		require.NoError(t, stepErr)
		stat, err := readStat(step.PID)
		return err != nil || stat.start != step.Start || stat.state == 'Z'
	}
}

func TestLocalRunnerConforms(t *testing.T) { conformance.Run(t, harness("")) }

func TestLandlockRunnerConforms(t *testing.T) {
	requireLandlock(t)
	conformance.Run(t, harness(LevelLandlock))
}

func requireLandlock(t *testing.T) {
	t.Helper()
	require.Positive(t, landlockVersion(), "this suite needs a kernel with landlock")
}

func TestAStepSeesNothingOfTheService(t *testing.T) {
	t.Setenv("PRATIQUE_CANARY", "in-the-environment")
	for _, level := range []Level{detect(), LevelLandlock, LevelWeak} {
		t.Run("isolated by "+string(level), func(t *testing.T) {
			dir := place(t)
			cfg := config(dir)
			cfg.level, cfg.MinIsolation = level, LevelWeak
			r := open(t, cfg)
			require.NoError(t, os.WriteFile(filepath.Join(dir, conformance.Outside), []byte("secret"), 0o600))
			spec := conformance.Spec("report.probe")
			require.NoError(t, r.Start(t.Context(), spec))
			require.Equal(t, runner.Succeeded, conformance.Await(t, r, spec.Name).State, conformance.Text(t, r, spec.Name))
			check(t, level, dir, finding(t, conformance.Text(t, r, spec.Name)))
		})
	}
}

func finding(t *testing.T, text string) conformance.Finding {
	t.Helper()
	_, rest, ok := strings.Cut(text, "finding ")
	require.True(t, ok, text)
	rest, _, _ = strings.Cut(rest, "\n")
	var found conformance.Finding
	require.NoError(t, json.Unmarshal([]byte(rest), &found))
	return found
}

func check(t *testing.T, level Level, dir string, found conformance.Finding) {
	t.Helper()
	require.Equal(t, "1", found.NoNewPrivs)
	require.Zero(t, found.CoreLimit)
	require.LessOrEqual(t, found.MaxFiles, uint64(stepFiles))
	require.Equal(t, []string{"0", "1", "2"}, found.Descriptors)
	require.Equal(t, found.Session, found.Group)
	require.True(t, strings.HasPrefix(found.Dir, dir), found.Dir)
	for _, entry := range found.Env {
		key, _, _ := strings.Cut(entry, "=")
		require.Contains(t, []string{"PATH", "HOME", "TMPDIR", "LANG", "GOMEMLIMIT"}, key)
	}
	switch level {
	case LevelUID:
		require.GreaterOrEqual(t, found.UID, 61000)
		require.NotEmpty(t, found.SignalRunner)
		require.NotEmpty(t, found.ReadOutside)
		require.NotEmpty(t, found.WriteOutside)
	case LevelLandlock:
		require.NotEmpty(t, found.ReadOutside)
		require.NotEmpty(t, found.WriteOutside)
		require.NotEmpty(t, found.ListEtc)
		if landlockVersion() >= 6 {
			require.NotEmpty(t, found.SignalRunner)
		}
	}
}

func TestWeakIsolationIsRefused(t *testing.T) {
	cfg := config(place(t))
	cfg.level = LevelWeak
	r := open(t, cfg)
	err := r.Start(t.Context(), conformance.Spec(""))
	require.ErrorIs(t, err, runner.ErrRefused)
	var missing []string
	for _, check := range r.Readiness(t.Context()) {
		if !check.OK {
			missing = append(missing, check.Name)
		}
	}
	require.Equal(t, []string{checkIsolation}, missing)
}

func TestReadinessNamesWhatIsMissing(t *testing.T) {
	cfg := config(place(t))
	r := open(t, cfg)
	for _, check := range r.Readiness(t.Context()) {
		require.True(t, check.OK, check.Name+": "+check.Message)
	}
	cfg.Dir, cfg.Binary = place(t), "/nonexistent/pratique-step"
	for _, check := range open(t, cfg).Readiness(t.Context()) {
		require.Equal(t, check.Name != checkPipeline, check.OK, check.Name+": "+check.Message)
	}
	if detect() == LevelUID {
		private := filepath.Join(t.TempDir(), "private")
		require.NoError(t, os.Mkdir(private, 0o700))
		cfg = config(filepath.Join(private, "runner"))
		checks := open(t, cfg).Readiness(t.Context())
		require.False(t, checks[0].OK)
		require.Contains(t, checks[0].Message, "not searchable")
	}
}

func TestAStepThatTakesTooLongIsStopped(t *testing.T) {
	cfg := config(place(t))
	cfg.StepTimeout = 3 * time.Second
	r := open(t, cfg)
	spec := conformance.Spec("sbom.hang")
	require.NoError(t, r.Start(t.Context(), spec))
	status := conformance.Await(t, r, spec.Name)
	require.Equal(t, "run_timeout", status.Failure.Code)
	require.Contains(t, status.Failure.Message, "step sbom took longer")
}

// What leaves its group and its session still has its user, where each run has one of its own; elsewhere nothing leaves the session.
func TestADaemonDoesNotOutliveItsStep(t *testing.T) {
	for _, level := range []Level{detect(), LevelLandlock, LevelWeak} {
		t.Run("isolated by "+string(level), func(t *testing.T) {
			cfg := config(place(t))
			cfg.level, cfg.MinIsolation = level, LevelWeak
			r := open(t, cfg)
			spec := conformance.Spec("pull.daemon")
			require.NoError(t, r.Start(t.Context(), spec))
			require.Equal(t, runner.Succeeded, conformance.Await(t, r, spec.Name).State, conformance.Text(t, r, spec.Name))
			_, rest, ok := strings.Cut(conformance.Text(t, r, spec.Name), "daemon ")
			require.True(t, ok)
			var pid int
			_, err := fmt.Sscan(rest, &pid)
			require.NoError(t, err)
			stat, err := readStat(pid)
			require.True(t, err != nil || stat.state == 'Z', "process %d lives: %c", pid, stat.state)
		})
	}
}

// A killed dispatch process cannot tidy up; the next one does, before it asks anybody.
func TestNoCredentialOutlivesAKilledRunnerOnDisk(t *testing.T) {
	next, _ := crash(t, conformance.Spec("pull.hang"), false)
	dir := next.(*Local).cfg.Dir
	require.NoError(t, filepath.Walk(dir, func(path string, info os.FileInfo, err error) error {
		if err != nil || !info.Mode().IsRegular() {
			return err
		}
		raw, err := os.ReadFile(path)
		require.NotContains(t, string(raw), "canary-", path)
		return err
	}))
}

func TestTwoRunnersCannotShareADirectory(t *testing.T) {
	cfg := config(place(t))
	first := open(t, cfg)
	_, err := lockDir(cfg.Dir, 0)
	require.ErrorContains(t, err, "another dispatch process")
	id := first.ID()
	first.Close()
	require.Equal(t, id, open(t, cfg).ID(), "the place keeps its id")
}

func TestRunsOfDifferentPlacesGetDifferentUsers(t *testing.T) {
	if detect() != LevelUID {
		require.Less(t, os.Geteuid(), 1<<31, "without root there are no users to give")
		return
	}
	a, b := open(t, config(place(t))), open(t, config(place(t)))
	one, err := a.takeSlot()
	require.NoError(t, err)
	defer one.free()
	other, err := b.takeSlot()
	require.NoError(t, err)
	defer other.free()
	require.NotEqual(t, one.uid, other.uid)
}

func TestNothingOfARunIsLeftOnDisk(t *testing.T) {
	cfg := config(place(t))
	r := open(t, cfg)
	spec := conformance.Spec("")
	require.NoError(t, r.Start(t.Context(), spec))
	conformance.Await(t, r, spec.Name)
	<-r.find(spec.Name).done
	err := filepath.Walk(cfg.Dir, func(path string, info os.FileInfo, err error) error {
		if err != nil || !info.Mode().IsRegular() {
			return err
		}
		raw, err := os.ReadFile(path)
		require.NotContains(t, string(raw), "canary-", path)
		return err
	})
	require.NoError(t, err)
	entries, err := os.ReadDir(filepath.Join(cfg.Dir, runsDir, spec.Name))
	require.NoError(t, err)
	require.Len(t, entries, 2, "state and log")
}
