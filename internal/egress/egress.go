// Package egress owns every connection Pratique opens to anything but its own Postgres, NATS and gRPC.
//
// One dialer exists so that one set of rules binds all of them: names are resolved here, every resolved address is
// checked, and the connection goes to a checked address, so a name cannot change its mind between check and use. What is
// internal (loopback, private, link-local, metadata, transition ranges and so on) is refused unless an operator named
// the exact host:port for that purpose. There is deliberately no switch that allows everything, and proxy variables of
// the environment are ignored.
package egress

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"time"
)

// Purpose says what a connection is for; each purpose has a policy of its own.
type Purpose string

// The closed set of purposes.
const (
	Source     Purpose = "source"     // registries that tenants name
	Quarantine Purpose = "quarantine" // the quarantine registry
	Evidence   Purpose = "evidence"   // the evidence store
	Trusted    Purpose = "trusted"    // the trusted registry
	Webhook    Purpose = "webhook"    // receivers that tenants or admins name
	OIDC       Purpose = "oidc"       // issuers: discovery and keys
	Mail       Purpose = "mail"       // SMTP
	Database   Purpose = "database"   // vulnerability data
	EPR        Purpose = "epr"        // the external system of record
)

// Purposes returns all purposes in a fixed order.
func Purposes() []Purpose {
	return []Purpose{Source, Quarantine, Evidence, Trusted, Webhook, OIDC, Mail, Database, EPR}
}

// Policy is what an operator configures for one purpose. The zero value reaches the public internet and nothing else.
type Policy struct {
	// Allowed lists exact "host:port" that may be internal. A name there may lead to loopback, private, CGNAT, benchmark
	// or documentation addresses; link-local, metadata, multicast, unspecified and transition addresses need the address
	// itself to be listed ("169.254.1.2:80", "[64:ff9b::1]:443").
	Allowed []string
	// Denied lists exact "host:port" that this purpose never reaches, whatever Allowed says; other names for the same
	// internal address and port are refused too, and all loopback addresses count as one.
	Denied []string
	// CABundle is the path of a PEM file whose certificates are trusted beside the system's.
	CABundle string
	// Proxy is an http:// or https:// URL (host and port only). HTTP requests of this purpose go through it, except those
	// to Allowed hosts, which are internal and go direct. Targets are checked before the proxy is asked.
	Proxy string
	// ProxyResolves leaves names that do not resolve here to the proxy, for networks without public DNS. Addresses, and
	// names that do resolve here, are checked all the same.
	ProxyResolves bool
	// Timeout bounds a whole exchange of Client(p), body included. Zero: 30 s for webhook, oidc, mail and epr; none for
	// registries and database, whose bodies are large and bounded by the caller's context and by Stall.
	Timeout time.Duration
}

// Resolver turns a name into addresses; *net.Resolver is one.
type Resolver interface {
	LookupNetIP(ctx context.Context, network, host string) ([]netip.Addr, error)
}

// DialFunc connects to an "ip:port" that has been checked.
type DialFunc func(ctx context.Context, network, address string) (net.Conn, error)

// Config configures New. Zero values are usable: no exceptions, the system's resolver, the standard limits.
type Config struct {
	Policies map[Purpose]Policy
	Resolver Resolver
	Dial     DialFunc

	ConnectTimeout time.Duration // per address, default 10 s
	HeaderTimeout  time.Duration // from the request's end to the response's header, default 60 s
	Stall          time.Duration // an HTTP connection with no byte in either direction for this long is cut, default 2 min
}

// Egress hands out transports, clients and dialers per purpose. It is safe for concurrent use.
type Egress struct {
	lanes map[Purpose]*lane
}

// lane is one purpose's policy made executable.
type lane struct {
	purpose       Purpose
	allowed       map[target]bool
	denied        []target
	resolver      Resolver
	connect       DialFunc
	timeout       time.Duration
	proxy         *target
	proxyResolves bool
	transport     http.RoundTripper
	client        *http.Client
}

// New builds an Egress, or reports every problem of the configuration at once.
func New(cfg Config) (*Egress, error) {
	cfg = cfg.withDefaults()
	e := &Egress{lanes: map[Purpose]*lane{}}
	var problems []error
	for p := range cfg.Policies {
		if !known(p) {
			problems = append(problems, fmt.Errorf("egress.%s: no such purpose", p))
		}
	}
	for _, p := range Purposes() {
		l, err := newLane(p, cfg)
		if err != nil {
			problems = append(problems, err)
			continue
		}
		e.lanes[p] = l
	}
	if err := errors.Join(problems...); err != nil {
		return nil, err
	}
	return e, nil
}

func (cfg Config) withDefaults() Config {
	if cfg.Resolver == nil {
		cfg.Resolver = net.DefaultResolver
	}
	if cfg.Dial == nil {
		cfg.Dial = (&net.Dialer{KeepAlive: 30 * time.Second}).DialContext
	}
	if cfg.ConnectTimeout <= 0 {
		cfg.ConnectTimeout = 10 * time.Second
	}
	if cfg.HeaderTimeout <= 0 {
		cfg.HeaderTimeout = time.Minute
	}
	if cfg.Stall <= 0 {
		cfg.Stall = 2 * time.Minute
	}
	return cfg
}

