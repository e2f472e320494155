package serve

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"github.com/pratique-io/pratique/internal/auth"
	"github.com/pratique-io/pratique/internal/config"
	"github.com/pratique-io/pratique/internal/egress"
	"github.com/pratique-io/pratique/internal/pg"
	"github.com/pratique-io/pratique/internal/rpc"
)

// Names lists the six services, in the order a request meets them.
func Names() []string {
	return []string{"intake", "approval", "dispatch", "evidence", "release", "notify"}
}

// Config is the whole configuration of a server process: `pratique serve` reads it from a file, `pratique up` writes that file. Secrets are
// file names throughout.
type Config struct {
	LogLevel  string            `yaml:"log_level"`
	Listen    Listen            `yaml:"listen"`
	Database  Database          `yaml:"database"`
	Bus       Bus               `yaml:"bus"`
	Auth      Auth              `yaml:"auth"`
	Transport rpc.Transport     `yaml:"transport"`
	Peers     map[string]string `yaml:"peers"` // service -> host:port
	Egress    map[string]Policy `yaml:"egress"`
	Services  Services          `yaml:",inline"`
}

// Listen says where a process is reached; an empty address is not served.
type Listen struct {
	REST string `yaml:"rest"`
	GRPC string `yaml:"grpc"` // of all services in the process; empty: where the peers expect the first of them
	Ops  string `yaml:"ops"`  // /livez, /readyz, /metrics
}

// Database says where the schemas are. Passwords is a directory with files <schema>_api and <schema>_worker.
type Database struct {
	URL       string `yaml:"url"`
	Passwords string `yaml:"passwords"`
	MaxConns  int32  `yaml:"max_conns"`
}

// Bus says where the broker is. Passwords is a directory with a file nats_<service> each.
type Bus struct {
	URL       string `yaml:"url"`
	Passwords string `yaml:"passwords"`
}

// Auth says whom to believe. ServiceKeys is a directory with <service>.pem (our own) and <service>.pub.pem (everybody's).
type Auth struct {
	Issuers     []auth.Issuer `yaml:"issuers"`
	ServiceKeys string        `yaml:"service_keys"`
	PublicKey   string        `yaml:"public_key"` // PEM of the key that signs proofs
}

// Policy is what an operator allows one egress purpose.
type Policy struct {
	Allowed  []string `yaml:"allowed"`
	Denied   []string `yaml:"denied"`
	CABundle string   `yaml:"ca_bundle"`
	Proxy    string   `yaml:"proxy"`
}

// Load reads a configuration file with its overrides and checks it for the services that this process is to run.
func Load(path string, services []string) (Config, error) {
	cfg := Default()
	if err := config.LoadFile(path, &cfg); err != nil {
		return Config{}, err
	}
	cfg.Services.Dispatch.Egress = cfg.policies() // steps get the part of it that is theirs
	problems := config.NewProblems()
	cfg.check(problems, services)
	return cfg, problems.Err()
}

func (c Config) check(p *config.Problems, services []string) {
	for _, name := range services {
		if !slices.Contains(append(Names(), "gateway"), name) {
			p.Addf("services", "there is no service %q; there are %s and gateway", name, strings.Join(Names(), ", "))
		}
	}
	if c.Database.URL == "" {
		p.Add("database.url", "is required, e.g. postgres://db.example.com:5432/pratique")
	}
	if c.Bus.URL == "" {
		p.Add("bus.url", "is required, e.g. nats://nats.example.com:4222")
	}
	if len(c.Auth.Issuers) == 0 {
		p.Add("auth.issuers", "at least one is required: nobody could sign in")
	}
	p.Check("transport", c.Transport.Check())
	for _, name := range Names() {
		if c.Peers[name] == "" {
			p.Addf("peers."+name, "is required: host:port of the service's gRPC")
		}
	}
	for name := range c.Peers {
		if !slices.Contains(Names(), name) {
			p.Add("peers."+name, "is no service")
		}
	}
	if slices.Contains(services, "gateway") && c.Listen.REST == "" {
		p.Add("listen.rest", "is required by the gateway")
	}
	_, err := c.egress()
	p.Check("egress", err)
	c.Services.check(p, services)
}

// policies are the operator's words as egress understands them.
func (c Config) policies() map[egress.Purpose]egress.Policy {
	policies := map[egress.Purpose]egress.Policy{}
	for name, policy := range c.Egress {
		policies[egress.Purpose(name)] = egress.Policy{Allowed: policy.Allowed, Denied: policy.Denied, CABundle: policy.CABundle, Proxy: policy.Proxy}
	}
	return policies
}

// egress builds the one dialer from the policies.
func (c Config) egress() (*egress.Egress, error) {
	return egress.New(egress.Config{Policies: c.policies()})
}

// database is one service's access, with its passwords read.
func (c Config) database(service string) (pg.Config, error) {
	out := pg.Config{URL: c.Database.URL, Schema: service, MaxConns: c.Database.MaxConns}
	for role, into := range map[string]*string{"api": &out.Passwords.API, "worker": &out.Passwords.Worker} {
		secret, err := config.SecretFile(filepath.Join(c.Database.Passwords, service+"_"+role)).Read()
		if err != nil {
			return pg.Config{}, fmt.Errorf("database password of %s_%s: %w", service, role, err)
		}
		*into = string(secret)
	}
	return out, nil
}

// serviceKeys reads every service's public key.
func (c Config) serviceKeys() (auth.ServiceKeys, error) {
	files := map[string][]string{}
	for _, name := range Names() {
		files[name] = []string{filepath.Join(c.Auth.ServiceKeys, name+".pub.pem")}
	}
	return auth.ReadServiceKeys(files)
}

// Open opens one service's database as the service itself does.
func (c Config) Open(ctx context.Context, service string) (*pg.DB, error) {
	access, err := c.database(service)
	if err != nil {
		return nil, err
	}
	return pg.Open(ctx, access)
}
