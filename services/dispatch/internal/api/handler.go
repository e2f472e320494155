// Package api is how others reach dispatch: gRPC methods and the events it consumes. It converts, asks for the right scope, and calls a
// verb.
package api

import (
	"context"
	"fmt"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"google.golang.org/protobuf/proto"

	intakev1 "github.com/pratique-io/pratique/gen/pratique/intake/v1"
	"github.com/pratique-io/pratique/internal/bus"
	"github.com/pratique-io/pratique/internal/event"
	"github.com/pratique-io/pratique/services/dispatch/internal/app"
	"github.com/pratique-io/pratique/services/dispatch/internal/runner"
)

// Handler takes events in.
type Handler struct{ App *app.App }

// Subscriptions are what dispatch listens to. Requests drive it; the lifecycle consumer only writes the log that people read.
func (h Handler) Subscriptions() []bus.Subscription {
	var told []string
	for name := range sentences {
		told = append(told, name)
	}
	return []bus.Subscription{
		{Purpose: "requests", Types: []string{typeOf(&intakev1.RequestApproved{}), typeOf(&intakev1.RequestWithdrawn{})}, HandleBatch: h.requests},
		{Purpose: "lifecycle", Types: sorted(told), HandleBatch: h.tell},
	}
}

func typeOf(msg proto.Message) string { return string(msg.ProtoReflect().Descriptor().FullName()) }

// requests handles a batch, one outcome per event. The approvals that come first for their request are taken in together; then follows
// whatever else the batch says, in its order, so that the events of one request keep theirs.
func (h Handler) requests(ctx context.Context, tx pgx.Tx, batch []event.Envelope) []error {
	outcomes := make([]error, len(batch))
	seen := map[uuid.UUID]bool{}
	var first, rest []int
	for i, e := range batch {
		if e.Type == typeOf(&intakev1.RequestApproved{}) && !seen[e.Aggregate()] {
			first = append(first, i)
		} else {
			rest = append(rest, i)
		}
		seen[e.Aggregate()] = true
	}
	h.approved(ctx, tx, batch, first, outcomes)
	for _, i := range rest {
		switch e := batch[i]; e.Type {
		case typeOf(&intakev1.RequestApproved{}):
			h.approved(ctx, tx, batch, []int{i}, outcomes)
		case typeOf(&intakev1.RequestWithdrawn{}):
			outcomes[i] = h.withdrawn(event.WithCause(ctx, e), tx, e)
		default:
			outcomes[i] = bus.Discard("unknown_type")
		}
	}
	return outcomes
}

// approved takes in the approvals at the given places of the batch, of different requests. A database error is the outcome of all of them.
func (h Handler) approved(ctx context.Context, tx pgx.Tx, batch []event.Envelope, at []int, outcomes []error) {
	var list []app.Approval
	var from []int
	for _, i := range at {
		e, msg := batch[i], &intakev1.RequestApproved{}
		if outcomes[i] = decode(e, msg); outcomes[i] != nil {
			continue
		}
		from = append(from, i)
		list = append(list, app.Approval{
			Request: e.Aggregate(), Tenant: e.Tenant(), RequestType: msg.GetRequestType(), SourceRegistry: msg.GetSourceRegistry(),
			SourceImageRef: msg.GetSourceImageRef(), SourceDigest: msg.GetSourceImageDigest(), RegistryAuth: msg.GetRegistryAuthId(),
			DecidedBy: msg.GetDecidedBy(), Cause: e,
		})
	}
	added, err := h.App.QueueAll(ctx, tx, list)
	for n, i := range from {
		switch {
		case err != nil:
			outcomes[i] = err
		case !added[n]:
			outcomes[i] = bus.Discard("known")
		}
	}
}

func (h Handler) withdrawn(ctx context.Context, tx pgx.Tx, e event.Envelope) error {
	var msg intakev1.RequestWithdrawn
	if err := decode(e, &msg); err != nil {
		return err
	}
	reason := "withdrawn"
	if text := runner.Clean(msg.GetReason(), 500); text != "" {
		reason += ": " + text
	}
	actor := e.Actor
	if actor == "" {
		actor = "service:intake"
	}
	done, err := h.App.Withdraw(ctx, tx, e.Aggregate(), e.Tenant(), actor, reason)
	if err == nil && !done {
		return bus.Discard("ended")
	}
	return err
}

// identified is what all these events say about themselves.
type identified interface {
	proto.Message
	GetImportId() string
	GetTenantId() string
}

// decode reads an event whose envelope and data must speak of the same request and tenant: an envelope that says otherwise is forged or
// broken, and no try will mend it.
func decode(e event.Envelope, msg identified) error {
	if err := e.Decode(msg); err != nil {
		return bus.Poison(err)
	}
	if e.Aggregate() == uuid.Nil || e.Tenant() == uuid.Nil || msg.GetImportId() != e.Aggregate().String() || msg.GetTenantId() != e.TenantID {
		return bus.Poison(fmt.Errorf("event %s: envelope and data name different requests or tenants", e.ID))
	}
	return nil
}
