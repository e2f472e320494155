// Command pratiquectl is Pratique for people and scripts at a terminal. It speaks REST like any other client and knows nothing of the
// services: it imports none of their packages, so that it stays small and proves that the public contract is enough.
//
// Exit codes: 0 done, 1 the call failed, 2 wrong usage, 3 the verdict says no, 4 waited in vain.
package main

import (
	"context"
	"errors"
	"io"
	"os"
	"os/signal"
	"syscall"
)

const (
	exitError   = 1
	exitUsage   = 2
	exitDenied  = 3
	exitWaiting = 4
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := run(ctx, os.Args[1:], os.Getenv, os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

// run is the whole program: it gives the exit code.
func run(ctx context.Context, args []string, env func(string) string, out, diag io.Writer) int {
	a := &app{env: env, out: out, diag: diag}
	root := a.root()
	root.SetArgs(args)
	root.SetOut(out)
	root.SetErr(diag)
	err := root.ExecuteContext(ctx)
	var usage *usageError
	switch {
	case err == nil:
		return 0
	case errors.Is(err, errDenied):
		return exitDenied
	case !a.running || errors.As(err, &usage):
		a.complain(err)
		a.note("see pratiquectl --help")
		return exitUsage
	case errors.Is(err, errWaited):
		a.complain(err)
		return exitWaiting
	}
	a.complain(err)
	return exitError
}
