package postgres

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
)

const (
	socketPort  = "5432"          // only part of the socket's file name
	socketFile  = ".s.PGSQL.5432" // made by the server in the socket directory
	socketBytes = 103             // sun_path on the strictest system, without its NUL
)

// socketDir makes the private directory of the socket. Its name is derived from
// the data directory: short wherever that is, and the same after a restart.
func (c *cluster) socketDir() (string, error) {
	sum := sha256.Sum256([]byte(c.data()))
	name := "pratique-pg-" + hex.EncodeToString(sum[:6])
	var problems []error
	for _, parent := range []string{os.TempDir(), "/tmp", "/var/tmp"} {
		dir := filepath.Join(parent, name)
		if len(filepath.Join(dir, socketFile)) > socketBytes {
			problems = append(problems, fmt.Errorf("%s: path too long for a socket", dir))
			continue
		}
		if err := c.claim(parent, dir); err != nil {
			problems = append(problems, err)
			continue
		}
		return dir, nil
	}
	return "", fmt.Errorf("no place for the database's socket: %w", errors.Join(problems...))
}

// claim makes dir, or takes it over if it is ours. The parent is open to all, so
// what lies there may be a trap.
func (c *cluster) claim(parent, dir string) error {
	if err := c.account.reaches(parent); err != nil {
		return err
	}
	err := os.Mkdir(dir, 0o700)
	if err == nil {
		return c.account.own(dir)
	}
	if !errors.Is(err, os.ErrExist) {
		return err
	}
	info, err := os.Lstat(dir)
	if err != nil {
		return err
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok || !info.IsDir() || info.Mode().Perm() != 0o700 {
		return fmt.Errorf("%s exists and is not a private directory", dir)
	}
	if st.Uid != c.account.uid {
		if int(st.Uid) != os.Geteuid() {
			return fmt.Errorf("%s belongs to another user (uid %d)", dir, st.Uid)
		}
		return c.account.own(dir) // we were killed between making it and giving it away
	}
	return nil
}
