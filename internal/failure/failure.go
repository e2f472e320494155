// Package failure holds the contract's failure codes: the class of each, which decides who hears of it and how often it may be retried, and
// what a person can do about it. One table, so that the request, the notification and the log say the same.
package failure

import (
	"maps"
	"slices"
	"time"
)

// The classes.
const (
	Dispatch     = "dispatch"     // no provider took the run
	Connectivity = "connectivity" // a registry could not be reached
	Auth         = "auth"         // a credential was refused
	Policy       = "policy"       // the answer is no; stays with the tenant
	Runtime      = "runtime"      // the machinery failed while it ran
)

// The codes, by class.
const (
	DispatcherUnavailable = "dispatcher_unavailable" // shown while a request waits; never an end
	DispatchTimeout       = "dispatch_timeout"
	DispatchError         = "dispatch_error"
	ConnectivityError     = "connectivity_error"
	SourceRateLimited     = "source_rate_limited"
	AuthError             = "auth_error"
	QuarantinedByPolicy   = "quarantined_by_policy"
	PolicyBlocked         = "policy_blocked"
	ImageUnacceptable     = "image_unacceptable"
	RuntimeFailed         = "runtime_failed"
	RunTimeout            = "run_timeout"
	StepOutOfMemory       = "step_out_of_memory"
	ScannerError          = "scanner_error"
)

var table = map[string]struct{ class, hint string }{
	DispatcherUnavailable: {Dispatch, "No provider can take the run now. It starts by itself when one is ready; an administrator can look at the providers' readiness."},
	DispatchTimeout:       {Dispatch, "No provider took the run in time. Ask again once an administrator has made a provider ready."},
	DispatchError:         {Dispatch, "The run could not be started. If it happens again, an administrator should look at the provider's readiness checks."},
	ConnectivityError:     {Connectivity, "A registry could not be reached from the run. Check that the source registry answers, then ask again."},
	SourceRateLimited:     {Connectivity, "The source registry limits how often it may be asked. Wait a little, or use a registry credential with a higher limit."},
	AuthError:             {Auth, "The source registry refused the credential. Correct the registry credential, then ask again."},
	QuarantinedByPolicy:   {Policy, "The findings exceed the quarantine policy. Choose a version in which they are fixed, or ask the security reviewers about accepting the risk."},
	PolicyBlocked:         {Policy, "The tenant, its capability or its EPR registration no longer allows this import. Put that in order, then ask again."},
	ImageUnacceptable:     {Policy, "The image is malformed, too large or of a kind that is not supported. Choose another image."},
	RuntimeFailed:         {Runtime, "A step of the run failed. The run's log shows where; ask again when the cause is gone."},
	RunTimeout:            {Runtime, "The run took longer than it is given. For a very large image an administrator can raise the run timeout."},
	StepOutOfMemory:       {Runtime, "A step ran out of memory. An administrator can give it more."},
	ScannerError:          {Runtime, "The scanner could not judge the image, and an image that was not judged does not pass. An administrator should look at the scanner and its database."},
}

// ClassOf is the class of a code; empty for a code that is none of the contract's.
func ClassOf(code string) string { return table[code].class }

// HintOf says what to do about a code; empty for a code that is none of the contract's.
func HintOf(code string) string { return table[code].hint }

// Classes lists the classes in the contract's order.
func Classes() []string { return []string{Dispatch, Connectivity, Auth, Policy, Runtime} }

// Codes lists the codes in alphabetical order.
func Codes() []string { return slices.Sorted(maps.Keys(table)) }

// Limit says how often what failed may be asked for again.
type Limit struct {
	Requests int           // most requests in a chain of retries; the original counts
	Backoff  time.Duration // before the second request; doubles with every further one, up to maxBackoff
}

const maxBackoff = 30 * time.Minute

var limits = map[string]Limit{
	Dispatch:     {Requests: 5, Backoff: 30 * time.Second},
	Connectivity: {Requests: 3, Backoff: 2 * time.Minute},
	Auth:         {Requests: 2, Backoff: 5 * time.Minute},
	Policy:       {Requests: 2, Backoff: 10 * time.Minute},
	Runtime:      {Requests: 3, Backoff: time.Minute},
}

// LimitOf is the limit of a class; zero, which allows nothing, for a class that is none of the contract's.
func LimitOf(class string) Limit { return limits[class] }

// Wait is how long after the failure of the chain's request number position (from 1) the next one may come.
func (l Limit) Wait(position int) time.Duration {
	wait := min(l.Backoff, maxBackoff)
	for range position - 1 {
		if wait = min(2*wait, maxBackoff); wait == maxBackoff {
			break
		}
	}
	return wait
}
