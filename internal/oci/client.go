package oci

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"
)

// Credential is for one registry host. With a Username it is Basic there and at the registry's token service; a Password
// alone is a ready bearer token. The zero value is anonymous.
type Credential struct{ Username, Password string }

// String keeps credentials out of logs.
func (Credential) String() string { return "REDACTED" }

// GoString keeps credentials out of %#v.
func (Credential) GoString() string { return "REDACTED" }

// Client makes Repositories that share a round tripper and settings. Safe for concurrent use.
type Client struct {
	rt       http.RoundTripper
	insecure map[string]bool
	realms   map[string][]string
	limits   Limits
	attempts int
	maxWait  time.Duration
	now      func() time.Time
	sleep    func(context.Context, time.Duration) error
}

// Option configures NewClient.
type Option func(*Client)

// WithInsecure lists hosts ("host[:port]") spoken to in plain HTTP beside loopback ones. Credentials are never sent there.
func WithInsecure(hosts ...string) Option {
	return func(c *Client) {
		for _, h := range hosts {
			c.insecure[strings.ToLower(h)] = true
		}
	}
}

// WithRealm allows a registry host to name token services on these hosts beside its own domain.
func WithRealm(registry string, hosts ...string) Option {
	return func(c *Client) {
		c.realms[strings.ToLower(registry)] = append(c.realms[strings.ToLower(registry)], hosts...)
	}
}

// WithLimits replaces DefaultLimits; zero fields keep their default.
func WithLimits(l Limits) Option { return func(c *Client) { c.limits = l.orDefault() } }

// WithRetry sets how often a request is tried in all (default 4) and the longest single wait (default 30 s). A Retry-After
// beyond it is not waited for but returned.
func WithRetry(attempts int, maxWait time.Duration) Option {
	return func(c *Client) { c.attempts, c.maxWait = max(attempts, 1), maxWait }
}

// NewClient makes a client whose every connection goes through rt, which must not follow redirects.
func NewClient(rt http.RoundTripper, opts ...Option) *Client {
	c := &Client{
		rt: rt, insecure: map[string]bool{}, realms: map[string][]string{"docker.io": {"auth.docker.io"}},
		limits: DefaultLimits, attempts: 4, maxWait: 30 * time.Second, now: time.Now, sleep: sleep,
	}
	for _, o := range opts {
		o(c)
	}
	return c
}

func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}

// Repository is one repository of a registry, with the credential to use there. Safe for concurrent use.
type Repository struct {
	client   *Client
	host     string // as named, which may differ from where it is served
	name     string
	endpoint *url.URL // scheme and host only
	auth     *authorizer
	actions  string // token scope of reads; "pull,push" once writing, so that one token serves all
	extra    string // further scope for mounts
}

// Repository returns a handle; nothing is sent. Host and repo are validated at the first request.
func (c *Client) Repository(host, repo string, cred Credential) *Repository {
	host = strings.ToLower(host)
	r := &Repository{client: c, host: host, name: repo, actions: "pull"}
	r.endpoint = &url.URL{Scheme: "https", Host: host}
	if c.plain(host) {
		r.endpoint.Scheme = "http"
	}
	if host == "docker.io" || host == "index.docker.io" { // Docker Hub is served elsewhere and shortens official names
		r.endpoint.Host = "registry-1.docker.io"
		if !strings.Contains(repo, "/") {
			r.name = "library/" + repo
		}
	}
	r.auth = &authorizer{client: c, host: host, endpoint: r.endpoint, cred: cred, tokens: map[string]token{}, mu: &sync.Mutex{}}
	return r
}

// plain reports whether host is spoken to in plain HTTP.
func (c *Client) plain(host string) bool { return c.insecure[host] || isLoopback(host) }

// Host returns the registry host as it was named.
func (r *Repository) Host() string { return r.host }

// Name returns the repository's name in the registry.
func (r *Repository) Name() string { return r.name }

// writing returns r asking for push tokens from the start, with a scope for mounts from another repository.
func (r *Repository) writing(from string) *Repository {
	w := *r
	w.actions = "pull,push"
	if from != "" && from != r.name {
		w.extra = "repository:" + from + ":pull"
	}
	return &w
}

func (r *Repository) scopes(actions string) []string {
	s := []string{"repository:" + r.name + ":" + actions}
	if r.extra != "" {
		s = append(s, r.extra)
	}
	return s
}

// url builds an address below the repository; parts are validated by the callers or are constants.
func (r *Repository) url(query url.Values, parts ...string) *url.URL {
	u := *r.endpoint
	u.Path = "/v2/" + r.name + "/" + strings.Join(parts, "/")
	u.RawQuery = query.Encode()
	return &u
}

func (r *Repository) valid() error {
	if _, err := parseHost(r.host); err != nil {
		return err
	}
	if len(r.name) > maxRepository || !repositoryPattern.MatchString(r.name) {
		return fmt.Errorf("%s is not a repository name", clip(r.name))
	}
	return nil
}

func (r *Repository) failure(op string, err error) error {
	return &Failure{Op: op, Host: r.host, Repository: r.name, Err: err}
}
