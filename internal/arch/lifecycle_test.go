package arch_test

import (
	"bytes"
	"fmt"
	"go/ast"
	"go/token"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// constant is one named state or verb.
type constant struct {
	name, typ, value, comment string
}

// machine is one lifecycle table of a domain, as its source says it.
type machine struct {
	service, name, doc string
	states, verbs      []constant // in the order of their declaration
	order              []string   // states in the order of the table
	moves              map[string][]move
	columns            []string // table.column in SQL with exactly these states
}

type move struct{ verb, to string }

// constantsOf reads the typed string constants of a service's domain.
func constantsOf(t *testing.T, files []*source) map[string]constant {
	t.Helper()
	out := map[string]constant{}
	for _, s := range files {
		for _, decl := range s.ast.Decls {
			d, ok := decl.(*ast.GenDecl)
			if !ok || d.Tok != token.CONST {
				continue
			}
			for _, spec := range d.Specs {
				sp := spec.(*ast.ValueSpec)
				typ, ok := sp.Type.(*ast.Ident)
				if !ok || len(sp.Values) != len(sp.Names) {
					continue
				}
				for i, name := range sp.Names {
					lit, ok := sp.Values[i].(*ast.BasicLit)
					if !ok || lit.Kind != token.STRING {
						continue
					}
					value, err := strconv.Unquote(lit.Value)
					require.NoError(t, err)
					out[name.Name] = constant{name: name.Name, typ: typ.Name, value: value, comment: strings.TrimSpace(sp.Comment.Text())}
				}
			}
		}
	}
	return out
}

// machines finds every map[State]map[Verb]State of the domains.
func machines(t *testing.T) []machine {
	t.Helper()
	domains := map[string][]*source{}
	for _, s := range sources(t) {
		if name := service(s.dir); name != "" && !s.test && s.dir == "services/"+name+"/internal/domain" {
			domains[name] = append(domains[name], s)
		}
	}
	var out []machine
	for _, name := range services {
		constants := constantsOf(t, domains[name])
		for _, s := range domains[name] {
			for _, decl := range s.ast.Decls {
				d, ok := decl.(*ast.GenDecl)
				if !ok || d.Tok != token.VAR {
					continue
				}
				for _, spec := range d.Specs {
					if m, ok := machineOf(t, s, spec.(*ast.ValueSpec), constants); ok {
						m.service = name
						m.doc = strings.TrimPrefix(strings.TrimSpace(strings.ReplaceAll(d.Doc.Text(), "\n", " ")), m.name+": ")
						out = append(out, m)
					}
				}
			}
		}
	}
	for i := range out {
		out[i].columns = columnsWith(t, out[i])
	}
	return out
}

func machineOf(t *testing.T, s *source, sp *ast.ValueSpec, constants map[string]constant) (machine, bool) {
	t.Helper()
	if len(sp.Values) != 1 {
		return machine{}, false
	}
	lit, ok := sp.Values[0].(*ast.CompositeLit)
	if !ok {
		return machine{}, false
	}
	outer, ok := lit.Type.(*ast.MapType)
	if !ok {
		return machine{}, false
	}
	inner, ok := outer.Value.(*ast.MapType)
	if !ok {
		return machine{}, false
	}
	state, ok1 := outer.Key.(*ast.Ident)
	verb, ok2 := inner.Key.(*ast.Ident)
	to, ok3 := inner.Value.(*ast.Ident)
	if !ok1 || !ok2 || !ok3 || to.Name != state.Name {
		return machine{}, false
	}
	lookup := func(e ast.Expr, typ string) string {
		c, known := constants[e.(*ast.Ident).Name]
		require.True(t, known && c.typ == typ, "%s: the table is written with the constants of %s", s.at(e), typ)
		return c.value
	}
	m := machine{name: sp.Names[0].Name, moves: map[string][]move{}}
	usedVerbs := map[string]bool{}
	for _, row := range lit.Elts {
		kv := row.(*ast.KeyValueExpr)
		from := lookup(kv.Key, state.Name)
		m.order = append(m.order, from)
		for _, cell := range kv.Value.(*ast.CompositeLit).Elts {
			pair := cell.(*ast.KeyValueExpr)
			mv := move{lookup(pair.Key, verb.Name), lookup(pair.Value, state.Name)}
			usedVerbs[mv.verb] = true
			m.moves[from] = append(m.moves[from], mv)
		}
	}
	for _, c := range constants {
		if c.typ == state.Name {
			m.states = append(m.states, c)
		}
		if c.typ == verb.Name && usedVerbs[c.value] {
			m.verbs = append(m.verbs, c)
		}
	}
	rank := func(v string) int {
		if i := slices.Index(m.order, v); i >= 0 {
			return i
		}
		return len(m.order)
	}
	slices.SortFunc(m.states, func(a, b constant) int {
		if d := rank(a.value) - rank(b.value); d != 0 {
			return d
		}
		return strings.Compare(a.value, b.value)
	})
	slices.SortFunc(m.verbs, func(a, b constant) int { return strings.Compare(a.value, b.value) })
	return m, true
}

var columnCheck = regexp.MustCompile(`(?m)^\s*(\w+)\s+text\b[^\n]*check \((\w+) in \(([^)]*)\)\)`)

// columnsWith lists the columns of the service whose CHECK names exactly the machine's states.
func columnsWith(t *testing.T, m machine) []string {
	t.Helper()
	want := make([]string, len(m.states))
	for i, c := range m.states {
		want[i] = c.value
	}
	slices.Sort(want)
	var out []string
	for _, tab := range tables(t) {
		room, name, _ := strings.Cut(tab.name, ".")
		if room != m.service {
			continue
		}
		for _, check := range columnCheck.FindAllStringSubmatch(tab.body, -1) {
			var got []string
			for _, quoted := range strings.Split(check[3], ",") {
				got = append(got, strings.Trim(strings.TrimSpace(quoted), "'"))
			}
			slices.Sort(got)
			if check[1] == check[2] && slices.Equal(got, want) {
				out = append(out, name+"."+check[1])
			}
		}
	}
	return out
}

func TestEveryLifecycleIsOneTableAndSQLKnowsItsStates(t *testing.T) {
	t.Parallel()
	found := map[string]int{}
	for _, m := range machines(t) {
		found[m.service]++
		where := m.service + "." + m.name
		require.NotEmpty(t, m.columns, "%s: no CHECK of the migrations lists exactly its states", where)
		reached := map[string]bool{m.order[0]: true}
		for range m.states {
			for from, moves := range m.moves {
				for _, mv := range moves {
					reached[mv.to] = reached[mv.to] || reached[from]
				}
			}
		}
		for _, c := range m.states {
			if why, listed := unreached[where+"."+c.value]; reached[c.value] == listed {
				t.Errorf("%s: state %s is reached from %s: %v, listed as unreached: %v (%s)", where, c.value, m.order[0], reached[c.value], listed, why)
			}
		}
	}
	for _, name := range services {
		if why, none := withoutLifecycle[name]; (found[name] == 0) != none {
			t.Errorf("%s has %d lifecycle tables, listed as having none: %v (%s)", name, found[name], none, why)
		}
	}
}

// unreached lists the states that no verb leads to yet.
var unreached = map[string]string{
	"release.lifecycle.recalled": "recalls are a later chapter; the state is part of the public contract",
}

// withoutLifecycle lists the services whose facts have no states.
var withoutLifecycle = map[string]string{
	"notify": "a plan, a receipt and a notification are written once, in one transaction",
}

const lifecycleHead = `# Lifecycles

Generated from the tables in ` + "`services/*/internal/domain`" + `; do not edit (` + "`go test ./internal/arch -run Golden -update`" + `).

State moves only through these tables. What is not in them is a conflict. Each move is one guarded statement; each move of an aggregate leaves one row
in its transition table and commits together with the events that tell it. ` + "`internal/arch`" + ` checks that the CHECK in SQL lists exactly the states
shown here.

Not shown, since they follow from a state instead of being moved: a request's ` + "`execution_state`" + ` (derived from status and release state), an EPR
registration's active, expiring, expired (read off the clock), the rows of runs and promotions (one attempt each, under the record that is shown).
`

func TestGoldenLifecycleDocument(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	out.WriteString(lifecycleHead)
	last := ""
	for _, m := range machines(t) {
		if m.service != last {
			last = m.service
			fmt.Fprintf(&out, "\n## %s\n", m.service)
		}
		m.render(&out)
	}
	path := filepath.Join(root, "docs", "lifecycle.md")
	if *update {
		require.NoError(t, os.WriteFile(path, out.Bytes(), 0o644))
	}
	want, err := os.ReadFile(path)
	require.NoError(t, err, "run: go test ./internal/arch -run Golden -update")
	require.Equal(t, string(want), out.String(), "a lifecycle changed; if that is meant: go test ./internal/arch -run Golden -update")
}

func (m machine) render(out *bytes.Buffer) {
	fmt.Fprintf(out, "\n### %s\n\n", strings.Join(m.columns, ", "))
	if m.doc != "" {
		fmt.Fprintf(out, "%s\n\n", m.doc)
	}
	fmt.Fprintf(out, "```mermaid\nstateDiagram-v2\n    [*] --> %s\n", m.order[0])
	for _, from := range m.states {
		for _, mv := range m.moves[from.value] {
			fmt.Fprintf(out, "    %s --> %s: %s\n", from.value, mv.to, mv.verb)
		}
	}
	out.WriteString("```\n\n| state | meaning | moves |\n|---|---|---|\n")
	for _, from := range m.states {
		moves := []string{}
		for _, mv := range m.moves[from.value] {
			moves = append(moves, mv.verb+" → "+mv.to)
		}
		if len(moves) == 0 {
			moves = append(moves, "none: it ends here")
		}
		fmt.Fprintf(out, "| `%s` | %s | %s |\n", from.value, from.comment, strings.Join(moves, ", "))
	}
	var said []string
	for _, v := range m.verbs {
		if v.comment != "" {
			said = append(said, "`"+v.value+"`: "+v.comment)
		}
	}
	if len(said) > 0 {
		fmt.Fprintf(out, "\nVerbs: %s.\n", strings.Join(said, " · "))
	}
}
