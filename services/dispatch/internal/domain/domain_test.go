package domain

import (
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/pratique-io/pratique/internal/failure"
)

func TestEveryStateMeetsEveryVerb(t *testing.T) {
	want := map[State]map[Verb]State{
		Queued:   {Wait: Waiting, Start: Starting, Fail: Failed, Cancel: Cancelled},
		Waiting:  {Start: Starting, Fail: Failed, Cancel: Cancelled},
		Starting: {Run: Running, Requeue: Queued, Fail: Failed, Cancel: Cancelled},
		Running:  {Step: Running, Requeue: Queued, Succeed: Succeeded, Fail: Failed, Cancel: Cancelled},
	}
	for _, state := range States() {
		for _, verb := range Verbs() {
			to, err := Next(state, verb)
			if expected, ok := want[state][verb]; ok {
				require.NoError(t, err)
				require.Equal(t, expected, to)
				continue
			}
			require.Error(t, err, "%s %s", state, verb)
		}
		require.Equal(t, state.Terminal(), len(want[state]) == 0, "only terminal states know no verb")
		require.False(t, state.Owed() && state.Active())
		require.Equal(t, !state.Terminal(), state.Owed() || state.Active(), "every live state is owed or active")
	}
	require.Len(t, want[Queued], 4)
}

func TestAWaitingPeriodIsToldOnce(t *testing.T) {
	_, err := Next(Waiting, Wait)
	require.Error(t, err)
}

func TestEveryFailureHasAClassOfTheContract(t *testing.T) {
	for _, code := range []string{
		CodeUnavailable, CodeTimeout, CodeDispatch, CodeConnectivity, CodeRateLimited, CodeAuth, CodeUnacceptable, CodeBlocked, CodeRuntime,
		CodeRunTimeout, CodeMemory, CodeScanner,
	} {
		require.Equal(t, &Failure{Class: failure.ClassOf(code), Code: code, Message: "m"}, Fails(code, "m"))
		require.Contains(t, failure.Classes(), Fails(code, "m").Class)
	}
	require.Equal(t, "runtime", ClassOf("invented"))
}

func TestStepsOnlyMoveForward(t *testing.T) {
	at := time.Unix(1000, 0).UTC()
	stored := PendingSteps([]StepOf{{Key: StepPull, Attempts: 1}})
	require.Equal(t, 1, stored[0].Attempts, "attempts of an earlier run are carried over")

	steps, changed := MergeSteps(stored, []StepOf{{Key: StepPull, State: StepRunning, StartedAt: at}, {Key: "invented", State: StepFailed}})
	require.True(t, changed)
	require.Len(t, steps, 4)
	require.Equal(t, StepOf{Key: StepPull, State: StepRunning, Attempts: 2, StartedAt: at}, steps[0])

	_, changed = MergeSteps(steps, []StepOf{{Key: StepPull, State: StepRunning, StartedAt: at}})
	require.False(t, changed, "the same again is nothing")

	steps, _ = MergeSteps(steps, []StepOf{{Key: StepPull, State: StepSucceeded, StartedAt: at, EndedAt: at}})
	again, changed := MergeSteps(steps, []StepOf{{Key: StepPull, State: StepFailed}})
	require.False(t, changed, "an end is an end")
	require.Equal(t, StepSucceeded, again[0].State)
	require.Equal(t, 2, again[0].Attempts)
}

func TestStepsOfAnEndedRunAreClosed(t *testing.T) {
	at := time.Unix(1000, 0).UTC()
	steps := CloseSteps([]StepOf{{State: StepSucceeded}, {State: StepRunning}, {State: StepPending}}, at, "why")
	require.Equal(t, []StepOf{{State: StepSucceeded}, {State: StepFailed, EndedAt: at, LastError: "why"}, {State: StepSkipped}}, steps)
}

func TestResultsAreCheckedWhoeverReportsThem(t *testing.T) {
	digest := "sha256:" + strings.Repeat("a", 64)
	good := func() Results {
		return Results{Image: digest, Documents: map[string]string{"source": digest, "sbom": digest, "vulnerabilities": digest, "report": digest}}
	}
	require.NoError(t, good().Check(digest))
	require.Error(t, good().Check("sha256:"+strings.Repeat("b", 64)), "another image")
	for name, spoil := range map[string]func(*Results){
		"no image":            func(r *Results) { r.Image = "" },
		"a document missing":  func(r *Results) { delete(r.Documents, "sbom") },
		"a document too many": func(r *Results) { r.Documents["malware"] = digest },
		"a tag as document":   func(r *Results) { r.Documents["sbom"] = "latest" },
	} {
		r := good()
		spoil(&r)
		require.Error(t, r.Check(digest), name)
	}
}

func TestNamesAreDeterministicAndDiffer(t *testing.T) {
	request := uuid.New()
	require.Equal(t, RunName(request, 1), RunName(request, 1))
	require.NotEqual(t, RunName(request, 1), RunName(request, 2))
	require.NotEqual(t, RunName(request, 1), RunName(uuid.New(), 1))
}

func TestProviderConfigurationIsCheckedWithMissingAndFalseToldApart(t *testing.T) {
	yes, no := true, false
	fine := Provider{Type: "local", Status: Online, Enabled: &yes, MaxRuns: 1}
	require.Empty(t, Readiness{Checks: fine.ConfigChecks()}.Missing())
	for name, test := range map[string]struct {
		change  func(*Provider)
		missing []string
		message string
	}{
		"flag missing": {func(p *Provider) { p.Enabled = nil }, []string{"provider_config.quarantine_dispatch_enabled"}, "is missing"},
		"flag false":   {func(p *Provider) { p.Enabled = &no }, []string{"provider_config.quarantine_dispatch_enabled"}, "is false"},
		"offline":      {func(p *Provider) { p.Status = Offline }, []string{"provider_status", "provider_schedulable"}, "offline"},
		"draining":     {func(p *Provider) { p.Status = Draining }, []string{"provider_schedulable"}, "draining"},
		"no places":    {func(p *Provider) { p.MaxRuns = 0 }, []string{"provider_schedulable"}, "is 0"},
		"unknown type": {func(p *Provider) { p.Type = "kubernetes" }, []string{"provider_type"}, "kubernetes"},
	} {
		t.Run(name, func(t *testing.T) {
			p := fine
			test.change(&p)
			r := Readiness{Checks: p.ConfigChecks()}
			require.Equal(t, test.missing, r.Missing())
			require.False(t, r.Ready())
			require.True(t, r.Differs(Readiness{Checks: fine.ConfigChecks()}))
			var texts []string
			for _, c := range r.Checks {
				if !c.OK {
					texts = append(texts, c.Message)
				}
			}
			require.Contains(t, strings.Join(texts, "; "), test.message)
		})
	}
	require.False(t, Readiness{}.Ready(), "what was never checked is not ready")
}
