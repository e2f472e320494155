package conformance

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"
)

// Ready is what a fake step prints when it has come to the place where it behaves as told.
const Ready = "fake step is ready"

// Digest is what a fake step reports as the digest of an artifact of this kind.
func Digest(kind string) string { return fmt.Sprintf("sha256:%x", sha256.Sum256([]byte(kind))) }

// Fake is a step program when it is called like one, and answers false when it is not: a test binary calls it first thing in TestMain.
// The quarantine repository's second path element says how one of the steps behaves: q/<step>.<act>/<request>; for pull, the source
// repository's last one may: app/pull.<act>.
func Fake() bool {
	if len(os.Args) < 2 || !slices.Contains([]string{"version", "pull", "sbom", "vulnerabilities", "report"}, os.Args[1]) {
		return false
	}
	if os.Args[1] == "version" {
		fmt.Println("fake step 1")
		leave(0)
	}
	f := fake{step: os.Args[1], flags: map[string]string{}}
	for i := 2; i+1 < len(os.Args); i += 2 {
		f.flags[os.Args[i]] = os.Args[i+1]
	}
	f.run()
	leave(0)
	return true
}

// leave ends the process at once: the race detector sleeps a second in os.Exit, which would make every step of a test that long.
func leave(code int) {
	_, _, _ = syscall.RawSyscall(syscall.SYS_EXIT_GROUP, uintptr(code), 0, 0)
}

type fake struct {
	step  string
	flags map[string]string
}

func (f fake) run() {
	auth := f.flags["--auth"] + f.flags["--target-auth"]
	say("%s sees source-auth=%t target-auth=%t", f.step, readable(f.flags["--source-auth"]), readable(auth))
	step, act := f.told()
	f.results()
	if step == f.step {
		say("%s", Ready)
		f.act(act)
	}
}

// told reads the behaviour from the repository; pull's may also come from the source's last path element.
func (f fake) told() (step, act string) {
	parts := strings.Split(f.flags["--image"]+f.flags["--target"], "/")
	step, act, _ = strings.Cut(parts[2], ".")
	source, _, _ := strings.Cut(f.flags["--source"], "@")
	if act, ok := strings.CutPrefix(filepath.Base(source), "pull."); ok {
		return "pull", act
	}
	return step, act
}

func (f fake) results() {
	f.write(f.step, Digest(f.step))
	if f.step == "pull" {
		_, digest, _ := strings.Cut(f.flags["--source"], "@")
		f.write("image", digest)
		f.write("source", Digest("source")+"\n")
	}
}

func (f fake) act(act string) {
	var code int
	switch {
	case sscan(act, "exit%d", &code):
		leave(code)
	case sscan(act, "told%d", &code):
		f.write("failure.json", `{"class":"connectivity","code":"connectivity_error","message":"the \u001bregistry\u0000 went away"}`)
		leave(code)
	case sscan(act, "lied%d", &code):
		f.write("failure.json", `{"class":"policy","code":"image_unacceptable","message":"forged"}`)
		leave(code)
	}
	switch act {
	case "hang":
		time.Sleep(time.Hour)
	case "panic":
		panic("the fake step panics")
	case "killed":
		signalSelf(syscall.SIGKILL)
	case "signal":
		signalSelf(syscall.SIGTERM)
	case "allocate":
		allocate()
	case "garbage":
		f.garbage()
	case "flood":
		for i := range 12_000 {
			fmt.Println("line", i)
		}
	case "daemon": // leaves its session and stays behind
		child := exec.Command("/bin/sleep", "1000")
		child.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
		if err := child.Start(); err != nil { // it may not: then as far from us as it gets
			child = exec.Command("/bin/sleep", "1000")
			child.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
			must(child.Start())
		}
		say("daemon %d", child.Process.Pid)
	case "probe":
		Probe(f.flags["--results"])
	default:
		f.forge(act)
	}
}

// forge leaves a result that is none.
func (f fake) forge(act string) {
	path := f.path(f.step)
	if act != "other" {
		must(os.Remove(path))
	}
	switch act {
	case "word":
		f.write(f.step, "latest")
	case "upper":
		f.write(f.step, strings.ToUpper(Digest("x")))
	case "long":
		f.write(f.step, Digest("x")+strings.Repeat(" ", 400))
	case "two":
		f.write(f.step, Digest("x")+"\n"+Digest("y")+"\n")
	case "link":
		must(os.Symlink("/etc/hostname", path))
	case "fifo":
		must(syscall.Mkfifo(path, 0o600))
	case "directory":
		must(os.Mkdir(path, 0o700))
	case "other":
		f.write("image", Digest("another"))
	}
}

