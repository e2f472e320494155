package registry

import (
	"bytes"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

var (
	testKey = bytes.Repeat([]byte("k"), minKey)
	testNow = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
)

const (
	repoA = "q/acme/request-a"
	repoB = "q/acme/request-b"
)

type login struct{ name, password string }

func (l login) on(req *http.Request) {
	if l.name != "" {
		req.SetBasicAuth(l.name, l.password)
	}
}

func open(t *testing.T, cfg Config) *Registry {
	t.Helper()
	if cfg.Dir == "" {
		cfg.Dir = t.TempDir()
	}
	if cfg.Name == "" {
		cfg.Name = "test"
	}
	cfg.Now = func() time.Time { return testNow }
	r, err := Open(cfg)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, r.Close()) })
	return r
}

func run(t *testing.T, repository string, actions ...string) login {
	t.Helper()
	name, password := Mint(testKey, Grant{
		Repository: repository, Actions: actions, Run: "run-1", Expires: testNow.Add(time.Minute),
	})
	return login{name, password}
}

func do(t *testing.T, r *Registry, l login, method, target string, body string) *httptest.ResponseRecorder {
	t.Helper()
	req := httptest.NewRequest(method, target, strings.NewReader(body))
	l.on(req)
	w := httptest.NewRecorder()
	r.ServeHTTP(w, req)
	return w
}

const someDigest = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"

// operations is one request per right; an allowed one may still answer 404.
var operations = []struct{ name, method, target string }{
	{"ping", "GET", "/v2/"},
	{"pull manifest", "GET", "/v2/" + repoA + "/manifests/latest"},
	{"head manifest", "HEAD", "/v2/" + repoA + "/manifests/" + someDigest},
	{"pull blob", "GET", "/v2/" + repoA + "/blobs/" + someDigest},
	{"list tags", "GET", "/v2/" + repoA + "/tags/list"},
	{"list referrers", "GET", "/v2/" + repoA + "/referrers/" + someDigest},
	{"push manifest", "PUT", "/v2/" + repoA + "/manifests/latest"},
	{"start upload", "POST", "/v2/" + repoA + "/blobs/uploads/"},
	{"mount", "POST", "/v2/" + repoA + "/blobs/uploads/?mount=" + someDigest + "&from=" + repoB},
	{"delete manifest", "DELETE", "/v2/" + repoA + "/manifests/" + someDigest},
	{"delete blob", "DELETE", "/v2/" + repoA + "/blobs/" + someDigest},
	{"catalogue", "GET", "/v2/_catalog"},
	{"pull elsewhere", "GET", "/v2/" + repoB + "/manifests/latest"},
	{"push elsewhere", "POST", "/v2/" + repoB + "/blobs/uploads/"},
}

var (
	pulls   = []string{"pull manifest", "head manifest", "pull blob", "list tags", "list referrers"}
	pushes  = []string{"push manifest", "start upload"}
	deletes = []string{"delete manifest", "delete blob"}
	whole   = []string{"ping", "catalogue", "pull elsewhere"}
)

func set(lists ...[]string) map[string]bool {
	out := map[string]bool{}
	for _, list := range lists {
		for _, name := range list {
			out[name] = true
		}
	}
	return out
}

type shape struct {
	name   string
	cfg    Config
	logins map[string]login
	may    map[string]map[string]bool // login -> operations
}

func shapes(t *testing.T) []shape {
	user := func(name string, actions ...string) User {
		return User{Name: name, Password: name + "-secret", Access: Full(actions...)}
	}
	as := func(name string) login { return login{name, name + "-secret"} }
	everywhere := []string{"mount", "push elsewhere"}
	return []shape{
		{"upstream", Config{Users: []User{user("upstream", Pull, Push)}},
			map[string]login{"upstream": as("upstream"), "nobody": {}},
			map[string]map[string]bool{"upstream": set(whole, pulls, pushes, everywhere)}},
		{"quarantine", Config{RunKey: testKey, Users: []User{user("evidence", Pull, Delete), user("release", Pull)}},
			map[string]login{
				"evidence": as("evidence"), "release": as("release"), "nobody": {},
				"run": run(t, repoA, Pull, Push), "scan step": run(t, repoA, Pull), "other run": run(t, repoB, Pull, Push),
			},
			map[string]map[string]bool{
				"evidence":  set(whole, pulls, deletes),
				"release":   set(whole, pulls),
				"run":       set([]string{"ping"}, pulls, pushes),
				"scan step": set([]string{"ping"}, pulls),
				"other run": set([]string{"ping", "pull elsewhere", "push elsewhere"}),
			}},
		{"evidence", Config{Users: []User{user("evidence", Pull, Push, Delete)}},
			map[string]login{"evidence": as("evidence"), "release": as("release"), "run": run(t, repoA, Pull, Push), "nobody": {}},
			map[string]map[string]bool{"evidence": set(whole, pulls, pushes, deletes, everywhere)}},
		{"trusted", Config{Users: []User{user("release", Pull, Push), user("reader", Pull)}},
			map[string]login{"release": as("release"), "reader": as("reader"), "evidence": as("evidence"), "run": run(t, repoA, Pull), "nobody": {}},
			map[string]map[string]bool{
				"release": set(whole, pulls, pushes, everywhere),
				"reader":  set(whole, pulls),
			}},
	}
}

