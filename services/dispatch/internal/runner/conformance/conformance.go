// Package conformance says in code what a runner must do. Every adapter passes it: the local one with the fake steps of this package, a
// cluster one with an image that holds them.
package conformance

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/pratique-io/pratique/services/dispatch/internal/domain"
	"github.com/pratique-io/pratique/services/dispatch/internal/runner"
)

// Harness makes runners for the suite.
type Harness struct {
	// New is a fresh runner whose step program is Fake.
	New func(t *testing.T) runner.Runner
	// Crash starts the spec on a runner in another process, waits until the fake has printed Ready (or, when ended, until the run has
	// ended), kills that process without warning, and answers a new runner on the same state. gone proves that nothing of the run lives.
	Crash func(t *testing.T, spec runner.Spec, ended bool) (after runner.Runner, gone func() bool)
}

const patience = 30 * time.Second

// Spec makes a spec whose steps behave as told: "" for well, else "<step>.<act>" of Fake.
func Spec(behaviour string) runner.Spec {
	run, request := uuid.Must(uuid.NewV7()), uuid.Must(uuid.NewV7())
	if behaviour == "" {
		behaviour = "none.none"
	}
	return runner.Spec{
		Name: domain.RunName(request, 1), Run: run, Request: request, Tenant: uuid.Must(uuid.NewV7()), Attempt: 1,
		Source: "registry.test/app@" + Digest("image"), SourceDigest: Digest("image"),
		Target:     "quarantine.test/q/" + behaviour + "/" + request.String(),
		SourceAuth: &runner.Credential{Username: "reader", Password: "canary-source-password"},
		TargetAuth: runner.Credential{Username: "run", Password: "canary-target-password"},
		RunTimeout: time.Minute, DatabaseURL: "https://database.test/v6",
	}
}

// Run runs the suite.
func Run(t *testing.T, h Harness) {
	t.Run("a run does its steps in order and reports their digests", func(t *testing.T) { succeeds(t, h) })
	t.Run("starting twice is one run", func(t *testing.T) { once(t, h) })
	t.Run("an unknown name was never started, and may be cancelled and cleaned up", func(t *testing.T) { unknown(t, h) })
	t.Run("a cancelled run ends as cancelled", func(t *testing.T) { cancels(t, h) })
	t.Run("a run that takes too long ends as run_timeout", func(t *testing.T) { timesOut(t, h) })
	t.Run("a step's exit code is the failure", func(t *testing.T) { fails(t, h) })
	t.Run("a failure text is taken only when it agrees with the exit code", func(t *testing.T) { agrees(t, h) })
	t.Run("a step that eats memory is stopped as step_out_of_memory", func(t *testing.T) {
		endsAs(t, h, "sbom.allocate", domain.CodeMemory)
	})
	t.Run("a step that is killed is step_out_of_memory", func(t *testing.T) { endsAs(t, h, "sbom.killed", domain.CodeMemory) })
	t.Run("only digests are results", func(t *testing.T) { forged(t, h) })
	t.Run("logs are numbered, in order, clean and without secrets", func(t *testing.T) { logs(t, h) })
	t.Run("a log is bounded and says so once", func(t *testing.T) { bounded(t, h) })
	t.Run("a run that ends is remembered until it is cleaned up", func(t *testing.T) { forgets(t, h) })
	t.Run("a run that was running when its runner died is lost, and nothing of it lives", func(t *testing.T) { lost(t, h) })
	t.Run("a run that had ended when its runner died has ended as it did", func(t *testing.T) { adopted(t, h) })
}

// Await polls until the run has ended.
func Await(t *testing.T, r runner.Runner, name string) runner.Status {
	t.Helper()
	var out runner.Status
	require.Eventually(t, func() bool {
		status, err := r.Poll(t.Context(), name)
		require.NoError(t, err)
		out = status
		return status.State.Ended()
	}, patience, 10*time.Millisecond, "the run ends")
	return out
}

// AwaitLine polls until a line contains the text.
func AwaitLine(t *testing.T, r runner.Runner, name, text string) {
	t.Helper()
	require.Eventually(t, func() bool { return strings.Contains(Text(t, r, name), text) }, patience, 10*time.Millisecond,
		"the step says "+text)
}

// Lines are all lines of a run.
func Lines(t *testing.T, r runner.Runner, name string) []runner.Line {
	t.Helper()
	var out []runner.Line
	for {
		more, err := r.Logs(t.Context(), name, int64(len(out)), 1000)
		require.NoError(t, err)
		if len(more) == 0 {
			return out
		}
		out = append(out, more...)
	}
}

// Text is the whole log of a run.
func Text(t *testing.T, r runner.Runner, name string) string {
	t.Helper()
	var out strings.Builder
	for _, line := range Lines(t, r, name) {
		fmt.Fprintln(&out, line.Message)
	}
	return out.String()
}

