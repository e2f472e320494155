package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"github.com/pratique-io/pratique/internal/broker"
	"github.com/pratique-io/pratique/internal/bus"
)

const password = "test-password"

// world is a broker that may lose everything, and a subscriber that may be stopped.
type world struct {
	t      *testing.T
	server *broker.Server
	cfg    config
	out    *output
}

type output struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.Write(p)
}

func (o *output) lines() []string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return strings.Split(strings.TrimSuffix(o.buf.String(), "\n"), "\n")
}

func start(t *testing.T) *world {
	w := &world{t: t, out: &output{}}
	w.boot(0)
	t.Cleanup(func() { w.server.Kill() })
	dir := t.TempDir()
	file, err := json.Marshal(map[string]any{"nats": map[string]string{"url": w.server.URL(), "user": "siem", "password": password}})
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(filepath.Join(dir, "connection.json"), file, 0o600))
	w.cfg, err = parse([]string{"-dir", dir}, io.Discard)
	require.NoError(t, err)
	w.cfg.retry = 10 * time.Millisecond
	return w
}

// boot starts a broker with an empty store and the topology.
func (w *world) boot(port int) {
	var err error
	w.server, err = broker.Start(broker.Config{Dir: w.t.TempDir(), Port: port, Unsynced: true, Users: []broker.User{
		broker.Admin("admin", password), broker.Subscriber("siem", password), broker.Service("intake", password),
	}})
	require.NoError(w.t, err)
	admin, err := bus.Connect(w.t.Context(), bus.Config{URL: w.server.URL(), User: "admin", Password: password, InboxPrefix: broker.InboxPrefix("admin")})
	require.NoError(w.t, err)
	defer admin.Close()
	require.NoError(w.t, bus.ApplyTopology(w.t.Context(), admin, map[string][]bus.Subscription{}))
}

// wipe replaces the broker by one that has lost everything, at the same address.
func (w *world) wipe() {
	port := w.server.Port()
	w.server.Kill()
	w.boot(port)
}

// publish sends the events with these numbers, as a service does.
func (w *world) publish(from, to int) {
	w.t.Helper()
	nc, err := nats.Connect(w.server.URL(), nats.UserInfo("intake", password), nats.CustomInboxPrefix(broker.InboxPrefix("intake")))
	require.NoError(w.t, err)
	defer nc.Close()
	js, err := jetstream.New(nc)
	require.NoError(w.t, err)
	for n := from; n <= to; n++ {
		id := fmt.Sprintf("event-%03d", n)
		event := fmt.Sprintf(`{"specversion":"1.0","id":%q,"type":"pratique.intake.v1.RequestSubmitted","subject":"s-%03d","time":%q,"sequence":%d,"more":[1, 2],"actor":"user:\u001b[31m"}`,
			id, n, time.Date(2026, 1, 1, 0, 0, n, 0, time.UTC).Format(time.RFC3339), n)
		_, err := js.Publish(w.t.Context(), "pratique.intake.v1.request_submitted._", []byte(event), jetstream.WithMsgID(id))
		require.NoError(w.t, err)
	}
}

// run starts the subscriber; the returned function stops it and waits.
func (w *world) run() (stop func()) {
	ctx, cancel := context.WithCancel(w.t.Context())
	done := make(chan error, 1)
	go func() { done <- follow(ctx, w.cfg, w.out, slog.New(slog.DiscardHandler)) }()
	var once sync.Once
	stop = func() {
		once.Do(func() {
			cancel()
			select {
			case err := <-done:
				require.NoError(w.t, err)
			case <-time.After(15 * time.Second):
				w.t.Error("the subscriber does not stop")
			}
		})
	}
	w.t.Cleanup(stop)
	return stop
}

// expect waits until events 1 to n were printed, and insists that each was printed once.
func (w *world) expect(n int) {
	w.t.Helper()
	require.Eventually(w.t, func() bool {
		return strings.Contains(strings.Join(w.out.lines(), "\n"), fmt.Sprintf("subject=s-%03d ", n))
	},
		20*time.Second, 5*time.Millisecond, "event %d is not printed", n)
	count := map[string]int{}
	for _, line := range w.out.lines() {
		_, rest, _ := strings.Cut(line, "subject=")
		subject, _, _ := strings.Cut(rest, " ")
		count[subject]++
	}
	for i := 1; i <= n; i++ {
		require.Equal(w.t, 1, count[fmt.Sprintf("s-%03d", i)], "event %d of %d", i, n)
	}
	require.Len(w.t, count, n)
}

