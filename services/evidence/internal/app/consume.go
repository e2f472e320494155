package app

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"google.golang.org/protobuf/proto"

	intakev1 "github.com/pratique-io/pratique/gen/pratique/intake/v1"
	releasev1 "github.com/pratique-io/pratique/gen/pratique/release/v1"
	"github.com/pratique-io/pratique/internal/bus"
	"github.com/pratique-io/pratique/internal/event"
	"github.com/pratique-io/pratique/internal/oci"
	"github.com/pratique-io/pratique/services/evidence/internal/domain"
	"github.com/pratique-io/pratique/services/evidence/internal/store"
)

// The outcomes that keep a claim and do nothing.
const (
	older     = "older_than_known"
	unknown   = "request_unknown"
	notYes    = "request_not_approved"
	collected = "already_collected"
)

// Requested is RequestedAll for one event.
func (a *App) Requested(ctx context.Context, tx pgx.Tx, e event.Envelope) error {
	return a.RequestedAll(ctx, tx, []event.Envelope{e})[0]
}

// RequestedAll takes a batch of RequestSubmitted and RequestApproved into the projection, one outcome per event. First goes the first event
// of each request in one statement, then the second of each, and so on: each request hears its events in the order of the batch. A database
// error is the outcome of all that were to be written.
func (a *App) RequestedAll(ctx context.Context, tx pgx.Tx, batch []event.Envelope) []error {
	outcomes := make([]error, len(batch))
	type wave struct {
		list []store.Heard
		from []int
	}
	var waves []wave
	turn := map[uuid.UUID]int{}
	for i, e := range batch {
		r, err := requestOf(e)
		if err != nil {
			outcomes[i] = bus.Poison(err)
			continue
		}
		n := turn[r.ID]
		if turn[r.ID]++; n == len(waves) {
			waves = append(waves, wave{})
		}
		waves[n].list, waves[n].from = append(waves[n].list, store.Heard{Request: r, Sequence: e.Sequence}), append(waves[n].from, i)
	}
	for _, w := range waves {
		news, err := store.PutRequests(ctx, tx, w.list, a.now())
		if err != nil {
			return spread(outcomes, err)
		}
		for n, i := range w.from {
			if !news[w.list[n].Request.ID] {
				outcomes[i] = bus.Discard(older)
			}
		}
	}
	return outcomes
}

// spread gives an error of the database to every event that has no outcome of its own.
func spread(outcomes []error, err error) []error {
	for i := range outcomes {
		if outcomes[i] == nil {
			outcomes[i] = err
		}
	}
	return outcomes
}

// requestOf reads what an event of intake says about a request.
func requestOf(e event.Envelope) (domain.Request, error) {
	r := domain.Request{ID: e.Aggregate(), Tenant: e.Tenant()}
	var tenant string
	switch e.Type {
	case typeOf(&intakev1.RequestSubmitted{}):
		var m intakev1.RequestSubmitted
		if err := e.Decode(&m); err != nil {
			return r, err
		}
		r.Type, r.Digest, tenant = m.GetRequestType(), m.GetSourceImageDigest(), m.GetTenantId()
	case typeOf(&intakev1.RequestApproved{}):
		var m intakev1.RequestApproved
		if err := e.Decode(&m); err != nil {
			return r, err
		}
		r.Type, r.Digest, tenant, r.Approved = m.GetRequestType(), m.GetSourceImageDigest(), m.GetTenantId(), true
	default:
		return r, fmt.Errorf("%s is not a request's event", e.Type)
	}
	if r.Tenant == uuid.Nil || tenant != r.Tenant.String() || !oci.Digest(r.Digest).Valid() {
		return r, fmt.Errorf("request %s without tenant or digest", r.ID)
	}
	if r.Type != domain.Scan && r.Type != "quarantine" {
		return r, fmt.Errorf("request %s of the unknown type %q", r.ID, r.Type)
	}
	return r, nil
}

