package domain

import (
	"bytes"
	"slices"

	"github.com/google/uuid"
)

// Audience is the kind of people a notice is for.
type Audience string

// The audiences.
const (
	Decision Audience = "decision" // those who can decide: security reviewers
	Outcome  Audience = "outcome"  // those it concerns: tenant admins and the requester
)

// Why somebody is told.
type Why string

// The reasons, the strongest first: who is told for several is told once, for the first of them.
const (
	WhyRequester  Why = "requester"  // asked for it
	WhyRole       Why = "role"       // holds the role that decides, or administers the tenant
	WhyEscalation Why = "escalation" // runs the system, and its machinery failed
	WhyFallback   Why = "fallback"   // runs the system, and nobody nearer is reachable
)

// People are those who may be told, as the directory knows them at this moment.
type People struct {
	Reviewers    []uuid.UUID
	TenantAdmins []uuid.UUID
	SystemAdmins []uuid.UUID
}

// Recipient is one person of a plan.
type Recipient struct {
	Person uuid.UUID
	Why    Why
}

// Plan says who is told, each person once, ordered by id. It is empty only when nobody at all is known.
func Plan(n Notice, p People) []Recipient {
	var plan plan
	switch n.Audience {
	case Decision:
		plan.add(WhyRole, p.Reviewers...)
	case Outcome:
		if n.Requester != uuid.Nil {
			plan.add(WhyRequester, n.Requester)
		}
		plan.add(WhyRole, p.TenantAdmins...)
	}
	switch {
	case len(plan) == 0:
		plan.add(WhyFallback, p.SystemAdmins...)
	case n.Failure.Machinery():
		plan.add(WhyEscalation, p.SystemAdmins...)
	}
	slices.SortFunc(plan, func(a, b Recipient) int { return bytes.Compare(a.Person[:], b.Person[:]) })
	return plan
}

type plan []Recipient

func (p *plan) add(why Why, people ...uuid.UUID) {
	for _, person := range people {
		if !slices.ContainsFunc(*p, func(r Recipient) bool { return r.Person == person }) {
			*p = append(*p, Recipient{Person: person, Why: why})
		}
	}
}

// Channel is a way to reach somebody.
type Channel string

// InApp is always kept; it needs no delivery, the row is the message.
const InApp Channel = "in_app"

// Channels are the ways every planned recipient is told by.
func Channels() []Channel { return []Channel{InApp} }

// DeliveryState sums up how far a plan came.
type DeliveryState string

// The delivery states.
const (
	Pending   DeliveryState = "pending"
	Partial   DeliveryState = "partial"
	Delivered DeliveryState = "delivered"
)

// Reconcile compares the plan with what was delivered: a recipient counts when the receipt and the in-app notification are there.
func Reconcile(expected, receipts, inApp int) DeliveryState {
	switch done := min(receipts, inApp); {
	case done >= expected:
		return Delivered
	case max(receipts, inApp) == 0:
		return Pending
	default:
		return Partial
	}
}
