package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
)

// logs shows a request's log, oldest line first; -f goes on until the request's runs have ended.
func (a *app) logs() *cobra.Command {
	var follow bool
	fields := []filter{
		{"source", "source", "all, run or lifecycle"}, {"min-level", "min_level", "debug, info, warn or error"},
		{"limit", "limit", "how many of the newest lines, at most 1000 (default 100)"}, {"offset", "offset", "skip this many of the newest lines"},
	}
	values := make([]string, len(fields))
	c := a.command("logs ID", "Show a request's log", cobra.ExactArgs(1), func(ctx context.Context, c *client, args []string) error {
		request, err := id(args[0])
		if err != nil {
			return err
		}
		query := url.Values{}
		for i, f := range fields {
			if values[i] != "" {
				query.Set(f.parameter, values[i])
			}
		}
		if follow {
			if len(query) > 0 {
				return usage("-f shows everything; leave the other flags out")
			}
			return a.followLogs(ctx, c, requestsPath+"/"+request+"/logs/stream")
		}
		raw, err := c.get(ctx, requestsPath+"/"+request+"/logs", query)
		if err != nil {
			return err
		}
		return a.showLogs(raw)
	})
	c.Flags().BoolVarP(&follow, "follow", "f", false, "show lines as they come")
	for i, f := range fields {
		c.Flags().StringVar(&values[i], f.flag, "", f.help)
	}
	return c
}

func (a *app) showLogs(raw []byte) error {
	if a.format != "table" {
		return a.show(raw, view{list: "data.logs", name: "message"})
	}
	answer, err := decode(raw)
	if err != nil {
		return err
	}
	lines, _ := at(answer, "data.logs").([]any)
	slices.Reverse(lines) // the newest comes first on the wire; people read downwards
	for _, line := range lines {
		if err := a.logLine(line); err != nil {
			return err
		}
	}
	if at(answer, "data.has_more") == true {
		a.note("these are the newest %d of %s lines", len(lines), text(at(answer, "data.total")))
	}
	return nil
}

func (a *app) logLine(line any) error {
	return a.line(fmt.Sprintf("%s %-5s %s %s", escape(text(at(line, "timestamp"))), escape(text(at(line, "level"))),
		escape(first(text(at(line, "step")), text(at(line, "source")))), escape(text(at(line, "message")))))
}

// reconnectAfter is how long to wait before a broken stream is opened again; tests shorten it.
var reconnectAfter = time.Second

