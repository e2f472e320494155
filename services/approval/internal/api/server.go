// Package api is approval's way in: gRPC methods and event handlers. Each converts, checks the shape of what it was given and calls a verb.
package api

import (
	"context"
	"errors"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	approvalv1 "github.com/pratique-io/pratique/gen/pratique/approval/v1"
	errorsv1 "github.com/pratique-io/pratique/gen/pratique/errors/v1"
	intakev1 "github.com/pratique-io/pratique/gen/pratique/intake/v1"
	"github.com/pratique-io/pratique/internal/auth"
	"github.com/pratique-io/pratique/internal/fault"
	"github.com/pratique-io/pratique/internal/idempotency"
	"github.com/pratique-io/pratique/internal/page"
	"github.com/pratique-io/pratique/internal/pg"
	"github.com/pratique-io/pratique/services/approval/internal/app"
	"github.com/pratique-io/pratique/services/approval/internal/domain"
	"github.com/pratique-io/pratique/services/approval/internal/store"
)

// Server answers approvalv1.CaseService.
type Server struct {
	approvalv1.UnimplementedCaseServiceServer
	db       *pg.DB
	app      *app.App
	requests intakev1.RequestServiceClient
	eprs     intakev1.EprServiceClient
	// patience is how long the edge waits for a projection: read your own writes.
	patience time.Duration
}

// New makes the server. The clients are intake's; calls on them carry the caller's own token.
func New(db *pg.DB, verbs *app.App, requests intakev1.RequestServiceClient, eprs intakev1.EprServiceClient) *Server {
	return &Server{db: db, app: verbs, requests: requests, eprs: eprs, patience: 2 * time.Second}
}

const maxText = 4000

// ListCases answers one page of the queue, newest first.
func (s *Server) ListCases(ctx context.Context, in *approvalv1.ListCasesRequest) (*approvalv1.ListCasesResponse, error) {
	req, err := page.Parse(in.Limit, in.Page, in.PageToken)
	if err != nil {
		return nil, err
	}
	filter, err := filterOf(in)
	if err != nil {
		return nil, err
	}
	var cases []*domain.Case
	var total int
	err = s.db.Read(ctx, auth.From(ctx).Scope(), func(tx pgx.Tx) error {
		cases, total, err = store.List(ctx, tx, filter, req)
		return err
	})
	if err != nil {
		return nil, err
	}
	cases, last, more := page.Cut(req, cases, func(c *domain.Case) page.Key { return page.Key{At: c.CreatedAt, ID: c.ID} })
	out := &approvalv1.ListCasesResponse{Pagination: page.Result(req, total, false, last, more)}
	for _, c := range cases {
		out.Data = append(out.Data, message(c))
	}
	return out, nil
}

func filterOf(in *approvalv1.ListCasesRequest) (store.Filter, error) {
	filter := store.Filter{Kind: in.Kind, State: in.State}
	problems := fault.Fields()
	if in.Kind != nil && *in.Kind != string(domain.EPRRegistration) && *in.Kind != string(domain.ImportRequest) {
		problems.Add("kind", "must be epr_registration or import_request")
	}
	if in.State != nil {
		known := false
		for _, state := range domain.States() {
			known = known || string(state) == *in.State
		}
		if !known {
			problems.Add("state", "must be open, approved, rejected or void")
		}
	}
	if in.TenantId != nil {
		id, err := page.ID("tenant_id", *in.TenantId)
		if err != nil {
			problems.Add("tenant_id", "must be a UUID")
		}
		filter.Tenant = &id
	}
	if in.DueBefore != nil {
		if !in.DueBefore.IsValid() {
			problems.Add("due_before", "is not a time")
		}
		at := in.DueBefore.AsTime()
		filter.DueBefore = &at
	}
	return filter, problems.Err()
}

// GetCase answers one case whole.
func (s *Server) GetCase(ctx context.Context, in *approvalv1.GetCaseRequest) (*approvalv1.Case, error) {
	id, err := page.ID("id", in.GetId())
	if err != nil {
		return nil, err
	}
	var c *domain.Case
	err = s.db.Read(ctx, auth.From(ctx).Scope(), func(tx pgx.Tx) error {
		c, err = store.Get(ctx, tx, id)
		return err
	})
	if errors.Is(err, store.ErrNone) {
		return nil, fault.New(errorsv1.Reason_REASON_NOT_FOUND, "there is no such case")
	}
	if err != nil {
		return nil, err
	}
	return message(c), nil
}

