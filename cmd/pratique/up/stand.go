package up

import (
	"context"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/pratique-io/pratique/cmd/pratique/serve"
	"github.com/pratique-io/pratique/internal/auth"
	"github.com/pratique-io/pratique/internal/broker"
	"github.com/pratique-io/pratique/internal/bus"
	"github.com/pratique-io/pratique/internal/pg"
	"github.com/pratique-io/pratique/internal/postgres"
)

// Users of the broker beside the services.
const (
	userTopology   = "topology"
	userSubscriber = "subscriber"
)

// startPostgres starts the private server and brings every service's schema up to date.
func (r *Running) startPostgres(ctx context.Context) error {
	var err error
	if r.postgres, err = postgres.Start(ctx, postgres.Config{Dir: r.dir.join("postgres"), Log: r.log}); err != nil {
		return fmt.Errorf("starting Postgres: %w", err)
	}
	r.stops = append(r.stops, r.postgres.Stop)
	for _, service := range serve.Names() {
		var passwords pg.Passwords
		for role, into := range map[string]*string{"owner": &passwords.Owner, "api": &passwords.API, "worker": &passwords.Worker} {
			if *into, err = r.dir.secret(service + "_" + role); err != nil {
				return err
			}
		}
		if err := pg.Migrate(ctx, r.postgres.URL(), service, passwords, serve.Migrations(service)...); err != nil {
			return fmt.Errorf("schema of %s: %w", service, err)
		}
	}
	return nil
}

// startBroker starts NATS with a user for each service, applies the topology, and keeps it applied: a broker that lost its store is set up
// again and refilled from the outboxes.
func (r *Running) startBroker(ctx context.Context) error {
	subscriptions := serve.Subscriptions()
	users, err := r.brokerUsers(subscriptions)
	if err != nil {
		return err
	}
	r.brokerConfig = broker.Config{Dir: r.dir.join("nats"), Port: r.ports["nats"], Users: users}
	if r.broker, err = broker.Start(r.brokerConfig); err != nil {
		return fmt.Errorf("starting the broker: %w", err)
	}
	r.stops = append(r.stops, func(ctx context.Context) error { return r.broker.Shutdown(ctx) })
	topology, err := bus.NewTopology(1, subscriptions)
	if err != nil {
		return err
	}
	password, err := r.dir.secret("nats_" + userTopology)
	if err != nil {
		return err
	}
	conn, err := bus.Connect(ctx, bus.Config{
		URL: r.broker.URL(), User: userTopology, Password: password, InboxPrefix: broker.InboxPrefix(userTopology), Name: "pratique-topology", Log: r.log,
	})
	if err != nil {
		return err
	}
	r.stops = append(r.stops, func(context.Context) error { conn.Close(); return nil })
	if err := topology.Apply(ctx, conn); err != nil {
		return err
	}
	keeping, cancel := context.WithCancel(context.WithoutCancel(ctx))
	r.keepAlive = cancel
	go topology.Keep(keeping, conn, time.Second, r.log)
	return nil
}

// RestartBroker stops the broker abruptly and starts it again on the same port, with an empty store when wipe is set. Fault tests use it;
// services must outlive it.
func (r *Running) RestartBroker(ctx context.Context, wipe bool) error {
	if err := r.broker.Shutdown(ctx); err != nil {
		return err
	}
	if wipe {
		if err := os.RemoveAll(r.dir.join("nats")); err != nil {
			return err
		}
	}
	var err error
	r.broker, err = broker.Start(r.brokerConfig)
	return err
}

func (r *Running) brokerUsers(subscriptions map[string][]bus.Subscription) ([]broker.User, error) {
	var users []broker.User
	for _, service := range serve.Names() {
		password, err := r.dir.secret("nats_" + service)
		if err != nil {
			return nil, err
		}
		var binds []broker.Bind
		for _, subscription := range subscriptions[service] {
			for _, consumer := range bus.Consumers(service, subscription) {
				binds = append(binds, broker.Bind{Stream: consumer.Stream, Consumer: consumer.Name})
			}
		}
		users = append(users, broker.Service(service, password, binds...))
	}
	topology, err := r.dir.secret("nats_" + userTopology)
	if err != nil {
		return nil, err
	}
	subscriber, err := r.dir.secret("nats_" + userSubscriber)
	if err != nil {
		return nil, err
	}
	return append(users, broker.Admin(userTopology, topology), broker.Subscriber(userSubscriber, subscriber)), nil
}

