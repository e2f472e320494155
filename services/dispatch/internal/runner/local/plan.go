package local

import (
	"encoding/json"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/pratique-io/pratique/internal/egress"
	"github.com/pratique-io/pratique/services/dispatch/internal/domain"
)

// plan is one step made concrete.
type plan struct {
	key     string
	dir     string // its home
	args    []string
	files   map[string]any // name in dir -> JSON, 0400, the step's
	results []string       // what it must leave in dir/results
	read    []string       // paths beside its own that it may read
}

const resultsDir = "results"

// plan makes the command line of a step from the spec and the results so far. Secrets go into files, never into arguments.
func (r *run) plan(key, dir string, results map[string]string) (plan, error) {
	p := plan{key: key, dir: dir, files: map[string]any{}}
	file := func(name string, content any) string {
		p.files[name] = content
		return filepath.Join(dir, name)
	}
	image := r.spec.Target + "@" + results["image"]
	auth := file("auth.json", r.spec.TargetAuth)
	switch key {
	case domain.StepPull:
		p.args = []string{key, "--source", r.spec.Source, "--target", r.spec.Target, "--target-auth", auth}
		if r.spec.SourceAuth != nil {
			p.args = append(p.args, "--source-auth", file("source-auth.json", *r.spec.SourceAuth))
		}
		p.results = []string{"image", "source"}
	case domain.StepSBOM:
		p.args = []string{key, "--image", image, "--auth", auth}
		p.results = []string{"sbom"}
	case domain.StepVulnerabilities:
		p.args = []string{key, "--image", image, "--sbom", results["sbom"], "--auth", auth}
		if r.spec.DatabaseDir != "" {
			p.args = append(p.args, "--database", r.spec.DatabaseDir)
			p.read = append(p.read, r.spec.DatabaseDir)
		} else {
			p.args = append(p.args, "--database-url", r.spec.DatabaseURL)
		}
		p.results = []string{"vulnerabilities"}
	case domain.StepReport:
		p.args = []string{key, "--image", image, "--source", results["source"], "--sbom", results["sbom"],
			"--vulnerabilities", results["vulnerabilities"], "--auth", auth}
		p.results = []string{"report"}
	}
	p.args = append(p.args, "--run", r.spec.Run.String(), "--attempt", strconv.Itoa(r.spec.Attempt),
		"--results", filepath.Join(dir, resultsDir), "--network", file("network.json", r.network(key)))
	return p, nil
}

// purposes are what a step may talk to; everything else is refused by the step's own dialer.
func purposes(key string) []egress.Purpose {
	switch key {
	case domain.StepPull:
		return []egress.Purpose{egress.Source, egress.Quarantine}
	case domain.StepVulnerabilities:
		return []egress.Purpose{egress.Quarantine, egress.Database}
	}
	return []egress.Purpose{egress.Quarantine}
}

// network is what pratique-step reads with --network: the operator's policies for the purposes a step has, and how registries are spoken
// to. A purpose that is not in it reaches nothing internal.
type network struct {
	Purposes map[egress.Purpose]policy `json:"purposes"`
	Insecure []string                  `json:"insecure,omitempty"`
	Realms   map[string][]string       `json:"realms,omitempty"`
}

// policy is egress.Policy as the step reads it.
type policy struct {
	Allowed       []string `json:"allowed,omitempty"`
	Denied        []string `json:"denied,omitempty"`
	CABundle      string   `json:"ca_bundle,omitempty"`
	Proxy         string   `json:"proxy,omitempty"`
	ProxyResolves bool     `json:"proxy_resolves,omitempty"`
}

// network makes the settings of a step. The quarantine registry is never a source, whatever the operator's policy says.
func (r *run) network(key string) network {
	cfg := r.owner.cfg
	out := network{Purposes: map[egress.Purpose]policy{}, Insecure: cfg.Insecure, Realms: cfg.Realms}
	for _, purpose := range purposes(key) {
		p := cfg.Egress[purpose]
		denied := p.Denied
		if purpose == egress.Source {
			denied = slices.Concat(denied, cfg.Egress[egress.Quarantine].Allowed, addressesOf(r.spec.Target))
		}
		out.Purposes[purpose] = policy{Allowed: p.Allowed, Denied: denied, CABundle: p.CABundle, Proxy: p.Proxy,
			ProxyResolves: p.ProxyResolves}
	}
	return out
}

// addressesOf are the host:port under which a registry reference is reached. One with a public address stands on no list of exceptions.
func addressesOf(reference string) []string {
	host, _, _ := strings.Cut(reference, "/")
	if _, _, err := net.SplitHostPort(host); err == nil {
		return []string{host}
	}
	return []string{net.JoinHostPort(host, "443"), net.JoinHostPort(host, "80")}
}

// furnish makes the step's directory. It is given to the step's user last, so that nobody else has a hand in it before.
func (r *run) furnish(p plan) error {
	if err := os.RemoveAll(p.dir); err != nil {
		return err
	}
	if err := os.Mkdir(p.dir, 0o700); err != nil {
		return err
	}
	results := filepath.Join(p.dir, resultsDir)
	if err := os.Mkdir(results, 0o700); err != nil {
		return err
	}
	for name, content := range p.files {
		raw, err := json.Marshal(content)
		if err != nil {
			return err
		}
		path := filepath.Join(p.dir, name)
		if err := os.WriteFile(path, raw, 0o400); err != nil {
			return err
		}
		if err := r.place.own(path); err != nil {
			return err
		}
	}
	if err := r.place.own(results); err != nil {
		return err
	}
	return r.place.own(p.dir)
}
