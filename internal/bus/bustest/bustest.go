// Package bustest gives tests a real broker: embedded, on disk, with the real users and the real topology.
package bustest

import (
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pratique-io/pratique/internal/broker"
	"github.com/pratique-io/pratique/internal/bus"
)

// Broker is a broker that a test may stop, wipe and roll back. It comes back on the same port.
type Broker struct {
	t        testing.TB
	dir      string
	port     int
	users    []broker.User
	topology bus.Topology
	server   *broker.Server
}

const (
	admin    = "admin"
	password = "test-password"
)

// New starts a broker with the topology of these services' subscriptions, a user per service, the user "admin" and an outside
// subscriber "siem".
func New(t testing.TB, subs map[string][]bus.Subscription) *Broker {
	t.Helper()
	topology, err := bus.NewTopology(1, subs)
	require.NoError(t, err)
	b := &Broker{t: t, dir: filepath.Join(t.TempDir(), "broker"), topology: topology,
		users: []broker.User{broker.Admin(admin, password), broker.Subscriber("siem", password)}}
	for service, list := range subs {
		var binds []broker.Bind
		for _, sub := range list {
			for _, c := range bus.Consumers(service, sub) {
				binds = append(binds, broker.Bind{Stream: c.Stream, Consumer: c.Name})
			}
		}
		b.users = append(b.users, broker.Service(service, password, binds...))
	}
	b.Start()
	t.Cleanup(b.Stop)
	b.Apply()
	return b
}

// Start starts it again, on the same port and directory.
func (b *Broker) Start() {
	b.t.Helper()
	server, err := broker.Start(broker.Config{Dir: b.dir, Port: b.port, Users: b.users})
	require.NoError(b.t, err)
	b.server, b.port = server, server.Port()
}

// Stop stops it; stopping twice is nothing.
func (b *Broker) Stop() {
	if b.server != nil {
		b.server.Kill()
		b.server = nil
	}
}

// Apply applies the topology, as `pratique up` and the Helm hook do.
func (b *Broker) Apply() {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(b.t.Context(), 10*time.Second)
	defer cancel()
	conn := b.Connect(admin)
	defer conn.Close()
	require.NoError(b.t, b.topology.Apply(ctx, conn))
}

// Wipe deletes the store of a stopped broker.
func (b *Broker) Wipe() {
	b.t.Helper()
	require.NoError(b.t, os.RemoveAll(b.dir))
}

// Save copies the store of a stopped broker and returns the copy.
func (b *Broker) Save() string {
	b.t.Helper()
	copied := filepath.Join(b.t.TempDir(), "copy")
	require.NoError(b.t, os.CopyFS(copied, os.DirFS(b.dir)))
	return copied
}

// Restore puts a copy back into a stopped broker: its store is rolled back.
func (b *Broker) Restore(copied string) {
	b.t.Helper()
	b.Wipe()
	require.NoError(b.t, os.CopyFS(b.dir, os.DirFS(copied)))
}

// URL is where it listens.
func (b *Broker) URL() string { return b.server.URL() }

// Password is every user's.
func (b *Broker) Password() string { return password }

// Connect connects as one of its users; the connection is closed with the test.
func (b *Broker) Connect(user string) *bus.Conn {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(b.t.Context(), 10*time.Second)
	defer cancel()
	conn, err := bus.Connect(ctx, bus.Config{URL: b.URL(), User: user, Password: password,
		InboxPrefix: broker.InboxPrefix(user), Name: "test " + user})
	require.NoError(b.t, err)
	b.t.Cleanup(conn.Close)
	return conn
}

// RestoreMessages puts back the streams' messages of a copy but leaves the consumers' state as it is: what a power loss may
// do to a store whose parts are synced at different times.
func (b *Broker) RestoreMessages(copied string) {
	b.t.Helper()
	streams := filepath.Join("jetstream", "$G", "streams")
	for _, s := range b.topology.Streams {
		messages := filepath.Join(streams, s.Name, "msgs")
		require.DirExists(b.t, filepath.Join(b.dir, messages))
		require.NoError(b.t, os.RemoveAll(filepath.Join(b.dir, messages)))
		require.NoError(b.t, os.CopyFS(filepath.Join(b.dir, messages), os.DirFS(filepath.Join(copied, messages))))
	}
}
