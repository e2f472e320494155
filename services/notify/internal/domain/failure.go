package domain

import "github.com/pratique-io/pratique/internal/failure"

// Failure says what went wrong and in which class; the zero Failure is none.
type Failure struct {
	Class string
	Code  string
}

// unknownHint stands for a code that this version does not know.
const unknownHint = "Open the request to see what happened. Retry when the cause is gone."

// Hint is what to do about it; empty for the zero Failure.
func (f Failure) Hint() string {
	if f == (Failure{}) {
		return ""
	}
	if hint := failure.HintOf(f.Code); hint != "" {
		return hint
	}
	return unknownHint
}

// Machinery says whether the product, not the image, failed: then those who run it hear too. Policy stays with the tenant.
func (f Failure) Machinery() bool {
	switch f.Class {
	case failure.Dispatch, failure.Connectivity, failure.Auth, failure.Runtime:
		return true
	}
	return false
}

// sound puts a failure into the closed sets: an unknown class is that of the code, else runtime (so that somebody who can help hears).
func (f Failure) sound() Failure {
	switch f.Class {
	case failure.Dispatch, failure.Connectivity, failure.Auth, failure.Policy, failure.Runtime:
	default:
		if f.Class = failure.ClassOf(f.Code); f.Class == "" {
			f.Class = failure.Runtime
		}
	}
	f.Code = clean(f.Code, maxCode)
	return f
}

// blockerHint is what to do about a release that came to nothing.
func blockerHint(blocker string) string {
	if blocker == "digest_mismatch" {
		return "The destination did not hold the digest that was approved, so nothing was tagged. A system administrator should look at the destination registry before the release is repeated."
	}
	return "Nothing was tagged. Release again when the destination registry answers; repeating a release is safe."
}