func TestEachPrincipalMayDoExactlyWhatItsRegistryGrants(t *testing.T) {
	t.Parallel()
	for _, s := range shapes(t) {
		r := open(t, s.cfg)
		for who, l := range s.logins {
			for _, op := range operations {
				t.Run(s.name+"/"+who+"/"+op.name, func(t *testing.T) {
					w := do(t, r, l, op.method, op.target, "")
					known := s.may[who] != nil
					switch {
					case !known:
						require.Equal(t, http.StatusUnauthorized, w.Code)
						require.Contains(t, w.Header().Get("WWW-Authenticate"), `Basic realm="test"`)
						require.Contains(t, w.Body.String(), `"UNAUTHORIZED"`)
					case s.may[who][op.name]:
						require.NotContains(t, []int{401, 403, 405, 500}, w.Code, w.Body.String())
					default:
						require.Equal(t, http.StatusForbidden, w.Code)
						require.Contains(t, w.Body.String(), `"DENIED"`)
					}
				})
			}
		}
	}
}

func TestPathsThatAreNotExactlyTheProtocolsAreRefused(t *testing.T) {
	t.Parallel()
	root := login{"root", "pw"}
	r := open(t, Config{Users: []User{{"root", "pw", Full(Pull, Push, Delete)}}})
	refused := func(t *testing.T, req *http.Request) {
		t.Helper()
		root.on(req)
		w := httptest.NewRecorder()
		r.ServeHTTP(w, req)
		require.Contains(t, []int{400, 404, 405}, w.Code, w.Body.String())
		body, err := io.ReadAll(w.Body)
		require.NoError(t, err)
		require.Contains(t, string(body), `"errors"`)
	}
	for _, target := range []string{
		"/", "/v1/a/manifests/x", "/v2x", "/v2a/manifests/x", "/v2//a/manifests/x", "/v2/a//b/manifests/x", "//v2/a/manifests/x",
		"/v2/../v2/a/manifests/x", "/v2/a/../b/manifests/x", "/v2/./a/manifests/x", "/v2/a/..%2fb/manifests/x",
		"/v2/a%2fb/manifests/x", "/v2/a/manifests/%78", "/v2/a/manifests/x%00", "/v2/%61/manifests/x", "/v2/a/manifests/x/",
		"/v2/A/manifests/x", "/v2/a_/manifests/x", "/v2/-a/manifests/x", "/v2/a/manifests/", "/v2/manifests/x", "/v2/a/manifests/.x",
		"/v2/a/manifests/sha256:abc", "/v2/a/manifests/md5:d41d8cd98f00b204e9800998ecf8427e", "/v2/a/blobs/latest",
		"/v2/a/blobs/sha256:" + strings.Repeat("G", 64), "/v2/a/referrers/latest", "/v2/a/tags", "/v2/a/tags/", "/v2/a/tags/other",
		"/v2/blobs/manifests/x", "/v2/a/blobs/b/manifests/x", "/v2/a/index.json/manifests/x", "/v2/index.json.1/manifests/x",
		"/v2/oci-layout/manifests/x", "/v2/a/_uploads/manifests/x", "/v2/" + strings.Repeat("a", 256) + "/manifests/x",
		"/v2/_catalog/", "/v2/_catalog?n=-1", "/v2/_catalog?n=x", "/v2/a/tags/list?n=1;last=x", "/v2/a/tags/list?n=1&n=2", "/token", "/metrics",
		"/v2/a/blobs/uploads/", "/v2/a/blobs/uploads", "/v2/a/blobs/uploads/%2e%2e", "/v2/a/blobs/uploads/no-such-session",
	} {
		t.Run("GET "+target, func(t *testing.T) { refused(t, httptest.NewRequest("GET", target, nil)) })
	}
	for _, path := range []string{"v2/a/manifests/x", "", "*", "\\v2\\a\\manifests\\x", "/v2/a/manifests/x\x00", "/v2/a b/manifests/x"} {
		t.Run("raw path "+path, func(t *testing.T) {
			req := httptest.NewRequest("GET", "/", nil)
			req.URL.Path = path
			refused(t, req)
		})
	}
	t.Run("opaque", func(t *testing.T) {
		req := httptest.NewRequest("GET", "/v2/a/manifests/x", nil)
		req.URL.Opaque = "v2/b/manifests/x"
		refused(t, req)
	})
	for _, target := range []string{
		"?mount=" + someDigest + "&from=a&from=b", "?mount=" + someDigest + "&mount=" + someDigest, "?from=%zz", "?digest=1&digest=2",
	} {
		t.Run("POST "+target, func(t *testing.T) { refused(t, httptest.NewRequest("POST", "/v2/a/blobs/uploads/"+target, nil)) })
	}
}

