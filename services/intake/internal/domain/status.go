// Package domain is what intake knows without a database: the lifecycle tables of requests and EPR registrations, how the facts of other
// services fold into a request whatever order they arrive in, capabilities, failures and the rules for fields. It is pure: no clock, no I/O.
package domain

import "fmt"

// Status is what a request has come to. It never changes once terminal.
type Status string

// The statuses of the contract.
const (
	Pending     Status = "pending"
	Approved    Status = "approved"
	Rejected    Status = "rejected"
	Withdrawn   Status = "withdrawn"
	Importing   Status = "importing"
	Success     Status = "success"
	Quarantined Status = "quarantined"
	Failed      Status = "failed"
)

// Verb moves a request.
type Verb string

// Verbs of the status, then of the release state. Create and Record move nothing: they name the first transition of a request and a fact that
// changed the object without moving it.
const (
	Create Verb = "create"
	Record Verb = "record"

	Approve    Verb = "approve"
	Reject     Verb = "reject"
	Withdraw   Verb = "withdraw"
	Start      Verb = "start"   // a run began
	Collect    Verb = "collect" // the run ended well, its evidence is awaited
	Succeed    Verb = "succeed"
	Quarantine Verb = "quarantine"
	Fail       Verb = "fail"

	Ready   Verb = "release_ready"
	Block   Verb = "release_block"
	Grant   Verb = "release_approve"
	Publish Verb = "release"
	Recall  Verb = "recall"
)

// Statuses lists all, in the order of a life.
func Statuses() []Status {
	return []Status{Pending, Approved, Rejected, Withdrawn, Importing, Success, Quarantined, Failed}
}

// StatusVerbs lists the verbs that move a status.
func StatusVerbs() []Verb {
	return []Verb{Approve, Reject, Withdraw, Start, Collect, Succeed, Quarantine, Fail}
}

// lifecycle is the one table that a status moves by.
var lifecycle = map[Status]map[Verb]Status{
	Pending:     {Approve: Approved, Reject: Rejected, Withdraw: Withdrawn},
	Approved:    {Start: Importing, Fail: Failed, Withdraw: Withdrawn},
	Importing:   {Collect: Importing, Succeed: Success, Quarantine: Quarantined, Fail: Failed, Withdraw: Withdrawn},
	Rejected:    {},
	Withdrawn:   {},
	Success:     {},
	Quarantined: {},
	Failed:      {},
}

// Next is the status after the verb, or a *Move when the state does not know it.
func Next(from Status, verb Verb) (Status, error) {
	to, ok := lifecycle[from][verb]
	if !ok {
		return "", &Move{From: string(from), Verb: verb}
	}
	return to, nil
}

// Terminal says whether nothing moves the status any more.
func (s Status) Terminal() bool { return len(lifecycle[s]) == 0 }

// Known says whether s is one of the statuses.
func (s Status) Known() bool { _, ok := lifecycle[s]; return ok }

// Move is the error of a verb that a state does not know.
type Move struct {
	From string
	Verb Verb
}

// Error implements error.
func (m *Move) Error() string { return fmt.Sprintf("%s does not know the verb %s", m.From, m.Verb) }

// Execution is how far a request is on its way; derived by the same steps that move the status and the release state.
type Execution string

// The six execution states, in order; also the keys of the lifecycle stages.
const (
	AwaitingApproval Execution = "awaiting_approval"
	AwaitingDispatch Execution = "awaiting_dispatch"
	PipelineRunning  Execution = "pipeline_running"
	EvidencePending  Execution = "evidence_pending"
	ReadyForRelease  Execution = "ready_for_release"
	Completed        Execution = "completed"
)

// Executions lists all in order.
func Executions() []Execution {
	return []Execution{AwaitingApproval, AwaitingDispatch, PipelineRunning, EvidencePending, ReadyForRelease, Completed}
}
