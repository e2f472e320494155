package domain

import (
	"time"

	"github.com/pratique-io/pratique/internal/failure"
)

// Hear folds a fact in and takes every step that the facts now imply, in the table's order: a terminal fact whose predecessors have not
// arrived walks through their states. known is false when the fact is old. A fact that moves nothing is one Record step, except Steps, which
// are not part of the object.
func (r *Request) Hear(fact any, now time.Time) (steps []Step, known bool) {
	if !r.Facts.Learn(fact) {
		return nil, false
	}
	steps = r.settle(now)
	if _, silent := fact.(Steps); len(steps) == 0 && !silent {
		steps = append(steps, r.enter(Record, r.State, now))
	}
	return steps, true
}

func (r *Request) settle(now time.Time) []Step {
	var steps []Step
	for {
		verb := r.owed()
		if verb == "" {
			break
		}
		step, err := r.move(verb, now)
		if err != nil { // owed names only verbs of the table
			break
		}
		steps = append(steps, step)
	}
	for _, verb := range releasePath(r.State.Release, r.releaseTarget()) {
		step, err := r.moveRelease(verb, now)
		if err != nil {
			break
		}
		steps = append(steps, step)
	}
	return steps
}

// owed is the next status verb that the facts imply; empty when there is none.
func (r *Request) owed() Verb {
	f := &r.Facts
	finished := f.Judged != nil || f.Recorded != nil || (f.Ended != nil && f.Ended.As == RunSucceeded)
	broken := f.Ended != nil && f.Ended.As != RunSucceeded
	switch r.State.Status {
	case Approved:
		if finished || f.Started != nil || (broken && f.Ended.ran()) {
			return Start
		}
		if broken {
			return Fail
		}
	case Importing:
		switch {
		case finished && r.State.Execution == PipelineRunning:
			return Collect
		case f.Judged != nil:
			return f.Judged.verb()
		case broken && !finished:
			return Fail
		}
	}
	return ""
}

// ran says whether the run had begun: a failure to dispatch ends a run that never started.
func (e Ended) ran() bool {
	return e.RunID != "" && e.Attempt > 0 && e.Failure.Class != failure.Dispatch
}

func (j Judged) verb() Verb {
	switch j.Verdict {
	case "pass", "incomplete":
		return Succeed
	case "quarantine":
		return Quarantine
	}
	return Fail // error, or a verdict that we do not know: fail closed
}

// releaseTarget is the release state that the facts imply. Release is not shown ahead of the evidence that it rests on, and nothing but a
// recall comes after released: a further release only adds to the list.
func (r *Request) releaseTarget() ReleaseState {
	f := &r.Facts
	if !r.Releasable() || f.Release == nil || r.State.Release == Recalled {
		return r.State.Release
	}
	if f.Release.State == Recalled {
		return Recalled
	}
	if f.Published != nil {
		return Released
	}
	return f.Release.State
}

// Releasable says whether the request is of the kind, and has come far enough, for release to speak about it.
func (r *Request) Releasable() bool {
	return r.Type == TypeQuarantine && (r.State.Status == Success || r.State.Status == Quarantined)
}

// Conclude marks the end of the quarantine once: true the first time that nothing more is to come for consumers in other systems.
func (r *Request) Conclude(now time.Time) bool {
	if r.ConcludedAt != nil {
		return false
	}
	switch r.State.Status {
	case Failed:
	case Success, Quarantined:
		if r.Type == TypeQuarantine && r.State.Release == NotReady {
			return false
		}
	default:
		return false
	}
	r.ConcludedAt = &now
	return true
}

// Failure is why the request failed or was quarantined, or what an approved one waits for; nil when there is nothing to say.
func (r *Request) Failure() *Failure {
	f := &r.Facts
	switch r.State.Status {
	case Failed:
		return r.cause()
	case Quarantined:
		return &Failure{Class: failure.Policy, Code: failure.QuarantinedByPolicy}
	case Approved:
		if f.Waiting != nil && (f.Started == nil || f.Started.Seq < f.Waiting.Seq) {
			out := Failure{Code: f.Waiting.Code, Message: f.Waiting.Message}.sound(failure.DispatcherUnavailable)
			return &out
		}
	}
	return nil
}

func (r *Request) cause() *Failure {
	f := &r.Facts
	out := Failure{Class: failure.Runtime, Code: failure.RuntimeFailed}
	switch {
	case f.Blocked != nil:
		out = *f.Blocked
	case f.Judged != nil:
		out = f.Judged.Failure.sound(failure.ScannerError)
	case f.Ended != nil && f.Ended.As == RunCancelled:
		out.Message = "the run was cancelled"
	case f.Ended != nil:
		out = f.Ended.Failure.sound(failure.RuntimeFailed)
	}
	return &out
}

// Blocker is why a release is blocked; empty unless it is.
func (r *Request) Blocker() string {
	if r.State.Release != ReleaseBlocked || r.Facts.Release == nil {
		return ""
	}
	return r.Facts.Release.Blocker
}

// Eligible says whether somebody entitled may release it now: it is ready, or the last promotion came to nothing and may be repeated.
func (r *Request) Eligible() bool {
	return r.State.Release == ReleaseReady || r.Blocker() == blockerPromotionFailed
}

const blockerPromotionFailed = "promotion_failed"