func (f fake) garbage() {
	fmt.Println("\x1b[31mred text\x1b[0m \u202e\x00\x07")
	fmt.Println(`{"time":"2001-01-01T00:00:00Z","level":"INFO","msg":"layer copied","digest":"sha256:ab","bytes":12}`)
	fmt.Println(`not json {`)
	fmt.Println(strings.Repeat("long ", 20_000))
	fmt.Println(string(bytes.Repeat([]byte{0xff, 0xfe}, 100)))
	raw, err := os.ReadFile(f.flags["--target-auth"])
	must(err)
	fmt.Println("my password is", string(raw))
	fmt.Println(`{"level":"WARN","msg":"counted 1"}`)
	fmt.Println(`{"level":"DEBUG","msg":"counted 2"}`)
}

// Finding is what a fake step sees of the machine.
type Finding struct {
	UID, Session, Group int
	Env                 []string
	Descriptors         []string
	NoNewPrivs          string
	Dir                 string
	CoreLimit, MaxFiles uint64
	ReadOutside         string // the error of reading Outside, empty when it could
	WriteOutside        string
	SignalRunner        string
	ListEtc             string // of listing /etc, where services keep their keys
	Parent              int
}

// Outside is the file that Probe tries to read, beside its run's directory; a test puts it there.
const Outside = "outside.secret"

// Probe prints a Finding.
func Probe(results string) {
	found := Finding{UID: os.Getuid(), Env: os.Environ(), Parent: os.Getppid()}
	found.Session, _, _ = getsid()
	found.Group = syscall.Getpgrp()
	found.Dir, _ = os.Getwd()
	entries, _ := os.ReadDir("/proc/self/fd")
	for _, entry := range entries {
		target, err := os.Readlink("/proc/self/fd/" + entry.Name())
		own := strings.HasPrefix(target, "anon_inode:") || strings.HasPrefix(target, "/proc/") || strings.HasPrefix(target, "/sys/fs/cgroup")
		if err == nil && !own { // what the Go runtime opened for itself
			found.Descriptors = append(found.Descriptors, entry.Name())
		}
	}
	status, _ := os.ReadFile("/proc/self/status")
	for line := range strings.Lines(string(status)) {
		if rest, ok := strings.CutPrefix(line, "NoNewPrivs:"); ok {
			found.NoNewPrivs = strings.TrimSpace(rest)
		}
	}
	var limit syscall.Rlimit
	_ = syscall.Getrlimit(syscall.RLIMIT_CORE, &limit)
	found.CoreLimit = limit.Max
	_ = syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit)
	found.MaxFiles = limit.Max
	root := filepath.Join(results, "..", "..", "..", "..")
	_, err := os.ReadFile(filepath.Join(root, Outside))
	found.ReadOutside = text(err)
	found.WriteOutside = text(os.WriteFile(filepath.Join(root, "written"), nil, 0o600))
	_, err = os.ReadDir("/etc")
	found.ListEtc = text(err)
	found.SignalRunner = text(syscall.Kill(os.Getppid(), 0))
	raw, err := json.Marshal(found)
	must(err)
	must(os.WriteFile(filepath.Join(results, "finding"), raw, 0o600))
	fmt.Println("finding " + string(raw))
}

func getsid() (int, int, syscall.Errno) {
	sid, _, errno := syscall.RawSyscall(syscall.SYS_GETSID, 0, 0, 0)
	return int(sid), 0, errno
}

func text(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

// signalSelf ends the process by a signal.
func signalSelf(signal syscall.Signal) {
	must(syscall.Kill(os.Getpid(), signal))
	time.Sleep(time.Hour)
}

func allocate() {
	var kept [][]byte
	for {
		block := make([]byte, 8<<20)
		for i := 0; i < len(block); i += 4096 {
			block[i] = 1
		}
		kept = append(kept, block)
		runtime.KeepAlive(kept)
		time.Sleep(2 * time.Millisecond)
	}
}

func (f fake) path(name string) string { return filepath.Join(f.flags["--results"], name) }

func (f fake) write(name, content string) { must(os.WriteFile(f.path(name), []byte(content), 0o600)) }

func readable(path string) bool {
	_, err := os.ReadFile(path)
	return err == nil
}

func say(format string, args ...any) { fmt.Printf(format+"\n", args...) }

func sscan(text, format string, into *int) bool {
	n, err := fmt.Sscanf(text, format, into)
	return n == 1 && err == nil
}

func must(err error) {
	if err != nil {
		panic(err)
	}
}
