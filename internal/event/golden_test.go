package event_test

import (
	"bytes"
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/santhosh-tekuri/jsonschema/v6"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/otel/trace"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	_ "github.com/pratique-io/pratique/gen/pratique/approval/v1"
	_ "github.com/pratique-io/pratique/gen/pratique/dispatch/v1"
	_ "github.com/pratique-io/pratique/gen/pratique/evidence/v1"
	_ "github.com/pratique-io/pratique/gen/pratique/intake/v1"
	_ "github.com/pratique-io/pratique/gen/pratique/notify/v1"
	_ "github.com/pratique-io/pratique/gen/pratique/release/v1"
	"github.com/pratique-io/pratique/internal/event"
	"github.com/pratique-io/pratique/internal/event/internal/schema"
)

var update = flag.Bool("update", false, "write the golden events, gen/schema and docs/events.md instead of comparing")

const (
	root      = "../.."
	goldenDir = "testdata/golden"
	schemaDir = root + "/gen/schema"
)

func events(t *testing.T) []protoreflect.MessageDescriptor {
	t.Helper()
	found := schema.Events(protoregistry.GlobalFiles)
	protos, err := filepath.Glob(root + "/proto/pratique/*/v1/events.proto")
	require.NoError(t, err)
	files := map[string]bool{}
	for _, e := range found {
		files[e.ParentFile().Path()] = true
	}
	require.Len(t, files, len(protos), "an events.proto exists whose package this test does not import")
	return found
}

func comments(t *testing.T) schema.Comments {
	t.Helper()
	c, err := schema.ReadComments(os.DirFS(root + "/proto/pratique"))
	require.NoError(t, err)
	return c
}

// golden compares, or writes when asked to.
func golden(t *testing.T, path string, got []byte) {
	t.Helper()
	if *update {
		require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o755))
		require.NoError(t, os.WriteFile(path, got, 0o644))
	}
	want, err := os.ReadFile(path)
	require.NoError(t, err, "run: go test ./internal/event -run Golden -update")
	require.Equal(t, string(want), string(got), "%s differs; if that is meant: go test ./internal/event -run Golden -update", path)
}

// populated is the event with every field and attribute set, the same at every call.
func populated(t *testing.T, desc protoreflect.MessageDescriptor) (event.Envelope, proto.Message) {
	t.Helper()
	msg, err := schema.Sample(desc)
	require.NoError(t, err)
	span := trace.NewSpanContext(trace.SpanContextConfig{TraceID: trace.TraceID{1}, SpanID: trace.SpanID{2}, TraceFlags: 1})
	ctx := event.WithCause(trace.ContextWithSpanContext(t.Context(), span), event.Envelope{ID: schema.ID("cause")})
	e, err := event.New(ctx, msg, event.Head{
		Subject: uuid.MustParse(schema.ID("subject")), Tenant: uuid.MustParse(schema.ID("tenant_id")), Sequence: 7,
		Request: uuid.MustParse(schema.ID("import_id")), Actor: "user:" + schema.ID("actor"),
	})
	require.NoError(t, err)
	e.ID, e.Time = schema.ID(string(desc.FullName())), time.Date(2026, 1, 2, 3, 4, 5, 600000, time.UTC)
	return e, msg
}

func fileOf(desc protoreflect.MessageDescriptor) string {
	return filepath.Join(goldenDir, schema.Service(desc)+"."+string(desc.Name())+".json")
}

func TestEveryEventEqualsItsGoldenFile(t *testing.T) {
	t.Parallel()
	for _, desc := range events(t) {
		t.Run(string(desc.FullName()), func(t *testing.T) {
			t.Parallel()
			e, msg := populated(t, desc)
			body, err := e.Encode()
			require.NoError(t, err)
			golden(t, fileOf(desc), append(body, '\n'))

			back, err := event.Decode(body)
			require.NoError(t, err)
			require.Equal(t, e, back)
			got := msg.ProtoReflect().New().Interface()
			require.NoError(t, back.Decode(got))
			require.True(t, proto.Equal(msg, got), "decoding gave %v", got)
		})
	}
}

func TestEveryEventIsReadFromNewerAndOlderWriters(t *testing.T) {
	t.Parallel()
	for _, desc := range events(t) {
		e, msg := populated(t, desc)
		var data map[string]any
		require.NoError(t, json.Unmarshal(e.Data, &data))

		data["added_later"] = map[string]any{"deep": []any{1, "two", nil}}
		newer := rewrite(t, e, data)
		got := msg.ProtoReflect().New().Interface()
		require.NoError(t, newer.Decode(got), desc.FullName())
		require.True(t, proto.Equal(msg, got), "%s of a newer writer lost something", desc.FullName())

		delete(data, "added_later")
		for i := range desc.Fields().Len() { // an older writer did not know this field
			name := desc.Fields().Get(i).Name()
			kept := data[string(name)]
			delete(data, string(name))
			got := msg.ProtoReflect().New()
			require.NoError(t, rewrite(t, e, data).Decode(got.Interface()), "%s without %s", desc.FullName(), name)
			require.False(t, got.Has(desc.Fields().Get(i)))
			data[string(name)] = kept
		}
		require.NoError(t, rewrite(t, e, map[string]any{}).Decode(msg.ProtoReflect().New().Interface()))
	}
}

