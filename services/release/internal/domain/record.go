package domain

import (
	"slices"
	"time"

	"github.com/google/uuid"
)

// Record is the release of one request; its id is the request's. Version is the aggregate's version, which only verbs move: facts that change
// nothing visible leave it.
type Record struct {
	ID, Tenant uuid.UUID
	Facts      Facts
	State      State
	Blocker    Blocker // while blocked
	FailedAs   Blocker // promotion_failed or digest_mismatch, while the last promotion stands as failed
	Version    int64
	CreatedAt  time.Time
	UpdatedAt  time.Time
}

// NewRecord is a record of which nothing is known but that it exists.
func NewRecord(id, tenant uuid.UUID, now time.Time) *Record {
	return &Record{ID: id, Tenant: tenant, State: NotReady, CreatedAt: now, UpdatedAt: now}
}

// Step is one taken verb: the transition to write.
type Step struct {
	Verb     Verb
	From, To State
	Blocker  Blocker // after the step
	Version  int64   // after the step
	At       time.Time
}

// Known says whether intake told what was asked for.
func (r *Record) Known() bool { return r.Facts.Asked != nil }

// take moves the record by the table.
func (r *Record) take(verb Verb, blocker Blocker, now time.Time) (Step, error) {
	to, err := Next(r.State, verb)
	if err != nil {
		return Step{}, err
	}
	step := Step{Verb: verb, From: r.State, To: to, At: now}
	if to == Blocked && verb == Note {
		blocker = r.Blocker
	}
	if to != Blocked {
		blocker = ""
	}
	r.State, r.Blocker, r.UpdatedAt = to, blocker, now
	r.Version++
	step.Blocker, step.Version = blocker, r.Version
	return step, nil
}

// Settle takes the step that the facts now imply, if any: open or block. While a promotion is on its way, and after a release, the promotion
// and the recall decide, not the facts.
func (r *Record) Settle(now time.Time) (Step, bool) {
	switch r.State {
	case NotReady, Ready, Blocked:
	default:
		return Step{}, false
	}
	if !r.Known() || r.Facts.Asked.Type != TypeQuarantine {
		return Step{}, false
	}
	if first(r.Facts.rules(now, false)) != "" {
		r.FailedAs = "" // a better reason than a failed promotion
	}
	ok, reason, _ := r.Eligible(now)
	verb := Block
	switch {
	case ok && r.State == Ready, !ok && r.State == Blocked && r.Blocker == reason:
		return Step{}, false
	case ok:
		verb = Open
	case r.State == NotReady && !r.spoken():
		return Step{}, false
	}
	step, err := r.take(verb, reason, now)
	return step, err == nil
}

// spoken: evidence has said something that a release can be blocked by. A scanner error at first is a failed import, not a blocked release.
func (r *Record) spoken() bool {
	judged := r.Facts.Judged
	return judged != nil && (judged.Decision != Error || r.Facts.Status() != Failed)
}

// Releasable says whether somebody may release the record now, and if not why. A failed promotion does not stand in the way of the next one;
// one on its way does (with no blocker: it is not blocked).
func (r *Record) Releasable(now time.Time) (bool, Blocker) {
	switch r.State {
	case Approved, Recalled:
		return false, ""
	case NotReady:
		if reason := first(r.Facts.rules(now, false)); reason != "" {
			return false, reason
		}
		return false, ImportNotTerminal
	}
	reason := first(r.Facts.rules(now, r.State == Released))
	return reason == "", reason
}

// MayRelease says whether the person had no part in the request.
func (r *Record) MayRelease(person uuid.UUID) bool {
	return r.Known() && person != uuid.Nil && !slices.Contains(r.Facts.Asked.Chain, person.String())
}

// Grant takes the verb approve.
func (r *Record) Grant(now time.Time) (Step, error) {
	if ok, _ := r.Releasable(now); !ok {
		return Step{}, &Conflict{From: r.State, Verb: Approve}
	}
	step, err := r.take(Approve, "", now)
	if err == nil {
		r.FailedAs = ""
	}
	return step, err
}

// Published takes the verb publish.
func (r *Record) Published(now time.Time) (Step, error) { return r.take(Publish, "", now) }

// Unpublished takes the verb fail, and then blocks for a better reason when the facts have one.
func (r *Record) Unpublished(as Blocker, now time.Time) ([]Step, error) {
	step, err := r.take(Fail, as, now)
	if err != nil {
		return nil, err
	}
	steps := []Step{step}
	if r.State == Blocked {
		r.FailedAs = as
		if more, moved := r.Settle(now); moved {
			steps = append(steps, more)
		}
	}
	return steps, nil
}

// Noted takes the verb note.
func (r *Record) Noted(now time.Time) (Step, error) { return r.take(Note, "", now) }

// Standing says whether the facts still allow a promotion that was approved; elsewhere says that the bytes are in the trusted registry already.
func (r *Record) Standing(now time.Time, elsewhere bool) (bool, Blocker) {
	reason := first(r.Facts.rules(now, elsewhere))
	return reason == "", reason
}
