package contract

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pratique-io/pratique/cmd/pratique/up"
	"github.com/pratique-io/pratique/internal/auth"
)

// expected is what a persona's call comes to before its handler: nothing, or the code of the refusal. It is derived from the rules in the
// protos and the personas' roles, not from what the product does.
func expected(rule auth.Rule, who string) string {
	var persona up.Persona // a stranger holds nothing
	for _, one := range up.Personas() {
		if one.Name == who {
			persona = one
		}
	}
	holds := rule.Authenticated
	for _, role := range rule.Roles {
		holds = holds || role == persona.Role
	}
	switch {
	case !holds:
		return "permission_denied"
	case rule.TenantRequired && persona.Tenant == "":
		return "invalid_tenant"
	}
	return ""
}

// Every path, every method and every kind of caller. The ids are nobody's and the bodies empty, so that who is let in changes nothing.
func TestRoles(t *testing.T) {
	p := start(t)
	denied, let := 0, 0
	judge := func(c call, a answer, code string) {
		t.Helper()
		if code != "" {
			denied++
			require.Equal(t, code, a.code, "%s: %s", c, a.raw)
			return
		}
		let++
		require.NotContains(t, []string{"permission_denied", "unauthorized", "invalid_tenant", "tenant_context_mismatch"}, a.code, "%s: %s", c, a.raw)
	}
	for _, who := range everybody() {
		for _, h := range p.paths(t) {
			rule, ok := p.table.Rule(auth.MethodName(h.rpc))
			require.True(t, ok)
			c := call{who: who, do: h.with(randomID()), body: h.sound()}
			judge(c, p.rest(t, c), expected(rule, who))
		}
		for _, method := range p.table.Methods() {
			rule, _ := p.table.Rule(method)
			c := call{who: who, method: method, body: "{}"}
			if name := idField(p.rpc(t, method)); name != "" {
				c.body = p.idBody(method, name, randomID())
			}
			judge(c, p.grpc(t, c), expected(rule, who))
		}
	}
	require.Greater(t, denied, 200)
	require.Greater(t, let, 300)
}

// A tenant that is named does not give a role that is not there, and a system role works for the tenant it names.
func TestRolesDoNotComeWithTheTenantHeader(t *testing.T) {
	p := start(t)
	both(t, p, func(t *testing.T, send sender) {
		header := map[string]string{"X-Tenant-ID": "payments"}
		for _, c := range []struct {
			call
			status int
			code   string
		}{
			{call{who: "stranger", do: "GET " + imports, header: header}, 403, "tenant_context_mismatch"},
			{call{who: "stranger", do: "GET " + imports}, 403, "permission_denied"},
			{call{who: "stranger", do: "GET /api/v1/me"}, 200, ""},
			{call{who: "root", do: "POST " + imports, header: header, body: "{}"}, 403, "permission_denied"},
			{call{who: "sam", do: "POST " + registrations, header: header, body: "{}"}, 403, "permission_denied"},
			{call{who: "sam", do: "GET /api/v1/settings/operation-capabilities", header: header}, 200, ""},
			{call{who: "sam", do: "GET /api/v1/settings/operation-capabilities"}, 400, "invalid_tenant"},
			{call{who: "sam", do: "GET " + imports, header: header}, 200, ""},
			{call{who: "ada", do: "GET /api/v1/admin/cases", header: header}, 403, "permission_denied"},
			{call{who: "ada", do: "PUT " + capabilities + "?tenant_id=" + p.tenant("payments"), body: entitled}, 403, "permission_denied"},
		} {
			send(t, c.call).is(t, c.call, c.status, c.code)
		}
	})
}

// A decision is taken once, by who may, and what depends on it sees it at once.
func TestDecidingTwice(t *testing.T) {
	p := start(t)
	both(t, p, func(t *testing.T, send sender) {
		made := p.pending(t).text("data.id")
		for _, who := range []string{"mel", "ada", "omar", "stranger"} {
			for _, verb := range []string{"approve", "reject", "release"} {
				c := call{who: who, do: "POST " + imports + "/" + made + "/" + verb, body: `{"reason":"mine"}`}
				send(t, c).is(t, c, 403, "permission_denied")
			}
		}
		c := call{who: "sam", do: "POST " + imports + "/" + made + "/reject", body: `{"reason":"no"}`}
		a := send(t, c).is(t, c, 202, "")
		require.Equal(t, "rejected", a.text("data.status"), "the decision is in the answer")
		for _, again := range []call{
			{who: "rita", do: "POST " + imports + "/" + made + "/approve", body: `{}`}, {who: "sam", do: "POST " + imports + "/" + made + "/reject", body: `{"reason":"no"}`},
		} {
			a := send(t, again).is(t, again, 409, "approval_already_decided")
			require.Equal(t, "reload", a.text("error.details.next_action"))
		}
		c = call{who: "mel", do: "POST " + imports + "/" + made + "/withdraw", body: `{}`}
		require.Equal(t, "rejected", send(t, c).is(t, c, 409, "import_not_withdrawable").text("error.details.import_status"))
		c = call{who: "rita", do: "POST " + imports + "/" + made + "/release", body: `{}`}
		// What release knows of the request comes by events; that it may not be released holds all the while.
		require.Eventually(t, func() bool {
			a = send(t, c).is(t, c, 409, "release_not_eligible")
			return a.text("error.details.import_status") == "rejected"
		}, 30*time.Second, 20*time.Millisecond, "release does not hear of the rejection")
		require.Equal(t, made, a.text("error.details.import_id"))
		require.NotEmpty(t, a.text("error.details.release_blocker_reason"))
	})
}
