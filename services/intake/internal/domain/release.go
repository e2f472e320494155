package domain

// ReleaseState says where the release of a request stands. The release service owns the fact.
type ReleaseState string

// The release states of the contract.
const (
	NotReady        ReleaseState = "not_ready"
	ReleaseReady    ReleaseState = "ready_for_release"
	ReleaseBlocked  ReleaseState = "release_blocked"
	ReleaseApproved ReleaseState = "release_approved"
	Released        ReleaseState = "released"
	Recalled        ReleaseState = "recalled"
)

// ReleaseStates lists all.
func ReleaseStates() []ReleaseState {
	return []ReleaseState{NotReady, ReleaseReady, ReleaseBlocked, ReleaseApproved, Released, Recalled}
}

// ReleaseVerbs lists the verbs that move a release state, in the order in which paths prefer them.
func ReleaseVerbs() []Verb { return []Verb{Ready, Grant, Publish, Block, Recall} }

// releases is the one table that a release state moves by.
var releases = map[ReleaseState]map[Verb]ReleaseState{
	NotReady:        {Ready: ReleaseReady, Block: ReleaseBlocked},
	ReleaseReady:    {Block: ReleaseBlocked, Grant: ReleaseApproved},
	ReleaseBlocked:  {Ready: ReleaseReady, Grant: ReleaseApproved},
	ReleaseApproved: {Publish: Released, Block: ReleaseBlocked},
	Released:        {Recall: Recalled},
	Recalled:        {},
}

// NextRelease is the release state after the verb, or a *Move when the state does not know it.
func NextRelease(from ReleaseState, verb Verb) (ReleaseState, error) {
	to, ok := releases[from][verb]
	if !ok {
		return "", &Move{From: string(from), Verb: verb}
	}
	return to, nil
}

// releasePath is the shortest way through the table, for facts whose predecessors have not arrived (or never will). Of two ways of the same
// length it takes the one through ReleaseVerbs' earlier verb. Nil when there is none.
func releasePath(from, to ReleaseState) []Verb {
	type node struct {
		state ReleaseState
		path  []Verb
	}
	seen := map[ReleaseState]bool{from: true}
	queue := []node{{state: from}}
	for len(queue) > 0 {
		n := queue[0]
		queue = queue[1:]
		if n.state == to {
			return n.path
		}
		for _, verb := range ReleaseVerbs() {
			next, ok := releases[n.state][verb]
			if !ok || seen[next] {
				continue
			}
			seen[next] = true
			queue = append(queue, node{state: next, path: append(append([]Verb{}, n.path...), verb)})
		}
	}
	return nil
}
