package bus

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nuid"

	"github.com/pratique-io/pratique/internal/outbox"
)

const (
	headerBatch         = "Nats-Batch-Id"
	headerBatchSequence = "Nats-Batch-Sequence"
	headerBatchCommit   = "Nats-Batch-Commit"

	codeBatchDuplicate = 10201
)

// Publisher is the outbox relay's port on the broker. Only the relay publishes.
type Publisher struct{ conn *Conn }

var _ outbox.Publisher = (*Publisher)(nil)

// NewPublisher publishes over conn, whose user may publish the service's own subjects.
func NewPublisher(conn *Conn) *Publisher { return &Publisher{conn: conn} }

// StreamOf names the stream that stores a subject.
func (p *Publisher) StreamOf(subject string) string { return streamOf(subject) }

// Epoch changes with every interruption of the connection.
func (p *Publisher) Epoch() uint64 { return p.conn.Epoch() }

// State asks the broker about a stream.
func (p *Publisher) State(ctx context.Context, stream string) (outbox.StreamState, error) {
	ctx, cancel := p.conn.call(ctx)
	defer cancel()
	s, err := p.conn.js.Stream(ctx, stream)
	if err != nil {
		return outbox.StreamState{}, err
	}
	info := s.CachedInfo()
	return outbox.StreamState{Created: info.Created, FirstSeq: info.State.FirstSeq, LastSeq: info.State.LastSeq}, nil
}

// EventAt is the id of the event at a stream sequence.
func (p *Publisher) EventAt(ctx context.Context, stream string, seq uint64) (string, bool, error) {
	ctx, cancel := p.conn.call(ctx)
	defer cancel()
	s, err := p.conn.js.Stream(ctx, stream)
	if err != nil {
		return "", false, err
	}
	m, err := s.GetMsg(ctx, seq)
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		return "", false, nil
	}
	if err != nil {
		return "", false, err
	}
	return m.Header.Get(jetstream.MsgIDHeader), true, nil
}

// PublishAll is JetStream's atomic batch publish: all but the last message go without waiting, the last one commits and is
// answered once everything is synced. The server drops a batch whose messages do not all arrive.
func (p *Publisher) PublishAll(ctx context.Context, stream string, batch []outbox.Message) (uint64, error) {
	if len(batch) == 0 || len(batch) > outbox.MaxBatch {
		return 0, fmt.Errorf("batch of %d messages", len(batch))
	}
	ctx, cancel := p.conn.call(ctx)
	defer cancel()
	id := nuid.Next()
	for i, m := range batch[:len(batch)-1] {
		if err := p.conn.nc.PublishMsg(batchMessage(m, id, i+1)); err != nil {
			return 0, err
		}
	}
	last := batchMessage(batch[len(batch)-1], id, len(batch))
	last.Header.Set(headerBatchCommit, "1")
	reply, err := p.conn.nc.RequestMsgWithContext(ctx, last)
	if err != nil {
		return 0, err
	}
	var ack struct {
		Error *jetstream.APIError `json:"error"`
		jetstream.PubAck
		Batch string `json:"batch"`
		Count int    `json:"count"`
	}
	if err := json.Unmarshal(reply.Data, &ack); err != nil {
		return 0, fmt.Errorf("acknowledgement of a batch: %w", err)
	}
	switch {
	case ack.Error != nil && ack.Error.ErrorCode == codeBatchDuplicate:
		return 0, fmt.Errorf("%w: %w", outbox.ErrDuplicate, ack.Error)
	case ack.Error != nil:
		return 0, ack.Error
	case ack.Stream != stream || ack.Batch != id || ack.Count != len(batch) || ack.Sequence == 0:
		// A server that knows nothing of batches stores the last message alone and says so without the batch.
		return 0, fmt.Errorf("broker acknowledged %d of %d messages to %q as batch %q", ack.Count, len(batch), ack.Stream, ack.Batch)
	}
	return ack.Sequence, nil
}

func batchMessage(m outbox.Message, id string, sequence int) *nats.Msg {
	msg := message(m)
	msg.Header.Set(headerBatch, id)
	msg.Header.Set(headerBatchSequence, strconv.Itoa(sequence))
	return msg
}

func message(m outbox.Message) *nats.Msg {
	return &nats.Msg{Subject: m.Subject, Data: m.Body, Header: nats.Header{jetstream.MsgIDHeader: []string{m.ID}}}
}

// PublishEach publishes in order, pipelined, and waits for every acknowledgement.
func (p *Publisher) PublishEach(ctx context.Context, stream string, batch []outbox.Message) ([]uint64, error) {
	ctx, cancel := p.conn.call(ctx)
	defer cancel()
	futures := make([]jetstream.PubAckFuture, 0, len(batch))
	for _, m := range batch {
		future, err := p.conn.js.PublishMsgAsync(message(m), jetstream.WithExpectStream(stream), jetstream.WithStallWait(callWait))
		if err != nil {
			return nil, err
		}
		futures = append(futures, future)
	}
	sequences := make([]uint64, 0, len(batch))
	for _, future := range futures {
		select {
		case ack := <-future.Ok():
			sequences = append(sequences, ack.Sequence)
		case err := <-future.Err():
			return nil, err
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
	return sequences, nil
}

func streamOf(subject string) string {
	if strings.HasPrefix(subject, "directory.") {
		return Directory
	}
	return Lifecycle
}
