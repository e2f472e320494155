package demo

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/google/uuid"
)

// API speaks REST as one of the personas. It is a client like any other: it knows the contract and nothing of our code.
type API struct {
	Base string // http://host:port
	// Token gives a persona's bearer token.
	Token func(persona string) (string, error)
	HTTP  *http.Client
	// Patience is how long a call is tried again while nobody answers: the story is also told while services are killed.
	Patience time.Duration
}

// Answer is one answer, read whole.
type Answer struct {
	Status int
	Header http.Header
	Raw    []byte
	Body   map[string]any
	// Retried says that an earlier attempt of the same call may have had its effect.
	Retried bool
}

// Get reads a dotted path in the body, "data.release_state"; the empty string when it is not there.
func (a Answer) Get(path string) string {
	switch v := a.value(path).(type) {
	case nil:
		return ""
	case string:
		return v
	default:
		return fmt.Sprint(v)
	}
}

func (a Answer) value(path string) any {
	var at any = a.Body
	for _, name := range strings.Split(path, ".") {
		object, ok := at.(map[string]any)
		if !ok {
			return nil
		}
		at = object[name]
	}
	return at
}

// List reads a list of objects at a dotted path.
func (a Answer) List(path string) []map[string]any {
	items, _ := a.value(path).([]any)
	out := make([]map[string]any, 0, len(items))
	for _, item := range items {
		if object, ok := item.(map[string]any); ok {
			out = append(out, object)
		}
	}
	return out
}

// Code is the error's code, if the answer is an error.
func (a Answer) Code() string { return a.Get("error.code") }

// Call makes one call. body may be nil. A POST carries an idempotency key of its own, so that trying again is safe.
func (c *API) Call(ctx context.Context, persona, method, path string, body any) (Answer, error) {
	var raw []byte
	if body != nil {
		var err error
		if raw, err = json.Marshal(body); err != nil {
			return Answer{}, err
		}
	}
	key := uuid.Must(uuid.NewV7()).String()
	deadline := time.Now().Add(c.Patience)
	for attempt := 0; ; attempt++ {
		answer, err := c.once(ctx, persona, method, path, key, raw)
		answer.Retried = attempt > 0
		if !unanswered(answer, err) || time.Now().After(deadline) || ctx.Err() != nil {
			return answer, err
		}
		if err := pause(ctx, 200*time.Millisecond); err != nil {
			return answer, err
		}
	}
}

// unanswered tells "nobody there" from an answer.
func unanswered(answer Answer, err error) bool {
	return err != nil || answer.Status == http.StatusServiceUnavailable || answer.Status == http.StatusBadGateway ||
		answer.Status == http.StatusGatewayTimeout || answer.Code() == "internal"
}

func (c *API) once(ctx context.Context, persona, method, path, key string, raw []byte) (Answer, error) {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, method, c.Base+path, bytes.NewReader(raw))
	if err != nil {
		return Answer{}, err
	}
	if persona != "" {
		token, err := c.Token(persona)
		if err != nil {
			return Answer{}, err
		}
		request.Header.Set("Authorization", "Bearer "+token)
	}
	if raw != nil {
		request.Header.Set("Content-Type", "application/json")
	}
	if method == http.MethodPost {
		request.Header.Set("Idempotency-Key", key)
	}
	response, err := c.HTTP.Do(request)
	if err != nil {
		return Answer{}, err
	}
	defer response.Body.Close()
	const most = 64 << 20
	read, err := io.ReadAll(io.LimitReader(response.Body, most))
	if err != nil {
		return Answer{}, err
	}
	answer := Answer{Status: response.StatusCode, Header: response.Header, Raw: read}
	if strings.HasPrefix(response.Header.Get("Content-Type"), "application/json") && len(read) > 0 {
		if err := json.Unmarshal(read, &answer.Body); err != nil {
			return answer, fmt.Errorf("%s %s answered %d with unreadable JSON: %w", method, path, response.StatusCode, err)
		}
	}
	return answer, nil
}

// Expect makes a call and insists on its status, and on the code when it is an error.
func (c *API) Expect(ctx context.Context, persona, method, path string, body any, status int, code string) (Answer, error) {
	answer, err := c.Call(ctx, persona, method, path, body)
	if err != nil {
		return answer, fmt.Errorf("%s %s as %s: %w", method, path, persona, err)
	}
	if answer.Status != status || answer.Code() != code {
		return answer, fmt.Errorf("%s %s as %s answered %d %q, expected %d %q: %s", method, path, persona, answer.Status, answer.Code(), status, code, short(answer.Raw))
	}
	return answer, nil
}

// Until repeats a GET until the condition holds; the condition may refuse for good with an error.
func (c *API) Until(ctx context.Context, persona, path, what string, limit time.Duration, done func(Answer) (bool, error)) (Answer, error) {
	deadline := time.Now().Add(limit)
	var last Answer
	for {
		answer, err := c.Call(ctx, persona, http.MethodGet, path, nil)
		if err != nil {
			return answer, err
		}
		last = answer
		ok, err := done(answer)
		if err != nil {
			return last, fmt.Errorf("waiting for %s: %w", what, err)
		}
		if ok {
			return last, nil
		}
		if time.Now().After(deadline) {
			return last, fmt.Errorf("waited %s for %s in vain; last answer %d: %s", limit, what, last.Status, short(last.Raw))
		}
		if err := pause(ctx, 100*time.Millisecond); err != nil {
			return last, err
		}
	}
}

func pause(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return errors.Join(context.Cause(ctx), ctx.Err())
	case <-timer.C:
		return nil
	}
}

func short(raw []byte) string {
	const most = 1200
	if len(raw) > most {
		return string(raw[:most]) + "…"
	}
	return string(raw)
}
