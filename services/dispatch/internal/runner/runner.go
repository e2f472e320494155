// Package runner is the port to where pipelines run. It exists because the world differs: child processes on this machine today,
// Tekton in a cluster elsewhere. An adapter must pass the suite in runner/conformance, which says in code what these comments say.
//
// Names decide: a run's name is made from request and attempt, so Start with a known name is the same run, and a name that Poll calls
// unknown was provably never started there. Nothing that a step wrote is trusted: results are checked digests, texts are cleaned.
package runner

import (
	"context"
	"errors"
	"time"

	"github.com/google/uuid"

	"github.com/pratique-io/pratique/services/dispatch/internal/domain"
)

// State is what a runner knows about a name.
type State string

// The states of a run on its runner.
const (
	Unknown   State = "unknown" // this name was never started here, and nothing of it runs
	Running   State = "running"
	Succeeded State = "succeeded"
	Failed    State = "failed"
	Cancelled State = "cancelled"
	Lost      State = "lost" // it was started and its infrastructure is gone: nothing of it runs any more
)

// Ended says that the state is final.
func (s State) Ended() bool { return s == Succeeded || s == Failed || s == Cancelled || s == Lost }

// Runner runs pipelines. All methods may be called at any time, from any goroutine, and again after a crash of this process.
type Runner interface {
	// Readiness checks what the runner needs from the world; it is bounded by ctx.
	Readiness(ctx context.Context) []domain.Check
	// Start begins the run. A name that is known already is left alone and answers nil. An error that is ErrBusy or ErrRefused
	// means that nothing was started; after any other one only Poll tells.
	Start(ctx context.Context, spec Spec) error
	// Poll says where the run stands. Steps are in order; Results are set when it succeeded, Failure when it failed.
	Poll(ctx context.Context, name string) (Status, error)
	// Logs gives lines with a number above after, oldest first, at most limit. Numbers begin at 1 and have no gaps.
	Logs(ctx context.Context, name string, after int64, limit int) ([]Line, error)
	// Cancel asks for the end of the run with all its processes; Poll tells when it is over. An unknown or ended run is left alone.
	Cancel(ctx context.Context, name string) error
	// Cleanup forgets an ended run and what it left behind; a running one is an error.
	Cleanup(ctx context.Context, name string) error
	// Names lists the runs that the runner remembers.
	Names(ctx context.Context) ([]string, error)
}

// What Start may answer when nothing was started.
var (
	ErrBusy    = errors.New("no free place to run")
	ErrRefused = errors.New("the runner refuses to run")
)

// Spec says what to run. It holds secrets and is never logged.
type Spec struct {
	Name         string
	Run          uuid.UUID
	Request      uuid.UUID
	Tenant       uuid.UUID
	Attempt      int
	Source       string      // host/repository@digest
	SourceDigest string      // what the copy must be
	SourceAuth   *Credential // nil: anonymous; given to pull alone
	Target       string      // host/q/<tenant>/<request>
	TargetAuth   Credential
	RunTimeout   time.Duration
	DatabaseDir  string // one of these is set
	DatabaseURL  string
}

// String keeps the secrets out of texts.
func (s Spec) String() string { return "run " + s.Name }

// GoString is String, for %#v.
func (s Spec) GoString() string { return s.String() }

// Credential is a user name and a password for a registry.
type Credential struct {
	Username string `json:"username"`
	Password string `json:"password"`
}

// String keeps the password out of texts.
func (Credential) String() string { return "REDACTED" }

// GoString is String, for %#v.
func (Credential) GoString() string { return "REDACTED" }

// Status is where a run stands.
type Status struct {
	State     State
	Steps     []domain.StepOf
	Results   domain.Results
	Failure   *domain.Failure
	Step      string // the step that failed
	StartedAt time.Time
	EndedAt   time.Time
}

// Line is one log line of a step. Message is untrusted, cleaned of control characters and bounded.
type Line struct {
	Number  int64     `json:"n"`
	At      time.Time `json:"at"`
	Level   string    `json:"level"` // debug | info | warn | error
	Step    string    `json:"step"`
	Message string    `json:"message"`
}
