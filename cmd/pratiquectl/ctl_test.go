package main

import (
	"bytes"
	"context"
	"flag"
	"fmt"
	"go/parser"
	"go/token"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

var update = flag.Bool("update", false, "write the golden files instead of comparing")

// fake is a server that says what it was told to say and notes what it was asked.
type fake struct {
	*httptest.Server
	mu    sync.Mutex
	asked []string
}

func serve(t *testing.T) *fake {
	f := &fake{}
	f.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		line := r.Method + " " + r.URL.RequestURI()
		said := line
		for _, name := range []string{"Authorization", "X-Tenant-Id", "Idempotency-Key", "Content-Type"} {
			if value := r.Header.Get(name); value != "" {
				said += "\n  " + name + ": " + value
			}
		}
		if len(body) > 0 {
			said += "\n  " + string(body)
		}
		f.mu.Lock()
		f.asked = append(f.asked, said)
		f.mu.Unlock()
		status, answer, found := strings.Cut(answers[line], " ")
		if !found {
			status, answer = "418", "<html>a proxy speaks</html>"
		}
		code, _ := strconv.Atoi(status)
		if code == http.StatusTooManyRequests {
			w.Header().Set("Retry-After", "7")
		}
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(code)
		_, _ = io.WriteString(w, answer)
	}))
	t.Cleanup(f.Close)
	return f
}

// invoke runs the program as a shell would, with a token in the environment.
func invoke(ctx context.Context, server string, args ...string) (code int, out, diag string) {
	var stdout, stderr bytes.Buffer
	env := func(name string) string {
		return map[string]string{"PRATIQUE_SERVER": server, "PRATIQUE_TOKEN": "secret"}[name]
	}
	code = run(ctx, args, env, &stdout, &stderr)
	return code, stdout.String(), stderr.String()
}

func TestEveryCommandAsksAndShows(t *testing.T) {
	t.Parallel()
	for name, line := range lines {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := serve(t)
			code, out, diag := invoke(t.Context(), f.URL, strings.Fields(line)...)
			require.NotContains(t, out+diag, "\x1b", "a terminal would obey")
			require.NotContains(t, out+diag, "\u202e")
			require.NotContains(t, out+diag, "secret")
			got := fmt.Sprintf("$ pratiquectl %s\nexit %d\n--- asked\n%s\n--- stdout\n%s--- stderr\n%s", line, code, strings.Join(f.asked, "\n"), out, diag)
			path := filepath.Join("testdata", name+".golden")
			if *update {
				require.NoError(t, os.MkdirAll("testdata", 0o755))
				require.NoError(t, os.WriteFile(path, []byte(got), 0o644))
			}
			want, err := os.ReadFile(path)
			require.NoError(t, err)
			require.Equal(t, string(want), got)
		})
	}
}

func TestStructuredOutputMeansTheSameDespiteEscaping(t *testing.T) {
	t.Parallel()
	f := serve(t)
	code, out, _ := invoke(t.Context(), f.URL, "requests", "get", one, "-o", "json")
	require.Zero(t, code)
	_, want, _ := strings.Cut(answers["GET /api/v1/images/import-requests/"+one], " ")
	require.JSONEq(t, want, out)
}

func TestTheTokenGoesOnlyWhereItIsSafe(t *testing.T) {
	t.Parallel()
	f := serve(t)
	file := filepath.Join(t.TempDir(), "token")
	require.NoError(t, os.WriteFile(file, []byte("from-a-file\n"), 0o600))
	code, _, _ := invoke(t.Context(), "http://unused.invalid", "me", "--server", f.URL, "--token-file", file)
	require.Zero(t, code)
	require.Contains(t, f.asked[0], "Authorization: Bearer from-a-file")

	code, _, diag := invoke(t.Context(), "http://pratique.example.com", "me")
	require.Equal(t, exitUsage, code)
	require.Contains(t, diag, "refusing to send the token over plain http")
	code, _, diag = invoke(t.Context(), f.URL, "me", "--token-file", file+"x")
	require.Equal(t, exitError, code)
	require.Contains(t, diag, "token file")
	require.Len(t, f.asked, 1)

	redirect := httptest.NewServer(http.RedirectHandler(f.URL+"/api/v1/me", http.StatusTemporaryRedirect))
	t.Cleanup(redirect.Close)
	code, _, _ = invoke(t.Context(), redirect.URL, "me")
	require.Equal(t, exitError, code)
	require.Len(t, f.asked, 1, "a redirect was followed")
}

func TestThisProgramImportsNothingOfOurs(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob("*.go")
	require.NoError(t, err)
	for _, file := range files {
		parsed, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.ImportsOnly)
		require.NoError(t, err)
		for _, spec := range parsed.Imports {
			require.NotContains(t, spec.Path.Value, "pratique-io/", file)
		}
	}
}

func TestEscapeShowsWhatATerminalWouldObey(t *testing.T) {
	t.Parallel()
	for given, want := range map[string]string{
		"plain é 日本 😀":          "plain é 日本 😀",
		"\x1b]0;title\x07":      `\u001b]0;title\u0007`,
		"a\r\nb\tc":             `a\u000d\nb\tc`,
		"\u202egnp.exe\u2069":   `\u202egnp.exe\u2069`,
		"\u009b31m\u007f":       `\u009b31m\u007f`,
		"zero\u200bwidth\ufeff": `zero\u200bwidth\ufeff`,
		"\xff\xfe":              `\xff\xfe`,
		"\U000E0041\u2028":      `\U000e0041\u2028`,
	} {
		require.Equal(t, want, escape(given))
	}
}

