package domain

import (
	"slices"
	"time"

	"github.com/google/uuid"
)

// Provider is a place where runs happen.
type Provider struct {
	ID        uuid.UUID
	Name      string
	Type      string // local
	Status    string // online | offline | draining
	Enabled   *bool  // quarantine_dispatch_enabled; nil: not said, which is not enabled
	Priority  int
	MaxRuns   int
	Running   int
	Version   int64 // sequence of its events
	Readiness Readiness
	SeenAt    time.Time // when its host last looked after it
	CreatedAt time.Time
	Uncertain bool // no readiness was ever recorded
}

// The states of a provider.
const (
	Online   = "online"
	Offline  = "offline"
	Draining = "draining"
)

// Check is one prerequisite of dispatching to a provider.
type Check struct {
	Name    string `json:"name"`
	OK      bool   `json:"ok"`
	Message string `json:"message"`
}

// Readiness is what all checks came to.
type Readiness struct {
	Checks    []Check   `json:"checks"`
	CheckedAt time.Time `json:"checked_at"`
}

// Ready says that every check passed, and that there were some.
func (r Readiness) Ready() bool { return len(r.Checks) > 0 && len(r.Missing()) == 0 }

// Missing names the checks that failed, in order.
func (r Readiness) Missing() []string {
	out := []string{}
	for _, check := range r.Checks {
		if !check.OK {
			out = append(out, check.Name)
		}
	}
	return out
}

// Differs says whether another readiness means something else to those who dispatch or repair: the same prerequisites are missing
// or not, whatever the texts say.
func (r Readiness) Differs(other Readiness) bool {
	return r.Ready() != other.Ready() || !slices.Equal(r.Missing(), other.Missing())
}

// ConfigChecks are the checks that the provider's own record answers; the runner adds those about the world.
func (p Provider) ConfigChecks() []Check {
	checks := []Check{
		{Name: "provider_type", OK: p.Type == "local", Message: "type is " + p.Type},
		{Name: "provider_status", OK: p.Status == Online || p.Status == Draining, Message: "status is " + p.Status},
	}
	enabled := Check{Name: "provider_config.quarantine_dispatch_enabled"}
	switch {
	case p.Enabled == nil:
		enabled.Message = "quarantine_dispatch_enabled is missing"
	case !*p.Enabled:
		enabled.Message = "quarantine_dispatch_enabled is false"
	default:
		enabled.OK, enabled.Message = true, "quarantine_dispatch_enabled is true"
	}
	checks = append(checks, enabled)
	schedulable := Check{Name: "provider_schedulable", OK: p.Status == Online && p.MaxRuns > 0, Message: "takes new runs"}
	switch {
	case p.Status != Online:
		schedulable.Message = "takes no new runs while " + p.Status
	case p.MaxRuns <= 0:
		schedulable.Message = "max_concurrent_runs is 0"
	}
	return append(checks, schedulable)
}
