package broker_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"github.com/pratique-io/pratique/internal/broker"
	"github.com/pratique-io/pratique/internal/bus"
)

const password = "test-password"

func start(t *testing.T) *broker.Server {
	t.Helper()
	s, err := broker.Start(broker.Config{Dir: t.TempDir(), Users: []broker.User{
		broker.Admin("admin", password), broker.Subscriber("siem", password), broker.Subscriber("other", password),
		broker.Service("intake", password, broker.Bind{Stream: bus.Lifecycle, Consumer: "intake_test"}),
		broker.Service("notify", password, broker.Bind{Stream: bus.Directory, Consumer: "notify_test"}),
	}})
	require.NoError(t, err)
	t.Cleanup(s.Kill)
	admin, err := bus.Connect(t.Context(), bus.Config{URL: s.URL(), User: "admin", Password: password, InboxPrefix: broker.InboxPrefix("admin")})
	require.NoError(t, err)
	defer admin.Close()
	require.NoError(t, bus.ApplyTopology(t.Context(), admin, map[string][]bus.Subscription{}))
	return s
}

// user connects raw; refused reports whether the broker has refused something, which it says before it answers a flush.
func user(t *testing.T, s *broker.Server, name string) (nc *nats.Conn, refused func() bool) {
	t.Helper()
	nc, err := nats.Connect(s.URL(), nats.UserInfo(name, password), nats.CustomInboxPrefix(broker.InboxPrefix(name)))
	require.NoError(t, err)
	t.Cleanup(nc.Close)
	return nc, func() bool {
		require.NoError(t, nc.Flush())
		return errors.Is(nc.LastError(), nats.ErrPermissionViolation)
	}
}

func TestNobodyConnectsWithoutAPassword(t *testing.T) {
	t.Parallel()
	s := start(t)
	for _, option := range []nats.Option{nats.Name("nobody"), nats.UserInfo("intake", "wrong"), nats.UserInfo("nobody", password)} {
		_, err := nats.Connect(s.URL(), option)
		require.ErrorIs(t, err, nats.ErrAuthorization)
	}
	_, err := broker.Start(broker.Config{Dir: t.TempDir()})
	require.Error(t, err, "no users would let everybody in")
	_, err = broker.Start(broker.Config{Dir: t.TempDir(), Users: []broker.User{{Name: "a"}, {Name: ">", Password: "x"}}})
	require.ErrorContains(t, err, "no password")
}

func TestWhoMayPublishAndSubscribeWhat(t *testing.T) {
	t.Parallel()
	s := start(t)
	for _, c := range []struct {
		name, user, publish, subscribe string
		allowed                        bool
	}{
		{name: "a service publishes its own name", user: "notify", publish: "pratique.notify.v1.x._", allowed: true},
		{name: "intake publishes people's events", user: "intake", publish: "directory.intake.v1.x._", allowed: true},
		{name: "a service does not publish another's name", user: "notify", publish: "pratique.intake.v1.x._"},
		{name: "nor people's events", user: "notify", publish: "directory.intake.v1.x._"},
		{name: "nor its own name among people's", user: "notify", publish: "directory.notify.v1.x._"},
		{name: "nor acknowledges for another", user: "notify", publish: "$JS.ACK.PRATIQUE_LIFECYCLE.intake_test.1.1.1.1.0"},
		{name: "nor pulls for another", user: "notify", publish: "$JS.API.CONSUMER.MSG.NEXT.PRATIQUE_LIFECYCLE.intake_test"},
		{name: "nor makes consumers", user: "notify", publish: "$JS.API.CONSUMER.CREATE.PRATIQUE_LIFECYCLE.notify_x"},
		{name: "nor deletes a stream", user: "intake", publish: "$JS.API.STREAM.DELETE.PRATIQUE_LIFECYCLE"},
		{name: "nor purges one", user: "intake", publish: "$JS.API.STREAM.PURGE.PRATIQUE_LIFECYCLE"},
		{name: "nor reads people's messages directly", user: "notify", publish: "$JS.API.STREAM.MSG.GET.PRATIQUE_DIRECTORY"},
		{name: "a service hears its own replies", user: "notify", subscribe: "_INBOX_notify.>", allowed: true},
		{name: "not another's", user: "notify", subscribe: "_INBOX_intake.>"},
		{name: "nor everything", user: "notify", subscribe: ">"},
		{name: "nor events past its consumer", user: "notify", subscribe: "pratique.>"},
		{name: "the administrator publishes no event", user: "admin", publish: "pratique.intake.v1.x._"},
		{name: "and hears none", user: "admin", subscribe: "directory.>"},
		{name: "a subscriber publishes no event", user: "siem", publish: "pratique.intake.v1.x._"},
		{name: "nor forges its own", user: "siem", publish: "pratique.siem.v1.x._"},
		{name: "nor sees that people have a stream", user: "siem", publish: "$JS.API.STREAM.INFO.PRATIQUE_DIRECTORY"},
		{name: "nor makes a consumer there", user: "siem", publish: "$JS.API.CONSUMER.CREATE.PRATIQUE_DIRECTORY.ext_siem"},
		{name: "nor redefines a service's consumer", user: "siem", publish: "$JS.API.CONSUMER.CREATE.PRATIQUE_LIFECYCLE.intake_test"},
		{name: "nor another subscriber's", user: "siem", publish: "$JS.API.CONSUMER.CREATE.PRATIQUE_LIFECYCLE.ext_other"},
		{name: "nor makes one without a name", user: "siem", publish: "$JS.API.CONSUMER.CREATE.PRATIQUE_LIFECYCLE"},
		{name: "nor reads by sequence", user: "siem", publish: "$JS.API.STREAM.MSG.GET.PRATIQUE_LIFECYCLE"},
		{name: "but makes its own", user: "siem", publish: "$JS.API.CONSUMER.CREATE.PRATIQUE_LIFECYCLE.ext_siem_3", allowed: true},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			nc, refused := user(t, s, c.user)
			if c.publish != "" {
				require.NoError(t, nc.Publish(c.publish, nil))
			} else {
				_, err := nc.SubscribeSync(c.subscribe)
				require.NoError(t, err)
			}
			require.Equal(t, c.allowed, !refused())
		})
	}
}

