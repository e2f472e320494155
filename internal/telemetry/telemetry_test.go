package telemetry_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/otel"
	collectorv1 "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	"google.golang.org/grpc"

	"github.com/pratique-io/pratique/internal/telemetry"
)

func TestALineNamesItsRequestAndTrace(t *testing.T) {
	stop, err := telemetry.StartTraces(t.Context(), "intake", "dev")
	require.NoError(t, err)
	t.Cleanup(func() { _ = stop(context.Background()) })
	var out bytes.Buffer
	log, err := telemetry.NewLog(&out, "info")
	require.NoError(t, err)
	ctx := telemetry.WithRequestID(t.Context(), "req-1")
	ctx, span := otel.Tracer("test").Start(ctx, "act")
	defer span.End()
	log.With("tenant_id", "t").WithGroup("g").InfoContext(ctx, "request approved", "n", 1)
	log.DebugContext(ctx, "unseen")
	var line map[string]any
	require.NoError(t, json.Unmarshal(out.Bytes(), &line))
	require.Equal(t, "request approved", line["msg"])
	require.Equal(t, "t", line["tenant_id"])
	require.Contains(t, out.String(), `"request_id":"req-1"`)
	require.Contains(t, out.String(), span.SpanContext().TraceID().String())
	at, err := time.Parse(time.RFC3339Nano, line["time"].(string))
	require.NoError(t, err)
	require.Equal(t, time.UTC, at.Location())
	_, err = telemetry.NewLog(&out, "loud")
	require.Error(t, err)
}

// spans is an OTLP receiver.
type spans struct {
	collectorv1.UnimplementedTraceServiceServer
	got chan *collectorv1.ExportTraceServiceRequest
}

func (s *spans) Export(_ context.Context, r *collectorv1.ExportTraceServiceRequest) (*collectorv1.ExportTraceServiceResponse, error) {
	s.got <- r
	return &collectorv1.ExportTraceServiceResponse{}, nil
}

func TestSpansAreExportedWhereTheStandardVariablesSayIt(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	receiver := &spans{got: make(chan *collectorv1.ExportTraceServiceRequest, 4)}
	srv := grpc.NewServer()
	collectorv1.RegisterTraceServiceServer(srv, receiver)
	go srv.Serve(listener) //nolint:errcheck // ends with Stop
	t.Cleanup(srv.Stop)

	t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://"+listener.Addr().String())
	stop, err := telemetry.StartTraces(t.Context(), "intake", "1.2.3")
	require.NoError(t, err)
	_, span := otel.Tracer("test").Start(t.Context(), "approve request")
	span.End()
	require.NoError(t, stop(t.Context()))
	sent := <-receiver.got
	require.Equal(t, "approve request", sent.GetResourceSpans()[0].GetScopeSpans()[0].GetSpans()[0].GetName())
	about := map[string]string{}
	for _, kv := range sent.GetResourceSpans()[0].GetResource().GetAttributes() {
		about[kv.GetKey()] = kv.GetValue().GetStringValue()
	}
	require.Equal(t, "intake", about["service.name"])
	require.Equal(t, "1.2.3", about["service.version"])

	t.Setenv("OTEL_TRACES_EXPORTER", "none")
	stop, err = telemetry.StartTraces(t.Context(), "intake", "1.2.3")
	require.NoError(t, err)
	_, span = otel.Tracer("test").Start(t.Context(), "unsent")
	require.True(t, span.SpanContext().IsValid(), "ids still travel")
	span.End()
	require.NoError(t, stop(t.Context()))
	require.Empty(t, receiver.got)
}

func get(t *testing.T, h http.Handler, path string) (int, string) {
	t.Helper()
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest(http.MethodGet, path, nil))
	return w.Code, w.Body.String()
}

func TestReadinessIsTheSumOfItsChecks(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	log, err := telemetry.NewLog(&out, "info")
	require.NoError(t, err)
	probe, mux := telemetry.NewProbe(log), http.NewServeMux()
	probe.Register(mux)
	status, body := get(t, mux, "/readyz")
	require.Equal(t, 200, status, body)

	var broken error
	probe.Check("database", func(context.Context) error { return broken })
	probe.Check("bus", func(context.Context) error { return nil })
	status, body = get(t, mux, "/readyz")
	require.Equal(t, 200, status)
	require.JSONEq(t, `{"status":"ok","checks":{"database":"ok","bus":"ok"}}`, body)

	broken = errors.New("password=hunter2 refused")
	status, body = get(t, mux, "/readyz")
	require.Equal(t, 503, status)
	require.JSONEq(t, `{"status":"not_ready","checks":{"database":"failed","bus":"ok"}}`, body)
	require.Contains(t, out.String(), `"check":"database"`)
	status, _ = get(t, mux, "/livez")
	require.Equal(t, 200, status, "not ready is not dead")

	broken = nil
	never := make(chan struct{})
	defer close(never)
	probe.Check("schema", func(context.Context) error { <-never; return nil })
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	require.Contains(t, probe.Ready(ctx), "schema", "no answer is no yes")
	probe.Check("schema", func(context.Context) error { return nil })
	require.Empty(t, probe.Ready(t.Context()))
	probe.Drain()
	status, _ = get(t, mux, "/readyz")
	require.Equal(t, 503, status)
}

func TestMetricsAreServed(t *testing.T) {
	t.Parallel()
	registry := telemetry.NewRegistry()
	counter := prometheus.NewCounter(prometheus.CounterOpts{Name: "pratique_calls_total", Help: "Calls."})
	registry.MustRegister(counter)
	counter.Inc()
	status, body := get(t, telemetry.MetricsHandler(registry), "/metrics")
	require.Equal(t, 200, status)
	require.Contains(t, body, "pratique_calls_total 1")
	require.Contains(t, body, "go_goroutines")
}

func TestARequestIDIsTakenOnlyIfItIsSane(t *testing.T) {
	t.Parallel()
	for _, id := range []string{"abcdefgh", "0195d2f0-0000-7000-8000-00000000000a", "A.b_c:d-9"} {
		require.Equal(t, id, telemetry.SaneRequestID(id))
	}
	for _, id := range []string{"", "short", "with space", "new\nline-here", "quo\"te-here", "ünicode-here"} {
		require.NotEqual(t, id, telemetry.SaneRequestID(id))
		require.Len(t, telemetry.SaneRequestID(id), 36)
	}
	require.Empty(t, telemetry.RequestID(context.Background()))
}
