package egress

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

const publicIP = "93.184.216.34"

// world is a resolver and a dialer that connect to nothing but test servers, and remember what was dialled.
type world struct {
	mu      sync.Mutex
	names   map[string][]string
	servers map[string]string // "ip:port" asked for -> real listener
	dialled []string
}

func newWorld() *world {
	w := &world{names: map[string][]string{"public.example": {publicIP}, "other.example": {"93.184.216.35"}}, servers: map[string]string{}}
	for n, a := range hostileNames {
		w.names[n] = a
	}
	return w
}

func (w *world) LookupNetIP(_ context.Context, _, host string) ([]netip.Addr, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	answers, ok := w.names[host]
	if !ok {
		return nil, &net.DNSError{Err: "no such host", Name: host, IsNotFound: true}
	}
	if len(answers) == 1 && answers[0] == "timeout" {
		return nil, &net.DNSError{Err: "timeout", Name: host, IsTimeout: true}
	}
	var out []netip.Addr
	for _, a := range answers {
		out = append(out, netip.MustParseAddr(a))
	}
	return out, nil
}

func (w *world) dial(ctx context.Context, network, address string) (net.Conn, error) {
	w.mu.Lock()
	w.dialled = append(w.dialled, address)
	real, ok := w.servers[address]
	w.mu.Unlock()
	if !ok {
		return nil, errors.New("connection refused by the test")
	}
	return (&net.Dialer{}).DialContext(ctx, network, real)
}

func (w *world) dials() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return append([]string(nil), w.dialled...)
}

// serve answers at address ("ip:port") with h.
func (w *world) serve(t *testing.T, address string, h http.HandlerFunc) {
	srv := httptest.NewServer(h)
	t.Cleanup(srv.Close)
	w.mu.Lock()
	w.servers[address] = srv.Listener.Addr().String()
	w.mu.Unlock()
}

func (w *world) egress(t *testing.T, policies map[Purpose]Policy) *Egress {
	e, err := New(Config{Policies: policies, Resolver: w, Dial: w.dial, ConnectTimeout: 2 * time.Second})
	require.NoError(t, err)
	return e
}

