package notify_test

import (
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	intakev1 "github.com/pratique-io/pratique/gen/pratique/intake/v1"
	notifyv1 "github.com/pratique-io/pratique/gen/pratique/notify/v1"
	"github.com/pratique-io/pratique/internal/event"
)

const (
	allNotifications = `select count(*) from notification`
	allReceipts      = `select count(*) from receipt`
	// toldTwice counts what must never be: somebody told of one thing twice.
	toldTwice = `select count(*) from (select 1 from notification n join receipt r on r.id = n.id
		group by r.recipient, r.notification_type, r.idempotency_key having count(*) > 1) twice`
	// gaps counts people whose mailbox is not numbered 1 to n.
	gaps = `select count(*) from (select 1 from notification n join mailbox m using (recipient)
		group by recipient, m.last_seq having max(n.seq) <> count(*) or min(n.seq) <> 1 or m.last_seq <> count(*)) wrong`
)

func (r *room) submitted(c cast) event.Envelope {
	events, _ := c.life(r.t)
	return events[2]
}

func (r *room) approved(c cast) event.Envelope {
	events, _ := c.life(r.t)
	return events[3]
}

func TestEverybodyConcernedIsToldOfALife(t *testing.T) {
	t.Parallel()
	r := newRoom(t)
	c := r.cast()
	events, told := c.life(t)
	total := 0
	for i, e := range events {
		r.handle(e)
		total += told[i]
		require.Equal(t, total, r.count(allNotifications), e.Type)
		require.Equal(t, total, r.count(allReceipts))
	}
	require.Len(t, published(r, func() *notifyv1.NotificationCreated { return &notifyv1.NotificationCreated{} }), total)
	require.Zero(t, r.count(gaps))
	require.Equal(t, 1, r.count(`select count(*) from notification n join receipt r on r.id = n.id
		where n.recipient = $1 and r.why = 'escalation' and failure_class = 'runtime' and failure_code = 'scanner_error' and hint <> ''
			and message like '%the machinery failed%'`, c.sysadmin))
}

// The storm: every event five times, two of them under ids of their own, shuffled, in batches of any size, by two consumers at once. The inbox
// is left out: what stands below it must hold alone.
func TestStormTellsEachRecipientOnce(t *testing.T) {
	t.Parallel()
	const lives, consumers = 25, 2
	r := newRoom(t)
	var deliveries []event.Envelope
	expected, decisions := 0, 0
	for range 3 {
		c := r.cast()
		for range lives {
			events, _ := c.life(t)
			for _, e := range events {
				deliveries = append(deliveries, e, e, e, again(e), again(e))
			}
			decisions++
		}
	}
	// Reviewers and system admins are of the system: with three casts there are six and three of them.
	expected = 3 * lives * (3*6 + 5*2 + 2 + 3)
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 1))
	random.Shuffle(len(deliveries), func(i, j int) { deliveries[i], deliveries[j] = deliveries[j], deliveries[i] })

	var batches [consumers][][]event.Envelope
	for rest := deliveries; len(rest) > 0; {
		n := min(1+random.IntN(64), len(rest))
		who := random.IntN(consumers)
		batches[who] = append(batches[who], rest[:n])
		rest = rest[n:]
	}
	var all sync.WaitGroup
	var failed [consumers]error
	for i := range consumers {
		all.Go(func() {
			for _, batch := range batches[i] {
				if _, err := r.attempt(batch); err != nil { // a deadlock would be one: rows are locked in one order
					failed[i] = err
					return
				}
			}
		})
	}
	all.Wait()
	for _, err := range failed {
		require.NoError(t, err)
	}
	require.Zero(t, r.count(toldTwice))
	require.Equal(t, expected, r.count(allNotifications))
	require.Equal(t, expected, r.count(allReceipts))
	require.Zero(t, r.count(gaps))
	require.Len(t, published(r, func() *notifyv1.NotificationCreated { return &notifyv1.NotificationCreated{} }), expected)
	require.Len(t, published(r, func() *notifyv1.ReconciliationChanged { return &notifyv1.ReconciliationChanged{} }), decisions)
}

func TestOnePersonWithSeveralReasonsIsToldOnce(t *testing.T) {
	t.Parallel()
	r := newRoom(t)
	c := r.cast()
	both := r.person(c.tenant, "tenant_admin", "tenant_member")
	e := envelope(t, &intakev1.RequestApproved{ImportId: newID().String(), TenantId: c.tenant.String(), RequestType: "quarantine",
		RequestedBy: both.String()}, newID(), c.tenant, 2)
	r.told(e)
	require.Equal(t, 1, r.count(`select count(*) from notification where recipient = $1`, both))
	require.Equal(t, 1, r.count(`select count(*) from receipt where recipient = $1 and why = 'requester'`, both))
	require.Equal(t, 2, r.count(allNotifications), "and the tenant's admin")
}

