package evidence

import (
	"time"

	"github.com/pratique-io/pratique/internal/config"
	"github.com/pratique-io/pratique/internal/oci"
	"github.com/pratique-io/pratique/services/evidence/internal/depot"
)

// Config is what an operator may set.
type Config struct {
	// Quarantine is the registry that runs write to, with a credential that reads and deletes below q/.
	Quarantine Registry `yaml:"quarantine"`
	// Store is the evidence store, with a credential that reads and writes below evidence/; nobody else writes there.
	Store Registry `yaml:"store"`
	// CopyRetention is how long the copy of a quarantined or incomplete request is kept.
	CopyRetention time.Duration `yaml:"quarantine_copy_retention"`
	// CollectFor is how long documents that cannot be fetched are waited for before the decision is error.
	CollectFor time.Duration `yaml:"collect_for"`
	// Lease is the term of a claim on a row; after a crash somebody else goes on when it ends.
	Lease time.Duration `yaml:"lease"`
	// Collectors is how many bundles are collected at once.
	Collectors int `yaml:"collectors"`
}

// Registry is one registry and evidence's own credential for it.
type Registry struct {
	Host     string        `yaml:"host"` // host[:port]
	Username string        `yaml:"username"`
	Password config.Secret `yaml:"password"`
	Insecure bool          `yaml:"insecure"` // plain HTTP beside loopback; no credential is sent there
	Realms   []string      `yaml:"realms"`   // hosts of token services outside the registry's own domain
}

// Default is usable but for the registries.
func Default() Config {
	return Config{CopyRetention: 168 * time.Hour, CollectFor: 24 * time.Hour, Lease: 30 * time.Second, Collectors: 2}
}

// Validate notes every problem by path.
func (c Config) Validate(p *config.Problems) {
	c.Quarantine.validate(p.At("quarantine"))
	c.Store.validate(p.At("store"))
	if c.CopyRetention < 0 {
		p.Add("quarantine_copy_retention", "must not be negative")
	}
	if c.CollectFor < time.Minute {
		p.Add("collect_for", "must be at least 1m")
	}
	if c.Lease < 3*time.Second {
		p.Add("lease", "must be at least 3s")
	}
	if c.Collectors < 1 || c.Collectors > 32 {
		p.Add("collectors", "must be between 1 and 32")
	}
}

func (r Registry) validate(p *config.Problems) {
	if _, err := oci.ParseHost(r.Host); err != nil {
		p.Add("host", "must be host or host:port of a registry")
	}
	if r.Username != "" && !r.Password.Set() {
		p.Add("password", "is missing")
	}
}

// depot reads the credential; the file is read once, at start.
func (r Registry) depot() (depot.Config, error) {
	out := depot.Config{Host: r.Host, Insecure: r.Insecure, Realms: r.Realms, Credential: oci.Credential{Username: r.Username}}
	if r.Password.Set() {
		password, err := r.Password.Read()
		if err != nil {
			return out, err
		}
		out.Credential.Password = string(password)
	}
	return out, nil
}
