package loop_test

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	dispatchv1 "github.com/pratique-io/pratique/gen/pratique/dispatch/v1"
	"github.com/pratique-io/pratique/services/dispatch/internal/domain"
	"github.com/pratique-io/pratique/services/dispatch/internal/runner"
)

// A process that dies leaves what it had written; another loop on the same rows is the next process.
func TestACrashBetweenIntentAndStart(t *testing.T) {
	crash := func(t *testing.T, known bool) (*bundle, uuid.UUID) {
		b := setup(t)
		id := b.approve(uuid.New())
		b.runner.startErr = errors.New("the process dies here")
		_, err := b.loops.Schedule(t.Context())
		require.Error(t, err)
		require.Equal(t, domain.Starting, b.record(id).State)
		b.runner.startErr = nil
		if known {
			require.NoError(t, b.runner.Start(t.Context(), runner.Spec{Name: domain.RunName(id, 1)}))
		}
		b.clock.step(time.Minute) // the lease runs out
		b.loops = b.process(b.loops.Provider.ID)
		return b, id
	}
	t.Run("the runner knows the name: the run is adopted", func(t *testing.T) {
		b, id := crash(t, true)
		require.True(t, b.supervise())
		require.Equal(t, domain.Running, b.record(id).State)
		require.Equal(t, []string{"RunQueued", "RunStarted"}, b.events(id))
		require.Equal(t, 1, b.record(id).Attempt)
		require.Len(t, b.runner.started, 1)
		b.audited(id)
	})
	t.Run("it does not: the next attempt is queued", func(t *testing.T) {
		b, id := crash(t, false)
		require.True(t, b.supervise())
		require.Equal(t, domain.Queued, b.record(id).State)
		require.Equal(t, 2, b.record(id).Attempt)
		require.False(t, b.schedule(), "not at once")
		b.clock.step(10 * time.Second)
		require.True(t, b.schedule())
		require.Equal(t, []string{domain.RunName(id, 2)}, b.runner.started)
		b.audited(id)
	})
	t.Run("it was withdrawn meanwhile: nothing starts", func(t *testing.T) {
		b, id := crash(t, false)
		require.True(t, b.withdraw(id, b.record(id).Tenant))
		require.True(t, b.supervise())
		require.Equal(t, domain.Cancelled, b.record(id).State)
		require.Empty(t, b.runner.started)
	})
	t.Run("the runner cannot be asked: nobody decides anything", func(t *testing.T) {
		b, id := crash(t, false)
		b.runner.pollErr = errors.New("unreachable")
		b.clock.step(2 * time.Second)
		_, err := b.loops.Supervise(t.Context())
		require.Error(t, err)
		require.Equal(t, domain.Starting, b.record(id).State)
	})
}

func TestALostRunIsFollowedByAnotherAtMostTwice(t *testing.T) {
	b := setup(t)
	id, _, run := b.started()
	for attempt := 1; attempt <= domain.MaxAttempts; attempt++ {
		run.set(func(s *runner.Status) { s.State = runner.Lost })
		require.True(t, b.supervise())
		if attempt == domain.MaxAttempts {
			break
		}
		require.Equal(t, domain.Queued, b.record(id).State)
		b.clock.step(time.Minute)
		require.True(t, b.schedule())
		run = b.runner.get(domain.RunName(id, attempt+1))
		require.NotNil(t, run)
		require.Equal(t, attempt+1, run.spec.Attempt)
	}
	record := b.record(id)
	require.Equal(t, domain.Failed, record.State)
	require.Equal(t, domain.CodeDispatch, record.Failure.Code)
	require.Equal(t, []string{"RunQueued", "RunStarted", "RunQueued", "RunStarted", "RunQueued", "RunStarted", "RunFailed"}, b.events(id))
	require.Len(t, b.runner.started, domain.MaxAttempts)
	b.audited(id)
}

func TestARunnerThatRefusesToStartCostsAttempts(t *testing.T) {
	b := setup(t)
	id := b.approve(uuid.New())
	b.runner.startErr = fmt.Errorf("%w: weak isolation", runner.ErrRefused)
	for range domain.MaxAttempts {
		require.True(t, b.schedule())
		b.clock.step(time.Minute)
	}
	require.Equal(t, domain.CodeDispatch, b.record(id).Failure.Code)
	require.Empty(t, b.runner.started)
}

func TestAFailedRunKeepsItsClassCodeAndStep(t *testing.T) {
	b := setup(t)
	id, _, run := b.started()
	run.set(func(s *runner.Status) {
		s.State, s.Step, s.Failure = runner.Failed, "sbom", domain.Fails(domain.CodeUnacceptable, "two walkers disagree")
		s.Steps[0].State, s.Steps[1].State = domain.StepSucceeded, domain.StepFailed
	})
	require.True(t, b.supervise())
	require.Equal(t, &domain.Failure{Class: "policy", Code: domain.CodeUnacceptable, Message: "two walkers disagree"}, b.record(id).Failure)
	var failed dispatchv1.RunFailed
	all := b.envelopes()
	require.NoError(t, all[len(all)-1].Decode(&failed))
	require.Equal(t, "sbom", failed.GetStep())
	require.Equal(t, "policy", failed.GetFailure().GetFailureClass())
	states := []domain.StepState{}
	for _, step := range b.run(id).Steps {
		states = append(states, step.State)
	}
	require.Equal(t, []domain.StepState{domain.StepSucceeded, domain.StepFailed, domain.StepSkipped, domain.StepSkipped}, states)
}