func TestASecondSequenceIsASecondNotice(t *testing.T) {
	t.Parallel()
	r := newRoom(t)
	c := r.cast()
	events, _ := c.life(t)
	ready := events[5]
	r.told(ready)
	ready.Sequence += 2
	r.told(again(ready))
	require.Equal(t, 4, r.count(allNotifications))
}

func TestReconciliationCountsWhatIsThere(t *testing.T) {
	t.Parallel()
	r := newRoom(t)
	c := r.cast()
	r.person(c.tenant, "tenant_admin")
	events, _ := c.life(t)
	submitted, approved := events[2], events[3]
	rejected := envelope(t, &intakev1.RequestRejected{ImportId: submitted.Subject, TenantId: c.tenant.String(), RequestedBy: c.asker.String()},
		submitted.Aggregate(), c.tenant, 2)
	rejected.RequestID = submitted.Subject
	r.told(submitted, approved, rejected, again(approved))
	r.told(again(rejected))
	got := published(r, func() *notifyv1.ReconciliationChanged { return &notifyv1.ReconciliationChanged{} })
	require.Len(t, got, 2, "one per decision, none for a replay, none for what is no decision")
	slices.SortFunc(got, func(a, b *notifyv1.ReconciliationChanged) int {
		return strings.Compare(a.GetDecisionEventType(), b.GetDecisionEventType())
	})
	for i, e := range []event.Envelope{approved, rejected} {
		require.Equal(t, e.Type, got[i].GetDecisionEventType())
		require.Equal(t, e.Subject, got[i].GetImportId())
		require.Equal(t, e.Subject+":2", got[i].GetIdempotencyKey())
		require.EqualValues(t, 3, got[i].GetExpectedRecipients())
		require.EqualValues(t, 3, got[i].GetReceiptCount())
		require.EqualValues(t, 3, got[i].GetInAppNotificationCount())
		require.Equal(t, "delivered", got[i].GetDeliveryState())
		n := r.count(`select count(*) from receipt r join notification n on n.id = r.id
			join notification_plan p on p.id = r.plan_id where p.event_type = $1`, e.Type)
		require.EqualValues(t, n, got[i].GetReceiptCount())
	}
	require.Equal(t, 8, r.count(`select count(*) from outbox cross join lateral (select convert_from(body, 'UTF8')::jsonb as e) b
		where e ->> 'causationid' in ($1, $2) and e ->> 'requestid' = $3 and e ->> 'tenantid' = $4 and e ->> 'actor' = 'service:notify'`,
		approved.ID, rejected.ID, approved.Subject, c.tenant.String()), "two decisions, three people each: all name their cause")
}

func TestPublishedEventsCarryNoTextAndNoName(t *testing.T) {
	t.Parallel()
	r := newRoom(t)
	c := r.cast()
	e := envelope(t, &intakev1.RequestApproved{ImportId: newID().String(), TenantId: c.tenant.String(), RequestType: "quarantine",
		RequestedBy: c.asker.String(), SourceImageRef: "secret/image", Reason: "secret reason"}, newID(), c.tenant, 2)
	r.told(e)
	require.Equal(t, 2, r.count(`select count(*) from notification where title like '%secret/image%' and message like '%secret reason%'`))
	require.Equal(t, 3, r.count(`select count(*) from outbox`))
	require.Zero(t, r.count(`select count(*) from outbox where convert_from(body, 'UTF8') like '%secret%'`))
}

func TestTheAbsentIsWaitedFor(t *testing.T) {
	t.Parallel()
	r := newRoom(t)
	c := r.cast()
	stranger := newID()
	e := envelope(t, &intakev1.RequestRejected{ImportId: newID().String(), TenantId: c.tenant.String(), RequestedBy: stranger.String()}, newID(), c.tenant, 2)
	other := r.approved(c)
	outcomes := r.handle(e, other)
	require.Equal(t, "early", kindOf(outcomes[0]))
	require.NoError(t, outcomes[1])
	require.Zero(t, r.count(allNotifications), "rolled back with the early one")
	for _, d := range r.personEvents(stranger, uuid.Nil) {
		require.NoError(t, r.db.Work(t.Context(), func(tx pgx.Tx) error { return r.learn.Handle(t.Context(), tx, d) }))
	}
	r.told(e, other)
	require.Equal(t, 4, r.count(allNotifications))
}

