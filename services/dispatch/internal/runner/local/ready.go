package local

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/pratique-io/pratique/services/dispatch/internal/domain"
	"github.com/pratique-io/pratique/services/dispatch/internal/runner"
)

// Names of the runner's own checks, as the contract has them.
const (
	checkAuth      = "runtime_auth"
	checkPipeline  = "pipeline_installed"
	checkIsolation = "isolation_level"
)

// Readiness checks that runs can be kept apart, that their place is reachable for them, and that the step program is there and answers.
func (r *Local) Readiness(ctx context.Context) []domain.Check {
	isolation := domain.Check{Name: checkIsolation, OK: r.level.atLeast(r.cfg.MinIsolation), Message: "isolation is " + string(r.level)}
	if !isolation.OK {
		isolation.Message += fmt.Sprintf(", %s is required", r.cfg.MinIsolation)
	}
	return []domain.Check{r.checkPlace(), r.checkBinary(ctx), isolation}
}

// checkPlace proves that the directory can be written and, with a user per run, reached by that user.
func (r *Local) checkPlace() domain.Check {
	check := domain.Check{Name: checkAuth}
	probe := filepath.Join(r.cfg.Dir, "probe")
	if err := os.WriteFile(probe, nil, 0o600); err != nil {
		check.Message = "the runner's directory cannot be written"
		return check
	}
	_ = os.Remove(probe)
	if r.level == LevelUID {
		for _, place := range []string{r.cfg.Dir, r.cfg.DatabaseDir} {
			if blocked := unsearchable(place); blocked != "" {
				check.Message = blocked + " is not searchable by the users of runs; chmod o+x, or put " + place + " elsewhere"
				return check
			}
		}
	}
	check.OK, check.Message = true, "runs can be placed in "+r.cfg.Dir
	return check
}

// unsearchable is the first directory on the way up that others may not pass; empty when there is none.
func unsearchable(dir string) string {
	for ; dir != "" && dir != "/"; dir = filepath.Dir(dir) {
		info, err := os.Stat(dir)
		if err != nil || info.Mode()&0o001 == 0 {
			return dir
		}
	}
	return ""
}

// checkBinary asks the step program for its version.
func (r *Local) checkBinary(ctx context.Context) domain.Check {
	check := domain.Check{Name: checkPipeline}
	info, err := os.Stat(r.cfg.Binary)
	if err != nil || !info.Mode().IsRegular() || info.Mode()&0o111 == 0 {
		check.Message = "there is no program " + r.cfg.Binary
		return check
	}
	if r.level == LevelUID && info.Mode()&0o001 == 0 {
		check.Message = r.cfg.Binary + " is not executable by the users of runs"
		return check
	}
	cmd := exec.CommandContext(ctx, r.cfg.Binary, "version")
	cmd.Env = []string{"PATH=/usr/bin:/bin"}
	cmd.Dir = "/"
	out, err := cmd.Output()
	if err != nil {
		check.Message = r.cfg.Binary + " does not answer"
		return check
	}
	first, _, _ := strings.Cut(strings.TrimSpace(string(out)), "\n")
	check.OK, check.Message = true, runner.Clean(first, 200)
	return check
}

// maySetUser says whether this process has the capabilities to change users and to signal them.
func maySetUser() bool {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&header, &data[0]); err != nil {
		return false
	}
	for _, need := range []int{unix.CAP_SETUID, unix.CAP_SETGID, unix.CAP_KILL, unix.CAP_CHOWN, unix.CAP_DAC_OVERRIDE} {
		if data[need/32].Effective&(1<<(need%32)) == 0 {
			return false
		}
	}
	return mapped(61000)
}

// mapped says whether a user exists in this user namespace: in a rootless container most do not.
func mapped(uid int) bool {
	raw, err := os.ReadFile("/proc/self/uid_map")
	if err != nil {
		return false
	}
	for line := range strings.Lines(string(raw)) {
		fields := strings.Fields(line)
		if len(fields) != 3 {
			continue
		}
		first, err1 := strconv.Atoi(fields[0])
		count, err2 := strconv.Atoi(fields[2])
		if err1 == nil && err2 == nil && uid >= first && uid-first < count {
			return true
		}
	}
	return false
}
