package telemetry

import (
	"context"
	"encoding/json"
	"log/slog"
	"net/http"
	"sync"
	"time"
)

// checkTimeout bounds one round of readiness checks, below the usual probe timeout times its failures.
const checkTimeout = 2 * time.Second

// Probe answers /livez and /readyz. Live means the process serves HTTP; ready means every named check passes. Safe for
// concurrent use.
type Probe struct {
	log *slog.Logger

	mu       sync.Mutex
	names    []string
	checks   map[string]func(context.Context) error
	draining bool
}

// NewProbe has no checks and is therefore ready.
func NewProbe(log *slog.Logger) *Probe {
	return &Probe{log: log, checks: map[string]func(context.Context) error{}}
}

// Check adds or replaces a named readiness check ("database", "bus", "schema"). It must heed its context.
func (p *Probe) Check(name string, check func(context.Context) error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if _, known := p.checks[name]; !known {
		p.names = append(p.names, name)
	}
	p.checks[name] = check
}

// Drain makes the process unready for good, so that no new calls are sent while it ends.
func (p *Probe) Drain() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.draining = true
}

// Ready runs all checks at once and returns the failures by name; empty when ready. A check that does not answer in time
// failed.
func (p *Probe) Ready(ctx context.Context) map[string]error {
	ctx, cancel := context.WithTimeout(ctx, checkTimeout)
	defer cancel()
	p.mu.Lock()
	names := append([]string(nil), p.names...)
	checks := make([]func(context.Context) error, len(names))
	for i, name := range names {
		checks[i] = p.checks[name]
	}
	failed := map[string]error{}
	if p.draining {
		failed["draining"] = context.Canceled
	}
	p.mu.Unlock()
	type result struct {
		name string
		err  error
	}
	results := make(chan result, len(names))
	for i, name := range names {
		go func() { results <- result{name, checks[i](ctx)} }()
	}
	waiting := map[string]bool{}
	for _, name := range names {
		waiting[name] = true
	}
	for len(waiting) > 0 {
		select {
		case r := <-results:
			delete(waiting, r.name)
			if r.err != nil {
				failed[r.name] = r.err
			}
		case <-ctx.Done():
			for name := range waiting {
				failed[name] = ctx.Err()
			}
			return failed
		}
	}
	return failed
}

// Register mounts both paths. The answers name checks, never their errors: these go to the log.
func (p *Probe) Register(mux *http.ServeMux) {
	mux.HandleFunc("GET /livez", func(w http.ResponseWriter, _ *http.Request) { write(w, http.StatusOK, map[string]any{"status": "ok"}) })
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, r *http.Request) {
		failed := p.Ready(r.Context())
		answers := map[string]string{}
		p.mu.Lock()
		for _, name := range p.names {
			answers[name] = "ok"
		}
		p.mu.Unlock()
		for name, err := range failed {
			answers[name] = "failed"
			p.log.WarnContext(r.Context(), "not ready", "check", name, "err", err)
		}
		if len(failed) > 0 {
			write(w, http.StatusServiceUnavailable, map[string]any{"status": "not_ready", "checks": answers})
			return
		}
		write(w, http.StatusOK, map[string]any{"status": "ok", "checks": answers})
	})
}

func write(w http.ResponseWriter, status int, body map[string]any) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(body) // a reader that went away is not our concern
}