// followLogs prints the stream and opens it again after the last line seen whenever it breaks; it ends when the server says so.
func (a *app) followLogs(ctx context.Context, c *client, path string) error {
	last, failures := "", 0
	for {
		seen, ended, err := a.followOnce(ctx, c, path, &last)
		if ended || ctx.Err() != nil {
			return nil
		}
		var refused *problem
		if errors.As(err, &refused) && refused.Status < 500 {
			return err
		}
		if seen {
			failures = 0
		}
		if failures++; failures > 30 {
			return fmt.Errorf("the stream broke %d times in a row: %w", failures, err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(reconnectAfter):
		}
	}
}

// silence is how long a stream may say nothing, heartbeats included, before it counts as broken.
const silence = time.Minute

var errInterrupted = errors.New("the stream was interrupted")

func (a *app) followOnce(ctx context.Context, c *client, path string, last *string) (seen, ended bool, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	request, err := c.request(ctx, http.MethodGet, path, nil, nil)
	if err != nil {
		return false, false, err
	}
	if *last != "" {
		request.Header.Set("Last-Event-ID", *last)
	}
	response, err := c.http.Do(request)
	if err != nil {
		return false, false, err
	}
	defer func() { _ = response.Body.Close() }() // cancelled or at its end
	if response.StatusCode != http.StatusOK {
		return false, false, problemOf(response)
	}
	watch := time.AfterFunc(silence, cancel)
	defer watch.Stop()
	lines := bufio.NewScanner(response.Body)
	lines.Buffer(nil, 4<<20)
	var event string
	for lines.Scan() {
		watch.Reset(silence)
		name, value, _ := strings.Cut(lines.Text(), ":")
		value = strings.TrimPrefix(value, " ")
		switch {
		case name == "" && value == "end":
			return seen, true, nil
		case name == "id":
			event = value
		case name == "data":
			if err := a.followed([]byte(value)); err != nil {
				return seen, true, err
			}
			*last, seen = event, true
		}
	}
	return seen, false, errors.Join(errInterrupted, lines.Err())
}

func (a *app) followed(raw []byte) error {
	if a.format == "json" {
		return a.line(escapeQuoted(string(raw), jsonPoint))
	}
	var line any
	if err := json.Unmarshal(raw, &line); err != nil {
		return fmt.Errorf("log line: %w", err)
	}
	return a.logLine(line)
}

// wait repeats asking until a request is as wanted. It gives up at once when that cannot happen any more.
func (a *app) wait() *cobra.Command {
	var want string
	var timeout, interval time.Duration
	c := a.command("wait ID", "Wait until a request has come somewhere (exit code 4 when it does not)", cobra.ExactArgs(1),
		func(ctx context.Context, c *client, args []string) error {
			request, err := id(args[0])
			if err != nil {
				return err
			}
			field, list, found := strings.Cut(want, "=")
			wanted := strings.Split(list, ",")
			if !found || !slices.Contains([]string{"status", "execution_state", "release_state"}, field) || slices.Contains(wanted, "") {
				return usage("--for must be status=, execution_state= or release_state= with one or more values, divided by commas")
			}
			if interval <= 0 || timeout <= 0 {
				return usage("--timeout and --interval must be positive")
			}
			ctx, cancel := context.WithTimeoutCause(ctx, timeout, fmt.Errorf("%w: not %s after %s", errWaited, want, timeout))
			defer cancel()
			raw, err := waitFor(ctx, c, requestsPath+"/"+request, field, wanted, interval)
			if raw != nil {
				err = errors.Join(err, a.show(raw, requestView))
			}
			return err
		})
	c.Flags().StringVar(&want, "for", "status=success", "FIELD=VALUE[,VALUE...] with status, execution_state or release_state")
	c.Flags().DurationVar(&timeout, "timeout", 30*time.Minute, "how long to wait")
	c.Flags().DurationVar(&interval, "interval", 2*time.Second, "how often to ask")
	return c
}

// waitFor gives the last answer, and an error unless it is as wanted.
func waitFor(ctx context.Context, c *client, path, field string, wanted []string, interval time.Duration) ([]byte, error) {
	var last []byte
	for {
		raw, err := c.get(ctx, path, nil)
		var refused *problem
		switch {
		case ctx.Err() != nil:
			return last, context.Cause(ctx)
		case errors.As(err, &refused) && refused.Status < 500 && refused.Status != http.StatusTooManyRequests:
			return nil, err // asking again would not help
		case err == nil:
			last = raw
			answer, err := decode(raw)
			if err != nil {
				return nil, err
			}
			object := at(answer, "data")
			if slices.Contains(wanted, text(at(object, field))) {
				return raw, nil
			}
			if lost(object, field) {
				return raw, fmt.Errorf("%w: %s is %s, which is final", errWaited, field, text(at(object, field)))
			}
		}
		select {
		case <-ctx.Done():
			return last, context.Cause(ctx)
		case <-time.After(interval):
		}
	}
}

// lost says that a field has its last value.
func lost(request any, field string) bool {
	status := text(at(request, "status"))
	nothingCame := slices.Contains([]string{"rejected", "withdrawn", "failed"}, status)
	switch field {
	case "status":
		return nothingCame || status == "success" || status == "quarantined"
	case "execution_state": // findings that are accepted later take a quarantined request out of completed again
		return nothingCame
	}
	return nothingCame || text(at(request, "release_state")) == "recalled" || text(at(request, "request_type")) == "scan"
}
