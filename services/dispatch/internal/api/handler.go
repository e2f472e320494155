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
		{Purpose: "requests", Types: []string{typeOf(&intakev1.RequestApproved{}), typeOf(&intakev1.RequestWithdrawn{})}, Handle: h.request},
		{Purpose: "lifecycle", Types: sorted(told), Handle: h.tell},
	}
}

func typeOf(msg proto.Message) string { return string(msg.ProtoReflect().Descriptor().FullName()) }

func (h Handler) request(ctx context.Context, tx pgx.Tx, e event.Envelope) error {
	switch e.Type {
	case typeOf(&intakev1.RequestApproved{}):
		return h.approved(ctx, tx, e)
	case typeOf(&intakev1.RequestWithdrawn{}):
		return h.withdrawn(ctx, tx, e)
	}
	return bus.Discard("unknown_type")
}

func (h Handler) approved(ctx context.Context, tx pgx.Tx, e event.Envelope) error {
	var msg intakev1.RequestApproved
	if err := decode(e, &msg); err != nil {
		return err
	}
	added, err := h.App.Queue(ctx, tx, app.Approval{
		Request: e.Aggregate(), Tenant: e.Tenant(), RequestType: msg.GetRequestType(), SourceRegistry: msg.GetSourceRegistry(),
		SourceImageRef: msg.GetSourceImageRef(), SourceDigest: msg.GetSourceImageDigest(), RegistryAuth: msg.GetRegistryAuthId(),
		DecidedBy: msg.GetDecidedBy(),
	})
	if err == nil && !added {
		return bus.Discard("known")
	}
	return err
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
