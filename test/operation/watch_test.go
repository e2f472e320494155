package operation

import (
	"context"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"
	collector "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	"google.golang.org/grpc"

	"github.com/pratique-io/pratique/cmd/pratique/serve"
)

// spans is a collector that remembers which services sent which spans.
type spans struct {
	collector.UnimplementedTraceServiceServer
	mu   sync.Mutex
	seen map[string]map[string]bool // trace id -> names of spans
	from map[string]bool            // service.name
}

func (s *spans) Export(_ context.Context, request *collector.ExportTraceServiceRequest) (*collector.ExportTraceServiceResponse, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, resource := range request.GetResourceSpans() {
		for _, attribute := range resource.GetResource().GetAttributes() {
			if attribute.GetKey() == "service.name" {
				s.from[attribute.GetValue().GetStringValue()] = true
			}
		}
		for _, scope := range resource.GetScopeSpans() {
			for _, span := range scope.GetSpans() {
				trace := fmt.Sprintf("%x", span.GetTraceId())
				if s.seen[trace] == nil {
					s.seen[trace] = map[string]bool{}
				}
				s.seen[trace][span.GetName()] = true
			}
		}
	}
	return &collector.ExportTraceServiceResponse{}, nil
}

func (s *spans) of(trace string) []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Sorted(maps.Keys(s.seen[trace]))
}

func (s *spans) services() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Sorted(maps.Keys(s.from))
}

func collect(t *testing.T) (*spans, string) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	server, got := grpc.NewServer(), &spans{seen: map[string]map[string]bool{}, from: map[string]bool{}}
	collector.RegisterTraceServiceServer(server, got)
	go func() { _ = server.Serve(listener) }() // until stopped
	t.Cleanup(server.Stop)
	return got, "http://" + listener.Addr().String()
}

func TestAnOperatorWatchesAndMends(t *testing.T) {
	t.Parallel()
	data := filepath.Join(folder(t), "data")
	traces, endpoint := collect(t)
	h := open(t, data, call{env: []string{"OTEL_EXPORTER_OTLP_ENDPOINT=" + endpoint, "OTEL_BSP_SCHEDULE_DELAY=200"}})
	path := filepath.Join(data, "config.yaml")
	h.furnish(t)

	t.Run("the spans of a request arrive", func(t *testing.T) {
		trace := strings.ReplaceAll(uuid.NewString(), "-", "")
		request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, h.REST+imports, nil)
		require.NoError(t, err)
		token, err := h.api.Token("mel")
		require.NoError(t, err)
		request.Header.Set("Authorization", "Bearer "+token)
		request.Header.Set("traceparent", "00-"+trace+"-00f067aa0ba902b7-01")
		response, err := http.DefaultClient.Do(request)
		require.NoError(t, err)
		require.NoError(t, response.Body.Close())
		require.Equal(t, http.StatusOK, response.StatusCode)
		defer func() {
			if t.Failed() {
				t.Logf("in the trace: %v; from %v, %d traces in all", traces.of(trace), traces.services(), len(traces.seen))
			}
		}()
		require.Eventually(t, func() bool {
			names := strings.Join(traces.of(trace), ", ")
			return strings.Contains(names, "REST GET") && strings.Contains(names, "pratique.intake.v1.") && strings.Contains(names, "SELECT")
		}, 20*time.Second, 50*time.Millisecond, "the gateway's, intake's and its database's spans are in the caller's trace")
		require.Equal(t, []string{"pratique-up"}, traces.services())
	})
	t.Run("the figures of outbox and consumers are there", func(t *testing.T) {
		require.Eventually(t, func() bool { // the events of furnish are published and settled
			metrics := get(t, h.Ops+"/metrics")
			return positive(metrics, `pratique_outbox_relayed_total{service="intake"}`) && positive(metrics, `pratique_bus_events_total{consumer="notify_[a-z]+",outcome="ok"}`)
		}, 20*time.Second, 100*time.Millisecond, "the figures move")
		metrics := get(t, h.Ops+"/metrics")
		for _, name := range []string{"pratique_outbox_pending{", "pratique_outbox_blocked_seconds{", "pratique_outbox_rewound_total{", "go_goroutines", "process_open_fds"} {
			require.Contains(t, metrics, "\n"+name)
		}
		require.Contains(t, get(t, h.Ops+"/livez"), "ok")
		require.NotContains(t, get(t, h.Ops+"/readyz"), "failed")
	})
	t.Run("what is in force can be checked", func(t *testing.T) {
		p, code := pratique("config", "check", "--config", path).run(t, 10*time.Second)
		require.Zero(t, code, p.errors.String())
		require.Equal(t, "ok\n", p.out.String())
	})
	t.Run("schemas and topology may be brought up to date again", func(t *testing.T) { h.repeat(t, path) })
	t.Run("a dead letter is listed and handled again", func(t *testing.T) { h.mend(t, path) })
	require.Zero(t, h.signal(t, syscall.SIGTERM, stopLimit))
}

