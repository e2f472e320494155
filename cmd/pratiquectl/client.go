package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"
)

const (
	api = "/api/v1"
	// answerWithin bounds one call, streams and documents excepted.
	answerWithin = 60 * time.Second
	// maxAnswer bounds a JSON answer, in bytes.
	maxAnswer = 64 << 20
)

// client makes calls to one server.
type client struct {
	base, token, tenant string
	http                *http.Client
}

// loopback says that a host is this machine; names other than localhost are somebody else's decision.
func loopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || (ip != nil && ip.IsLoopback())
}

// problem is an error answer.
type problem struct {
	Status    int
	Code      string
	Message   string
	Details   map[string]any
	RequestID string
	Fields    map[string]string
	Retry     string // Retry-After, seconds
}

func (p *problem) Error() string { return p.Message }

// advices say next_action in terms of this program; others are shown as they are.
var advices = map[string]string{
	"sign_in":                     "give a token that is still valid with --token-file or PRATIQUE_TOKEN",
	"send_x_tenant_id":            "say which tenant with --tenant",
	"choose_own_tenant":           "choose one of the tenants that `pratiquectl me` lists",
	"register_epr":                "register the product with `pratiquectl epr create` and have it approved",
	"request_capability":          "ask a system administrator for the capability (`pratiquectl capabilities set`)",
	"see_explain":                 "see why with `pratiquectl requests explain`",
	"reload":                      "look again; it has changed in the meantime",
	"ask_another_reviewer":        "somebody who did not ask for it must decide",
	"use_existing_request":        "use the request that exists",
	"provide_registry_credential": "give a registry credential with --registry-auth",
	"report_request_id":           "report the request id to whoever runs Pratique",
}

func (p *problem) advice() string {
	action, _ := p.Details["next_action"].(string)
	text, ok := advices[action]
	if !ok {
		text = strings.ReplaceAll(action, "_", " ")
	}
	if id, ok := p.Details["existing_id"].(string); ok {
		text = strings.TrimSpace(text + " (" + id + ")")
	}
	if p.Retry != "" {
		text = strings.TrimSpace(text + " in " + p.Retry + " s")
	}
	return text
}

// request prepares a call; the context bounds it.
func (c *client) request(ctx context.Context, method, path string, query url.Values, body any) (*http.Request, error) {
	target := c.base + api + path
	if len(query) > 0 {
		target += "?" + query.Encode()
	}
	var reader io.Reader
	if body != nil {
		raw, err := json.Marshal(body)
		if err != nil {
			return nil, fmt.Errorf("body: %w", err)
		}
		reader = bytes.NewReader(raw)
	}
	request, err := http.NewRequestWithContext(ctx, method, target, reader)
	if err != nil {
		return nil, err
	}
	if body != nil {
		request.Header.Set("Content-Type", "application/json")
	}
	if c.token != "" {
		request.Header.Set("Authorization", "Bearer "+c.token)
	}
	if c.tenant != "" {
		request.Header.Set("X-Tenant-ID", c.tenant)
	}
	return request, nil
}

// call makes a call and reads its JSON answer; an error answer is a *problem.
func (c *client) call(ctx context.Context, method, path string, query url.Values, body any, headers ...string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, answerWithin)
	defer cancel()
	request, err := c.request(ctx, method, path, query, body)
	if err != nil {
		return nil, err
	}
	for i := 0; i+1 < len(headers); i += 2 {
		if headers[i+1] != "" {
			request.Header.Set(headers[i], headers[i+1])
		}
	}
	response, err := c.http.Do(request)
	if err != nil {
		return nil, err
	}
	defer func() { _ = response.Body.Close() }() // read to its end or given up
	if response.StatusCode >= 300 {
		return nil, problemOf(response)
	}
	raw, err := io.ReadAll(io.LimitReader(response.Body, maxAnswer+1))
	switch {
	case err != nil:
		return nil, err
	case len(raw) > maxAnswer:
		return nil, fmt.Errorf("the answer is larger than %d MiB", maxAnswer>>20)
	}
	return raw, nil
}

func (c *client) get(ctx context.Context, path string, query url.Values) ([]byte, error) {
	return c.call(ctx, http.MethodGet, path, query, nil)
}

// post sends the fields that are not empty.
func (c *client) post(ctx context.Context, path string, fields map[string]string, headers ...string) ([]byte, error) {
	body := maps.Clone(fields)
	maps.DeleteFunc(body, func(_, value string) bool { return value == "" })
	if body == nil {
		body = map[string]string{}
	}
	return c.call(ctx, http.MethodPost, path, nil, body, headers...)
}

// problemOf reads an error answer, ours or a proxy's.
func problemOf(response *http.Response) error {
	p := &problem{Status: response.StatusCode, RequestID: response.Header.Get("X-Request-Id"), Retry: response.Header.Get("Retry-After")}
	var body struct {
		Error struct {
			Code, Message string
			Details       map[string]any
			RequestID     string `json:"request_id"`
		}
		FieldErrors map[string]string `json:"field_errors"`
	}
	raw, err := io.ReadAll(io.LimitReader(response.Body, 1<<20))
	if err != nil || json.Unmarshal(raw, &body) != nil || body.Error.Code == "" {
		p.Code = fmt.Sprintf("HTTP %d", response.StatusCode)
		p.Message = "the server's answer is not Pratique's; is the address right?"
		return p
	}
	p.Code, p.Message, p.Details, p.Fields = body.Error.Code, body.Error.Message, body.Error.Details, body.FieldErrors
	p.RequestID = first(body.Error.RequestID, p.RequestID)
	return p
}

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }

// id checks an id before it becomes part of a path.
func id(text string) (string, error) {
	if text == "" || strings.ContainsFunc(text, func(r rune) bool {
		return !(r >= '0' && r <= '9' || r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r == '-')
	}) {
		return "", usage("%q is no id", text)
	}
	return text, nil
}
