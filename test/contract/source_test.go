package contract

import (
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// moody is a source registry that answers each repository in its own bad way; a closed port is one that does not answer at all.
func moody(t *testing.T) (address, closed string) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		const manifest = "application/vnd.oci.image.manifest.v1+json"
		w.Header().Set("Content-Type", manifest)
		switch strings.Split(r.URL.Path, "/")[2] {
		case "secret":
			w.Header().Set("WWW-Authenticate", `Basic realm="x"`)
			w.WriteHeader(http.StatusUnauthorized)
		case "forbidden":
			w.WriteHeader(http.StatusForbidden)
		case "elsewhere":
			http.Redirect(w, r, "http://169.254.169.254/latest/meta-data/", http.StatusTemporaryRedirect)
		case "realm":
			w.Header().Set("WWW-Authenticate", `Bearer realm="http://169.254.169.254/token",service="x"`)
			w.WriteHeader(http.StatusUnauthorized)
		case "busy":
			w.Header().Set("Retry-After", "30")
			w.WriteHeader(http.StatusTooManyRequests)
		case "broken":
			w.WriteHeader(http.StatusBadRequest)
		case "nonsense":
			_, _ = w.Write([]byte("<html>"))
		case "both":
			_, _ = w.Write([]byte(`{"schemaVersion":2,"mediaType":"` + manifest + `","config":{},"layers":[],"manifests":[]}`))
		case "chart":
			_, _ = w.Write([]byte(`{"schemaVersion":2,"mediaType":"` + manifest + `","config":{"mediaType":"application/vnd.cncf.helm.config.v1+json","digest":"sha256:` +
				strings.Repeat("a", 64) + `","size":2},"layers":[]}`))
		case "typed":
			w.Header().Set("Content-Type", "text/html")
			_, _ = w.Write([]byte(`{}`))
		default:
			w.WriteHeader(http.StatusNotFound)
		}
	}))
	cleanups = append(cleanups, server.Close)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	closed = listener.Addr().String()
	require.NoError(t, listener.Close())
	return strings.TrimPrefix(server.URL, "http://"), closed
}

// hosts that no tenant may name: our own rooms, this machine under its other names, and everything that is not the public internet.
func (p *product) forbiddenHosts(t *testing.T) []string {
	port := func(address string) string {
		_, port, err := net.SplitHostPort(address)
		require.NoError(t, err)
		return port
	}
	host := func(text string) string {
		u, err := url.Parse(text)
		require.NoError(t, err)
		return u.Host
	}
	c := p.Connection
	out := []string{
		c.Registries["quarantine"].Address, c.Registries["trusted"].Address, c.Registries["evidence"].Address, c.GRPC, host(c.REST), host(c.Ops), host(c.NATS.URL), host(c.Issuer),
		"localhost:" + port(p.upstream()), "LOCALHOST:" + port(p.upstream()), "localhost:" + port(c.Registries["quarantine"].Address), "[::1]:" + port(p.upstream()),
		"[::ffff:127.0.0.1]:" + port(p.upstream()), "0.0.0.0:" + port(p.upstream()), "127.0.0.2:" + port(p.upstream()), "127.0.0.1", "127.0.0.1:80", "localhost",
		"169.254.169.254", "169.254.170.2:80", "100.100.100.200", "10.0.0.1:5000", "172.16.0.1", "192.168.1.1:443", "100.64.0.1", "198.18.0.1", "224.0.0.1", "255.255.255.255",
		"192.0.2.1", "[fe80::1]", "[fd00:ec2::254]", "[fc00::1]:5000", "[ff02::1]", "[64:ff9b::7f00:1]", "[2002:7f00:1::1]", "[::]:5000", "[2001:db8::1]",
	}
	return out
}

func TestForbiddenSources(t *testing.T) {
	p := start(t)
	hosts := p.forbiddenHosts(t)
	require.GreaterOrEqual(t, len(hosts), 36)
	both(t, p, func(t *testing.T, send sender) {
		for _, host := range hosts {
			if host == "" || strings.HasPrefix(host, ":") {
				continue
			}
			for _, path := range []string{imports, scans} {
				body := map[string]any{"source_registry": host}
				if path == scans {
					body["epr_record_id"] = nil
				}
				c := call{who: "mel", do: "POST " + path, body: p.importBody("team/image:1", body)}
				a := send(t, c).is(t, c, 403, "source_not_allowed")
				require.Equal(t, strings.ToLower(host), a.text("error.details.source_registry"))
				require.NotContains(t, a.raw, "loopback", "what stands behind a name is not told")
			}
		}
	})
}