func get(t *testing.T, url string) string {
	t.Helper()
	response, err := http.Get(url)
	require.NoError(t, err)
	defer response.Body.Close()
	raw, err := io.ReadAll(response.Body)
	require.NoError(t, err)
	return "\n" + string(raw)
}

func positive(metrics, series string) bool {
	pattern := strings.NewReplacer("{", `\{`, "}", `\}`).Replace(series)
	return regexp.MustCompile(`(?m)^` + pattern + ` [1-9]`).MatchString(metrics)
}

// adminURL is the database's address as superuser.
func (h *house) adminURL(t *testing.T, path string) string {
	t.Helper()
	cfg, err := serve.Load(path, nil)
	require.NoError(t, err)
	password, err := os.ReadFile(filepath.Join(h.data, "postgres", "password"))
	require.NoError(t, err)
	return strings.Replace(cfg.Database.URL, "postgres://", "postgres://postgres:"+strings.TrimSpace(string(password))+"@", 1)
}

// repeat runs migrate and topology apply on what is up to date: twice each, beside the running services.
func (h *house) repeat(t *testing.T, path string) {
	t.Helper()
	admin := filepath.Join(h.data, "admin-url")
	require.NoError(t, os.WriteFile(admin, []byte(h.adminURL(t, path)), 0o600))
	for range 2 {
		p, code := pratique("migrate", "--admin-url-file", admin, "--passwords", filepath.Join(h.data, "secrets")).run(t, time.Minute)
		require.Zero(t, code, p.errors.String())
		require.Equal(t, 6, strings.Count(p.out.String(), "migrated "))
		p, code = pratique("topology", "apply", "--config", path).run(t, time.Minute)
		require.Zero(t, code, p.errors.String())
		require.Equal(t, "applied\n", p.out.String())
	}
	refused(t, pratique("migrate", "mail", "--admin-url-file", admin, "--passwords", filepath.Join(h.data, "secrets")), "", `no service "mail"`)
	refused(t, pratique("migrate", "--admin-url-file", admin, "--passwords", t.TempDir()), "", "password of intake_")
	h.expect(t, "mel", http.MethodGet, imports, nil, http.StatusOK, "")
}

const poisonSQL = `insert into intake.outbox (event_id, subject, body) values (gen_random_uuid(), 'pratique.intake.v1.request_approved._', 'no event at all'),
	(@id, 'pratique.intake.v1.request_approved._', convert_to(@body, 'UTF8'))`

// mend puts a broken event and a body that is no event into intake's outbox, finds them among dispatch's dead letters, and asks for them again.
func (h *house) mend(t *testing.T, path string) {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), h.adminURL(t, path))
	require.NoError(t, err)
	defer conn.Close(context.WithoutCancel(t.Context()))
	id := uuid.Must(uuid.NewV7())
	body := fmt.Sprintf(`{"specversion":"1.0","id":%q,"type":"pratique.intake.v1.RequestApproved","source":"/pratique/intake","subject":%q,"time":%q,`+
		`"datacontenttype":"application/json","sequence":1,"actor":"user:test","data":{"import_id":"no id"}}`,
		id, uuid.NewString(), time.Now().UTC().Format(time.RFC3339Nano))
	_, err = conn.Exec(t.Context(), poisonSQL, pgx.NamedArgs{"id": id, "body": body})
	require.NoError(t, err)

	list := func() string {
		p, code := pratique("deadletter", "list", "dispatch", "--config", path).run(t, 20*time.Second)
		require.Zero(t, code, p.errors.String())
		return p.out.String()
	}
	letter := regexp.MustCompile(`(?m)^([0-9a-f-]{36})\s+(dispatch_\w+)\s+dead\s+pratique\.intake\.v1\.RequestApproved\s+\S+\s+(\d+)\s+"(.+)"`)
	require.Eventually(t, func() bool { return letter.MatchString(list()) && strings.Count(list(), "\n") >= 3 }, time.Minute, 500*time.Millisecond, "both are listed")
	found := letter.FindStringSubmatch(list())
	_, err = uuid.Parse(found[1])
	require.NoError(t, err)

	refused(t, pratique("deadletter", "requeue", "dispatch", "dispatch_nothing", "--config", path), "", `no consumer "dispatch_nothing"`, found[2])
	refused(t, pratique("deadletter", "requeue", "dispatch", found[2], uuid.NewString(), "--config", path), "", "are not dead letters of "+found[2])
	p, code := pratique("deadletter", "requeue", "dispatch", found[2], found[1], "--config", path).run(t, 20*time.Second)
	require.Zero(t, code, p.errors.String())
	require.Equal(t, "1 will be handled again\n", p.out.String())
	require.Eventually(t, func() bool { // it is as broken as before
		again := letter.FindStringSubmatch(list())
		return again != nil && again[1] == found[1] && again[3] != found[3]
	}, time.Minute, 500*time.Millisecond, "it is tried again and is dead again")
}
