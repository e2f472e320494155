package postgres

import (
	"bytes"
	"log/slog"
	"strings"
	"sync"
)

const (
	tailLines = 20
	lineBytes = 2000 // longer lines are cut
)

// tail keeps a program's last lines for an error message and passes each on to
// the log.
type tail struct {
	log *slog.Logger

	mu    sync.Mutex
	rest  []byte
	lines []string
}

func newTail(log *slog.Logger) *tail { return &tail{log: log} }

func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.rest = append(t.rest, p...)
	for {
		line, after, ok := bytes.Cut(t.rest, []byte("\n"))
		if !ok {
			return len(p), nil
		}
		t.add(string(line[:min(len(line), lineBytes)]))
		t.rest = append(t.rest[:0], after...)
	}
}

// flush takes an unfinished line for a line.
func (t *tail) flush() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.rest) > 0 {
		t.add(string(t.rest[:min(len(t.rest), lineBytes)]))
		t.rest = nil
	}
}

func (t *tail) add(line string) {
	if len(t.lines) == tailLines {
		t.lines = append(t.lines[:0], t.lines[1:]...)
	}
	t.lines = append(t.lines, line)
	// Our own question whether it answers yet is refused in these words; that is no news.
	early := strings.Contains(line, "the database system is starting up")
	if (strings.Contains(line, "FATAL:") && !early) || strings.Contains(line, "PANIC:") {
		t.log.Warn("postgres log", "line", line)
		return
	}
	t.log.Debug("postgres log", "line", line)
}

// String is the last lines, one below the other.
func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return strings.Join(t.lines, "\n")
}

func (t *tail) contains(text string) bool { return strings.Contains(t.String(), text) }
