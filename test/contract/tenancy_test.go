package contract

import (
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/pratique-io/pratique/internal/auth"
)

// theirs is the id of payments' record that a path is about.
func (p *product) theirs(t *testing.T, w world, pattern string) string {
	switch {
	case strings.Contains(pattern, "/scan-requests/"):
		return w.scan
	case strings.Contains(pattern, "/released-artifacts/"):
		return w.artifact
	case strings.Contains(pattern, "/registration-requests/"):
		return w.epr
	case strings.Contains(pattern, "/cases/"):
		return w.caseID
	case strings.Contains(pattern, "/notifications/"):
		return p.want(t, 200, "", call{who: "mel", do: "GET /api/v1/notifications?limit=1"}).text("data.0.id")
	}
	return w.request
}

func TestRecordsOfOthersDoNotExist(t *testing.T) {
	p := start(t)
	w := p.through(t)
	hidden := 0
	for _, h := range p.paths(t) {
		if !strings.Contains(h.pattern, "{id}") || strings.Contains(h.pattern, "/providers/") {
			continue
		}
		rule, _ := p.table.Rule(auth.MethodName(h.rpc))
		c := call{who: "omar", do: h.with(p.theirs(t, w, h.pattern)), body: h.sound()}
		a := p.rest(t, c)
		if expected(rule, "omar") != "" {
			a.is(t, c, 403, "permission_denied")
			continue
		}
		hidden++
		a.is(t, c, 404, "not_found")
		for _, header := range []string{"payments", p.tenant("payments")} {
			c.header = map[string]string{"X-Tenant-ID": header}
			p.want(t, 403, "tenant_context_mismatch", c)
		}
	}
	require.Greater(t, hidden, 15)
	for _, method := range p.table.Methods() {
		rule, _ := p.table.Rule(method)
		name := idField(p.rpc(t, method))
		if name == "" || strings.Contains(method, "ProviderService") {
			continue
		}
		id := w.request
		switch {
		case strings.Contains(method, "NotificationService"):
			id = p.theirs(t, w, "/notifications/")
		case strings.Contains(method, "Artifact") || strings.Contains(method, "Consumption"):
			id = w.artifact
		case strings.Contains(method, "EprRegistration"):
			id = w.epr
		case strings.HasSuffix(method, "GetScanRequest"):
			id = w.scan
		case strings.HasSuffix(method, "Case"):
			id = w.caseID
		}
		c := call{who: "omar", method: method, body: p.idBody(method, name, id)}
		if expected(rule, "omar") != "" {
			p.grpc(t, c).is(t, c, 403, "permission_denied")
			continue
		}
		p.grpc(t, c).is(t, c, 404, "not_found")
	}
}

func TestListsHoldOnesOwn(t *testing.T) {
	p := start(t)
	w := p.through(t)
	both(t, p, func(t *testing.T, send sender) {
		for _, list := range []string{imports, scans, registrations, artifacts, "/api/v1/notifications", "/api/v1/admin/images/import-requests", "/api/v1/admin/epr/registration-requests"} {
			for _, query := range []string{"?limit=200", "?limit=200&tenant_id=" + p.tenant("orders")} {
				if strings.HasSuffix(list, "notifications") && strings.Contains(query, "tenant_id") {
					continue
				}
				c := call{who: "omar", do: "GET " + list + query}
				a := send(t, c).is(t, c, 200, "")
				for _, secret := range []string{p.tenant("payments"), w.request, w.artifact, w.epr, w.scan, p.epr} {
					require.NotContains(t, a.raw, secret, c.String())
				}
			}
			if strings.HasSuffix(list, "notifications") {
				continue
			}
			c := call{who: "omar", do: "GET " + list + "?tenant_id=" + p.tenant("payments")}
			send(t, c).is(t, c, 403, "tenant_context_mismatch")
		}
		for _, query := range []string{"digest=" + p.digest(t, w), "search=clean", "requested_by=" + p.want(t, 200, "", call{who: "mel", do: "GET /api/v1/me"}).text("data.user_id")} {
			c := call{who: "omar", do: "GET " + imports + "?" + query}
			require.Equal(t, "0", send(t, c).is(t, c, 200, "").text("pagination.total"), query)
			c.who = "sam"
			require.NotEqual(t, "0", send(t, c).is(t, c, 200, "").text("pagination.total"), query)
		}
		for who, allowed := range map[string]bool{"mel": true, "omar": false} {
			c := call{who: who, do: "GET /api/v1/images/verdict?ref=" + w.destination}
			a := send(t, c).is(t, c, 200, "")
			require.Equal(t, allowed, a.at("data.allowed"), who)
			require.Equal(t, allowed, a.text("data.release_id") != "", who)
			require.Equal(t, allowed, a.text("data.digest") != "", who)
		}
		c := call{who: "omar", do: "GET /api/v1/me"}
		require.NotContains(t, send(t, c).is(t, c, 200, "").raw, p.tenant("payments"))
	})
}

func (p *product) digest(t *testing.T, w world) string {
	return p.want(t, 200, "", call{who: "mel", do: "GET " + imports + "/" + w.request}).text("data.source_image_digest")
}

func TestTenantHeaders(t *testing.T) {
	p := start(t)
	both(t, p, func(t *testing.T, send sender) {
		for _, path := range []string{"/api/v1/settings/operation-capabilities", imports, "/api/v1/me", "/api/v1/images/verdict?ref=a.b/c", "/api/v1/settings/quarantine-policy", "/api/v1/notifications"} {
			try := func(who, tenant string, status int, code string) answer {
				t.Helper()
				c := call{who: who, do: "GET " + path, header: map[string]string{"X-Tenant-ID": tenant}}
				return send(t, c).is(t, c, status, code)
			}
			for _, own := range []string{"orders", p.tenant("orders"), strings.ToUpper(p.tenant("orders"))} {
				try("omar", own, 200, "")
				try("root", own, 200, "")
			}
			for _, other := range []string{"payments", p.tenant("payments"), "nobody", randomID()} {
				try("omar", other, 403, "tenant_context_mismatch")
				try("stranger", other, 403, "tenant_context_mismatch")
			}
			for _, missing := range []string{"nobody", randomID()} {
				try("root", missing, 403, "tenant_context_mismatch")
			}
			for _, malformed := range []string{"", "PAYMENTS", "a b", "-a", "a-", "a_b", "{" + p.tenant("orders") + "}", "urn:uuid:" + p.tenant("orders"), "00000000-0000-0000-0000-000000000000",
				strings.ReplaceAll(p.tenant("orders"), "-", "") + "!", strings.Repeat("a", 64), "orders,payments", "*", "orders;payments", "'"} {
				for _, who := range []string{"omar", "root", "stranger"} {
					try(who, malformed, 400, "invalid_tenant")
				}
			}
		}
	})
	// Sent twice it is no tenant, whichever comes first.
	for _, pair := range [][]string{{"orders", "payments"}, {"payments", "orders"}, {"orders", "orders"}} {
		request, err := http.NewRequestWithContext(t.Context(), "GET", p.Connection.REST+"/api/v1/me", nil)
		require.NoError(t, err)
		request.Header["X-Tenant-Id"] = pair
		request.Header.Set("Authorization", "Bearer "+p.token(t, "omar"))
		response, err := p.http.Do(request)
		require.NoError(t, err)
		require.NoError(t, response.Body.Close())
		require.Equal(t, http.StatusBadRequest, response.StatusCode)
	}
}
