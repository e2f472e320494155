package step

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"

	"github.com/pratique-io/pratique/internal/egress"
	"github.com/pratique-io/pratique/internal/oci"
)

// Network is the content of the --network file: the operator's egress policy for the purposes a step has. Without it a
// step reaches the public internet only, and nothing internal.
type Network struct {
	Purposes map[egress.Purpose]Policy `json:"purposes"`
	Insecure []string                  `json:"insecure,omitempty"` // registry hosts spoken to in plain HTTP beside loopback
	Realms   map[string][]string       `json:"realms,omitempty"`   // token services of registry hosts outside their own domain
}

// Policy is egress.Policy in JSON.
type Policy struct {
	Allowed       []string `json:"allowed,omitempty"` // exact host:port
	Denied        []string `json:"denied,omitempty"`
	CABundle      string   `json:"ca_bundle,omitempty"`
	Proxy         string   `json:"proxy,omitempty"`
	ProxyResolves bool     `json:"proxy_resolves,omitempty"`
}

func readNetwork(path string) (Network, error) {
	var n Network
	if path == "" {
		return n, nil
	}
	raw, err := readSmall(path)
	if err != nil {
		return n, fmt.Errorf("--network: %w", err)
	}
	dec := json.NewDecoder(bytes.NewReader(raw))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&n); err != nil {
		return n, fmt.Errorf("--network: %w", err)
	}
	return n, nil
}

func (n Network) transport(purpose egress.Purpose) (http.RoundTripper, error) {
	e, err := n.egress()
	if err != nil {
		return nil, err
	}
	return e.Transport(purpose), nil
}

func (n Network) egress() (*egress.Egress, error) {
	cfg := egress.Config{Policies: map[egress.Purpose]egress.Policy{}}
	for p, policy := range n.Purposes {
		cfg.Policies[p] = egress.Policy{
			Allowed: policy.Allowed, Denied: policy.Denied, CABundle: policy.CABundle,
			Proxy: policy.Proxy, ProxyResolves: policy.ProxyResolves,
		}
	}
	e, err := egress.New(cfg)
	if err != nil {
		return nil, fmt.Errorf("--network: %w", err)
	}
	return e, nil
}

func (n Network) options() []oci.Option {
	out := []oci.Option{oci.WithInsecure(n.Insecure...)}
	for host, realms := range n.Realms {
		out = append(out, oci.WithRealm(host, realms...))
	}
	return out
}

// Client is an HTTP client for a purpose that is not a registry.
func (s *Step) Client(purpose egress.Purpose) (*http.Client, error) {
	n, err := readNetwork(s.network)
	if err != nil {
		return nil, err
	}
	e, err := n.egress()
	if err != nil {
		return nil, err
	}
	return e.Client(purpose), nil
}

// credential reads a secret file: {"username","password"} (a password alone is a bearer token), or a Docker config, which
// is what Kubernetes makes of a registry Secret.
func credential(path, host string) (oci.Credential, error) {
	if path == "" {
		return oci.Credential{}, nil
	}
	raw, err := readSmall(path)
	if err != nil {
		return oci.Credential{}, fmt.Errorf("credential: %w", err)
	}
	var file struct {
		Username string `json:"username"`
		Password string `json:"password"`
		Auths    map[string]struct {
			Username string `json:"username"`
			Password string `json:"password"`
			Auth     string `json:"auth"` // base64 of username:password
		} `json:"auths"`
	}
	if err := json.Unmarshal(raw, &file); err != nil {
		return oci.Credential{}, errors.New("credential: the file is not the expected JSON") // never quote it
	}
	if file.Auths == nil {
		return oci.Credential{Username: file.Username, Password: file.Password}, nil
	}
	for name, a := range file.Auths {
		name = strings.TrimPrefix(strings.TrimPrefix(name, "https://"), "http://")
		if name, _, _ = strings.Cut(name, "/"); !strings.EqualFold(name, host) {
			continue
		}
		if a.Auth == "" {
			return oci.Credential{Username: a.Username, Password: a.Password}, nil
		}
		plain, err := base64.StdEncoding.DecodeString(a.Auth)
		user, password, ok := strings.Cut(string(plain), ":")
		if err != nil || !ok {
			return oci.Credential{}, errors.New("credential: the file's auth is garbled")
		}
		return oci.Credential{Username: user, Password: password}, nil
	}
	return oci.Credential{}, errors.New("credential: the file has none for this host")
}

func readSmall(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	raw, err := io.ReadAll(io.LimitReader(f, 1<<20+1))
	if err == nil && len(raw) > 1<<20 {
		err = errors.New("the file is larger than 1 MiB")
	}
	return raw, err
}
