package contract

import (
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// wrongField is one value that a field does not take.
type wrongField struct {
	field string
	value any
}

func long(n int) string { return strings.Repeat("é", n) }

// eachWrong plays values one at a time on top of a body that is right, and all fields at once.
func eachWrong(t *testing.T, p *product, c call, base map[string]any, wrongs []wrongField) {
	t.Helper()
	both(t, p, func(t *testing.T, send sender) {
		together, names := map[string]any{}, []string{}
		for name, value := range base {
			together[name] = value
		}
		for _, w := range wrongs {
			body := map[string]any{}
			for name, value := range base {
				body[name] = value
			}
			body[w.field], together[w.field] = w.value, w.value
			if w.value == nil {
				delete(body, w.field)
				delete(together, w.field)
			}
			names = append(names, w.field)
			c.body = encode(body)
			require.Equal(t, []string{w.field}, send(t, c).is(t, c, 400, "validation_failed").fields(), c.String())
		}
		slices.Sort(names)
		c.body = encode(together)
		require.Equal(t, slices.Compact(names), send(t, c).is(t, c, 400, "validation_failed").fields(), "all problems at once")
	})
}

func TestFieldsOfARegistration(t *testing.T) {
	p := start(t)
	eachWrong(t, p, call{who: "mel", do: "POST " + registrations}, map[string]any{"product_name": "Checkout", "technology_name": "images"}, []wrongField{
		{"product_name", nil}, {"product_name", ""}, {"product_name", " \t "}, {"product_name", long(201)}, {"product_name", "a\nb"}, {"product_name", "a\x1b[31m"},
		{"technology_name", nil}, {"technology_name", long(201)}, {"technology_name", "a\u0085b"},
		{"business_justification", long(2001)}, {"business_justification", "bell\a"},
		{"epr_record_id", "has space"}, {"epr_record_id", "-begins"}, {"epr_record_id", "ends-"}, {"epr_record_id", "ü"}, {"epr_record_id", "a/b"},
		{"epr_record_id", "a\"b"}, {"epr_record_id", strings.Repeat("a", 65)},
	})
	both(t, p, func(t *testing.T, send sender) {
		body := map[string]any{"product_name": long(200), "technology_name": "t", "business_justification": "two\nlines", "epr_record_id": "E." + randomID()}
		c := call{who: "mel", do: "POST " + registrations, body: encode(body)}
		made := send(t, c).is(t, c, 201, "")
		require.Equal(t, body["epr_record_id"], made.text("data.epr_record_id"))
		require.Equal(t, "pending", made.text("data.status"))
		a := send(t, c).is(t, c, 409, "already_exists")
		require.Equal(t, body["epr_record_id"], a.text("error.details.epr_record_id"))
		withdraw := call{who: "mel", do: "POST " + registrations + "/" + made.text("data.id") + "/withdraw", body: encode(map[string]any{"reason": long(1001)})}
		require.Equal(t, []string{"reason"}, send(t, withdraw).is(t, withdraw, 400, "validation_failed").fields())
		withdraw.body = "{}"
		send(t, withdraw).is(t, withdraw, 200, "")
		send(t, withdraw).is(t, withdraw, 409, "invalid_lifecycle_action")
	})
}

func TestFieldsOfAnImport(t *testing.T) {
	p := start(t)
	base := map[string]any{"epr_record_id": p.epr, "source_registry": p.upstream(), "source_image_ref": "contract/none:1"}
	wrongs := []wrongField{
		{"epr_record_id", nil}, {"epr_record_id", ""}, {"epr_record_id", strings.Repeat("a", 65)}, {"epr_record_id", "no spaces"}, {"epr_record_id", "a\nb"},
		{"source_registry", nil}, {"source_registry", ""}, {"source_registry", "hub"}, {"source_registry", "https://registry.example.com"},
		{"source_image_ref", nil}, {"source_image_ref", ""}, {"source_image_ref", "UPPER/case:1"}, {"source_image_ref", "a:b:c"}, {"source_image_ref", long(1025)},
		{"justification", long(2001)}, {"justification", "a\x07"}, {"registry_auth_id", randomID()}, {"registry_auth_id", "x"},
		{"artifact_type", "helm"}, {"artifact_type", "IMAGE"},
		{"destination_image_ref", "payments/x:1"}, {"destination_image_ref", "trusted.example.com"}, {"destination_image_ref", "trusted.example.com/x@sha256:" + strings.Repeat("a", 64)},
		{"destination_image_ref", "http://trusted.example.com/payments/x:1"}, {"destination_image_ref", "trusted.example.com/Payments/x:1"},
		{"destination_image_ref", "trusted.example.com/payments/../x:1"}, {"destination_image_ref", long(1025)},
	}
	eachWrong(t, p, call{who: "mel", do: "POST " + imports}, base, slices.DeleteFunc(slices.Clone(wrongs), func(w wrongField) bool {
		return w.field == "source_image_ref" && w.value != nil && w.value != "" // beside a registry that cannot be read, it is not judged
	}))
	both(t, p, func(t *testing.T, send sender) {
		for _, w := range wrongs {
			c := call{who: "mel", do: "POST " + imports, body: p.importBody("contract/none:1", map[string]any{w.field: w.value})}
			require.Equal(t, []string{w.field}, send(t, c).is(t, c, 400, "validation_failed").fields())
			if w.field == "epr_record_id" || w.field == "destination_image_ref" || w.field == "artifact_type" {
				continue
			}
			c = call{who: "mel", do: "POST " + scans, body: p.importBody("contract/none:1", map[string]any{"epr_record_id": nil, w.field: w.value})}
			require.Equal(t, []string{w.field}, send(t, c).is(t, c, 400, "validation_failed").fields())
		}
		made := p.pending(t).text("data.id")
		c := call{who: "mel", do: "POST " + imports + "/" + made + "/withdraw", body: encode(map[string]any{"reason": long(1001)})}
		require.Equal(t, []string{"reason"}, send(t, c).is(t, c, 400, "validation_failed").fields())
	})
}

func TestDestinationsOfOthers(t *testing.T) {
	p := start(t)
	w := p.through(t)
	trusted := p.Connection.Registries["trusted"].Address
	both(t, p, func(t *testing.T, send sender) {
		for _, destination := range []string{
			"trusted.example.com/payments/x:1", trusted + "/orders/x:1", trusted + "/paymentsx/x:1", trusted + "/payments-x/x:1", trusted + "/payments:1",
			trusted + "/x/payments/x:1", p.upstream() + "/payments/x:1", "localhost:1/payments/x:1", p.Connection.Registries["quarantine"].Address + "/payments/x:1",
		} {
			body := map[string]any{"destination_image_ref": destination}
			c := call{who: "mel", do: "POST " + imports, body: p.importBody("contract/none:1", body)}
			a := send(t, c).is(t, c, 403, "destination_not_allowed")
			require.Equal(t, p.tenant("payments"), a.text("error.details.tenant_id"))
			c = call{who: "rita", do: "POST " + imports + "/" + w.request + "/release", body: encode(body)}
			send(t, c).is(t, c, 403, "destination_not_allowed")
		}
		for _, destination := range []string{"x", "payments/x:1", trusted + "/payments/X:1", trusted + "/payments/x@sha256:" + strings.Repeat("a", 64), trusted + "/payments/x:.bad", long(1025), "a\x07b"} {
			c := call{who: "rita", do: "POST " + imports + "/" + w.request + "/release", body: encode(map[string]any{"destination_image_ref": destination})}
			require.Equal(t, []string{"destination_image_ref"}, send(t, c).is(t, c, 400, "validation_failed").fields())
		}
		c := call{who: "rita", do: "POST " + imports + "/" + w.request + "/release", body: encode(map[string]any{"destination_image_ref": w.destination})}
		send(t, c).is(t, c, 409, "already_released")
		for _, hash := range []string{"expected_evidence_hash", "expected_policy_hash"} {
			c := call{who: "rita", do: "POST " + imports + "/" + w.request + "/release", body: encode(map[string]any{hash: "sha256:other"})}
			send(t, c).is(t, c, 409, "approval_lapsed")
			c.body = encode(map[string]any{hash: long(201), "reason": long(2001)})
			require.Equal(t, []string{hash, "reason"}, send(t, c).is(t, c, 400, "validation_failed").fields())
		}
	})
}

func TestFieldsOfSettings(t *testing.T) {
	p := start(t)
	tenant := "tenant_id=" + p.tenant("orders")
	both(t, p, func(t *testing.T, send sender) {
		policy := "/api/v1/admin/settings/quarantine-policy"
		for _, do := range []string{"GET " + capabilities, "PUT " + capabilities, "GET " + policy} {
			body := ""
			if do[:3] == "PUT" {
				body = "{}"
			}
			for _, query := range []string{"", "?" + tenant + "&all_tenants=true", "?all_tenants=false"} {
				c := call{who: "root", do: do + query, body: body}
				require.Contains(t, send(t, c).is(t, c, 400, "validation_failed").fields(), "tenant_id", c.String())
			}
			if body == "" {
				c := call{who: "root", do: do + "?" + tenant + "&all_tenants=false"}
				send(t, c).is(t, c, 200, "")
			}
		}
		now := call{who: "root", do: "GET " + capabilities + "?" + tenant}
		put := func(body string) call { return call{who: "root", do: "PUT " + capabilities + "?" + tenant, body: body} }
		c := put(`{}`)
		c.do += "&change_reason=" + strings.Repeat("a", 1001)
		require.Equal(t, []string{"change_reason"}, send(t, c).is(t, c, 400, "validation_failed").fields())
		c = put(`{"version":-1}`)
		require.Equal(t, []string{"capabilities.version"}, send(t, c).is(t, c, 400, "validation_failed").fields())
		c = put(`{}`)
		stored := send(t, c).is(t, c, 200, "")
		version := stored.at("data.version").(float64)
		for _, stale := range []float64{0, version - 1, version + 1, 2147483647} {
			if stale == version {
				continue
			}
			c = put(encode(map[string]any{"version": stale, "build": true}))
			send(t, c).is(t, c, 409, "state_conflict")
		}
		c = put(encode(map[string]any{"version": version}))
		require.Equal(t, version+1, send(t, c).is(t, c, 200, "").at("data.version"))
		a := send(t, now).is(t, now, 200, "")
		require.Equal(t, p.tenant("orders"), a.text("data.tenant_id"))
		require.Equal(t, false, a.at("data.build"), "a refused change changed nothing")
		require.NotEmpty(t, a.text("data.updated_by"))
	})
}

func TestFieldsOfDecisions(t *testing.T) {
	p := start(t)
	both(t, p, func(t *testing.T, send sender) {
		made := p.pending(t).text("data.id")
		epr := p.want(t, 201, "", call{who: "mel", do: "POST " + registrations, body: `{"product_name":"a","technology_name":"b"}`}).text("data.id")
		caseID := p.caseOf(t, made)
		for _, subject := range []string{imports + "/" + made, "/api/v1/admin/images/import-requests/" + made, "/api/v1/admin/cases/" + caseID, "/api/v1/admin/epr/registration-requests/" + epr} {
			for verb, reasons := range map[string][]string{"reject": {"", "  \n ", long(4001), "a\x00b"}, "approve": {long(4001), "a\x00b"}} {
				for _, reason := range reasons {
					p.fieldOf(t, send, call{who: "sam", do: "POST " + subject + "/" + verb, body: encode(map[string]any{"reason": reason})}, "reason")
				}
			}
			c := call{who: "sam", do: "POST " + subject + "/reject", body: "{}"}
			require.Equal(t, []string{"reason"}, send(t, c).is(t, c, 400, "validation_failed").fields())
		}
		comment := "POST /api/v1/admin/cases/" + caseID + "/comment"
		for _, text := range []string{"", "   ", long(4001), "a\x00b"} {
			p.fieldOf(t, send, call{who: "sam", do: comment, body: encode(map[string]any{"text": text})}, "text")
		}
		c := call{who: "sam", do: comment, body: encode(map[string]any{"text": long(4000)})}
		send(t, c).is(t, c, 201, "")
		c = call{who: "sam", do: "GET " + imports + "/" + made}
		require.Equal(t, "pending", send(t, c).is(t, c, 200, "").text("data.status"), "no refused decision decided")
	})
}

// fieldOf insists that a field is refused: by the service as a value, or by the gateway as a text that cannot be one.
func (p *product) fieldOf(t testing.TB, send sender, c call, field string) {
	t.Helper()
	a := send(t, c)
	require.Equal(t, 400, a.status, "%s: %s", c, a.raw)
	if a.code == "invalid_request" {
		require.Contains(t, c.body, `\u0000`, "%s: %s", c, a.raw)
		require.Equal(t, field, a.text("error.details.field"))
		return
	}
	require.Equal(t, "validation_failed", a.code, "%s: %s", c, a.raw)
	require.Equal(t, []string{field}, a.fields(), "%s: %s", c, a.raw)
}

func TestFieldsOfAUse(t *testing.T) {
	p := start(t)
	w := p.through(t)
	both(t, p, func(t *testing.T, send sender) {
		for _, wrong := range []wrongField{
			{"project_id", long(201)}, {"environment", long(201)}, {"notes", long(2001)}, {"project_id", "\x00"}, {"environment", "a\x00"}, {"notes", "\x00b"},
		} {
			p.fieldOf(t, send, call{who: "mel", do: "POST " + artifacts + "/" + w.artifact + "/consume", body: encode(map[string]any{wrong.field: wrong.value})}, wrong.field)
		}
		ids := make([]string, 201)
		for i := range ids {
			ids[i] = randomID()
		}
		bulk := call{who: "mel", do: "POST /api/v1/notifications/delete-bulk"}
		for body, fields := range map[string][]string{
			`{}`: {"ids"}, `{"ids":[]}`: {"ids"}, encode(map[string]any{"ids": ids}): {"ids"}, encode(map[string]any{"ids": []string{"x", ids[0], ""}}): {"ids[0]", "ids[2]"},
		} {
			bulk.body = body
			require.Equal(t, fields, send(t, bulk).is(t, bulk, 400, "validation_failed").fields())
		}
		bulk.body = encode(map[string]any{"ids": ids[:200]})
		require.Equal(t, "0", send(t, bulk).is(t, bulk, 200, "").text("data.affected"))
	})
}
