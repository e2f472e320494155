package operation

import (
	"fmt"
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pratique-io/pratique/cmd/pratique/demo"
	"github.com/pratique-io/pratique/cmd/pratique/up"
	"github.com/pratique-io/pratique/internal/sample"
)

const (
	startLimit = 90 * time.Second
	stopLimit  = 10 * time.Second
	runLimit   = 3 * time.Minute
	imports    = "/api/v1/images/import-requests"
)

// house is a running `pratique up` and what a client knows of it.
type house struct {
	*program
	data string
	up.Connection
	api *demo.API
}

// open starts `pratique up` on a data directory and waits until it is ready.
func open(t *testing.T, data string, c call, more ...string) *house {
	t.Helper()
	c.args = append([]string{"up", "--data", data, "--listen", "127.0.0.1:0"}, more...)
	h := &house{program: c.start(t), data: data}
	h.says(t, "\nready\n", startLimit)
	h.connect(t)
	return h
}

func (h *house) connect(t *testing.T) {
	t.Helper()
	var err error
	h.Connection, err = up.ReadConnection(h.data)
	require.NoError(t, err)
	h.api = &demo.API{Base: h.REST, Token: func(persona string) (string, error) { return up.Token(h.data, persona) }, HTTP: &http.Client{}, Patience: 20 * time.Second}
}

func (h *house) expect(t *testing.T, persona, method, path string, body any, status int, code string) demo.Answer {
	t.Helper()
	answer, err := h.api.Expect(t.Context(), persona, method, path, body, status, code)
	require.NoError(t, err)
	return answer
}

func (h *house) until(t *testing.T, persona, path, what string, done func(demo.Answer) (bool, error)) demo.Answer {
	t.Helper()
	answer, err := h.api.Until(t.Context(), persona, path, what, runLimit, done)
	require.NoError(t, err)
	return answer
}

// furnish entitles payments, registers its product and gives the record's id.
func (h *house) furnish(t *testing.T) string {
	t.Helper()
	h.expect(t, "root", http.MethodPut, "/api/v1/admin/settings/operation-capabilities?tenant_id="+h.Tenants["payments"]+"&change_reason=test",
		map[string]any{"quarantine_request": true, "quarantine_release": true, "ondemand_image_scanning": true}, http.StatusOK, "")
	created := h.expect(t, "mel", http.MethodPost, "/api/v1/epr/registration-requests", map[string]any{
		"product_name": "Checkout", "technology_name": "container images", "business_justification": "the shop sells through it",
	}, http.StatusCreated, "")
	id := created.Get("data.id")
	h.expect(t, "sam", http.MethodPost, "/api/v1/admin/epr/registration-requests/"+id+"/approve", map[string]any{}, http.StatusOK, "")
	h.until(t, "mel", "/api/v1/epr/registration-requests/"+id, "the registration", func(a demo.Answer) (bool, error) {
		return a.Get("data.lifecycle_status") == "active", nil
	})
	return created.Get("data.epr_record_id")
}

// push puts a sample image into upstream.
func (h *house) push(t *testing.T, image sample.Image, repository string) {
	t.Helper()
	registry := h.Registries["upstream"]
	require.NoError(t, image.Push(t.Context(), nil, registry.Address, repository, "1.0", registry.Username, registry.Password))
}

// ask asks for an image in upstream and gives the request's id.
func (h *house) ask(t *testing.T, epr, reference string) string {
	t.Helper()
	return h.expect(t, "mel", http.MethodPost, imports, map[string]any{
		"epr_record_id": epr, "source_registry": h.Registries["upstream"].Address, "source_image_ref": reference, "justification": "needed",
	}, http.StatusCreated, "").Get("data.id")
}

func (h *house) approve(t *testing.T, id string) {
	t.Helper()
	h.expect(t, "sam", http.MethodPost, imports+"/"+id+"/approve", map[string]any{}, http.StatusAccepted, "")
}

// passes waits until a request is ready for release.
func (h *house) passes(t *testing.T, id string) {
	t.Helper()
	h.until(t, "mel", imports+"/"+id, "the clean image to pass", func(a demo.Answer) (bool, error) {
		if status := a.Get("data.status"); status == "failed" || status == "quarantined" {
			return false, fmt.Errorf("it became %s: %s %s", status, a.Get("data.failure_code"), a.Get("data.error_message"))
		}
		return a.Get("data.release_state") == "ready_for_release", nil
	})
}

// release releases a request and gives where it went and what it is.
func (h *house) release(t *testing.T, id string) (reference, digest string) {
	t.Helper()
	h.expect(t, "rita", http.MethodPost, imports+"/"+id+"/release", map[string]any{}, http.StatusAccepted, "")
	released := h.until(t, "mel", imports+"/"+id, "the release", func(a demo.Answer) (bool, error) {
		if a.Get("data.release_state") == "release_blocked" {
			return false, fmt.Errorf("blocked: %s", a.Get("data.release_blocker_reason"))
		}
		return a.Get("data.release_state") == "released", nil
	})
	releases := released.List("data.releases")
	require.Len(t, releases, 1)
	return fmt.Sprint(releases[0]["destination_image_ref"]), fmt.Sprint(releases[0]["digest"])
}

// told counts what a person was told, by type and what it is about.
func (h *house) told(t *testing.T, persona string) map[string]int {
	t.Helper()
	counts := map[string]int{}
	for _, n := range h.expect(t, persona, http.MethodGet, "/api/v1/notifications?limit=200", nil, http.StatusOK, "").List("data") {
		counts[fmt.Sprint(n["notification_type"])+" "+fmt.Sprint(n["related_resource_id"])]++
	}
	return counts
}