func TestForgedResultsAreAFailureWhateverTheRunnerSays(t *testing.T) {
	b := setup(t)
	id, _, run := b.started()
	run.set(succeed)
	run.set(func(s *runner.Status) { s.Results.Image = other })
	require.True(t, b.supervise())
	require.Equal(t, domain.CodeRuntime, b.record(id).Failure.Code)
}

func TestARunThatItsRunnerDoesNotEndIsStopped(t *testing.T) {
	b := setup(t)
	id, _, run := b.started()
	b.clock.step(time.Hour + 3*time.Minute)
	b.supervise()
	require.True(t, run.asked)
	require.True(t, b.supervise())
	require.Equal(t, domain.CodeRunTimeout, b.record(id).Failure.Code)
}

func TestWaitingTooLongIsADispatchTimeout(t *testing.T) {
	b := setup(t)
	b.runner.broken = true
	waiting := b.approve(uuid.New())
	require.True(t, b.schedule())
	b.clock.step(24*time.Hour - time.Minute)
	queued := b.approve(uuid.New())
	require.False(t, b.turn(b.loops.Expire))
	b.clock.step(2 * time.Minute)
	require.True(t, b.turn(b.loops.Expire))
	require.Equal(t, domain.CodeTimeout, b.record(waiting).Failure.Code)
	require.Equal(t, domain.Queued, b.record(queued).State)
	b.audited(waiting)
}

func TestWhoLostTheLeaseWritesNothing(t *testing.T) {
	b := setup(t)
	id := b.approve(uuid.New())
	b.intake.during = func() { // this process is stopped for a minute; another one does the work meanwhile
		b.intake.during = nil
		b.clock.step(time.Minute)
		require.True(t, b.turn(b.process(b.loops.Provider.ID).Schedule))
	}
	b.schedule()
	require.Equal(t, domain.Running, b.record(id).State)
	require.Equal(t, []string{"RunQueued", "RunStarted"}, b.events(id))
	require.Len(t, b.runner.started, 1)
	b.audited(id)
}

func TestRunsOfAnotherProviderAreLeftAloneUntilTheyCanWriteNothing(t *testing.T) {
	b := setup(t)
	id, _, _ := b.started()
	b.loops = b.process(uuid.Must(uuid.NewV7()))
	require.False(t, b.supervise())
	require.False(t, b.turn(b.loops.Expire))
	b.clock.step(time.Hour + 9*time.Minute)
	require.False(t, b.turn(b.loops.Expire), "its credential still holds")
	b.clock.step(5 * time.Minute)
	require.True(t, b.turn(b.loops.Expire))
	record := b.record(id)
	require.Equal(t, domain.Queued, record.State)
	require.Equal(t, 2, record.Attempt)
	b.audited(id)
}

func TestTheRunnerForgetsWhatNoRecordHolds(t *testing.T) {
	b := setup(t)
	id, _, kept := b.started()
	require.NoError(t, b.runner.Start(t.Context(), runner.Spec{Name: "run-stranger-1"}))
	b.turn(b.loops.Tidy)
	require.Equal(t, runner.Cancelled, b.runner.get("run-stranger-1").status.State)
	b.turn(b.loops.Tidy)
	require.Nil(t, b.runner.get("run-stranger-1"))
	require.NotNil(t, b.runner.get(domain.RunName(id, 1)), "what is wanted stays")
	require.False(t, kept.asked)
}

func TestANewProcessDoesNotWaitForTheLeasesOfADeadOne(t *testing.T) {
	b := setup(t)
	id, _, run := b.started()
	b.clock.step(time.Second)
	_, err := b.admin.Exec(t.Context(), `update dispatch_record set leased_until = $1, lease_token = lease_token + 1`, b.clock.now().Add(30*time.Second))
	require.NoError(t, err)
	run.set(func(s *runner.Status) { s.State = runner.Lost })
	require.False(t, b.supervise(), "a lease is a lease while its holder may live")
	b.loops = b.process(b.loops.Provider.ID)
	require.True(t, b.supervise())
	require.Equal(t, 2, b.record(id).Attempt)
	b.audited(id)
}

// The process is stopped between the recorded intent and the start for longer than its lease, and its own supervisor wakes up first.
func TestAStartThatComesTooLateIsStopped(t *testing.T) {
	b := setup(t)
	id := b.approve(uuid.New())
	b.runner.before = func() {
		b.runner.before = nil
		b.clock.step(time.Minute)
		require.True(t, b.supervise())
		require.Equal(t, 2, b.record(id).Attempt)
	}
	b.schedule()
	require.Equal(t, runner.Cancelled, b.runner.get(domain.RunName(id, 1)).status.State, "nobody wants this attempt any more")
	b.clock.step(time.Minute)
	require.True(t, b.schedule())
	require.Equal(t, domain.Running, b.record(id).State)
	b.audited(id)
}
