package arch_test

import (
	"go/ast"
	"go/token"
	"os"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	_ "github.com/pratique-io/pratique/gen/pratique/approval/v1"
	_ "github.com/pratique-io/pratique/gen/pratique/dispatch/v1"
	errorsv1 "github.com/pratique-io/pratique/gen/pratique/errors/v1"
	_ "github.com/pratique-io/pratique/gen/pratique/evidence/v1"
	_ "github.com/pratique-io/pratique/gen/pratique/intake/v1"
	_ "github.com/pratique-io/pratique/gen/pratique/notify/v1"
	_ "github.com/pratique-io/pratique/gen/pratique/release/v1"
	"github.com/pratique-io/pratique/internal/auth"
)

var services = []string{"approval", "dispatch", "evidence", "intake", "notify", "release"}

func TestEveryMethodHasAnAccessRule(t *testing.T) {
	t.Parallel()
	_, err := auth.BuildTable(protoregistry.GlobalFiles)
	require.NoError(t, err)
	found, err := os.ReadDir(root + "/services")
	require.NoError(t, err)
	var names []string
	for _, entry := range found {
		if entry.IsDir() {
			names = append(names, entry.Name())
		}
	}
	require.Equal(t, services, names, "a service was added: import its messages here, so that its methods are looked at")
}

// withoutProducer lists the reasons that nobody gives yet.
var withoutProducer = map[string]string{}

// used yields every place where a value is made, as opposed to compared with or looked up by.
func used(s *source, visit func(sel *ast.SelectorExpr)) {
	compared := map[ast.Expr]bool{}
	ast.Inspect(s.ast, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.BinaryExpr:
			if n.Op == token.EQL || n.Op == token.NEQ {
				compared[n.X], compared[n.Y] = true, true
			}
		case *ast.CaseClause:
			for _, e := range n.List {
				compared[e] = true
			}
		case *ast.KeyValueExpr:
			compared[n.Key] = true
		case *ast.IndexExpr:
			compared[n.Index] = true
		case *ast.SelectorExpr:
			if !compared[n] {
				visit(n)
			}
		}
		return true
	})
}

func TestEveryReasonHasAProducer(t *testing.T) {
	t.Parallel()
	made := map[string]string{}
	for _, s := range sources(t) {
		// Rendering handles every reason, steps run far from any caller, and the demonstration only reads answers.
		rendering := under(s.path, "internal/fault/rule.go", "internal/fault/status.go", "internal/fault/rest.go", "internal/fault/doc.go")
		if s.helps() || rendering || under(s.dir, "steps", "cmd/pratique/demo") {
			continue
		}
		used(s, func(sel *ast.SelectorExpr) {
			if name, ok := strings.CutPrefix(sel.Sel.Name, "Reason_"); ok {
				made[name] = s.at(sel)
			}
		})
	}
	for name, number := range errorsv1.Reason_value {
		if number == 0 { // the zero value is no reason
			continue
		}
		why, listed := withoutProducer[name]
		if where := made[name]; where == "" && !listed {
			t.Errorf("nobody gives %s: produce it, or list it with the reason why not yet", name)
		} else if where != "" && listed {
			t.Errorf("%s is given at %s now: take it off the list (%s)", name, where, why)
		}
	}
}

// eventsWithoutProducer lists the events that nobody publishes yet.
var eventsWithoutProducer = map[string]string{}

func TestEveryEventIsMadeByItsOwnServiceOnly(t *testing.T) {
	t.Parallel()
	events := map[string]string{} // Go name with its package -> service
	protoregistry.GlobalFiles.RangeFiles(func(file protoreflect.FileDescriptor) bool {
		if strings.HasPrefix(file.Path(), "pratique/") && strings.HasSuffix(file.Path(), "/events.proto") {
			for i := range file.Messages().Len() {
				name := file.Messages().Get(i)
				owner := strings.Split(string(name.FullName()), ".")[1]
				events[module+"/gen/pratique/"+owner+"/v1."+string(name.Name())] = owner
			}
		}
		return true
	})
	require.Greater(t, len(events), 30)
	made := map[string]bool{}
	for _, s := range sources(t) {
		if s.helps() || under(s.dir, "internal/event") {
			continue
		}
		ast.Inspect(s.ast, func(n ast.Node) bool {
			lit, ok := n.(*ast.CompositeLit)
			if !ok {
				return true
			}
			sel, ok := lit.Type.(*ast.SelectorExpr)
			if !ok {
				return true
			}
			x, ok := sel.X.(*ast.Ident)
			if !ok {
				return true
			}
			key := s.imports[x.Name] + "." + sel.Sel.Name
			owner, known := events[key]
			if known && service(s.dir) == owner {
				made[key] = true
			} else if known && len(lit.Elts) > 0 { // an empty one is something to decode into
				t.Errorf("%s makes an event of %s", s.at(lit), owner)
			}
			return true
		})
	}
	for key := range events {
		name := key[strings.LastIndex(key, "/gen/pratique/")+len("/gen/pratique/"):]
		why, listed := eventsWithoutProducer[name]
		if !made[key] && !listed {
			t.Errorf("nobody publishes %s: publish it, or list it with the reason why not yet", name)
		} else if made[key] && listed {
			t.Errorf("%s is published now: take it off the list (%s)", name, why)
		}
	}
}

func TestFailpointsAreNamedOnceAfterTheirPlace(t *testing.T) {
	t.Parallel()
	form := regexp.MustCompile(`^[a-z]+\.[a-z]+(_[a-z]+)*$`)
	first := map[string]string{}
	for _, s := range sources(t) {
		if s.test {
			continue
		}
		ast.Inspect(s.ast, func(n ast.Node) bool {
			call, ok := n.(*ast.CallExpr)
			if !ok {
				return true
			}
			if name, ok := s.calls(call.Fun, module+"/internal/failpoint"); !ok || name != "Hit" {
				return true
			}
			lit, ok := call.Args[0].(*ast.BasicLit)
			if !ok {
				t.Errorf("%s: a failpoint's name is a literal, so that it can be found", s.at(call))
				return true
			}
			name, err := strconv.Unquote(lit.Value)
			require.NoError(t, err)
			owner, _, _ := strings.Cut(name, ".")
			room := service(s.dir)
			if room == "" {
				room = s.dir[strings.LastIndex(s.dir, "/")+1:]
			}
			if !form.MatchString(name) || owner != room {
				t.Errorf("%s: %q is not of the form %s.<place>", s.at(call), name, room)
			}
			if before := first[name]; before != "" {
				t.Errorf("%s: failpoint %q is at %s already", s.at(call), name, before)
			}
			first[name] = s.at(call)
			return true
		})
	}
	require.NotEmpty(t, first)
}
