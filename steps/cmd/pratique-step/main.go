// pratique-step is the program that a run executes step by step, as local processes or as Tekton steps.
//
//	pratique-step pull | sbom | vulnerabilities | report    --run ID --results DIR ...
//	pratique-step demo-database --out DIR
//	pratique-step version
//
// Exit codes: 0 done, 10 image unacceptable, 11 source rate limited, 12 connectivity, 13 credentials, 14 scanner, 1 other.
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime/debug"
	"syscall"

	"github.com/pratique-io/pratique/steps/demodb"
	"github.com/pratique-io/pratique/steps/pull"
	"github.com/pratique-io/pratique/steps/report"
	"github.com/pratique-io/pratique/steps/sbom"
	"github.com/pratique-io/pratique/steps/step"
	"github.com/pratique-io/pratique/steps/vulnerability"
)

// version is set by the linker for releases.
var version = ""

func main() { os.Exit(realMain(os.Args[1:], os.Stdout)) }

type command func(ctx context.Context, version string, args []string, log io.Writer) int

var commands = map[string]command{
	"pull": pull.Run, "sbom": sbom.Run, "vulnerabilities": vulnerability.Run, "report": report.Run, "demo-database": demoDatabase,
}

func realMain(args []string, out io.Writer) int {
	if len(args) == 1 && args[0] == "version" {
		fmt.Fprintln(out, built())
		return step.ExitOK
	}
	if len(args) == 0 || commands[args[0]] == nil {
		fmt.Fprintln(os.Stderr, "usage: pratique-step pull|sbom|vulnerabilities|report|demo-database|version [flags]")
		return step.ExitOther
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	// Scanners leave files in the temporary directory; a private one below it goes away as a whole.
	temp, err := os.MkdirTemp("", "pratique-step-")
	if err != nil {
		fmt.Fprintln(os.Stderr, "pratique-step:", err)
		return step.ExitOther
	}
	defer os.RemoveAll(temp)
	if err := os.Setenv("TMPDIR", temp); err != nil {
		fmt.Fprintln(os.Stderr, "pratique-step:", err)
		return step.ExitOther
	}
	return commands[args[0]](ctx, built(), args[1:], out)
}

func built() string {
	if version != "" {
		return version
	}
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" {
		return info.Main.Version
	}
	return "(devel)"
}

// demoDatabase lives here because the main program does not carry the scanners.
func demoDatabase(_ context.Context, _ string, args []string, out io.Writer) int {
	flags := flag.NewFlagSet("demo-database", flag.ContinueOnError)
	dir := flags.String("out", "", "directory to write the database and its mirror to")
	err := flags.Parse(args)
	if err == nil && *dir == "" {
		err = fmt.Errorf("--out is required")
	}
	var list []demodb.Advisory
	if err == nil {
		list, err = demodb.Advisories()
	}
	n := 0
	if err == nil {
		n, err = demodb.Build(*dir, list)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "pratique-step:", err)
		return step.ExitOther
	}
	fmt.Fprintf(out, "%s written to %s\n", demodb.Note(n), *dir)
	return step.ExitOK
}
