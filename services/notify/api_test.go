package notify_test

import (
	"context"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/test/bufconn"

	errorsv1 "github.com/pratique-io/pratique/gen/pratique/errors/v1"
	notifyv1 "github.com/pratique-io/pratique/gen/pratique/notify/v1"
	"github.com/pratique-io/pratique/internal/auth"
	"github.com/pratique-io/pratique/internal/fault"
	"github.com/pratique-io/pratique/internal/pg"
	"github.com/pratique-io/pratique/services/notify"
	"github.com/pratique-io/pratique/services/notify/internal/store"
)

type api = notifyv1.NotificationServiceClient

// as is a call of a person, whose id stands in for the token; errors come back as faults.
func as(ctx context.Context, person uuid.UUID) context.Context {
	return metadata.AppendToOutgoingContext(ctx, "person", person.String())
}

func caller(ctx context.Context) context.Context {
	id, err := uuid.Parse(strings.Join(metadata.ValueFromIncomingContext(ctx, "person"), ""))
	if err != nil {
		return ctx
	}
	return auth.With(ctx, auth.Caller{Subject: "iss|" + id.String(), PersonID: id})
}

type callerStream struct {
	grpc.ServerStream
	ctx context.Context
}

func (s callerStream) Context() context.Context { return s.ctx }

func serve(t testing.TB, service *notify.Service) api {
	t.Helper()
	listener := bufconn.Listen(1 << 20)
	server := grpc.NewServer(
		grpc.UnaryInterceptor(func(ctx context.Context, req any, _ *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
			out, err := next(caller(ctx), req)
			if err != nil {
				return nil, fault.Status(err).Err()
			}
			return out, nil
		}),
		grpc.StreamInterceptor(func(srv any, ss grpc.ServerStream, _ *grpc.StreamServerInfo, next grpc.StreamHandler) error {
			if err := next(srv, callerStream{ss, caller(ss.Context())}); err != nil {
				return fault.Status(err).Err()
			}
			return nil
		}))
	service.Register(server)
	go func() { _ = server.Serve(listener) }()
	t.Cleanup(server.Stop)
	conn, err := grpc.NewClient("passthrough:///notify", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return listener.DialContext(ctx) }))
	require.NoError(t, err)
	t.Cleanup(func() { _ = conn.Close() })
	return notifyv1.NewNotificationServiceClient(conn)
}

func refused(t testing.TB, err error, reason errorsv1.Reason) *fault.Fault {
	t.Helper()
	f := fault.FromStatus(err)
	require.Equal(t, reason, f.Reason(), "%v", err)
	return f
}

// decided tells asker and owner of the cast n times.
func (r *room) decided(c cast, n int) {
	r.t.Helper()
	for range n {
		r.told(rejected(r.t, c.tenant, c.asker))
	}
}

func list(t testing.TB, c api, me uuid.UUID, req *notifyv1.ListNotificationsRequest) *notifyv1.ListNotificationsResponse {
	t.Helper()
	out, err := c.ListNotifications(as(t.Context(), me), req)
	require.NoError(t, err)
	return out
}

func unread(t testing.TB, c api, me uuid.UUID) int32 {
	t.Helper()
	out, err := c.GetUnreadCount(as(t.Context(), me), &notifyv1.GetUnreadCountRequest{})
	require.NoError(t, err)
	return out.GetUnread()
}

func ptr[T any](v T) *T { return &v }

func TestAPersonReadsOverAllTenantsNewestFirst(t *testing.T) {
	t.Parallel()
	r := newRoom(t)
	client := serve(t, r.service)
	one, two := r.cast(), r.cast()
	two.asker = one.asker
	r.decided(one, 3)
	r.decided(two, 4)
	got := list(t, client, one.asker, &notifyv1.ListNotificationsRequest{Limit: ptr(int32(5))})
	require.Len(t, got.GetData(), 5)
	require.EqualValues(t, 7, got.GetPagination().GetTotal())
	rest := list(t, client, one.asker, &notifyv1.ListNotificationsRequest{Limit: ptr(int32(5)), PageToken: ptr(got.GetPagination().GetNextPageToken())})
	require.Len(t, rest.GetData(), 2)
	require.Empty(t, rest.GetPagination().GetNextPageToken())
	seen := map[string]bool{}
	before := time.Now().Add(time.Hour)
	for _, n := range append(got.GetData(), rest.GetData()...) {
		require.False(t, n.GetCreatedAt().AsTime().After(before))
		before = n.GetCreatedAt().AsTime()
		seen[n.GetId()] = true
		require.Equal(t, "external_image_import_rejected", n.GetNotificationType())
		require.Equal(t, "import_request", n.GetRelatedResourceType())
		require.Equal(t, "/requests/"+n.GetRelatedResourceId(), n.GetLink())
		require.False(t, n.GetIsRead())
		require.Nil(t, n.FailureClass)
	}
	require.Len(t, seen, 7)
	require.Len(t, list(t, client, one.owner, &notifyv1.ListNotificationsRequest{}).GetData(), 3)
	_, err := client.ListNotifications(as(t.Context(), one.owner), &notifyv1.ListNotificationsRequest{Limit: ptr(int32(0))})
	refused(t, err, errorsv1.Reason_REASON_VALIDATION_FAILED)
}

