package oci

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/pratique-io/pratique/internal/egress"
)

const (
	maxHops     = 5
	maxLocation = 8 << 10
	userAgent   = "pratique"
)

// call is one request to be made, perhaps several times.
type call struct {
	op      string
	method  string
	url     *url.URL
	header  http.Header
	body    func() io.Reader // nil: none; called once per attempt
	size    int64
	once    bool // the body cannot be sent twice
	actions string
	accept  []int
}

// exchange makes a call, answering challenges, following redirects of reads, and retrying what may pass. The response has
// one of the accepted statuses, and its body is the caller's to close.
func (r *Repository) exchange(ctx context.Context, c call) (*http.Response, error) {
	if err := r.valid(); err != nil {
		return nil, err
	}
	if c.actions == "" {
		c.actions = r.actions
	}
	for attempt := 1; ; attempt++ {
		resp, err := r.attempt(ctx, c)
		if err == nil && slices.Contains(c.accept, resp.StatusCode) {
			return resp, nil
		}
		var wait time.Duration
		if err == nil {
			wait = retryAfter(resp.Header, r.client.now())
			err = r.statusError(c.op, resp, wait)
		} else {
			err = r.transportError(ctx, c.op, err)
		}
		if c.once || attempt >= r.client.attempts || wait > r.client.maxWait || !transient(err) {
			return nil, err
		}
		if wait == 0 {
			wait = min(250*time.Millisecond<<(attempt-1), r.client.maxWait)
		}
		if slept := r.client.sleep(ctx, wait); slept != nil {
			return nil, errors.Join(slept, err)
		}
	}
}

func transient(err error) bool {
	return errors.Is(err, ErrUnavailable) || errors.Is(err, ErrRateLimited{})
}

// attempt sends once, and once more if the registry asks for authorization that we can give.
func (r *Repository) attempt(ctx context.Context, c call) (*http.Response, error) {
	scopes := r.scopes(c.actions)
	authorization := r.auth.ready(scopes)
	resp, err := r.follow(ctx, c, authorization)
	if err != nil || resp.StatusCode != http.StatusUnauthorized || c.once && c.body != nil {
		if resp != nil && resp.StatusCode == http.StatusUnauthorized {
			r.auth.forget(scopes, authorization)
		}
		return resp, err
	}
	challenges, err := parseChallenges(resp.Header.Values("WWW-Authenticate"))
	discard(resp)
	if err != nil {
		return nil, r.failure(c.op, fmt.Errorf("%w: %w", ErrProtocol, err))
	}
	authorization, err = r.auth.answer(ctx, challenges, scopes, authorization)
	if err != nil {
		return nil, err
	}
	return r.follow(ctx, c, authorization)
}

// follow sends c and follows redirects of reads. The credential stays with the registry's own origin.
func (r *Repository) follow(ctx context.Context, c call, authorization string) (*http.Response, error) {
	at := c.url
	for hop := 0; ; hop++ {
		resp, err := r.send(ctx, c, at, authorization)
		if err != nil {
			return nil, err
		}
		read := c.method == http.MethodGet || c.method == http.MethodHead
		if !read || !slices.Contains([]int{301, 302, 303, 307, 308}, resp.StatusCode) {
			return resp, nil
		}
		location := resp.Header.Get("Location")
		discard(resp)
		if hop == maxHops {
			return nil, fmt.Errorf("%w: more than %d redirects", ErrProtocol, maxHops)
		}
		if at, err = r.next(at, location); err != nil {
			return nil, err
		}
	}
}

func (r *Repository) send(ctx context.Context, c call, at *url.URL, authorization string) (*http.Response, error) {
	req := &http.Request{Method: c.method, URL: at, Host: at.Host, Header: http.Header{"User-Agent": {userAgent}}, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1}
	for k, v := range c.header {
		req.Header[k] = v
	}
	if authorization != "" && sameOrigin(at, r.endpoint) {
		req.Header.Set("Authorization", authorization)
	}
	switch {
	case c.body != nil && c.size > 0:
		req.Body, req.ContentLength = io.NopCloser(c.body()), c.size
	case c.method == http.MethodPost || c.method == http.MethodPut:
		req.Body = http.NoBody
	}
	return r.client.rt.RoundTrip(req.WithContext(ctx))
}