// sequence answers a GET of the request with each state in turn, then with the last for ever; a number is an error status.
func sequence(t *testing.T, states ...string) *httptest.Server {
	var mu sync.Mutex
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		state := states[0]
		if len(states) > 1 {
			states = states[1:]
		}
		if code, err := strconv.Atoi(state); err == nil {
			w.WriteHeader(code)
			return
		}
		status, release, _ := strings.Cut(state, "/")
		_, _ = io.WriteString(w, `{"data":`+request(status, release)+`}`)
	}))
	t.Cleanup(server.Close)
	return server
}

func TestWait(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		states []string
		args   string
		code   int
		says   string
	}{
		"until it has come":                 {[]string{"pending/", "503", "importing/", "success/not_ready"}, "", 0, ""},
		"for any of several":                {[]string{"importing/", "quarantined/"}, "--for status=success,quarantined", 0, ""},
		"for another field":                 {[]string{"success/ready_for_release", "success/released"}, "--for release_state=released", 0, ""},
		"in vain when another end has come": {[]string{"importing/", "quarantined/"}, "", exitWaiting, "which is final"},
		"in vain when it failed":            {[]string{"failed/not_ready"}, "--for release_state=released", exitWaiting, "final"},
		"in vain when time is over":         {[]string{"pending/"}, "--timeout 50ms", exitWaiting, "not status=success after 50ms"},
		"not for what nobody may see":       {[]string{"404"}, "", exitError, "error"},
		"not without a wish":                {[]string{"pending/"}, "--for colour=green", exitUsage, "--for must be"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			args := append([]string{"requests", "wait", one, "--interval", "1ms", "-o", "name"}, strings.Fields(c.args)...)
			code, out, diag := invoke(t.Context(), sequence(t, c.states...).URL, args...)
			require.Equal(t, c.code, code, diag)
			require.Contains(t, diag, c.says)
			if code == 0 {
				require.Equal(t, one+"\n", out)
			}
		})
	}
}

func TestFollowingLogsSurvivesACutAndEnds(t *testing.T) {
	reconnectAfter = time.Millisecond
	var mu sync.Mutex
	var lasts []string
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		lasts = append(lasts, r.Header.Get("Last-Event-ID"))
		event := func(n int) {
			_, _ = fmt.Fprintf(w, "id: %d\nevent: log\ndata: {\"timestamp\":\"t%d\",\"level\":\"info\",\"source\":\"run\",\"step\":\"pull\",\"message\":%s}\n\n", n, n, quoted(hostile))
		}
		switch len(lasts) {
		case 1:
			_, _ = io.WriteString(w, ": open\n\n")
			event(1)
			event(2)
			_ = http.NewResponseController(w).Flush()
			panic(http.ErrAbortHandler)
		case 2:
			w.WriteHeader(http.StatusServiceUnavailable)
		case 3:
			_, _ = io.WriteString(w, ": heartbeat\n\n")
			event(3)
			_, _ = io.WriteString(w, ": end\n\n")
		}
	}))
	t.Cleanup(server.Close)
	code, out, diag := invoke(t.Context(), server.URL, "requests", "logs", "-f", one)
	require.Zero(t, code, diag)
	shown := `\u001b[31mred\u0007\nnext \u202eevil\u202c \u009b \U000e0041`
	require.Equal(t, "t1 info  pull "+shown+"\nt2 info  pull "+shown+"\nt3 info  pull "+shown+"\n", out)
	require.Equal(t, []string{"", "2", "2"}, lasts)

	refusing := sequence(t, "401")
	code, _, _ = invoke(t.Context(), refusing.URL, "requests", "logs", "-f", one)
	require.Equal(t, exitError, code)
}

func TestADocumentIsKeptOnlyWhole(t *testing.T) {
	t.Parallel()
	const digest = "sha-256=:LPJNul+wow4m6DsqxbninhsWHlwfp0JecwQzYpOLmCQ=:" // of "hello"
	answer := func(header, body string) string {
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.URL.RequestURI() != "/api/v1/images/import-requests/"+one+"/evidence/sbom?format=spdx-json&platform=linux%2Famd64" {
				w.WriteHeader(http.StatusTeapot)
				return
			}
			w.Header().Set("Content-Digest", header)
			w.Header().Set("Content-Length", "5")
			_, _ = io.WriteString(w, body)
		}))
		t.Cleanup(server.Close)
		return server.URL
	}
	args := []string{"requests", "evidence", one, "sbom", "--platform", "linux/amd64", "--format", "spdx-json"}
	code, out, diag := invoke(t.Context(), answer(digest, "hello"), args...)
	require.Zero(t, code, diag)
	require.Equal(t, "hello", out)
	for name, url := range map[string]string{"another": answer(digest, "hellO"), "half": answer(digest, "hel"), "unnamed": answer("", "hello")} {
		dir := t.TempDir()
		code, _, diag = invoke(t.Context(), url, append(args, "--file", filepath.Join(dir, "sbom.json"))...)
		require.Equal(t, exitError, code, name)
		require.NotEmpty(t, diag)
		left, err := os.ReadDir(dir)
		require.NoError(t, err)
		require.Empty(t, left, name)
	}
	file := filepath.Join(t.TempDir(), "sbom.json")
	code, _, diag = invoke(t.Context(), answer(digest, "hello"), append(args, "--file", file)...)
	require.Zero(t, code, diag)
	raw, err := os.ReadFile(file)
	require.NoError(t, err)
	require.Equal(t, "hello", string(raw))
}
