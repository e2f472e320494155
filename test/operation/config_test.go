package operation

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

const wrongConfig = `
log_level: loud
listne: {rest: "127.0.0.1:80"}
listen: {rest: nowhere, opps: "127.0.0.1:81"}
database: {max_conns: canary-many}
dispatch: {run_timout: 3s, run_timeout: 1s, readiness_interval: canary-soon, quarantine: {hst: x}}
intake: {epr: {enforce: canary-maybe}}
peers: {intake: nowhere, nobody: "127.0.0.1:82"}
egress: {sauce: {allowed: [x]}, source: [x]}
notify: {receipt_retention_days: 0}
notify: {}
`

func TestConfigCheckTellsEverythingAtOnce(t *testing.T) {
	t.Parallel()
	path := filepath.Join(folder(t), "wrong.yaml")
	require.NoError(t, os.WriteFile(path, []byte(wrongConfig), 0o600))
	p := refused(t, pratique("config", "check", "--config", path), "",
		"listne: line 3: there is no such setting", "listen.opps: line 4: there is no such setting; there are grpc, ops, rest",
		"database.max_conns: line 5: expected a whole number", "dispatch.run_timout: line 6: there is no such setting",
		"dispatch.readiness_interval: line 6: expected a duration", "dispatch.quarantine.hst: line 6: there is no such setting; there are host, key_file",
		"intake.epr.enforce: line 7: expected true or false", "egress.source: line 9: expected settings below it, found a list", "notify: line 11: is given twice",
		"log_level:", "listen.rest: must be host:port", "database.url: is required", "database.passwords: is required", "bus.url: is required",
		"bus.passwords: is required", "auth.service_keys: is required", "auth.issuers:", "transport:", "peers.intake: must be host:port", "peers.nobody: is no service",
		"peers.release: is required", "egress.sauce", "dispatch.run_timeout: must be 1m0s to 12h0m0s", "dispatch.quarantine.host:", "dispatch.quarantine.key_file: is required",
		"evidence.store.host:", "release.trusted.host:", "notify.receipt_retention_days:",
	)
	require.NotContains(t, p.errors.String(), "canary", "values are not repeated")
	require.NotContains(t, p.errors.String(), "serve.", "nor are names of our code told")

	refused(t, pratique("config", "check", "mail", "intake", "intake", "--config", path), "", `no service "mail"`, "intake is named twice")
	require.NoError(t, os.WriteFile(path, []byte("a: 1\n---\nb: 2\n"), 0o600))
	refused(t, pratique("config", "check", "--config", path), "", "more than one document")
	require.NoError(t, os.WriteFile(path, []byte("listen: [\n"), 0o600))
	refused(t, pratique("config", "check", "--config", path), "", "read configuration: yaml: line")
}

func TestAVariableThatCannotBeReadIsNamedWithTheRest(t *testing.T) {
	t.Parallel()
	path := filepath.Join(folder(t), "wrong.yaml")
	require.NoError(t, os.WriteFile(path, []byte("listne: {}\n"), 0o600))
	c := pratique("config", "check", "--config", path)
	c.env = []string{"PRATIQUE_DISPATCH_RUN_TIMEOUT=canary"}
	p := refused(t, c, "", "dispatch.run_timeout: PRATIQUE_DISPATCH_RUN_TIMEOUT does not hold", "listne: line 1", "database.url: is required")
	require.NotContains(t, p.errors.String(), "canary")
}

const secretConfig = `
database: {url: "postgres://someone:canary1@db.example.com:5432/pratique?sslpassword=canary2", passwords: /run/secrets}
bus: {url: "nats://someone:canary3@nats.example.com:4222", passwords: /run/secrets}
dispatch: {quarantine: {host: q.example.com, key_file: /run/canary4}}
evidence: {store: {host: e.example.com, username: u, password: /run/canary5}}
egress: {source: {proxy: "http://proxy:canary6@proxy.example.com:3128"}}
`

func TestConfigPrintShowsWhatIsInForceAndNoSecret(t *testing.T) {
	t.Parallel()
	path := filepath.Join(folder(t), "secret.yaml")
	require.NoError(t, os.WriteFile(path, []byte(secretConfig), 0o600))
	c := pratique("config", "print", "--config", path)
	c.env = []string{"PRATIQUE_DISPATCH_RUN_TIMEOUT=90s", "PRATIQUE_DISPATCH_PROVIDER_MAX_CONCURRENT_RUNS=7"}
	p, code := c.run(t, 10*time.Second)
	require.Zero(t, code, p.errors.String())
	printed := p.out.String()
	require.NotContains(t, printed, "canary")
	for _, line := range []string{"run_timeout: 1m30s", "max_concurrent_runs: 7", "key_file: REDACTED", "password: REDACTED", "db.example.com:5432", "proxy.example.com:3128"} {
		require.Contains(t, printed, line)
	}
	require.NoError(t, os.WriteFile(path, []byte(strings.ReplaceAll(printed, "REDACTED", "/run/x")), 0o600))
	_, code = pratique("config", "print", "--config", path).run(t, 10*time.Second)
	require.Zero(t, code, "what is printed can be read again")
}
