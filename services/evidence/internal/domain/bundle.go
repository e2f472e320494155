// Package domain is what the evidence service knows without a database or a registry: the life of a bundle and of a quarantine copy, the
// policy, and how it judges evidence. It is pure: the same evidence, policy and time give the same decision, byte for byte.
package domain

import (
	"fmt"
	"time"

	"github.com/google/uuid"
)

// State is where a bundle stands. There is one bundle per request, and its id is the request's.
type State string

// The states of a bundle. The SQL CHECK lists the same ones.
const (
	Awaiting   State = "awaiting"   // the request is known, its run has not succeeded yet
	Collecting State = "collecting" // the run succeeded; its documents are owed
	Recorded   State = "recorded"   // verified and in the evidence store
	Judged     State = "judged"     // decided by policy
	Stale      State = "stale"      // was judged, and has passed its age since
	Refused    State = "refused"    // the evidence is not what it has to be; decided as error
	Abandoned  State = "abandoned"  // the request or its run ended without evidence
)

// States lists all states in the order of life.
func States() []State {
	return []State{Awaiting, Collecting, Recorded, Judged, Stale, Refused, Abandoned}
}

// Verb is an act on a bundle.
type Verb string

// The verbs of a bundle.
const (
	Collect    Verb = "collect"     // a run succeeded and named its documents
	Record     Verb = "record"      // they were verified and copied
	Decide     Verb = "decide"      // the policy decided, perhaps again
	Refuse     Verb = "refuse"      // they were forged, contradicted themselves, or could not be fetched for too long
	Expire     Verb = "expire"      // the clock passed the evidence's age or its database's
	Abandon    Verb = "abandon"     // nothing is going to be collected
	RemoveCopy Verb = "remove_copy" // the quarantine copy is gone; the evidence stays as it is
)

// Verbs lists all verbs.
func Verbs() []Verb {
	return []Verb{Collect, Record, Decide, Refuse, Expire, Abandon, RemoveCopy}
}

// lifecycle is the whole machine: what is not in it is a conflict. A copy is never removed while documents are still read from it.
var lifecycle = map[State]map[Verb]State{
	Awaiting:   {Collect: Collecting, Abandon: Abandoned},
	Collecting: {Record: Recorded, Refuse: Refused},
	Recorded:   {Decide: Judged},
	Judged:     {Decide: Judged, Expire: Stale, RemoveCopy: Judged},
	Stale:      {Decide: Judged, RemoveCopy: Stale},
	Refused:    {RemoveCopy: Refused},
	Abandoned:  {RemoveCopy: Abandoned},
}

// Next is the state that the verb leads to, or an error when the state does not know the verb.
func Next(from State, verb Verb) (State, error) {
	to, ok := lifecycle[from][verb]
	if !ok {
		return "", fmt.Errorf("a bundle that is %s knows no %s", from, verb)
	}
	return to, nil
}

// Request is the projection of one of intake's requests: what evidence is held against.
type Request struct {
	ID       uuid.UUID
	Tenant   uuid.UUID
	Type     string // quarantine | scan
	Digest   string // as pinned at the door
	Approved bool
	Outcome  string // rejected | withdrawn; empty while neither
}

// Scan is the type of requests whose copy nobody will ever release.
const Scan = "scan"

// Bundle is the evidence of one request as it stands.
type Bundle struct {
	ID, Tenant uuid.UUID
	State      State
	Version    int64 // the aggregate's sequence: one more with each transition
	Digest     string
	Run        string
	Attempt    int
	Image      string // digest of the quarantine copy, as the run reported it
	Repository string // host/repository of the copy, as the run reported it
	// Artifacts are the digests that came through the runner's result channel, by kind; nothing else is ever fetched.
	Artifacts  map[string]string
	Hash       string // of the recorded documents
	Evidence   Evidence
	RecordedAt time.Time
	ExpiresAt  time.Time // zero until judged
	CreatedAt  time.Time
	UpdatedAt  time.Time
	// RunState is what dispatch last said, and DispatchSequence at which of its versions.
	RunState         RunState
	DispatchSequence int64
	DecisionVersion  int64 // of the newest decision; 0 before the first
	// Since is when collecting began, Tries how often it failed.
	Since time.Time
	Tries int
	Lease int64 // fencing token of whoever collects
}

// RunState is whether a run may be writing into the quarantine copy.
type RunState string

// The run states.
const (
	NotStarted RunState = ""
	Running    RunState = "running"
	Ended      RunState = "ended"
)

// Transition is one row of a bundle's trail. Event is Nil for what is nobody else's business.
type Transition struct {
	From, To State
	Verb     Verb
	Version  int64
	Actor    string
	Reason   string
	Event    uuid.UUID
	At       time.Time
}

// Move applies a verb: the bundle's next state and version, and the row of the trail.
func (b *Bundle) Move(verb Verb, actor, reason string, at time.Time) (Transition, error) {
	to, err := Next(b.State, verb)
	if err != nil {
		return Transition{}, err
	}
	t := Transition{From: b.State, To: to, Verb: verb, Version: b.Version + 1, Actor: actor, Reason: reason, At: at}
	b.State, b.Version, b.UpdatedAt = to, t.Version, at
	return t, nil
}
