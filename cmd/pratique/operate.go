package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/google/uuid"
	"github.com/spf13/cobra"

	"github.com/pratique-io/pratique/cmd/pratique/serve"
	"github.com/pratique-io/pratique/internal/broker"
	"github.com/pratique-io/pratique/internal/bus"
	"github.com/pratique-io/pratique/internal/config"
	"github.com/pratique-io/pratique/internal/pg"
	"github.com/pratique-io/pratique/internal/telemetry"
)

// version is set by the build.
var version = "dev"

func versionCommand() *cobra.Command {
	return &cobra.Command{Use: "version", Short: "Print the version", Args: cobra.NoArgs, Run: func(cmd *cobra.Command, _ []string) {
		fmt.Fprintln(cmd.OutOrStdout(), version)
	}}
}

func freeAddress() (string, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	return listener.Addr().String(), listener.Close()
}

func configFlag(cmd *cobra.Command) *string {
	path := cmd.Flags().String("config", "", "configuration file (YAML); PRATIQUE_... variables override it")
	_ = cmd.MarkFlagRequired("config") // the flag is defined above
	return path
}

func serveCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use: "serve SERVICE...", Short: "Run one or more services, or the gateway, from a configuration",
		Long: "Services: " + strings.Join(serve.Names(), ", ") + ", and gateway.", Args: cobra.MinimumNArgs(1),
	}
	path := configFlag(cmd)
	listenGRPC := cmd.Flags().String("grpc-listen", "", "gRPC address instead of the configured one")
	listenOps := cmd.Flags().String("ops-listen", "", "address of /livez, /readyz and /metrics instead of the configured one")
	cmd.RunE = func(cmd *cobra.Command, services []string) error {
		cfg, err := serve.Load(*path, services)
		if err != nil {
			return err
		}
		if *listenGRPC != "" {
			cfg.Listen.GRPC = *listenGRPC
		}
		if *listenOps != "" {
			cfg.Listen.Ops = *listenOps
		}
		log, err := telemetry.NewLog(cmd.ErrOrStderr(), cfg.LogLevel)
		if err != nil {
			return err
		}
		stopTraces, err := telemetry.StartTraces(cmd.Context(), "pratique-"+strings.Join(services, "-"), version)
		if err != nil {
			return err
		}
		defer func() { _ = flush(cmd.Context(), stopTraces) }() // the spans of the last seconds; nobody waits for them
		process, err := serve.Start(cmd.Context(), cfg, services, log)
		if err != nil {
			return err
		}
		var failure error
		if failure = process.Ready(cmd.Context()); failure == nil {
			fmt.Fprintln(cmd.OutOrStdout(), "ready")
			select {
			case <-cmd.Context().Done():
			case failure = <-process.Failed():
			}
		}
		stopping, cancel := context.WithTimeout(context.WithoutCancel(cmd.Context()), stopWithin)
		defer cancel()
		process.Stop(stopping)
		if errors.Is(failure, context.Canceled) {
			return nil
		}
		return failure
	}
	return cmd
}

func migrateCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "migrate [SERVICE...]", Short: "Bring the services' schemas up to date (all, or the named ones)"}
	admin := cmd.Flags().String("admin-url-file", "", "file with the database URL of a role that may create roles and schemas")
	passwords := cmd.Flags().String("passwords", "", "directory with files <service>_owner, <service>_api and <service>_worker")
	_ = cmd.MarkFlagRequired("admin-url-file") // the flags are defined above
	_ = cmd.MarkFlagRequired("passwords")
	cmd.RunE = func(cmd *cobra.Command, services []string) error {
		if len(services) == 0 {
			services = serve.Names()
		}
		url, err := config.SecretFile(*admin).Read()
		if err != nil {
			return fmt.Errorf("--admin-url-file: %w", err)
		}
		for _, service := range services {
			if !slices.Contains(serve.Names(), service) {
				return fmt.Errorf("there is no service %q", service)
			}
			var pw pg.Passwords
			for role, into := range map[string]*string{"owner": &pw.Owner, "api": &pw.API, "worker": &pw.Worker} {
				secret, err := config.SecretFile(filepath.Join(*passwords, service+"_"+role)).Read()
				if err != nil {
					return fmt.Errorf("password of %s_%s: %w", service, role, err)
				}
				*into = string(secret)
			}
			if err := pg.Migrate(cmd.Context(), string(url), service, pw, serve.Migrations(service)...); err != nil {
				return err
			}
			fmt.Fprintln(cmd.OutOrStdout(), "migrated", service)
		}
		return nil
	}
	return cmd
}

