package domain

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
	CodeUnavailable  = "dispatcher_unavailable" // shown while waiting; never an end
	CodeTimeout      = "dispatch_timeout"
	CodeDispatch     = "dispatch_error"
	CodeConnectivity = "connectivity_error"
	CodeRateLimited  = "source_rate_limited"
	CodeAuth         = "auth_error"
	CodeUnacceptable = "image_unacceptable"
	CodeBlocked      = "policy_blocked"
	CodeRuntime      = "runtime_failed"
	CodeRunTimeout   = "run_timeout"
	CodeMemory       = "step_out_of_memory"
	CodeScanner      = "scanner_error"
)

// classes is the closed set: each code belongs to one class.
var classes = map[string]string{
	CodeUnavailable: "dispatch", CodeTimeout: "dispatch", CodeDispatch: "dispatch",
	CodeConnectivity: "connectivity", CodeRateLimited: "connectivity",
	CodeAuth:         "auth",
	CodeUnacceptable: "policy", CodeBlocked: "policy",
	CodeRuntime: "runtime", CodeRunTimeout: "runtime", CodeMemory: "runtime", CodeScanner: "runtime",
}

// ClassOf is the class of a code; "runtime" for a code that is not ours.
func ClassOf(code string) string {
	if class, ok := classes[code]; ok {
		return class
	}
	return "runtime"
}

// Fails makes the failure of a code.
func Fails(code, message string) *Failure {
	return &Failure{Class: ClassOf(code), Code: code, Message: message}
}
