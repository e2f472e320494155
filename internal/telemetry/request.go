// Package telemetry owns how a process is observed: JSON logs that name the request and the trace, spans sent over OTLP where
// that is configured, Prometheus metrics, and the liveness and readiness answers. It decides nothing and knows no service.
package telemetry

import (
	"context"

	"github.com/google/uuid"
)

type requestKey struct{}

// WithRequestID keeps the id of the call that everything below happens for.
func WithRequestID(ctx context.Context, id string) context.Context {
	return context.WithValue(ctx, requestKey{}, id)
}

// RequestID is the id of the call; empty outside one.
func RequestID(ctx context.Context) string {
	id, _ := ctx.Value(requestKey{}).(string)
	return id
}

const (
	minRequestID = 8
	maxRequestID = 128
)

// SaneRequestID is the id that a caller sent, if it is 8 to 128 letters, digits and "._:-" (it goes into logs and headers),
// else a new UUIDv7.
func SaneRequestID(sent string) string {
	if len(sent) < minRequestID || len(sent) > maxRequestID {
		return newRequestID()
	}
	for i := range len(sent) {
		c := sent[i]
		letter := c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z'
		digit := c >= '0' && c <= '9'
		if !letter && !digit && c != '.' && c != '_' && c != ':' && c != '-' {
			return newRequestID()
		}
	}
	return sent
}

func newRequestID() string {
	id, err := uuid.NewV7()
	if err != nil {
		return uuid.Nil.String() // the system has no randomness; the call goes on and can be found by its trace
	}
	return id.String()
}
