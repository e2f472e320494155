// Package broker owns the embedded NATS server: what `pratique up`, `pratique broker` and the tests run. It listens on
// loopback unless told otherwise, keeps JetStream on disk with every acknowledged write synced, and knows users only as
// allow-lists. It holds nothing of record: the outboxes can refill it.
package broker

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"strconv"
	"time"

	"github.com/nats-io/nats-server/v2/server"
)

// Config says where the broker keeps its data and who may do what.
type Config struct {
	Dir   string // the store's directory; made when absent, private to the user
	Host  string // "127.0.0.1" when empty
	Port  int    // 0: a free one
	Users []User
	Log   server.Logger // nil: silent
	// Unsynced gives up durability at power loss for speed. Never set by `up`.
	Unsynced bool
}

const (
	readyWithin = 10 * time.Second
	maxPayload  = 2 << 20 // an event is at most 1 MiB; the rest is headers
)

// Server is a running broker.
type Server struct {
	nats *server.Server
	host string
	port int
}

// Start starts a broker and returns when it takes connections.
func Start(cfg Config) (*Server, error) {
	if len(cfg.Users) == 0 {
		return nil, errors.New("broker without users: nobody could connect") // and NATS would let everybody in
	}
	if cfg.Host == "" {
		cfg.Host = "127.0.0.1"
	}
	if err := os.MkdirAll(cfg.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("broker directory: %w", err)
	}
	system := server.NewAccount(server.DEFAULT_SYSTEM_ACCOUNT)
	users, err := natsUsers(cfg.Users, system)
	if err != nil {
		return nil, err
	}
	port := cfg.Port
	if port == 0 {
		port = server.RANDOM_PORT
	}
	options := &server.Options{}
	// With a system account and no "authorization" block NATS invents a user for everybody who brings no password.
	if err := options.ProcessConfigString("authorization { timeout: 5 }"); err != nil {
		return nil, fmt.Errorf("broker: %w", err)
	}
	options.ServerName, options.Host, options.Port = "pratique", cfg.Host, port
	options.NoSigs, options.NoLog, options.DisableJetStreamBanner = true, cfg.Log == nil, true
	options.JetStream, options.StoreDir, options.SyncAlways = true, cfg.Dir, !cfg.Unsynced
	options.JetStreamMaxMemory, options.JetStreamMaxStore, options.MaxPayload = 64<<20, 1<<40, maxPayload
	options.Users, options.Accounts, options.SystemAccount = users, []*server.Account{system}, system.Name
	s, err := server.NewServer(options)
	if err != nil {
		return nil, fmt.Errorf("broker: %w", err)
	}
	if options.NoAuthUser != "" {
		return nil, errors.New("broker would let anybody in without a password; refusing to start")
	}
	if cfg.Log != nil {
		s.SetLoggerV2(cfg.Log, false, false, false)
	}
	s.Start()
	if !s.ReadyForConnections(readyWithin) {
		s.Shutdown()
		return nil, fmt.Errorf("broker did not come up within %s on %s", readyWithin, net.JoinHostPort(cfg.Host, strconv.Itoa(cfg.Port)))
	}
	if !s.JetStreamEnabled() {
		s.Shutdown()
		return nil, fmt.Errorf("broker store in %s cannot be used", cfg.Dir)
	}
	addr, ok := s.Addr().(*net.TCPAddr)
	if !ok {
		s.Shutdown()
		return nil, errors.New("broker has no address")
	}
	return &Server{nats: s, host: cfg.Host, port: addr.Port}, nil
}

// URL is where clients connect; it holds no user.
func (s *Server) URL() string {
	return (&url.URL{Scheme: "nats", Host: net.JoinHostPort(s.host, strconv.Itoa(s.port))}).String()
}

// Port is the port listened on, to come back on the same.
func (s *Server) Port() int { return s.port }

// Shutdown stops the broker and waits until its files are closed, at most until ctx ends.
func (s *Server) Shutdown(ctx context.Context) error {
	done := make(chan struct{})
	go func() {
		s.nats.Shutdown()
		s.nats.WaitForShutdown()
		close(done)
	}()
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("broker shutdown: %w", ctx.Err())
	}
}

// Kill stops the broker without a word to its clients: no lame duck, connections cut. What was acknowledged is on disk.
func (s *Server) Kill() {
	s.nats.Shutdown()
	s.nats.WaitForShutdown()
}
