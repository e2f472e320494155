package release

import (
	"time"

	"github.com/pratique-io/pratique/internal/config"
	"github.com/pratique-io/pratique/internal/oci"
)

// Registry is a registry that release uses.
type Registry struct {
	Host      string        `yaml:"host"` // host[:port]
	Username  string        `yaml:"username"`
	Password  config.Secret `yaml:"password"`
	PlainHTTP bool          `yaml:"plain_http"` // beside loopback, which always is; no credential is sent there then
	Realms    []string      `yaml:"realms"`     // hosts of token services beside the registry's own domain
}

// Promotion bounds the copying into the trusted registry.
type Promotion struct {
	Parallel int           `yaml:"parallel"` // at once in this process
	Attempts int           `yaml:"attempts"` // tries before a promotion fails
	Backoff  time.Duration `yaml:"backoff"`  // after the first failed try; doubles
	Most     time.Duration `yaml:"most"`     // longest pause
	Lease    time.Duration `yaml:"lease"`    // term of a claim
	Timeout  time.Duration `yaml:"timeout"`  // of one try
}

// Config is what the release service is set up with.
type Config struct {
	Quarantine Registry  `yaml:"quarantine"` // pull is enough
	Trusted    Registry  `yaml:"trusted"`    // pull and push; nobody else has push
	Promotion  Promotion `yaml:"promotion"`
}

// Default is a Config that lacks only the registries.
func Default() Config {
	return Config{Promotion: Promotion{
		Parallel: 4, Attempts: 5, Backoff: 10 * time.Second, Most: 2 * time.Minute, Lease: time.Minute, Timeout: 30 * time.Minute,
	}}
}

// Validate implements config.Validator.
func (c Config) Validate(p *config.Problems) {
	c.Quarantine.validate(p.At("quarantine"))
	c.Trusted.validate(p.At("trusted"))
	if c.Quarantine.Host != "" && c.Quarantine.Host == c.Trusted.Host {
		p.Add("trusted.host", "must be another registry than quarantine.host: whoever may pull from one must not see the other")
	}
	at := p.At("promotion")
	if c.Promotion.Parallel < 1 || c.Promotion.Parallel > 64 {
		at.Add("parallel", "must be 1 to 64")
	}
	if c.Promotion.Attempts < 1 || c.Promotion.Attempts > 100 {
		at.Add("attempts", "must be 1 to 100")
	}
	if c.Promotion.Backoff <= 0 || c.Promotion.Most < c.Promotion.Backoff {
		at.Add("backoff", "must be positive and not above most")
	}
	if c.Promotion.Lease < time.Second {
		at.Add("lease", "must be at least 1s")
	}
	if c.Promotion.Timeout < c.Promotion.Lease {
		at.Add("timeout", "must not be below lease")
	}
}

func (r Registry) validate(p *config.Problems) {
	if host, err := oci.ParseHost(r.Host); err != nil {
		p.Check("host", err)
	} else if host != r.Host {
		p.Addf("host", "must be written as %s", host)
	}
	if r.Username != "" && !r.Password.Set() {
		p.Add("password", "is missing beside the username")
	}
}
