package domain

import (
	"fmt"
	"regexp"
	"time"

	"github.com/google/uuid"
)

// EprStatus is what was decided about a registration.
type EprStatus string

// The statuses of a registration.
const (
	EprPending   EprStatus = "pending"
	EprApproved  EprStatus = "approved"
	EprRejected  EprStatus = "rejected"
	EprWithdrawn EprStatus = "withdrawn"
)

// EprStatuses lists all.
func EprStatuses() []EprStatus {
	return []EprStatus{EprPending, EprApproved, EprRejected, EprWithdrawn}
}

// EprVerbs lists the verbs that move a registration.
func EprVerbs() []Verb { return []Verb{Approve, Reject, Withdraw} }

var registrations = map[EprStatus]map[Verb]EprStatus{
	EprPending:   {Approve: EprApproved, Reject: EprRejected, Withdraw: EprWithdrawn},
	EprApproved:  {},
	EprRejected:  {},
	EprWithdrawn: {},
}

// NextEpr is the status after the verb, or a *Move when the status does not know it.
func NextEpr(from EprStatus, verb Verb) (EprStatus, error) {
	to, ok := registrations[from][verb]
	if !ok {
		return "", &Move{From: string(from), Verb: verb}
	}
	return to, nil
}

// Lifecycle is whether an approved registration is in force.
type Lifecycle string

// The lifecycle of approved registrations.
const (
	LifecycleNone      Lifecycle = "" // not approved
	LifecycleActive    Lifecycle = "active"
	LifecycleExpiring  Lifecycle = "expiring"
	LifecycleExpired   Lifecycle = "expired"
	LifecycleSuspended Lifecycle = "suspended"
)

// Lifecycles lists what a list may be filtered by.
func Lifecycles() []Lifecycle {
	return []Lifecycle{LifecycleActive, LifecycleExpiring, LifecycleExpired, LifecycleSuspended}
}

// InForce says whether imports may rest on the registration.
func (l Lifecycle) InForce() bool { return l == LifecycleActive || l == LifecycleExpiring }

// Registration is an enterprise product registration of a tenant.
type Registration struct {
	ID               uuid.UUID
	Tenant           uuid.UUID
	RecordID         string
	Product          string
	Technology       string
	Justification    string
	RequestedBy      uuid.UUID
	Status           EprStatus
	ApprovedAt       *time.Time
	ExpiresAt        *time.Time
	SuspendedAt      *time.Time
	SuspensionReason string
	ReviewedAt       *time.Time
	DecidedBy        string
	DecisionReason   string
	DecidedAt        *time.Time
	Version          int64
	CreatedAt        time.Time
	UpdatedAt        time.Time
}

// Lifecycle reads the clock against the expiry; window is how long before it the registration counts as expiring.
func (r *Registration) Lifecycle(now time.Time, window time.Duration) Lifecycle {
	switch {
	case r.Status != EprApproved || r.ExpiresAt == nil:
		return LifecycleNone
	case r.SuspendedAt != nil:
		return LifecycleSuspended
	case !now.Before(*r.ExpiresAt):
		return LifecycleExpired
	case !now.Before(r.ExpiresAt.Add(-window)):
		return LifecycleExpiring
	}
	return LifecycleActive
}

// Decide moves a pending registration; an approved one is in force for validity.
func (r *Registration) Decide(verb Verb, by, reason string, at, now time.Time, validity time.Duration) error {
	to, err := NextEpr(r.Status, verb)
	if err != nil {
		return err
	}
	r.Status, r.UpdatedAt = to, now
	r.Version++
	r.DecidedBy, r.DecisionReason, r.DecidedAt = by, reason, &at
	if to == EprApproved {
		expires := at.Add(validity)
		r.ApprovedAt, r.ExpiresAt, r.ReviewedAt = &at, &expires, &at
	}
	return nil
}

var recordID = regexp.MustCompile(`^[A-Za-z0-9](?:[A-Za-z0-9._-]{0,62}[A-Za-z0-9])?$`)

// RecordIDRule says what ValidRecordID asks for, for people.
const RecordIDRule = "1 to 64 letters, digits, '.', '_' or '-', beginning and ending with a letter or digit"

// ValidRecordID checks the syntax of an EPR record id.
func ValidRecordID(id string) bool { return recordID.MatchString(id) }

// NewRecordID makes EPR-<yyyymmdd>-<8 hex> from the day and random bytes.
func NewRecordID(now time.Time, random [4]byte) string {
	return fmt.Sprintf("EPR-%s-%x", now.UTC().Format("20060102"), random[:])
}
