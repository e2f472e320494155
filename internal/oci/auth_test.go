package oci

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestTokenAuthorization(t *testing.T) {
	t.Parallel()
	manifest := func(w http.ResponseWriter, _ *http.Request) { serveManifest(w) }
	t.Run("asks the token service once for our own scope, and keeps the token", func(t *testing.T) {
		n := &internet{hosts: map[string]http.HandlerFunc{
			"https://reg.example": asks(`Bearer realm="https://auth.reg.example/token",service="s",scope="repository:other:push,delete"`, "Bearer t1", manifest),
			"https://auth.reg.example": func(w http.ResponseWriter, _ *http.Request) {
				_, _ = io.WriteString(w, `{"access_token":"t1","expires_in":300}`)
			},
		}}
		r, _ := n.repo(secret)
		for range 3 {
			_, _, err := r.Resolve(t.Context(), "v1")
			require.NoError(t, err)
		}
		asked := n.at("auth.reg.example")
		require.Len(t, asked, 1)
		require.Equal(t, "repository:app:pull", asked[0].URL.Query().Get("scope"))
		require.Equal(t, "s", asked[0].URL.Query().Get("service"))
		user, pass, _ := asked[0].BasicAuth()
		require.Equal(t, secret, Credential{user, pass})
		require.Len(t, n.at("reg.example"), 4)
	})
	t.Run("Basic goes to the registry alone", func(t *testing.T) {
		n := &internet{hosts: map[string]http.HandlerFunc{}}
		r, _ := n.repo(secret)
		n.hosts["https://reg.example"] = asks(`Basic realm="x"`, r.auth.basicHeader(), manifest)
		_, _, err := r.Resolve(t.Context(), "v1")
		require.NoError(t, err)
	})
	t.Run("a ready token is sent at once", func(t *testing.T) {
		n := &internet{hosts: map[string]http.HandlerFunc{"https://reg.example": asks("Basic", "Bearer ready", manifest)}}
		r, _ := n.repo(Credential{Password: "ready"})
		_, _, err := r.Resolve(t.Context(), "v1")
		require.NoError(t, err)
		require.Len(t, n.sent, 1)
	})
	t.Run("401 for ever ends", func(t *testing.T) {
		for _, challenge := range []string{`Bearer realm="https://reg.example/token"`, `Basic realm="x"`, `Negotiate`, `Digest realm="x"`, ``} {
			n := &internet{hosts: map[string]http.HandlerFunc{"https://reg.example": func(w http.ResponseWriter, r *http.Request) {
				if r.URL.Path == "/token" {
					_, _ = io.WriteString(w, `{"token":"t"}`)
					return
				}
				asks(challenge, "never", nil)(w, r)
			}}}
			r, waits := n.repo(secret)
			for range 2 {
				_, _, err := r.Resolve(t.Context(), "v1")
				require.ErrorIs(t, err, ErrUnauthorized, challenge)
			}
			require.LessOrEqual(t, len(n.sent), 6)
			require.Empty(t, *waits)
		}
	})
}

