package system

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"github.com/pratique-io/pratique/cmd/pratique/serve"
	"github.com/pratique-io/pratique/internal/bus"
	"github.com/pratique-io/pratique/internal/event"
	"github.com/pratique-io/pratique/internal/oci"
)

// admin is a connection that sees every schema, as no service does.
func (p *product) admin(t *testing.T) *pgx.Conn {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), p.AdminURL())
	require.NoError(t, err)
	t.Cleanup(func() { _ = conn.Close(context.Background()) })
	return conn
}

// none asserts that a query finds nothing; what it finds is shown.
func none(t *testing.T, conn *pgx.Conn, invariant, query string) {
	t.Helper()
	rows, err := conn.Query(t.Context(), query)
	require.NoError(t, err, invariant)
	found, err := pgx.CollectRows(rows, pgx.RowToMap)
	require.NoError(t, err, invariant)
	require.Empty(t, found, invariant)
}

// settle waits until every event of every outbox is claimed by every consumer that wants it, or lies in its dead letters (I7).
func (p *product) settle(t *testing.T) {
	t.Helper()
	conn := p.admin(t)
	require.Eventually(t, func() bool { return len(p.unclaimed(t, conn)) == 0 }, 90*time.Second, 200*time.Millisecond, "events are still on their way")
	// What consumers wrote on the last events may have told new ones: two quiet looks in a row are the end.
	require.Eventually(t, func() bool { return len(p.unclaimed(t, conn)) == 0 }, 90*time.Second, 500*time.Millisecond, "events are still on their way")
}

// unclaimed lists what is still owed: event, type and consumer.
func (p *product) unclaimed(t *testing.T, conn *pgx.Conn) []string {
	t.Helper()
	var owed []string
	for consumerService, subscriptions := range serve.Subscriptions() {
		for _, subscription := range subscriptions {
			consumer := consumerService + "_" + subscription.Purpose
			for _, eventType := range subscription.Types {
				producer := strings.Split(eventType, ".")[1]
				query := fmt.Sprintf(`select o.event_id::text from %[1]s.outbox o
					where convert_from(o.body, 'utf8')::jsonb ->> 'type' = $1
					and not exists (select from %[2]s.inbox i where i.consumer = $2 and i.event_id = o.event_id)
					and not exists (select from %[2]s.dead_letter d where d.consumer = $2 and d.event_id = o.event_id)`, producer, consumerService)
				rows, err := conn.Query(t.Context(), query, eventType, consumer)
				require.NoError(t, err)
				ids, err := pgx.CollectRows(rows, pgx.RowTo[string])
				require.NoError(t, err)
				for _, id := range ids {
					owed = append(owed, id+" "+eventType+" to "+consumer)
				}
			}
		}
	}
	return owed
}

// checkInvariants checks what must hold after any story, whatever happened during it.
func (p *product) checkInvariants(t *testing.T) {
	t.Helper()
	conn := p.admin(t)
	none(t, conn, "I1: an accepted request has come to an end",
		`select id, status from intake.request where status not in ('rejected', 'withdrawn', 'success', 'quarantined', 'failed')`)
	none(t, conn, "I1: no two open requests for the same thing, and no request without its submission told once", `
		select r.id from intake.request r
		where (select count(*) from intake.outbox o where convert_from(o.body, 'utf8')::jsonb ->> 'type' = 'pratique.intake.v1.RequestSubmitted'
			and convert_from(o.body, 'utf8')::jsonb ->> 'subject' = r.id::text) <> 1`)
	none(t, conn, "I2: what is released was judged to pass, for that digest, and approved by somebody else", `
		select a.id from release.released_artifact a
		join intake.request r on r.id = a.record_id
		where a.digest <> r.source_image_digest
			or not exists (select from evidence.bundle b join evidence.decision d on d.bundle_id = b.id and d.version = b.decision_version
				where b.id = r.id and b.digest = a.digest and d.verdict = 'pass')
			or not exists (select from approval.decision_case c where c.subject_id = r.id and c.state = 'approved' and c.decided_by <> r.requested_by::text
				and c.digest = a.digest)
			or a.released_by = r.requested_by::text`)
	none(t, conn, "I3: one person is told one thing once", `
		select recipient, notification_type, related_resource_id, count(*) from notify.notification
		where notification_type not like 'epr%' group by 1, 2, 3 having count(*) > 1`)
	none(t, conn, "I3: every receipt of an in-app notice has its notice and the other way round", `
		select r.id from notify.receipt r full join notify.notification n on n.id = r.id where n.id is null or r.id is null`)
	for _, c := range []struct{ entity, trail, key string }{
		{"intake.request", "intake.request_transition", "request_id"},
		{"approval.decision_case", "approval.case_transition", "case_id"},
		{"dispatch.dispatch_record", "dispatch.transition", "import_id"},
		{"evidence.bundle", "evidence.bundle_transition", "bundle_id"},
		{"release.release_record", "release.release_transition", "record_id"},
	} {
		none(t, conn, "I4: one transition per version, no gaps, in "+c.entity, fmt.Sprintf(`
			select e.id, e.version, count(t.*) as transitions, max(t.version) as last from %s e left join %s t on t.%s = e.id
			group by e.id, e.version having e.version <> count(t.*) or (count(t.*) > 0 and e.version <> max(t.version))`, c.entity, c.trail, c.key))
	}
	none(t, conn, "I4: every transition that names an event has told it", `
		select t.event_id from intake.request_transition t where t.event_id is not null and not exists (select from intake.outbox o where o.event_id = t.event_id)
		union all
		select t.event_id from dispatch.transition t where t.event_id is not null and not exists (select from dispatch.outbox o where o.event_id = t.event_id)
		union all
		select t.event_id from release.release_transition t where not exists (select from release.outbox o where o.event_id = t.event_id)`)
	none(t, conn, "I5: what failed, was rejected, withdrawn or released has no copy in quarantine",
		`select id, state, reason from evidence.quarantine_copy where state = 'to_remove' and due_at < now() - interval '30 seconds'`)
	none(t, conn, "QuarantineConcluded is told once for whatever concluded", `
		select r.id, count(o.*) from intake.request r left join intake.outbox o on convert_from(o.body, 'utf8')::jsonb ->> 'subject' = r.id::text
			and convert_from(o.body, 'utf8')::jsonb ->> 'type' = 'pratique.intake.v1.QuarantineConcluded'
		where r.status in ('success', 'quarantined', 'failed') group by r.id having count(o.*) <> 1`)
	for _, service := range serve.Names() {
		none(t, conn, "I7: nothing died in "+service, fmt.Sprintf(`select consumer, type, error from %s.dead_letter where state = 'dead'`, service))
	}
	none(t, conn, "I10: no lease is older than its term", `
		select id from dispatch.dispatch_record where leased_until > now() + interval '5 minutes'
		union all select id from evidence.bundle where leased_until > now() + interval '5 minutes'
		union all select id from release.promotion where leased_until > now() + interval '5 minutes'`)
	p.walkStream(t, conn)
	p.checkTrusted(t, conn)
}

