package app

import (
	"context"
	"errors"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	errorsv1 "github.com/pratique-io/pratique/gen/pratique/errors/v1"
	"github.com/pratique-io/pratique/internal/fault"
	"github.com/pratique-io/pratique/services/approval/internal/domain"
	"github.com/pratique-io/pratique/services/approval/internal/store"
)

// Ballot is one person's decision about a case.
type Ballot struct {
	Case   uuid.UUID
	By     uuid.UUID
	Actor  string
	Yes    bool
	Reason string
}

// Decide takes a vote. When it completes the decision, the case ends and CaseApproved or CaseRejected goes out; else the case waits for more.
// Errors: not_found, self_approval_forbidden, approval_already_decided, invalid_lifecycle_action (void), state_conflict.
func (a *App) Decide(ctx context.Context, tx pgx.Tx, b Ballot) (*domain.Case, error) {
	c, err := store.Lock(ctx, tx, b.Case)
	if errors.Is(err, store.ErrNone) {
		return nil, fault.New(errorsv1.Reason_REASON_NOT_FOUND, "there is no such case")
	}
	if err != nil {
		return nil, err
	}
	if err := refuse(c, c.Admit(b.By)); err != nil {
		return nil, err
	}
	now := a.Now().UTC()
	vote := domain.Vote{By: b.By, Yes: b.Yes, Reason: b.Reason, At: now}
	if err := store.AddVote(ctx, tx, c, vote); err != nil {
		return nil, err
	}
	verb := c.Count(vote)
	if verb == "" {
		return c, store.Move(ctx, tx, store.Transition{Case: c, Verb: "vote", From: c.State, Actor: b.Actor, Reason: b.Reason, At: now})
	}
	to, ok := domain.Next(c.State, verb)
	if !ok {
		return nil, refuse(c, domain.Decided)
	}
	err = a.finish(ctx, tx, c, to, verb, b.By.String(), b.Reason, b.Actor)
	if errors.Is(err, store.ErrMoved) {
		return nil, fault.New(errorsv1.Reason_REASON_STATE_CONFLICT, "somebody else decided at the same moment; look again")
	}
	return c, err
}

func refuse(c *domain.Case, refusal domain.Refusal) error {
	switch refusal {
	case domain.Accepted:
		return nil
	case domain.OwnRequest:
		return fault.New(errorsv1.Reason_REASON_SELF_APPROVAL_FORBIDDEN, "you asked for this yourself, now or earlier in its chain; somebody else must decide",
			fault.D("case_id", c.ID))
	case domain.AlreadyVoted:
		return fault.New(errorsv1.Reason_REASON_APPROVAL_ALREADY_DECIDED, "you have voted already; the case waits for others",
			fault.D("case_id", c.ID), fault.D("received", len(c.Votes)), fault.D("required_approvals", c.Required))
	case domain.Gone:
		return fault.New(errorsv1.Reason_REASON_INVALID_LIFECYCLE_ACTION, "there is nothing left to decide: "+c.Reason, fault.D("case_id", c.ID))
	}
	return fault.New(errorsv1.Reason_REASON_APPROVAL_ALREADY_DECIDED, "the case was "+string(c.State)+" already",
		fault.D("case_id", c.ID), fault.D("state", string(c.State)), fault.D("decided_by", c.DecidedBy))
}

// Comment adds a remark to a case in any state.
func (a *App) Comment(ctx context.Context, tx pgx.Tx, id, by uuid.UUID, actor, text string) (*domain.Case, error) {
	c, err := store.Lock(ctx, tx, id)
	if errors.Is(err, store.ErrNone) {
		return nil, fault.New(errorsv1.Reason_REASON_NOT_FOUND, "there is no such case")
	}
	if err != nil {
		return nil, err
	}
	remarkID, err := uuid.NewV7()
	if err != nil {
		return nil, err
	}
	now := a.Now().UTC()
	remark := domain.Comment{By: by, Text: text, At: now}
	if err := store.AddComment(ctx, tx, c, remarkID, remark); err != nil {
		return nil, err
	}
	c.Comments = append(c.Comments, remark)
	return c, store.Move(ctx, tx, store.Transition{Case: c, Verb: "comment", From: c.State, Actor: actor, At: now})
}
