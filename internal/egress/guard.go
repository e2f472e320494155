package egress

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/url"
)

const maxRedirects = 5

// guard checks each request's URL before a transport sees it; addresses are checked by the dialer, or here when a proxy
// will do the connecting.
type guard struct {
	lane    *lane
	direct  *http.Transport
	through *http.Transport // nil without a proxy
}

// RoundTrip implements http.RoundTripper.
func (g *guard) RoundTrip(req *http.Request) (*http.Response, error) {
	t, err := g.lane.checkURL(req.URL)
	if err == nil && req.Host != "" && req.Host != req.URL.Host {
		err = &Refused{Purpose: g.lane.purpose, Host: req.URL.Host, Rule: RuleHost}
	}
	if err != nil {
		closeBody(req)
		return nil, err
	}
	if g.through == nil || g.lane.allowed[t] {
		return g.direct.RoundTrip(req)
	}
	if err := g.lane.admitThrough(req.Context(), t); err != nil {
		closeBody(req)
		return nil, err
	}
	return g.through.RoundTrip(req)
}

// CloseIdleConnections lets http.Client.CloseIdleConnections work.
func (g *guard) CloseIdleConnections() {
	g.direct.CloseIdleConnections()
	if g.through != nil {
		g.through.CloseIdleConnections()
	}
}

// admitThrough checks a target that the proxy will connect to.
func (l *lane) admitThrough(ctx context.Context, t target) error {
	_, err := l.admit(ctx, t)
	var dns *net.DNSError
	if l.proxyResolves && errors.As(err, &dns) && dns.IsNotFound {
		return nil
	}
	return err
}

// checkURL refuses what no request may name; it also applies the denied list, since a pooled connection is not dialled.
func (l *lane) checkURL(u *url.URL) (target, error) {
	refuse := func(rule Rule) (target, error) {
		return target{}, &Refused{Purpose: l.purpose, Host: u.Host, Rule: rule}
	}
	if u.Scheme != "http" && u.Scheme != "https" {
		return refuse(RuleScheme)
	}
	if u.User != nil {
		return refuse(RuleUserInfo)
	}
	if u.Opaque != "" {
		return refuse(RuleName)
	}
	t, err := parseTarget(urlAddress(u))
	if err != nil {
		return refuse(RuleName)
	}
	for _, d := range l.denied {
		if d == t {
			return refuse(RuleDenied)
		}
	}
	return t, nil
}

// carried are the headers that may cross to another host on a redirect: none of them is a secret. An allow-list, because
// credentials also travel in headers of any name (API keys, webhook signatures).
var carried = map[string]bool{
	"Accept": true, "Accept-Language": true, "Content-Type": true, "Range": true, "User-Agent": true,
	"If-None-Match": true, "If-Modified-Since": true,
}

// checkRedirect is http.Client's hook: req is the next request, via the ones made so far, oldest first.
func (l *lane) checkRedirect(req *http.Request, via []*http.Request) error {
	if len(via) > maxRedirects {
		return &Refused{Purpose: l.purpose, Host: req.URL.Host, Rule: RuleRedirect}
	}
	if _, err := l.checkURL(req.URL); err != nil {
		return err
	}
	if via[len(via)-1].URL.Scheme == "https" && req.URL.Scheme != "https" {
		return &Refused{Purpose: l.purpose, Host: req.URL.Host, Rule: RuleScheme}
	}
	req.Header.Del("Referer") // the previous URL may hold a signed query
	home := via[0].URL
	strayed := req.URL.Host != home.Host || req.URL.Scheme != home.Scheme
	for _, past := range via[1:] {
		strayed = strayed || past.URL.Host != home.Host || past.URL.Scheme != home.Scheme
	}
	if !strayed {
		return nil
	}
	if req.Body != nil && req.Body != http.NoBody {
		return &Refused{Purpose: l.purpose, Host: req.URL.Host, Rule: RuleRedirect}
	}
	for name := range req.Header {
		if !carried[name] {
			delete(req.Header, name)
		}
	}
	return nil
}

func closeBody(req *http.Request) {
	if req.Body != nil {
		_ = req.Body.Close()
	}
}
