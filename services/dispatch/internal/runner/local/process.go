package local

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// process names one process for ever: the kernel gives a pid again, but not with the same start in the same boot.
type process struct {
	PID   int    `json:"pid"`
	Start uint64 `json:"start"` // clock ticks since boot
	Boot  string `json:"boot"`
}

// identify reads who a pid is now.
func identify(pid int) (process, error) {
	stat, err := readStat(pid)
	if err != nil {
		return process{}, err
	}
	return process{PID: pid, Start: stat.start, Boot: bootID()}, nil
}

// alive says whether exactly this process still exists, be it as a zombie.
func (p process) alive() bool {
	if p.PID == 0 || p.Boot != bootID() {
		return false
	}
	stat, err := readStat(p.PID)
	return err == nil && stat.start == p.Start
}

func bootID() string {
	raw, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(raw))
}

type stat struct {
	state   byte
	parent  int
	session int
	start   uint64
}

// readStat reads /proc/<pid>/stat. The name in it may hold anything, so fields count from its last parenthesis.
func readStat(pid int) (stat, error) {
	raw, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return stat{}, err
	}
	fields := strings.Fields(string(raw[bytes.LastIndexByte(raw, ')')+1:]))
	if len(fields) < 20 {
		return stat{}, fmt.Errorf("process %d: unreadable stat", pid)
	}
	out := stat{state: fields[0][0]}
	out.parent, _ = strconv.Atoi(fields[1])
	out.session, _ = strconv.Atoi(fields[3])
	out.start, err = strconv.ParseUint(fields[19], 10, 64)
	return out, err
}

// resident is the memory of a process and its descendants, in bytes. Pages that several of them share count several times, which errs
// on the side of the machine.
func resident(pid int) int64 {
	var total int64
	todo := []int{pid}
	for range 4096 { // a bound, should somebody fork faster than we read
		if len(todo) == 0 {
			break
		}
		next := todo[0]
		todo = append(todo[1:], children(next)...)
		raw, err := os.ReadFile("/proc/" + strconv.Itoa(next) + "/statm")
		if err != nil {
			continue
		}
		if fields := bytes.Fields(raw); len(fields) > 1 {
			pages, _ := strconv.ParseInt(string(fields[1]), 10, 64)
			total += pages * int64(os.Getpagesize())
		}
	}
	return total
}

func children(pid int) []int {
	base := "/proc/" + strconv.Itoa(pid) + "/task"
	threads, err := os.ReadDir(base)
	if err != nil {
		return nil
	}
	var out []int
	for _, thread := range threads {
		raw, err := os.ReadFile(base + "/" + thread.Name() + "/children")
		if err != nil {
			continue
		}
		for _, field := range bytes.Fields(raw) {
			if child, err := strconv.Atoi(string(field)); err == nil {
				out = append(out, child)
			}
		}
	}
	return out
}

// sweep kills every process that belongs to (uid, when the uid is a slot's own) or lives in (session), and waits until none is left.
// Killing a group is not enough: a process can leave its group, but not its user.
func sweep(uid, session int, within time.Duration) error {
	deadline := time.Now().Add(within)
	for {
		left := members(uid, session)
		if len(left) == 0 {
			return nil
		}
		for _, pid := range left {
			_ = unix.Kill(pid, unix.SIGKILL) // it may be gone already
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("%d processes of uid %d, session %d do not die", len(left), uid, session)
		}
		time.Sleep(2 * time.Millisecond) // a killed process needs a moment; nothing announces the death of a stranger's child
	}
}

// members lists living processes of the uid or the session; zero means: of none.
func members(uid, session int) []int {
	dir, err := os.Open("/proc")
	if err != nil {
		return nil
	}
	defer dir.Close()
	names, err := dir.Readdirnames(-1)
	if err != nil {
		return nil
	}
	var out []int
	for _, name := range names {
		pid, err := strconv.Atoi(name)
		if err != nil || pid == os.Getpid() {
			continue
		}
		stat, err := readStat(pid)
		if err != nil || stat.state == 'Z' || stat.state == 'X' {
			continue
		}
		if (session > 0 && stat.session == session) || (uid > 0 && ownedBy(pid, uid)) {
			out = append(out, pid)
		}
	}
	return out
}

// ownedBy looks at all four user ids of a process.
func ownedBy(pid, uid int) bool {
	file, err := os.Open("/proc/" + strconv.Itoa(pid) + "/status")
	if err != nil {
		return false
	}
	defer file.Close()
	want := strconv.Itoa(uid)
	lines := bufio.NewScanner(file)
	for lines.Scan() {
		rest, ok := strings.CutPrefix(lines.Text(), "Uid:")
		if !ok {
			continue
		}
		for _, id := range strings.Fields(rest) {
			if id == want {
				return true
			}
		}
		return false
	}
	return false
}

// killGroup kills a process group whose leader has not been reaped yet.
func killGroup(pid int) {
	if err := unix.Kill(-pid, unix.SIGKILL); err != nil && !errors.Is(err, unix.ESRCH) {
		_ = unix.Kill(pid, unix.SIGKILL)
	}
}
