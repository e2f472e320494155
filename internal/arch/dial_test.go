package arch_test

import (
	"go/ast"
	"slices"
	"testing"
)

// dials names what opens connections, or could, by import path.
var dials = map[string][]string{
	"net":        {"Dial", "DialTimeout", "DialTCP", "DialUDP", "DialIP", "DialUnix", "Dialer", "DefaultResolver", "LookupHost", "LookupIP", "LookupAddr", "LookupTXT"},
	"net/http":   {"Get", "Head", "Post", "PostForm", "Client", "Transport", "DefaultClient", "DefaultTransport"},
	"crypto/tls": {"Dial", "DialWithDialer", "Dialer"},
	"net/smtp":   {"Dial", "SendMail", "NewClient"},
	"net/rpc":    {"Dial", "DialHTTP"},
	"github.com/google/go-containerregistry/pkg/v1/remote": {"DefaultTransport", "Get", "Image", "Index", "Write"},
}

func TestOnlyEgressDials(t *testing.T) {
	t.Parallel()
	v := newTally(exceptions{
		"internal/egress":   "the one dialer",
		"internal/auth":     "wraps the transport of the client it was given; nil means the default one, and the server never gives nil",
		"internal/sample":   "puts sample images into registries, for tests and the demonstration",
		"cmd/pratique/demo": "a client of a running product, on loopback",
	})
	for _, s := range sources(t) {
		if s.helps() || under(s.dir, "examples", "cmd/pratiquectl") {
			continue
		}
		ast.Inspect(s.ast, func(n ast.Node) bool {
			if e, ok := n.(ast.Expr); ok {
				for pkg, names := range dials {
					if name, ok := s.calls(e, pkg); ok && slices.Contains(names, name) && !isType(s, e) {
						v.add(s.path, s.at(n)+" uses "+pkg+"."+name)
					}
				}
			}
			return true
		})
	}
	v.check(t, "every connection to anything but our own Postgres, NATS and gRPC goes through internal/egress")
}

// isType: *http.Client as the type of a parameter or field opens nothing; a literal http.Client{} does.
func isType(s *source, e ast.Expr) bool {
	literal := false
	ast.Inspect(s.ast, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.CompositeLit:
			literal = literal || n.Type == e
		case *ast.CallExpr: // new(http.Client), http.Get(…)
			literal = literal || n.Fun == e || slices.Contains(n.Args, e)
		}
		return !literal
	})
	if literal {
		return false
	}
	name := e.(*ast.SelectorExpr).Sel.Name
	return slices.Contains([]string{"Client", "Transport", "Dialer"}, name)
}

// Our own three: each has one package that connects.
func TestOnePackageConnectsToEachOfOurOwn(t *testing.T) {
	t.Parallel()
	homes := map[string]struct {
		names []string
		rooms []string
	}{
		"google.golang.org/grpc":                   {[]string{"NewClient", "Dial", "DialContext"}, []string{"internal/rpc", "cmd/pratiquectl", "examples", "test"}},
		"github.com/nats-io/nats.go":               {[]string{"Connect"}, []string{"internal/bus", "examples", "test"}},
		"github.com/jackc/pgx/v5":                  {[]string{"Connect", "ConnectConfig"}, []string{"internal/pg", "internal/postgres", "test"}},
		"github.com/jackc/pgx/v5/pgxpool":          {[]string{"New", "NewWithConfig"}, []string{"internal/pg", "test"}},
		"github.com/nats-io/nats-server/v2/server": {[]string{"NewServer"}, []string{"internal/broker", "test"}},
	}
	v := newTally(nil)
	for _, s := range sources(t) {
		if s.helps() {
			continue
		}
		ast.Inspect(s.ast, func(n ast.Node) bool {
			call, ok := n.(*ast.CallExpr)
			if !ok {
				return true
			}
			for pkg, home := range homes {
				if name, ok := s.calls(call.Fun, pkg); ok && slices.Contains(home.names, name) && !under(s.dir, home.rooms...) {
					v.add(s.path, s.at(n)+" calls "+pkg+"."+name)
				}
			}
			return true
		})
	}
	v.check(t, "connections to Postgres, NATS and gRPC peers are made in one package each")
}

func TestNobodySleepsOrSkips(t *testing.T) {
	t.Parallel()
	v := newTally(exceptions{
		"services/dispatch/internal/runner/local/process.go":    "a killed process needs a moment; nothing announces the death of a stranger's child",
		"services/dispatch/internal/runner/local/disk.go":       "a lock file announces nothing",
		"services/dispatch/internal/runner/conformance/fake.go": "plays a step that takes long; whoever started it kills it",
		"services/dispatch/internal/runner/local/local_test.go": "samples a folder that another process fills",
	})
	for _, s := range sources(t) {
		ast.Inspect(s.ast, func(n ast.Node) bool {
			call, ok := n.(*ast.CallExpr)
			if !ok {
				return true
			}
			if name, ok := s.calls(call.Fun, "time"); ok && name == "Sleep" {
				v.add(s.path, s.at(n)+" sleeps")
			}
			if sel, ok := call.Fun.(*ast.SelectorExpr); ok && s.helps() && slices.Contains([]string{"Skip", "Skipf", "SkipNow"}, sel.Sel.Name) {
				v.add(s.path, s.at(n)+" skips")
			}
			return true
		})
	}
	v.check(t, "wait for a signal, a timer beside a context, or require.Eventually with a message; a missing component is a failure, not a skip")
}
