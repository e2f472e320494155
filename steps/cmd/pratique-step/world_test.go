package main

import (
	"bytes"
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pratique-io/pratique/internal/document"
	"github.com/pratique-io/pratique/internal/oci"
	"github.com/pratique-io/pratique/internal/registry"
	"github.com/pratique-io/pratique/internal/sample"
	"github.com/pratique-io/pratique/steps/demodb"
	"github.com/pratique-io/pratique/steps/step"
)

const run = "0199a000-0000-7000-8000-000000000001"

// world is a source registry, a quarantine registry and a demonstration database, as `pratique up` would have them.
type world struct {
	t                  *testing.T
	source, quarantine string // host:port
	network, auth, db  string // files and directory
	dir                string
	cred               oci.Credential // of the run, minted for one repository
}

var runKey = []byte("canary-key-of-thirty-two-bytes-and-more")

func serve(t *testing.T, cfg registry.Config) string {
	cfg.Dir, cfg.Volatile = t.TempDir(), true
	r, err := registry.Open(cfg)
	require.NoError(t, err)
	srv := httptest.NewServer(r)
	t.Cleanup(func() { srv.Close(); _ = r.Close() })
	return strings.TrimPrefix(srv.URL, "http://")
}

func newWorld(t *testing.T) *world {
	user, password := registry.Mint(runKey, registry.Grant{
		Repository: "q/acme/r1", Actions: []string{registry.Pull, registry.Push}, Run: run, Expires: time.Now().Add(time.Hour),
	})
	all := registry.Full(registry.Pull, registry.Push)
	w := &world{t: t, dir: t.TempDir(), cred: oci.Credential{Username: user, Password: password}}
	w.source = serve(t, registry.Config{Name: "source", Users: []registry.User{{Name: "reader", Password: "canary-source-password", Access: all}}})
	w.quarantine = serve(t, registry.Config{Name: "quarantine", RunKey: runKey})
	w.network = w.file("network.json", map[string]any{"purposes": map[string]any{
		"source":     map[string]any{"allowed": []string{w.source}, "denied": []string{w.quarantine}},
		"quarantine": map[string]any{"allowed": []string{w.quarantine}},
	}})
	w.file("source-auth.json", map[string]string{"username": "reader", "password": "canary-source-password"})
	w.auth = w.file("auth.json", map[string]string{"username": user, "password": password})
	w.db = w.database(nil)
	return w
}

func (w *world) file(name string, v any) string {
	raw, err := json.Marshal(v)
	require.NoError(w.t, err)
	at := filepath.Join(w.dir, name)
	require.NoError(w.t, os.WriteFile(at, raw, 0o400))
	return at
}

func (w *world) database(list []demodb.Advisory) string {
	dir := w.t.TempDir()
	if list == nil {
		var err error
		list, err = demodb.Advisories()
		require.NoError(w.t, err)
	}
	_, err := demodb.Build(dir, list)
	require.NoError(w.t, err)
	return dir
}

func (w *world) push(i sample.Image) string {
	require.NoError(w.t, i.Push(context.Background(), http.DefaultTransport, w.source, i.Name, "latest", "reader", "canary-source-password"))
	return w.source + "/" + i.Name + "@" + i.Root.Digest.String()
}

// outcome is what a runner sees of a step.
type outcome struct {
	code    int
	results map[string]string
	failure step.Failure
	log     string
}

func (w *world) step(name string, args ...string) outcome {
	dir := w.t.TempDir()
	var log bytes.Buffer
	args = append(args, "--run", run, "--results", dir, "--network", w.network)
	out := outcome{code: commands[name](context.Background(), "test", args, &log), results: map[string]string{}, log: log.String()}
	files, err := os.ReadDir(dir)
	require.NoError(w.t, err)
	for _, f := range files {
		raw, err := os.ReadFile(filepath.Join(dir, f.Name()))
		require.NoError(w.t, err)
		out.results[f.Name()] = string(raw)
		if f.Name() == "failure.json" {
			require.NoError(w.t, json.Unmarshal(raw, &out.failure))
		}
	}
	require.NotContains(w.t, out.log+out.failure.Message, "canary-", "a secret in the log")
	require.NotContains(w.t, out.log+out.failure.Message, w.cred.Password, "a secret in the log")
	for line := range strings.Lines(out.log) {
		var entry struct{ Timestamp, Level, Step, Message string }
		require.NoError(w.t, json.Unmarshal([]byte(line), &entry), line)
		require.Equal(w.t, name, entry.Step)
		require.NotEmpty(w.t, entry.Message)
	}
	return out
}

func (w *world) pull(source string) outcome {
	return w.step("pull", "--source", source, "--source-auth", filepath.Join(w.dir, "source-auth.json"),
		"--target", w.quarantine+"/q/acme/r1", "--target-auth", w.auth)
}

func (w *world) ok(o outcome) outcome {
	require.Zero(w.t, o.code, o.log)
	return o
}

// chain runs all four steps and returns the report and what they left.
func (w *world) chain(i sample.Image) (*document.ReportDocument, map[string]string, string) {
	got := map[string]string{}
	keep := func(o outcome) {
		for k, v := range w.ok(o).results {
			got[k] = v
		}
	}
	keep(w.pull(w.push(i)))
	image := w.quarantine + "/q/acme/r1@" + got["image"]
	keep(w.step("sbom", "--image", image, "--auth", w.auth))
	keep(w.step("vulnerabilities", "--image", image, "--auth", w.auth, "--sbom", got["sbom"], "--database", w.db))
	keep(w.step("report", "--image", image, "--auth", w.auth, "--source", got["source"], "--sbom", got["sbom"], "--vulnerabilities", got["vulnerabilities"]))
	report, err := w.open(document.Report, got).Report(context.Background())
	require.NoError(w.t, err)
	return report, got, image
}

func (w *world) repo() *oci.Repository {
	return oci.NewClient(http.DefaultTransport).Repository(w.quarantine, "q/acme/r1", w.cred)
}

func (w *world) open(kind document.Kind, got map[string]string) *document.Artifact {
	a, err := document.Open(context.Background(), w.repo(), oci.Digest(got[string(kind)]), document.Want{
		Kind: kind, Subject: oci.Digest(got["image"]), Run: run, Attempt: 1,
	})
	require.NoError(w.t, err)
	return a
}
