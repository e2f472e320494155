package local

import (
	"fmt"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// auditArch is how the kernel calls the architecture in a seccomp filter; steps of another architecture's calls are refused.
var auditArch = map[string]uint32{"amd64": unix.AUDIT_ARCH_X86_64, "arm64": unix.AUDIT_ARCH_AARCH64}

// x32 marks the calls of amd64's second numbering.
const x32 = 0x40000000

// keepSession forbids this thread, and all that comes of it, to begin a session of its own. Where runs share the runner's user, the session is
// all that tells a step's processes from others: what leaves it would outlive the step with its credentials. no_new_privs must be set.
func keepSession() error {
	arch, known := auditArch[runtime.GOARCH]
	if !known {
		return nil
	}
	const (
		load   = unix.BPF_LD | unix.BPF_W | unix.BPF_ABS
		equal  = unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K
		least  = unix.BPF_JMP | unix.BPF_JGE | unix.BPF_K
		answer = unix.BPF_RET | unix.BPF_K
	)
	filter := []unix.SockFilter{
		{Code: load, K: 4}, // seccomp_data.arch
		{Code: equal, K: arch, Jf: 3},
		{Code: load, K: 0}, // seccomp_data.nr
		{Code: least, K: x32, Jt: 1},
		{Code: equal, K: unix.SYS_SETSID, Jf: 1},
		{Code: answer, K: unix.SECCOMP_RET_ERRNO | uint32(unix.EPERM)},
		{Code: answer, K: unix.SECCOMP_RET_ALLOW},
	}
	program := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	_, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, 0, uintptr(unsafe.Pointer(&program)))
	runtime.KeepAlive(filter)
	if errno != 0 {
		return fmt.Errorf("keep the session: %w", errno)
	}
	return nil
}