func TestHostileRealmsGetNothing(t *testing.T) {
	t.Parallel()
	for _, realm := range []string{
		"https://evil.example/token", "https://reg.example.evil.com/token", "https://evilreg.example/token", "https://example/token",
		"http://reg.example/token", "http://auth.reg.example/token", "https://169.254.169.254/latest", "https://127.0.0.1/token",
		"https://[::1]/token", "https://localhost/token", "ftp://reg.example/token", "file:///etc/passwd", "//reg.example/token", "/token",
		"https://user:pw@reg.example/token", "https://reg.example@evil.com/", "https://reg.example\\@evil.com/", "https://2130706433/", "",
		"https://reg.example/#f", "https:reg.example", "javascript:x", "https://reg.example.:443/", "https://xn--reg-.example/x", "https://" + strings.Repeat("a", 9000) + ".reg.example/",
	} {
		n := &internet{hosts: map[string]http.HandlerFunc{"https://reg.example": asks(`Bearer realm="`+strings.ReplaceAll(realm, `\`, `\\`)+`"`, "never", nil)}}
		r, waits := n.repo(secret)
		_, _, err := r.Resolve(t.Context(), "v1")
		require.ErrorIs(t, err, ErrProtocol, realm)
		require.NotContains(t, err.Error(), secretPass)
		require.Len(t, n.sent, 1, "nothing is sent to %s", realm)
		require.Empty(t, *waits)
	}
	t.Run("unless one is configured", func(t *testing.T) {
		n := &internet{hosts: map[string]http.HandlerFunc{
			"https://reg.example":          asks(`Bearer realm="https://login.idp.test/token"`, "Bearer t", func(w http.ResponseWriter, _ *http.Request) { serveManifest(w) }),
			"https://login.idp.test":       func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, `{"token":"t"}`) },
			"https://registry-1.docker.io": asks(`Bearer realm="https://auth.docker.io/token"`, "Bearer t", func(w http.ResponseWriter, _ *http.Request) { serveManifest(w) }),
			"https://auth.docker.io":       func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, `{"token":"t"}`) },
		}}
		r, _ := n.repo(secret, WithRealm("reg.example", "login.idp.test"))
		_, _, err := r.Resolve(t.Context(), "v1")
		require.NoError(t, err)
		_, _, err = r.client.Repository("docker.io", "alpine", Credential{}).Resolve(t.Context(), "3")
		require.NoError(t, err)
		require.Equal(t, "/v2/library/alpine/manifests/3", n.at("registry-1.docker.io")[0].URL.Path)
	})
	t.Run("on loopback only the same port is kin", func(t *testing.T) {
		c, _ := quick()
		r := c.Repository("127.0.0.1:5001", "app", secret)
		_, err := r.auth.realm("http://127.0.0.1:5002/token")
		require.Error(t, err)
		_, err = r.auth.realm("http://127.0.0.1:5001/token")
		require.NoError(t, err)
	})
}

func TestMalformedTokensAreRefused(t *testing.T) {
	t.Parallel()
	for _, answer := range []string{"", "{}", "[]", "null", `{"token":""}`, `{"token":"a b"}`, `{"token":"a\r\nX: y"}`, `{"token":"é"}`, `{"token":5}`, "<html>",
		`{"token":"` + strings.Repeat("x", maxToken+1) + `"}`, `{"token":"x","pad":"` + strings.Repeat("x", maxTokenAnswer) + `"}`} {
		n := &internet{hosts: map[string]http.HandlerFunc{"https://reg.example": func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/token" {
				_, _ = io.WriteString(w, answer)
				return
			}
			asks(`Bearer realm="https://reg.example/token"`, "never", nil)(w, r)
		}}}
		r, _ := n.repo(Credential{})
		_, _, err := r.Resolve(t.Context(), "v1")
		require.ErrorIs(t, err, ErrProtocol, "%.40s", answer)
	}
}

