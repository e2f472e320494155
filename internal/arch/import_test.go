package arch_test

import (
	"slices"
	"strings"
	"testing"
)

// edge is one file importing one package.
type edge struct {
	from   *source
	target string
}

func edges(t *testing.T) []edge {
	t.Helper()
	var out []edge
	for _, s := range sources(t) {
		for _, target := range s.imports {
			out = append(out, edge{s, target})
		}
	}
	return out
}

func forbid(t *testing.T, rule string, allowed exceptions, broken func(e edge, target string) bool) {
	t.Helper()
	v := newTally(allowed)
	for _, e := range edges(t) {
		target := e.target
		if rel, ok := local(target); ok {
			target = rel
		}
		if broken(e, target) {
			v.add(e.from.path, e.from.path+" imports "+target)
		}
	}
	v.check(t, rule)
}

func TestDomainsArePure(t *testing.T) {
	t.Parallel()
	effects := []string{"net", "net/http", "os", "os/exec", "database/sql", "context", "log", "log/slog", "syscall", "math/rand", "math/rand/v2"}
	forbid(t, "a domain imports the standard library without effects, uuid, the table of failure codes, and its own service's messages", nil, func(e edge, target string) bool {
		if e.from.test || !under(e.from.dir, "services") || !strings.HasSuffix(e.from.dir, "/internal/domain") {
			return false
		}
		own := under(target, "gen/pratique/"+service(e.from.dir), "services/"+service(e.from.dir)+"/internal/domain")
		std := !strings.Contains(strings.SplitN(target, "/", 2)[0], ".") && !under(target, "gen", "internal", "services", "cmd", "gateway")
		return (!std || slices.Contains(effects, target)) && target != "github.com/google/uuid" && target != "internal/failure" && !own
	})
}

func TestNobodyReachesIntoAnotherService(t *testing.T) {
	t.Parallel()
	forbid(t, "a service is reached over gRPC and events; only cmd/ and test/ put services together", nil, func(e edge, target string) bool {
		if !under(target, "services") || under(e.from.dir, "cmd", "test") {
			return false
		}
		return service(e.from.dir) != service(target)
	})
}

func TestMechanismsKnowNoService(t *testing.T) {
	t.Parallel()
	forbid(t, "internal/ holds mechanisms that know no service", nil, func(e edge, target string) bool {
		return under(e.from.dir, "internal") && under(target, "services", "gateway", "cmd", "test", "steps")
	})
}

func TestTheGatewayOwnsNothing(t *testing.T) {
	t.Parallel()
	forbid(t, "the gateway talks gRPC and touches neither services, database nor broker", nil, func(e edge, target string) bool {
		return under(e.from.dir, "gateway") && !e.from.helps() && under(target, "services", "cmd", "internal/pg", "internal/bus", "internal/outbox",
			"internal/broker", "internal/postgres", "github.com/jackc/pgx/v5")
	})
}

func TestProgramsAreImportedByNobody(t *testing.T) {
	t.Parallel()
	forbid(t, "what is below cmd/ serves programs only", nil, func(e edge, target string) bool {
		return under(target, "cmd") && !under(e.from.dir, "cmd", "test")
	})
	forbid(t, "steps carries the scanners and knows neither services nor the server; the server does not link it", nil, func(e edge, target string) bool {
		inside := under(e.from.dir, "steps")
		return inside && under(target, "services", "gateway", "cmd", "internal/pg", "internal/bus") || !inside && under(target, "steps")
	})
}

// api -> app -> domain <- store, app -> store.
func TestLayersPointInwards(t *testing.T) {
	t.Parallel()
	outward := map[string][]string{
		"domain": {"app", "store", "api"},
		"store":  {"app", "api"},
		"app":    {"api"},
	}
	forbid(t, "api calls app, app uses domain and store, store knows domain", nil, func(e edge, target string) bool {
		if service(e.from.dir) == "" || e.from.test {
			return false
		}
		base := "services/" + service(e.from.dir) + "/internal/"
		for layer, above := range outward {
			if !under(e.from.dir, base+layer) {
				continue
			}
			for _, a := range above {
				if under(target, base+a) {
					return true
				}
			}
		}
		return false
	})
}

func TestOnlyTheBusSpeaksNATS(t *testing.T) {
	t.Parallel()
	forbid(t, "only internal/bus and internal/broker import nats; outside subscribers are shown in examples/", exceptions{
		"internal/outbox/relay_test.go": "the relay is tested on a real broker with its own view of the stream",
	}, func(e edge, target string) bool {
		return strings.HasPrefix(target, "github.com/nats-io/") && !under(e.from.dir, "internal/bus", "internal/broker", "examples", "test")
	})
}

func TestOnlyFaultRendersErrors(t *testing.T) {
	t.Parallel()
	forbid(t, "errors are made with fault.New and rendered once; nobody else speaks gRPC codes", exceptions{
		"internal/fault":                        "turns reasons into statuses and back",
		"internal/rpc":                          "the interceptor: reads the code of what was rendered, and deadlines of the transport",
		"gateway":                               "tells a service that is down from one that refused",
		"services/dispatch/internal/api/log.go": "reads intake's answer: a request that is not there",
	}, func(e edge, target string) bool {
		return !e.from.helps() && (target == "google.golang.org/grpc/codes" || target == "google.golang.org/grpc/status")
	})
}

func TestPackagesHaveNamesThatSaySomething(t *testing.T) {
	t.Parallel()
	banned := []string{"util", "utils", "common", "helper", "helpers", "base", "manager", "impl", "types", "models", "model", "misc", "shared", "pkg", "lib"}
	v := newTally(nil)
	for _, s := range sources(t) {
		name := strings.TrimSuffix(s.ast.Name.Name, "_test")
		folder := s.dir[strings.LastIndex(s.dir, "/")+1:]
		for _, word := range []string{name, folder, strings.TrimSuffix(s.path[strings.LastIndex(s.path, "/")+1:], ".go")} {
			if slices.Contains(banned, word) {
				v.add(s.path, s.path)
			}
		}
		if strings.ContainsAny(name, "_ABCDEFGHIJKLMNOPQRSTUVWXYZ") {
			v.add(s.path, s.path)
		}
	}
	v.check(t, "a package or file is named after what it owns, by one short lower-case noun")
}