func TestWhenNobodyNearIsKnownSystemAdminsHear(t *testing.T) {
	t.Parallel()
	r := newRoom(t)
	c := cast{tenant: newID(), asker: newID()}
	e := r.submitted(c)
	require.Equal(t, "early", kindOf(r.handle(e)[0]), "nobody at all: the directory may be on its way")
	admin := r.person(uuid.Nil, "system_admin")
	r.told(e)
	require.Equal(t, 1, r.count(`select count(*) from notification where recipient = $1 and message like '%nobody who should hear%'`, admin))
	r.person(uuid.Nil, "security_reviewer")
	r.told(again(e))
	require.Equal(t, 1, r.count(allNotifications), "the plan is frozen")
}

func TestAPlanForNobodyIsFrozenAfterAMinute(t *testing.T) {
	t.Parallel()
	r := newRoom(t)
	e := r.submitted(cast{tenant: newID(), asker: newID()})
	r.sleep(2 * time.Minute)
	r.told(e)
	require.Equal(t, 1, r.count(`select count(*) from notification_plan where expected_recipients = 0`))
	require.Zero(t, r.count(allReceipts))
}

func TestNewsFromBeforeTheServiceIsDiscarded(t *testing.T) {
	t.Parallel()
	r := newRoom(t)
	c := r.cast()
	e := r.submitted(c)
	_, err := r.admin.Exec(t.Context(), `update notify_start set started_at = now() + interval '59 minutes'`)
	require.NoError(t, err)
	r.told(e)

	late := newRoom(t)
	late.cast()
	_, err = late.admin.Exec(t.Context(), `update notify_start set started_at = now() + interval '61 minutes'`)
	require.NoError(t, err)
	require.Equal(t, "discard", kindOf(late.handle(e)[0]))
	require.Zero(t, late.count(`select count(*) from notification_plan`))
}

func TestReceiptsOutliveNotificationsAndPlansOutliveReceipts(t *testing.T) {
	t.Parallel()
	r := newRoom(t)
	c := r.cast()
	e := r.approved(c)
	r.told(e)
	_, err := r.admin.Exec(t.Context(), `delete from notification`)
	require.NoError(t, err)
	r.told(e)
	r.told(again(e))
	require.Equal(t, 2, r.count(allReceipts), "deleting a notification frees no receipt")
	require.Zero(t, r.count(allNotifications))

	sweep := r.service.Loops()[0]
	run := func() {
		more, err := sweep.Run(t.Context())
		require.NoError(t, err)
		require.False(t, more)
	}
	r.sleep(89 * 24 * time.Hour)
	run()
	require.Equal(t, 2, r.count(allReceipts), "not before their time")
	r.sleep(2 * 24 * time.Hour)
	run()
	require.Zero(t, r.count(allReceipts))
	r.told(e)
	r.told(again(e))
	require.Zero(t, r.count(allReceipts), "a replay after retention tells nobody")
	require.Zero(t, r.count(allNotifications))
	require.Len(t, published(r, func() *notifyv1.ReconciliationChanged { return &notifyv1.ReconciliationChanged{} }), 1)
}

func TestTheSweepGoesOnUntilItIsDone(t *testing.T) {
	t.Parallel()
	r := newRoom(t)
	_, err := r.admin.Exec(t.Context(), `insert into receipt (id, tenant_id, plan_id, recipient, channel, notification_type, idempotency_key, why, created_at)
		select gen_random_uuid(), gen_random_uuid(), gen_random_uuid(), gen_random_uuid(), 'in_app', 't', 'k', 'role', now() - interval '91 days'
		from generate_series(1, 1500)`)
	require.NoError(t, err)
	sweep := r.service.Loops()[0]
	more, err := sweep.Run(t.Context())
	require.NoError(t, err)
	require.True(t, more)
	more, err = sweep.Run(t.Context())
	require.NoError(t, err)
	require.False(t, more)
	require.Zero(t, r.count(allReceipts))
}

func TestForeignAndMalformedEventsArePoison(t *testing.T) {
	t.Parallel()
	r := newRoom(t)
	c := r.cast()
	elsewhere := r.submitted(c)
	elsewhere.TenantID = newID().String()
	noTenant := r.submitted(c)
	noTenant.TenantID = ""
	notJSON := r.submitted(c)
	notJSON.Data = []byte(`{"import_id": 7}`)
	asker := envelope(t, &intakev1.RequestRejected{TenantId: c.tenant.String(), RequestedBy: "bob"}, newID(), c.tenant, 2)
	status := envelope(t, &intakev1.QuarantineConcluded{TenantId: c.tenant.String(), RequestType: "quarantine", Status: "paused"}, newID(), c.tenant, 2)
	unasked := envelope(t, &intakev1.RequestStateChanged{TenantId: c.tenant.String()}, newID(), c.tenant, 2)
	for _, e := range []event.Envelope{elsewhere, noTenant, notJSON, asker, status, unasked} {
		require.Equal(t, "poison", kindOf(r.handle(e)[0]), e.Type)
	}
	require.Zero(t, r.count(allNotifications))
}
