// Package local runs pipelines as child processes of this one. It owns a directory (what runs, what ran, the id of this place) and the
// users that runs are given. It keeps hostile bytes away from the service: a step has a user or a landlock domain of its own, no
// privileges, no descriptors, no environment, bounded memory, files and time, and all that comes back from it is bounded and checked.
//
// A run lives and dies with this process: its infrastructure is this process. When the process dies, the kernel kills the steps; the
// next process on the same directory kills what may be left, proves it dead, and answers Lost for what had not ended and the true end
// for what had. Nothing is ever started that is not written down first.
package local

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/pratique-io/pratique/services/dispatch/internal/domain"
	"github.com/pratique-io/pratique/services/dispatch/internal/runner"
)

// Local is a runner.Runner. Use New.
type Local struct {
	cfg   Config
	level Level
	id    uuid.UUID
	lock  *os.File
	log   *slog.Logger

	mu     sync.Mutex
	runs   map[string]*run
	closed bool
	active sync.WaitGroup
}

var _ runner.Runner = (*Local)(nil)

// New takes the directory for this process and settles what an earlier one left there.
func New(cfg Config, log *slog.Logger) (*Local, error) {
	cfg = cfg.withDefaults()
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	level := cfg.level
	if level == "" {
		level = detect()
	}
	lock, err := lockDir(cfg.Dir, 5*time.Second)
	if err != nil {
		return nil, fmt.Errorf("runner directory: %w", err)
	}
	id, err := identity(cfg.Dir)
	if err != nil {
		lock.Close()
		return nil, fmt.Errorf("runner identity: %w", err)
	}
	r := &Local{cfg: cfg, level: level, id: id, lock: lock, log: log, runs: map[string]*run{}}
	if err := r.adopt(); err != nil {
		lock.Close()
		return nil, fmt.Errorf("settle earlier runs: %w", err)
	}
	return r, nil
}

// ID is the id of this place, the same as long as its directory lives.
func (r *Local) ID() uuid.UUID { return r.id }

// Level is the isolation that steps get here.
func (r *Local) Level() Level { return r.level }

// Close ends all runs as lost and gives the directory up.
func (r *Local) Close() {
	r.mu.Lock()
	if r.closed {
		r.mu.Unlock()
		return
	}
	r.closed = true
	for _, run := range r.runs {
		run.stop(errLost)
	}
	r.mu.Unlock()
	r.active.Wait()
	r.lock.Close()
}

var namePattern = regexp.MustCompile(`^[a-z0-9][a-z0-9-]{0,99}$`)

// Start is idempotent by name.
func (r *Local) Start(ctx context.Context, spec runner.Spec) error {
	if err := ctx.Err(); err != nil { // the right to start ended before we came to it
		return fmt.Errorf("%w: %w", runner.ErrRefused, err)
	}
	if !namePattern.MatchString(spec.Name) {
		return fmt.Errorf("%w: %q is not a name of a run", runner.ErrRefused, spec.Name)
	}
	if !r.level.atLeast(r.cfg.MinIsolation) {
		return fmt.Errorf("%w: isolation is %s and %s is required", runner.ErrRefused, r.level, r.cfg.MinIsolation)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return fmt.Errorf("%w: the runner is closing", runner.ErrRefused)
	}
	if _, known := r.runs[spec.Name]; known {
		return nil
	}
	place, err := r.takeSlot()
	if err != nil {
		return err
	}
	run := newRun(r, spec, place)
	if err := run.create(); err != nil {
		place.free()
		_ = os.RemoveAll(run.dir) // nothing ran in it
		return fmt.Errorf("%w: prepare a run: %w", runner.ErrRefused, err)
	}
	r.runs[spec.Name] = run
	r.active.Add(1)
	go func() {
		defer r.active.Done()
		run.execute()
	}()
	return nil
}

func (r *Local) find(name string) *run {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.runs[name]
}