// ApproveCase decides a case by its own id.
func (s *Server) ApproveCase(ctx context.Context, in *approvalv1.DecideRequest) (*approvalv1.Case, error) {
	id, err := page.ID("id", in.GetId())
	if err != nil {
		return nil, err
	}
	return s.decide(ctx, in, id, true)
}

// RejectCase decides a case by its own id.
func (s *Server) RejectCase(ctx context.Context, in *approvalv1.DecideRequest) (*approvalv1.Case, error) {
	id, err := page.ID("id", in.GetId())
	if err != nil {
		return nil, err
	}
	return s.decide(ctx, in, id, false)
}

// CommentCase adds a remark.
func (s *Server) CommentCase(ctx context.Context, in *approvalv1.CommentCaseRequest) (*approvalv1.Case, error) {
	id, err := page.ID("id", in.GetId())
	if err != nil {
		return nil, err
	}
	problems := fault.Fields()
	text := prose(problems, "text", in.GetText(), "is required")
	caller, person, err := voter(ctx, problems)
	if err != nil {
		return nil, err
	}
	var out *approvalv1.Case
	err = s.db.Write(ctx, caller.Scope(), func(tx pgx.Tx) error {
		out, err = idempotency.Run(ctx, tx, in, &approvalv1.Case{}, func() (*approvalv1.Case, error) {
			c, err := s.app.Comment(ctx, tx, id, person, caller.Actor(), text)
			if err != nil {
				return nil, err
			}
			return message(c), nil
		})
		return err
	})
	return out, err
}

// prose reads a text that people wrote: trimmed, at most maxText characters, no control characters but line breaks and tabs. needed is what to
// say when it is empty; empty itself: it may be.
func prose(problems *fault.FieldErrors, field, value, needed string) string {
	value = strings.TrimSpace(value)
	switch {
	case value == "" && needed != "":
		problems.Add(field, needed)
	case utf8.RuneCountInString(value) > maxText:
		problems.Addf(field, "must have at most %d characters", maxText)
	case strings.ContainsFunc(value, func(r rune) bool { return unicode.IsControl(r) && r != '\n' && r != '\r' && r != '\t' }):
		problems.Add(field, "must not contain control characters")
	}
	return value
}

// voter is who decides, once the shape of the call is right. Somebody who may vote but whom our directory does not know as a person yet is
// asked to come back: four-eyes compares people, not tokens.
func voter(ctx context.Context, problems *fault.FieldErrors) (auth.Caller, uuid.UUID, error) {
	if err := problems.Err(); err != nil {
		return auth.Caller{}, uuid.Nil, err
	}
	caller := auth.From(ctx)
	if caller.PersonID == uuid.Nil {
		return caller, uuid.Nil, fault.New(errorsv1.Reason_REASON_DEPENDENCY_UNAVAILABLE, "the directory does not know you yet; try again in a moment",
			fault.RetryAfter(time.Second))
	}
	return caller, caller.PersonID, nil
}

// decide takes the caller's vote on a case.
func (s *Server) decide(ctx context.Context, in *approvalv1.DecideRequest, id uuid.UUID, yes bool) (*approvalv1.Case, error) {
	problems, needed := fault.Fields(), ""
	if !yes {
		needed = "is required to reject: the requester will read it"
	}
	reason := prose(problems, "reason", in.GetReason(), needed)
	caller, person, err := voter(ctx, problems)
	if err != nil {
		return nil, err
	}
	var out *approvalv1.Case
	err = s.db.Write(ctx, caller.Scope(), func(tx pgx.Tx) error {
		out, err = idempotency.Run(ctx, tx, in, &approvalv1.Case{}, func() (*approvalv1.Case, error) {
			c, err := s.app.Decide(ctx, tx, app.Ballot{Case: id, By: person, Actor: caller.Actor(), Yes: yes, Reason: reason})
			if err != nil {
				return nil, err
			}
			return message(c), nil
		})
		return err
	})
	return out, err
}
