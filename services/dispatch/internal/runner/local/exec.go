package local

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/pratique-io/pratique/services/dispatch/internal/domain"
)

const (
	memoryEvery = 50 * time.Millisecond // how often resident memory is looked at
	stepFiles   = 4096                  // descriptors
	stepThreads = 1024                  // processes and threads of a run's user
	drainTime   = 2 * time.Second       // for output that is still in the pipe when all processes are gone
)

// exec runs a planned step to its end, whatever it does, and leaves no process of it behind. The error is why it was stopped from
// outside or could not begin; how it ended by itself is the ending.
//
// The thread stays locked while the child lives: the kernel ties the death signal to the thread that forked.
func (r *run) exec(ctx context.Context, i int, p plan) (ending, error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	child, err := r.launch(i, p)
	if err != nil {
		return ending{}, err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, r.owner.cfg.StepTimeout, errStepTime)
	defer cancel()
	watched := make(chan struct{})
	var guard sync.WaitGroup
	var fat atomic.Bool
	guard.Go(func() { r.watch(ctx, child.pid, watched, &fat) })

	waitErr := child.wait(r.place.uid)
	close(watched)
	guard.Wait()
	end := ending{key: p.key, state: child.cmd.ProcessState, memory: r.owner.cfg.Memory, fat: fat.Load()}
	if waitErr != nil {
		return end, waitErr
	}
	if end.state.Success() || end.fat {
		return end, nil // what ended well before we could stop it has ended well
	}
	cause := context.Cause(ctx)
	switch {
	case errors.Is(cause, errStepTime):
		return end, domain.Fails(domain.CodeRunTimeout, fmt.Sprintf("step %s took longer than %s", p.key, r.owner.cfg.StepTimeout))
	case cause != nil && !errors.Is(cause, context.Canceled):
		return end, cause
	}
	return end, nil
}

var errStepTime = errors.New("the step took longer than it may")

// watch kills the step when its time is over or its memory too large.
func (r *run) watch(ctx context.Context, pid int, over <-chan struct{}, fat *atomic.Bool) {
	tick := time.NewTicker(memoryEvery)
	defer tick.Stop()
	for {
		select {
		case <-over:
			return
		case <-ctx.Done():
			killGroup(pid)
			return
		case <-tick.C:
			if resident(pid) > r.owner.cfg.Memory {
				fat.Store(true)
				killGroup(pid)
				return
			}
		}
	}
}

// child is a launched process with its output.
type child struct {
	cmd    *exec.Cmd
	pid    int
	output *sync.WaitGroup
	pipes  []*os.File
}

// launch starts the process, writes down who it is, and only then tells it what to become.
func (r *run) launch(i int, p plan) (*child, error) {
	give, take, err := pipe()
	if err != nil {
		return nil, err
	}
	defer give.Close()
	defer take.Close()
	c := &child{output: &sync.WaitGroup{}}
	cmd := &exec.Cmd{Path: "/proc/self/exe", Args: []string{launchName}, Env: []string{}, Dir: "/", ExtraFiles: []*os.File{take}}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Pdeathsig: syscall.SIGKILL}
	outs, err := c.listen(cmd, func(level string, file *os.File) { r.journal.listen(p.key, level, file) })
	if err != nil {
		return nil, err
	}
	err = cmd.Start()
	for _, out := range outs {
		out.Close()
	}
	if err != nil {
		c.output.Wait() // the write ends are closed
		c.closePipes()
		return nil, fmt.Errorf("start: %w", err)
	}
	c.cmd, c.pid = cmd, cmd.Process.Pid
	if err := r.order(i, p, c.pid, give); err != nil {
		give.Close()
		killGroup(c.pid)
		_ = c.wait(r.place.uid)
		return nil, err
	}
	return c, nil
}

// order records the process and sends it on its way.
func (r *run) order(i int, p plan, pid int, give *os.File) error {
	who, err := identify(pid)
	if err != nil {
		return fmt.Errorf("identify the step: %w", err)
	}
	now := r.owner.cfg.Now()
	if err := r.mark(i, func(s *domain.StepOf) { s.State, s.StartedAt = domain.StepRunning, now }, who); err != nil {
		return fmt.Errorf("write down the step: %w", err)
	}
	cfg := r.owner.cfg
	o := order{
		Parent: os.Getpid(), Binary: cfg.Binary, Args: p.args, Dir: p.dir, UID: r.place.uid, Env: environment(p.dir, cfg.Memory),
		Limits:  limits{Files: stepFiles, FileBytes: uint64(cfg.FileBytes)},
		Confine: r.owner.level == LevelLandlock || (r.owner.level == LevelUID && landlockVersion() > 0),
		Read:    p.read, Write: []string{p.dir},
	}
	for _, purpose := range purposes(p.key) {
		if bundle := cfg.Egress[purpose].CABundle; bundle != "" {
			o.Read = append(o.Read, bundle)
		}
	}
	if o.UID > 0 {
		o.Limits.Processes = stepThreads
	}
	raw, err := json.Marshal(o)
	if err != nil {
		return err
	}
	if _, err := give.Write(raw); err != nil {
		return fmt.Errorf("order the step: %w", err)
	}
	return give.Close()
}

// environment is all that a step knows about where it is.
func environment(dir string, memory int64) []string {
	return []string{"PATH=/usr/bin:/bin", "HOME=" + dir, "TMPDIR=" + dir, "LANG=C.UTF-8",
		"GOMEMLIMIT=" + strconv.FormatInt(memory/10*9, 10)}
}

func pipe() (write, read *os.File, err error) {
	read, write, err = os.Pipe()
	return write, read, err
}

// listen gives the command its output pipes and reads them; it answers the write ends, to be closed after the start.
func (c *child) listen(cmd *exec.Cmd, read func(level string, file *os.File)) ([]*os.File, error) {
	var writes []*os.File
	for _, level := range []string{"info", "warn"} { // stdout, stderr
		write, from, err := pipe()
		if err != nil {
			for _, file := range writes {
				file.Close()
			}
			c.output.Wait()
			c.closePipes()
			return nil, err
		}
		writes, c.pipes = append(writes, write), append(c.pipes, from)
		c.output.Go(func() { read(level, from) })
	}
	cmd.Stdout, cmd.Stderr = writes[0], writes[1]
	return writes, nil
}

// wait waits for the end of the step and kills what it may have left. The group is killed while its leader is still a zombie: after
// reaping, the number could be somebody else's.
func (c *child) wait(uid int) error {
	for {
		err := unix.Waitid(unix.P_PID, c.pid, nil, unix.WEXITED|unix.WNOWAIT, nil)
		if !errors.Is(err, unix.EINTR) {
			break
		}
	}
	killGroup(c.pid)
	sweepErr := sweep(uid, c.pid, sweepTime)
	waitErr := c.cmd.Wait()
	until := time.Now().Add(drainTime)
	for _, file := range c.pipes {
		_ = file.SetReadDeadline(until)
	}
	c.output.Wait()
	c.closePipes()
	var exit *exec.ExitError
	if waitErr != nil && !errors.As(waitErr, &exit) {
		return errors.Join(fmt.Errorf("wait for the step: %w", waitErr), sweepErr)
	}
	return sweepErr
}

func (c *child) closePipes() {
	for _, file := range c.pipes {
		file.Close()
	}
}