func TestASubscriberReadsTheLifecycleAndResumes(t *testing.T) {
	t.Parallel()
	s := start(t)
	intake, _ := user(t, s, "intake")
	js, err := jetstream.New(intake)
	require.NoError(t, err)
	_, err = js.Publish(t.Context(), "pratique.intake.v1.request_submitted._", []byte("{}"))
	require.NoError(t, err)
	_, err = js.Publish(t.Context(), "directory.intake.v1.person_changed._", []byte("{}"))
	require.NoError(t, err)

	siem, _ := user(t, s, "siem")
	outside, err := jetstream.New(siem)
	require.NoError(t, err)
	consumer, err := outside.CreateOrUpdateConsumer(t.Context(), bus.Lifecycle, jetstream.ConsumerConfig{
		Durable: "ext_siem", AckPolicy: jetstream.AckExplicitPolicy, FilterSubject: "pratique.intake.v1.>"})
	require.NoError(t, err)
	msg, err := consumer.Next(jetstream.FetchMaxWait(5 * time.Second))
	require.NoError(t, err)
	require.Equal(t, "pratique.intake.v1.request_submitted._", msg.Subject())
	require.NoError(t, msg.DoubleAck(t.Context()))
}

func TestAcknowledgedMessagesSurviveAKill(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	users := []broker.User{broker.Admin("admin", password), broker.Service("intake", password)}
	s, err := broker.Start(broker.Config{Dir: dir, Users: users})
	require.NoError(t, err)
	admin, err := bus.Connect(t.Context(), bus.Config{URL: s.URL(), User: "admin", Password: password, InboxPrefix: broker.InboxPrefix("admin")})
	require.NoError(t, err)
	t.Cleanup(admin.Close)
	require.NoError(t, bus.ApplyTopology(t.Context(), admin, nil))
	intake, _ := user(t, s, "intake")
	js, err := jetstream.New(intake)
	require.NoError(t, err)
	ack, err := js.Publish(t.Context(), "pratique.intake.v1.x._", []byte("{}"))
	require.NoError(t, err)
	port := s.Port()
	s.Kill()
	s, err = broker.Start(broker.Config{Dir: dir, Port: port, Users: users})
	require.NoError(t, err)
	t.Cleanup(s.Kill)
	again, err := bus.Connect(t.Context(), bus.Config{URL: s.URL(), User: "intake", Password: password, InboxPrefix: broker.InboxPrefix("intake")})
	require.NoError(t, err)
	defer again.Close()
	state, err := bus.NewPublisher(again).State(t.Context(), bus.Lifecycle)
	require.NoError(t, err)
	require.Equal(t, ack.Sequence, state.LastSeq)
}

func TestTheSyncSettingIsSeen(t *testing.T) {
	t.Parallel()
	for _, unsynced := range []bool{false, true} {
		s, err := broker.Start(broker.Config{Dir: t.TempDir(), Unsynced: unsynced, Users: []broker.User{
			broker.Operator("operator", password), broker.Admin("admin", password)}})
		require.NoError(t, err)
		t.Cleanup(s.Kill)
		ask := func(name string) error {
			conn, err := bus.Connect(t.Context(), bus.Config{URL: s.URL(), User: name, Password: password, InboxPrefix: broker.InboxPrefix(name)})
			require.NoError(t, err)
			defer conn.Close()
			ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
			defer cancel()
			return bus.CheckDurable(ctx, conn)
		}
		if unsynced {
			require.ErrorIs(t, ask("operator"), bus.ErrNotDurable)
		} else {
			require.NoError(t, ask("operator"))
			require.Error(t, ask("admin"), "only the system account is answered")
		}
	}
}