func TestMethodsOutsideTheProtocolAreRefused(t *testing.T) {
	t.Parallel()
	reader := login{"reader", "pw"}
	r := open(t, Config{Users: []User{{"reader", "pw", Full(Pull)}}})
	for _, method := range []string{"OPTIONS", "TRACE", "CONNECT", "PROPFIND", "get", "Head", "PATCH", "POST"} {
		t.Run(method, func(t *testing.T) {
			req := httptest.NewRequest("GET", "/v2/a/manifests/x", nil)
			req.Method = method
			reader.on(req)
			w := httptest.NewRecorder()
			r.ServeHTTP(w, req)
			require.Equal(t, http.StatusMethodNotAllowed, w.Code)
		})
	}
	t.Run("an override header does not turn a GET into a DELETE", func(t *testing.T) {
		req := httptest.NewRequest("GET", "/v2/a/manifests/"+someDigest, nil)
		req.Header.Set("X-HTTP-Method-Override", "DELETE")
		reader.on(req)
		w := httptest.NewRecorder()
		r.ServeHTTP(w, req)
		require.Equal(t, http.StatusNotFound, w.Code)
	})
}

func TestAnUploadSessionBelongsToItsRepositoryAndPrincipal(t *testing.T) {
	t.Parallel()
	r := open(t, Config{RunKey: testKey, Users: []User{{"one", "pw", Full(Pull, Push)}, {"two", "pw", Full(Pull, Push)}}})
	one, two := login{"one", "pw"}, login{"two", "pw"}
	begin := func(l login) string {
		w := do(t, r, l, "POST", "/v2/"+repoA+"/blobs/uploads/", "")
		require.Equal(t, http.StatusAccepted, w.Code, w.Body.String())
		return w.Header().Get("Location")
	}
	location := begin(one)
	require.True(t, strings.HasPrefix(location, "/v2/"+repoA+"/blobs/uploads/"), location)
	for _, method := range []string{"GET", "PATCH", "PUT", "DELETE"} {
		require.Equal(t, http.StatusNotFound, do(t, r, two, method, location, "x").Code, method)
		moved := strings.Replace(location, repoA, repoB, 1)
		require.Equal(t, http.StatusNotFound, do(t, r, one, method, moved, "x").Code, method)
		require.Equal(t, http.StatusNotFound, do(t, r, run(t, repoA, Pull, Push), method, location, "x").Code, method)
		require.Equal(t, http.StatusForbidden, do(t, r, run(t, repoB, Pull, Push), method, location, "x").Code, method)
	}
	require.Equal(t, http.StatusCreated, do(t, r, one, "PUT", location+"&digest="+someDigest, "").Code)
	require.Equal(t, http.StatusNotFound, do(t, r, one, "PUT", location+"&digest="+someDigest, "").Code, "a finished session is gone")
	again := begin(one)
	require.Equal(t, http.StatusNoContent, do(t, r, one, "DELETE", again, "").Code)
	require.Equal(t, http.StatusNotFound, do(t, r, one, "PATCH", again, "x").Code)
}

