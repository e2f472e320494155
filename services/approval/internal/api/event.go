package api

import (
	"context"
	"errors"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	intakev1 "github.com/pratique-io/pratique/gen/pratique/intake/v1"
	"github.com/pratique-io/pratique/internal/bus"
	"github.com/pratique-io/pratique/internal/event"
	"github.com/pratique-io/pratique/internal/failpoint"
	"github.com/pratique-io/pratique/services/approval/internal/app"
	"github.com/pratique-io/pratique/services/approval/internal/domain"
)

// Subscriptions are what approval listens to: asks that need people, and subjects that are gone.
func (s *Server) Subscriptions() []bus.Subscription {
	return []bus.Subscription{
		{
			Purpose:     "asks",
			Types:       []string{"pratique.intake.v1.RequestSubmitted", "pratique.intake.v1.EprRegistrationRequested"},
			HandleBatch: s.open,
		},
		{
			Purpose: "withdrawals",
			Types:   []string{"pratique.intake.v1.RequestWithdrawn", "pratique.intake.v1.EprRegistrationWithdrawn"},
			Handle:  s.void,
		},
	}
}

var errNoID = errors.New("the event names no usable id")

// open answers one outcome per event. Either the whole batch is opened or, on a database error, none of it: the bus then splits the batch.
func (s *Server) open(ctx context.Context, tx pgx.Tx, batch []event.Envelope) []error {
	outcomes := make([]error, len(batch))
	var asks []app.Ask
	var from []int
	for i, e := range batch {
		ask, needed, err := askOf(e)
		switch {
		case err != nil:
			outcomes[i] = bus.Poison(err)
		case !needed:
			outcomes[i] = bus.Discard("no_decision_needed")
		default:
			asks, from = append(asks, ask), append(from, i)
		}
	}
	if len(asks) == 0 {
		return outcomes
	}
	failpoint.Hit("approval.before_open")
	if err := s.app.Open(ctx, tx, asks); err != nil {
		for _, i := range from {
			outcomes[i] = err
		}
	}
	return outcomes
}

func askOf(e event.Envelope) (app.Ask, bool, error) {
	if e.Type == "pratique.intake.v1.RequestSubmitted" {
		msg := &intakev1.RequestSubmitted{}
		if err := e.Decode(msg); err != nil {
			return app.Ask{}, false, err
		}
		if msg.GetRequestType() != "quarantine" {
			return app.Ask{}, false, nil
		}
		if msg.GetCarriedOverFrom() != "" { // a retry of what was approved: nobody decides again
			return app.Ask{}, false, nil
		}
		return checked(app.Ask{
			Tenant: e.Tenant(), Kind: domain.ImportRequest, Subject: e.Aggregate(), Requester: msg.GetRequestedBy(),
			ChainRequesters: msg.GetChainRequesters(), Digest: msg.GetSourceImageDigest(), Cause: e,
			Facts: map[string]string{
				"source": msg.GetSourceRegistry() + "/" + msg.GetSourceImageRef(), "digest": msg.GetSourceImageDigest(),
				"epr_record_id": msg.GetEprRecordId(), "epr_basis": msg.GetEprBasis(), "destination": msg.GetDestinationImageRef(),
				"justification": msg.GetJustification(),
			},
		})
	}
	msg := &intakev1.EprRegistrationRequested{}
	if err := e.Decode(msg); err != nil {
		return app.Ask{}, false, err
	}
	return checked(app.Ask{
		Tenant: e.Tenant(), Kind: domain.EPRRegistration, Subject: e.Aggregate(), Requester: msg.GetRequestedBy(), Cause: e,
		Facts: map[string]string{
			"epr_record_id": msg.GetEprRecordId(), "product_name": msg.GetProductName(), "technology_name": msg.GetTechnologyName(),
			"business_justification": msg.GetBusinessJustification(),
		},
	})
}

func checked(ask app.Ask) (app.Ask, bool, error) {
	if ask.Tenant == uuid.Nil || ask.Subject == uuid.Nil {
		return ask, false, errNoID
	}
	return ask, true, nil
}

func (s *Server) void(ctx context.Context, tx pgx.Tx, e event.Envelope) error {
	gone, why := app.Gone{Tenant: e.Tenant(), Kind: domain.ImportRequest, Subject: e.Aggregate(), Actor: e.Actor}, ""
	if e.Type == "pratique.intake.v1.RequestWithdrawn" {
		msg := &intakev1.RequestWithdrawn{}
		if err := e.Decode(msg); err != nil {
			return bus.Poison(err)
		}
		if msg.GetCarriedOverFrom() != "" || msg.GetRequestType() == requestScan {
			return bus.Discard("no_decision_needed") // it never had a case
		}
		gone.Requester, gone.Untaken, why = msg.GetRequestedBy(), msg.GetFromStatus() == "pending", msg.GetReason()
	} else {
		msg := &intakev1.EprRegistrationWithdrawn{}
		if err := e.Decode(msg); err != nil {
			return bus.Poison(err)
		}
		// A registration can be withdrawn only while it waits.
		gone.Kind, gone.Requester, gone.Untaken, why = domain.EPRRegistration, msg.GetRequestedBy(), true, msg.GetReason()
	}
	if gone.Tenant == uuid.Nil || gone.Subject == uuid.Nil {
		return bus.Poison(errNoID)
	}
	gone.Reason = "withdrawn"
	if why != "" {
		gone.Reason += ": " + why
	}
	return s.app.Void(ctx, tx, gone)
}
