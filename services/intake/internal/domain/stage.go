package domain

import "time"

// Stage is one lifecycle stage of a request for people.
type Stage struct {
	Key         Execution
	Label       string
	Description string
	State       string // pending | current | complete | failed
	At          *time.Time
}

var stageText = map[Execution][2]string{
	AwaitingApproval: {"Approval", "A reviewer decides whether the image may be brought in."},
	AwaitingDispatch: {"Dispatch", "A provider is chosen to run the quarantine pipeline."},
	PipelineRunning:  {"Pipeline", "The image is copied into quarantine and checked."},
	EvidencePending:  {"Evidence", "The findings are verified, stored and judged by the policy."},
	ReadyForRelease:  {"Release", "Somebody entitled releases the image to the trusted registry."},
	Completed:        {"Completed", "Nothing more is to be done for this request."},
}

// Stages shows the six stages: those passed are complete, the one it stands in is current, and a failure shows on the stage where it happened,
// with what it never reached left pending.
func (r *Request) Stages() []Stage {
	failed := r.failedStage()
	reached := map[Execution]bool{}
	for _, key := range Executions() {
		reached[key] = true
		if key == failed || key == r.State.Execution {
			break
		}
	}
	out := make([]Stage, 0, len(stageText))
	for _, key := range Executions() {
		stage := Stage{Key: key, Label: stageText[key][0], Description: stageText[key][1], State: "pending", At: r.stageTime(key)}
		switch {
		case key == failed:
			stage.State = "failed"
		case key == Completed && r.State.Execution == Completed:
			stage.State = "complete"
		case key == r.State.Execution:
			stage.State = "current"
		case reached[key]:
			stage.State = "complete"
		}
		if stage.State == "pending" {
			stage.At = nil
		}
		out = append(out, stage)
	}
	return out
}

// failedStage is where it went wrong, or was stopped; empty when nothing did.
func (r *Request) failedStage() Execution {
	f := &r.Facts
	switch r.State.Status {
	case Rejected:
		return AwaitingApproval
	case Withdrawn:
		switch f.WithdrawnFrom {
		case Pending:
			return AwaitingApproval
		case Approved:
			return AwaitingDispatch
		}
		if f.Ended != nil && f.Ended.As == RunSucceeded {
			return EvidencePending
		}
		return PipelineRunning
	case Quarantined:
		if r.State.Release != ReleaseReady && r.State.Release != ReleaseApproved && r.State.Release != Released {
			return EvidencePending
		}
	case Failed:
		switch {
		case f.Judged != nil:
			return EvidencePending
		case f.Started != nil || (f.Ended != nil && f.Ended.ran()):
			return PipelineRunning
		}
		return AwaitingDispatch
	case Success:
		if r.State.Release == ReleaseBlocked {
			return ReadyForRelease
		}
	}
	return ""
}

func (r *Request) stageTime(key Execution) *time.Time {
	f := &r.Facts
	switch key {
	case AwaitingApproval:
		return &r.CreatedAt
	case AwaitingDispatch:
		if f.Decision.CarriedFrom != "" { // decided before there was this request
			return &r.CreatedAt
		}
		return f.Decision.At
	case PipelineRunning:
		if f.Started != nil {
			return &f.Started.At
		}
	case EvidencePending:
		if f.Ended != nil {
			return &f.Ended.At
		}
	case ReadyForRelease:
		if f.Eligible != nil {
			return &f.Eligible.At
		}
	case Completed:
		if r.State.Execution == Completed {
			return &r.ExecutionAt
		}
	}
	return nil
}

// Wait is who or what a request waits for.
type Wait struct {
	Who   string // security_reviewer | provider | pipeline | evidence | release
	Since time.Time
}

// WaitingFor is nil when nothing is awaited.
func (r *Request) WaitingFor() *Wait {
	f := &r.Facts
	wait := Wait{Since: r.ExecutionAt}
	switch r.State.Execution {
	case AwaitingApproval:
		wait.Who = "security_reviewer"
	case AwaitingDispatch:
		wait.Who = "provider"
		if f.Waiting != nil {
			wait.Since = f.Waiting.Since
		}
	case PipelineRunning:
		wait.Who = "pipeline"
	case EvidencePending:
		wait.Who = "evidence"
	case ReadyForRelease:
		if r.State.Release == ReleaseBlocked {
			return nil
		}
		wait.Who = "release"
	default:
		return nil
	}
	return &wait
}

// RunSteps are the run's steps, pending ones before the run told of them.
func (r *Request) RunSteps() []RunStep {
	if r.Facts.Steps != nil {
		return r.Facts.Steps.List
	}
	out := make([]RunStep, 0, 4)
	for _, key := range []string{"pull", "sbom", "vulnerabilities", "report"} {
		out = append(out, RunStep{Key: key, Status: "pending"})
	}
	return out
}
