package event_test

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/otel/trace"
	"google.golang.org/protobuf/types/known/structpb"

	eventv1 "github.com/pratique-io/pratique/gen/pratique/event/v1"
	"github.com/pratique-io/pratique/internal/event"
)

func sample(t *testing.T, ctx context.Context) event.Envelope {
	t.Helper()
	e, err := event.New(ctx, &eventv1.Failure{FailureClass: "policy", FailureCode: "a<b", Message: "no & never"}, event.Head{
		Subject: uuid.MustParse("01890a5d-ac96-774b-bcce-b302099a8057"), Tenant: uuid.MustParse("01890a5d-ac96-774b-bcce-b302099a8058"),
		Sequence: 3, Request: uuid.MustParse("01890a5d-ac96-774b-bcce-b302099a8059"), Actor: "user:https://issuer|alice",
	})
	require.NoError(t, err)
	return e
}

func TestAnEnvelopeIsTheSameBytesForEver(t *testing.T) {
	t.Parallel()
	span := trace.NewSpanContext(trace.SpanContextConfig{TraceID: trace.TraceID{1}, SpanID: trace.SpanID{2}, TraceFlags: 1})
	cause := event.Envelope{ID: "01890a5d-ac96-774b-bcce-b302099a8060"}
	e := sample(t, event.WithCause(trace.ContextWithSpanContext(t.Context(), span), cause))
	require.NotEqual(t, uuid.Nil, uuid.MustParse(e.ID))
	e.ID, e.Time = "01890a5d-ac96-774b-bcce-b302099a8061", time.Date(2026, 1, 2, 3, 4, 5, 600000, time.UTC)
	body, err := e.Encode()
	require.NoError(t, err)
	golden, err := os.ReadFile(filepath.Join("testdata", "envelope.json"))
	require.NoError(t, err)
	require.Equal(t, string(bytes.TrimSpace(golden)), string(body))

	back, err := event.Decode(body)
	require.NoError(t, err)
	require.Equal(t, e, back)
	var f eventv1.Failure
	require.NoError(t, back.Decode(&f))
	require.Equal(t, "no & never", f.GetMessage())
	require.Equal(t, int64(3), back.Sequence)
	require.Equal(t, "01890a5d-ac96-774b-bcce-b302099a8058", back.Tenant().String())
	require.Equal(t, "01890a5d-ac96-774b-bcce-b302099a8057", back.Aggregate().String())
	require.Equal(t, "01890a5d-ac96-774b-bcce-b302099a8059", back.Request().String())
}

func TestReadersSurviveNewerWriters(t *testing.T) {
	t.Parallel()
	e := sample(t, t.Context())
	e.Data = []byte(`{"failure_class":"policy","added_later":{"x":1}}`)
	body, err := e.Encode()
	require.NoError(t, err)
	body = append([]byte(`{"newextension":"y",`), body[1:]...)
	back, err := event.Decode(body)
	require.NoError(t, err)
	var f eventv1.Failure
	require.NoError(t, back.Decode(&f))
	require.Equal(t, "policy", f.GetFailureClass())
	require.ErrorContains(t, back.Decode(&eventv1.Check{}), "is not a")
}

func TestWhatIsNoEventIsRefused(t *testing.T) {
	t.Parallel()
	good, err := sample(t, t.Context()).Encode()
	require.NoError(t, err)
	for name, body := range map[string]string{
		"empty":                  "",
		"not JSON":               "hello",
		"an array":               "[]",
		"two documents":          string(good) + string(good),
		"too large":              string(good[:len(good)-1]) + `,"x":"` + strings.Repeat("a", event.MaxBytes) + `"}`,
		"id of another version":  strings.Replace(string(good), `"id":"0`, `"id":"f47ac10b-58cc-4372-a567-0e02b2c3d479","x":"0`, 1),
		"upper-case tenant":      strings.Replace(string(good), "b302099a8058", "B302099A8058", 1),
		"tenant as wildcard":     strings.Replace(string(good), "01890a5d-ac96-774b-bcce-b302099a8058", ">", 1),
		"source of someone else": strings.Replace(string(good), "/pratique/event", "/pratique/intake", 1),
		"type with a space":      strings.Replace(string(good), "v1.Failure", "v1.Fail ure", 1),
		"negative sequence":      strings.Replace(string(good), `"sequence":3`, `"sequence":-3`, 1),
		"huge sequence":          strings.Replace(string(good), `"sequence":3`, `"sequence":4294967296`, 1),
		"data is a string":       strings.Replace(string(good), `"data":{`, `"data":"","x":{`, 1),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			require.NotEqual(t, string(good), body)
			_, err := event.Decode([]byte(body))
			require.Error(t, err)
		})
	}
}

func TestSubjects(t *testing.T) {
	t.Parallel()
	tenant := "01890a5d-ac96-774b-bcce-b302099a8058"
	for typ, want := range map[string]string{
		"pratique.intake.v1.RequestSubmitted":        "pratique.intake.v1.request_submitted." + tenant,
		"pratique.intake.v1.EprRegistrationExpired":  "pratique.intake.v1.epr_registration_expired." + tenant,
		"pratique.intake.v1.PersonChanged":           "directory.intake.v1.person_changed." + tenant,
		"pratique.intake.v1.RoleBindingChanged":      "directory.intake.v1.role_binding_changed." + tenant,
		"pratique.dispatch.v1.HTTPSProbeDone":        "pratique.dispatch.v1.https_probe_done." + tenant,
		"pratique.release.v2.ImageReleased":          "pratique.release.v2.image_released." + tenant,
		"google.protobuf.Struct":                     "pratique.protobuf.v1.struct." + tenant,
		"pratique.evidence.v1.EvidenceRecorded":      "pratique.evidence.v1.evidence_recorded." + tenant,
		"pratique.release.v1.TrustedRegistryDriftXY": "pratique.release.v1.trusted_registry_drift_xy." + tenant,
	} {
		require.Equal(t, want, event.SubjectOf(event.Envelope{Type: typ, TenantID: tenant}))
	}
	require.Equal(t, "pratique.intake.v1.settings_changed._", event.SubjectOf(event.Envelope{Type: "pratique.intake.v1.SettingsChanged"}))
	require.Equal(t, "pratique.intake.v1.settings_changed.*", event.FilterOf("pratique.intake.v1.SettingsChanged"))
}

func TestAnIDTellsWhenItWasMade(t *testing.T) {
	t.Parallel()
	require.WithinDuration(t, time.Now(), sample(t, t.Context()).Born(), time.Second)
}

func FuzzDecode(f *testing.F) {
	e, err := event.New(context.Background(), &structpb.Struct{}, event.Head{Subject: uuid.New()})
	require.NoError(f, err)
	body, err := e.Encode()
	require.NoError(f, err)
	f.Add(body)
	f.Add([]byte(`{}`))
	f.Add([]byte(`{"specversion":"1.0","id":null}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		e, err := event.Decode(body)
		if err != nil {
			return
		}
		again, err := e.Encode()
		if err != nil {
			return // a year beyond 9999: legal to hold, not to write
		}
		back, err := event.Decode(again)
		require.NoError(t, err)
		require.Equal(t, e.ID, back.ID)
		for _, token := range strings.Split(event.SubjectOf(e), ".") {
			require.NotEmpty(t, token)
			require.NotContains(t, "*>", token)
		}
	})
}
