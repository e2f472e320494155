package bus

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// Config says how one program part reaches the broker. Password never leaves it.
type Config struct {
	URL         string
	User        string
	Password    string
	InboxPrefix string // "_INBOX_<service>": replies must not be readable by other services
	Name        string // shown by the broker
	Log         *slog.Logger
}

// String hides the password.
func (c Config) String() string { return fmt.Sprintf("%s as %s", c.URL, c.User) }

// Conn is a connection that outlives the broker: it reconnects for ever and never holds back messages for later.
type Conn struct {
	nc    *nats.Conn
	js    jetstream.JetStream
	epoch atomic.Uint64

	mu    sync.Mutex
	fresh map[chan struct{}]struct{} // told of each reconnect
	calls map[*context.CancelCauseFunc]struct{}
}

var errDisconnected = errors.New("broker connection was lost during the call")

// Connect connects; it fails when the broker cannot be reached within ctx or refuses the user.
func Connect(ctx context.Context, cfg Config) (*Conn, error) {
	log := cfg.Log
	if log == nil {
		log = slog.Default()
	}
	c := &Conn{fresh: map[chan struct{}]struct{}{}, calls: map[*context.CancelCauseFunc]struct{}{}}
	options := []nats.Option{
		nats.UserInfo(cfg.User, cfg.Password),
		nats.Name(cfg.Name),
		nats.MaxReconnects(-1),
		nats.ReconnectWait(100 * time.Millisecond),
		nats.ReconnectJitter(50*time.Millisecond, 200*time.Millisecond),
		nats.ReconnectBufSize(-1), // what was not sent is not sent later: the outbox has it
		nats.IgnoreAuthErrorAbort(),
		nats.DisconnectErrHandler(func(_ *nats.Conn, err error) { // err is nil when we closed it
			c.epoch.Add(1)
			c.cut()
			if err != nil {
				log.Warn("broker connection lost", "name", cfg.Name, "err", err)
			}
		}),
		nats.ReconnectHandler(func(*nats.Conn) {
			c.epoch.Add(1)
			log.Info("broker connection restored", "name", cfg.Name)
			c.tell()
		}),
		nats.ErrorHandler(func(_ *nats.Conn, sub *nats.Subscription, err error) {
			log.Warn("broker reported an error", "name", cfg.Name, "err", err)
		}),
	}
	if cfg.InboxPrefix != "" {
		options = append(options, nats.CustomInboxPrefix(cfg.InboxPrefix))
	}
	if deadline, ok := ctx.Deadline(); ok {
		options = append(options, nats.Timeout(time.Until(deadline)))
	}
	nc, err := nats.Connect(cfg.URL, options...)
	if err != nil {
		return nil, fmt.Errorf("connect to broker: %w", err)
	}
	js, err := jetstream.New(nc, jetstream.WithPublishAsyncMaxPending(256))
	if err != nil {
		nc.Close()
		return nil, fmt.Errorf("broker: %w", err)
	}
	c.nc, c.js = nc, js
	return c, nil
}

// Close closes the connection at once.
func (c *Conn) Close() { c.nc.Close() }

// Ready reports why the broker cannot be used right now.
func (c *Conn) Ready() error {
	if !c.nc.IsConnected() {
		return errors.New("broker is not connected")
	}
	return nil
}

// Epoch changes with every interruption.
func (c *Conn) Epoch() uint64 { return c.epoch.Load() }

// onReconnect returns a channel that receives after each reconnect, and its cancel.
func (c *Conn) onReconnect() (<-chan struct{}, func()) {
	ch := make(chan struct{}, 1)
	c.mu.Lock()
	c.fresh[ch] = struct{}{}
	c.mu.Unlock()
	return ch, func() {
		c.mu.Lock()
		delete(c.fresh, ch)
		c.mu.Unlock()
	}
}

func (c *Conn) tell() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for ch := range c.fresh {
		select {
		case ch <- struct{}{}:
		default:
		}
	}
}

// call bounds one request: it ends with ctx, after callWait, and at once when the connection is lost, because its answer was
// lost with it.
func (c *Conn) call(ctx context.Context) (context.Context, context.CancelFunc) {
	timed, stop := context.WithTimeout(ctx, callWait)
	ctx, cancel := context.WithCancelCause(timed)
	c.mu.Lock()
	c.calls[&cancel] = struct{}{}
	c.mu.Unlock()
	return ctx, func() {
		c.mu.Lock()
		delete(c.calls, &cancel)
		c.mu.Unlock()
		cancel(nil)
		stop()
	}
}

func (c *Conn) cut() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for cancel := range c.calls {
		(*cancel)(errDisconnected)
	}
}
