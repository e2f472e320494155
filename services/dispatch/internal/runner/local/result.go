package local

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/pratique-io/pratique/services/dispatch/internal/domain"
	"github.com/pratique-io/pratique/services/dispatch/internal/runner"
)

const (
	maxResult  = 200      // bytes of a result file
	maxFailure = 16 << 10 // bytes of failure.json
	maxMessage = 2 << 10  // bytes of a failure's text
)

var digestPattern = regexp.MustCompile(`^sha256:[0-9a-f]{64}$`)

// readResult reads one digest that a step left. The file is the step's, so nothing about it is believed: not its name (a link leads
// nowhere outside), not its kind, not its size.
func readResult(dir, name string) (string, error) {
	raw, err := readStrange(dir, name, maxResult)
	if err != nil {
		return "", err
	}
	if n := len(raw); n > 0 && raw[n-1] == '\n' {
		raw = raw[:n-1]
	}
	if !digestPattern.Match(raw) {
		return "", errors.New("is not a digest")
	}
	return string(raw), nil
}

// readStrange reads a file from the results directory of a step that is over.
func readStrange(dir, name string, limit int64) ([]byte, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, errors.New("cannot be read")
	}
	defer root.Close()
	file, err := root.OpenFile(filepath.Join(resultsDir, name), os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if errors.Is(err, os.ErrNotExist) {
		return nil, errors.New("is missing")
	}
	if err != nil {
		return nil, errors.New("cannot be read")
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil || !info.Mode().IsRegular() {
		return nil, errors.New("is not a file")
	}
	raw, err := io.ReadAll(io.LimitReader(file, limit+1))
	if err != nil {
		return nil, errors.New("cannot be read")
	}
	if int64(len(raw)) > limit {
		return nil, fmt.Errorf("is longer than %d bytes", limit)
	}
	return raw, nil
}

// ending is how a step ended by itself, or under our memory limit.
type ending struct {
	key    string
	state  *os.ProcessState
	memory int64
	fat    bool
}

// exitCodes are the failures that a step can name; every other code is runtime_failed.
var exitCodes = map[int]string{
	10: domain.CodeUnacceptable,
	11: domain.CodeRateLimited,
	12: domain.CodeConnectivity,
	13: domain.CodeAuth,
	14: domain.CodeScanner,
}

// failure is nil when the step ended well. The exit code decides; failure.json adds a text when it agrees, and may say policy_blocked
// (our own egress rules refused) where the exit code says nothing. A step that was talked into lying can choose among the codes of a
// step, and nothing else.
func (e ending) failure(dir string) error {
	if e.fat {
		return domain.Fails(domain.CodeMemory, fmt.Sprintf("step %s used more than %d MiB", e.key, e.memory>>20))
	}
	status, ok := e.state.Sys().(syscall.WaitStatus)
	switch {
	case e.state.Success():
		return nil
	case ok && status.Signaled() && status.Signal() == syscall.SIGKILL:
		return domain.Fails(domain.CodeMemory, fmt.Sprintf("step %s was killed, as the machine does when memory runs out", e.key))
	case ok && status.Signaled():
		return domain.Fails(domain.CodeRuntime, fmt.Sprintf("step %s was ended by signal %d", e.key, status.Signal()))
	}
	exit := e.state.ExitCode()
	code, known := exitCodes[exit]
	if !known {
		code = domain.CodeRuntime
	}
	if told := said(dir); told != nil && (told.Code == code || (code == domain.CodeRuntime && told.Code == domain.CodeBlocked)) {
		return domain.Fails(told.Code, runner.Clean(told.Message, maxMessage))
	}
	return domain.Fails(code, fmt.Sprintf("step %s ended with code %d", e.key, exit))
}

// said is failure.json when it is well-formed; nil when not. Its class is ours to say.
func said(dir string) *domain.Failure {
	raw, err := readStrange(dir, "failure.json", maxFailure)
	if err != nil {
		return nil
	}
	var told domain.Failure
	if json.Unmarshal(raw, &told) != nil || told.Message == "" || told.Class != domain.ClassOf(told.Code) {
		return nil
	}
	return &told
}