func TestUnreadableSources(t *testing.T) {
	p := start(t)
	digest := "sha256:" + strings.Repeat("a", 64)
	registries := []string{
		"https://registry.example.com", "registry.example.com/", "registry.example.com/team", "user@registry.example.com", "user:pass@registry.example.com", "registry.example.com:0",
		"registry.example.com:65536", "registry.example.com:x", "registry.example.com:", "registry.example.com:080", "registry..example.com", ".example.com", "example.com.",
		"-a.example.com", "a-.example.com", "under_score.example.com", "registry.example.com?x", "registry.example.com#x", "registry.example.com\\x", "registry example.com",
		"127.1", "0x7f.0.0.1", "2130706433.", "017700000001.1", "127.0.0.01", "1.2.3.4.5", "256.1.1.1", "::1", "[::1", "[::1]x", "[fe80::1%25eth0]", "[fe80::1%eth0]", "[0:0:0:0:0:0:0:1]",
		"[::FFFF:7F00:1]:5000", "[127.0.0.1]", "rögistry.example.com", "xn--\u202e.example.com", "%6cocalhost:5000", "localhost%2f", strings.Repeat("a", 250) + ".example.com",
	}
	refs := []string{
		"http://x/y:1", "a/../b:1", "../b", "a//b", "/a", "a/", "A/b:1", "a/B", "a:", "a:-1", "a:.x", "a:" + strings.Repeat("t", 129), "a@", "a@sha256:short", "a@" + strings.ToUpper(digest),
		"a@md5:" + strings.Repeat("a", 32), "a@" + digest + "x", "a b:1", "a?x=1", "a#x", "a%2fb", "a;b", "user@b/c:1", "other.example.com/a:1", "localhost:1/a:1", "a:1:2", "a\\b", "é", "_a", "a_", "a..b",
		strings.Repeat("a", 256), "a:1@" + digest + "@" + digest, "127.0.0.1:1/a:1",
	}
	require.Greater(t, len(registries)+len(refs), 70)
	both(t, p, func(t *testing.T, send sender) {
		for _, registry := range registries {
			c := call{who: "mel", do: "POST " + imports, body: p.importBody("team/image:1", map[string]any{"source_registry": registry})}
			require.Equal(t, []string{"source_registry"}, send(t, c).is(t, c, 400, "validation_failed").fields())
		}
		for _, ref := range refs {
			c := call{who: "mel", do: "POST " + imports, body: p.importBody(ref, nil)}
			require.Equal(t, []string{"source_image_ref"}, send(t, c).is(t, c, 400, "validation_failed").fields(), ref)
		}
	})
}

func TestSourcesThatAnswerBadly(t *testing.T) {
	p := start(t)
	digest := "@sha256:" + strings.Repeat("a", 64)
	for _, s := range []struct {
		registry, ref string
		status        int
		code, action  string
	}{
		{p.upstream(), "nobody/nothing:1", 422, "source_not_found", "correct_source"}, {p.upstream(), "contract/n1:nothing", 422, "source_not_found", "correct_source"},
		{p.upstream(), "contract/n1" + digest, 422, "source_not_found", "correct_source"}, {p.moody, "none:1", 422, "source_not_found", "correct_source"},
		{p.moody, "secret:1", 422, "source_unauthorized", "provide_registry_credential"}, {p.moody, "forbidden:1", 422, "source_unauthorized", "provide_registry_credential"},
		{p.moody, "busy:1", 503, "source_rate_limited", "retry_later"}, {p.moody, "broken:1", 502, "source_unavailable", "retry_later"},
		{p.moody, "nonsense:1", 422, "image_unacceptable", "choose_another_image"}, {p.moody, "both:1", 422, "image_unacceptable", "choose_another_image"},
		{p.moody, "chart:1", 422, "image_unacceptable", "choose_another_image"}, {p.moody, "typed:1", 422, "image_unacceptable", "choose_another_image"},
		{p.moody, "elsewhere:1", 502, "source_unavailable", "retry_later"}, {p.moody, "realm:1", 502, "source_unavailable", "retry_later"},
		{p.closed, "a:1", 502, "source_unavailable", "retry_later"},
	} {
		t.Run(s.ref, func(t *testing.T) {
			t.Parallel() // a source that does not answer is asked again, which takes its time
			for _, send := range []sender{p.rest, p.grpc} {
				c := call{who: "mel", do: "POST " + imports, body: p.importBody(s.ref, map[string]any{"source_registry": s.registry}), atWork: true}
				a := send(t, c).is(t, c, s.status, s.code)
				require.Equal(t, s.action, a.text("error.details.next_action"))
				if s.code == "source_rate_limited" {
					require.NotEmpty(t, a.text("error.details.retry_after_seconds"))
					if a.header != nil {
						require.NotEmpty(t, a.header.Get("Retry-After"))
					}
				}
			}
		})
	}
}
