package egress

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"time"
)

const (
	resolveTimeout = 10 * time.Second
	maxAddresses   = 32 // a name with more is not a service but an attempt
)

// dial resolves, checks every address and connects to a checked one, in the resolver's order.
func (l *lane) dial(ctx context.Context, network, address string) (net.Conn, error) {
	if network != "tcp" && network != "tcp4" && network != "tcp6" {
		return nil, &Refused{Purpose: l.purpose, Host: address, Rule: RuleScheme}
	}
	t, err := parseTarget(address)
	if err != nil {
		return nil, &Refused{Purpose: l.purpose, Host: address, Rule: RuleName}
	}
	addrs, err := l.admit(ctx, t)
	if err != nil {
		return nil, err
	}
	return l.connectAny(ctx, t, addrs)
}

// dialProxy connects to the operator's proxy, whatever address it is asked for: the transport that uses it has
// nothing else to dial. The proxy's address may be internal since the operator wrote it.
func (l *lane) dialProxy(ctx context.Context, _, _ string) (net.Conn, error) {
	addrs, err := l.resolve(ctx, *l.proxy)
	if err != nil {
		return nil, err
	}
	for _, a := range addrs {
		if rule := classify(a); rule != "" && !excepted(*l.proxy, rule) {
			return nil, &Refused{Purpose: l.purpose, Host: l.proxy.String(), Addr: a, Rule: rule}
		}
	}
	return l.connectAny(ctx, *l.proxy, addrs)
}

func (l *lane) connectAny(ctx context.Context, t target, addrs []netip.Addr) (net.Conn, error) {
	var failures []error
	for _, a := range addrs {
		attempt, cancel := context.WithTimeout(ctx, l.timeout)
		conn, err := l.connect(attempt, "tcp", netip.AddrPortFrom(a, t.port).String())
		cancel()
		if err == nil {
			return conn, nil
		}
		failures = append(failures, err)
		if ctx.Err() != nil {
			break
		}
	}
	return nil, fmt.Errorf("connect to %s: %w", t, errors.Join(failures...))
}

// admit returns the addresses of t when every one of them may be reached.
func (l *lane) admit(ctx context.Context, t target) ([]netip.Addr, error) {
	for _, d := range l.denied {
		if d == t {
			return nil, &Refused{Purpose: l.purpose, Host: t.String(), Addr: t.ip, Rule: RuleDenied}
		}
	}
	addrs, err := l.resolve(ctx, t)
	if err != nil {
		return nil, err
	}
	for _, a := range addrs {
		rule := classify(a)
		if rule != "" && !(l.allowed[t] && excepted(t, rule)) {
			return nil, &Refused{Purpose: l.purpose, Host: t.String(), Addr: a, Rule: rule}
		}
		denied, err := l.deniedAlias(ctx, a, t.port, rule != "")
		if err != nil {
			return nil, err
		}
		if denied {
			return nil, &Refused{Purpose: l.purpose, Host: t.String(), Addr: a, Rule: RuleDenied}
		}
	}
	return addrs, nil
}

func (l *lane) resolve(ctx context.Context, t target) ([]netip.Addr, error) {
	if t.ip.IsValid() {
		return []netip.Addr{t.ip}, nil
	}
	ctx, cancel := context.WithTimeout(ctx, resolveTimeout)
	defer cancel()
	addrs, err := l.resolver.LookupNetIP(ctx, "ip", t.name)
	if err != nil {
		return nil, fmt.Errorf("resolve %s: %w", t.name, err)
	}
	if len(addrs) == 0 || len(addrs) > maxAddresses {
		return nil, &Refused{Purpose: l.purpose, Host: t.String(), Rule: RuleCount}
	}
	out := make([]netip.Addr, len(addrs))
	for i, a := range addrs {
		out[i] = a.Unmap() // Go's resolver gives A records in mapped form
	}
	return out, nil
}

// deniedAlias reports whether address and port are those of a denied entry under another name. Denied names are looked up
// only for internal addresses: on public ones many honest hosts share an address, and there TLS tells them apart.
func (l *lane) deniedAlias(ctx context.Context, a netip.Addr, port uint16, internal bool) (bool, error) {
	for _, d := range l.denied {
		if d.port != port {
			continue
		}
		if d.ip.IsValid() {
			if samePlace(a, d.ip) {
				return true, nil
			}
			continue
		}
		if !internal {
			continue
		}
		addrs, err := l.resolve(ctx, d)
		var dns *net.DNSError
		if errors.As(err, &dns) && dns.IsNotFound {
			continue // a name without addresses has no aliases
		}
		if err != nil {
			return false, fmt.Errorf("cannot tell whether %s is denied: %w", a, err)
		}
		for _, b := range addrs {
			if samePlace(a, b) {
				return true, nil
			}
		}
	}
	return false, nil
}

// samePlace treats all of loopback as one place: a server bound to every address answers on each of them.
func samePlace(a, b netip.Addr) bool {
	a, b = a.Unmap(), b.Unmap()
	return a == b || a.IsLoopback() && b.IsLoopback()
}

// stalling cuts connections on which nothing moves in either direction for d, so that a silent peer costs no goroutine
// for ever. A long upload keeps the read side alive by writing.
func stalling(dial DialFunc, d time.Duration) DialFunc {
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		conn, err := dial(ctx, network, address)
		if err != nil {
			return nil, err
		}
		c := &stallConn{Conn: conn, limit: d}
		c.extend()
		return c, nil
	}
}

type stallConn struct {
	net.Conn
	limit time.Duration
	mu    sync.Mutex
	last  time.Time
}

// extend moves the deadline, at most once per second since each move is a timer operation.
func (c *stallConn) extend() {
	now := time.Now()
	c.mu.Lock()
	defer c.mu.Unlock()
	if now.Sub(c.last) < min(time.Second, c.limit/4) {
		return
	}
	c.last = now
	_ = c.SetDeadline(now.Add(c.limit)) // fails only on a closed connection, which reports itself
}

func (c *stallConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if n > 0 {
		c.extend()
	}
	return n, err
}

func (c *stallConn) Write(p []byte) (int, error) {
	c.extend()
	n, err := c.Conn.Write(p)
	if n > 0 {
		c.extend()
	}
	return n, err
}
