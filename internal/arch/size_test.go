package arch_test

import (
	"go/ast"
	"go/token"
	"strings"
	"testing"
)

const (
	linesOfFile, mostOfFile = 400, 600
	linesOfFunc, mostOfFunc = 60, 120
	mostOfCorpus            = 200 // a test's table of cases is data, not a text to follow
)

// Over the first number is worth a look, over the second it fails.
func TestFilesAndFunctionsStaySmall(t *testing.T) {
	t.Parallel()
	for _, s := range sources(t) {
		switch {
		case s.lines > mostOfFile:
			t.Errorf("%s has %d lines", s.path, s.lines)
		case s.lines > linesOfFile:
			t.Logf("long: %s has %d lines", s.path, s.lines)
		}
		for _, decl := range s.ast.Decls {
			f, ok := decl.(*ast.FuncDecl)
			if !ok || f.Body == nil {
				continue
			}
			most := mostOfFunc
			if s.helps() {
				most = mostOfCorpus
			}
			n := s.fset.Position(f.End()).Line - s.fset.Position(f.Pos()).Line + 1
			switch {
			case n > most:
				t.Errorf("%s: %s has %d lines", s.at(f), f.Name.Name, n)
			case n > linesOfFunc:
				t.Logf("long: %s: %s has %d lines", s.at(f), f.Name.Name, n)
			}
		}
	}
}

func TestEveryPackageSaysWhatItOwns(t *testing.T) {
	t.Parallel()
	said, where := map[string]bool{}, map[string]string{}
	for _, s := range sources(t) {
		if s.test {
			continue
		}
		where[s.dir] = s.path
		if s.ast.Doc != nil && len(strings.Fields(s.ast.Doc.Text())) >= 5 {
			said[s.dir] = true
		}
	}
	for dir, path := range where {
		if !said[dir] {
			t.Errorf("%s: package %s has no doc comment", path, dir)
		}
	}
}

// obvious are methods that implement what every Go programmer knows.
var obvious = map[string]bool{"Error": true, "Unwrap": true, "Is": true, "As": true, "String": true, "GoString": true, "LogValue": true, "Len": true, "Less": true, "Swap": true,
	"MarshalJSON": true, "UnmarshalJSON": true, "MarshalText": true, "UnmarshalText": true, "MarshalYAML": true, "UnmarshalYAML": true,
	"Read": true, "Write": true, "Close": true, "ServeHTTP": true, "RoundTrip": true}

func TestExportedNamesAreExplained(t *testing.T) {
	t.Parallel()
	v := newTally(nil)
	for _, s := range sources(t) {
		top := under(s.dir, "services") && strings.Count(s.dir, "/") == 1
		if s.test || !top && !under(s.dir, "internal", "gateway", "cmd") {
			continue
		}
		for _, decl := range s.ast.Decls {
			switch d := decl.(type) {
			case *ast.FuncDecl:
				if d.Name.IsExported() && d.Doc == nil && !(d.Recv != nil && (obvious[d.Name.Name] || !exportedReceiver(d))) && s.ast.Name.Name != "main" {
					v.add(s.path, s.at(d)+" "+d.Name.Name)
				}
			case *ast.GenDecl:
				for _, spec := range d.Specs {
					for _, name := range unexplained(d, spec) {
						v.add(s.path, s.at(spec)+" "+name)
					}
				}
			}
		}
	}
	v.check(t, "an exported name has a comment")
}

func exportedReceiver(f *ast.FuncDecl) bool {
	typ := f.Recv.List[0].Type
	if star, ok := typ.(*ast.StarExpr); ok {
		typ = star.X
	}
	if index, ok := typ.(*ast.IndexExpr); ok {
		typ = index.X
	}
	name, ok := typ.(*ast.Ident)
	return !ok || name.IsExported()
}

// unexplained: a group's comment speaks for its values, a type has its own.
func unexplained(d *ast.GenDecl, spec ast.Spec) []string {
	switch sp := spec.(type) {
	case *ast.TypeSpec:
		if sp.Name.IsExported() && sp.Doc == nil && d.Doc == nil {
			return []string{sp.Name.Name}
		}
	case *ast.ValueSpec:
		if sp.Doc != nil || sp.Comment != nil || d.Doc != nil || d.Tok != token.CONST && d.Tok != token.VAR {
			return nil
		}
		var out []string
		for _, name := range sp.Names {
			if name.IsExported() {
				out = append(out, name.Name)
			}
		}
		return out
	}
	return nil
}