func topologyCommand() *cobra.Command {
	cmd := group("topology", "The broker's streams and consumers")
	apply := &cobra.Command{Use: "apply", Short: "Make the broker have them; may be run again at any time", Args: cobra.NoArgs}
	path := configFlag(apply)
	replicas := apply.Flags().Int("replicas", 1, "copies of each stream: 1 on one machine, 3 on a cluster")
	apply.RunE = func(cmd *cobra.Command, _ []string) error {
		cfg, err := serve.Load(*path, nil)
		if err != nil {
			return err
		}
		log, err := telemetry.NewLog(cmd.ErrOrStderr(), cfg.LogLevel)
		if err != nil {
			return err
		}
		topology, err := bus.NewTopology(*replicas, serve.Subscriptions())
		if err != nil {
			return err
		}
		password, err := config.SecretFile(filepath.Join(cfg.Bus.Passwords, "nats_topology")).Read()
		if err != nil {
			return fmt.Errorf("password of the topology user: %w", err)
		}
		conn, err := bus.Connect(cmd.Context(), bus.Config{
			URL: cfg.Bus.URL, User: "topology", Password: string(password), InboxPrefix: broker.InboxPrefix("topology"), Name: "pratique-topology", Log: log,
		})
		if err != nil {
			return err
		}
		defer conn.Close()
		if err := topology.Apply(cmd.Context(), conn); err != nil {
			return err
		}
		fmt.Fprintln(cmd.OutOrStdout(), "applied")
		return nil
	}
	cmd.AddCommand(apply)
	return cmd
}

func configCommand() *cobra.Command {
	cmd := group("config", "Look at a configuration")
	check := &cobra.Command{Use: "check [SERVICE...]", Short: "Tell everything that is wrong with it, at once"}
	path := configFlag(check)
	check.RunE = func(cmd *cobra.Command, services []string) error {
		if len(services) == 0 {
			services = append(serve.Names(), "gateway")
		}
		if _, err := serve.Load(*path, services); err != nil {
			return err
		}
		fmt.Fprintln(cmd.OutOrStdout(), "ok")
		return nil
	}
	show := &cobra.Command{Use: "print", Short: "Print it as it is in force, secrets hidden", Args: cobra.NoArgs}
	shown := configFlag(show)
	show.RunE = func(cmd *cobra.Command, _ []string) error {
		raw, err := serve.Print(*shown)
		if err != nil {
			return err
		}
		_, err = cmd.OutOrStdout().Write(raw)
		return err
	}
	cmd.AddCommand(check, show)
	return cmd
}

func deadletterCommand() *cobra.Command {
	cmd := group("deadletter", "Events that could not be handled")
	list := &cobra.Command{Use: "list SERVICE", Short: "List them, oldest first", Args: cobra.ExactArgs(1)}
	listPath := configFlag(list)
	list.RunE = func(cmd *cobra.Command, args []string) error {
		return withDatabase(cmd.Context(), *listPath, args[0], func(db *pg.DB) error {
			letters, err := bus.DeadLetters(cmd.Context(), db, "", 1000)
			if err != nil {
				return err
			}
			out := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 0, 2, ' ', 0)
			fmt.Fprintln(out, "ID\tCONSUMER\tSTATE\tTYPE\tSINCE\tATTEMPTS\tERROR")
			for _, l := range letters {
				fmt.Fprintf(out, "%s\t%s\t%s\t%s\t%s\t%d\t%q\n", l.ID, l.Consumer, l.State, l.Type, l.CreatedAt.UTC().Format(time.RFC3339), l.Attempt, l.Error)
			}
			return out.Flush()
		})
	}
	requeue := &cobra.Command{Use: "requeue SERVICE CONSUMER [ID...]", Short: "Handle them again (all of a consumer, or the named ones)", Args: cobra.MinimumNArgs(2)}
	requeuePath := configFlag(requeue)
	requeue.RunE = func(cmd *cobra.Command, args []string) error {
		var ids []uuid.UUID
		for _, text := range args[2:] {
			id, err := uuid.Parse(text)
			if err != nil {
				return fmt.Errorf("%q is no id of a dead letter", text)
			}
			ids = append(ids, id)
		}
		return withDatabase(cmd.Context(), *requeuePath, args[0], func(db *pg.DB) error {
			if known := consumers(args[0]); !slices.Contains(known, args[1]) {
				return fmt.Errorf("%s has no consumer %q; there are %s", args[0], args[1], strings.Join(known, ", "))
			}
			n, err := bus.Requeue(cmd.Context(), db, args[1], ids...)
			if err != nil {
				return err
			}
			fmt.Fprintf(cmd.OutOrStdout(), "%d will be handled again\n", n)
			if n < int64(len(ids)) {
				return fmt.Errorf("%d of the named letters are not dead letters of %s, or cannot be requeued", int64(len(ids))-n, args[1])
			}
			return nil
		})
	}
	cmd.AddCommand(list, requeue)
	return cmd
}

// group is a command that only has others below it. A name that is none of them is an error, also for scripts.
func group(name, short string) *cobra.Command {
	return &cobra.Command{Use: name, Short: short, RunE: func(cmd *cobra.Command, args []string) error {
		if len(args) > 0 {
			return fmt.Errorf("there is no `pratique %s %s`; see `pratique %s --help`", name, args[0], name)
		}
		return cmd.Help()
	}}
}

// consumers are the durable consumers of a service.
func consumers(service string) []string {
	var names []string
	for _, subscription := range serve.Subscriptions()[service] {
		for _, consumer := range bus.Consumers(service, subscription) {
			names = append(names, consumer.Name)
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}

func withDatabase(ctx context.Context, path, service string, use func(*pg.DB) error) error {
	if !slices.Contains(serve.Names(), service) {
		return fmt.Errorf("there is no service %q; there are %s", service, strings.Join(serve.Names(), ", "))
	}
	cfg, err := serve.Load(path, nil)
	if err != nil {
		return err
	}
	db, err := cfg.Open(ctx, service)
	if err != nil {
		return err
	}
	defer db.Close()
	return use(db)
}
