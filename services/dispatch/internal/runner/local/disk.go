package local

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/google/uuid"
	"golang.org/x/sys/unix"

	"github.com/pratique-io/pratique/services/dispatch/internal/runner"
)

// What lies in the runner's directory:
//
//	lock            held by the process that runs here
//	provider        the id of this place, made once
//	runs/<name>/    0711, the runner's: state.json and log.jsonl (0600), and per step while it runs
//	runs/<name>/<step>/  0700, the step's: its home, temporary files, secrets (0400) and results
const (
	lockFile     = "lock"
	providerFile = "provider"
	runsDir      = "runs"
	stateFile    = "state.json"
	logFile      = "log.jsonl"
)

// saved is a run as it is on disk. It is written before each fact becomes true in the world, and an end is synced.
type saved struct {
	Name    string        `json:"name"`
	Status  runner.Status `json:"status"`
	UID     int           `json:"uid"`
	Process process       `json:"process"` // of the step that runs
}

func save(dir string, s saved) error {
	raw, err := json.Marshal(s)
	if err != nil {
		return err
	}
	return replace(filepath.Join(dir, stateFile), raw, s.Status.State.Ended())
}

// replace writes a file as a whole or not at all; sync makes it outlive the machine.
func replace(path string, raw []byte, sync bool) error {
	temp := path + ".new"
	file, err := os.OpenFile(temp, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = file.Write(raw)
	if err == nil && sync {
		err = file.Sync()
	}
	if err = errors.Join(err, file.Close()); err != nil {
		return err
	}
	if err := os.Rename(temp, path); err != nil {
		return err
	}
	if !sync {
		return nil
	}
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	defer dir.Close()
	return dir.Sync()
}

func load(dir string) (saved, error) {
	raw, err := os.ReadFile(filepath.Join(dir, stateFile))
	if err != nil {
		return saved{}, err
	}
	var s saved
	if err := json.Unmarshal(raw, &s); err != nil {
		return saved{}, fmt.Errorf("read %s: %w", dir, err)
	}
	return s, nil
}

// loadLog reads the lines of an earlier process; a torn last line is left out.
func loadLog(dir string) []runner.Line {
	file, err := os.Open(filepath.Join(dir, logFile))
	if err != nil {
		return nil
	}
	defer file.Close()
	var out []runner.Line
	lines := bufio.NewScanner(file)
	lines.Buffer(nil, 64<<10)
	for lines.Scan() {
		var line runner.Line
		if json.Unmarshal(lines.Bytes(), &line) != nil || line.Number != int64(len(out)+1) {
			break
		}
		out = append(out, line)
	}
	return out
}

// lockDir makes the directory and takes it for this process. A predecessor that is just dying is given a moment.
func lockDir(dir string, patience time.Duration) (*os.File, error) {
	if err := os.MkdirAll(filepath.Join(dir, runsDir), 0o711); err != nil {
		return nil, err
	}
	for _, path := range []string{dir, filepath.Join(dir, runsDir)} { // whatever the umask said
		if err := os.Chmod(path, 0o711); err != nil {
			return nil, err
		}
	}
	file, err := os.OpenFile(filepath.Join(dir, lockFile), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	deadline := time.Now().Add(patience)
	for {
		err = unix.Flock(int(file.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			return file, nil
		}
		if !errors.Is(err, unix.EWOULDBLOCK) || time.Now().After(deadline) {
			file.Close()
			return nil, fmt.Errorf("another dispatch process runs in %s: %w", dir, err)
		}
		time.Sleep(50 * time.Millisecond) // a lock file announces nothing
	}
}

// identity is the id of this place; whoever finds another one here knows that it is another place.
func identity(dir string) (uuid.UUID, error) {
	path := filepath.Join(dir, providerFile)
	raw, err := os.ReadFile(path)
	if err == nil {
		return uuid.ParseBytes(raw)
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return uuid.Nil, err
	}
	id, err := uuid.NewV7()
	if err != nil {
		return uuid.Nil, err
	}
	return id, replace(path, []byte(id.String()), true)
}