func start(t *testing.T, h Harness, spec runner.Spec) runner.Runner {
	t.Helper()
	r := h.New(t)
	require.NoError(t, r.Start(t.Context(), spec))
	return r
}

func endsAs(t *testing.T, h Harness, behaviour, code string) runner.Status {
	t.Helper()
	spec := Spec(behaviour)
	r := start(t, h, spec)
	status := Await(t, r, spec.Name)
	require.Equal(t, runner.Failed, status.State, Text(t, r, spec.Name))
	require.Equal(t, code, status.Failure.Code, status.Failure.Message)
	require.Equal(t, domain.ClassOf(code), status.Failure.Class)
	require.Empty(t, status.Results.Image)
	step, _, _ := strings.Cut(behaviour, ".")
	require.Equal(t, step, status.Step)
	after := false
	for _, s := range status.Steps {
		switch {
		case s.Key == step:
			require.Equal(t, domain.StepFailed, s.State)
			require.Equal(t, status.Failure.Message, s.LastError)
			after = true
		case after:
			require.Equal(t, domain.StepSkipped, s.State)
		default:
			require.Equal(t, domain.StepSucceeded, s.State)
		}
	}
	return status
}

func succeeds(t *testing.T, h Harness) {
	spec := Spec("")
	r := start(t, h, spec)
	status := Await(t, r, spec.Name)
	require.Equal(t, runner.Succeeded, status.State, "%v %s", status.Failure, Text(t, r, spec.Name))
	require.Equal(t, spec.SourceDigest, status.Results.Image)
	want := map[string]string{}
	for _, kind := range []string{"source", "sbom", "vulnerabilities", "report"} {
		want[kind] = Digest(kind)
	}
	require.Equal(t, want, status.Results.Documents)
	var keys []string
	for _, step := range status.Steps {
		keys = append(keys, step.Key)
		require.Equal(t, domain.StepSucceeded, step.State)
		require.False(t, step.StartedAt.IsZero() || step.EndedAt.Before(step.StartedAt))
	}
	require.Equal(t, domain.StepKeys(), keys)
	text := Text(t, r, spec.Name)
	require.Contains(t, text, "pull sees source-auth=true target-auth=true")
	require.Contains(t, text, "sbom sees source-auth=false target-auth=true", "only pull gets the source's credential")
}

func once(t *testing.T, h Harness) {
	spec := Spec("pull.hang")
	r := start(t, h, spec)
	AwaitLine(t, r, spec.Name, Ready)
	require.NoError(t, r.Start(t.Context(), spec), "a known name is no error")
	require.NoError(t, r.Cancel(t.Context(), spec.Name))
	Await(t, r, spec.Name)
	require.NoError(t, r.Start(t.Context(), spec), "nor when it has ended")
	status, err := r.Poll(t.Context(), spec.Name)
	require.NoError(t, err)
	require.Equal(t, runner.Cancelled, status.State)
	require.Equal(t, 1, strings.Count(Text(t, r, spec.Name), Ready))
}

func unknown(t *testing.T, h Harness) {
	r := h.New(t)
	status, err := r.Poll(t.Context(), "run-nobody-1")
	require.NoError(t, err)
	require.Equal(t, runner.Unknown, status.State)
	require.NoError(t, r.Cancel(t.Context(), "run-nobody-1"))
	require.NoError(t, r.Cleanup(t.Context(), "run-nobody-1"))
	lines, err := r.Logs(t.Context(), "run-nobody-1", 0, 10)
	require.NoError(t, err)
	require.Empty(t, lines)
}

func cancels(t *testing.T, h Harness) {
	spec := Spec("sbom.hang")
	r := start(t, h, spec)
	AwaitLine(t, r, spec.Name, Ready)
	require.NoError(t, r.Cancel(t.Context(), spec.Name))
	status := Await(t, r, spec.Name)
	require.Equal(t, runner.Cancelled, status.State)
	require.Nil(t, status.Failure)
	require.Empty(t, status.Results.Documents)
	require.NoError(t, r.Cancel(t.Context(), spec.Name), "cancelling what has ended changes nothing")
}

func timesOut(t *testing.T, h Harness) {
	spec := Spec("vulnerabilities.hang")
	spec.RunTimeout = 4 * time.Second
	r := start(t, h, spec)
	status := Await(t, r, spec.Name)
	require.Equal(t, runner.Failed, status.State)
	require.Equal(t, domain.CodeRunTimeout, status.Failure.Code)
}

func fails(t *testing.T, h Harness) {
	for act, code := range map[string]string{
		"pull.exit10": domain.CodeUnacceptable, "pull.exit11": domain.CodeRateLimited, "pull.exit12": domain.CodeConnectivity,
		"pull.exit13": domain.CodeAuth, "vulnerabilities.exit14": domain.CodeScanner, "report.exit1": domain.CodeRuntime,
		"sbom.exit99": domain.CodeRuntime, "sbom.panic": domain.CodeRuntime, "sbom.signal": domain.CodeRuntime,
	} {
		t.Run(act, func(t *testing.T) { endsAs(t, h, act, code) })
	}
}