func get(c *http.Client, url string, header ...string) (*http.Response, error) {
	req, err := http.NewRequest(http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	for i := 0; i+1 < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	resp, err := c.Do(req)
	if err == nil {
		_ = resp.Body.Close()
	}
	return resp, err
}

func TestTheAddressCorpusIsNeverConnectedTo(t *testing.T) {
	t.Parallel()
	require.GreaterOrEqual(t, len(hostileHosts()), 100)
	for _, host := range hostileHosts() {
		t.Run(fmt.Sprintf("dial %q", host), func(t *testing.T) {
			w := newWorld()
			e := w.egress(t, nil)
			raw := strings.NewReplacer("%25", "%").Replace(host)
			for _, p := range Purposes() {
				_, err := e.DialContext(p)(t.Context(), "tcp", raw+":443")
				var refused *Refused
				require.ErrorAs(t, err, &refused)
				require.Equal(t, p, refused.Purpose)
				require.NotEmpty(t, refused.Rule)
			}
			require.Empty(t, w.dials())
		})
		t.Run(fmt.Sprintf("request %q", host), func(t *testing.T) {
			w := newWorld()
			e := w.egress(t, nil)
			for _, scheme := range []string{"http", "https"} {
				_, err := get(e.Client(Source), scheme+"://"+host+"/v2/")
				require.Error(t, err)
			}
			require.Empty(t, w.dials())
		})
		t.Run(fmt.Sprintf("redirect to %q", host), func(t *testing.T) {
			w := newWorld()
			location := "http://" + host + "/x"
			w.serve(t, publicIP+":80", func(rw http.ResponseWriter, _ *http.Request) {
				rw.Header().Set("Location", location)
				rw.WriteHeader(http.StatusFound)
			})
			_, err := get(w.egress(t, nil).Client(Webhook), "http://public.example/")
			require.Error(t, err)
			require.Equal(t, []string{publicIP + ":80"}, w.dials(), "only the first hop")
		})
	}
}

func TestARedirectToAnotherSchemeIsRefused(t *testing.T) {
	t.Parallel()
	for _, location := range []string{
		"ftp://public.example/", "file:///etc/passwd", "gopher://public.example/", "ws://public.example/",
		"http+unix://x/", "dict://public.example:11211/", "//user@public.example/", "http:public.example",
	} {
		w := newWorld()
		w.serve(t, publicIP+":80", func(rw http.ResponseWriter, _ *http.Request) {
			rw.Header().Set("Location", location)
			rw.WriteHeader(http.StatusMovedPermanently)
		})
		_, err := get(w.egress(t, nil).Client(Source), "http://public.example/")
		require.Error(t, err, location)
		require.Equal(t, []string{publicIP + ":80"}, w.dials(), location)
	}
}

func TestAnExceptionOpensExactlyOneHostAndPortForOnePurpose(t *testing.T) {
	t.Parallel()
	w := newWorld()
	w.names["registry.corp"] = []string{"10.0.0.5"}
	w.names["rebound.corp"] = []string{"169.254.169.254"}
	ok := func(rw http.ResponseWriter, _ *http.Request) { rw.WriteHeader(http.StatusOK) }
	w.serve(t, "127.0.0.1:5001", ok)
	w.serve(t, "10.0.0.5:443", ok)
	e := w.egress(t, map[Purpose]Policy{
		Source:     {Allowed: []string{"127.0.0.1:5001", "registry.corp:443", "rebound.corp:80"}},
		Quarantine: {Allowed: []string{"127.0.0.1:5002"}},
	})
	resp, err := get(e.Client(Source), "http://127.0.0.1:5001/")
	require.NoError(t, err)
	require.Equal(t, http.StatusOK, resp.StatusCode)
	conn, err := e.DialContext(Source)(t.Context(), "tcp", "REGISTRY.corp:443")
	require.NoError(t, err, "names compare without case")
	require.NoError(t, conn.Close())

	before := len(w.dials())
	for _, c := range []struct {
		purpose Purpose
		address string
		rule    Rule
	}{
		{Source, "127.0.0.1:5002", RuleLoopback}, {Source, "127.0.0.2:5001", RuleLoopback},
		{Source, "localhost:5001", RuleLoopback}, {Source, "[::1]:5001", RuleLoopback},
		{Source, "[::ffff:127.0.0.1]:5001", RuleTransition}, {Source, "loop.evil.example:5001", RuleLoopback},
		{Source, "registry.corp:444", RulePrivate}, {Source, "10.0.0.5:443", RulePrivate},
		{Source, "rebound.corp:80", RuleMetadata}, {Source, "127.0.0.1.:5001", RuleName},
		{Source, "127.0.0.1:05001", RuleName}, {Source, "127.0.0.1:0", RuleName}, {Source, "127.0.0.1:70537", RuleName},
		{Source, "127.0.0.1", RuleName}, {Trusted, "127.0.0.1:5001", RuleLoopback}, {"nonsense", "127.0.0.1:5001", RulePurpose},
	} {
		_, err := e.DialContext(c.purpose)(t.Context(), "tcp", c.address)
		var refused *Refused
		require.ErrorAs(t, err, &refused, c.address)
		require.Equal(t, c.rule, refused.Rule, c.address)
	}
	_, err = e.DialContext(Source)(t.Context(), "udp", "127.0.0.1:5001")
	require.Error(t, err)
	require.Len(t, w.dials(), before)
}

func TestDeniedWinsOverAllowedAndFollowsAliases(t *testing.T) {
	t.Parallel()
	w := newWorld()
	w.names["trusted.corp"] = []string{"10.0.0.7"}
	w.names["alias.corp"] = []string{"10.0.0.7"}
	w.names["flaky.corp"] = []string{"timeout"}
	w.names["near.corp"] = []string{"10.0.0.8"}
	w.serve(t, "10.0.0.8:5003", func(http.ResponseWriter, *http.Request) {})
	e := w.egress(t, map[Purpose]Policy{
		Source: {
			Allowed: []string{"localhost:5002", "127.0.0.1:5002", "127.0.0.9:5002", "alias.corp:443", "trusted.corp:443", "near.corp:444", "near.corp:5003"},
			Denied:  []string{"127.0.0.1:5002", "trusted.corp:443", "flaky.corp:444", "gone.corp:5003", "public.example:443"},
		},
		Webhook: {Denied: []string{"other.example:443"}},
	})
	for _, address := range []string{"127.0.0.1:5002", "localhost:5002", "127.0.0.9:5002", "trusted.corp:443", "alias.corp:443", "public.example:443"} {
		_, err := e.DialContext(Source)(t.Context(), "tcp", address)
		var refused *Refused
		require.ErrorAs(t, err, &refused, address)
		require.Equal(t, RuleDenied, refused.Rule, address)
	}
	_, err := e.DialContext(Source)(t.Context(), "tcp", "near.corp:444")
	require.ErrorContains(t, err, "cannot tell", "an unanswered lookup of a denied name closes")
	require.Empty(t, w.dials())
	conn, err := e.DialContext(Source)(t.Context(), "tcp", "near.corp:5003")
	require.NoError(t, err, "a denied name that does not exist has no aliases")
	require.NoError(t, conn.Close())
	_, err = e.DialContext(Webhook)(t.Context(), "tcp", "public.example:443")
	require.ErrorContains(t, err, "refused by the test", "denied for one purpose is not denied for another")
}

func TestEveryAddressIsCheckedAndAllAreTried(t *testing.T) {
	t.Parallel()
	w := newWorld()
	w.names["two.example"] = []string{"93.184.216.40", "93.184.216.41"}
	w.serve(t, "93.184.216.41:80", func(http.ResponseWriter, *http.Request) {})
	_, err := get(w.egress(t, nil).Client(Source), "http://two.example/")
	require.NoError(t, err)
	require.Equal(t, []string{"93.184.216.40:80", "93.184.216.41:80"}, w.dials())

	var many []string
	for i := range maxAddresses + 1 {
		many = append(many, fmt.Sprintf("93.184.217.%d", i))
	}
	w.names["many.example"] = many
	_, err = w.egress(t, nil).DialContext(Source)(t.Context(), "tcp", "many.example:80")
	var refused *Refused
	require.ErrorAs(t, err, &refused)
	require.Equal(t, RuleCount, refused.Rule)
}

func TestProxies(t *testing.T) {
	w := newWorld()
	t.Setenv("HTTP_PROXY", "http://127.0.0.1:1")
	t.Setenv("HTTPS_PROXY", "http://127.0.0.1:1")
	t.Setenv("ALL_PROXY", "http://127.0.0.1:1")
	var asked []string
	w.names["proxy.corp"] = []string{"10.9.9.9"}
	w.serve(t, "10.9.9.9:3128", func(_ http.ResponseWriter, r *http.Request) { asked = append(asked, r.URL.String()) })
	w.serve(t, publicIP+":80", func(http.ResponseWriter, *http.Request) {})
	w.serve(t, "127.0.0.1:5001", func(http.ResponseWriter, *http.Request) {})
	e := w.egress(t, map[Purpose]Policy{
		Source: {Proxy: "http://proxy.corp:3128", Allowed: []string{"127.0.0.1:5001"}},
		EPR:    {Proxy: "http://proxy.corp:3128", ProxyResolves: true},
	})
	_, err := get(e.Client(Database), "http://public.example/")
	require.NoError(t, err)
	require.Equal(t, []string{publicIP + ":80"}, w.dials(), "proxy variables have no say")

	_, err = get(e.Client(Source), "http://public.example/a")
	require.NoError(t, err)
	require.Equal(t, []string{"http://public.example/a"}, asked)
	_, err = get(e.Client(Source), "http://127.0.0.1:5001/")
	require.NoError(t, err)
	require.Len(t, asked, 1, "internal exceptions go direct")
	for _, target := range []string{"http://10.0.0.1/", "http://loop.evil.example/", "http://proxy.corp:3128/", "http://unknown.example/"} {
		_, err = get(e.Client(Source), target)
		require.Error(t, err, target)
	}
	require.Len(t, asked, 1, "targets are checked before the proxy is asked")
	_, err = get(e.Client(EPR), "http://unknown.example/")
	require.NoError(t, err)
	_, err = get(e.Client(EPR), "http://loop.evil.example/")
	require.Error(t, err)
	require.Equal(t, []string{"http://public.example/a", "http://unknown.example/"}, asked)
}

func TestConfigurationProblemsAreReportedAtOnce(t *testing.T) {
	t.Parallel()
	_, err := New(Config{Policies: map[Purpose]Policy{
		"everything": {},
		Source:       {Allowed: []string{"*", "10.0.0.0/8:80"}, Denied: []string{"host"}, CABundle: "/nonexistent"},
		Mail:         {Proxy: "socks5://x:1"},
		OIDC:         {Proxy: "http://user:hunter2@proxy:1"},
		EPR:          {Proxy: "http://proxy:1/path"},
	}})
	require.Error(t, err)
	for _, part := range []string{"egress.everything", "source.allowed[0]", "source.allowed[1]", "source.denied[0]", "source.ca_bundle", "mail.proxy", "oidc.proxy", "epr.proxy"} {
		require.ErrorContains(t, err, part)
	}
	require.NotContains(t, err.Error(), "hunter2")
}

func TestARequestMayNotNameAnotherHostInItsHeader(t *testing.T) {
	t.Parallel()
	w := newWorld()
	req, err := http.NewRequest(http.MethodGet, "http://public.example/", nil)
	require.NoError(t, err)
	req.Host = "internal.corp"
	_, err = w.egress(t, nil).Transport(Source).RoundTrip(req)
	var refused *Refused
	require.ErrorAs(t, err, &refused)
	require.Equal(t, RuleHost, refused.Rule)
	_, err = w.egress(t, nil).Transport("nonsense").RoundTrip(&http.Request{URL: &url.URL{Scheme: "http", Host: "public.example"}})
	require.ErrorAs(t, err, &refused)
	require.Empty(t, w.dials())
}

func TestASilentConnectionIsCut(t *testing.T) {
	t.Parallel()
	w := newWorld()
	release := make(chan struct{})
	w.serve(t, publicIP+":80", func(rw http.ResponseWriter, _ *http.Request) {
		rw.Header().Set("Content-Length", "10")
		rw.WriteHeader(http.StatusOK)
		rw.(http.Flusher).Flush()
		<-release
	})
	t.Cleanup(func() { close(release) })
	e, err := New(Config{Resolver: w, Dial: w.dial, Stall: 100 * time.Millisecond})
	require.NoError(t, err)
	resp, err := e.Client(Source).Get("http://public.example/")
	require.NoError(t, err)
	defer resp.Body.Close()
	_, err = resp.Body.Read(make([]byte, 10))
	var timeout net.Error
	require.ErrorAs(t, err, &timeout)
	require.True(t, timeout.Timeout())
}
