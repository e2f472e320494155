package outbox

import (
	"context"
	"errors"
	"time"
)

// Message is one row on its way out.
type Message struct {
	ID      string // event id; the broker's duplicate filter works by it
	Subject string
	Body    []byte
}

// StreamState is what a broker says about a stream. A stream made anew has another Created.
type StreamState struct {
	Created  time.Time
	FirstSeq uint64
	LastSeq  uint64
}

// ErrDuplicate: the broker refused a whole batch because it holds one of its messages already.
var ErrDuplicate = errors.New("batch holds a message that the stream has already")

// Publisher is the broker as the relay sees it. internal/bus implements it; tests script it. Each call bounds its own time.
type Publisher interface {
	// StreamOf names the stream that stores a subject.
	StreamOf(subject string) string
	// Epoch changes whenever the connection was interrupted: the broker may have forgotten things since.
	Epoch() uint64
	State(ctx context.Context, stream string) (StreamState, error)
	// EventAt is the id of the event stored at a stream sequence; false when nothing is.
	EventAt(ctx context.Context, stream string, seq uint64) (string, bool, error)
	// PublishAll stores all messages or none, durably, and returns the sequence of the last. At most MaxBatch.
	PublishAll(ctx context.Context, stream string, batch []Message) (uint64, error)
	// PublishEach stores messages one by one, durably; a message the stream has already counts as stored. Sequences in order.
	PublishEach(ctx context.Context, stream string, batch []Message) ([]uint64, error)
}

const (
	// MaxBatch is the broker's limit of messages in one atomic batch.
	MaxBatch = 1000
	// minBatch is where a batch becomes cheaper than single publishes.
	minBatch = 4
	// maxBatchBytes bounds what one turn holds in memory.
	maxBatchBytes = 8 << 20
)