func TestReadingAndDeleting(t *testing.T) {
	t.Parallel()
	r := newRoom(t)
	client := serve(t, r.service)
	c := r.cast()
	r.decided(c, 5)
	me := as(t.Context(), c.asker)
	ids := []string{}
	for _, n := range list(t, client, c.asker, &notifyv1.ListNotificationsRequest{}).GetData() {
		ids = append(ids, n.GetId())
	}
	require.EqualValues(t, 5, unread(t, client, c.asker))

	first, err := client.MarkRead(me, &notifyv1.MarkReadRequest{Id: ids[0]})
	require.NoError(t, err)
	require.True(t, first.GetIsRead())
	r.sleep(time.Hour)
	second, err := client.MarkRead(me, &notifyv1.MarkReadRequest{Id: ids[0]})
	require.NoError(t, err)
	require.Equal(t, first.GetReadAt().AsTime(), second.GetReadAt().AsTime(), "the first time stays")
	require.EqualValues(t, 4, unread(t, client, c.asker))
	require.Len(t, list(t, client, c.asker, &notifyv1.ListNotificationsRequest{Unread: ptr(true)}).GetData(), 4)
	require.Len(t, list(t, client, c.asker, &notifyv1.ListNotificationsRequest{Unread: ptr(false)}).GetData(), 5)

	gone, err := client.DeleteReadNotifications(me, &notifyv1.DeleteReadNotificationsRequest{})
	require.NoError(t, err)
	require.EqualValues(t, 1, gone.GetAffected())
	_, err = client.DeleteNotification(me, &notifyv1.DeleteNotificationRequest{Id: ids[1]})
	require.NoError(t, err)
	_, err = client.DeleteNotification(me, &notifyv1.DeleteNotificationRequest{Id: ids[1]})
	refused(t, err, errorsv1.Reason_REASON_NOT_FOUND)
	all, err := client.MarkAllRead(me, &notifyv1.MarkAllReadRequest{})
	require.NoError(t, err)
	require.EqualValues(t, 3, all.GetAffected())
	require.Zero(t, unread(t, client, c.asker))
	require.EqualValues(t, 5, unread(t, client, c.owner), "the owner's own stay")
	bulk, err := client.DeleteNotifications(me, &notifyv1.DeleteNotificationsRequest{Ids: append(ids, newID().String())})
	require.NoError(t, err)
	require.EqualValues(t, 3, bulk.GetAffected(), "unknown and deleted ones do not count")
	require.Equal(t, 10, r.count(allReceipts))
}

func TestMarkAllReadOfALargeMailbox(t *testing.T) {
	t.Parallel()
	r := newRoom(t)
	client := serve(t, r.service)
	me := r.person(uuid.Nil)
	_, err := r.admin.Exec(t.Context(), `insert into notification (id, tenant_id, recipient, seq, title, message, notification_type,
			related_resource_type, related_resource_id, link, created_at)
		select gen_random_uuid(), gen_random_uuid(), $1, n, 't', 'm', 'x', 'import_request', gen_random_uuid(), '', now() from generate_series(1, 11000) n`, me)
	require.NoError(t, err)
	_, err = r.admin.Exec(t.Context(), `insert into mailbox (recipient, last_seq) values ($1, 11000)`, me)
	require.NoError(t, err)
	require.EqualValues(t, 10000, unread(t, client, me), "counted to 10,000")
	require.True(t, list(t, client, me, &notifyv1.ListNotificationsRequest{}).GetPagination().GetTotalIsCapped())
	got, err := client.MarkAllRead(as(t.Context(), me), &notifyv1.MarkAllReadRequest{})
	require.NoError(t, err)
	require.EqualValues(t, 11000, got.GetAffected())
	got, err = client.DeleteReadNotifications(as(t.Context(), me), &notifyv1.DeleteReadNotificationsRequest{})
	require.NoError(t, err)
	require.EqualValues(t, 11000, got.GetAffected())
}

