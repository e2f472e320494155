package local

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"runtime"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"
)

// launchName is the name under which this program starts itself to become a step. What a step must not have (privileges, descriptors,
// memory of secrets) can only be given up by the process itself, and Go offers no hook between fork and exec: so the runner starts its
// own executable under this name, and init, before any service code, turns it into the step.
const launchName = "pratique-launch"

// orderFD is where the launched process reads its order. Nothing happens before the runner has written down who was launched.
const orderFD = 3

// launchFailed is the exit code of a launch that did not come as far as the step; no step uses it.
const launchFailed = 125

// order is what a launched process shall become.
type order struct {
	Parent  int      `json:"parent"` // pid of the runner: when it is another one already, nobody waits for us
	Binary  string   `json:"binary"`
	Args    []string `json:"args"` // without the name
	Env     []string `json:"env"`
	Dir     string   `json:"dir"`
	UID     int      `json:"uid"` // 0: stay who we are
	Limits  limits   `json:"limits"`
	Confine bool     `json:"confine"` // landlock
	Read    []string `json:"read"`    // paths beside the system's that may be read
	Write   []string `json:"write"`   // paths that may be written
}

// limits are resource limits of the step. Address space is never limited: Go programs reserve far more than they use.
type limits struct {
	Files     uint64 `json:"files"`
	FileBytes uint64 `json:"file_bytes"`
	Processes uint64 `json:"processes"` // threads too; 0: unlimited. Counts per uid, so it is set only where the uid is the step's own
}

func init() {
	if len(os.Args) == 1 && os.Args[0] == launchName {
		runtime.LockOSThread() // what follows is per thread, and exec keeps the calling one's
		fmt.Fprintf(os.Stderr, `{"level":"error","msg":"the step could not be launched","err":%s}`+"\n", strconv.Quote(launch().Error()))
		os.Exit(launchFailed)
	}
}

// launch becomes the step; it returns only when it cannot.
func launch() error {
	raw, err := io.ReadAll(os.NewFile(orderFD, "order"))
	if err != nil {
		return fmt.Errorf("read order: %w", err)
	}
	if len(raw) == 0 {
		os.Exit(launchFailed) // the runner died before it gave the order
	}
	var o order
	if err := json.Unmarshal(raw, &o); err != nil {
		return fmt.Errorf("read order: %w", err)
	}
	binary, err := unix.Open(o.Binary, unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open %s: %w", o.Binary, err)
	}
	if err := os.Chdir(o.Dir); err != nil {
		return err
	}
	// The ruleset is built while we may still open the paths, and taken on after everything else.
	ruleset := -1
	if o.Confine {
		if ruleset, err = confinement(binary, o); err != nil {
			return err
		}
	}
	if err := giveUp(o); err != nil {
		return err
	}
	if o.UID == 0 { // no user by which all of its processes could be found
		if err := keepSession(); err != nil && o.Confine { // who asks for weak isolation may have a kernel without
			return err
		}
	}
	if ruleset >= 0 {
		if err := restrict(ruleset); err != nil {
			return err
		}
	}
	if err := unix.CloseRange(orderFD, 1<<31-1, unix.CLOSE_RANGE_CLOEXEC); err != nil {
		return fmt.Errorf("close descriptors: %w", err)
	}
	err = syscall.Exec("/proc/self/fd/"+strconv.Itoa(binary), append([]string{o.Binary}, o.Args...), o.Env)
	return fmt.Errorf("exec %s: %w", o.Binary, err)
}

// giveUp drops limits, groups, user and the way back, in an order in which each still works.
func giveUp(o order) error {
	set := map[int]uint64{unix.RLIMIT_CORE: 0, unix.RLIMIT_NOFILE: o.Limits.Files, unix.RLIMIT_FSIZE: o.Limits.FileBytes}
	if o.Limits.Processes > 0 {
		set[unix.RLIMIT_NPROC] = o.Limits.Processes
	}
	for resource, value := range set {
		var have syscall.Rlimit
		if err := syscall.Getrlimit(resource, &have); err != nil {
			return fmt.Errorf("read limit %d: %w", resource, err)
		}
		value = min(value, have.Max) // lowering is always allowed
		if err := syscall.Setrlimit(resource, &syscall.Rlimit{Cur: value, Max: value}); err != nil {
			return fmt.Errorf("set limit %d: %w", resource, err)
		}
	}
	syscall.Umask(0o077)
	if o.UID > 0 {
		if err := syscall.Setgroups(nil); err != nil {
			return fmt.Errorf("drop groups: %w", err)
		}
		if err := syscall.Setgid(o.UID); err != nil {
			return fmt.Errorf("set group: %w", err)
		}
		if err := syscall.Setuid(o.UID); err != nil {
			return fmt.Errorf("set user: %w", err)
		}
	}
	// A change of user clears the death signal, so it is set after; if the runner died in between it is too late to be told.
	if err := unix.Prctl(unix.PR_SET_PDEATHSIG, uintptr(unix.SIGKILL), 0, 0, 0); err != nil {
		return fmt.Errorf("set death signal: %w", err)
	}
	if os.Getppid() != o.Parent {
		os.Exit(launchFailed)
	}
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("set no_new_privs: %w", err)
	}
	return nil
}
