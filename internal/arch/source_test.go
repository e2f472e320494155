package arch_test

import (
	"flag"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
)

var update = flag.Bool("update", false, "write the generated documents instead of comparing")

const (
	root   = "../.."
	module = "github.com/pratique-io/pratique"
)

// source is one Go file of ours that is not generated.
type source struct {
	path    string // slash separated, from the root of the repository
	dir     string
	test    bool // _test.go
	lines   int
	fset    *token.FileSet
	ast     *ast.File
	imports map[string]string // local name -> import path
}

func (s *source) at(n ast.Node) string {
	return s.path + ":" + strconv.Itoa(s.fset.Position(n.Pos()).Line)
}

// helps says whether the file is part of a package that exists for tests only.
func (s *source) helps() bool {
	return s.test || strings.HasPrefix(s.dir, "test/") || strings.HasSuffix(s.dir, "/conformance") ||
		strings.HasSuffix(s.dir, "/pgtest") || strings.HasSuffix(s.dir, "/bustest")
}

// calls says whether e is pkg.name, by import path.
func (s *source) calls(e ast.Expr, pkg string) (string, bool) {
	sel, ok := e.(*ast.SelectorExpr)
	if !ok {
		return "", false
	}
	x, ok := sel.X.(*ast.Ident)
	if !ok || s.imports[x.Name] != pkg {
		return "", false
	}
	return sel.Sel.Name, true
}

var skipped = []string{".git", ".cache", "bin", "data", "tmp", "testdata", "node_modules", "third_party"}

// walk visits every file of the repository that is not built, kept or vendored here.
func walk(t *testing.T, visit func(path string)) {
	t.Helper()
	require.NoError(t, filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(root, path)
		if err != nil {
			return err
		}
		if entry.IsDir() {
			if rel != "." && slices.Contains(skipped, entry.Name()) {
				return filepath.SkipDir
			}
			return nil
		}
		visit(filepath.ToSlash(rel))
		return nil
	}))
}

var load = sync.OnceValues(func() ([]*source, error) {
	var out []*source
	err := filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(root, path)
		if err != nil {
			return err
		}
		rel = filepath.ToSlash(rel)
		if entry.IsDir() {
			if rel == "gen" || rel != "." && slices.Contains(skipped, entry.Name()) {
				return filepath.SkipDir
			}
			return nil
		}
		if !strings.HasSuffix(rel, ".go") {
			return nil
		}
		file, err := parse(path, rel)
		if err == nil {
			out = append(out, file)
		}
		return err
	})
	return out, err
})

func parse(path, rel string) (*source, error) {
	raw, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	fset := token.NewFileSet()
	file, err := parser.ParseFile(fset, path, raw, parser.ParseComments|parser.SkipObjectResolution)
	if err != nil {
		return nil, err
	}
	s := &source{
		path: rel, dir: filepath.ToSlash(filepath.Dir(rel)), test: strings.HasSuffix(rel, "_test.go"), fset: fset, ast: file,
		lines: fset.File(file.Pos()).LineCount(), imports: map[string]string{},
	}
	for _, spec := range file.Imports {
		importPath, err := strconv.Unquote(spec.Path.Value)
		if err != nil {
			return nil, err
		}
		name := importPath[strings.LastIndex(importPath, "/")+1:]
		if spec.Name != nil {
			name = spec.Name.Name
		}
		if name == "_" || name == "." {
			name += importPath
		}
		s.imports[name] = importPath
	}
	return s, nil
}

// sources are all Go files of the three modules, without generated ones.
func sources(t *testing.T) []*source {
	t.Helper()
	out, err := load()
	require.NoError(t, err)
	require.Greater(t, len(out), 200, "the scan has lost its way")
	return out
}

// local is an import path within the repository, from its root; false for others.
func local(importPath string) (string, bool) { return strings.CutPrefix(importPath, module+"/") }

func under(dir string, roots ...string) bool {
	return slices.ContainsFunc(roots, func(r string) bool { return dir == r || strings.HasPrefix(dir, r+"/") })
}

// service is "intake" for everything below services/intake.
func service(dir string) string {
	rest, ok := strings.CutPrefix(dir, "services/")
	if !ok {
		return ""
	}
	name, _, _ := strings.Cut(rest, "/")
	return name
}

// exceptions maps a place (a file or folder) to why a rule does not hold there.
type exceptions map[string]string

// tally collects violations of one rule and which of its exceptions were needed.
type tally struct {
	allowed exceptions
	used    map[string]bool
	found   []string
}

func newTally(allowed exceptions) *tally { return &tally{allowed: allowed, used: map[string]bool{}} }

// add notes a violation, unless path or a folder above it is excepted.
func (v *tally) add(path, where string) {
	for place := range v.allowed {
		if under(path, place) {
			v.used[place] = true
			return
		}
	}
	v.found = append(v.found, where)
}

func (v *tally) check(t *testing.T, rule string) {
	t.Helper()
	slices.Sort(v.found)
	for _, where := range v.found {
		t.Errorf("%s: %s", where, rule)
	}
	for place, why := range v.allowed {
		if !v.used[place] {
			t.Errorf("the exception for %s (%s) is no longer needed: remove it", place, why)
		}
	}
}
