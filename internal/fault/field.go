package fault

import (
	"fmt"

	errorsv1 "github.com/pratique-io/pratique/gen/pratique/errors/v1"
)

const fieldsMessage = "some fields hold values that cannot be used"

// FieldErrors collects every problem of an input, so that all of them are told at once.
type FieldErrors struct{ fields map[string]string }

// Fields starts an empty collection.
func Fields() *FieldErrors { return &FieldErrors{fields: map[string]string{}} }

// Add notes what is wrong with a field (its JSON path, like "severity_mapping.p1"). Further texts of a field are appended.
func (e *FieldErrors) Add(field, text string) *FieldErrors {
	if before, ok := e.fields[field]; ok {
		text = before + "; " + text
	}
	e.fields[field] = say(text)
	return e
}

// Addf is Add with a format.
func (e *FieldErrors) Addf(field, format string, args ...any) *FieldErrors {
	return e.Add(field, fmt.Sprintf(format, args...))
}

// Len is the number of fields with a problem.
func (e *FieldErrors) Len() int { return len(e.fields) }

// Err is nil when nothing was added, else a validation_failed fault naming every field.
func (e *FieldErrors) Err() error {
	if len(e.fields) == 0 {
		return nil
	}
	f := New(errorsv1.Reason_REASON_VALIDATION_FAILED, fieldsMessage)
	f.fields = e.fields
	return f
}
