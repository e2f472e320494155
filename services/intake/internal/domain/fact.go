package domain

import (
	"encoding/json"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"
)

// Facts are what the owners have said about a request, each kind with the sequence it was last heard at. Kinds are kept apart, so that an
// older fact of one kind still counts after a newer one of another: whatever order they arrive in, the same facts remain.
type Facts struct {
	Decision       Decision        `json:"decision"`
	Blocked        *Failure        `json:"blocked,omitempty"` // intake itself refused to go on
	WithdrawnFrom  Status          `json:"withdrawn_from,omitempty"`
	RetriedAs      *uuid.UUID      `json:"retried_as,omitempty"` // the next request of the chain
	Queued         *Queued         `json:"queued,omitempty"`
	Waiting        *Waiting        `json:"waiting,omitempty"`
	Started        *Started        `json:"started,omitempty"`
	Steps          *Steps          `json:"steps,omitempty"`
	Ended          *Ended          `json:"ended,omitempty"`
	Recorded       *Recorded       `json:"recorded,omitempty"`
	Judged         *Judged         `json:"judged,omitempty"`
	Eligible       *Eligible       `json:"eligible,omitempty"`
	Release        *ReleaseFact    `json:"release,omitempty"`
	Published      *Published      `json:"published,omitempty"`
	Releases       []Release       `json:"releases,omitempty"`
	Reconciliation *Reconciliation `json:"reconciliation,omitempty"`
}

// Decision is the people's (or, for scans, the system's) decision about the request. Status is pending, approved, rejected or withdrawn.
type Decision struct {
	Status string     `json:"status"`
	Reason string     `json:"reason,omitempty"`
	By     string     `json:"by,omitempty"` // a person's id or "system"
	At     *time.Time `json:"at,omitempty"`
	// CarriedFrom is the request that was decided about, when a retry carries its decision over.
	CarriedFrom string `json:"carried_from,omitempty"`
}

// Queued: dispatch took the request over.
type Queued struct {
	Seq int64     `json:"seq"`
	At  time.Time `json:"at"`
}

// Waiting: no provider can take the run now.
type Waiting struct {
	Seq     int64     `json:"seq"`
	Code    string    `json:"code"`
	Message string    `json:"message,omitempty"`
	Since   time.Time `json:"since"`
}

// Started: a run began.
type Started struct {
	Seq       int64     `json:"seq"`
	RunID     string    `json:"run_id"`
	Attempt   int       `json:"attempt"`
	Provider  string    `json:"provider"`
	RunName   string    `json:"run_name,omitempty"`
	Namespace string    `json:"namespace,omitempty"`
	At        time.Time `json:"at"`
}

// Steps are the run's steps as they stood.
type Steps struct {
	Seq  int64     `json:"seq"`
	List []RunStep `json:"list"`
}

// RunStep is one step of a run.
type RunStep struct {
	Key         string     `json:"key"`
	Status      string     `json:"status"`
	Attempts    int        `json:"attempts"`
	LastError   string     `json:"last_error,omitempty"`
	StartedAt   *time.Time `json:"started_at,omitempty"`
	CompletedAt *time.Time `json:"completed_at,omitempty"`
}

// Ending is how a run ended.
type Ending string

// The endings.
const (
	RunSucceeded Ending = "succeeded"
	RunFailed    Ending = "failed"
	RunCancelled Ending = "cancelled"
)

// Ended: the run is over.
type Ended struct {
	Seq     int64     `json:"seq"`
	As      Ending    `json:"as"`
	RunID   string    `json:"run_id,omitempty"`
	Attempt int       `json:"attempt,omitempty"`
	Failure Failure   `json:"failure"`
	At      time.Time `json:"at"`
}

// Recorded: the evidence is in the evidence store.
type Recorded struct {
	Seq int64     `json:"seq"`
	At  time.Time `json:"at"`
}

// Judged is the policy's current verdict. The raw fields are protojson, kept as they came.
type Judged struct {
	Seq          int64           `json:"seq"`
	Verdict      string          `json:"verdict"` // pass | quarantine | incomplete | error
	Reasons      []string        `json:"reasons,omitempty"`
	WouldHave    string          `json:"would_have,omitempty"`
	EvidenceHash string          `json:"evidence_hash,omitempty"`
	DecidedAt    time.Time       `json:"decided_at"`
	ReadyAt      *time.Time      `json:"ready_at,omitempty"`
	ExpiresAt    *time.Time      `json:"expires_at,omitempty"`
	InternalRef  string          `json:"internal_ref,omitempty"`
	Failure      Failure         `json:"failure"`
	Policy       json.RawMessage `json:"policy,omitempty"`
	Scan         json.RawMessage `json:"scan,omitempty"`
	Sbom         json.RawMessage `json:"sbom,omitempty"`
	Checks       json.RawMessage `json:"checks,omitempty"` // array of CheckResult
	Report       json.RawMessage `json:"report,omitempty"`
	Platforms    json.RawMessage `json:"platforms,omitempty"` // array of Platform; counts when intake saw no index
}

