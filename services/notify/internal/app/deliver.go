package app

import (
	"context"
	"fmt"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"google.golang.org/protobuf/proto"

	notifyv1 "github.com/pratique-io/pratique/gen/pratique/notify/v1"
	"github.com/pratique-io/pratique/internal/event"
	"github.com/pratique-io/pratique/internal/outbox"
	"github.com/pratique-io/pratique/services/notify/internal/domain"
	"github.com/pratique-io/pratique/services/notify/internal/store"
)

const actor = "service:notify"

// deliver claims plans and receipts, hands each channel its share, and says so. The in-app channel is done with its row; a channel that
// leaves the process would get a row per receipt here, whose state says that a loop owes the sending.
func (a *App) deliver(ctx context.Context, tx pgx.Tx, list []*told) error {
	list, err := a.claim(ctx, tx, list)
	if err != nil {
		return err
	}
	var inApp []store.Notification
	for _, t := range list {
		for _, r := range t.receipts {
			if r.Channel == domain.InApp {
				inApp = append(inApp, t.notification(r))
			}
		}
	}
	if err := store.Deliver(ctx, tx, inApp); err != nil {
		return err
	}
	events, err := report(ctx, list)
	if err != nil {
		return err
	}
	return outbox.Append(ctx, tx, events...)
}

// claim keeps what is told for the first time, with the receipts that are new.
func (a *App) claim(ctx context.Context, tx pgx.Tx, list []*told) ([]*told, error) {
	plans := make([]*store.Plan, len(list))
	for i, t := range list {
		plans[i] = t.plan
	}
	fresh, err := store.InsertPlans(ctx, tx, plans)
	if err != nil {
		return nil, err
	}
	var first []*told
	var wanted []store.Receipt
	for _, t := range list {
		if !fresh[t.plan.ID] {
			continue
		}
		first = append(first, t)
		for _, r := range t.recipients {
			for _, channel := range domain.Channels() {
				id, err := uuid.NewV7()
				if err != nil {
					return nil, fmt.Errorf("receipt id: %w", err)
				}
				wanted = append(wanted, store.Receipt{ID: id, Plan: t.plan, Recipient: r.Person, Channel: channel, Why: r.Why})
			}
		}
	}
	claimed, err := store.InsertReceipts(ctx, tx, wanted)
	if err != nil {
		return nil, err
	}
	byPlan := make(map[uuid.UUID][]store.Receipt, len(first))
	for _, r := range wanted {
		if claimed[r.ID] {
			byPlan[r.Plan.ID] = append(byPlan[r.Plan.ID], r)
		}
	}
	for _, t := range first {
		t.receipts = byPlan[t.plan.ID]
	}
	return first, nil
}

func (t *told) notification(r store.Receipt) store.Notification {
	n := t.notice
	return store.Notification{
		ID: r.ID, Tenant: t.plan.Tenant, Recipient: r.Recipient, Title: n.Title, Message: n.MessageFor(r.Why), Type: n.Type,
		Resource: n.Resource, ResourceID: n.ResourceID, Link: n.Link, Class: filled(n.Failure.Class), Code: filled(n.Failure.Code),
		Hint: filled(n.Hint), CreatedAt: t.plan.At,
	}
}

func filled(s string) *string {
	if s == "" {
		return nil
	}
	return &s
}

// report makes the events: one per notification, and for a decision how many of those planned were reached.
func report(ctx context.Context, list []*told) ([]event.Envelope, error) {
	var events []event.Envelope
	say := func(ctx context.Context, t *told, subject uuid.UUID, msg proto.Message) error {
		e, err := event.New(ctx, msg, event.Head{Subject: subject, Tenant: t.plan.Tenant, Sequence: 1, Request: t.news.Event.Request(), Actor: actor})
		events = append(events, e)
		return err
	}
	for _, t := range list {
		caused := event.WithCause(ctx, t.news.Event)
		inApp := 0
		for _, r := range t.receipts {
			if r.Channel != domain.InApp {
				continue
			}
			inApp++
			if err := say(caused, t, r.ID, t.created(r)); err != nil {
				return nil, err
			}
		}
		if t.notice.Reconciled {
			if err := say(caused, t, t.plan.ID, t.reconciled(inApp)); err != nil {
				return nil, err
			}
		}
	}
	return events, nil
}

func (t *told) created(r store.Receipt) *notifyv1.NotificationCreated {
	return &notifyv1.NotificationCreated{
		NotificationId: r.ID.String(), TenantId: t.news.Event.TenantID, NotificationType: string(t.notice.Type), RecipientId: r.Recipient.String(),
		RelatedResourceId: t.notice.ResourceID.String(),
	}
}

func (t *told) reconciled(inApp int) *notifyv1.ReconciliationChanged {
	return &notifyv1.ReconciliationChanged{
		ImportId: t.notice.ResourceID.String(), TenantId: t.news.Event.TenantID, DecisionEventType: t.news.Event.Type,
		IdempotencyKey: t.plan.Key, ExpectedRecipients: int32(t.plan.Expected), ReceiptCount: int32(len(t.people())),
		InAppNotificationCount: int32(inApp), DeliveryState: string(domain.Reconcile(t.plan.Expected, len(t.people()), inApp)),
	}
}

// people are the recipients who have a receipt, by whatever channel.
func (t *told) people() map[uuid.UUID]bool {
	out := map[uuid.UUID]bool{}
	for _, r := range t.receipts {
		out[r.Recipient] = true
	}
	return out
}
