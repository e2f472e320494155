// Command pratique is the server: every service, the gateway, and what one machine needs around them.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"
)

func main() {
	// The first signal drains; a second one ends at once.
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	go func() { <-ctx.Done(); stop() }()
	err := rootCommand().ExecuteContext(ctx)
	switch {
	case err == nil:
	case ctx.Err() != nil && errors.Is(err, context.Canceled):
		fmt.Fprintln(os.Stderr, "pratique: interrupted")
		os.Exit(130)
	default:
		fmt.Fprintln(os.Stderr, "pratique:", err)
		os.Exit(1)
	}
}

func rootCommand() *cobra.Command {
	root := &cobra.Command{
		Use:   "pratique",
		Short: "Quarantine for third-party container images",
		Long: "Pratique keeps third-party container images in quarantine until people, and the evidence about exactly that digest, say they may come in.\n" +
			"On one machine: `pratique up`. The whole story, verified: `pratique demo`.",
		SilenceUsage: true, SilenceErrors: true, Version: version,
	}
	root.AddCommand(upCommand(), demoCommand(), tokenCommand(), serveCommand(), migrateCommand(), topologyCommand(), configCommand(), deadletterCommand(), versionCommand())
	return root
}
