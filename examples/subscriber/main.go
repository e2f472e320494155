// Command subscriber shows how a system outside Pratique follows its events. It needs nothing but the standard library and a NATS client;
// nothing of Pratique's code is imported. Read README.md for what it relies on.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"
)

// config is what one run needs.
type config struct {
	url, user, password string
	// filter selects subjects: pratique.<service>.v1.<event>.<tenant>.
	filter string
	// state is the file that remembers what was printed.
	state string
	// remember is how many event ids are kept at least; the file holds at most twice as many.
	remember int
	// overlap is how far behind the newest event printed a new start begins. What it brings again is dropped by id.
	overlap time.Duration
	// since is where the very first start begins; zero is the beginning of the stream.
	since time.Time
	json  bool
	// retry is the pause after a failure.
	retry time.Duration
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	log := slog.New(slog.NewTextHandler(os.Stderr, nil))
	cfg, err := parse(os.Args[1:], os.Stderr)
	if errors.Is(err, flag.ErrHelp) {
		return
	}
	if err == nil {
		err = follow(ctx, cfg, os.Stdout, log)
	}
	if err != nil {
		log.Error("subscriber stopped", "err", err)
		stop()
		os.Exit(1)
	}
}

func parse(args []string, usage io.Writer) (config, error) {
	flags := flag.NewFlagSet("subscriber", flag.ContinueOnError)
	flags.SetOutput(usage)
	dir := flags.String("dir", "data", "directory that holds connection.json")
	cfg := config{overlap: 10 * time.Minute, retry: time.Second}
	flags.StringVar(&cfg.filter, "filter", "pratique.*.v1.>", "subjects to follow: pratique.<service>.v1.<event_in_snake_case>.<tenant>")
	flags.StringVar(&cfg.state, "state", "", "file that remembers what was printed (default DIR/subscriber.state); one per filter")
	flags.IntVar(&cfg.remember, "remember", 20000, "how many event ids to remember at least")
	flags.BoolVar(&cfg.json, "json", false, "print each event as CloudEvents JSON")
	since := flags.String("since", "", "where the first start begins, an RFC 3339 time (default: everything there is)")
	if err := flags.Parse(args); err != nil {
		return config{}, err
	}
	if *since != "" {
		at, err := time.Parse(time.RFC3339, *since)
		if err != nil {
			return config{}, fmt.Errorf("-since: %w", err)
		}
		cfg.since = at
	}
	if cfg.remember < 1 {
		return config{}, errors.New("-remember must be at least 1")
	}
	if cfg.state == "" {
		cfg.state = filepath.Join(*dir, "subscriber.state")
	}
	return cfg, cfg.connection(filepath.Join(*dir, "connection.json"))
}

// connection reads where the broker is and as whom to come.
func (c *config) connection(path string) error {
	raw, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	var file struct {
		NATS struct{ URL, User, Password string }
	}
	if err := json.Unmarshal(raw, &file); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	c.url, c.user, c.password = file.NATS.URL, file.NATS.User, file.NATS.Password
	if c.url == "" || c.user == "" || c.password == "" {
		return fmt.Errorf("%s lacks nats.url, nats.user or nats.password", path)
	}
	return nil
}
