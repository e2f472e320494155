// Package domain holds what is true of a case without a database: its states, who may decide, when a decision is complete.
package domain

import (
	"slices"
	"time"

	"github.com/google/uuid"
)

// Kind is what a case is about; its subject belongs to another service.
type Kind string

// The kinds that exist so far.
const (
	EPRRegistration Kind = "epr_registration"
	ImportRequest   Kind = "import_request"
)

// State of a case.
type State string

// Verb moves a case.
type Verb string

// The states, and the verbs between them.
const (
	Open     State = "open"
	Approved State = "approved"
	Rejected State = "rejected"
	Void     State = "void"

	Approve Verb = "approve"
	Reject  Verb = "reject"
	Lapse   Verb = "void"
)

var lifecycle = map[State]map[Verb]State{
	Open: {Approve: Approved, Reject: Rejected, Lapse: Void},
	// Only when its subject was withdrawn before the approval was taken; after that the decision stays.
	Approved: {Lapse: Void},
	Rejected: {},
	Void:     {},
}

// States lists every state, as the SQL CHECK must.
func States() []State { return []State{Open, Approved, Rejected, Void} }

// Next is the state that a verb leads to; false when the state does not know the verb.
func Next(from State, verb Verb) (State, bool) {
	to, ok := lifecycle[from][verb]
	return to, ok
}

// Bound is what the reviewer was shown: a decision holds for exactly this.
type Bound struct {
	Digest       string
	EvidenceHash string
	PolicyHash   string
}

// Vote is one person's yes or no.
type Vote struct {
	By     uuid.UUID
	Yes    bool
	Reason string
	At     time.Time
}

// Comment is a remark without a vote.
type Comment struct {
	By   uuid.UUID
	Text string
	At   time.Time
}

// Case is one decision to be made by people.
type Case struct {
	ID        uuid.UUID
	Tenant    uuid.UUID
	Kind      Kind
	Subject   uuid.UUID
	Requester string // a person's id
	// ChainRequesters asked anywhere in the retry chain: none of them decides.
	ChainRequesters []string
	State           State
	Required        int
	Votes           []Vote
	Comments        []Comment
	Bound           Bound
	Facts           map[string]string
	DueAt           *time.Time
	CreatedAt       time.Time
	DecidedAt       *time.Time
	DecidedBy       string
	Reason          string
	Version         int64
}

// Refusal is why a vote does not count.
type Refusal int

// The refusals, in the order they are looked for.
const (
	Accepted Refusal = iota
	OwnRequest
	Decided
	Gone
	AlreadyVoted
)

// Admit says whether the person may vote on the case now.
func (c *Case) Admit(person uuid.UUID) Refusal {
	switch {
	case c.Requester == person.String(), slices.Contains(c.ChainRequesters, person.String()):
		return OwnRequest
	case c.State == Void:
		return Gone
	case c.State != Open:
		return Decided
	case slices.ContainsFunc(c.Votes, func(v Vote) bool { return v.By == person }):
		return AlreadyVoted
	}
	return Accepted
}

// Count adds a vote that was admitted. One no rejects; as many yeses as are required approve. The answer is the verb that the vote completes,
// or "" when more votes are needed.
func (c *Case) Count(v Vote) Verb {
	c.Votes = append(c.Votes, v)
	if !v.Yes {
		return Reject
	}
	yes := 0
	for _, vote := range c.Votes {
		if vote.Yes {
			yes++
		}
	}
	if yes >= c.Required {
		return Approve
	}
	return ""
}
