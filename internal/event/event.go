// Package event owns the envelope every fact travels in: CloudEvents 1.0, structured JSON, with the schema of its data in proto.
// It exists so that producers, consumers and outside subscribers agree on one byte-stable form, and so that nothing that came
// over the wire is used before its size, identifiers and names were checked.
package event

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/google/uuid"
	"go.opentelemetry.io/otel/propagation"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
)

const (
	// MaxBytes bounds one encoded envelope, well below the broker's own limit.
	MaxBytes = 1 << 20
	// NoTenant is the subject token of events that belong to no tenant.
	NoTenant = "_"

	specVersion = "1.0"
	contentType = "application/json"
)

// Envelope is one event. The order of the fields is the order of the JSON, and golden files hold it.
type Envelope struct {
	SpecVersion     string          `json:"specversion"`
	ID              string          `json:"id"`     // UUIDv7
	Type            string          `json:"type"`   // full name of the event message
	Source          string          `json:"source"` // "/pratique/<service>"
	Subject         string          `json:"subject"`
	Time            time.Time       `json:"time"`
	DataContentType string          `json:"datacontenttype"`
	TenantID        string          `json:"tenantid,omitempty"`
	Sequence        int64           `json:"sequence"` // version of the aggregate; at most 2^31-1, the CloudEvents integer
	RequestID       string          `json:"requestid,omitempty"`
	Actor           string          `json:"actor,omitempty"`
	CausationID     string          `json:"causationid,omitempty"`
	Traceparent     string          `json:"traceparent,omitempty"`
	Data            json.RawMessage `json:"data"`
}

// Head is what the message itself does not say.
type Head struct {
	Subject  uuid.UUID // aggregate id
	Tenant   uuid.UUID // Nil: the event belongs to no tenant
	Sequence int64     // version of the aggregate after the change
	Request  uuid.UUID // Nil: the event concerns no request
	Actor    string    // "user:<subject>" or "service:<name>"
}

type causeKey struct{}

// WithCause marks ctx as handling e: events made with it name e as their cause. The bus does so for every handler; a batch
// handler does it per event.
func WithCause(ctx context.Context, e Envelope) context.Context {
	return context.WithValue(ctx, causeKey{}, e.ID)
}

// New makes the envelope of msg, an event message of gen/...: its full name is the type, its package names the service.
// The trace and the cause come from ctx.
func New(ctx context.Context, msg proto.Message, h Head) (Envelope, error) {
	id, err := uuid.NewV7()
	if err != nil {
		return Envelope{}, fmt.Errorf("event id: %w", err)
	}
	data, err := encode(msg)
	if err != nil {
		return Envelope{}, err
	}
	name := string(msg.ProtoReflect().Descriptor().FullName())
	e := Envelope{
		SpecVersion: specVersion, ID: id.String(), Type: name, Source: "/pratique/" + serviceOf(name),
		Subject: h.Subject.String(), Time: time.Now().UTC().Truncate(time.Microsecond), DataContentType: contentType,
		TenantID: optional(h.Tenant), Sequence: h.Sequence, RequestID: optional(h.Request), Actor: h.Actor, Data: data,
	}
	e.CausationID, _ = ctx.Value(causeKey{}).(string)
	carrier := propagation.MapCarrier{}
	propagation.TraceContext{}.Inject(ctx, carrier)
	e.Traceparent = carrier.Get("traceparent")
	if err := e.check(); err != nil {
		return Envelope{}, fmt.Errorf("event %s: %w", name, err)
	}
	return e, nil
}

// encode renders msg as protojson with proto names. protojson varies its white space on purpose; compacting makes it stable.
func encode(msg proto.Message) (json.RawMessage, error) {
	raw, err := protojson.MarshalOptions{UseProtoNames: true}.Marshal(msg)
	if err != nil {
		return nil, fmt.Errorf("encode event data: %w", err)
	}
	var out bytes.Buffer
	if err := json.Compact(&out, raw); err != nil {
		return nil, fmt.Errorf("encode event data: %w", err)
	}
	return out.Bytes(), nil
}

// Decode reads the data into msg, which must be of the event's type. Fields a newer writer added are ignored.
func (e Envelope) Decode(msg proto.Message) error {
	if name := string(msg.ProtoReflect().Descriptor().FullName()); name != e.Type {
		return fmt.Errorf("event %s is not a %s", e.Type, name)
	}
	if err := (protojson.UnmarshalOptions{DiscardUnknown: true}).Unmarshal(e.Data, msg); err != nil {
		return fmt.Errorf("decode %s: %w", e.Type, err)
	}
	return nil
}

// Tenant is Nil for an event of no tenant.
func (e Envelope) Tenant() uuid.UUID { return parse(e.TenantID) }

// Aggregate is the id of what changed.
func (e Envelope) Aggregate() uuid.UUID { return parse(e.Subject) }

// Request is Nil when the event concerns no request.
func (e Envelope) Request() uuid.UUID { return parse(e.RequestID) }

// Service is the producer's short name.
func (e Envelope) Service() string { return serviceOf(e.Type) }

func parse(s string) uuid.UUID {
	id, err := uuid.Parse(s)
	if err != nil {
		return uuid.Nil
	}
	return id
}

func optional(id uuid.UUID) string {
	if id == uuid.Nil {
		return ""
	}
	return id.String()
}

// serviceOf takes "intake" from "pratique.intake.v1.RequestSubmitted", and of any other name the token before the message.
func serviceOf(name string) string {
	parts := strings.Split(name, ".")
	if len(parts) == 4 && parts[0] == "pratique" {
		return parts[1]
	}
	if len(parts) > 1 {
		return parts[len(parts)-2]
	}
	return name
}
