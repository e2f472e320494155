package contract

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"
)

// left is the content of every table of intake, as far as it is about one tenant or about nobody's tenant: name -> rows. When somebody was last
// seen is left out, and what events write when they arrive.
func (p *product) left(t *testing.T, tenant string) map[string][]string {
	rows, err := p.admin.Query(t.Context(), `select c.relname, exists (select from pg_attribute a where a.attrelid = c.oid and a.attname = 'tenant_id' and not a.attisdropped)
		from pg_class c join pg_namespace n on n.oid = c.relnamespace where n.nspname = 'intake' and c.relkind in ('r', 'p') and not c.relispartition order by 1`)
	require.NoError(t, err)
	type table struct {
		Name   string
		Tenant bool
	}
	tables, err := pgx.CollectRows(rows, pgx.RowToStructByPos[table])
	require.NoError(t, err)
	out := map[string][]string{}
	for _, table := range tables {
		if table.Name == "outbox_cursor" || table.Name == "outbox_mark" || table.Name == "timeline" || strings.HasPrefix(table.Name, "inbox") || strings.HasSuffix(table.Name, "_version") || table.Name == "dead_letter" {
			continue
		}
		query := fmt.Sprintf(`select (to_jsonb(x) - 'last_seen_at' - 'seen_at')::text from intake.%s x`, pgx.Identifier{table.Name}.Sanitize())
		if table.Name == "outbox" {
			query = `select convert_from(body, 'utf8') from intake.outbox x`
		}
		if table.Tenant {
			query += ` where tenant_id = '` + tenant + `'`
		}
		rows, err := p.admin.Query(t.Context(), query+` order by 1`)
		require.NoError(t, err, table.Name)
		out[table.Name], err = pgx.CollectRows(rows, pgx.RowTo[string])
		require.NoError(t, err, table.Name)
	}
	require.Greater(t, len(out), 10)
	for _, name := range []string{"request", "request_transition", "outbox", "denial", "idempotency_key", "epr_registration", "person"} {
		require.Contains(t, out, name)
	}
	return out
}

// leaves says that a call leaves nothing behind, or with a denial exactly one more count of it and one RequestDenied.
func (p *product) leaves(t *testing.T, send sender, c call, status int, code string, denial bool) {
	t.Helper()
	tenant := p.tenant("orders")
	before := p.left(t, tenant)
	send(t, c).is(t, c, status, code)
	after := p.left(t, tenant)
	counted, told := p.total(t, before, after, code)
	if denial {
		require.Equal(t, 1, counted, "%s is counted", c)
		require.Len(t, told, 1, "%s is told", c)
		require.Contains(t, told[0], "pratique.intake.v1.RequestDenied")
		require.Contains(t, told[0], code)
	} else {
		require.Zero(t, counted, "%s", c)
		require.Empty(t, told, "%s", c)
	}
	for name := range before {
		if name != "outbox" && name != "denial" {
			require.Equal(t, before[name], after[name], "%s left something in %s", c, name)
		}
	}
}

// total is how much more often the code was counted at the second look than at the first, and what was told in between.
func (p *product) total(t *testing.T, before, after map[string][]string, code string) (int, []string) {
	counts := func(rows []string) map[string]int {
		out := map[string]int{}
		for _, row := range rows {
			var denial struct {
				Reason string
				Count  int
			}
			require.NoError(t, json.Unmarshal([]byte(row), &denial))
			out[denial.Reason] += denial.Count
		}
		return out
	}
	first, second := counts(before["denial"]), counts(after["denial"])
	more := second[code] - first[code]
	delete(first, code)
	delete(second, code)
	require.Equal(t, first, second, "another denial was counted")
	known, told := map[string]bool{}, []string{}
	for _, row := range before["outbox"] {
		known[row] = true
	}
	for _, row := range after["outbox"] {
		if !known[row] {
			told = append(told, row)
		}
	}
	return more, told
}

func (p *product) entitle(t testing.TB, slug, switches string) {
	p.want(t, 200, "", call{who: "root", do: "PUT " + capabilities + "?tenant_id=" + p.tenant(slug), body: switches})
}

