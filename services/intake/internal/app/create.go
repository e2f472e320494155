package app

import (
	"context"
	"errors"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	errorsv1 "github.com/pratique-io/pratique/gen/pratique/errors/v1"
	intakev1 "github.com/pratique-io/pratique/gen/pratique/intake/v1"
	"github.com/pratique-io/pratique/internal/auth"
	"github.com/pratique-io/pratique/internal/failpoint"
	"github.com/pratique-io/pratique/internal/fault"
	"github.com/pratique-io/pratique/internal/idempotency"
	"github.com/pratique-io/pratique/internal/oci"
	"github.com/pratique-io/pratique/internal/pg"
	"github.com/pratique-io/pratique/services/intake/internal/domain"
	"github.com/pratique-io/pratique/services/intake/internal/source"
	"github.com/pratique-io/pratique/services/intake/internal/store"
	"github.com/pratique-io/pratique/services/intake/internal/view"
)

// Ask is a create whose fields have been checked.
type Ask struct {
	Type          domain.Type
	Source        oci.Reference
	Destination   *oci.Reference
	EprRecordID   string // empty for scans
	Justification string
	ClonedFrom    uuid.UUID // Nil when nothing is cloned
	ValidateOnly  bool
	Method        string // of the call, for the audit of a denial
}

// Create admits an ask in the order of the contract and stores the request. in is the message that an idempotency key stands for.
func (a *App) Create(ctx context.Context, in proto.Message, ask Ask) (*intakev1.ImportRequest, error) {
	ctx, caller, err := a.know(ctx)
	if err != nil {
		return nil, err
	}
	out, err := a.create(ctx, caller, in, ask)
	if err != nil && !ask.ValidateOnly {
		return nil, a.refused(ctx, caller, ask.Type.Needs(), ask.Method, err)
	}
	return out, err
}

func (a *App) create(ctx context.Context, caller auth.Caller, in proto.Message, ask Ask) (*intakev1.ImportRequest, error) {
	standing, err := a.standing(ctx, caller.Tenant, ask.EprRecordID)
	if err != nil {
		return nil, err
	}
	if err := checkTenant(standing); err != nil {
		return nil, err
	}
	if !ask.ValidateOnly {
		if out, err := replay(ctx, a.db, caller.Tenant, in, &intakev1.ImportRequest{}); out != nil || err != nil {
			return out, err
		}
	}
	basis, err := a.admit(standing, ask)
	if err != nil {
		return nil, err
	}
	image, err := a.source.Pin(ctx, ask.Source)
	if err != nil {
		return nil, err
	}
	r := a.draft(caller, ask, basis, image)
	if ask.ValidateOnly {
		return a.validated(ctx, r)
	}
	if r.ID, err = newID(); err != nil {
		return nil, err
	}
	r.ChainID, r.ChainPosition = r.ID, 1
	var out *intakev1.ImportRequest
	err = a.db.Write(ctx, pg.OneTenant(caller.Tenant), func(tx pgx.Tx) error {
		out, err = idempotency.Run(ctx, tx, in, &intakev1.ImportRequest{}, func() (*intakev1.ImportRequest, error) {
			return a.insert(ctx, tx, caller, r, nil)
		})
		failpoint.Hit("intake.before_commit_create")
		return err
	})
	failpoint.Hit("intake.after_commit_create")
	return out, err
}

// admit is steps 2 to 4: capability, destination, EPR. Source rules are intake's egress policy, which step 5 meets.
func (a *App) admit(s store.Standing, ask Ask) (basis string, err error) {
	if err := checkCapability(s, ask.Type.Needs()); err != nil {
		return "", err
	}
	if err := a.checkDestination(s, ask.Destination); err != nil {
		return "", err
	}
	if ask.Type == domain.TypeScan {
		return "", nil
	}
	return a.checkEpr(s, ask.EprRecordID, a.now())
}

func (a *App) draft(caller auth.Caller, ask Ask, basis string, image source.Image) *domain.Request {
	r := &domain.Request{
		Tenant: caller.Tenant, Type: ask.Type, ArtifactType: "image", RequestedBy: caller.PersonID, EprRecordID: ask.EprRecordID,
		EprBasis: basis, SourceRegistry: ask.Source.Host, SourceImageRef: pathOf(ask.Source), SourceDigest: image.Digest,
		Platforms: image.Platforms, Justification: ask.Justification, ChainRequesters: []uuid.UUID{caller.PersonID},
		ClonedFrom: ask.ClonedFrom,
	}
	if ask.Destination != nil {
		r.DestinationRef = ask.Destination.String()
	}
	r.Begin(a.now())
	return r
}

// pathOf is a reference without its registry.
func pathOf(ref oci.Reference) string { return ref.String()[len(ref.Host)+1:] }

// validated says what would happen; step 6 looks instead of inserting.
func (a *App) validated(ctx context.Context, r *domain.Request) (*intakev1.ImportRequest, error) {
	err := a.db.Read(ctx, pg.OneTenant(r.Tenant), func(tx pgx.Tx) error {
		open, err := store.OpenRequest(ctx, tx, r.Tenant, r.Type, r.SourceDigest)
		if errors.Is(err, store.ErrNone) {
			return nil
		}
		if err != nil {
			return err
		}
		return duplicate(open)
	})
	if err != nil {
		return nil, err
	}
	return view.Request(r)
}

