// Package up runs the whole product on one machine: a Postgres of its own, an embedded broker, four embedded registries, a development issuer,
// and the same services and gateway that `pratique serve` runs, from the same kind of configuration, which it writes to DIR/config.yaml. It
// takes no shortcut: services keep their roles and schemas and talk through JetStream and gRPC.
package up

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/google/uuid"
	"gopkg.in/yaml.v3"

	"github.com/pratique-io/pratique/cmd/pratique/serve"
	"github.com/pratique-io/pratique/internal/auth/devissuer"
	"github.com/pratique-io/pratique/internal/broker"
	"github.com/pratique-io/pratique/internal/postgres"
)

// Options are what the command line says.
type Options struct {
	Data   string // data directory, kept across restarts
	Listen string // REST, host:port
	GRPC   string // gRPC, host:port; empty: a stable free port
	// Services that this process runs itself, and "gateway". Empty means none: only what they stand on; each is then started by
	// `pratique serve NAME --config DIR/config.yaml`.
	Services []string
	// Sources are further loopback or private registries (host:port) that tenants may name.
	Sources []string
	// StepProgram is pratique-step; empty looks beside this executable.
	StepProgram string
	Log         *slog.Logger
}

// Running is a product that is up.
type Running struct {
	Connection Connection
	ConfigPath string

	options   Options
	log       *slog.Logger
	dir       *dataDir
	ports     map[string]int
	postgres  *postgres.Server
	broker    *broker.Server
	process   *serve.Process
	stops     []func(context.Context) error // in the order of starting
	keepAlive context.CancelFunc

	brokerConfig broker.Config
}

// Start brings everything up and returns when it is ready. On an error nothing is left running.
func Start(ctx context.Context, options Options) (*Running, error) {
	dir, err := openDataDir(options.Data)
	if err != nil {
		return nil, err
	}
	r := &Running{options: options, log: options.Log, dir: dir}
	if err := r.start(ctx); err != nil {
		stopping, cancel := context.WithTimeout(context.WithoutCancel(ctx), 8*time.Second)
		defer cancel()
		return nil, errors.Join(err, r.Stop(stopping))
	}
	return r, nil
}

func (r *Running) start(ctx context.Context) error {
	var err error
	names := append([]string{"nats", "issuer", "grpc", "ops"}, registryNames...)
	for _, service := range serve.Names() { // used by processes of their own
		names = append(names, "grpc_"+service, "ops_"+service)
	}
	if r.ports, err = r.dir.ports(names...); err != nil {
		return err
	}
	if err := r.checkAddresses(); err != nil {
		return err
	}
	step, err := r.installStep()
	if err != nil {
		return err
	}
	for _, part := range []func() error{
		r.startIssuer, r.startRegistries,
		func() error { return r.buildDatabase(ctx, step) },
		func() error { return r.startPostgres(ctx) },
		func() error { return r.writeConfig(step) },
		func() error { return r.startBroker(ctx) },
	} {
		if err := part(); err != nil {
			return err
		}
	}
	if len(r.options.Services) > 0 {
		if err := r.startServices(ctx); err != nil {
			return err
		}
	}
	return r.writeConnection()
}

// stepSource is the scanner program as it was built or named.
func (r *Running) stepSource() string {
	if r.options.StepProgram != "" {
		return r.options.StepProgram
	}
	self, err := os.Executable()
	if err != nil {
		self = os.Args[0]
	}
	return filepath.Join(filepath.Dir(self), "pratique-step")
}

// installStep copies pratique-step into the data directory, where the unprivileged users that steps run as can execute it: the program may
// stand below a home directory that is closed to them.
func (r *Running) installStep() (string, error) {
	content, err := os.ReadFile(r.stepSource())
	if err != nil {
		return "", fmt.Errorf("the scanner program pratique-step is missing (make build puts it beside pratique; --step names another): %w", err)
	}
	target := r.dir.join("bin", "pratique-step")
	return target, writeFile(target, content, 0o755)
}