// Every kind of denial and of refusal, by orders: entitled to nothing at first, then to everything but without a registration, then with one.
func TestRefusedCallsLeaveNothing(t *testing.T) {
	p := start(t)
	both(t, p, func(t *testing.T, send sender) {
		p.entitle(t, "orders", "{}")
		defer p.entitle(t, "orders", "{}")
		image := p.image(t)
		body := func(more map[string]any) string { return p.importBody(image, more) }
		scan := func(more map[string]any) string {
			more["epr_record_id"] = nil
			return p.importBody(image, more)
		}
		unregistered := map[string]any{"epr_record_id": "EPR-none"}
		create := keyed(call{who: "omar", do: "POST " + imports, body: body(unregistered)}, randomID())
		look := keyed(call{who: "omar", do: "POST " + scans, body: scan(map[string]any{})}, randomID())

		p.leaves(t, send, create, 403, "tenant_capability_not_entitled", true)
		p.leaves(t, send, look, 403, "tenant_capability_not_entitled", true)
		dry := create
		dry.do += "?validate_only=true"
		p.leaves(t, send, dry, 403, "tenant_capability_not_entitled", false)
		p.leaves(t, send, call{who: "omar", do: "POST " + imports, body: "{}"}, 400, "validation_failed", false)

		p.leaves(t, send, call{who: "omar", do: "PUT " + capabilities + "?tenant_id=" + p.tenant("orders"), body: entitled}, 403, "permission_denied", true)
		p.leaves(t, send, call{who: "omar", do: "GET /api/v1/admin/cases"}, 403, "permission_denied", true)
		foreign := create
		foreign.header = map[string]string{"X-Tenant-ID": "payments"}
		p.leaves(t, send, foreign, 403, "tenant_context_mismatch", false)

		p.disable(t, func() {
			p.leaves(t, send, create, 403, "tenant_disabled", true)
			p.leaves(t, send, look, 403, "tenant_disabled", true)
			p.leaves(t, send, call{who: "omar", do: "POST " + registrations, body: `{"product_name":"a","technology_name":"b"}`}, 403, "tenant_disabled", true)
		})

		p.entitle(t, "orders", entitled)
		p.leaves(t, send, create, 412, "epr_registration_required", true)
		p.leaves(t, send, dry, 412, "epr_registration_required", false)
		elsewhere := call{who: "omar", do: "POST " + imports, body: body(map[string]any{"destination_image_ref": "elsewhere.example.com/x:1"})}
		p.leaves(t, send, elsewhere, 403, "destination_not_allowed", true)
		inside := map[string]any{"source_registry": p.Connection.Registries["quarantine"].Address}
		p.leaves(t, send, call{who: "omar", do: "POST " + scans, body: scan(inside)}, 403, "source_not_allowed", true)
		p.leaves(t, send, call{who: "omar", do: "POST " + scans, body: strings.Replace(look.body, "contract/", "nobody/", 1)}, 422, "source_not_found", false)

		own := map[string]any{"epr_record_id": p.registration(t, "omar", "rita")}
		p.leaves(t, send, call{who: "omar", do: "POST " + imports + "?validate_only=true", body: body(own)}, 200, "", false)
		chart := map[string]any{"source_registry": p.moody, "source_image_ref": "chart:1", "epr_record_id": own["epr_record_id"]}
		p.leaves(t, send, call{who: "omar", do: "POST " + imports, body: body(chart)}, 422, "image_unacceptable", false)

		// The keys of all those refusals are still free.
		made := keyed(call{who: "omar", do: "POST " + imports, body: body(own)}, create.header["Idempotency-Key"])
		p.caseOf(t, send(t, made).is(t, made, 201, "").text("data.id"))
		p.leaves(t, send, made, 201, "", false)
		p.leaves(t, send, call{who: "omar", do: "POST " + imports, body: body(own)}, 409, "duplicate_request", false)
		p.leaves(t, send, call{who: "omar", do: "POST " + imports + "?validate_only=true", body: body(own)}, 409, "duplicate_request", false)
		reused := made
		reused.body = body(map[string]any{"epr_record_id": "EPR-other"})
		p.leaves(t, send, reused, 409, "idempotency_key_reused", false)
		p.entitle(t, "orders", "{}")
		p.leaves(t, send, made, 201, "", false)
	})
}

// disable switches orders off, which has no call of its own yet, for as long as play runs.
func (p *product) disable(t *testing.T, play func()) {
	set := func(status string) {
		_, err := p.admin.Exec(t.Context(), `update intake.tenant set status = $1 where tenant_id = $2`, status, p.tenant("orders"))
		require.NoError(t, err)
	}
	set("disabled")
	defer set("active")
	play()
}
