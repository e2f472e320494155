package serve

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/pratique-io/pratique/internal/auth"
	"github.com/pratique-io/pratique/internal/config"
	"github.com/pratique-io/pratique/internal/egress"
	"github.com/pratique-io/pratique/internal/pg"
	"github.com/pratique-io/pratique/internal/rpc"
	"github.com/pratique-io/pratique/internal/telemetry"
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
	problems := config.NewProblems()
	cfg, err := read(path, problems)
	if err != nil && cfg == nil {
		return Config{}, err
	}
	cfg.Services.Dispatch.Egress = cfg.policies() // steps get the part of it that is theirs
	cfg.check(problems, services)
	return *cfg, errors.Join(err, problems.Err())
}

// read reads the file and the variables, noting what cannot be understood. A configuration beside an error has everything but what the
// error names.
func read(path string, problems *config.Problems) (*Config, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read configuration: %w", err)
	}
	cfg := Default()
	if data, err = sift(data, &cfg, problems); err != nil {
		return nil, err
	}
	return &cfg, config.Load(data, &cfg, os.Environ())
}

// Print renders the configuration in force, without secrets: those of its own are file names and are hidden, and so is what somebody may
// have put into an address.
func Print(path string) ([]byte, error) {
	problems := config.NewProblems()
	cfg, err := read(path, problems)
	if err = errors.Join(err, problems.Err()); err != nil {
		return nil, err
	}
	cfg.Database.URL, cfg.Bus.URL = withoutSecrets(cfg.Database.URL), withoutSecrets(cfg.Bus.URL)
	policies := map[string]Policy{}
	for name, policy := range cfg.Egress {
		policy.Proxy = withoutSecrets(policy.Proxy)
		policies[name] = policy
	}
	cfg.Egress = policies
	return config.Print(cfg)
}

// withoutSecrets hides a password in an address, wherever it stands.
func withoutSecrets(address string) string {
	if address == "" {
		return ""
	}
	parsed, err := url.Parse(address)
	if err != nil {
		return "REDACTED"
	}
	if parsed.User != nil {
		parsed.User = url.User("REDACTED")
	}
	query := parsed.Query()
	for name := range query {
		if strings.Contains(strings.ToLower(name), "pass") {
			query.Set(name, "REDACTED")
			parsed.RawQuery = query.Encode()
		}
	}
	return parsed.String()
}

func (c Config) check(p *config.Problems, services []string) {
	for i, name := range services {
		if !slices.Contains(append(Names(), "gateway"), name) {
			p.Addf("services", "there is no service %q; there are %s and gateway", name, strings.Join(Names(), ", "))
		}
		if slices.Contains(services[:i], name) {
			p.Addf("services", "%s is named twice", name)
		}
	}
	_, err := telemetry.NewLog(io.Discard, c.LogLevel)
	p.Check("log_level", err)
	for _, setting := range []struct{ path, value, hint string }{
		{"database.url", c.Database.URL, "e.g. postgres://db.example.com:5432/pratique"},
		{"database.passwords", c.Database.Passwords, "a directory with files <service>_api and <service>_worker"},
		{"bus.url", c.Bus.URL, "e.g. nats://nats.example.com:4222"},
		{"bus.passwords", c.Bus.Passwords, "a directory with files nats_<service>"},
		{"auth.service_keys", c.Auth.ServiceKeys, "a directory with <service>.pem and every service's <service>.pub.pem"},
	} {
		if setting.value == "" {
			p.Addf(setting.path, "is required: %s", setting.hint)
		}
	}
	if len(c.Auth.Issuers) == 0 {
		p.Add("auth.issuers", "at least one is required: nobody could sign in")
	}
	p.Check("transport", c.Transport.Check())
	c.checkAddresses(p, services)
	_, err = c.egress()
	p.Check("egress", err)
	c.Services.check(p, services)
}

// checkAddresses tells what is wrong with where we listen and where the services are.
func (c Config) checkAddresses(p *config.Problems, services []string) {
	for _, name := range slices.Sorted(maps.Keys(c.Peers)) {
		if !slices.Contains(Names(), name) {
			p.Addf("peers."+name, "is no service; there are %s", strings.Join(Names(), ", "))
		}
	}
	for _, name := range Names() {
		if c.Peers[name] == "" {
			p.Add("peers."+name, "is required: host:port of the service's gRPC")
		} else if _, _, err := net.SplitHostPort(c.Peers[name]); err != nil {
			p.Add("peers."+name, "must be host:port")
		}
	}
	if slices.Contains(services, "gateway") && c.Listen.REST == "" {
		p.Add("listen.rest", "is required by the gateway")
	}
	for _, listen := range []struct{ path, address string }{{"listen.rest", c.Listen.REST}, {"listen.grpc", c.Listen.GRPC}, {"listen.ops", c.Listen.Ops}} {
		if listen.address == "" {
			continue
		}
		if _, _, err := net.SplitHostPort(listen.address); err != nil {
			p.Add(listen.path, "must be host:port, or :port for every interface")
		}
	}
}

// policies are the operator's words as egress understands them.
func (c Config) policies() map[egress.Purpose]egress.Policy {
	policies := map[egress.Purpose]egress.Policy{}
	for name, policy := range c.Egress {
		policies[egress.Purpose(name)] = egress.Policy{Allowed: policy.Allowed, Denied: policy.Denied, CABundle: policy.CABundle, Proxy: policy.Proxy}
	}
	// What tenants name never leads to a registry of ours, whatever an operator allowed.
	source := policies[egress.Source]
	source.Denied = append(slices.Clone(source.Denied), c.ownRegistries()...)
	policies[egress.Source] = source
	return policies
}

// ownRegistries are the registries that the services write to, host:port.
func (c Config) ownRegistries() []string {
	var own []string
	for _, host := range []string{
		c.Services.Dispatch.Quarantine.Host, c.Services.Evidence.Quarantine.Host, c.Services.Evidence.Store.Host, c.Services.Release.Trusted.Host,
	} {
		if _, _, err := net.SplitHostPort(host); host != "" && err != nil {
			host = net.JoinHostPort(host, "443")
		}
		if host != "" && !slices.Contains(own, host) {
			own = append(own, host)
		}
	}
	return own
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
