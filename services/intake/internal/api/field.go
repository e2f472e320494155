package api

import (
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/google/uuid"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/pratique-io/pratique/internal/fault"
	"github.com/pratique-io/pratique/internal/page"
)

// Lengths of fields, in characters.
const (
	maxReason        = 1000
	maxJustification = 2000
	maxName          = 200
	maxSearch        = 200
	maxRef           = 1024
	maxHost          = 255
)

// line checks one line of text: trimmed, at most max characters, no control characters. required says that it must not be empty.
func line(problems *fault.FieldErrors, field, value string, required bool, most int) string {
	value = strings.TrimSpace(value)
	checkText(problems, field, value, required, most, func(r rune) bool { return unicode.IsControl(r) })
	return value
}

// prose is line for text that may have several lines.
func prose(problems *fault.FieldErrors, field, value string, most int) string {
	value = strings.TrimSpace(value)
	checkText(problems, field, value, false, most, func(r rune) bool { return unicode.IsControl(r) && r != '\n' && r != '\r' && r != '\t' })
	return value
}

func checkText(problems *fault.FieldErrors, field, value string, required bool, most int, bad func(rune) bool) {
	switch {
	case value == "" && required:
		problems.Add(field, "is required")
	case utf8.RuneCountInString(value) > most:
		problems.Addf(field, "must have at most %d characters", most)
	case strings.ContainsFunc(value, bad):
		problems.Add(field, "must not contain control characters")
	}
}

// oneOf checks a closed set; empty means not given.
func oneOf[T ~string](problems *fault.FieldErrors, field string, value *string, known []T) T {
	if value == nil || *value == "" {
		return ""
	}
	if !slices.Contains(known, T(*value)) {
		names := make([]string, 0, len(known))
		for _, k := range known {
			names = append(names, string(k))
		}
		problems.Add(field, "must be one of "+strings.Join(names, ", "))
		return ""
	}
	return T(*value)
}

// optionalID reads a UUID filter; Nil when not given.
func optionalID(problems *fault.FieldErrors, field string, value *string) uuid.UUID {
	if value == nil || *value == "" {
		return uuid.Nil
	}
	id, err := page.ID(field, *value)
	if err != nil {
		problems.Add(field, "must be a UUID")
	}
	return id
}

func optionalTime(problems *fault.FieldErrors, field string, value *timestamppb.Timestamp) *time.Time {
	if value == nil {
		return nil
	}
	if !value.IsValid() {
		problems.Add(field, "is not a time")
		return nil
	}
	at := value.AsTime()
	return &at
}

// pageOf merges the problems of the list parameters into those of the filters.
func pageOf(problems *fault.FieldErrors, limit, number *int32, token *string) page.Request {
	req, err := page.Parse(limit, number, token)
	if err != nil {
		for field, text := range fault.Of(err).FieldErrors() {
			problems.Add(field, text)
		}
	}
	return req
}