func known(p Purpose) bool {
	for _, q := range Purposes() {
		if p == q {
			return true
		}
	}
	return false
}

func newLane(p Purpose, cfg Config) (*lane, error) {
	policy := cfg.Policies[p]
	l := &lane{
		purpose: p, allowed: map[target]bool{}, resolver: cfg.Resolver, connect: cfg.Dial,
		timeout: cfg.ConnectTimeout, proxyResolves: policy.ProxyResolves,
	}
	var problems []error
	for i, s := range policy.Allowed {
		t, err := parseTarget(s)
		if err != nil {
			problems = append(problems, fmt.Errorf("egress.%s.allowed[%d]: %q is not host:port: %w", p, i, s, err))
		}
		l.allowed[t] = true
	}
	for i, s := range policy.Denied {
		t, err := parseTarget(s)
		if err != nil {
			problems = append(problems, fmt.Errorf("egress.%s.denied[%d]: %q is not host:port: %w", p, i, s, err))
		}
		l.denied = append(l.denied, t)
	}
	roots, err := loadRoots(policy.CABundle)
	if err != nil {
		problems = append(problems, fmt.Errorf("egress.%s.ca_bundle: %w", p, err))
	}
	proxy, err := parseProxy(policy.Proxy)
	if err != nil {
		problems = append(problems, fmt.Errorf("egress.%s.proxy: %w", p, err))
	}
	if len(problems) > 0 {
		return nil, errors.Join(problems...)
	}
	l.build(cfg, policy, roots, proxy)
	return l, nil
}

func (l *lane) build(cfg Config, policy Policy, roots *x509.CertPool, proxy *url.URL) {
	direct := newTransport(cfg, roots)
	direct.DialContext = stalling(l.dial, cfg.Stall)
	g := &guard{lane: l, direct: direct}
	if proxy != nil {
		t, _ := parseTarget(proxyAddress(proxy)) // parseProxy accepted it
		l.proxy = &t
		through := newTransport(cfg, roots)
		through.Proxy = http.ProxyURL(proxy)
		through.DialContext = stalling(l.dialProxy, cfg.Stall)
		g.through = through
	}
	l.transport = g
	timeout := policy.Timeout
	if timeout <= 0 && (l.purpose == Webhook || l.purpose == OIDC || l.purpose == Mail || l.purpose == EPR) {
		timeout = 30 * time.Second
	}
	l.client = &http.Client{Transport: g, CheckRedirect: l.checkRedirect, Timeout: timeout}
}

// newTransport leaves Proxy nil: the environment's proxy variables must have no say.
func newTransport(cfg Config, roots *x509.CertPool) *http.Transport {
	return &http.Transport{
		TLSClientConfig:        &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12},
		ForceAttemptHTTP2:      true,
		TLSHandshakeTimeout:    10 * time.Second,
		ResponseHeaderTimeout:  cfg.HeaderTimeout,
		ExpectContinueTimeout:  time.Second,
		IdleConnTimeout:        cfg.Stall / 2, // pooled connections retire before Stall would cut them
		MaxIdleConns:           64,
		MaxIdleConnsPerHost:    16,
		MaxResponseHeaderBytes: 64 << 10,
		DisableCompression:     true, // digests are over the bytes sent; and nothing inflates unasked
		WriteBufferSize:        64 << 10,
		ReadBufferSize:         64 << 10,
	}
}

func loadRoots(path string) (*x509.CertPool, error) {
	if path == "" {
		return nil, nil // the system's
	}
	pem, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	pool, err := x509.SystemCertPool()
	if err != nil {
		pool = x509.NewCertPool()
	}
	if !pool.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("%s holds no certificate", path)
	}
	return pool, nil
}

// Transport returns the purpose's round tripper. It follows no redirects; each request through it is checked.
func (e *Egress) Transport(p Purpose) http.RoundTripper {
	if l := e.lanes[p]; l != nil {
		return l.transport
	}
	return refusing{p}
}

// Client returns the purpose's HTTP client: at most 5 redirects, each checked, none to a weaker scheme, and only harmless
// headers cross from one host to another.
func (e *Egress) Client(p Purpose) *http.Client {
	if l := e.lanes[p]; l != nil {
		return l.client
	}
	return &http.Client{Transport: refusing{p}}
}

// DialContext returns the purpose's dialer for protocols other than HTTP. Deadlines are the caller's business.
func (e *Egress) DialContext(p Purpose) func(ctx context.Context, network, address string) (net.Conn, error) {
	if l := e.lanes[p]; l != nil {
		return l.dial
	}
	return func(_ context.Context, _, address string) (net.Conn, error) {
		return nil, &Refused{Purpose: p, Host: address, Rule: RulePurpose}
	}
}

type refusing struct{ purpose Purpose }

func (r refusing) RoundTrip(req *http.Request) (*http.Response, error) {
	closeBody(req)
	return nil, &Refused{Purpose: r.purpose, Host: req.URL.Host, Rule: RulePurpose}
}
