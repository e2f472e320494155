package event

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"regexp"
	"strings"
	"time"

	"github.com/google/uuid"
)

var (
	typeName    = regexp.MustCompile(`^[a-z][a-z0-9_]*(\.[a-z][a-z0-9_]*)*\.[A-Z][A-Za-z0-9]*$`)
	sourceName  = regexp.MustCompile(`^/pratique/[a-z][a-z0-9_]*$`)
	traceparent = regexp.MustCompile(`^[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}$`)
)

const maxActor = 512

// Encode renders the envelope, at most MaxBytes. The same envelope always gives the same bytes.
func (e Envelope) Encode() ([]byte, error) {
	if err := e.check(); err != nil {
		return nil, err
	}
	var out bytes.Buffer
	enc := json.NewEncoder(&out)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(e); err != nil {
		return nil, fmt.Errorf("encode event: %w", err)
	}
	body := bytes.TrimRight(out.Bytes(), "\n")
	if len(body) > MaxBytes {
		return nil, fmt.Errorf("event %s of %d bytes is larger than %d", e.Type, len(body), MaxBytes)
	}
	return body, nil
}

// Decode reads one envelope from the wire and believes nothing: size, one JSON document, identifiers, names. Attributes this
// version does not know are ignored.
func Decode(body []byte) (Envelope, error) {
	var e Envelope
	if len(body) > MaxBytes {
		return e, fmt.Errorf("event of %d bytes is larger than %d", len(body), MaxBytes)
	}
	dec := json.NewDecoder(bytes.NewReader(body))
	if err := dec.Decode(&e); err != nil {
		return Envelope{}, fmt.Errorf("event is not a CloudEvent: %w", err)
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return Envelope{}, errors.New("event is followed by more data")
	}
	if err := e.check(); err != nil {
		return Envelope{}, err
	}
	return e, nil
}

func (e Envelope) check() error {
	var errs []error
	bad := func(ok bool, what string) {
		if !ok {
			errs = append(errs, errors.New(what))
		}
	}
	bad(e.SpecVersion == specVersion, "specversion is not 1.0")
	id, err := canonical(e.ID)
	bad(err == nil && id.Version() == 7, "id is not a UUIDv7")
	bad(len(e.Type) <= 200 && typeName.MatchString(e.Type), "type is not a message name")
	bad(sourceName.MatchString(e.Source) && e.Source == "/pratique/"+serviceOf(e.Type), "source is not the service of the type")
	_, err = canonical(e.Subject)
	bad(err == nil, "subject is not a UUID")
	bad(!e.Time.IsZero(), "time is missing")
	bad(e.DataContentType == contentType, "datacontenttype is not application/json")
	bad(e.TenantID == "" || isUUID(e.TenantID), "tenantid is not a UUID")
	bad(e.Sequence >= 0 && e.Sequence <= math.MaxInt32, "sequence is out of range")
	bad(e.RequestID == "" || isUUID(e.RequestID), "requestid is not a UUID")
	bad(len(e.Actor) <= maxActor, "actor is too long")
	bad(e.CausationID == "" || isUUID(e.CausationID), "causationid is not a UUID")
	bad(e.Traceparent == "" || traceparent.MatchString(e.Traceparent), "traceparent is not a trace context")
	bad(len(e.Data) > 0 && e.Data[0] == '{' || isWellKnown(e.Type), "data is not an object")
	if len(errs) > 0 {
		return fmt.Errorf("event is not valid: %w", errors.Join(errs...))
	}
	return nil
}

// isWellKnown: some protobuf types render as JSON values that are no objects.
func isWellKnown(typ string) bool { return strings.HasPrefix(typ, "google.protobuf.") }

func isUUID(s string) bool {
	_, err := canonical(s)
	return err == nil
}

// canonical accepts only the lower-case form with hyphens: identifiers become subject tokens and keys.
func canonical(s string) (uuid.UUID, error) {
	if len(s) != 36 || s != strings.ToLower(s) {
		return uuid.Nil, errors.New("not a canonical UUID")
	}
	id, err := uuid.Parse(s)
	if err == nil && id == uuid.Nil {
		err = errors.New("nil UUID")
	}
	return id, err
}

// Born is when the event's id was made, to the millisecond: the clock by which retention is decided.
func (e Envelope) Born() time.Time { return BornAt(parse(e.ID)) }

// BornAt reads the time inside a UUIDv7.
func BornAt(id uuid.UUID) time.Time {
	var ms int64
	for _, b := range id[:6] {
		ms = ms<<8 | int64(b)
	}
	return time.UnixMilli(ms).UTC()
}
