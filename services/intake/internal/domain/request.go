package domain

import (
	"time"

	"github.com/google/uuid"

	"github.com/pratique-io/pratique/internal/failure"
)

// Type is what a request is for.
type Type string

// The request types.
const (
	TypeQuarantine Type = "quarantine"
	TypeScan       Type = "scan"
)

// How the EPR question was answered.
const (
	BasisLocal       = "local"
	BasisNotEnforced = "not_enforced"
)

// Request is a tenant's ask, where it stands, and all that was heard about it.
type Request struct {
	ID              uuid.UUID
	Tenant          uuid.UUID
	Type            Type
	ArtifactType    string
	RequestedBy     uuid.UUID
	EprRecordID     string // empty for scans
	EprBasis        string // empty for scans
	SourceRegistry  string
	SourceImageRef  string // repository with tag or digest
	SourceDigest    string
	Platforms       []Platform
	DestinationRef  string // empty when not asked for
	Justification   string
	ChainID         uuid.UUID
	ChainPosition   int       // from 1, the original
	RetryOf         uuid.UUID // the request before this one in the chain; Nil for an original
	ClonedFrom      uuid.UUID // Nil when not cloned
	ChainRequesters []uuid.UUID

	State       State
	ExecutionAt time.Time // when the execution state last moved
	ConcludedAt *time.Time
	Facts       Facts
	Version     int64
	CreatedAt   time.Time
	UpdatedAt   time.Time
}

// Platform is one image of an index.
type Platform struct {
	OS           string `json:"os"`
	Architecture string `json:"architecture"`
	Variant      string `json:"variant,omitempty"`
	Digest       string `json:"digest"`
}

// State is what moves, always together.
type State struct {
	Status    Status
	Execution Execution
	Release   ReleaseState
}

// Step is one version of a request: the verb and the state before and after. A Record leaves the state as it was.
type Step struct {
	Version int64
	Verb    Verb
	From    State
	To      State
}

// Moved says whether the step changed the state.
func (s Step) Moved() bool { return s.From != s.To }

// Begin puts a new request in its first state: version 1.
func (r *Request) Begin(now time.Time) Step {
	r.State = State{Status: Pending, Execution: AwaitingApproval, Release: NotReady}
	r.Facts.Decision = Decision{Status: string(Pending)}
	r.CreatedAt, r.UpdatedAt, r.ExecutionAt, r.Version = now, now, now, 1
	return Step{Version: 1, Verb: Create, To: r.State}
}

// Decide records the decision and moves a pending request by Approve or Reject.
func (r *Request) Decide(verb Verb, by, reason string, at, now time.Time) (Step, error) {
	step, err := r.move(verb, now)
	if err != nil {
		return Step{}, err
	}
	status := string(Approved)
	if verb == Reject {
		status = string(Rejected)
	}
	r.Facts.Decision = Decision{Status: status, By: by, Reason: reason, At: &at}
	return step, nil
}

// TakeBack withdraws. A decision already made stays on the record.
func (r *Request) TakeBack(by, reason string, now time.Time) (Step, error) {
	from := r.State.Status
	step, err := r.move(Withdraw, now)
	if err != nil {
		return Step{}, err
	}
	r.Facts.WithdrawnFrom = from
	if from == Pending {
		r.Facts.Decision = Decision{Status: string(Withdrawn), By: by, Reason: reason, At: &now}
	}
	return step, nil
}

// Refuse fails an approved or importing request that tenant, capability or EPR no longer allow.
func (r *Request) Refuse(message string, now time.Time) (Step, error) {
	step, err := r.move(Fail, now)
	if err != nil {
		return Step{}, err
	}
	r.Facts.Blocked = &Failure{Class: failure.Policy, Code: failure.PolicyBlocked, Message: message}
	return step, nil
}

// move applies one status verb.
func (r *Request) move(verb Verb, now time.Time) (Step, error) {
	to, err := Next(r.State.Status, verb)
	if err != nil {
		return Step{}, err
	}
	next := r.State
	next.Status = to
	switch verb {
	case Approve:
		next.Execution = AwaitingDispatch
	case Start:
		next.Execution = PipelineRunning
	case Collect:
		next.Execution = EvidencePending
	case Succeed: // a quarantine request goes on when release has spoken
		next.Execution = EvidencePending
		if r.Type == TypeScan {
			next.Execution = Completed
		}
	default:
		next.Execution = Completed
	}
	return r.enter(verb, next, now), nil
}

// moveRelease applies one release verb.
func (r *Request) moveRelease(verb Verb, now time.Time) (Step, error) {
	to, err := NextRelease(r.State.Release, verb)
	if err != nil {
		return Step{}, err
	}
	next := r.State
	next.Release = to
	next.Execution = ReadyForRelease
	if to == Released || to == Recalled || (to == ReleaseBlocked && r.State.Status == Quarantined) {
		next.Execution = Completed
	}
	return r.enter(verb, next, now), nil
}

func (r *Request) enter(verb Verb, next State, now time.Time) Step {
	r.Version++
	step := Step{Version: r.Version, Verb: verb, From: r.State, To: next}
	if next.Execution != r.State.Execution {
		r.ExecutionAt = now
	}
	r.State, r.UpdatedAt = next, now
	return step
}
