package fault

import (
	"encoding"
	"encoding/json"
	"fmt"
	"math"
	"reflect"
	"strconv"
	"strings"
	"time"
)

const (
	nextActionKey = "next_action"
	retryAfterKey = "retry_after_seconds"
	// maxExact is the largest integer that a JSON number carries everywhere without loss; larger ones travel as strings.
	maxExact = 1 << 53
)

// Detail is one addition to a fault: a typed value for `details`, a wait, or a cause.
type Detail struct{ apply func(*Fault) }

// D is a typed detail. Times become RFC 3339 in UTC, UUIDs and other text marshalers strings, durations whole seconds,
// integers beyond 2^53 strings; anything else becomes what encoding/json makes of it. Key `next_action` overrides the rule's.
func D(key string, value any) Detail {
	return Detail{func(f *Fault) { f.details[key] = plain(value) }}
}

// RetryAfter says when to come back: Retry-After in REST, RetryInfo in gRPC and details.retry_after_seconds, at least 1.
func RetryAfter(d time.Duration) Detail {
	return Detail{func(f *Fault) {
		f.retryAfter = max(d, time.Second)
		f.details[retryAfterKey] = float64(wholeSeconds(f.retryAfter))
	}}
}

// Cause keeps the error behind a fault for the log; no client sees it.
func Cause(err error) Detail {
	return Detail{func(f *Fault) { f.cause = err }}
}

// Field is one field error, for a fault of any reason that concerns one field.
func Field(field, text string) Detail {
	return Detail{func(f *Fault) {
		if f.fields == nil {
			f.fields = map[string]string{}
		}
		f.fields[field] = say(text)
	}}
}

func wholeSeconds(d time.Duration) int64 { return int64(math.Ceil(d.Seconds())) }

// plain turns a Go value into a JSON value that survives a protobuf Struct.
func plain(value any) any {
	switch v := value.(type) {
	case nil, bool:
		return v
	case string:
		return say(v)
	case time.Time:
		return v.UTC().Format(time.RFC3339Nano)
	case time.Duration:
		return float64(wholeSeconds(v))
	case *time.Time:
		if v == nil {
			return nil
		}
		return plain(*v)
	case encoding.TextMarshaler:
		if text, err := v.MarshalText(); err == nil {
			return say(string(text))
		}
	case error:
		return say(v.Error())
	}
	return plainKind(value)
}

func plainKind(value any) any {
	v := reflect.ValueOf(value)
	switch v.Kind() {
	case reflect.String:
		return say(v.String())
	case reflect.Bool:
		return v.Bool()
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		if n := v.Int(); n >= -maxExact && n <= maxExact {
			return float64(n)
		}
		return strconv.FormatInt(v.Int(), 10)
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		if n := v.Uint(); n <= maxExact {
			return float64(n)
		}
		return strconv.FormatUint(v.Uint(), 10)
	case reflect.Slice:
		out := make([]any, v.Len())
		for i := range out {
			out[i] = plain(v.Index(i).Interface())
		}
		return out
	}
	return viaJSON(value)
}

func viaJSON(value any) any {
	raw, err := json.Marshal(value)
	if err != nil {
		return fmt.Sprint(value)
	}
	var out any
	if err := json.Unmarshal(raw, &out); err != nil {
		return string(raw)
	}
	return out
}

// text is a detail as ErrorInfo metadata carries it.
func text(value any) string {
	switch v := value.(type) {
	case string:
		return v
	case float64:
		return strconv.FormatFloat(v, 'f', -1, 64)
	}
	raw, err := json.Marshal(value)
	if err != nil {
		return fmt.Sprint(value)
	}
	return string(raw)
}

// maxText bounds each text in bytes: refusals quote what was sent, and travel in headers.
const maxText = 2 << 10

// say makes text fit for the wire: valid UTF-8 (protobuf refuses anything else) and bounded.
func say(text string) string {
	if len(text) > maxText {
		text = text[:maxText] + "..."
	}
	return strings.ToValidUTF8(text, "\uFFFD")
}