func TestARunCredentialNamesOneRepositoryUntilItExpires(t *testing.T) {
	t.Parallel()
	r := open(t, Config{RunKey: testKey})
	good := Grant{Repository: repoA, Actions: []string{Pull}, Run: "run-1", Expires: testNow.Add(time.Second)}
	changed := func(change func(*Grant)) Grant { g := good; change(&g); return g }
	status := func(password, repository string) int {
		return do(t, r, login{runUser, password}, "GET", "/v2/"+repository+"/tags/list", "").Code
	}
	_, password := Mint(testKey, good)
	require.Equal(t, http.StatusNotFound, status(password, repoA), "allowed, but not there")
	require.Equal(t, http.StatusForbidden, status(password, repoA+"/below"))
	require.Equal(t, http.StatusForbidden, status(password, "q/acme"))

	head, signature, _ := strings.Cut(strings.TrimPrefix(password, tokenPrefix), ".")
	_, foreign := Mint(bytes.Repeat([]byte("x"), minKey), good)
	_, wider := Mint(testKey, changed(func(g *Grant) { g.Repository = repoB }))
	widerHead, _, _ := strings.Cut(strings.TrimPrefix(wider, tokenPrefix), ".")
	refused := map[string]string{
		"empty": "", "no prefix": head + "." + signature, "no signature": tokenPrefix + head, "empty signature": tokenPrefix + head + ".",
		"other key": foreign, "spliced": tokenPrefix + widerHead + "." + signature, "cut": password[:len(password)-1],
		"longer": password + "A", "padded": password + "=", "line break": password + "\n", "huge": password + strings.Repeat("A", maxToken),
		"not base64": tokenPrefix + "!!." + signature,
	}
	for name, change := range map[string]func(*Grant){
		"expired now":    func(g *Grant) { g.Expires = testNow },
		"no expiry":      func(g *Grant) { g.Expires = time.Time{} },
		"no run":         func(g *Grant) { g.Run = "" },
		"no repository":  func(g *Grant) { g.Repository = "" },
		"wild":           func(g *Grant) { g.Repository = "*" },
		"no actions":     func(g *Grant) { g.Actions = nil },
		"unknown action": func(g *Grant) { g.Actions = []string{"admin"} },
	} {
		_, refused[name] = Mint(testKey, changed(change))
	}
	for name, password := range refused {
		require.Equal(t, http.StatusUnauthorized, status(password, repoA), name)
	}
	// The last character of a signature carries unused bits.
	for _, last := range "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_" {
		if other := password[:len(password)-1] + string(last); other != password {
			require.Equal(t, http.StatusUnauthorized, status(other, repoA), "last character %c", last)
		}
	}
}

func TestCredentialsAreReadStrictly(t *testing.T) {
	t.Parallel()
	r := open(t, Config{Users: []User{{"user", "pw", Full(Pull)}}, Anonymous: []Access{{Prefix: "public", Actions: []string{Pull}}}})
	get := func(target string, headers ...string) int {
		req := httptest.NewRequest("GET", target, nil)
		req.Header["Authorization"] = headers
		w := httptest.NewRecorder()
		r.ServeHTTP(w, req)
		return w.Code
	}
	basic := func(name, password string) string {
		req := httptest.NewRequest("GET", "/", nil)
		req.SetBasicAuth(name, password)
		return req.Header.Get("Authorization")
	}
	require.Equal(t, 404, get("/v2/private/tags/list", basic("user", "pw")))
	require.Equal(t, 404, get("/v2/public/app/tags/list"))
	require.Equal(t, 404, get("/v2/public/tags/list"))
	require.Equal(t, 401, get("/v2/publicity/tags/list"), "a prefix ends at a path boundary")
	require.Equal(t, 401, get("/v2/private/tags/list"))
	require.Equal(t, 401, get("/v2/"), "clients must learn that credentials exist")
	for _, bad := range []string{
		"", "Basic", "Basic !!!", "Bearer x", basic("user", ""), basic("user", "PW"), basic("USER", "pw"), basic("", "pw"), basic("run", "pw"),
	} {
		require.Equal(t, 401, get("/v2/public/tags/list", bad), "no fall back to anonymous for %q", bad)
	}
	require.Equal(t, 401, get("/v2/private/tags/list", basic("user", "pw"), basic("user", "pw")), "two headers")
	r2 := open(t, Config{Anonymous: Full(Pull)})
	require.Equal(t, 200, do(t, r2, login{}, "GET", "/v2/", "").Code)
}

func TestOpenReportsEveryProblemOfItsConfiguration(t *testing.T) {
	t.Parallel()
	_, err := Open(Config{
		Name: "Bad Name", RunKey: []byte("short"), Anonymous: []Access{{Actions: []string{"fly"}}},
		Users: []User{{Name: "run", Password: "p"}, {Name: "a:b", Password: "p"}, {Name: "x"}, {Name: "y", Password: "p", Access: []Access{{Prefix: "A", Actions: []string{Pull}}}}, {Name: "y", Password: "p"}},
	})
	require.Error(t, err)
	for _, part := range []string{"Bad Name", "dir is missing", "run key", "reserved", "colon", "password is empty", "prefix \"A\"", "listed twice", "fly"} {
		require.ErrorContains(t, err, part)
	}
	dir := t.TempDir()
	first := open(t, Config{Dir: dir})
	_, err = Open(Config{Name: "second", Dir: dir})
	require.ErrorContains(t, err, "in use by another process")
	require.NoError(t, first.Close())
	require.Equal(t, http.StatusServiceUnavailable, do(t, first, login{}, "GET", "/v2/", "").Code)
}
