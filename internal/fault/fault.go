// Package fault owns how a refusal is said: an error carries a reason of the contract (gen/pratique/errors/v1), a text for
// people, typed details and field errors, from the place where it happens to the one place that renders it. Whatever is not
// a fault is internal and shown as nothing. One table, the enum's options, decides both the gRPC and the REST status.
package fault

import (
	"context"
	"errors"
	"maps"
	"strings"
	"time"

	errorsv1 "github.com/pratique-io/pratique/gen/pratique/errors/v1"
)

// Texts that stand for errors whose own text must not leave the service.
const (
	internalMessage  = "something went wrong on our side; the request id finds it in the logs"
	deadlineMessage  = "the call took longer than it was given"
	cancelledMessage = "the call was cancelled before it was answered"
)

// Fault is an error with a reason. It is immutable once returned.
type Fault struct {
	reason     errorsv1.Reason
	message    string
	details    map[string]any
	fields     map[string]string
	retryAfter time.Duration
	cause      error
}

// New makes a fault. The message is shown to the client (except for REASON_INTERNAL, which shows a constant), so it holds no
// secret and nothing of another tenant. The result is an error that errors.As finds through any wrapping.
func New(reason errorsv1.Reason, message string, details ...Detail) *Fault {
	f := &Fault{reason: reason, message: say(message), details: map[string]any{}}
	for _, d := range details {
		d.apply(f)
	}
	return f
}

// Error is for logs: code, text and the cause, which clients never see.
func (f *Fault) Error() string {
	text := CodeOf(f.reason) + ": " + f.message
	if f.cause != nil {
		text += ": " + f.cause.Error()
	}
	return text
}

// Unwrap gives the cause set by Cause, so that errors.Is sees through a fault.
func (f *Fault) Unwrap() error { return f.cause }

// Reason is the enum value of the contract.
func (f *Fault) Reason() errorsv1.Reason { return f.reason }

// Message is the text shown to the client.
func (f *Fault) Message() string {
	if f.hidden() {
		return internalMessage
	}
	return f.message
}

// hidden says whether the fault is shown as nothing: internal, or of a reason that this program has no rule for.
func (f *Fault) hidden() bool {
	_, ruled := rules[f.reason]
	return !ruled || f.reason == errorsv1.Reason_REASON_INTERNAL
}

// Details are the typed details as JSON values (string, bool, float64, []any, map[string]any), next_action included where
// the rule or the fault fixes it. The map is the caller's own.
func (f *Fault) Details() map[string]any {
	out := map[string]any{}
	if !f.hidden() {
		maps.Copy(out, f.details)
	}
	if _, own := out[nextActionKey]; !own {
		if action := RuleOf(f.reason).GetNextAction(); action != "" {
			out[nextActionKey] = action
		}
	}
	return out
}

// FieldErrors maps each refused field to what is wrong with it; nil when the fault is not about fields.
func (f *Fault) FieldErrors() map[string]string {
	if f.hidden() {
		return nil
	}
	return maps.Clone(f.fields)
}

// RetryAfter is how long to wait before trying again; zero when unknown.
func (f *Fault) RetryAfter() time.Duration { return f.retryAfter }

// Of is the one place that decides what an error means: the fault inside it, else deadline_exceeded, dependency_unavailable
// for a cancelled call (the caller is gone, or we are shutting down and another try will do), else internal. Nil for nil.
func Of(err error) *Fault {
	if err == nil {
		return nil
	}
	var f *Fault
	switch {
	case errors.As(err, &f):
		return f
	case errors.Is(err, context.DeadlineExceeded):
		return New(errorsv1.Reason_REASON_DEADLINE_EXCEEDED, deadlineMessage, Cause(err))
	case errors.Is(err, context.Canceled):
		return New(errorsv1.Reason_REASON_DEPENDENCY_UNAVAILABLE, cancelledMessage, Cause(err))
	}
	if s, ok := wireStatus(err); ok {
		return fromWire(s, err)
	}
	return New(errorsv1.Reason_REASON_INTERNAL, internalMessage, Cause(err))
}

// ReasonOf finds the reason in an error; false when it carries none.
func ReasonOf(err error) (errorsv1.Reason, bool) {
	var f *Fault
	if errors.As(err, &f) {
		return f.reason, true
	}
	return errorsv1.Reason_REASON_UNSPECIFIED, false
}

// Is says whether the error carries this reason.
func Is(err error, reason errorsv1.Reason) bool {
	r, ok := ReasonOf(err)
	return ok && r == reason
}

const enumPrefix = "REASON_"

// CodeOf is the REST code of a reason: REASON_NOT_FOUND is "not_found".
func CodeOf(reason errorsv1.Reason) string {
	return strings.ToLower(strings.TrimPrefix(reason.String(), enumPrefix))
}