// next resolves a Location (of a redirect, an upload or a page) and refuses what must not be followed: other schemes,
// a step down from https, plain HTTP to hosts that are not meant to speak it, embedded credentials.
func (r *Repository) next(from *url.URL, location string) (*url.URL, error) {
	if location == "" || len(location) > maxLocation {
		return nil, fmt.Errorf("%w: a missing or overlong location", ErrProtocol)
	}
	for _, c := range []byte(location) {
		if c <= ' ' || c >= 0x7f || c == '\\' {
			return nil, fmt.Errorf("%w: a location with unusual bytes", ErrProtocol)
		}
	}
	ref, err := url.Parse(location)
	if err != nil {
		return nil, fmt.Errorf("%w: a malformed location", ErrProtocol)
	}
	to := from.ResolveReference(ref)
	to.Fragment, to.RawFragment = "", ""
	if to.User != nil || to.Opaque != "" || to.Scheme != "https" && to.Scheme != "http" {
		return nil, fmt.Errorf("%w: location %s", ErrProtocol, clip(to.Redacted()))
	}
	if _, err := parseHost(to.Host); err != nil && to.Host != r.endpoint.Host {
		return nil, fmt.Errorf("%w: a location with a malformed host", ErrProtocol)
	}
	to.Host = strings.ToLower(to.Host)
	if to.Scheme == "http" && (from.Scheme == "https" || !r.client.plain(to.Host)) {
		return nil, fmt.Errorf("%w: location leads to plain HTTP at %s", ErrProtocol, clip(to.Host))
	}
	return to, nil
}

func sameOrigin(a, b *url.URL) bool { return a.Scheme == b.Scheme && a.Host == b.Host }

// transportError types an error of the transport. A refusal by egress and the caller's own cancellation stay themselves.
func (r *Repository) transportError(ctx context.Context, op string, err error) error {
	var (
		refused *egress.Refused
		failure *Failure
		bad     *Unacceptable
	)
	if errors.As(err, &failure) || errors.As(err, &bad) {
		return err
	}
	if ctx.Err() != nil {
		return r.failure(op, ctx.Err())
	}
	if errors.As(err, &refused) || errors.Is(err, ErrProtocol) {
		return r.failure(op, err)
	}
	return r.failure(op, fmt.Errorf("%w: %w", ErrUnavailable, err))
}

// statusError consumes a response whose status was not wanted.
func (r *Repository) statusError(op string, resp *http.Response, wait time.Duration) error {
	f := &Failure{Op: op, Host: r.host, Repository: r.name, Status: resp.StatusCode, Code: errorCode(resp.Body)}
	discard(resp)
	switch s := resp.StatusCode; {
	case s == 401 || s == 403:
		f.Err = ErrUnauthorized
	case s == 404 || s == 410:
		f.Err = ErrNotFound
	case s == 405 || s == 501 || f.Code == "UNSUPPORTED":
		f.Err = ErrUnsupported
	case s == 429:
		f.Err = ErrRateLimited{RetryAfter: wait}
	case s == 408 || s >= 500:
		f.Err = ErrUnavailable
	default:
		f.Err = ErrProtocol
	}
	return f
}

func errorCode(body io.Reader) string {
	raw, _ := io.ReadAll(io.LimitReader(body, 8<<10)) // an unreadable error body has no code
	var doc struct {
		Errors []struct{ Code string }
	}
	if json.Unmarshal(raw, &doc) != nil || len(doc.Errors) == 0 {
		return ""
	}
	code := doc.Errors[0].Code
	if len(code) > 64 || strings.Trim(code, "ABCDEFGHIJKLMNOPQRSTUVWXYZ_") != "" {
		return ""
	}
	return code
}

// retryAfter reads the header as seconds or a date; at most a day, never negative.
func retryAfter(h http.Header, now time.Time) time.Duration {
	v, most := h.Get("Retry-After"), 24*time.Hour
	if n, err := strconv.ParseUint(v, 10, 32); err == nil {
		return min(time.Duration(n)*time.Second, most)
	}
	if at, err := http.ParseTime(v); err == nil {
		return max(0, min(at.Sub(now), most))
	}
	return 0
}

// discard closes a response after a little reading, so that the connection can be used again.
func discard(resp *http.Response) {
	_, _ = io.CopyN(io.Discard, resp.Body, 8<<10)
	_ = resp.Body.Close()
}
