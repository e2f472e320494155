package api

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"

	dispatchv1 "github.com/pratique-io/pratique/gen/pratique/dispatch/v1"
	evidencev1 "github.com/pratique-io/pratique/gen/pratique/evidence/v1"
	intakev1 "github.com/pratique-io/pratique/gen/pratique/intake/v1"
	releasev1 "github.com/pratique-io/pratique/gen/pratique/release/v1"
	"github.com/pratique-io/pratique/internal/bus"
	"github.com/pratique-io/pratique/internal/event"
	"github.com/pratique-io/pratique/services/dispatch/internal/runner"
	"github.com/pratique-io/pratique/services/dispatch/internal/store"
)

// told is one lifecycle line in the making.
type told struct {
	level, text string
	closes      bool // the request ends here without a run
}

// sentence makes the line of one kind of event.
type sentence func(e event.Envelope) (told, error)

// say makes a sentence from the typed event.
func say[M any, P interface {
	*M
	identified
}](render func(P) told) (string, sentence) {
	return typeOf(P(new(M))), func(e event.Envelope) (told, error) {
		msg := P(new(M))
		if err := decode(e, msg); err != nil {
			return told{}, err
		}
		return render(msg), nil
	}
}

// sentences are all events that people read about in the log of a request.
var sentences = func() map[string]sentence {
	out := map[string]sentence{}
	add := func(name string, s sentence) { out[name] = s }
	add(say(func(m *intakev1.RequestSubmitted) told {
		return info("Request submitted for %s, pinned to %s.", m.GetSourceImageRef(), m.GetSourceImageDigest())
	}))
	add(say(func(m *intakev1.RequestApproved) told {
		if m.GetDecidedBy() == "system" {
			return info("Request approved by policy.")
		}
		if from := m.GetCarriedOverFrom(); from != "" {
			return info("Approval carried over from request %s%s.", from, because(m.GetReason()))
		}
		return info("Request approved%s.", because(m.GetReason()))
	}))
	add(say(func(m *intakev1.RequestRejected) told {
		return last(info("Request rejected%s.", because(m.GetReason())))
	}))
	add(say(func(m *intakev1.RequestWithdrawn) told {
		return last(info("Request withdrawn%s.", because(m.GetReason())))
	}))
	add(say(func(*dispatchv1.RunQueued) told { return info("Run queued.") }))
	add(say(func(m *dispatchv1.RunWaiting) told { return warn("Run is waiting: %s.", m.GetMessage()) }))
	add(say(func(m *dispatchv1.RunStarted) told { return info("Run started, attempt %d.", m.GetAttempt()) }))
	add(say(func(*dispatchv1.RunSucceeded) told { return info("Run finished; the evidence is being collected.") }))
	add(say(func(m *dispatchv1.RunFailed) told {
		at := ""
		if m.GetStep() != "" {
			at = " in step " + m.GetStep()
		}
		return told{level: "error", text: fmt.Sprintf("Run failed%s (%s): %s", at, m.GetFailure().GetFailureCode(), m.GetFailure().GetMessage())}
	}))
	add(say(func(*dispatchv1.RunCancelled) told { return info("Run cancelled.") }))
	add(say(func(m *evidencev1.EvidenceDecided) told { return decided(m) }))
	add(say(func(*releasev1.ReleaseReady) told { return info("Ready for release.") }))
	add(say(func(m *releasev1.ReleaseBlocked) told {
		return warn("Release is blocked (%s)%s.", m.GetBlockerReason(), because(m.GetMessage()))
	}))
	add(say(func(m *releasev1.ReleaseApproved) told {
		return info("Release to %s approved.", m.GetDestinationImageRef())
	}))
	add(say(func(m *releasev1.ImageReleased) told { return info("Image released as %s.", m.GetTrustedRef()) }))
	add(say(func(m *releasev1.ReleaseFailed) told {
		return told{level: "error", text: fmt.Sprintf("Release to %s failed: %s", m.GetDestinationImageRef(), m.GetError())}
	}))
	return out
}()

func decided(m *evidencev1.EvidenceDecided) told {
	reasons := ""
	if len(m.GetReasons()) > 0 {
		reasons = ": " + strings.Join(m.GetReasons(), "; ")
	}
	text := fmt.Sprintf("Evidence judged %s%s.", m.GetDecision(), reasons)
	switch m.GetDecision() {
	case "pass":
		return told{level: "info", text: text}
	case "error":
		return told{level: "error", text: text}
	}
	return told{level: "warn", text: text}
}

func info(format string, args ...any) told {
	return told{level: "info", text: fmt.Sprintf(format, args...)}
}
func warn(format string, args ...any) told {
	return told{level: "warn", text: fmt.Sprintf(format, args...)}
}
func last(t told) told { t.closes = true; return t }

func because(reason string) string {
	if reason == "" {
		return ""
	}
	return ": " + strings.TrimRight(reason, ".")
}

func sorted(list []string) []string {
	slices.Sort(list)
	return list
}

// tell writes the sentences of a batch, one outcome per event. The lines have the time at which the fact became true, not at which we heard
// of it. A database error is the outcome of all that were to be written.
func (h Handler) tell(ctx context.Context, tx pgx.Tx, batch []event.Envelope) []error {
	outcomes := make([]error, len(batch))
	entries := make([]store.Entry, 0, len(batch))
	for i, e := range batch {
		render, known := sentences[e.Type]
		if !known {
			outcomes[i] = bus.Discard("unknown_type")
			continue
		}
		line, err := render(e)
		if err != nil {
			outcomes[i] = err
			continue
		}
		entries = append(entries, store.Entry{Tenant: e.Tenant(), Request: e.Aggregate(), Closes: line.closes,
			Line: store.Line{Level: line.level, At: e.Time.UTC(), Message: runner.Clean(line.text, runner.MaxLineBytes)}})
	}
	if err := h.App.Tell(ctx, tx, entries); err != nil {
		spread(outcomes, err)
	}
	return outcomes
}

// spread gives an error of the database to every event that has no outcome of its own.
func spread(outcomes []error, err error) {
	for i := range outcomes {
		if outcomes[i] == nil {
			outcomes[i] = err
		}
	}
}
