package arch_test

import (
	"bytes"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/stretchr/testify/require"
)

// plainHosts are names that files may hold although an environment names them too: this machine itself, and where module paths begin.
var plainHosts = []string{"github.com", "localhost", "127.0.0.1", "::1", ""}

// machineHosts are the proxies and mirrors that this machine's environment names.
func machineHosts() []string {
	var texts []string
	for _, name := range []string{"GOPROXY", "GOSUMDB", "HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy", "PIP_INDEX_URL", "NPM_CONFIG_REGISTRY", "npm_config_registry"} {
		texts = append(texts, os.Getenv(name))
	}
	var out []string
	for _, found := range regexp.MustCompile(`https?://[^\s"',|]+`).FindAllString(strings.Join(texts, "\n"), -1) {
		if u, err := url.Parse(found); err == nil && !slices.Contains(plainHosts, u.Hostname()) {
			out = append(out, u.Hostname())
		}
	}
	return out
}

func TestNothingOfThisMachineIsInTheRepository(t *testing.T) {
	t.Parallel()
	// Spelled so that this file does not hold what it looks for.
	paths := regexp.MustCompile(`(^|[^A-Za-z0-9._~})/$*-])/(` + "wo" + `rk|ro` + `ot)/[A-Za-z0-9._]`)
	hosts := append(machineHosts(), "artifact"+"registry.googleapis.com", "-docker.pkg"+".dev", "-go.pkg"+".dev",
		"proxy.golang"+".org", "sum.golang"+".org", "registry.npmjs"+".org", "deb.debian"+".org")
	v := newTally(nil)
	walk(t, func(path string) {
		raw, err := os.ReadFile(filepath.Join(root, path))
		require.NoError(t, err)
		if !utf8.Valid(raw) || strings.HasPrefix(path, "coverage") {
			return
		}
		if at := paths.FindIndex(raw); at != nil {
			v.add(path, path+": "+string(bytes.TrimSpace(raw[at[0]:min(at[1]+20, len(raw))])))
		}
		for _, host := range hosts {
			if bytes.Contains(raw, []byte(host)) {
				v.add(path, path+" names a host of this machine's set-up")
			}
		}
	})
	v.check(t, "what is committed must work on any machine")
}
