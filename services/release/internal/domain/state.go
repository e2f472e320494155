// Package domain is what release knows without a database or a registry: the life of a release record, the rules of eligibility, where images
// may go, and what a verdict says. It is pure, so that every rule can be walked by a test.
package domain

import "fmt"

// State says where the release of a request stands. The SQL CHECK lists the same ones.
type State string

// The release states of the contract.
const (
	NotReady State = "not_ready"
	Ready    State = "ready_for_release"
	Blocked  State = "release_blocked"
	Approved State = "release_approved"
	Released State = "released"
	Recalled State = "recalled" // terminal: coming back is a new request
)

// States lists all states in the order of life.
func States() []State { return []State{NotReady, Ready, Blocked, Approved, Released, Recalled} }

// Verb is an act on a release record. Each is one version of the record, one transition row and one event.
type Verb string

// The verbs.
const (
	Open    Verb = "open"    // everything that a release needs is there
	Block   Verb = "block"   // it is not, or for another reason than before
	Approve Verb = "approve" // somebody entitled said yes
	Publish Verb = "publish" // the digest is at the destination
	Fail    Verb = "fail"    // the promotion came to nothing
	Note    Verb = "note"    // something happened that moves nothing: a copy deleted, a consumption
)

// Verbs lists all verbs.
func Verbs() []Verb { return []Verb{Open, Block, Approve, Publish, Fail, Note} }

// lifecycle is the one table that a record moves by. A released record may be promoted to further places; what becomes of those promotions
// does not take back that it is released.
var lifecycle = map[State]map[Verb]State{
	NotReady: {Open: Ready, Block: Blocked, Note: NotReady},
	Ready:    {Block: Blocked, Approve: Approved, Note: Ready},
	Blocked:  {Open: Ready, Block: Blocked, Approve: Approved, Note: Blocked},
	Approved: {Publish: Released, Fail: Blocked, Note: Approved},
	Released: {Approve: Released, Publish: Released, Fail: Released, Note: Released},
	Recalled: {Note: Recalled},
}

// Conflict is a verb that the state does not know.
type Conflict struct {
	From State
	Verb Verb
}

// Error implements error.
func (c *Conflict) Error() string {
	return fmt.Sprintf("a release that is %s cannot %s", c.From, c.Verb)
}

// Next is the state that the verb leads to, or a *Conflict.
func Next(from State, verb Verb) (State, error) {
	to, ok := lifecycle[from][verb]
	if !ok {
		return "", &Conflict{From: from, Verb: verb}
	}
	return to, nil
}

// Blocker says why something may not be released; empty when nothing stands in the way.
type Blocker string

// The reasons of the contract that this service can find.
const (
	PolicyNotPassed    Blocker = "policy_not_passed"
	PolicyQuarantined  Blocker = "policy_quarantined"
	EvidenceIncomplete Blocker = "evidence_incomplete"
	EvidenceStale      Blocker = "evidence_stale"
	ImportFailed       Blocker = "import_failed"
	ImportNotTerminal  Blocker = "import_not_terminal"
	PromotionFailed    Blocker = "promotion_failed"
	DigestMismatch     Blocker = "digest_mismatch"
	DryRun             Blocker = "dry_run_not_releasable"
	EprNotInForce      Blocker = "epr_not_in_force" // asked of intake when somebody releases; never stored
)

// Blockers lists those that a record can be blocked by.
func Blockers() []Blocker {
	return []Blocker{PolicyNotPassed, PolicyQuarantined, EvidenceIncomplete, EvidenceStale, ImportFailed, ImportNotTerminal, PromotionFailed,
		DigestMismatch, DryRun}
}

var blockerTexts = map[Blocker]string{
	PolicyNotPassed:    "the policy has not passed this image",
	PolicyQuarantined:  "the policy keeps this image in quarantine",
	EvidenceIncomplete: "the evidence about this image is not complete",
	EvidenceStale:      "the evidence about this image is too old, or its quarantine copy is gone: it must be renewed",
	ImportFailed:       "the import did not succeed",
	ImportNotTerminal:  "the import has not come to its end",
	PromotionFailed:    "the last promotion failed; it may be released again",
	DigestMismatch:     "the bytes are not those that were judged",
	DryRun:             "the policy runs dry and would not have passed this image",
	EprNotInForce:      "the product registration is not in force",
}

// Text says a blocker to people.
func (b Blocker) Text() string { return blockerTexts[b] }
