package notify_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"

	notifyv1 "github.com/pratique-io/pratique/gen/pratique/notify/v1"
	"github.com/pratique-io/pratique/internal/event"
	"github.com/pratique-io/pratique/internal/pg"
	"github.com/pratique-io/pratique/services/notify"
)

// open follows and waits until the stream has begun.
func open(t testing.TB, ctx context.Context, c api, me uuid.UUID, after *string) grpc.ServerStreamingClient[notifyv1.Notification] {
	t.Helper()
	stream, err := c.FollowNotifications(as(ctx, me), &notifyv1.FollowNotificationsRequest{AfterId: after})
	require.NoError(t, err)
	_, err = stream.Header()
	require.NoError(t, err)
	return stream
}

func next(t testing.TB, stream grpc.ServerStreamingClient[notifyv1.Notification], n int) []string {
	t.Helper()
	var ids []string
	for range n {
		got, err := stream.Recv()
		require.NoError(t, err)
		ids = append(ids, got.GetId())
	}
	return ids
}

func (r *room) mailbox(person uuid.UUID) []string {
	r.t.Helper()
	rows, err := r.admin.Query(r.t.Context(), `select id::text from notification where recipient = $1 order by seq`, person)
	require.NoError(r.t, err)
	ids, err := pgx.CollectRows(rows, pgx.RowTo[string])
	require.NoError(r.t, err)
	return ids
}

func TestFollowBringsWhatComesAndResumes(t *testing.T) {
	t.Parallel()
	r := newRoom(t)
	client := serve(t, r.service)
	c := r.cast()
	r.decided(c, 2)
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	stream := open(t, ctx, client, c.asker, nil)
	r.decided(c, 3)
	got := next(t, stream, 3)
	require.Equal(t, r.mailbox(c.asker)[2:], got, "only what came since, in order")

	r.decided(c, 120) // more than one page
	all := r.mailbox(c.asker)
	require.Equal(t, all[5:], next(t, stream, 120))
	resumed := open(t, ctx, client, c.asker, &all[3])
	require.Equal(t, all[4:], next(t, resumed, len(all)-4))

	_, err := client.DeleteNotification(as(ctx, c.asker), &notifyv1.DeleteNotificationRequest{Id: all[124]})
	require.NoError(t, err)
	fallback := open(t, ctx, client, c.asker, &all[124])
	require.Equal(t, all[:3], next(t, fallback, 3), "what is gone cannot be found: some come twice rather than one not at all")
	unknown := open(t, ctx, client, c.asker, ptr(newID().String()))
	require.Equal(t, all[:1], next(t, unknown, 1))
}

func TestFollowHearsOfOtherProcesses(t *testing.T) {
	t.Parallel()
	r := newRoom(t)
	config := r.db.WorkerPool().Config().ConnConfig
	elsewhere, err := pg.Open(t.Context(), pg.Config{URL: fmt.Sprintf("postgres://%s:%d/%s", config.Host, config.Port, config.Database),
		Schema: "notify", Passwords: pg.Passwords{API: "api-password", Worker: "worker-password"}})
	if strings.HasPrefix(config.Host, "/") {
		elsewhere, err = pg.Open(t.Context(), pg.Config{URL: fmt.Sprintf("postgres:///%s?host=%s&port=%d", config.Database, config.Host, config.Port),
			Schema: "notify", Passwords: pg.Passwords{API: "api-password", Worker: "worker-password"}})
	}
	require.NoError(t, err)
	t.Cleanup(elsewhere.Close)
	other, err := notify.New(notify.Default(), notify.Deps{DB: elsewhere, Now: r.now})
	require.NoError(t, err)
	client := serve(t, other)
	c := r.cast()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	stream := open(t, ctx, client, c.asker, nil)
	owners := open(t, ctx, client, c.owner, nil)
	r.decided(c, 1) // commits on a connection that the other process knows nothing of
	require.Equal(t, r.mailbox(c.asker), next(t, stream, 1))
	require.Equal(t, r.mailbox(c.owner), next(t, owners, 1))
}

func TestFollowEndsWithItsContextAndSparesStrangers(t *testing.T) {
	t.Parallel()
	r := newRoom(t)
	client := serve(t, r.service)
	c := r.cast()
	ctx, cancel := context.WithCancel(t.Context())
	stream := open(t, ctx, client, c.asker, nil)
	cancel()
	_, err := stream.Recv()
	require.ErrorContains(t, err, "canceled")
	stranger := open(t, t.Context(), client, uuid.Nil, nil)
	_, err = stranger.Recv()
	require.ErrorContains(t, err, "EOF", "they connect again, and are known by then")
}

func TestFollowNeverSkipsUnderConcurrentTellers(t *testing.T) {
	t.Parallel()
	r := newRoom(t)
	client := serve(t, r.service)
	c := r.cast()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	stream := open(t, ctx, client, c.asker, nil)
	const tellers, each = 4, 30
	batches := make([][]event.Envelope, tellers)
	for i := range batches {
		for range each {
			batches[i] = append(batches[i], rejected(t, c.tenant, c.asker))
		}
	}
	done := make(chan error, tellers)
	for _, batch := range batches {
		go func() {
			for _, e := range batch {
				if _, err := r.attempt([]event.Envelope{e}); err != nil {
					done <- err
					return
				}
			}
			done <- nil
		}()
	}
	got := next(t, stream, tellers*each)
	for range tellers {
		require.NoError(t, <-done)
	}
	require.Equal(t, r.mailbox(c.asker), got)
}
