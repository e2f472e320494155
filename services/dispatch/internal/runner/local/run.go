package local

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"

	"github.com/pratique-io/pratique/services/dispatch/internal/domain"
	"github.com/pratique-io/pratique/services/dispatch/internal/runner"
)

// Why a run is stopped from outside.
var (
	errCancelled = errors.New("the run was cancelled")
	errLost      = errors.New("the runner closed")
	errRunTime   = errors.New("the run took longer than it may")
)

// run is one pipeline being executed, or remembered.
type run struct {
	owner   *Local
	dir     string
	spec    runner.Spec
	place   slot
	ctx     context.Context
	stop    context.CancelCauseFunc
	journal *journal
	done    chan struct{}

	mu    sync.Mutex
	state saved
}

func newRun(owner *Local, spec runner.Spec, place slot) *run {
	ctx, stop := context.WithCancelCause(context.Background())
	now := owner.cfg.Now()
	return &run{
		owner: owner, dir: filepath.Join(owner.cfg.Dir, runsDir, spec.Name), spec: spec, place: place, ctx: ctx, stop: stop,
		done: make(chan struct{}),
		state: saved{Name: spec.Name, UID: place.uid,
			Status: runner.Status{State: runner.Running, Steps: domain.PendingSteps(nil), StartedAt: now}},
	}
}

// create writes the run down. From here on the name is known.
func (r *run) create() error {
	if err := os.Mkdir(r.dir, 0o711); err != nil {
		return err
	}
	if err := os.Chmod(r.dir, 0o711); err != nil {
		return err
	}
	journal, err := openJournal(filepath.Join(r.dir, logFile), r.owner.cfg.Now, r.secrets())
	if err != nil {
		return err
	}
	r.journal = journal
	return save(r.dir, r.state)
}

func (r *run) secrets() []string {
	out := []string{r.spec.TargetAuth.Password}
	if r.spec.SourceAuth != nil {
		out = append(out, r.spec.SourceAuth.Password)
	}
	return out
}

func (r *run) status() runner.Status {
	r.mu.Lock()
	defer r.mu.Unlock()
	out := r.state.Status
	out.Steps = slices.Clone(out.Steps)
	return out
}

// execute does the steps in order and settles the end.
func (r *run) execute() {
	defer close(r.done)
	defer r.journal.close()
	defer r.place.free()
	ctx, cancel := context.WithTimeoutCause(r.ctx, r.spec.RunTimeout, errRunTime)
	defer cancel()
	results := map[string]string{}
	for i, key := range domain.StepKeys() {
		if failure := r.step(ctx, i, key, results); failure != nil {
			r.settle(failure, key)
			return
		}
	}
	r.mu.Lock()
	r.state.Status.Results = domain.Results{Image: results["image"], Documents: map[string]string{}}
	for _, kind := range domain.DocumentKinds() {
		r.state.Status.Results.Documents[kind] = results[kind]
	}
	r.mu.Unlock()
	r.finish(runner.Succeeded, nil, "")
}

// settle turns the error of a step into the end of the run.
func (r *run) settle(err error, key string) {
	var failure *domain.Failure
	switch {
	case errors.Is(err, errCancelled):
		r.finish(runner.Cancelled, nil, key)
	case errors.Is(err, errLost):
		r.finish(runner.Lost, nil, key)
	case errors.Is(err, errRunTime):
		r.finish(runner.Failed, domain.Fails(domain.CodeRunTimeout,
			fmt.Sprintf("the run took longer than %s", r.spec.RunTimeout)), key)
	case errors.As(err, &failure):
		r.finish(runner.Failed, failure, key)
	default:
		r.owner.log.Error("step could not be run", "run", r.spec.Name, "step", key, "err", err)
		r.finish(runner.Failed, domain.Fails(domain.CodeRuntime, "the step could not be run on this machine"), key)
	}
}

// finish records the end. A disk that cannot take it is told about; the end then lives in memory, and a later process finds a run lost.
func (r *run) finish(state runner.State, failure *domain.Failure, key string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	now := r.owner.cfg.Now()
	text := ""
	if failure != nil {
		text = failure.Message
	}
	status := &r.state.Status
	status.Steps = domain.CloseSteps(status.Steps, now, text)
	status.State, status.Failure, status.Step, status.EndedAt = state, failure, key, now
	r.state.Process = process{}
	if err := save(r.dir, r.state); err != nil {
		r.owner.log.Error("end of a run not written", "run", r.spec.Name, "err", err)
	}
}

// mark changes one step and writes it down.
func (r *run) mark(i int, change func(*domain.StepOf), running process) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	change(&r.state.Status.Steps[i])
	r.state.Process = running
	return save(r.dir, r.state)
}

// step runs one step and takes its results.
func (r *run) step(ctx context.Context, i int, key string, results map[string]string) error {
	if err := context.Cause(ctx); err != nil {
		return err
	}
	dir := filepath.Join(r.dir, key)
	defer os.RemoveAll(dir) // secrets and whatever the step left; its processes are gone by then
	plan, err := r.plan(key, dir, results)
	if err != nil {
		return err
	}
	if err := r.furnish(plan); err != nil {
		return fmt.Errorf("prepare step: %w", err)
	}
	end, err := r.exec(ctx, i, plan)
	if err != nil {
		return err
	}
	if failure := end.failure(dir); failure != nil {
		return failure
	}
	for _, name := range plan.results {
		value, err := readResult(dir, name)
		if err != nil {
			return domain.Fails(domain.CodeRuntime, fmt.Sprintf("step %s: result %s %s", key, name, err))
		}
		results[name] = value
	}
	if key == domain.StepPull && results["image"] != r.spec.SourceDigest {
		return domain.Fails(domain.CodeRuntime, "step pull reported another digest than the one that was asked for")
	}
	now := r.owner.cfg.Now()
	return r.mark(i, func(s *domain.StepOf) { s.State, s.EndedAt = domain.StepSucceeded, now }, process{})
}