func TestCredentialsNeverLeaveTheRegistry(t *testing.T) {
	t.Parallel()
	content := []byte("blob")
	d := Descriptor{MediaType: "a/b", Digest: FromBytes(content), Size: 4}
	blob := func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(content) }
	t.Run("in a redirect", func(t *testing.T) {
		for _, cdn := range []string{"https://cdn.example", "https://sub.reg.example", "https://reg.example:8443"} {
			n := &internet{hosts: map[string]http.HandlerFunc{cdn: blob}}
			r, _ := n.repo(secret)
			n.hosts["https://reg.example"] = asks("Basic", r.auth.basicHeader(), redirectTo(cdn+"/x?sig=1"))
			rc, err := r.Blob(t.Context(), d)
			require.NoError(t, err)
			got, err := io.ReadAll(rc)
			require.NoError(t, err)
			require.Equal(t, content, got)
			there := n.at(strings.TrimPrefix(cdn, "https://"))
			require.Len(t, there, 1)
			require.Empty(t, there[0].Header.Get("Authorization"), cdn)
		}
	})
	t.Run("in an upload location", func(t *testing.T) {
		for _, host := range []string{"https://store.example", "https://sub.reg.example"} {
			n := &internet{hosts: map[string]http.HandlerFunc{host: func(w http.ResponseWriter, r *http.Request) {
				_, _ = io.Copy(io.Discard, r.Body)
				w.WriteHeader(http.StatusCreated)
			}}}
			r, _ := n.repo(secret)
			n.hosts["https://reg.example"] = asks("Basic", r.auth.basicHeader(), func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Location", host+"/up?_state=a%2Bb")
				w.WriteHeader(http.StatusAccepted)
			})
			require.NoError(t, r.PushBlob(t.Context(), d, bytes.NewReader(content)))
			there := n.at(strings.TrimPrefix(host, "https://"))
			require.Len(t, there, 1)
			require.Empty(t, there[0].Header.Get("Authorization"))
			require.Equal(t, "_state=a%2Bb&digest="+strings.ReplaceAll(string(d.Digest), ":", "%3A"), there[0].URL.RawQuery)
		}
	})
	t.Run("over plain HTTP to another machine", func(t *testing.T) {
		for _, challenge := range []string{"Basic", `Bearer realm="http://reg.example/token"`} {
			n := &internet{hosts: map[string]http.HandlerFunc{"http://reg.example": asks(challenge, "never", nil)}}
			for _, cred := range []Credential{secret, {Password: secretPass}} {
				r, _ := n.repo(cred, WithInsecure("reg.example"))
				_, _, err := r.Resolve(t.Context(), "v1")
				require.ErrorIs(t, err, ErrUnauthorized)
			}
			for _, req := range n.sent {
				require.Empty(t, req.Header.Get("Authorization"))
			}
		}
	})
	require.NotContains(t, fmt.Sprintf("%v %+v %#v %s", secret, secret, secret, &secret), secretPass)
}

func TestHostileLocationsAreNotFollowed(t *testing.T) {
	t.Parallel()
	locations := []string{
		"", "http://cdn.example/x", "http://reg.example/x", "http://169.254.169.254/", "http://127.0.0.1:5000/x", "http://localhost/x", "ftp://cdn.example/",
		"file:///etc/passwd", "gopher://x/", "https://user:pw@cdn.example/", "https://user@cdn.example/", "//user@cdn.example/x", "https://2130706433/",
		"https://0x7f.1/", "https://127.1/", "https://[fe80::1%25eth0]/", "https://cdn.example\\@evil/", "https://cdn..example/", "https://cdn.example./",
		"https:cdn.example", "https://cdn.example:0/", "https://cdn.example:99999/", "https://cd\tn.example/", "https://сdn.example/", "https://cdn.example/" + strings.Repeat("a", 9000),
		"javascript:alert(1)", "data:text/plain,x", "https://", "https:///x", "https://cdn.example/ x",
	}
	d := Descriptor{Digest: FromBytes([]byte("x")), Size: 1}
	for _, location := range locations {
		n := &internet{hosts: map[string]http.HandlerFunc{"https://reg.example": func(w http.ResponseWriter, r *http.Request) {
			w.Header()["Location"] = []string{location}
			w.WriteHeader(map[bool]int{true: http.StatusAccepted, false: http.StatusFound}[r.Method == http.MethodPost])
		}}}
		r, waits := n.repo(secret)
		_, _, err := r.Resolve(t.Context(), "v1")
		require.ErrorIs(t, err, ErrProtocol, "%q", location)
		_, err = r.Blob(t.Context(), d)
		require.ErrorIs(t, err, ErrProtocol, "%q", location)
		require.ErrorIs(t, r.PushBlob(t.Context(), d, strings.NewReader("x")), ErrProtocol, "%q", location)
		require.Len(t, n.sent, 3, "%q", location)
		require.Empty(t, *waits)
	}
	n := &internet{hosts: map[string]http.HandlerFunc{"https://reg.example": redirectTo("/v2/app/again")}}
	r, _ := n.repo(secret)
	_, _, err := r.Resolve(t.Context(), "v1")
	require.ErrorIs(t, err, ErrProtocol)
	require.Len(t, n.sent, maxHops+1)
}
