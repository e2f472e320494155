package bus

import (
	"context"
	"errors"

	"github.com/jackc/pgx/v5"

	"github.com/pratique-io/pratique/internal/event"
)

// Subscription is one service's interest in some events. Exactly one of Handle and HandleBatch is set. Both run inside a worker
// transaction that has already claimed the events, write rows (and outbox.Append), and touch nothing else.
type Subscription struct {
	Purpose string   // the durable consumer is named <service>_<purpose>
	Types   []string // proto full names, "pratique.intake.v1.RequestApproved"
	// Handle is called once per event.
	Handle func(ctx context.Context, tx pgx.Tx, e event.Envelope) error
	// HandleBatch is called once per batch of distinct events and returns one outcome per event, in order.
	HandleBatch func(ctx context.Context, tx pgx.Tx, batch []event.Envelope) []error
	// New makes the consumer begin with events published after its creation (the notify service: old news is not sent).
	New bool
}

type kind int

const (
	retry kind = iota
	discard
	early
	poison
)

// Outcome is what a handler answers instead of nil. Any other error means: try again later.
type Outcome struct {
	kind   kind
	reason string
	cause  error
}

func (o *Outcome) Error() string { return o.reason }
func (o *Outcome) Unwrap() error { return o.cause }

// Discard keeps the claim and does nothing else: the event is old, foreign or already implied. reason is a metric label: a
// constant, never data.
func Discard(reason string) error { return &Outcome{kind: discard, reason: reason} }

// Early means that the fact this event builds on has not arrived yet: it is tried again for ten minutes, uncounted.
func Early(reason string) error { return &Outcome{kind: early, reason: reason} }

// Poison means that no number of tries will help: the event goes to the dead letters at once.
func Poison(err error) error { return &Outcome{kind: poison, reason: err.Error(), cause: err} }

// outcomeOf sorts a handler's answer.
func outcomeOf(err error) (kind, string) {
	var o *Outcome
	if errors.As(err, &o) {
		return o.kind, o.reason
	}
	return retry, err.Error()
}
