package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"
)

// entry is one line of the state file: an event that was printed.
type entry struct {
	ID     string    `json:"id,omitempty"`
	Time   time.Time `json:"time,omitzero"`   // the event's own
	Stored time.Time `json:"stored,omitzero"` // when the broker took it
	Stream int64     `json:"stream,omitempty"`
	// Horizon stands in the first line after ids were forgotten: whatever is as old counts as printed.
	Horizon time.Time `json:"horizon,omitzero"`
}

// state remembers which events were printed. The file only grows by lines, so that a crash costs the last line at most; when it holds twice
// as many ids as asked for, the older half is forgotten and replaced by a horizon.
type state struct {
	path     string
	remember int
	file     *os.File
	entries  []entry
	ids      map[string]struct{}
	horizon  time.Time
	last     time.Time // newest Stored
	stream   int64     // when the stream of the newest entry was created, Unix ns
	pending  []entry
}

func openState(path string, remember int) (*state, error) {
	s := &state{path: path, remember: remember, ids: map[string]struct{}{}}
	raw, err := os.Open(path)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	if err == nil {
		err = s.read(raw)
		if err = errors.Join(err, raw.Close()); err != nil {
			return nil, err
		}
	}
	return s, s.rewrite()
}

func (s *state) read(file *os.File) error {
	lines := bufio.NewScanner(file)
	for lines.Scan() {
		var e entry
		if err := json.Unmarshal(lines.Bytes(), &e); err != nil {
			if lines.Scan() {
				return fmt.Errorf("%s is damaged before its end", s.path)
			}
			break // the line that was being written when the power went
		}
		if !e.Horizon.IsZero() {
			s.horizon = e.Horizon
		}
		s.keep(e)
	}
	return lines.Err()
}

func (s *state) keep(e entry) {
	if e.Stored.After(s.last) {
		s.last, s.stream = e.Stored, e.Stream
	}
	if e.ID != "" {
		s.ids[e.ID] = struct{}{}
		s.entries = append(s.entries, e)
	}
}

// known says that an event was printed before.
func (s *state) known(id string, at time.Time) bool {
	_, found := s.ids[id]
	return found || !at.After(s.horizon)
}

// newest is when the broker took the newest event printed; zero when there was none.
func (s *state) newest() time.Time { return s.last }

func (s *state) add(e entry) {
	s.keep(e)
	s.pending = append(s.pending, e)
}

// save makes what was added durable.
func (s *state) save() error {
	if len(s.pending) == 0 {
		return nil
	}
	if len(s.entries) > 2*s.remember {
		return s.rewrite()
	}
	raw, err := encode(s.pending)
	if err != nil {
		return err
	}
	if _, err := s.file.Write(raw); err != nil {
		return err
	}
	s.pending = nil
	return s.file.Sync()
}

func encode(entries []entry) ([]byte, error) {
	var out []byte
	for _, e := range entries {
		raw, err := json.Marshal(e)
		if err != nil {
			return nil, err
		}
		out = append(append(out, raw...), '\n')
	}
	return out, nil
}

// rewrite replaces the file by one that remembers the newest ids only.
func (s *state) rewrite() error {
	slices.SortStableFunc(s.entries, func(a, b entry) int { return a.Time.Compare(b.Time) })
	if forget := len(s.entries) - s.remember; forget > 0 {
		for _, e := range s.entries[:forget] {
			delete(s.ids, e.ID)
			s.horizon = e.Time
		}
		s.entries = slices.Clone(s.entries[forget:])
	}
	var lines []entry
	if !s.horizon.IsZero() || !s.last.IsZero() {
		lines = append(lines, entry{Horizon: s.horizon, Stored: s.last, Stream: s.stream})
	}
	raw, err := encode(append(lines, s.entries...))
	if err != nil {
		return err
	}
	temporary, err := os.CreateTemp(filepath.Dir(s.path), ".subscriber-*")
	if err != nil {
		return err
	}
	_, err = temporary.Write(raw)
	if err = errors.Join(err, temporary.Sync()); err == nil {
		err = os.Rename(temporary.Name(), s.path)
	}
	if err != nil {
		return errors.Join(err, temporary.Close(), os.Remove(temporary.Name()))
	}
	err = s.close()
	s.file, s.pending = temporary, nil
	return err
}

func (s *state) close() error {
	if s.file == nil {
		return nil
	}
	return s.file.Close()
}
