package domain

import (
	"slices"

	"github.com/pratique-io/pratique/internal/failure"
)

// Failure says why a request failed or what it waits for, in a class that decides who hears of it.
type Failure struct {
	Class   string `json:"class"`
	Code    string `json:"code"`
	Message string `json:"message,omitempty"`
}

// sound fills in what a producer left out: a missing code becomes the fallback, a class that is missing or none of the contract's that of the
// code, else runtime.
func (f Failure) sound(fallback string) Failure {
	if f.Code == "" {
		f.Code = fallback
	}
	if !slices.Contains(failure.Classes(), f.Class) {
		if f.Class = failure.ClassOf(f.Code); f.Class == "" {
			f.Class = failure.Runtime
		}
	}
	return f
}
