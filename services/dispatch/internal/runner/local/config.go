package local

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/pratique-io/pratique/internal/egress"
)

// Level is how far a step is kept from the machine.
type Level string

// The levels, weakest first.
const (
	LevelWeak     Level = "weak"     // own session, limits, clean environment; same user, whole file system
	LevelLandlock Level = "landlock" // also: no file outside its directory
	LevelUID      Level = "uid"      // also: a user of its own for each run
)

// Levels lists the levels, weakest first.
func Levels() []Level { return []Level{LevelWeak, LevelLandlock, LevelUID} }

func (l Level) atLeast(other Level) bool {
	return slices.Index(Levels(), l) >= slices.Index(Levels(), other)
}

// Config configures New.
type Config struct {
	Dir          string        // the runner's own directory; with a uid per run, all directories above it must be searchable
	Binary       string        // absolute path of pratique-step
	MinIsolation Level         // less is refused; default landlock
	BaseUID      int           // first of 256 users for runs, when we are root; default 61000
	Memory       int64         // bytes resident per step; default 2 GiB
	FileBytes    int64         // largest file a step may write; default 16 GiB
	StepTimeout  time.Duration // default 30 min
	DatabaseDir  string        // vulnerability data that steps read, if it is on this machine; checked for readiness
	// Egress are the operator's policies for source, quarantine and database; each step is given those it needs.
	Egress map[egress.Purpose]egress.Policy
	// Insecure lists registries ("host:port") that speak http; loopback ones may anyway.
	Insecure []string
	// Realms lists token services of registries outside their own domain, by registry host.
	Realms map[string][]string
	Now    func() time.Time
	// level overrides detection in tests: a stronger machine can act as a weaker one.
	level Level
}

func (c Config) withDefaults() Config {
	if c.MinIsolation == "" {
		c.MinIsolation = LevelLandlock
	}
	if c.BaseUID == 0 {
		c.BaseUID = 61000
	}
	if c.Memory == 0 {
		c.Memory = 2 << 30
	}
	if c.FileBytes == 0 {
		c.FileBytes = 16 << 30
	}
	if c.StepTimeout == 0 {
		c.StepTimeout = 30 * time.Minute
	}
	if c.Now == nil {
		c.Now = func() time.Time { return time.Now().UTC() }
	}
	return c
}

func (c Config) validate() error {
	var problems []error
	if !strings.HasPrefix(c.Dir, "/") {
		problems = append(problems, errors.New("dir must be an absolute path"))
	}
	if !strings.HasPrefix(c.Binary, "/") {
		problems = append(problems, errors.New("binary must be an absolute path"))
	}
	if !slices.Contains(Levels(), c.MinIsolation) {
		problems = append(problems, fmt.Errorf("min_isolation %q is none of weak, landlock, uid", c.MinIsolation))
	}
	if c.BaseUID < 1000 {
		problems = append(problems, errors.New("base_uid must be 1000 or more"))
	}
	if c.Memory < 16<<20 || c.FileBytes < 1<<20 || c.StepTimeout < time.Second {
		problems = append(problems, errors.New("memory, file_bytes or step_timeout is too small to run anything"))
	}
	return errors.Join(problems...)
}

// detect says what this machine and user allow.
func detect() Level {
	switch {
	case os.Geteuid() == 0 && maySetUser():
		return LevelUID
	case landlockVersion() > 0:
		return LevelLandlock
	}
	return LevelWeak
}