// walkStream reads the whole lifecycle stream as an outside subscriber: it holds exactly what the
// outboxes hold.
func (p *product) walkStream(t *testing.T, conn *pgx.Conn) {
	t.Helper()
	want := map[string]bool{}
	for _, service := range serve.Names() {
		rows, err := conn.Query(t.Context(), fmt.Sprintf(`select event_id::text from %s.outbox where subject like 'pratique.%%'`, service))
		require.NoError(t, err)
		ids, err := pgx.CollectRows(rows, pgx.RowTo[string])
		require.NoError(t, err)
		for _, id := range ids {
			want[id] = true
		}
	}
	require.NotEmpty(t, want)
	user := p.Connection.NATS.User
	nc, err := nats.Connect(p.Connection.NATS.URL, nats.UserInfo(user, p.Connection.NATS.Password), nats.CustomInboxPrefix("_INBOX_"+user))
	require.NoError(t, err)
	defer nc.Close()
	js, err := jetstream.New(nc)
	require.NoError(t, err)
	consumer, err := js.CreateConsumer(t.Context(), bus.Lifecycle, jetstream.ConsumerConfig{
		Name: "ext_" + user, Durable: "ext_" + user, DeliverPolicy: jetstream.DeliverAllPolicy, AckPolicy: jetstream.AckExplicitPolicy,
	})
	require.NoError(t, err)
	seen := map[string]bool{}
	for len(seen) < len(want) {
		batch, err := consumer.Fetch(256, jetstream.FetchMaxWait(5*time.Second))
		require.NoError(t, err)
		n := 0
		for message := range batch.Messages() {
			n++
			require.NoError(t, message.Ack())
			e, err := event.Decode(message.Data())
			require.NoError(t, err)
			require.Equal(t, event.SubjectOf(e), message.Subject())
			if want[e.ID] {
				seen[e.ID] = true
				continue
			}
			var told bool // by a loop that has just finished something, after the outboxes were read
			require.NoError(t, conn.QueryRow(t.Context(), fmt.Sprintf(`select exists (select from %s.outbox where event_id = $1)`, e.Service()), e.ID).Scan(&told))
			require.True(t, told, "the stream holds %s %s, which no outbox holds", e.Type, e.ID)
		}
		require.NotZero(t, n, "the stream lacks %d of %d events", len(want)-len(seen), len(want))
	}
}

// checkTrusted compares the trusted registry with the release rows (I8): each released digest is there under its tag, and every tag there is a
// released one.
func (p *product) checkTrusted(t *testing.T, conn *pgx.Conn) {
	t.Helper()
	rows, err := conn.Query(t.Context(), `select destination_image_ref, digest from release.released_artifact where is_current`)
	require.NoError(t, err)
	type artifact struct{ Ref, Digest string }
	artifacts, err := pgx.CollectRows(rows, pgx.RowToStructByPos[artifact])
	require.NoError(t, err)
	trusted := p.Connection.Registries["trusted"]
	client := oci.NewClient(http.DefaultTransport)
	credential := oci.Credential{Username: trusted.Username, Password: trusted.Password}
	tags := map[string]map[string]string{} // repository -> tag -> digest
	for _, a := range artifacts {
		reference, err := oci.ParseDestination(a.Ref)
		require.NoError(t, err)
		if tags[reference.Repository] == nil {
			tags[reference.Repository] = map[string]string{}
		}
		tags[reference.Repository][reference.Tag] = a.Digest
	}
	for name, released := range tags {
		repository := client.Repository(trusted.Address, name, credential)
		present, err := repository.Tags(t.Context())
		require.NoError(t, err)
		require.Len(t, present, len(released), "tags in %s: %v", name, present)
		for tag, digest := range released {
			root, _, err := repository.Resolve(t.Context(), tag)
			require.NoError(t, err)
			require.Equal(t, digest, string(root.Digest), "%s:%s", name, tag)
		}
	}
}
