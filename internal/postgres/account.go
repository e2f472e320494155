package postgres

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"syscall"
)

// account is the system user a server runs as. PostgreSQL refuses root, so root
// lends it another one.
type account struct {
	name     string
	uid, gid uint32
	switched bool // we are root and this is somebody else
}

// pick chooses the account: ourselves unless root; then whoever owns the cluster
// already, else postgres, else nobody.
func pick(data string) (account, error) {
	if uid := os.Geteuid(); uid != 0 {
		return account{name: strconv.Itoa(uid), uid: uint32(uid), gid: uint32(os.Getegid())}, nil
	}
	if info, err := os.Stat(data); err == nil {
		if st, ok := info.Sys().(*syscall.Stat_t); ok && st.Uid != 0 {
			return account{name: strconv.Itoa(int(st.Uid)), uid: st.Uid, gid: st.Gid, switched: true}, nil
		}
	}
	for _, name := range []string{"postgres", "nobody"} {
		u, err := user.Lookup(name)
		if err != nil {
			continue
		}
		uid, err1 := strconv.ParseUint(u.Uid, 10, 32)
		gid, err2 := strconv.ParseUint(u.Gid, 10, 32)
		if err1 == nil && err2 == nil && uid != 0 {
			return account{name: name, uid: uint32(uid), gid: uint32(gid), switched: true}, nil
		}
	}
	return account{}, errors.New(`PostgreSQL refuses to run as root and there is no user "postgres" or "nobody" to run it as: add one, or run pratique as an ordinary user`)
}

// command prepares a program that runs as the account, with nothing of our
// environment and in no directory of ours.
func (a account) command(program string, args ...string) *exec.Cmd {
	cmd := exec.Command(program, args...)
	cmd.Dir = "/"
	cmd.Env = []string{"PATH=/usr/local/bin:/usr/bin:/bin", "LC_ALL=C.UTF-8", "TZ=UTC"}
	cmd.SysProcAttr = &syscall.SysProcAttr{}
	if a.switched {
		cmd.SysProcAttr.Credential = &syscall.Credential{Uid: a.uid, Gid: a.gid}
	}
	return cmd
}

// own gives a path to the account.
func (a account) own(path string) error {
	if !a.switched {
		return nil
	}
	return os.Chown(path, int(a.uid), int(a.gid))
}

// enter lets the account search our own directory, whatever the umask was; what
// is secret in it has its own mode.
func (a account) enter(dir string) error {
	info, err := os.Stat(dir)
	if err != nil || !a.switched || a.searches(info) {
		return err
	}
	return os.Chmod(dir, info.Mode().Perm()|0o011)
}

// reaches proves that the account may search a directory and all above it.
func (a account) reaches(dir string) error {
	if !a.switched {
		return nil // whoever made the directory below can search it
	}
	dir, err := filepath.EvalSymlinks(dir)
	if err != nil {
		return err
	}
	for {
		info, err := os.Stat(dir)
		if err != nil {
			return err
		}
		if !a.searches(info) {
			return fmt.Errorf("the database runs as user %s (PostgreSQL refuses root), who may not search %s: choose a data directory elsewhere (such as /var/lib/pratique), or run pratique as an ordinary user", a.name, dir)
		}
		parent := filepath.Dir(dir)
		if parent == dir {
			return nil
		}
		dir = parent
	}
}

func (a account) searches(info os.FileInfo) bool {
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return true
	}
	mode := info.Mode().Perm()
	switch {
	case st.Uid == a.uid:
		return mode&0o100 != 0
	case st.Gid == a.gid:
		return mode&0o010 != 0
	}
	return mode&0o001 != 0
}
