package domain

import (
	"fmt"
	"regexp"
	"time"

	"github.com/google/uuid"
)

// RunState is where one attempt stands.
type RunState string

// The states of a run. A run that was lost with its infrastructure is failed, and another may follow.
const (
	RunQueued    RunState = "queued"
	RunStarting  RunState = "starting"
	RunRunning   RunState = "running"
	RunSucceeded RunState = "succeeded"
	RunFailed    RunState = "failed"
	RunCancelled RunState = "cancelled"
)

// RunStates lists all states of a run.
func RunStates() []RunState {
	return []RunState{RunQueued, RunStarting, RunRunning, RunSucceeded, RunFailed, RunCancelled}
}

// Attempt is one run of the pipeline for a request.
type Attempt struct {
	ID, Request, Tenant uuid.UUID
	Provider            uuid.UUID
	Number              int // from 1
	State               RunState
	Name                string // on the runner; deterministic
	Namespace           string
	Steps               []StepOf
	Results             Results
	Failure             *Failure
	LogCursor           int64 // lines taken over from the runner
	QueuedAt            time.Time
	StartedAt           time.Time // zero: not started
	EndedAt             time.Time // zero: not ended
}

// Results are the digests that came through the runner's result channel, empty until a run has succeeded.
type Results struct {
	Image     string            `json:"image,omitempty"`
	Documents map[string]string `json:"documents,omitempty"` // source, sbom, vulnerabilities, report
}

var digestPattern = regexp.MustCompile(`^sha256:[0-9a-f]{64}$`)

// DocumentKinds are the evidence artifacts of a run.
func DocumentKinds() []string { return []string{"source", "sbom", "vulnerabilities", "report"} }

// Check says whether these are the results of a run that was asked for this digest: the image is it, and every document is a digest.
// Runners check too; this holds for all of them.
func (r Results) Check(asked string) error {
	if !digestPattern.MatchString(r.Image) || r.Image != asked {
		return fmt.Errorf("the run reported another image than the one that was asked for")
	}
	if len(r.Documents) != len(DocumentKinds()) {
		return fmt.Errorf("the run reported %d documents instead of %d", len(r.Documents), len(DocumentKinds()))
	}
	for _, kind := range DocumentKinds() {
		if !digestPattern.MatchString(r.Documents[kind]) {
			return fmt.Errorf("the run reported no digest for %s", kind)
		}
	}
	return nil
}

// RunName is the name of a run on its provider. It depends on request and attempt alone, so that starting twice is one run.
func RunName(request uuid.UUID, attempt int) string {
	return fmt.Sprintf("run-%s-%d", request, attempt)
}

// RepositoryOf is the repository in the quarantine registry that the runs of a request write to.
func RepositoryOf(tenant, request uuid.UUID) string {
	return "q/" + tenant.String() + "/" + request.String()
}