// Ended takes RequestRejected and RequestWithdrawn: nothing more will be collected, and the copy has to go.
func (a *App) Ended(ctx context.Context, tx pgx.Tx, e event.Envelope) error {
	outcome := domain.ReasonRejected
	if e.Type == typeOf(&intakev1.RequestWithdrawn{}) {
		outcome = domain.ReasonWithdrawn
	}
	r, b, err := a.load(ctx, tx, e)
	if err != nil {
		return err
	}
	news, err := store.EndRequest(ctx, tx, r.ID, outcome, e.Sequence, a.now())
	if err != nil {
		return err
	}
	if !news {
		return bus.Discard(older)
	}
	if err := a.abandon(ctx, tx, b, e, outcome); err != nil {
		return err
	}
	return a.condemn(ctx, tx, r, outcome)
}

// load reads what an event builds on; it is early while intake's own event has not come.
func (a *App) load(ctx context.Context, tx pgx.Tx, e event.Envelope) (domain.Request, *domain.Bundle, error) {
	r, err := store.Request(ctx, tx, e.Aggregate())
	if errors.Is(err, store.ErrNone) {
		return r, nil, bus.Early(unknown)
	}
	if err != nil {
		return r, nil, err
	}
	if r.Tenant != e.Tenant() {
		return r, nil, bus.Poison(fmt.Errorf("request %s belongs to another tenant", r.ID))
	}
	b, err := store.LockBundle(ctx, tx, r.ID)
	return r, b, err
}

// abandon ends a bundle that waits for a run; one that is past waiting goes on, since its documents are worth keeping.
func (a *App) abandon(ctx context.Context, tx pgx.Tx, b *domain.Bundle, e event.Envelope, reason string) error {
	moves, err := a.abandoned(b, reason)
	if err != nil {
		return err
	}
	return store.SaveBundle(ctx, tx, b, causeOf(e), moves...)
}

// abandoned is abandon before it is saved.
func (a *App) abandoned(b *domain.Bundle, reason string) ([]domain.Transition, error) {
	b.UpdatedAt = a.now()
	if b.State != domain.Awaiting {
		return nil, nil
	}
	move, err := b.Move(domain.Abandon, actor, reason, a.now())
	return []domain.Transition{move}, err
}

func causeOf(e event.Envelope) uuid.UUID {
	id, err := uuid.Parse(e.ID)
	if err != nil {
		return uuid.Nil
	}
	return id
}

// condemn says that the copy of a request has to go. The first reason stays.
func (a *App) condemn(ctx context.Context, tx pgx.Tx, r domain.Request, reason string) error {
	return a.condemnAll(ctx, tx, []domain.Request{r}, map[uuid.UUID]string{r.ID: reason})
}

// condemnAll makes the copies of requests where there are none, and condemns those that a reason is given for.
func (a *App) condemnAll(ctx context.Context, tx pgx.Tx, list []domain.Request, reasons map[uuid.UUID]string) error {
	if err := store.MakeCopies(ctx, tx, list, a.now()); err != nil || len(reasons) == 0 {
		return err
	}
	copies, err := store.LockCopies(ctx, tx, slices.Collect(maps.Keys(reasons)))
	if err != nil {
		return err
	}
	for _, c := range copies {
		to, err := domain.NextCopy(c.State, domain.Condemn)
		if err != nil {
			return err
		}
		if c.State != domain.ToRemove || c.Reason == "" {
			c.Reason = reasons[c.ID]
		}
		c.State = to
	}
	return store.CondemnCopies(ctx, tx, copies, a.now())
}

// Released takes ImageReleased: the trusted copy is the one to use now.
func (a *App) Released(ctx context.Context, tx pgx.Tx, e event.Envelope) error {
	if e.Type != typeOf(&releasev1.ImageReleased{}) {
		return bus.Poison(fmt.Errorf("%s is not a release", e.Type))
	}
	r, _, err := a.load(ctx, tx, e)
	if err != nil {
		return err
	}
	return a.condemn(ctx, tx, r, domain.ReasonReleased)
}

func typeOf(m proto.Message) string { return string(m.ProtoReflect().Descriptor().FullName()) }
