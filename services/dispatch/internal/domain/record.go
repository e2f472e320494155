// Package domain is what dispatch knows without a database or a runner: the life of a dispatch record, the steps of a run, the
// closed set of failures, and who is served next. It is pure, so that every rule can be walked by a test.
package domain

import (
	"fmt"
	"time"

	"github.com/google/uuid"
)

// State is where a dispatch record stands. There is one record per request.
type State string

// The states of a record. The SQL CHECK lists the same ones.
const (
	Queued    State = "queued"    // approved, waits for its turn
	Waiting   State = "waiting"   // no provider can take it now; told once per period
	Starting  State = "starting"  // permitted; the runner may or may not know the run yet
	Running   State = "running"   // the runner took it
	Succeeded State = "succeeded" // terminal
	Failed    State = "failed"    // terminal
	Cancelled State = "cancelled" // terminal: withdrawn, or the permit was refused
)

// States lists all states in the order of life.
func States() []State {
	return []State{Queued, Waiting, Starting, Running, Succeeded, Failed, Cancelled}
}

// Verb is an act on a record.
type Verb string

// The verbs of a record.
const (
	Wait    Verb = "wait"    // no provider
	Start   Verb = "start"   // the permit is there, intent is recorded before the runner is called
	Run     Verb = "run"     // the runner took it
	Step    Verb = "step"    // a step began or ended
	Requeue Verb = "requeue" // the attempt never started, or was lost with its infrastructure
	Succeed Verb = "succeed"
	Fail    Verb = "fail"
	Cancel  Verb = "cancel"
)

// Verbs lists all verbs.
func Verbs() []Verb { return []Verb{Wait, Start, Run, Step, Requeue, Succeed, Fail, Cancel} }

// lifecycle is the whole machine: what is not in it is a conflict.
var lifecycle = map[State]map[Verb]State{
	Queued:   {Wait: Waiting, Start: Starting, Fail: Failed, Cancel: Cancelled},
	Waiting:  {Start: Starting, Fail: Failed, Cancel: Cancelled},
	Starting: {Run: Running, Requeue: Queued, Fail: Failed, Cancel: Cancelled},
	Running:  {Step: Running, Requeue: Queued, Succeed: Succeeded, Fail: Failed, Cancel: Cancelled},
}

// Next is the state that the verb leads to, or an error when the state does not know the verb.
func Next(from State, verb Verb) (State, error) {
	to, ok := lifecycle[from][verb]
	if !ok {
		return "", fmt.Errorf("a dispatch record that is %s knows no %s", from, verb)
	}
	return to, nil
}

// Terminal says that nothing follows.
func (s State) Terminal() bool { return s == Succeeded || s == Failed || s == Cancelled }

// Owed says that the record waits for a run to be started.
func (s State) Owed() bool { return s == Queued || s == Waiting }

// Active says that a runner holds, or may hold, a run of this record.
func (s State) Active() bool { return s == Starting || s == Running }

// MaxAttempts bounds the runs within one request, so that infrastructure that dies again and again ends in a failure.
const MaxAttempts = 3

// Record is the dispatch of one request; its id is the request's.
type Record struct {
	ID, Tenant       uuid.UUID
	State            State
	Version          int64 // the aggregate's sequence: one more with each transition
	Attempt          int   // of the newest run, from 1
	RequestType      string
	SourceRegistry   string // host[:port]
	SourceImageRef   string
	SourceDigest     string
	RegistryAuth     string // id of the source credential; empty for anonymous
	Provider         uuid.UUID
	QuarantineTarget string    // host/q/<tenant>/<request>, set with the first start
	CancelAt         time.Time // when cancellation was asked for; zero: not
	CancelReason     string
	Failure          *Failure
	CreatedAt        time.Time // when the record came to be
	QueuedAt         time.Time // start of the present waiting period; dispatch_wait counts from here
	ExpiresAt        time.Time // when the credentials of the present run end: after it the run can write nothing
	DueAt            time.Time // not looked at before
	LeaseToken       int64     // fencing token of whoever works on the record
	LeasedUntil      time.Time
	Tombstone        bool // withdrawn before its approval arrived; never a run
}

// Transition is one row of the audit trail. Event is Nil for a transition that is nobody else's business.
type Transition struct {
	From, To State
	Verb     Verb
	Version  int64
	Actor    string
	Reason   string
	Event    uuid.UUID
	At       time.Time
}
