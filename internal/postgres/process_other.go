//go:build unix && !linux

package postgres

import "syscall"

// dieWithParent does nothing: only Linux can. The next start stops the orphan.
func dieWithParent(*syscall.SysProcAttr, syscall.Signal) {}

// occupants is the postmaster of the pid file if such a process lives.
func occupants(data string) ([]int, error) {
	pid := postmaster(data)
	if pid == 0 || syscall.Kill(pid, 0) != nil {
		return nil, nil
	}
	return []int{pid}, nil
}
