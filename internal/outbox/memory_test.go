package outbox_test

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/stretchr/testify/assert"

	"github.com/pratique-io/pratique/internal/outbox"
)

type assertT = assert.CollectT

var errRollback = errors.New("roll back")

func ignoreRollback(err error) error {
	if errors.Is(err, errRollback) {
		return nil
	}
	return err
}

// memory is a broker that keeps everything it is given, repetitions included.
type memory struct {
	mu       sync.Mutex
	messages []outbox.Message
}

func (m *memory) StreamOf(string) string { return "MEMORY" }
func (m *memory) Epoch() uint64          { return 0 }

func (m *memory) State(context.Context, string) (outbox.StreamState, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return outbox.StreamState{Created: time.Unix(1, 0), FirstSeq: 1, LastSeq: uint64(len(m.messages))}, nil
}

func (m *memory) EventAt(_ context.Context, _ string, seq uint64) (string, bool, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if seq < 1 || seq > uint64(len(m.messages)) {
		return "", false, nil
	}
	return m.messages[seq-1].ID, true, nil
}

func (m *memory) PublishAll(_ context.Context, _ string, batch []outbox.Message) (uint64, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.messages = append(m.messages, batch...)
	return uint64(len(m.messages)), nil
}

func (m *memory) PublishEach(_ context.Context, _ string, batch []outbox.Message) ([]uint64, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	var sequences []uint64
	for _, msg := range batch {
		m.messages = append(m.messages, msg)
		sequences = append(sequences, uint64(len(m.messages)))
	}
	return sequences, nil
}

func (m *memory) count() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.messages)
}

func (m *memory) ids() []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	var out []string
	for _, msg := range m.messages {
		out = append(out, msg.ID)
	}
	return out
}