// writeConfig writes the configuration that all services run from, and notes what clients need.
func (r *Running) writeConfig(step string) error {
	peers := map[string]string{}
	grpc := reached(r.grpcAddress())
	for _, service := range serve.Names() {
		peers[service] = grpc
		if !slices.Contains(r.options.Services, service) { // it runs in a process of its own
			peers[service] = fmt.Sprintf("%s:%d", loopback, r.ports["grpc_"+service])
		}
		if _, err := r.dir.key(service); err != nil {
			return err
		}
		if _, err := r.dir.secret("nats_" + service); err != nil {
			return err
		}
	}
	if err := r.describe(grpc, peers); err != nil {
		return err
	}
	services, err := r.serviceSettings(step)
	if err != nil {
		return err
	}
	cfg := map[string]any{
		"log_level": "info",
		"listen":    map[string]any{"rest": r.options.Listen},
		"database":  map[string]any{"url": withoutUser(r.postgres.URL()), "passwords": r.dir.join("secrets")},
		"bus":       map[string]any{"url": r.Connection.NATS.URL, "passwords": r.dir.join("secrets")},
		"auth": map[string]any{
			"issuers":      []any{map[string]any{"url": r.issuer(), "audiences": []string{"pratique"}}},
			"service_keys": r.dir.join("keys"), "public_key": r.dir.join("keys", "signing.pub.pem"),
		},
		"transport": map[string]any{"plaintext": true},
		"peers":     peers,
		"egress":    r.egressSettings(),
	}
	for name, settings := range services {
		cfg[name] = settings
	}
	r.ConfigPath = r.dir.join("config.yaml")
	return writeYAML(r.ConfigPath, cfg)
}

// egressSettings allow each purpose exactly the loopback address it needs; a tenant who names one of our own registries as a source is refused.
func (r *Running) egressSettings() map[string]any {
	only := func(addresses ...string) map[string]any { return map[string]any{"allowed": addresses} }
	source := only(append([]string{r.registryAddress("upstream")}, r.options.Sources...)...)
	source["denied"] = []string{r.registryAddress("quarantine"), r.registryAddress("evidence"), r.registryAddress("trusted")}
	return map[string]any{
		"source": source, "quarantine": only(r.registryAddress("quarantine")), "evidence": only(r.registryAddress("evidence")),
		"trusted": only(r.registryAddress("trusted")), "oidc": only(fmt.Sprintf("%s:%d", loopback, r.ports["issuer"])),
	}
}

// describe fills in the connection that clients read.
func (r *Running) describe(grpc string, peers map[string]string) error {
	signing, err := r.dir.key("signing")
	if err != nil {
		return err
	}
	public, err := auth.PublicPEM(&signing.PublicKey)
	if err != nil {
		return err
	}
	secrets := map[string]string{}
	for _, name := range []string{"nats_" + userSubscriber, secretPrefix + "upstream_" + userUpstream, secretPrefix + "trusted_" + userReader} {
		if secrets[name], err = r.dir.secret(name); err != nil {
			return err
		}
	}
	r.Connection = Connection{
		REST: "http://" + reached(r.options.Listen), GRPC: grpc, Ops: fmt.Sprintf("http://%s:%d", loopback, r.ports["ops"]), Issuer: r.issuer(),
		NATS:      NATS{URL: fmt.Sprintf("nats://%s:%d", loopback, r.ports["nats"]), User: userSubscriber, Password: secrets["nats_"+userSubscriber]},
		PublicKey: string(public), Services: peers, Tenants: map[string]string{},
		Registries: map[string]Registry{
			"upstream":   {Address: r.registryAddress("upstream"), Username: userUpstream, Password: secrets[secretPrefix+"upstream_"+userUpstream]},
			"quarantine": {Address: r.registryAddress("quarantine")},
			"trusted":    {Address: r.registryAddress("trusted"), Username: userReader, Password: secrets[secretPrefix+"trusted_"+userReader]},
		},
	}
	for _, person := range Personas() {
		if person.Tenant == "" || r.Connection.Tenants[person.Tenant] != "" {
			continue
		}
		if r.Connection.Tenants[person.Tenant], err = r.tenantID(person.Tenant); err != nil {
			return err
		}
	}
	return nil
}

// runsDir is where runs work; their users must be able to pass through every folder above.
func (r *Running) runsDir() (string, error) {
	path := r.dir.join("runs")
	if err := os.MkdirAll(path, 0o711); err != nil {
		return "", err
	}
	return filepath.Clean(path), nil
}

// withoutUser takes user and password off a database URL: services log in with roles of their own.
func withoutUser(raw string) string {
	parsed, err := url.Parse(raw)
	if err != nil { // the launcher made it
		return raw
	}
	parsed.User = nil
	return parsed.String()
}

// AdminURL is the database's address with the superuser's name and password, for invariant checks from outside.
func (r *Running) AdminURL() string { return r.postgres.URL() }
