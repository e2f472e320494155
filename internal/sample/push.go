package sample

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"
)

// Push writes the image to repository on host and tags its root. Every byte is
// sent as it is: client libraries refuse the malformed ones. Loopback hosts are
// spoken to in plain HTTP, others in TLS; host may carry "http://" or
// "https://" to decide. An empty username sends no credentials. transport is
// the caller's, so that egress rules apply; nil means the default one.
func (i Image) Push(ctx context.Context, transport http.RoundTripper, host, repository, tag, username, password string) error {
	p := pusher{
		client:   &http.Client{Transport: transport, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }},
		base:     baseURL(host),
		username: username, password: password,
	}
	for _, d := range slices.Sorted(digests(i.Blobs)) {
		if err := p.blob(ctx, repository, d, i.Blobs[d]); err != nil {
			return fmt.Errorf("push %s: blob %s: %w", i.Name, d, err)
		}
	}
	for _, m := range i.Manifests {
		reference := m.Digest.String()
		if m.Digest == i.Root.Digest && tag != "" {
			reference = tag
		}
		target := fmt.Sprintf("%s/v2/%s/manifests/%s", p.base, repository, reference)
		if _, err := p.send(ctx, http.MethodPut, target, m.MediaType, m.Raw, http.StatusCreated); err != nil {
			return fmt.Errorf("push %s: manifest %s: %w", i.Name, m.Digest, err)
		}
	}
	return nil
}

func digests(blobs map[digest.Digest][]byte) func(yield func(digest.Digest) bool) {
	return func(yield func(digest.Digest) bool) {
		for d := range blobs {
			if !yield(d) {
				return
			}
		}
	}
}

func baseURL(host string) string {
	if strings.HasPrefix(host, "http://") || strings.HasPrefix(host, "https://") {
		return strings.TrimSuffix(host, "/")
	}
	bare := host
	if h, _, err := net.SplitHostPort(host); err == nil {
		bare = h
	}
	if ip := net.ParseIP(strings.Trim(bare, "[]")); bare == "localhost" || ip != nil && ip.IsLoopback() {
		return "http://" + host
	}
	return "https://" + host
}

type pusher struct {
	client             *http.Client
	base               string
	username, password string
}

func (p pusher) blob(ctx context.Context, repository string, d digest.Digest, content []byte) error {
	start := fmt.Sprintf("%s/v2/%s/blobs/uploads/", p.base, repository)
	answer, err := p.send(ctx, http.MethodPost, start, "", nil, http.StatusAccepted)
	if err != nil {
		return err
	}
	location, err := answer.Location()
	if err != nil {
		return err
	}
	from, err := url.Parse(p.base)
	if err != nil {
		return err
	}
	if location.Host != from.Host || location.Scheme != from.Scheme {
		return fmt.Errorf("the registry wants the upload sent to another host, %q", location.Host)
	}
	query := location.Query()
	query.Set("digest", d.String())
	location.RawQuery = query.Encode()
	_, err = p.send(ctx, http.MethodPut, location.String(), "application/octet-stream", content, http.StatusCreated)
	return err
}

func (p pusher) send(ctx context.Context, method, target, mediaType string, body []byte, want int) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, method, target, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	if mediaType != "" {
		req.Header.Set("Content-Type", mediaType)
	}
	if p.username != "" {
		req.SetBasicAuth(p.username, p.password)
	}
	resp, err := p.client.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	reason, err := io.ReadAll(io.LimitReader(resp.Body, 1024))
	if err != nil {
		return nil, err
	}
	if resp.StatusCode != want {
		return nil, fmt.Errorf("%s answered %d, not %d: %s", method, resp.StatusCode, want, reason)
	}
	return resp, nil
}
