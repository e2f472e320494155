// Package depot is evidence's way to its two registries: the quarantine registry, which it reads by digest and empties, and the evidence
// store, which it alone writes. Reading and writing are internal/oci's; what this package adds is the thorough deletion of a repository:
// a deleted manifest leaves its bytes readable as blobs, and what hangs on it can be named by nobody afterwards.
package depot

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"time"

	"github.com/pratique-io/pratique/internal/oci"
)

// Config says how to reach a registry.
type Config struct {
	Host       string // host[:port]
	Credential oci.Credential
	Insecure   bool     // plain HTTP beside loopback; credentials are never sent there
	Realms     []string // hosts of token services outside the registry's own domain
}

// Depot is one registry with evidence's own credential for it.
type Depot struct {
	cfg    Config
	client *oci.Client
	rt     http.RoundTripper
}

// New makes a depot whose every connection goes through rt, the transport of the registry's purpose.
func New(rt http.RoundTripper, cfg Config) *Depot {
	opts := []oci.Option{oci.WithRetry(3, 5*time.Second)}
	if cfg.Insecure {
		opts = append(opts, oci.WithInsecure(cfg.Host))
	}
	if len(cfg.Realms) > 0 {
		opts = append(opts, oci.WithRealm(cfg.Host, cfg.Realms...))
	}
	return &Depot{cfg: cfg, client: oci.NewClient(rt, opts...), rt: rt}
}

// Host is the registry's host as configured.
func (d *Depot) Host() string { return d.cfg.Host }

// Repository returns a handle to one repository.
func (d *Depot) Repository(name string) *oci.Repository {
	return d.client.Repository(d.cfg.Host, name, d.cfg.Credential)
}

// maxRaw bounds a manifest read leniently, in bytes: registries accept up to this.
const maxRaw = 8 << 20

// send makes one plain request below the repository, for what internal/oci does not offer: reading manifests and lists that it rightly
// refuses but that must be deleted all the same. name has been validated by a call of internal/oci before.
func (d *Depot) send(ctx context.Context, method, name, path string) (status int, body []byte, err error) {
	scheme := "https"
	if d.plain() {
		scheme = "http"
	}
	req, err := http.NewRequestWithContext(ctx, method, scheme+"://"+d.cfg.Host+"/v2/"+name+"/"+path, nil)
	if err != nil {
		return 0, nil, err
	}
	req.Header.Set("Accept", strings.Join([]string{oci.MediaTypeIndex, oci.MediaTypeImage, oci.MediaTypeDockerList, oci.MediaTypeDockerImage, "*/*"}, ", "))
	if c := d.cfg.Credential; c.Username != "" && (scheme == "https" || loopback(d.cfg.Host)) {
		req.SetBasicAuth(c.Username, c.Password)
	} else if c.Password != "" && (scheme == "https" || loopback(d.cfg.Host)) {
		req.Header.Set("Authorization", "Bearer "+c.Password)
	}
	resp, err := d.rt.RoundTrip(req)
	if err != nil {
		return 0, nil, fmt.Errorf("%w: %w", oci.ErrUnavailable, err)
	}
	defer resp.Body.Close()
	body, err = io.ReadAll(io.LimitReader(resp.Body, maxRaw+1))
	if err != nil {
		return 0, nil, fmt.Errorf("%w: %w", oci.ErrUnavailable, err)
	}
	return resp.StatusCode, body, nil
}

func (d *Depot) plain() bool { return d.cfg.Insecure || loopback(d.cfg.Host) }

func loopback(host string) bool {
	name := host
	if h, _, err := net.SplitHostPort(host); err == nil {
		name = h
	}
	if name == "localhost" {
		return true
	}
	ip, err := netip.ParseAddr(strings.Trim(name, "[]"))
	return err == nil && ip.IsLoopback()
}

// read gets a manifest's bytes by tag or digest whatever it looks like; its digest is the hash of the bytes.
func (d *Depot) read(ctx context.Context, name, ref string) (oci.Digest, []byte, error) {
	at, raw, err := d.Repository(name).Resolve(ctx, ref)
	if err == nil {
		return at.Digest, raw, nil
	}
	var bad *oci.Unacceptable
	if !errors.As(err, &bad) {
		return "", nil, err
	}
	status, raw, err := d.send(ctx, http.MethodGet, name, "manifests/"+ref)
	switch {
	case err != nil:
		return "", nil, err
	case status == http.StatusNotFound:
		return "", nil, oci.ErrNotFound
	case status != http.StatusOK:
		return "", nil, fmt.Errorf("read manifest: %w (status %d)", oci.ErrProtocol, status)
	case len(raw) > maxRaw:
		return "", nil, fmt.Errorf("read manifest: %w: it is larger than any registry should take", oci.ErrProtocol)
	}
	if wanted := oci.Digest(ref); wanted.Valid() {
		return wanted, raw, nil // what is deleted is what it is called by
	}
	return oci.FromBytes(raw), bytes.Clone(raw), nil
}
