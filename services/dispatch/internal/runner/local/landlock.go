package local

import (
	"errors"
	"fmt"
	"path/filepath"
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	canRead  = unix.LANDLOCK_ACCESS_FS_READ_FILE | unix.LANDLOCK_ACCESS_FS_READ_DIR
	canExec  = unix.LANDLOCK_ACCESS_FS_EXECUTE
	fileOnly = unix.LANDLOCK_ACCESS_FS_EXECUTE | unix.LANDLOCK_ACCESS_FS_WRITE_FILE | unix.LANDLOCK_ACCESS_FS_READ_FILE |
		unix.LANDLOCK_ACCESS_FS_TRUNCATE
	canWrite = canRead | unix.LANDLOCK_ACCESS_FS_WRITE_FILE | unix.LANDLOCK_ACCESS_FS_REMOVE_DIR | unix.LANDLOCK_ACCESS_FS_REMOVE_FILE |
		unix.LANDLOCK_ACCESS_FS_MAKE_DIR | unix.LANDLOCK_ACCESS_FS_MAKE_REG | unix.LANDLOCK_ACCESS_FS_MAKE_SYM |
		unix.LANDLOCK_ACCESS_FS_MAKE_FIFO | unix.LANDLOCK_ACCESS_FS_MAKE_SOCK | unix.LANDLOCK_ACCESS_FS_REFER |
		unix.LANDLOCK_ACCESS_FS_TRUNCATE
	// handled by the first version; later ones add to it
	firstAccess = 1<<13 - 1
)

// systemPaths are what programs need of the machine: libraries, certificates, the resolver's files. Missing ones are left out. Of /etc only
// what is named: a service's own configuration and keys often lie there, and the step may have the service's user.
var systemPaths = []string{"/usr", "/lib", "/lib64", "/bin", "/etc/ld.so.cache", "/etc/ld.so.conf", "/etc/ld.so.conf.d", "/etc/alternatives",
	"/etc/ssl/certs", "/etc/ssl/cert.pem", "/etc/ssl/ca-bundle.pem", "/etc/ssl/openssl.cnf", "/etc/pki/tls/certs", "/etc/pki/tls/cert.pem",
	"/etc/pki/tls/cacert.pem", "/etc/pki/ca-trust/extracted", "/etc/ca-certificates", "/etc/nsswitch.conf", "/etc/host.conf", "/etc/gai.conf",
	"/etc/services", "/etc/protocols", "/etc/passwd", "/etc/group", "/etc/mime.types", "/etc/timezone", "/proc/self", "/proc/cpuinfo", "/proc/meminfo", "/dev/null", "/dev/zero",
	"/dev/urandom", "/dev/random", "/sys/devices/system/cpu", "/sys/fs/cgroup", "/sys/kernel/mm"}

// The resolver's files are often links to elsewhere.
var linkedPaths = []string{"/etc/resolv.conf", "/etc/hosts", "/etc/localtime"}

// landlockVersion is the version the kernel offers, 0 for none.
func landlockVersion() int {
	version, _, errno := unix.Syscall(unix.SYS_LANDLOCK_CREATE_RULESET, 0, 0, unix.LANDLOCK_CREATE_RULESET_VERSION)
	if errno != 0 {
		return 0
	}
	return int(version)
}

// confinement makes the ruleset of an order: the step sees the system read-only, its own directory, and nothing else of the file system;
// where the kernel can, it also cannot signal or talk over abstract sockets to anything outside.
func confinement(binary int, o order) (int, error) {
	version := landlockVersion()
	if version == 0 {
		return -1, errors.New("the kernel offers no landlock")
	}
	attr := unix.LandlockRulesetAttr{Handled_access_fs: firstAccess}
	if version >= 2 {
		attr.Handled_access_fs |= unix.LANDLOCK_ACCESS_FS_REFER
	}
	if version >= 3 {
		attr.Handled_access_fs |= unix.LANDLOCK_ACCESS_FS_TRUNCATE
	}
	if version >= 5 {
		attr.Handled_access_fs |= unix.LANDLOCK_ACCESS_FS_IOCTL_DEV
	}
	if version >= 6 {
		attr.Scoped = unix.LANDLOCK_SCOPE_SIGNAL | unix.LANDLOCK_SCOPE_ABSTRACT_UNIX_SOCKET
	}
	fd, _, errno := unix.Syscall(unix.SYS_LANDLOCK_CREATE_RULESET, uintptr(unsafe.Pointer(&attr)), unsafe.Sizeof(attr), 0)
	if errno != 0 {
		return -1, fmt.Errorf("make landlock ruleset: %w", errno)
	}
	ruleset := int(fd)
	if err := allow(ruleset, binary, canExec|canRead, attr.Handled_access_fs); err != nil {
		return -1, err
	}
	grants := map[string]uint64{}
	for _, path := range systemPaths {
		grants[path] = canRead | canExec
	}
	for _, path := range linkedPaths {
		if target, err := filepath.EvalSymlinks(path); err == nil {
			grants[target] = canRead
		}
	}
	grants["/dev/null"] = canRead | unix.LANDLOCK_ACCESS_FS_WRITE_FILE
	for _, path := range o.Read {
		grants[path] = canRead
	}
	for _, path := range o.Write {
		grants[path] = canWrite
	}
	for path, access := range grants {
		if err := allowPath(ruleset, path, access, attr.Handled_access_fs); err != nil {
			return -1, err
		}
	}
	return ruleset, nil
}

func allowPath(ruleset int, path string, access, handled uint64) error {
	fd, err := unix.Open(path, unix.O_PATH|unix.O_CLOEXEC, 0)
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("open %s: %w", path, err)
	}
	defer unix.Close(fd)
	return allow(ruleset, fd, access, handled)
}

func allow(ruleset, fd int, access, handled uint64) error {
	var info unix.Stat_t
	if err := unix.Fstat(fd, &info); err != nil {
		return fmt.Errorf("look at a path: %w", err)
	}
	if info.Mode&unix.S_IFMT != unix.S_IFDIR {
		access &= fileOnly
	}
	attr := unix.LandlockPathBeneathAttr{Allowed_access: access & handled, Parent_fd: int32(fd)}
	_, _, errno := unix.Syscall6(unix.SYS_LANDLOCK_ADD_RULE, uintptr(ruleset), unix.LANDLOCK_RULE_PATH_BENEATH,
		uintptr(unsafe.Pointer(&attr)), 0, 0, 0)
	if errno != 0 {
		return fmt.Errorf("add landlock rule: %w", errno)
	}
	return nil
}

// restrict binds this thread and what it becomes. no_new_privs must be set.
func restrict(ruleset int) error {
	if _, _, errno := unix.Syscall(unix.SYS_LANDLOCK_RESTRICT_SELF, uintptr(ruleset), 0, 0); errno != 0 {
		return fmt.Errorf("take on landlock: %w", errno)
	}
	return nil
}