// buildDatabase writes the demonstration vulnerability database anew, so that its age is true.
func (r *Running) buildDatabase(ctx context.Context, step string) error {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	out := r.dir.join("vulnerability-database")
	if err := os.RemoveAll(out); err != nil {
		return err
	}
	command := exec.CommandContext(ctx, step, "demo-database", "--out", out)
	command.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + r.dir.path, "TMPDIR=" + os.TempDir()}
	if out, err := command.CombinedOutput(); err != nil {
		return fmt.Errorf("building the demonstration database with pratique-step: %w: %s", errors.Join(err, context.Cause(ctx)), strings.TrimSpace(string(out)))
	}
	if entries, err := os.ReadDir(out); err != nil || len(entries) == 0 {
		return fmt.Errorf("%s made no demonstration database: it is not pratique-step (make build puts that beside pratique; --step names another)", r.stepSource())
	}
	return nil
}

func (r *Running) startIssuer() error {
	key, err := r.dir.key("issuer")
	if err != nil {
		return err
	}
	handler, err := devissuer.Handler(r.issuer(), &key.PublicKey)
	if err != nil {
		return err
	}
	server, err := serveHTTP("the development issuer", r.ports["issuer"], handler, r.log, func() error { return nil })
	if err != nil {
		return err
	}
	r.stops = append(r.stops, server.stop)
	return nil
}

func (r *Running) issuer() string { return fmt.Sprintf("http://%s:%d", loopback, r.ports["issuer"]) }

func (r *Running) startServices(ctx context.Context) error {
	cfg, err := serve.Load(r.ConfigPath, r.options.Services)
	if err != nil {
		return err
	}
	// Not in the file: a process of its own that reads it must not take the addresses of this one.
	cfg.Listen.GRPC, cfg.Listen.Ops = r.grpcAddress(), r.address("ops")
	if r.process, err = serve.Start(ctx, cfg, r.options.Services, r.log); err != nil {
		return err
	}
	ready, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	return r.process.Ready(ready)
}

// Failed yields when a part ended although nobody stopped it: the product is then no longer whole.
func (r *Running) Failed() <-chan error {
	failed := make(chan error, 1)
	go func() {
		var ofProcess <-chan error
		if r.process != nil {
			ofProcess = r.process.Failed()
		}
		select {
		case err := <-ofProcess:
			failed <- err
		case <-r.postgres.Done():
			failed <- fmt.Errorf("postgres ended: %w", r.postgres.Err())
		}
	}()
	return failed
}

// Stop ends everything in the reverse order of starting.
func (r *Running) Stop(ctx context.Context) error {
	if r.process != nil {
		r.process.Stop(ctx)
	}
	if r.keepAlive != nil {
		r.keepAlive()
	}
	var problems []error
	for i := len(r.stops) - 1; i >= 0; i-- {
		problems = append(problems, r.stops[i](ctx))
	}
	return errors.Join(append(problems, r.dir.close())...)
}

// writeYAML writes a generated configuration.
func writeYAML(path string, content any) error {
	raw, err := yaml.Marshal(content)
	if err != nil {
		return err
	}
	return writeFile(path, append([]byte("# Written by `pratique up` at every start; changes are lost.\n"), raw...), 0o600)
}

// tenantID gives a tenant's id, made once.
func (r *Running) tenantID(slug string) (string, error) {
	raw, err := r.dir.once(filepath.Join("tenants", slug), func() ([]byte, error) {
		id, err := uuid.NewV7()
		return []byte(id.String()), err
	})
	return string(raw), err
}

// writeConnection tells clients where everything is.
func (r *Running) writeConnection() error {
	raw, err := json.MarshalIndent(r.Connection, "", "  ")
	if err != nil {
		return err
	}
	return writeFile(r.dir.join(connectionFile), append(raw, '\n'), 0o600)
}
