package egress

import (
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestRedirectsCarryNoCredentialAcrossHosts(t *testing.T) {
	t.Parallel()
	w := newWorld()
	w.names["sub.public.example"] = []string{"93.184.216.36"}
	var seen []http.Header
	bounce := func(location string) http.HandlerFunc {
		return func(rw http.ResponseWriter, r *http.Request) {
			seen = append(seen, r.Header.Clone())
			if location == "" {
				return
			}
			rw.Header().Set("Location", location)
			rw.WriteHeader(http.StatusTemporaryRedirect)
		}
	}
	secrets := []string{"Authorization", "Bearer s3cret", "Cookie", "a=b", "X-Api-Key", "k", "Webhook-Signature", "v1,x", "Accept", "text/plain"}
	for _, next := range []string{"http://other.example/", "http://sub.public.example/", "http://public.example:8080/"} {
		seen = nil
		w.serve(t, publicIP+":80", bounce(next))
		w.serve(t, publicIP+":8080", bounce(""))
		w.serve(t, "93.184.216.35:80", bounce(""))
		w.serve(t, "93.184.216.36:80", bounce(""))
		_, err := get(w.egress(t, nil).Client(Source), "http://public.example/", secrets...)
		require.NoError(t, err)
		require.Len(t, seen, 2)
		require.Equal(t, "Bearer s3cret", seen[0].Get("Authorization"))
		for _, h := range []string{"Authorization", "Cookie", "X-Api-Key", "Webhook-Signature", "Referer"} {
			require.Empty(t, seen[1].Get(h), "%s to %s", h, next)
		}
		require.Equal(t, "text/plain", seen[1].Get("Accept"))
	}

	t.Run("nor back home after straying", func(t *testing.T) {
		seen = nil
		hops := 0
		w.serve(t, publicIP+":80", func(rw http.ResponseWriter, r *http.Request) {
			if hops++; hops == 1 {
				bounce("http://other.example/")(rw, r)
				return
			}
			bounce("")(rw, r)
		})
		w.serve(t, "93.184.216.35:80", bounce("http://public.example/back"))
		_, err := get(w.egress(t, nil).Client(Source), "http://public.example/", secrets...)
		require.NoError(t, err)
		require.Len(t, seen, 3)
		require.Empty(t, seen[2].Get("Authorization"))
	})
	t.Run("nor a body", func(t *testing.T) {
		seen = nil
		w.serve(t, publicIP+":80", bounce("http://other.example/"))
		_, err := w.egress(t, nil).Client(Webhook).Post("http://public.example/", "text/plain", strings.NewReader("secret"))
		var refused *Refused
		require.ErrorAs(t, err, &refused)
		require.Equal(t, RuleRedirect, refused.Rule)
		require.Len(t, seen, 1)
	})
	t.Run("and end after five", func(t *testing.T) {
		seen = nil
		w.serve(t, publicIP+":80", bounce("/again"))
		_, err := get(w.egress(t, nil).Client(Source), "http://public.example/")
		var refused *Refused
		require.ErrorAs(t, err, &refused)
		require.Len(t, seen, maxRedirects+1)
	})
}

func TestARedirectFromHTTPSToHTTPIsRefused(t *testing.T) {
	t.Parallel()
	w := newWorld()
	srv := httptest.NewTLSServer(http.RedirectHandler("http://other.example/", http.StatusFound))
	defer srv.Close()
	w.servers["127.0.0.1:443"] = srv.Listener.Addr().String()
	bundle := filepath.Join(t.TempDir(), "ca.pem")
	require.NoError(t, os.WriteFile(bundle, pemOf(srv), 0o600))
	e := w.egress(t, map[Purpose]Policy{OIDC: {Allowed: []string{"127.0.0.1:443"}, CABundle: bundle}, EPR: {Allowed: []string{"127.0.0.1:443"}}})
	_, err := get(e.Client(OIDC), "https://127.0.0.1/")
	var refused *Refused
	require.ErrorAs(t, err, &refused)
	require.Equal(t, RuleScheme, refused.Rule)
	_, err = get(e.Client(EPR), "https://127.0.0.1/")
	require.ErrorContains(t, err, "certificate", "a bundle serves its own purpose only")
}