func duplicate(existing uuid.UUID) error {
	return fault.New(errorsv1.Reason_REASON_DUPLICATE_REQUEST, "an open request for the same image exists", fault.D("existing_id", existing))
}

// insert stores the request with its first transition and its events; last is the request that it retries, held by the transaction, or nil.
// Tenant, capability and EPR are asked again here, since the lookup at the source took its time. A scan is approved by the system at once, a
// retry by the decision that it carries over.
func (a *App) insert(ctx context.Context, tx pgx.Tx, caller auth.Caller, r, last *domain.Request) (*intakev1.ImportRequest, error) {
	standing, err := store.StandingOf(ctx, tx, r.Tenant, r.EprRecordID)
	if err != nil {
		return nil, err
	}
	if err := a.recheck(standing, r, a.now()); err != nil {
		return nil, err
	}
	change := newChange(a.now())
	if err := begin(ctx, change, r, last, caller.Actor()); err != nil {
		return nil, err
	}
	inserted, err := store.InsertRequest(ctx, tx, r)
	if err != nil {
		return nil, err
	}
	if !inserted {
		open, err := store.OpenRequest(ctx, tx, r.Tenant, r.Type, r.SourceDigest)
		if err != nil {
			return nil, missing("request", err)
		}
		return nil, duplicate(open)
	}
	if last != nil {
		change.touch(last)
		step := last.RetryAs(r.ID, change.now)
		if err := change.steps(ctx, last, []domain.Step{step}, act{Actor: caller.Actor(), Reason: "retried as " + r.ID.String()}); err != nil {
			return nil, err
		}
	}
	if err := store.SeePerson(ctx, tx, caller.Subject, change.now); err != nil {
		return nil, err
	}
	if err := change.save(ctx, tx); err != nil {
		return nil, err
	}
	return view.Request(r)
}

// begin takes the first steps of a request, with their events.
func begin(ctx context.Context, change *change, r, last *domain.Request, actor string) error {
	steps := []domain.Step{r.Begin(change.now)}
	granted, why := grant(r, last, change.now)
	if granted != nil {
		step, err := r.Decide(domain.Approve, granted.By, granted.Reason, *granted.At, change.now)
		if err != nil {
			return err
		}
		r.Facts.Decision.CarriedFrom = granted.CarriedFrom
		steps = append(steps, step)
	}
	submitted, err := change.tell(ctx, r, actor, steps[0].Version, requestSubmitted(r))
	if err != nil {
		return err
	}
	if err := change.steps(ctx, r, steps[:1], act{Actor: actor}); err != nil {
		return err
	}
	change.transitions[0].Event = uuid.MustParse(submitted.ID)
	if granted == nil {
		return nil
	}
	if _, err := change.tell(ctx, r, system, steps[1].Version, requestApproved(r)); err != nil {
		return err
	}
	return change.steps(ctx, r, steps[1:], act{Actor: system, Reason: why})
}

// grant is the approval that a request begins with, and what the audit trail says about it; nil when people must decide.
func grant(r, last *domain.Request, now time.Time) (d *domain.Decision, why string) {
	if r.Type == domain.TypeScan {
		return &domain.Decision{By: system, Reason: "on-demand scans need no approval", At: &now}, ""
	}
	if last == nil {
		return nil, ""
	}
	d = r.Carried(last)
	if d == nil || d.At == nil {
		return nil, ""
	}
	return d, "approval of " + actorOf(d.By) + " carried over from " + d.CarriedFrom
}

func requestSubmitted(r *domain.Request) *intakev1.RequestSubmitted {
	return &intakev1.RequestSubmitted{
		ImportId: r.ID.String(), TenantId: r.Tenant.String(), RequestType: string(r.Type), RequestedBy: r.RequestedBy.String(),
		SourceRegistry: r.SourceRegistry, SourceImageRef: r.SourceImageRef, SourceImageDigest: r.SourceDigest, EprRecordId: r.EprRecordID,
		EprBasis: r.EprBasis, DestinationImageRef: r.DestinationRef, Justification: r.Justification, ChainId: r.ChainID.String(),
		ChainRequesters: ids(r.ChainRequesters), Platforms: view.Platforms(r.Platforms),
		CarriedOverFrom: r.Facts.Decision.CarriedFrom, RetryOf: textOf(r.RetryOf),
	}
}

func requestApproved(r *domain.Request) *intakev1.RequestApproved {
	d := r.Facts.Decision
	out := &intakev1.RequestApproved{
		ImportId: r.ID.String(), TenantId: r.Tenant.String(), RequestType: string(r.Type), SourceRegistry: r.SourceRegistry,
		SourceImageRef: r.SourceImageRef, SourceImageDigest: r.SourceDigest, DecidedBy: d.By, Reason: d.Reason,
		RequestedBy: r.RequestedBy.String(), ChainRequesters: ids(r.ChainRequesters), DestinationImageRef: r.DestinationRef,
		CarriedOverFrom: d.CarriedFrom,
	}
	if d.At != nil {
		out.DecidedAt = timestamppb.New(*d.At)
	}
	return out
}

// textOf is empty for no id.
func textOf(id uuid.UUID) string {
	if id == uuid.Nil {
		return ""
	}
	return id.String()
}

func ids(list []uuid.UUID) []string {
	out := make([]string, 0, len(list))
	for _, id := range list {
		out = append(out, id.String())
	}
	return out
}
