package app

import (
	"context"
	"encoding/json"
	"maps"
	"slices"
	"strings"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	approvalv1 "github.com/pratique-io/pratique/gen/pratique/approval/v1"
	dispatchv1 "github.com/pratique-io/pratique/gen/pratique/dispatch/v1"
	evidencev1 "github.com/pratique-io/pratique/gen/pratique/evidence/v1"
	intakev1 "github.com/pratique-io/pratique/gen/pratique/intake/v1"
	releasev1 "github.com/pratique-io/pratique/gen/pratique/release/v1"
	"github.com/pratique-io/pratique/internal/bus"
	"github.com/pratique-io/pratique/internal/event"
	"github.com/pratique-io/pratique/services/intake/internal/store"
)

// TimelineTypes are the events that make a request's trail. Steps of a run are in the workflow and the log, notifications in the receipts.
func TimelineTypes() []string {
	types := []string{
		nameOf(&intakev1.RequestSubmitted{}), nameOf(&intakev1.RequestApproved{}), nameOf(&intakev1.RequestRejected{}),
		nameOf(&intakev1.RequestWithdrawn{}), nameOf(&intakev1.RequestStateChanged{}), nameOf(&intakev1.QuarantineConcluded{}),
		nameOf(&approvalv1.CaseOpened{}), nameOf(&approvalv1.CaseApproved{}), nameOf(&approvalv1.CaseRejected{}), nameOf(&approvalv1.CaseVoided{}),
		nameOf(&evidencev1.EvidenceStale{}), nameOf(&evidencev1.QuarantineCopyRemoved{}),
		nameOf(&releasev1.ReleaseConsumed{}), nameOf(&releasev1.QuarantineCopyDeleted{}),
	}
	for _, name := range slices.Sorted(maps.Keys(readers)) {
		if name != nameOf(&dispatchv1.RunStepChanged{}) && !strings.HasPrefix(name, "pratique.notify.") {
			types = append(types, name)
		}
	}
	return types
}

// said are the fields of any event that a line of the trail shows; protojson keeps the proto names.
type said struct {
	Kind          string `json:"kind"`
	SubjectID     string `json:"subject_id"`
	Reason        string `json:"reason"`
	BlockerReason string `json:"blocker_reason"`
	Message       string `json:"message"`
	Error         string `json:"error"`
	Decision      string `json:"decision"`
	Failure       struct {
		Code    string `json:"failure_code"`
		Message string `json:"message"`
	} `json:"failure"`
	FailureCode    string `json:"failure_code"`
	FromStatus     string `json:"from_status"`
	Status         string `json:"status"`
	ExecutionState string `json:"execution_state"`
	ReleaseState   string `json:"release_state"`
	CarriedFrom    string `json:"carried_over_from"`
}

// Trail handles a batch of lifecycle events of all services: one line each, whether or not the request is here yet.
func (a *App) Trail(ctx context.Context, tx pgx.Tx, batch []event.Envelope) []error {
	outcomes := make([]error, len(batch))
	lines := make([]store.Line, 0, len(batch))
	for i, e := range batch {
		line, err := lineOf(e)
		if err != nil {
			outcomes[i] = err
			continue
		}
		lines = append(lines, line)
	}
	if err := store.InsertLines(ctx, tx, lines); err != nil {
		return all(outcomes, err)
	}
	return outcomes
}

func lineOf(e event.Envelope) (store.Line, error) {
	var s said
	if err := json.Unmarshal(e.Data, &s); err != nil {
		return store.Line{}, bus.Poison(err)
	}
	request := e.Request()
	if request == uuid.Nil && s.Kind == caseImport {
		request = parse(s.SubjectID)
	}
	if request == uuid.Nil || e.Tenant() == uuid.Nil {
		return store.Line{}, bus.Discard("no_request")
	}
	line := store.Line{
		Event: parse(e.ID), Tenant: e.Tenant(), Request: request, At: e.Time, Actor: e.Actor, Service: e.Service(), Action: shortName(e.Type),
		Reason: firstOf(s.Reason, s.BlockerReason, s.Failure.Code, s.FailureCode, s.Error, s.Message, s.Failure.Message),
	}
	switch e.Type {
	case nameOf(&intakev1.RequestStateChanged{}):
		line.From, line.To = s.FromStatus, s.Status
		if s.FromStatus == s.Status { // the status stood still: what moved is further on
			line.From, line.To = "", firstOf(moved(s.ReleaseState), s.ExecutionState)
		}
	case nameOf(&intakev1.RequestApproved{}):
		if s.CarriedFrom != "" {
			line.Reason = "carried over from " + s.CarriedFrom + because(s.Reason)
		}
	case nameOf(&intakev1.RequestWithdrawn{}):
		line.From, line.To = s.FromStatus, "withdrawn"
	case nameOf(&evidencev1.EvidenceDecided{}):
		line.To = s.Decision
	case nameOf(&intakev1.QuarantineConcluded{}):
		line.To = s.Status
	}
	return line, nil
}

func because(reason string) string {
	if reason == "" {
		return ""
	}
	return ": " + reason
}

func moved(release string) string {
	if release == "not_ready" {
		return ""
	}
	return release
}

func firstOf(texts ...string) string {
	for _, t := range texts {
		if t != "" {
			return t
		}
	}
	return ""
}

// shortName is the event's name without its package.
func shortName(typ string) string { return typ[strings.LastIndexByte(typ, '.')+1:] }
