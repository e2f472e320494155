package domain

import (
	"fmt"
	"time"

	"github.com/google/uuid"
)

// CopyState is where a quarantine copy stands.
type CopyState string

// The states of a copy. The SQL CHECK lists the same ones.
const (
	Present  CopyState = "present"
	ToRemove CopyState = "to_remove"
	Removed  CopyState = "removed"
)

// CopyStates lists them in the order of life.
func CopyStates() []CopyState { return []CopyState{Present, ToRemove, Removed} }

// CopyVerb is an act on a copy.
type CopyVerb string

// The verbs of a copy.
const (
	Condemn CopyVerb = "condemn" // nobody needs it any more
	Erase   CopyVerb = "erase"   // it was deleted and found gone
)

// copyLifecycle: condemning a removed copy again makes sense, since a run that was still writing may have left something behind.
var copyLifecycle = map[CopyState]map[CopyVerb]CopyState{
	Present:  {Condemn: ToRemove},
	ToRemove: {Condemn: ToRemove, Erase: Removed},
	Removed:  {Condemn: ToRemove},
}

// NextCopy is the state that the verb leads to, or an error when the state does not know the verb.
func NextCopy(from CopyState, verb CopyVerb) (CopyState, error) {
	to, ok := copyLifecycle[from][verb]
	if !ok {
		return "", fmt.Errorf("a quarantine copy that is %s knows no %s", from, verb)
	}
	return to, nil
}

// Why a copy is removed; the reasons of QuarantineCopyRemoved.
const (
	ReasonReleased  = "released"
	ReasonRejected  = "rejected"
	ReasonWithdrawn = "withdrawn"
	ReasonFailed    = "failed"
	ReasonRetention = "retention"
)

// Copy is what the quarantine registry holds for one request, as far as we know.
type Copy struct {
	ID, Tenant uuid.UUID // the request's
	Repository string    // q/<tenant>/<request>
	Digest     string
	State      CopyState
	Reason     string
	// Inventory is what deletion has seen so far. It is written before the first delete: children and referrers are listed through
	// their parents only, so after a crash nobody else could name them.
	Inventory Inventory
	Told      bool // QuarantineCopyRemoved went out
}

// Inventory lists content by digest.
type Inventory struct {
	Manifests []string `json:"manifests"` // parents before their children
	Blobs     []string `json:"blobs"`
}

// Repository is where a request's run writes to, below the quarantine registry's host.
func Repository(tenant, request uuid.UUID) string {
	return "q/" + tenant.String() + "/" + request.String()
}

// Store is where a request's documents are kept, below the evidence store's host.
func Store(tenant, request uuid.UUID) string {
	return "evidence/" + tenant.String() + "/" + request.String()
}

// Retain says what becomes of the copy after a decision: until when it is kept (zero: until somebody says otherwise) or the reason to
// remove it at once. What may still be released is kept.
func Retain(requestType string, d Decision, retention time.Duration) (until time.Time, now string) {
	switch {
	case d.Verdict == VerdictError:
		return time.Time{}, ReasonFailed
	case requestType == Scan:
		return time.Time{}, ReasonRetention
	case d.Verdict == VerdictPass:
		return time.Time{}, ""
	}
	return d.DecidedAt.Add(retention), ""
}
