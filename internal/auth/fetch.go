package auth

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync"
	"time"
)

// errFetch marks that an issuer could not be read, as opposed to having answered something that refuses the token.
var errFetch = errors.New("issuer cannot be read")

const (
	// maxDocument bounds discovery and key documents, in bytes.
	maxDocument = 1 << 20
	// refetch is the least time between two fetches of one document: tokens with invented key ids cannot make us hammer an
	// issuer, and a rotated key is picked up this much later at worst.
	refetch = 5 * time.Second
	// refetchFailed is the same after a failure, so that a restarted issuer is found again quickly.
	refetchFailed = time.Second
)

// fetcher is the round tripper behind issuers: bounded bodies, anything but 200 (redirects too) is errFetch, at most one fetch per refetch.
type fetcher struct {
	next http.RoundTripper
	now  func() time.Time

	mu   sync.Mutex
	last map[string]fetched
}

type fetched struct {
	body   []byte
	header http.Header
	err    error
	at     time.Time
}

func boundClient(client *http.Client, now func() time.Time) *http.Client {
	bound := *client
	next := client.Transport
	if next == nil {
		next = http.DefaultTransport
	}
	bound.Transport = &fetcher{next: next, now: now, last: map[string]fetched{}}
	if bound.Timeout == 0 || bound.Timeout > discoveryTimeout {
		bound.Timeout = discoveryTimeout
	}
	return &bound
}

func (f *fetcher) RoundTrip(req *http.Request) (*http.Response, error) {
	key := req.URL.String()
	f.mu.Lock()
	got, ok := f.last[key]
	f.mu.Unlock()
	if !ok || f.now().Sub(got.at) >= got.stands() {
		got = f.fetch(req)
		f.mu.Lock()
		f.last[key] = got // discovery and keys of one issuer: bounded by configuration
		f.mu.Unlock()
	}
	if got.err != nil {
		return nil, got.err
	}
	return &http.Response{
		Status: "200 OK", StatusCode: http.StatusOK, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1, Header: got.header.Clone(),
		Body: io.NopCloser(bytes.NewReader(got.body)), ContentLength: int64(len(got.body)), Request: req,
	}, nil
}

// stands is how long a fetch is not repeated.
func (d fetched) stands() time.Duration {
	if d.err != nil {
		return refetchFailed
	}
	return refetch
}

func (f *fetcher) fetch(req *http.Request) fetched {
	resp, err := f.next.RoundTrip(req)
	if err != nil {
		return fetched{err: fmt.Errorf("%w: %w", errFetch, err), at: f.now()}
	}
	defer resp.Body.Close() //nolint:errcheck // read to its end or abandoned; nothing to learn from closing
	if resp.StatusCode != http.StatusOK {
		return fetched{err: fmt.Errorf("%w: it answered %d", errFetch, resp.StatusCode), at: f.now()}
	}
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxDocument+1))
	if err != nil {
		return fetched{err: fmt.Errorf("%w: %w", errFetch, err), at: f.now()}
	}
	if len(body) > maxDocument {
		return fetched{err: fmt.Errorf("%w: its document is larger than %d bytes", errFetch, maxDocument), at: f.now()}
	}
	return fetched{body: body, header: resp.Header, at: f.now()}
}
