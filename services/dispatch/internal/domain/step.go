package domain

import "time"

// The steps of the pipeline, in order. Each one's result is the digest of the artifact that it pushed.
const (
	StepPull            = "pull"
	StepSBOM            = "sbom"
	StepVulnerabilities = "vulnerabilities"
	StepReport          = "report"
)

// StepKeys lists the steps in order.
func StepKeys() []string { return []string{StepPull, StepSBOM, StepVulnerabilities, StepReport} }

// StepState is where a step stands.
type StepState string

// The states of a step.
const (
	StepPending   StepState = "pending"
	StepRunning   StepState = "running"
	StepSucceeded StepState = "succeeded"
	StepFailed    StepState = "failed"
	StepSkipped   StepState = "skipped"
)

// StepOf is one step of a run. Attempts counts over all runs of the request.
type StepOf struct {
	Key       string
	State     StepState
	Attempts  int
	LastError string
	StartedAt time.Time // zero: not begun
	EndedAt   time.Time // zero: not ended
}

// PendingSteps are the steps of a run that has not begun; attempts of an earlier run are carried over.
func PendingSteps(earlier []StepOf) []StepOf {
	before := map[string]int{}
	for _, step := range earlier {
		before[step.Key] = step.Attempts
	}
	out := make([]StepOf, 0, len(StepKeys()))
	for _, key := range StepKeys() {
		out = append(out, StepOf{Key: key, State: StepPending, Attempts: before[key]})
	}
	return out
}

// MergeSteps lays what the runner reports over what is stored and says whether anything changed. Unknown keys are ignored, and a
// step that has ended does not change any more, so a runner that forgets cannot rewrite history.
func MergeSteps(stored, reported []StepOf) ([]StepOf, bool) {
	news := map[string]StepOf{}
	for _, step := range reported {
		news[step.Key] = step
	}
	out, changed := make([]StepOf, len(stored)), false
	for i, step := range stored {
		out[i] = step
		fresh, ok := news[step.Key]
		if !ok || step.ended() || fresh.State == step.State || fresh.State == StepPending {
			continue
		}
		if step.State == StepPending && fresh.State != StepSkipped {
			out[i].Attempts++
		}
		out[i].State, out[i].LastError = fresh.State, fresh.LastError
		out[i].StartedAt, out[i].EndedAt = fresh.StartedAt, fresh.EndedAt
		changed = true
	}
	return out, changed
}

func (s StepOf) ended() bool {
	return s.State == StepSucceeded || s.State == StepFailed || s.State == StepSkipped
}

// CloseSteps ends the steps of a run that is over: what ran has failed with the text, what never began is skipped.
func CloseSteps(steps []StepOf, at time.Time, text string) []StepOf {
	out := make([]StepOf, len(steps))
	for i, step := range steps {
		switch step.State {
		case StepRunning:
			step.State, step.EndedAt, step.LastError = StepFailed, at, text
		case StepPending:
			step.State = StepSkipped
		}
		out[i] = step
	}
	return out
}
