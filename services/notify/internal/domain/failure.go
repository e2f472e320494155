package domain

// Failure says what went wrong and in which class; the zero Failure is none.
type Failure struct {
	Class string
	Code  string
}

// The failure classes.
const (
	ClassDispatch     = "dispatch"
	ClassConnectivity = "connectivity"
	ClassAuth         = "auth"
	ClassPolicy       = "policy"
	ClassRuntime      = "runtime"
)

type remedy struct{ class, hint string }

// remedies holds every failure code of the contract, its class and what to do about it.
var remedies = map[string]remedy{
	"dispatcher_unavailable": {ClassDispatch, "No provider could take the run. An administrator can see on the providers page which check is not met; retry once one is ready."},
	"dispatch_timeout":       {ClassDispatch, "No provider took the run in time. Retry once an administrator has made a provider ready."},
	"dispatch_error":         {ClassDispatch, "The run could not be started. Retry; if it happens again, an administrator should look at the provider's readiness checks."},
	"connectivity_error":     {ClassConnectivity, "A registry could not be reached. Check that the source registry answers, then retry."},
	"source_rate_limited":    {ClassConnectivity, "The source registry limits how often it may be asked. Wait a little, or use a registry credential with a higher limit, then retry."},
	"auth_error":             {ClassAuth, "The source registry refused the credential. Correct the registry credential, then retry."},
	"quarantined_by_policy":  {ClassPolicy, "The findings exceed the quarantine policy. Choose a version in which they are fixed, or ask for a waiver."},
	"policy_blocked":         {ClassPolicy, "The tenant, its capability or its EPR registration no longer allows this import. Put that in order, then ask again."},
	"image_unacceptable":     {ClassPolicy, "The image is malformed, too large or of a kind that is not supported. Choose another image."},
	"runtime_failed":         {ClassRuntime, "A step of the run failed. The run's log shows where; retry when the cause is gone."},
	"run_timeout":            {ClassRuntime, "The run took longer than it is given. Retry; for a very large image an administrator can raise the run timeout."},
	"step_out_of_memory":     {ClassRuntime, "A step ran out of memory. An administrator can give it more; then retry."},
	"scanner_error":          {ClassRuntime, "The scanner could not judge the image, and an image that was not judged does not pass. An administrator should look at the scanner and its database; then retry."},
}

// unknownHint stands for a code that this version does not know.
const unknownHint = "Open the request to see what happened. Retry when the cause is gone."

// Hint is what to do about it; empty for the zero Failure.
func (f Failure) Hint() string {
	if f == (Failure{}) {
		return ""
	}
	if r, known := remedies[f.Code]; known {
		return r.hint
	}
	return unknownHint
}

// Machinery says whether the product, not the image, failed: then those who run it hear too. Policy stays with the tenant.
func (f Failure) Machinery() bool {
	switch f.Class {
	case ClassDispatch, ClassConnectivity, ClassAuth, ClassRuntime:
		return true
	}
	return false
}

// sound puts a failure into the closed sets: an unknown class is that of the code, else runtime (so that somebody who can help hears).
func (f Failure) sound() Failure {
	switch f.Class {
	case ClassDispatch, ClassConnectivity, ClassAuth, ClassPolicy, ClassRuntime:
	default:
		if f.Class = remedies[f.Code].class; f.Class == "" {
			f.Class = ClassRuntime
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
