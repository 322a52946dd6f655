package arch

import (
	"fmt"
	"go/ast"
	"go/token"
	"slices"
	"strings"
)

// forbiddenCalls finds what only a main may do.
func forbiddenCalls(s Source) []string {
	if s.Main() || s.Test() {
		return nil
	}
	var out []string
	say := func(n ast.Node, what string) {
		out = append(out, fmt.Sprintf("%s:%d: %s", s.Path, s.line(n), what))
	}
	ast.Inspect(s.File, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.FuncDecl:
			if n.Recv == nil && n.Name.Name == "init" {
				say(n, "init()")
			}
		case *ast.SelectorExpr:
			pkg, ok := n.X.(*ast.Ident)
			if !ok {
				return true
			}
			name := s.imported(pkg.Name) + "." + n.Sel.Name
			if forbidden(name) && (!strings.HasPrefix(name, "context.") || !s.cleanup(n)) {
				say(n, name)
			}
		}
		return true
	})
	return out
}

func forbidden(name string) bool {
	return slices.Contains([]string{"os.Exit", "os.Chdir", "log.Fatal", "log.Fatalf", "log.Fatalln",
		"context.Background", "context.TODO"}, name)
}

// cleanup says that the line before has a comment that begins with Cleanup:
// what is taken down after its context ended needs one of its own.
func (s Source) cleanup(n ast.Node) bool {
	for _, group := range s.File.Comments {
		if s.Fset.Position(group.End()).Line == s.line(n)-1 && strings.HasPrefix(group.Text(), "Cleanup") {
			return true
		}
	}
	return false
}

// packageState finds variables of a package that can change. Errors, regular
// expressions and embedded files cannot.
func packageState(s Source) []string {
	if s.Test() || s.Main() {
		return nil
	}
	var out []string
	for _, d := range s.File.Decls {
		g, ok := d.(*ast.GenDecl)
		if !ok || g.Tok != token.VAR || g.Doc != nil && strings.Contains(docText(g.Doc), "go:embed") {
			continue
		}
		for _, spec := range g.Specs {
			v, ok := spec.(*ast.ValueSpec)
			if !ok || v.Names[0].Name == "_" || v.Doc != nil && strings.Contains(docText(v.Doc), "go:embed") {
				continue
			}
			if len(v.Values) == 0 || !slices.ContainsFunc(v.Values, s.constant) {
				out = append(out, fmt.Sprintf("%s:%d: the variable %s is state of a package", s.Path, s.line(v), v.Names[0].Name))
			}
		}
	}
	return out
}

// docText is a comment with its directives, which CommentGroup.Text leaves out.
func docText(g *ast.CommentGroup) string {
	var b strings.Builder
	for _, c := range g.List {
		b.WriteString(c.Text + "\n")
	}
	return b.String()
}

// constant says that nothing changes a variable that starts with this value.
func (s Source) constant(e ast.Expr) bool {
	call, ok := e.(*ast.CallExpr)
	if !ok {
		return false
	}
	sel, ok := call.Fun.(*ast.SelectorExpr)
	if !ok {
		return false
	}
	pkg, ok := sel.X.(*ast.Ident)
	return ok && slices.Contains([]string{"errors.New", "fmt.Errorf", "regexp.MustCompile"}, s.imported(pkg.Name)+"."+sel.Sel.Name)
}

// The lengths of functions, in lines: nine of ten, and all.
const (
	mostLines = 40
	allLines  = 100
)

func functionLength(tree Tree) []string {
	var lengths []int
	var out []string
	for _, s := range tree.Go {
		if s.Test() {
			continue
		}
		for _, d := range s.File.Decls {
			f, ok := d.(*ast.FuncDecl)
			if !ok {
				continue
			}
			n := s.Fset.Position(f.End()).Line - s.line(f) + 1
			lengths = append(lengths, n)
			if n > allLines {
				out = append(out, fmt.Sprintf("%s: %s has %d lines, at most %d", s.Path, f.Name.Name, n, allLines))
			}
		}
	}
	slices.Sort(lengths)
	if len(lengths) > 0 && lengths[len(lengths)*9/10] > mostLines {
		out = append(out, fmt.Sprintf("a tenth of the functions has more than %d lines", mostLines))
	}
	return out
}

const interfaceMethods = 3

// large are the interfaces that need more methods, and why they may.
func large() map[string]string {
	return map[string]string{
		"fixes/guest.FS": "a file system: io/fs and what writing takes",
		"fixes.Fix":      "ID, Why, Applies, Plan: what a repair is",
	}
}

func interfaceSize(s Source) []string {
	if s.Test() {
		return nil
	}
	var out []string
	ast.Inspect(s.File, func(n ast.Node) bool {
		t, ok := n.(*ast.TypeSpec)
		if !ok {
			return true
		}
		i, ok := t.Type.(*ast.InterfaceType)
		if !ok || large()[s.Dir()+"."+t.Name.Name] != "" {
			return true
		}
		if n := len(i.Methods.List); n > interfaceMethods {
			out = append(out, fmt.Sprintf("%s:%d: %s has %d methods, at most %d", s.Path, s.line(t), t.Name.Name, n, interfaceMethods))
		}
		return true
	})
	return out
}
