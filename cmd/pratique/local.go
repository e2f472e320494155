package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/pratique-io/pratique/cmd/pratique/demo"
	"github.com/pratique-io/pratique/cmd/pratique/serve"
	"github.com/pratique-io/pratique/cmd/pratique/up"
	"github.com/pratique-io/pratique/internal/telemetry"
)

// stopWithin is how long a stop may take in all.
const stopWithin = 9 * time.Second

func upCommand() *cobra.Command {
	var options up.Options
	var services, level string
	cmd := &cobra.Command{
		Use: "up", Short: "Run the whole product on this machine", Args: cobra.NoArgs,
		Example: "  pratique up --data ./data\n  curl -H \"Authorization: Bearer $(pratique token --as mel --data ./data)\" http://127.0.0.1:8080/api/v1/me",
		RunE: func(cmd *cobra.Command, _ []string) error {
			var err error
			if options.Log, err = telemetry.NewLog(cmd.ErrOrStderr(), level); err != nil {
				return err
			}
			if options.Services, err = servicesOf(services); err != nil {
				return err
			}
			stopTraces, err := telemetry.StartTraces(cmd.Context(), "pratique-up", version)
			if err != nil {
				return err
			}
			defer func() { _ = flush(cmd.Context(), stopTraces) }() // the spans of the last seconds; nobody waits for them
			return runUp(cmd.Context(), options, cmd.OutOrStdout())
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&options.Data, "data", "data", "directory for everything that is kept")
	flags.StringVar(&options.Listen, "listen", "127.0.0.1:8080", "address of the REST API")
	flags.StringVar(&options.GRPC, "grpc-listen", "", "address of the gRPC API (default: a free port, kept)")
	flags.StringVar(&services, "services", "all", "services this process runs itself: all, none, or a list; the others are started by `pratique serve`")
	flags.StringSliceVar(&options.Sources, "allow-source", nil, "further loopback or private registries (host:port) that tenants may name")
	flags.StringVar(&options.StepProgram, "step", "", "the scanner program (default: pratique-step beside this one)")
	flags.StringVar(&level, "log-level", "warn", "debug, info, warn or error")
	return cmd
}

// flush sends what is left of the traces. A collector that does not answer must not hold up the end.
func flush(ctx context.Context, stop func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
	defer cancel()
	return stop(ctx)
}

func servicesOf(text string) ([]string, error) {
	switch text {
	case "all":
		return append(serve.Names(), "gateway"), nil
	case "none":
		return nil, nil
	}
	names := strings.Split(text, ",")
	for _, name := range names {
		if !slices.Contains(append(serve.Names(), "gateway"), name) {
			return nil, fmt.Errorf("there is no service %q; there are %s and gateway", name, strings.Join(serve.Names(), ", "))
		}
	}
	return names, nil
}

func runUp(ctx context.Context, options up.Options, out io.Writer) error {
	began := time.Now()
	running, err := up.Start(ctx, options)
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "REST      %s/api/v1 (OpenAPI %s/openapi.json, readable at %s/docs/)\n", running.Connection.REST, running.Connection.REST, running.Connection.REST)
	fmt.Fprintf(out, "gRPC      %s\n", running.Connection.GRPC)
	fmt.Fprintf(out, "upstream  %s (plain HTTP: crane --insecure, skopeo --dest-tls-verify=false)\n", running.Connection.Registries["upstream"].Address)
	fmt.Fprintf(out, "details   %s/connection.json; a token: pratique token --as mel --data %s\n", options.Data, options.Data)
	fmt.Fprintf(out, "started in %.1f s; end with Ctrl-C\n", time.Since(began).Seconds())
	fmt.Fprintln(out, "ready")
	var failure error
	select {
	case <-ctx.Done():
	case failure = <-running.Failed():
	}
	stopping, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopWithin)
	defer cancel()
	return errors.Join(failure, running.Stop(stopping))
}

func tokenCommand() *cobra.Command {
	var persona, data string
	cmd := &cobra.Command{
		Use: "token", Short: "Print a bearer token of one of the people of `pratique up`", Args: cobra.NoArgs,
		Long: "People: ada (tenant_admin of payments), mel (tenant_member of payments), omar (tenant_admin of orders), sam and rita (security_reviewer), root (system_admin).",
		RunE: func(cmd *cobra.Command, _ []string) error {
			token, err := up.Token(data, persona)
			if err != nil {
				return err
			}
			fmt.Fprintln(cmd.OutOrStdout(), token)
			return nil
		},
	}
	cmd.Flags().StringVar(&persona, "as", "", "who")
	cmd.Flags().StringVar(&data, "data", "data", "data directory of `pratique up`")
	return cmd
}

func demoCommand() *cobra.Command {
	var options demo.Options
	var level string
	cmd := &cobra.Command{
		Use: "demo", Short: "Tell the whole story on real images and verify every step", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			log, err := telemetry.NewLog(os.Stderr, level)
			if err != nil {
				return err
			}
			return runDemo(cmd.Context(), options, log, cmd.OutOrStdout())
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&options.Image, "image", "", "an image of your own (registry/repository:tag), taken through last")
	flags.StringVar(&options.Summary, "summary", "", "write what became of each image to this JSON file")
	flags.StringVar(&options.StepProgram, "step", "", "the scanner program (default: pratique-step beside this one)")
	flags.StringVar(&level, "log-level", "error", "debug, info, warn or error")
	return cmd
}

// runDemo starts a product in a private directory, tells the story, and leaves nothing behind.
func runDemo(ctx context.Context, options demo.Options, log *slog.Logger, out io.Writer) (err error) {
	sources, err := options.Sources()
	if err != nil {
		return err
	}
	if err := demo.WriteSummary(options.Summary, nil, false); err != nil { // told now, not after the story; and nobody finds an old one
		return fmt.Errorf("--summary: %w", err)
	}
	dir, err := os.MkdirTemp("", "pratique-demo-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	fmt.Fprintf(out, "starting everything in %s: Postgres, NATS, four registries, six services, the gateway\n", dir)
	address, err := freeAddress()
	if err != nil {
		return err
	}
	began := time.Now()
	running, err := up.Start(ctx, up.Options{
		Data: dir, Listen: address, Services: append(serve.Names(), "gateway"), Sources: sources, StepProgram: options.StepProgram, Log: log,
	})
	if err != nil {
		return err
	}
	defer func() {
		stopping, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopWithin)
		defer cancel()
		err = errors.Join(err, running.Stop(stopping))
	}()
	fmt.Fprintf(out, "ready in %.1f s at %s\n", time.Since(began).Seconds(), running.Connection.REST)
	stage := demo.StageOf(running.Connection, func(persona string) (string, error) { return up.Token(dir, persona) }, func(format string, args ...any) {
		fmt.Fprintf(out, format+"\n", args...)
	})
	return demo.Run(ctx, stage, options, out)
}