// Eligible: the release may happen.
type Eligible struct {
	Seq        int64      `json:"seq"`
	At         time.Time  `json:"at"`
	ValidUntil *time.Time `json:"valid_until,omitempty"`
}

// ReleaseFact is the newest word of the release service about where the release stands.
type ReleaseFact struct {
	Seq     int64        `json:"seq"`
	State   ReleaseState `json:"state"`
	Blocker string       `json:"blocker,omitempty"`
	Message string       `json:"message,omitempty"`
}

// Published: the image is in the trusted registry.
type Published struct {
	Seq         int64      `json:"seq"`
	At          time.Time  `json:"at"`
	Actor       string     `json:"actor"`
	Destination string     `json:"destination"`
	ValidUntil  *time.Time `json:"valid_until,omitempty"`
}

// Release is one promotion to one destination.
type Release struct {
	ID          string     `json:"id"`
	Seq         int64      `json:"seq"`
	Destination string     `json:"destination"`
	Digest      string     `json:"digest"`
	State       string     `json:"state"` // approved | released | failed
	Actor       string     `json:"actor"`
	ReleasedAt  *time.Time `json:"released_at,omitempty"`
	Error       string     `json:"error,omitempty"`
}

// Reconciliation says how many planned recipients of the decision have their receipt.
type Reconciliation struct {
	Seq          int64  `json:"seq"`
	EventType    string `json:"event_type"`
	Key          string `json:"key"`
	Expected     int    `json:"expected"`
	Receipts     int    `json:"receipts"`
	InApp        int    `json:"in_app"`
	DeliveryMode string `json:"delivery_state"`
}

// Learn folds one fact in. False means that the same or a newer fact of its kind is known and nothing changed.
func (f *Facts) Learn(fact any) bool {
	switch n := fact.(type) {
	case Queued:
		return newer(&f.Queued, n, func(q Queued) int64 { return q.Seq })
	case Waiting:
		return newer(&f.Waiting, n, func(w Waiting) int64 { return w.Seq })
	case Started:
		return newer(&f.Started, n, func(s Started) int64 { return s.Seq })
	case Steps:
		return newer(&f.Steps, n, func(s Steps) int64 { return s.Seq })
	case Ended:
		return newer(&f.Ended, n, func(e Ended) int64 { return e.Seq })
	case Recorded:
		return newer(&f.Recorded, n, func(r Recorded) int64 { return r.Seq })
	case Judged:
		return newer(&f.Judged, n, func(j Judged) int64 { return j.Seq })
	case Eligible:
		learned := newer(&f.Eligible, n, func(e Eligible) int64 { return e.Seq })
		return f.learnRelease(ReleaseFact{Seq: n.Seq, State: ReleaseReady}) || learned
	case ReleaseFact:
		return f.learnRelease(n)
	case Promotion:
		return f.learnPromotion(n)
	case Reconciliation:
		return newer(&f.Reconciliation, n, func(r Reconciliation) int64 { return r.Seq })
	}
	return false
}

func newer[T any](slot **T, n T, seq func(T) int64) bool {
	if *slot != nil && seq(**slot) >= seq(n) {
		return false
	}
	*slot = &n
	return true
}

func (f *Facts) learnRelease(n ReleaseFact) bool {
	return newer(&f.Release, n, func(r ReleaseFact) int64 { return r.Seq })
}

// Promotion is a fact about one release: approved, released or failed.
type Promotion struct {
	Release    Release
	Blocker    string // of a failed one
	ValidUntil *time.Time
	At         time.Time
}

func (f *Facts) learnPromotion(n Promotion) bool {
	learned := f.learnOneRelease(n.Release)
	fact := ReleaseFact{Seq: n.Release.Seq, State: ReleaseApproved}
	switch n.Release.State {
	case "failed":
		fact.State, fact.Blocker, fact.Message = ReleaseBlocked, n.Blocker, n.Release.Error
	case "released":
		fact.State = Released
		published := Published{Seq: n.Release.Seq, At: n.At, Actor: n.Release.Actor, Destination: n.Release.Destination, ValidUntil: n.ValidUntil}
		learned = newer(&f.Published, published, func(p Published) int64 { return p.Seq }) || learned
	}
	return f.learnRelease(fact) || learned
}

func (f *Facts) learnOneRelease(n Release) bool {
	i, found := slices.BinarySearchFunc(f.Releases, n.ID, func(r Release, id string) int { return strings.Compare(r.ID, id) })
	if !found {
		f.Releases = slices.Insert(f.Releases, i, n)
		return true
	}
	if f.Releases[i].Seq >= n.Seq {
		return false
	}
	f.Releases[i] = n
	return true
}
