package local

import (
	"bufio"
	"encoding/json"
	"io"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/pratique-io/pratique/services/dispatch/internal/runner"
)

// maxRaw is how much of one raw line is looked at, in bytes; the rest up to the line's end is skipped.
const maxRaw = 32 << 10

// journal is the bounded log of one run, in memory and on disk.
type journal struct {
	now     func() time.Time
	secrets *strings.Replacer

	mu     sync.Mutex
	lines  []runner.Line
	budget runner.Budget
	file   *os.File
}

func openJournal(path string, now func() time.Time, secrets []string) (*journal, error) {
	file, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	var pairs []string
	for _, secret := range secrets {
		if len(secret) >= 4 { // anything shorter would blank half of every line
			pairs = append(pairs, secret, "REDACTED")
		}
	}
	return &journal{now: now, secrets: strings.NewReplacer(pairs...), file: file}, nil
}

// journalOf is the journal of a run that is over.
func journalOf(lines []runner.Line) *journal { return &journal{lines: lines} }

// listen reads what a step prints until there is no more. It never stops reading early: a full pipe would stop the step.
func (j *journal) listen(step, fallback string, from io.Reader) {
	in := bufio.NewReaderSize(from, maxRaw)
	for {
		raw, err := in.ReadSlice('\n')
		if len(raw) > 0 {
			text := strings.TrimRight(string(raw), "\r\n")
			if text != "" {
				level, message := runner.ParseLine(text, fallback)
				j.add(step, level, message)
			}
		}
		for err == bufio.ErrBufferFull { // the rest of a line that is too long
			_, err = in.ReadSlice('\n')
		}
		if err != nil {
			return
		}
	}
}

func (j *journal) add(step, level, message string) {
	j.mu.Lock()
	defer j.mu.Unlock()
	message = j.secrets.Replace(message)
	admitted, last := j.budget.Take(message)
	switch {
	case last:
		step, level, message = "", "warn", runner.TruncationMessage
	case !admitted:
		return
	}
	line := runner.Line{Number: int64(len(j.lines) + 1), At: j.now(), Level: level, Step: step, Message: message}
	j.lines = append(j.lines, line)
	if raw, err := json.Marshal(line); err == nil && j.file != nil {
		_, _ = j.file.Write(append(raw, '\n')) // a full disk costs lines after a crash, not the run
	}
}

func (j *journal) after(number int64, limit int) []runner.Line {
	j.mu.Lock()
	defer j.mu.Unlock()
	if number < 0 || number >= int64(len(j.lines)) {
		return nil
	}
	rest := j.lines[number:]
	return append([]runner.Line(nil), rest[:min(limit, len(rest))]...)
}

func (j *journal) close() {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.file != nil {
		_ = j.file.Close()
		j.file = nil
	}
}