// rewrite sends the envelope over the wire with other data.
func rewrite(t *testing.T, e event.Envelope, data map[string]any) event.Envelope {
	t.Helper()
	raw, err := json.Marshal(data)
	require.NoError(t, err)
	e.Data = raw
	body, err := e.Encode()
	require.NoError(t, err)
	back, err := event.Decode(append([]byte(`{"newextension":"y",`), body[1:]...))
	require.NoError(t, err)
	return back
}

func TestEveryGoldenFileIsValidByItsSchema(t *testing.T) {
	t.Parallel()
	all := comments(t)
	for _, desc := range events(t) {
		t.Run(string(desc.FullName()), func(t *testing.T) {
			t.Parallel()
			written, err := schema.JSONSchema(desc, all)
			require.NoError(t, err)
			golden(t, filepath.Join(schemaDir, string(desc.FullName())+".json"), written)

			e, _ := populated(t, desc)
			body, err := e.Encode()
			require.NoError(t, err)
			open, closed := compile(t, written, false), compile(t, written, true)
			require.NoError(t, open.Validate(document(t, body)))
			require.NoError(t, closed.Validate(document(t, body)), "the event says something that its schema does not know")

			for name, change := range map[string]func(map[string]any){
				"data is missing":         func(d map[string]any) { delete(d, "data") },
				"another type":            func(d map[string]any) { d["type"] = "pratique.intake.v1.Other" },
				"a field of another kind": func(d map[string]any) { d["data"].(map[string]any)["tenant_id"] = 5.0 },
				"a subject that is no id": func(d map[string]any) { d["subject"] = "x" },
				"a time that is none":     func(d map[string]any) { d["time"] = "yesterday" },
			} {
				d := document(t, body)
				change(d.(map[string]any))
				if desc.Fields().ByName("tenant_id") == nil && strings.HasPrefix(name, "a field") {
					continue
				}
				require.Error(t, open.Validate(d), name)
			}
			d := document(t, body).(map[string]any)
			d["data"].(map[string]any)["added_later"] = true
			require.NoError(t, open.Validate(d), "the schema refuses newer writers")
			require.Error(t, closed.Validate(d))
		})
	}
}

func document(t *testing.T, raw []byte) any {
	t.Helper()
	d, err := jsonschema.UnmarshalJSON(bytes.NewReader(raw))
	require.NoError(t, err)
	return d
}

// compile makes a validator; a closed one refuses whatever the schema does not name.
func compile(t *testing.T, raw []byte, closed bool) *jsonschema.Schema {
	t.Helper()
	doc := document(t, raw)
	if closed {
		shut(doc)
	}
	c := jsonschema.NewCompiler()
	c.DefaultDraft(jsonschema.Draft2020)
	c.AssertFormat()
	require.NoError(t, c.AddResource("event.json", doc))
	out, err := c.Compile("event.json")
	require.NoError(t, err)
	return out
}

func shut(node any) {
	switch n := node.(type) {
	case map[string]any:
		if _, ok := n["properties"].(map[string]any); ok && n["type"] == "object" {
			n["additionalProperties"] = false
		}
		for _, child := range n {
			shut(child)
		}
	case []any:
		for _, child := range n {
			shut(child)
		}
	}
}

func TestGoldenDocumentOfEvents(t *testing.T) {
	t.Parallel()
	for _, desc := range events(t) {
		require.Empty(t, comments(t).Undescribed(desc), "%s", desc.FullName())
	}
	golden(t, root+"/docs/events.md", schema.Markdown(events(t), comments(t), event.FilterOf))
}

func TestNoGoldenFileIsLeftBehind(t *testing.T) {
	t.Parallel()
	want := map[string]bool{}
	for _, desc := range events(t) {
		want[fileOf(desc)] = true
		want[filepath.Join(schemaDir, string(desc.FullName())+".json")] = true
	}
	for _, dir := range []string{goldenDir, schemaDir} {
		files, err := filepath.Glob(filepath.Join(dir, "*"))
		require.NoError(t, err)
		for _, file := range files {
			require.True(t, want[filepath.Clean(file)], "%s belongs to no event", file)
		}
	}
}
