package domain

import (
	"time"

	"github.com/google/uuid"
)

// The reasons of a verdict. The set is closed: these, and the blockers beside not_released.
const (
	SaysReleased        = "released"
	SaysExpired         = "evidence_expired"
	SaysNotRequested    = "not_requested"
	SaysPending         = "pending_decision"
	SaysRejected        = "rejected"
	SaysQuarantined     = "quarantined"
	SaysNotReleased     = "not_released"
	SaysUnknownImage    = "unknown_image"
	SaysInvalid         = "invalid_reference"
	nextRequestImport   = "request_import"
	nextWaitForDecision = "wait_for_decision"
	nextWaitForImport   = "wait_for_import"
	nextAskForRelease   = "ask_for_release"
	nextWaitForRelease  = "wait_for_release"
	nextSeeExplain      = "see_explain"
	nextCorrect         = "correct_reference"
)

// Artifact is one digest at one place in the trusted registry.
type Artifact struct {
	ID, Tenant     uuid.UUID
	Record         uuid.UUID // the request
	Release        uuid.UUID // the promotion
	SourceRegistry string
	SourceRef      string
	Digest         string
	Destination    string // repository:tag
	Repository     string // host/repository
	TrustedRef     string // repository@digest
	ReleasedAt     time.Time
	ReleasedBy     string // person id
	ValidUntil     *time.Time
	PreviousDigest string // what the tag named before, when it moved
	Current        bool   // the tag names this digest
}

// Usable says whether the image may be used now, and if not why.
func (a Artifact) Usable(now time.Time) (bool, string) {
	if a.ValidUntil != nil && !now.Before(*a.ValidUntil) {
		return false, SaysExpired
	}
	return true, ""
}

// Verdict answers: may this image be used?
type Verdict struct {
	Allowed       bool
	Digest        string
	TrustedRef    string
	Reasons       []string
	ValidUntil    *time.Time
	Release       uuid.UUID
	Authoritative bool
	NextAction    string
}

// InvalidReference is the verdict on what cannot be read.
func InvalidReference() Verdict {
	return Verdict{Reasons: []string{SaysInvalid}, Authoritative: true, NextAction: nextCorrect}
}

// Judge decides from what was found: the released artifact that the reference names, else the newest request for it, else nothing. ours says
// that the reference points into the trusted registry, whose only writer is this service.
func Judge(ours bool, artifact *Artifact, record *Record, bySourceTag bool, now time.Time) Verdict {
	switch {
	case artifact != nil:
		// A tag of a foreign registry may name other bytes today than when it was pinned.
		return released(*artifact, !bySourceTag, now)
	case record != nil:
		return unreleased(record)
	case ours:
		return Verdict{Reasons: []string{SaysUnknownImage}, Authoritative: true, NextAction: nextRequestImport}
	}
	return Verdict{Reasons: []string{SaysNotRequested}, NextAction: nextRequestImport}
}

func released(a Artifact, authoritative bool, now time.Time) Verdict {
	v := Verdict{
		Digest: a.Digest, TrustedRef: a.TrustedRef, ValidUntil: a.ValidUntil, Release: a.Release, Authoritative: authoritative,
		Reasons: []string{SaysReleased},
	}
	usable, why := a.Usable(now)
	if v.Allowed = usable; !usable {
		v.Reasons, v.NextAction = []string{why}, nextRequestImport
	}
	return v
}

func unreleased(r *Record) Verdict {
	v := Verdict{Reasons: []string{SaysNotReleased}, NextAction: nextSeeExplain}
	if r.Known() {
		v.Digest = r.Facts.Asked.Digest
	}
	status := r.Facts.Status()
	switch {
	case status == Pending:
		v.Reasons, v.NextAction = []string{SaysPending}, nextWaitForDecision
	case status == Rejected:
		v.Reasons, v.NextAction = []string{SaysRejected}, nextRequestImport
	case status == Withdrawn, status == Failed:
		v.Reasons, v.NextAction = append(v.Reasons, string(ImportFailed)), nextRequestImport
	case r.State == Ready:
		v.NextAction = nextAskForRelease
	case r.State == Approved:
		v.NextAction = nextWaitForRelease
	case r.State == Blocked && r.Blocker == PolicyQuarantined:
		v.Reasons = []string{SaysQuarantined}
	case r.State == Blocked:
		v.Reasons = append(v.Reasons, string(r.Blocker))
	case status == Admitted, status == Importing:
		v.NextAction = nextWaitForImport
	}
	return v
}
