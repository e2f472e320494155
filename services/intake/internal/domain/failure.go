package domain

// Failure says why a request failed or what it waits for, in a class that decides who hears of it.
type Failure struct {
	Class   string `json:"class"`
	Code    string `json:"code"`
	Message string `json:"message,omitempty"`
}

// The failure classes.
const (
	ClassDispatch     = "dispatch"
	ClassConnectivity = "connectivity"
	ClassAuth         = "auth"
	ClassPolicy       = "policy"
	ClassRuntime      = "runtime"
)

// The failure codes that intake itself says.
const (
	CodeDispatcherUnavailable = "dispatcher_unavailable"
	CodeQuarantinedByPolicy   = "quarantined_by_policy"
	CodePolicyBlocked         = "policy_blocked"
	CodeRuntimeFailed         = "runtime_failed"
	CodeScannerError          = "scanner_error"
)

type remedy struct{ class, hint string }

// remedies hold every code of the contract with its class and what to do about it.
var remedies = map[string]remedy{
	"dispatcher_unavailable": {ClassDispatch, "No provider can take the run now. It starts by itself when one is ready; an administrator can look at the providers' readiness."},
	"dispatch_timeout":       {ClassDispatch, "No provider took the run in time. Retry once an administrator has made a provider ready."},
	"dispatch_error":         {ClassDispatch, "The run could not be started. Retry; if it happens again, an administrator should look at the provider's readiness checks."},
	"connectivity_error":     {ClassConnectivity, "A registry could not be reached from the run. Check that the source registry is up, then retry."},
	"source_rate_limited":    {ClassConnectivity, "The source registry limits the rate. Wait and retry, or give a registry credential with a higher limit."},
	"auth_error":             {ClassAuth, "The source registry refused the credential. Correct the registry credential, then retry."},
	CodeQuarantinedByPolicy:  {ClassPolicy, "Findings exceed the quarantine policy. Choose a fixed version of the image, or ask for a waiver of the findings."},
	CodePolicyBlocked:        {ClassPolicy, "The tenant, its capability or the EPR registration no longer allows this import. Correct that, then ask again."},
	"image_unacceptable":     {ClassPolicy, "The image is malformed, oversized or of an unsupported kind. Choose another image."},
	CodeRuntimeFailed:        {ClassRuntime, "A step of the run failed. See the run's log, then retry."},
	"run_timeout":            {ClassRuntime, "The run took longer than it is given. Retry; for very large images an administrator can raise the run timeout."},
	"step_out_of_memory":     {ClassRuntime, "A step ran out of memory. An administrator can raise the step's memory limit; then retry."},
	CodeScannerError:         {ClassRuntime, "The scanner could not judge the image, so it does not pass. An administrator should look at the scanner and its database; then retry."},
}

// HintOf is what to do about a failure code; empty for a code that is none of the contract's.
func HintOf(code string) string { return remedies[code].hint }

// ClassOf is the class of a failure code; empty for a code that is none of the contract's.
func ClassOf(code string) string { return remedies[code].class }

// FailureClasses lists the classes.
func FailureClasses() []string {
	return []string{ClassDispatch, ClassConnectivity, ClassAuth, ClassPolicy, ClassRuntime}
}

// sound fills in what a producer left out: an unknown or missing code becomes the fallback, a missing class the code's.
func (f Failure) sound(fallback string) Failure {
	if f.Code == "" {
		f.Code = fallback
	}
	if f.Class == "" {
		if f.Class = ClassOf(f.Code); f.Class == "" {
			f.Class = ClassRuntime
		}
	}
	return f
}
