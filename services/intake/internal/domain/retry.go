package domain

import (
	"slices"
	"time"

	"github.com/google/uuid"

	"github.com/pratique-io/pratique/internal/failure"
)

// Retry says whether a request may be asked for again in its chain, and from when on.
type Retry struct {
	Refusal string    // why never; empty when it may be retried
	Limit   int       // how many requests the chain may hold after this kind of failure; 0 when another refusal came first
	At      time.Time // from when on; zero when refused
}

// Allowed says whether it may be retried, be it later.
func (r Retry) Allowed() bool { return r.Refusal == "" }

// Exhausted says whether it is only the length of the chain that forbids it.
func (r Retry) Exhausted() bool { return r.Refusal != "" && r.Limit > 0 }

// Retry holds the request against its end, its place in the chain and the limits of the class of its failure. The answer does not depend on
// the clock: whether At has come is for the caller to say.
func (r *Request) Retry() Retry {
	f := r.Failure()
	switch {
	case r.State.Status != Failed && r.State.Status != Quarantined:
		return Retry{Refusal: "a request that is " + string(r.State.Status) + " cannot be retried"}
	case f.Code == failure.ImageUnacceptable:
		return Retry{Refusal: "the image cannot be accepted, however often it is asked for"}
	case r.Facts.RetriedAs != nil:
		return Retry{Refusal: "the request has been retried; only the newest of a chain can be"}
	}
	limit := failure.LimitOf(f.Class)
	if r.ChainPosition >= limit.Requests {
		return Retry{Refusal: "the chain holds as many requests as its kind of failure allows", Limit: limit.Requests}
	}
	return Retry{Limit: limit.Requests, At: r.ExecutionAt.Add(limit.Wait(r.ChainPosition))}
}

// Successor is the next request of the chain: the same fields, asked for by requester, resting on the EPR basis of now.
func (r *Request) Successor(requester uuid.UUID, basis string) *Request {
	next := &Request{
		Tenant: r.Tenant, Type: r.Type, ArtifactType: r.ArtifactType, RequestedBy: requester, EprRecordID: r.EprRecordID, EprBasis: basis,
		SourceRegistry: r.SourceRegistry, SourceImageRef: r.SourceImageRef, SourceDigest: r.SourceDigest, Platforms: slices.Clone(r.Platforms),
		DestinationRef: r.DestinationRef, Justification: r.Justification, ChainID: r.ChainID, ChainPosition: r.ChainPosition + 1,
		ChainRequesters: slices.Clone(r.ChainRequesters), RetryOf: r.ID,
	}
	if !slices.Contains(next.ChainRequesters, requester) {
		next.ChainRequesters = append(next.ChainRequesters, requester)
	}
	return next
}

// Carried is the decision about last that holds for its successor r too: people approved the same digest on the same EPR basis. Nil when it
// must be decided anew, also when the one who approved has meanwhile asked for something in the chain: nobody decides for themselves.
func (r *Request) Carried(last *Request) *Decision {
	d := last.Facts.Decision
	same := r.SourceDigest == last.SourceDigest && r.EprRecordID == last.EprRecordID && r.EprBasis == last.EprBasis
	if r.Type != TypeQuarantine || d.Status != string(Approved) || !same {
		return nil
	}
	if slices.ContainsFunc(r.ChainRequesters, func(id uuid.UUID) bool { return id.String() == d.By }) {
		return nil
	}
	if d.CarriedFrom == "" {
		d.CarriedFrom = last.ID.String()
	}
	return &d
}

// RetryAs notes that the request has a successor: a version of its own, since it can be retried no more.
func (r *Request) RetryAs(next uuid.UUID, now time.Time) Step {
	r.Facts.RetriedAs = &next
	return r.enter(Record, r.State, now)
}
