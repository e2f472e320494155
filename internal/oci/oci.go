// Package oci speaks to registries and reads what they answer, trusting none of it.
//
// It owns references (one spelling each), strict manifests (what two readers could read differently is refused), and a
// registry client on plain net/http: every connection goes through the round tripper it is given (internal/egress in
// production), every manifest and blob is hashed here, and credentials stay with the host they are for. Foreign layer
// URLs are never contacted. Errors are typed; callers map them to reasons.
package oci

import (
	"errors"
	"fmt"
	"time"
)

// Errors of the client, to be tested with errors.Is. A connection that egress policy forbids is none of these: it stays
// an *egress.Refused in the chain and is not retried.
var (
	ErrNotFound     = errors.New("not found in the registry")
	ErrUnauthorized = errors.New("the registry does not accept the credential")
	ErrUnavailable  = errors.New("the registry is unavailable")
	// ErrUnsupported: the registry does not offer the operation (deletion is often switched off).
	ErrUnsupported = errors.New("the registry does not support this")
	// ErrProtocol: an answer that the distribution specification does not allow, or a rejection of what we sent.
	// Permanent.
	ErrProtocol = errors.New("the registry's answer is not acceptable")
)

// ErrRateLimited is the error of a registry that kept answering 429. RetryAfter is what it last asked for (0: nothing),
// at most a day.
type ErrRateLimited struct{ RetryAfter time.Duration }

// Error implements error.
func (e ErrRateLimited) Error() string {
	return fmt.Sprintf("the registry limits the rate (retry after %s)", e.RetryAfter)
}

// Is makes errors.Is(err, ErrRateLimited{}) true whatever the delay.
func (e ErrRateLimited) Is(target error) bool {
	_, ok := target.(ErrRateLimited)
	return ok
}

// Failure says which exchange failed. Unwrap gives one of the errors above.
type Failure struct {
	Op         string // "get manifest", "push blob" and so on
	Host       string
	Repository string
	Status     int    // HTTP status, 0 when there was no answer
	Code       string // the registry's error code (A-Z and _ only), its message is not kept
	Err        error
}

// Error implements error.
func (f *Failure) Error() string {
	s := fmt.Sprintf("%s %s/%s: %v", f.Op, f.Host, f.Repository, f.Err)
	if f.Status != 0 {
		s += fmt.Sprintf(" (status %d", f.Status)
		if f.Code != "" {
			s += " " + f.Code
		}
		s += ")"
	}
	return s
}

// Unwrap implements errors.Unwrap.
func (f *Failure) Unwrap() error { return f.Err }

// Reason says why bytes are not acceptable. The set is closed.
type Reason string

// The reasons of Unacceptable.
const (
	ReasonTooLarge       Reason = "too_large"       // over a byte, descriptor, depth or total budget
	ReasonNotJSON        Reason = "not_json"        // not exactly one valid JSON document
	ReasonAmbiguousKeys  Reason = "ambiguous_keys"  // duplicate keys, or keys that differ only in case
	ReasonMediaType      Reason = "media_type"      // body, Content-Type or parent descriptor disagree
	ReasonUnsupported    Reason = "unsupported"     // a kind of document we do not handle, such as schema 1
	ReasonShape          Reason = "shape"           // both layers and manifests, missing or mistyped fields
	ReasonDescriptor     Reason = "descriptor"      // a bad digest, size, media type or inline data
	ReasonDigestMismatch Reason = "digest_mismatch" // bytes do not have the digest or size they were asked by
	ReasonReferrer       Reason = "referrer"        // a pinned referrer whose subject is elsewhere
)

// Unacceptable is the error of content that is refused, whoever serves it. Permanent for those bytes.
type Unacceptable struct {
	Reason Reason
	Detail string // for people; may quote (escaped, shortened) content
}

// Error implements error.
func (u *Unacceptable) Error() string {
	return fmt.Sprintf("unacceptable (%s): %s", u.Reason, u.Detail)
}

func refuse(reason Reason, format string, args ...any) *Unacceptable {
	return &Unacceptable{Reason: reason, Detail: fmt.Sprintf(format, args...)}
}

// clip quotes hostile text for an error.
func clip(s string) string {
	const most = 80
	if len(s) > most {
		return fmt.Sprintf("%.*q...", most, s)
	}
	return fmt.Sprintf("%q", s)
}
