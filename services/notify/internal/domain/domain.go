// Package domain decides who is told what: which event is news and of which type, who must hear of it and why, and in which words. It is
// pure: facts and people go in, a frozen plan comes out.
package domain

import (
	"fmt"

	"github.com/google/uuid"

	"github.com/pratique-io/pratique/internal/failure"
)

// Type is a notification type of the contract.
type Type string

// The types that come from today's events. Each comes from exactly one kind of event.
const (
	ImportApprovalRequested Type = "external_image_import_approval_requested"
	ImportApproved          Type = "external_image_import_approved"
	ImportRejected          Type = "external_image_import_rejected"
	ImportWithdrawn         Type = "external_image_import_withdrawn"
	ImportDispatchFailed    Type = "external_image_import_dispatch_failed"
	ImportCompleted         Type = "external_image_import_completed"
	ImportQuarantined       Type = "external_image_import_quarantined"
	ImportFailed            Type = "external_image_import_failed"

	EprRequested Type = "epr_registration_requested"
	EprApproved  Type = "epr_registration_approved"
	EprRejected  Type = "epr_registration_rejected"
	EprWithdrawn Type = "epr_registration_withdrawn"

	ReleaseReady    Type = "release_ready"
	ReleaseApproved Type = "release_approved"
	ReleaseReleased Type = "release_released"
	ReleaseFailed   Type = "release_failed"

	ScanCompleted Type = "ondemand_scan_completed"
	ScanFailed    Type = "ondemand_scan_failed"
)

// Fact is what an event says, as far as people are told about it. Every text in it is untrusted.
type Fact struct {
	Event       string // the message's short name, "RequestApproved"
	RequestType string // quarantine | scan
	Carried     bool   // of RequestSubmitted: it needs no decision, since it carries one over
	Status      string // of QuarantineConcluded: success | quarantined | failed
	Failure     Failure
	Requester   uuid.UUID // Nil: nobody asked, or the system did
	Resource    uuid.UUID // the request or registration
	Registry    string
	Image       string // as it was asked for
	Digest      string
	Destination string
	Product     string
	EprRecord   string
	Reason      string // a person's words: of a decision, a withdrawal, an ask
	Findings    []string
	Release     string // release_state
	Blocker     string // release blocker
	Error       string
}

// Notice is a fact as news, before it is addressed.
type Notice struct {
	Type       Type
	Audience   Audience
	Requester  uuid.UUID
	Failure    Failure // zero unless something failed
	Hint       string  // what to do about it
	Resource   Resource
	ResourceID uuid.UUID
	Link       string // path in the console
	Title      string // at most MaxTitle runes
	Message    string // without the note of MessageFor
	Reconciled bool   // a decision about a request, whose reach is counted
}

// Resource names what a notice is about.
type Resource string

// The resources.
const (
	ImportRequest   Resource = "import_request"
	EprRegistration Resource = "epr_registration"
)

func (r Resource) link(id uuid.UUID) string {
	if r == EprRegistration {
		return "/epr/" + id.String()
	}
	return "/requests/" + id.String()
}

// rule makes facts of one event, that fit, into notices of one type; no type means that nobody is told.
type rule struct {
	event string
	fits  func(Fact) bool
	typ   Type
}

const nobody Type = ""

// rules is the table: every event that is listened to, every case of it.
var rules = []rule{
	{"RequestSubmitted", both(quarantine, not(carried)), ImportApprovalRequested},
	{"RequestSubmitted", both(quarantine, carried), nobody}, // a retry of what was approved
	{"RequestSubmitted", scan, nobody},                      // approved by the system at once
	{"RequestApproved", quarantine, ImportApproved},
	{"RequestApproved", scan, nobody},
	{"RequestRejected", always, ImportRejected},
	{"RequestWithdrawn", not(scan), ImportWithdrawn},
	{"RequestWithdrawn", scan, nobody}, // its requester did it, and nobody else waits for it
	{"QuarantineConcluded", both(quarantine, came("success")), ImportCompleted},
	{"QuarantineConcluded", both(quarantine, came("quarantined")), ImportQuarantined},
	{"QuarantineConcluded", both(quarantine, failedAs(true)), ImportDispatchFailed},
	{"QuarantineConcluded", both(quarantine, failedAs(false)), ImportFailed},
	{"QuarantineConcluded", both(scan, came("success")), ScanCompleted},
	{"QuarantineConcluded", both(scan, came("quarantined")), ScanCompleted}, // the scan did its work: it found something
	{"QuarantineConcluded", both(scan, came("failed")), ScanFailed},
	{"EprRegistrationRequested", always, EprRequested},
	{"EprRegistrationApproved", always, EprApproved},
	{"EprRegistrationRejected", always, EprRejected},
	{"EprRegistrationWithdrawn", always, EprWithdrawn},
	{"ReleaseReady", always, ReleaseReady},
	{"ReleaseApproved", always, ReleaseApproved},
	{"ImageReleased", always, ReleaseReleased},
	{"ReleaseFailed", always, ReleaseFailed},
}

func always(Fact) bool { return true }

func not(when func(Fact) bool) func(Fact) bool { return func(f Fact) bool { return !when(f) } }

func quarantine(f Fact) bool { return f.RequestType == "quarantine" }
func scan(f Fact) bool       { return f.RequestType == "scan" }
func carried(f Fact) bool    { return f.Carried }

func came(status string) func(Fact) bool { return func(f Fact) bool { return f.Status == status } }

func failedAs(dispatch bool) func(Fact) bool {
	return func(f Fact) bool {
		return f.Status == "failed" && (f.Failure.sound().Class == failure.Dispatch) == dispatch
	}
}

func both(a, b func(Fact) bool) func(Fact) bool { return func(f Fact) bool { return a(f) && b(f) } }

// Events lists the short names of the events in the table, in its order.
func Events() []string {
	var out []string
	for _, r := range rules {
		if len(out) == 0 || out[len(out)-1] != r.event {
			out = append(out, r.event)
		}
	}
	return out
}

// NoticeOf makes a fact into a notice; false when nobody needs to hear of it. A fact that the table does not know (a newer writer's status)
// is an error: better kept apart than told wrongly.
func NoticeOf(f Fact) (Notice, bool, error) {
	for _, r := range rules {
		if r.event == f.Event && r.fits(f) {
			if r.typ == nobody {
				return Notice{}, false, nil
			}
			return write(r.typ, f), true, nil
		}
	}
	return Notice{}, false, fmt.Errorf("no rule for event %q with request type %q and status %q", clean(f.Event, 60), clean(f.RequestType, 60), clean(f.Status, 60))
}

// write fills a notice from its type's row.
func write(typ Type, f Fact) Notice {
	k := kinds[typ]
	n := Notice{
		Type: typ, Audience: k.audience, Requester: f.Requester, Resource: k.resource, ResourceID: f.Resource,
		Link: k.resource.link(f.Resource), Reconciled: k.reconciled,
	}
	switch {
	case typ == ImportQuarantined:
		n.Failure = Failure{Class: failure.Policy, Code: "quarantined_by_policy"}
		n.Hint = n.Failure.Hint()
	case k.failure:
		n.Failure = f.Failure.sound()
		n.Hint = n.Failure.Hint()
	case typ == ReleaseFailed:
		n.Hint = blockerHint(f.Blocker)
	}
	n.Title, n.Message = phrase(k, f)
	return n
}
