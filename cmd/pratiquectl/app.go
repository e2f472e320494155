package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"
)

// app is one invocation: what was said on the command line, and where answers go.
type app struct {
	env       func(string) string
	out, diag io.Writer

	server, tokenFile, tenant, format string
	plaintext                         bool
	// running says that the command line was understood; failures before that are wrong usage.
	running bool
}

// usageError is a mistake in the command line that only the command itself can see.
type usageError struct{ text string }

func (e *usageError) Error() string { return e.text }

func usage(format string, args ...any) error { return &usageError{fmt.Sprintf(format, args...)} }

var (
	errDenied = errors.New("not allowed")
	errWaited = errors.New("waited in vain")
)

var formats = []string{"table", "json", "yaml", "name"}

func (a *app) root() *cobra.Command {
	root := a.group("pratiquectl", "Bring third-party container images through quarantine",
		a.me(), a.requests(), a.scans(), a.epr(), a.cases(), a.artifacts(), a.verdict(), a.notifications(), a.capabilities())
	root.SilenceUsage, root.SilenceErrors = true, true
	flags := root.PersistentFlags()
	flags.StringVar(&a.server, "server", "", "base URL of Pratique (default $PRATIQUE_SERVER, else http://127.0.0.1:8080)")
	flags.StringVar(&a.tokenFile, "token-file", "", "file that holds the bearer token (default $PRATIQUE_TOKEN holds the token itself)")
	flags.StringVar(&a.tenant, "tenant", "", "tenant to act for, UUID or slug; needed only by whoever belongs to several (default $PRATIQUE_TENANT)")
	flags.StringVarP(&a.format, "output", "o", "table", "table, json, yaml or name")
	flags.BoolVar(&a.plaintext, "allow-plaintext", false, "send the token over http to a host that is not this machine")
	root.PersistentPreRunE = func(*cobra.Command, []string) error {
		if !slices.Contains(formats, a.format) {
			return usage("--output must be one of %s", strings.Join(formats, ", "))
		}
		return nil
	}
	return root
}

// group is a command that only holds others.
func (a *app) group(use, short string, commands ...*cobra.Command) *cobra.Command {
	group := &cobra.Command{Use: use, Short: short, Args: func(c *cobra.Command, args []string) error {
		if len(args) > 0 {
			return usage("%s has no command %q", c.CommandPath(), args[0])
		}
		return nil
	}, RunE: func(c *cobra.Command, _ []string) error {
		return usage("%s needs a command", c.CommandPath())
	}}
	group.AddCommand(commands...)
	return group
}

// command is a command that does something. Words that are required stand in use in capitals.
func (a *app) command(use, short string, args cobra.PositionalArgs, do func(ctx context.Context, c *client, args []string) error) *cobra.Command {
	return &cobra.Command{Use: use, Short: short, Args: args, DisableFlagsInUseLine: true, RunE: func(cmd *cobra.Command, args []string) error {
		a.running = true
		c, err := a.client()
		if err != nil {
			return err
		}
		return do(cmd.Context(), c, args)
	}}
}

// client reads server and token.
func (a *app) client() (*client, error) {
	server := first(a.server, a.env("PRATIQUE_SERVER"), "http://127.0.0.1:8080")
	base, err := url.Parse(server)
	if err != nil || base.Host == "" || (base.Scheme != "http" && base.Scheme != "https") || base.User != nil {
		return nil, usage("--server must be an http or https URL without user")
	}
	token := a.env("PRATIQUE_TOKEN")
	if a.tokenFile != "" {
		raw, err := os.ReadFile(a.tokenFile)
		if err != nil {
			return nil, fmt.Errorf("token file: %w", err)
		}
		token = string(raw)
	}
	token = strings.TrimSpace(token)
	if strings.ContainsFunc(token, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return nil, usage("the token holds characters that no token has")
	}
	if token != "" && base.Scheme == "http" && !loopback(base.Hostname()) && !a.plaintext {
		return nil, usage("refusing to send the token over plain http to %s; use https or --allow-plaintext", base.Host)
	}
	return &client{
		base: strings.TrimSuffix(base.String(), "/"), token: token, tenant: first(a.tenant, a.env("PRATIQUE_TENANT")),
		// A redirect would carry the token somewhere else, or turn a POST into a GET.
		http: &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }},
	}, nil
}

func first(texts ...string) string {
	for _, text := range texts {
		if text != "" {
			return text
		}
	}
	return ""
}

// note says something that is not the answer.
func (a *app) note(format string, args ...any) {
	_, _ = fmt.Fprintln(a.diag, escape(fmt.Sprintf(format, args...)))
}

// complain shows an error: message, fields, what to do next, and the id that finds it in the logs.
func (a *app) complain(err error) {
	var problem *problem
	if !errors.As(err, &problem) {
		a.note("error: %v", err)
		return
	}
	a.note("error: %s (%s)", problem.Message, problem.Code)
	for _, field := range sortedKeys(problem.Fields) {
		a.note("  %s: %s", field, problem.Fields[field])
	}
	if text := problem.advice(); text != "" {
		a.note("next: %s", text)
	}
	if problem.RequestID != "" {
		a.note("request id: %s", problem.RequestID)
	}
}