func TestEachEventIsPrintedOnceAcrossRestarts(t *testing.T) {
	t.Parallel()
	w := start(t)
	w.publish(1, 5)
	stop := w.run()
	w.expect(5)
	w.publish(6, 7)
	w.expect(7)
	stop()
	w.publish(8, 10)
	w.run()
	w.expect(10)
	require.Equal(t, "2026-01-01T00:00:01Z  pratique.intake.v1.RequestSubmitted  subject=s-001 sequence=1 actor=user:\ufffd[31m", w.out.lines()[0])
}

func TestEachEventIsPrintedOnceThoughTheBrokerIsWiped(t *testing.T) {
	t.Parallel()
	w := start(t)
	w.publish(1, 5)
	stop := w.run()
	w.expect(5)

	w.wipe() // while it follows
	w.publish(1, 7)
	w.expect(7)

	stop()
	w.wipe() // while it is away
	w.publish(1, 9)
	stop = w.run()
	w.expect(9)

	stop()
	w.server.Kill() // it starts first
	port := w.server.Port()
	w.run()
	w.boot(port)
	w.publish(1, 11)
	w.expect(11)
}

func TestTheStateIsBoundedAndStillKnowsWhatItForgot(t *testing.T) {
	t.Parallel()
	w := start(t)
	w.cfg.remember = 10
	w.publish(1, 100)
	stop := w.run()
	w.expect(100)
	stop()
	raw, err := os.ReadFile(w.cfg.state)
	require.NoError(t, err)
	require.LessOrEqual(t, bytes.Count(raw, []byte("\n")), 2*w.cfg.remember+1)
	w.wipe()
	w.publish(1, 102)
	w.run()
	w.expect(102)
}

func TestAFilterSelectsAndJSONIsWhole(t *testing.T) {
	t.Parallel()
	w := start(t)
	w.cfg.filter, w.cfg.json = "pratique.intake.v1.request_submitted.>", true
	nc, err := nats.Connect(w.server.URL(), nats.UserInfo("intake", password), nats.CustomInboxPrefix(broker.InboxPrefix("intake")))
	require.NoError(t, err)
	defer nc.Close()
	require.NoError(t, nc.Publish("pratique.intake.v1.request_approved._", []byte(`{"specversion":"1.0","id":"x"}`)))
	require.NoError(t, nc.Publish("pratique.intake.v1.request_submitted._", []byte(`no event`)))
	require.NoError(t, nc.Flush())
	w.publish(1, 1)
	w.run()
	require.Eventually(t, func() bool { return w.out.lines()[0] != "" }, 20*time.Second, 5*time.Millisecond, "nothing is printed")
	require.Len(t, w.out.lines(), 1)
	var event map[string]any
	require.NoError(t, json.Unmarshal([]byte(w.out.lines()[0]), &event))
	require.Equal(t, "event-001", event["id"])
	require.Equal(t, []any{1.0, 2.0}, event["more"], "attributes it does not know are kept")
}

func TestAStateFileSurvivesATornLine(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "state")
	s, err := openState(path, 10)
	require.NoError(t, err)
	at := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	s.add(entry{ID: "a", Time: at, Stored: at, Stream: 7})
	require.NoError(t, s.save())
	require.NoError(t, s.close())
	raw, err := os.ReadFile(path)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(path, append(raw, `{"id":"b","ti`...), 0o600))
	s, err = openState(path, 10)
	require.NoError(t, err)
	require.True(t, s.known("a", at))
	require.False(t, s.known("b", at))
	require.Equal(t, at, s.newest())
	require.EqualValues(t, 7, s.stream)
	require.NoError(t, s.close())

	require.NoError(t, os.WriteFile(path, []byte("nonsense\n{}\n"), 0o600))
	_, err = openState(path, 10)
	require.ErrorContains(t, err, "damaged")
}

func TestTheConnectionFileMustBeWhole(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	_, err := parse([]string{"-dir", dir}, io.Discard)
	require.ErrorIs(t, err, os.ErrNotExist)
	require.NoError(t, os.WriteFile(filepath.Join(dir, "connection.json"), []byte(`{"nats":{"url":"nats://x"}}`), 0o600))
	_, err = parse([]string{"-dir", dir}, io.Discard)
	require.ErrorContains(t, err, "lacks")
}
