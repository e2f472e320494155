package domain

import (
	"slices"
	"time"
)

// Status is how far the import has come, in intake's words; empty while intake has not been heard.
type Status string

// The statuses of a request.
const (
	Pending     Status = "pending"
	Admitted    Status = "approved"
	Importing   Status = "importing"
	Succeeded   Status = "success"
	Quarantined Status = "quarantined"
	Rejected    Status = "rejected"
	Withdrawn   Status = "withdrawn"
	Failed      Status = "failed"
)

// rank orders statuses in time: intake never goes back, and a terminal status never changes.
var rank = map[Status]int{
	"": 0, Pending: 1, Admitted: 2, Importing: 3, Succeeded: 4, Quarantined: 4, Rejected: 4, Withdrawn: 4, Failed: 4,
}

// Known says whether s is a status of the contract.
func (s Status) Known() bool { return rank[s] > 0 }

func (s Status) terminal() bool { return rank[s] == 4 }

// The kinds of requests, and the verdicts of the policy.
const (
	TypeQuarantine = "quarantine"
	TypeScan       = "scan"

	Pass       = "pass"
	Quarantine = "quarantine"
	Incomplete = "incomplete"
	Error      = "error"
)

// Request is what was asked for, as RequestSubmitted and RequestApproved tell it alike.
type Request struct {
	Type           string
	Requester      string   // person id
	Chain          []string // everyone who requested anything in the retry chain
	SourceRegistry string
	SourceRef      string
	Digest         string
	Destination    string // empty when the requester left it open
}

// Judged is the policy's newest word about the evidence.
type Judged struct {
	Seq              int64
	Decision         string
	Digest           string
	EvidenceHash     string
	PolicyHash       string
	WouldHaveDecided string // what an enforcing policy would have said; empty unless the policy ran dry
	DryRunReleasable bool
	Referrers        []string
	ValidUntil       *time.Time
}

// Progress is a status heard from intake.
type Progress struct {
	Seq    int64
	Status Status
}

// Broken: the run failed, says dispatch.
type Broken struct{ Seq int64 }

// Stale: the evidence passed its age, says evidence.
type Stale struct {
	Seq int64
	At  time.Time
}

// Removed: the copy in the quarantine registry is gone.
type Removed struct {
	Seq    int64
	Reason string
	Digest string
}

// Facts are what the other services have said about a request. Each kind has the sequence it was last heard at, so that the same facts remain
// in whatever order, and however often, they arrive.
type Facts struct {
	Asked    *Request // nil until intake told what was asked for
	Progress Progress
	Broken   *Broken
	Judged   *Judged
	Stale    *Stale
	Removed  *Removed
}

// Learn folds one fact in. False means that the same or a newer one was known.
func (f *Facts) Learn(fact any) bool {
	switch n := fact.(type) {
	case Request:
		return f.learnRequest(n)
	case Progress:
		return f.learnProgress(n)
	case Broken:
		return newer(&f.Broken, n, func(b Broken) int64 { return b.Seq })
	case Judged:
		return newer(&f.Judged, n, func(j Judged) int64 { return j.Seq })
	case Stale:
		return newer(&f.Stale, n, func(s Stale) int64 { return s.Seq })
	case Removed:
		if f.Removed != nil { // gone is gone: it is told once
			return false
		}
		f.Removed = &n
		return true
	}
	return false
}

// learnRequest takes what never changes from whichever event comes first; of the chain it keeps everyone ever named.
func (f *Facts) learnRequest(n Request) bool {
	n.Chain = distinct(append(slices.Clone(n.Chain), n.Requester))
	if f.Asked == nil {
		f.Asked = &n
		return true
	}
	merged := distinct(append(slices.Clone(f.Asked.Chain), n.Chain...))
	grown := len(merged) > len(f.Asked.Chain)
	f.Asked.Chain = merged
	return grown
}

func distinct(ids []string) []string {
	slices.Sort(ids)
	return slices.DeleteFunc(slices.Compact(ids), func(id string) bool { return id == "" })
}

// learnProgress goes by how far a status is, then by sequence: two events of one version of the request may come in either order.
func (f *Facts) learnProgress(n Progress) bool {
	was, is := rank[f.Progress.Status], rank[n.Status]
	if is == 0 || is < was || is == was && (n.Seq <= f.Progress.Seq || n.Status == f.Progress.Status) {
		return false
	}
	f.Progress = n
	return true
}

func newer[T any](slot **T, n T, seq func(T) int64) bool {
	if *slot != nil && seq(**slot) >= seq(n) {
		return false
	}
	*slot = &n
	return true
}

// Status is the import's status as far as it is known: intake's own word when it is final, else what the facts imply.
func (f *Facts) Status() Status {
	switch {
	case f.Progress.Status.terminal():
		return f.Progress.Status
	case f.Judged != nil && (f.Judged.Decision == Pass || f.Judged.Decision == Incomplete):
		return Succeeded
	case f.Judged != nil && f.Judged.Decision == Quarantine:
		return Quarantined
	case f.Judged != nil, f.Broken != nil:
		return Failed
	case f.Progress.Status == "":
		return Pending
	}
	return f.Progress.Status
}

// stale says since when evidence calls itself too old; nil when a judgement came after.
func (f *Facts) stale() *time.Time {
	if f.Stale == nil || f.Judged != nil && f.Judged.Seq > f.Stale.Seq {
		return nil
	}
	return &f.Stale.At
}