func agrees(t *testing.T, h Harness) {
	status := endsAs(t, h, "pull.told12", domain.CodeConnectivity)
	require.Equal(t, "the registry went away", status.Failure.Message, "cleaned, and taken")
	status = endsAs(t, h, "pull.lied12", domain.CodeConnectivity)
	require.NotContains(t, status.Failure.Message, "forged")
}

func forged(t *testing.T, h Harness) {
	for _, act := range []string{"missing", "word", "upper", "long", "two", "link", "fifo", "directory"} {
		t.Run(act, func(t *testing.T) {
			status := endsAs(t, h, "sbom."+act, domain.CodeRuntime)
			require.Contains(t, status.Failure.Message, "result sbom")
		})
	}
	t.Run("an image other than the one that was asked for", func(t *testing.T) {
		status := endsAs(t, h, "pull.other", domain.CodeRuntime)
		require.Contains(t, status.Failure.Message, "another digest")
	})
}

func logs(t *testing.T, h Harness) {
	spec := Spec("pull.garbage")
	r := start(t, h, spec)
	require.Equal(t, runner.Succeeded, Await(t, r, spec.Name).State)
	lines := Lines(t, r, spec.Name)
	for i, line := range lines {
		require.Equal(t, int64(i+1), line.Number)
		require.NotEmpty(t, line.Step)
		require.Contains(t, []string{"debug", "info", "warn", "error"}, line.Level)
		require.NotContains(t, line.Message, "canary-")
		require.LessOrEqual(t, len(line.Message), runner.MaxLineBytes)
		require.Equal(t, runner.Clean(line.Message, runner.MaxLineBytes), line.Message)
	}
	text := Text(t, r, spec.Name)
	for _, want := range []string{"red text", "layer copied bytes=12 digest=sha256:ab", "not json {", "REDACTED"} {
		require.Contains(t, text, want)
	}
	require.Less(t, strings.Index(text, "counted 1\n"), strings.Index(text, "counted 2\n"))
	some, err := r.Logs(t.Context(), spec.Name, 3, 2)
	require.NoError(t, err)
	require.Equal(t, lines[3:5], some)
}

func bounded(t *testing.T, h Harness) {
	spec := Spec("pull.flood")
	r := start(t, h, spec)
	require.Equal(t, runner.Succeeded, Await(t, r, spec.Name).State, "a step that talks too much is not stopped for it")
	lines := Lines(t, r, spec.Name)
	require.Len(t, lines, runner.MaxLines)
	require.Equal(t, runner.TruncationMessage, lines[len(lines)-1].Message)
}

func forgets(t *testing.T, h Harness) {
	spec := Spec("pull.hang")
	r := start(t, h, spec)
	names, err := r.Names(t.Context())
	require.NoError(t, err)
	require.Equal(t, []string{spec.Name}, names)
	require.Error(t, r.Cleanup(t.Context(), spec.Name), "a run that runs is not forgotten")
	require.NoError(t, r.Cancel(t.Context(), spec.Name))
	Await(t, r, spec.Name)
	require.NoError(t, r.Cleanup(t.Context(), spec.Name))
	status, err := r.Poll(t.Context(), spec.Name)
	require.NoError(t, err)
	require.Equal(t, runner.Unknown, status.State)
	names, err = r.Names(t.Context())
	require.NoError(t, err)
	require.Empty(t, names)
}

func lost(t *testing.T, h Harness) {
	spec := Spec("sbom.hang")
	r, gone := h.Crash(t, spec, false)
	status, err := r.Poll(t.Context(), spec.Name)
	require.NoError(t, err)
	require.Equal(t, runner.Lost, status.State)
	require.True(t, gone(), "lost means that nothing runs")
	require.Contains(t, Text(t, r, spec.Name), Ready, "what it said before is kept")
	require.NoError(t, r.Start(t.Context(), spec))
	status, err = r.Poll(t.Context(), spec.Name)
	require.NoError(t, err)
	require.Equal(t, runner.Lost, status.State, "the same name is not started again")
	second := spec
	second.Name = domain.RunName(spec.Request, 2)
	second.Target = "quarantine.test/q/none.none/" + spec.Request.String()
	require.NoError(t, r.Start(t.Context(), second))
	require.Equal(t, runner.Succeeded, Await(t, r, second.Name).State)
}

func adopted(t *testing.T, h Harness) {
	spec := Spec("")
	r, _ := h.Crash(t, spec, true)
	status, err := r.Poll(t.Context(), spec.Name)
	require.NoError(t, err)
	require.Equal(t, runner.Succeeded, status.State)
	require.Equal(t, spec.SourceDigest, status.Results.Image)
	require.Len(t, status.Results.Documents, 4)
}