// Poll answers from memory, which the disk mirrors.
func (r *Local) Poll(_ context.Context, name string) (runner.Status, error) {
	run := r.find(name)
	if run == nil {
		return runner.Status{State: runner.Unknown}, nil
	}
	return run.status(), nil
}

// Logs answers lines in order.
func (r *Local) Logs(_ context.Context, name string, after int64, limit int) ([]runner.Line, error) {
	run := r.find(name)
	if run == nil {
		return nil, nil
	}
	return run.journal.after(after, limit), nil
}

// Cancel asks for the end.
func (r *Local) Cancel(_ context.Context, name string) error {
	if run := r.find(name); run != nil {
		run.stop(errCancelled)
	}
	return nil
}

// Cleanup forgets an ended run.
func (r *Local) Cleanup(_ context.Context, name string) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	run, known := r.runs[name]
	if !known {
		return nil
	}
	if !run.status().State.Ended() {
		return fmt.Errorf("run %s has not ended", name)
	}
	<-run.done // its last file is closed in a moment
	if err := os.RemoveAll(run.dir); err != nil {
		return fmt.Errorf("clean up after %s: %w", name, err)
	}
	delete(r.runs, name)
	return nil
}

// Names lists the runs that are remembered.
func (r *Local) Names(context.Context) ([]string, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	out := make([]string, 0, len(r.runs))
	for name := range r.runs {
		out = append(out, name)
	}
	slices.Sort(out)
	return out, nil
}

// adopt takes over what an earlier process left: ends stay what they are, the rest is killed and lost.
func (r *Local) adopt() error {
	entries, err := os.ReadDir(filepath.Join(r.cfg.Dir, runsDir))
	if err != nil {
		return err
	}
	var problems []error
	for _, entry := range entries {
		if !entry.IsDir() || !namePattern.MatchString(entry.Name()) {
			continue
		}
		if err := r.adoptRun(entry.Name()); err != nil {
			problems = append(problems, err)
		}
	}
	return errors.Join(problems...)
}

func (r *Local) adoptRun(name string) error {
	dir := filepath.Join(r.cfg.Dir, runsDir, name)
	s, err := load(dir)
	if err != nil || s.Name != name { // it died before its first step could be: the state is written before any process
		s = saved{Name: name, Status: runner.Status{State: runner.Running, Steps: domain.PendingSteps(nil)}}
	}
	run := &run{owner: r, dir: dir, spec: runner.Spec{Name: name}, state: s, journal: journalOf(loadLog(dir)), done: make(chan struct{})}
	close(run.done)
	run.stop = func(error) {}
	r.runs[name] = run
	if s.Status.State.Ended() {
		return nil
	}
	if err := r.bury(s); err != nil {
		return fmt.Errorf("run %s: %w", name, err)
	}
	for _, key := range domain.StepKeys() { // the credentials of the step that was cut off; the rest goes with Cleanup
		if err := os.RemoveAll(filepath.Join(dir, key)); err != nil {
			return fmt.Errorf("run %s: %w", name, err)
		}
	}
	run.finish(runner.Lost, nil, "")
	r.log.Warn("run lost with an earlier process", "run", name)
	return nil
}

// bury makes sure that nothing of a run lives. The session is that of the launched process; its user, if it has one of its own, is swept
// unless a run of another dispatch process holds it now, and then it was swept when that run took it.
func (r *Local) bury(s saved) error {
	session := 0
	if s.Process.PID != 0 && s.Process.Boot == bootID() {
		session = s.Process.PID
		if s.Process.alive() {
			killGroup(s.Process.PID)
		} else if other, err := identify(s.Process.PID); err == nil && other.Start != s.Process.Start {
			session = 0 // the number belongs to somebody else by now
		}
	}
	if err := sweep(0, session, sweepTime); err != nil {
		return err
	}
	if s.UID == 0 {
		return nil
	}
	place, err := claim(s.UID) // which sweeps it
	place.free()
	return err
}