func TestOtherPeoplesNotificationsAreNotFound(t *testing.T) {
	t.Parallel()
	r := newRoom(t)
	client := serve(t, r.service)
	c := r.cast()
	r.decided(c, 1)
	theirs := list(t, client, c.owner, &notifyv1.ListNotificationsRequest{}).GetData()[0].GetId()
	for _, who := range []uuid.UUID{c.asker, c.sysadmin, newID(), uuid.Nil} {
		me := as(t.Context(), who)
		_, err := client.MarkRead(me, &notifyv1.MarkReadRequest{Id: theirs})
		refused(t, err, errorsv1.Reason_REASON_NOT_FOUND)
		_, err = client.DeleteNotification(me, &notifyv1.DeleteNotificationRequest{Id: theirs})
		refused(t, err, errorsv1.Reason_REASON_NOT_FOUND)
		got, err := client.DeleteNotifications(me, &notifyv1.DeleteNotificationsRequest{Ids: []string{theirs}})
		require.NoError(t, err)
		require.Zero(t, got.GetAffected())
		if who != c.asker {
			require.Empty(t, list(t, client, who, &notifyv1.ListNotificationsRequest{}).GetData())
			require.Zero(t, unread(t, client, who))
		}
		all, err := client.MarkAllRead(me, &notifyv1.MarkAllReadRequest{})
		require.NoError(t, err)
		require.Equal(t, who == c.asker, all.GetAffected() == 1)
	}
	require.EqualValues(t, 1, unread(t, client, c.owner))
}

// A query that forgot its predicate still shows nobody else's rows: the database binds a caller's transaction to the person.
func TestRowSecurityBindsToThePerson(t *testing.T) {
	t.Parallel()
	r := newRoom(t)
	c := r.cast()
	r.decided(c, 2)
	see := func(bind bool) (n int) {
		require.NoError(t, r.db.Read(t.Context(), pg.AllTenants(), func(tx pgx.Tx) error {
			if bind {
				require.NoError(t, store.As(t.Context(), tx, c.asker))
			}
			return tx.QueryRow(t.Context(), allNotifications).Scan(&n)
		}))
		return n
	}
	require.Equal(t, 2, see(true))
	require.Zero(t, see(false), "unbound, nothing")
	for _, sql := range []string{`update notification set read_at = now()`, `delete from notification`} {
		require.NoError(t, r.db.Write(t.Context(), pg.AllTenants(), func(tx pgx.Tx) error {
			require.NoError(t, store.As(t.Context(), tx, c.asker))
			tag, err := tx.Exec(t.Context(), sql)
			require.EqualValues(t, 2, tag.RowsAffected(), sql)
			return err
		}))
	}
	require.Equal(t, 2, r.count(`select count(*) from notification where recipient = $1 and read_at is null`, c.owner))
	for _, sql := range []string{`select 1 from receipt`, `select 1 from notification_plan`, `update notification set title = 'x'`,
		`update mailbox set last_seq = 0`, `insert into mailbox values (gen_random_uuid(), 1)`} {
		err := r.db.Write(t.Context(), pg.AllTenants(), func(tx pgx.Tx) error { _, err := tx.Exec(t.Context(), sql); return err })
		require.True(t, pg.IsDenied(err), "%s: %v", sql, err)
	}
}

func TestBadIDsAreNamed(t *testing.T) {
	t.Parallel()
	r := newRoom(t)
	client := serve(t, r.service)
	me := as(t.Context(), newID())
	_, err := client.MarkRead(me, &notifyv1.MarkReadRequest{Id: "7"})
	refused(t, err, errorsv1.Reason_REASON_INVALID_ID)
	_, err = client.DeleteNotification(me, &notifyv1.DeleteNotificationRequest{Id: ""})
	refused(t, err, errorsv1.Reason_REASON_INVALID_ID)
	many := make([]string, 201)
	for i := range many {
		many[i] = newID().String()
	}
	for _, c := range []struct {
		ids    []string
		fields []string
	}{
		{nil, []string{"ids"}}, {many, []string{"ids"}}, {[]string{many[0], "x", "y"}, []string{"ids[1]", "ids[2]"}},
	} {
		_, err = client.DeleteNotifications(me, &notifyv1.DeleteNotificationsRequest{Ids: c.ids})
		f := refused(t, err, errorsv1.Reason_REASON_VALIDATION_FAILED)
		require.Len(t, f.FieldErrors(), len(c.fields))
		for _, field := range c.fields {
			require.Contains(t, f.FieldErrors(), field)
		}
	}
	got, err := client.DeleteNotifications(me, &notifyv1.DeleteNotificationsRequest{Ids: many[:200]})
	require.NoError(t, err)
	require.Zero(t, got.GetAffected())
	stream, err := client.FollowNotifications(me, &notifyv1.FollowNotificationsRequest{AfterId: ptr("z")})
	require.NoError(t, err)
	_, err = stream.Recv()
	refused(t, err, errorsv1.Reason_REASON_INVALID_ID)
}
