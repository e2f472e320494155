package domain

import "github.com/pratique-io/pratique/internal/failure"

// Failure is why a run came to nothing: a class and a code of the contract, and a text for people.
type Failure struct {
	Class   string `json:"class"`
	Code    string `json:"code"`
	Message string `json:"message"`
}

// Error lets a failure travel as an error.
func (f *Failure) Error() string { return f.Class + "/" + f.Code + ": " + f.Message }

// Codes of the contract that dispatch produces.
const (
	CodeUnavailable  = failure.DispatcherUnavailable
	CodeTimeout      = failure.DispatchTimeout
	CodeDispatch     = failure.DispatchError
	CodeConnectivity = failure.ConnectivityError
	CodeRateLimited  = failure.SourceRateLimited
	CodeAuth         = failure.AuthError
	CodeUnacceptable = failure.ImageUnacceptable
	CodeBlocked      = failure.PolicyBlocked
	CodeRuntime      = failure.RuntimeFailed
	CodeRunTimeout   = failure.RunTimeout
	CodeMemory       = failure.StepOutOfMemory
	CodeScanner      = failure.ScannerError
)

// ClassOf is the class of a code; "runtime" for a code that is not ours.
func ClassOf(code string) string {
	if class := failure.ClassOf(code); class != "" {
		return class
	}
	return failure.Runtime
}

// Fails makes the failure of a code.
func Fails(code, message string) *Failure {
	return &Failure{Class: ClassOf(code), Code: code, Message: message}
}
