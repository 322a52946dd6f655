package arch

import (
	"fmt"
	"go/ast"
	"go/token"
	"path"
	"slices"
	"strings"
)

// Rule finds violations in the whole tree.
type Rule struct {
	Name  string
	Check func([]Source) []string
}

// Rules lists all of them.
func Rules() []Rule {
	return []Rule{
		{"imports follow the arrows", each(importArrows)},
		{"outside modules stay in their room", each(placement)},
		{"mains are small and in their place", each(mains)},
		{"no exit, init or background below main", each(forbiddenCalls)},
		{"files are short", each(fileLength)},
		{"functions are short", functionLength},
		{"every package says what it is for", packageComments},
		{"every parser has a fuzz target", parsersFuzzed},
		{"no path of somebody's machine", each(machinePaths)},
	}
}

func each(f func(Source) []string) func([]Source) []string {
	return func(all []Source) []string {
		var out []string
		for _, s := range all {
			out = append(out, f(s)...)
		}
		return out
	}
}

func importArrows(s Source) []string {
	from := room(s.Dir())
	allowed, ruled := arrows()[from]
	if !ruled || s.Main() || s.Test() {
		return nil // mains compose, tests reach everywhere
	}
	var out []string
	for _, imp := range s.Imports() {
		to, ours := strings.CutPrefix(imp, module)
		if !ours || room(to) == from {
			continue
		}
		if !slices.Contains(allowed, room(to)) {
			out = append(out, fmt.Sprintf("%s: %s must not import %s", s.Path, from, to))
		}
		if from == "fixes" && room(to) == "formats" && !slices.Contains(fixesFormats(), to) {
			out = append(out, fmt.Sprintf("%s: fixes must not import %s", s.Path, to))
		}
	}
	return out
}

func placement(s Source) []string {
	rooms := map[string][]string{
		"github.com/vmware/govmomi": {"remote/inventory/vsphere"},
		"github.com/pkg/sftp":       {"livefix/sshguest", "agent/server"},
	}
	var out []string
	for _, imp := range s.Imports() {
		for mod, dirs := range rooms {
			if strings.HasPrefix(imp, mod) && !slices.ContainsFunc(dirs, func(d string) bool { return strings.HasPrefix(s.Dir(), d) }) {
				out = append(out, fmt.Sprintf("%s: %s belongs in %s", s.Path, mod, strings.Join(dirs, " or ")))
			}
		}
		if strings.HasPrefix(s.Dir(), "formats/") && !s.Test() && (imp == "os" || imp == "os/exec") {
			out = append(out, s.Path+": a parser opens nothing: "+imp)
		}
	}
	return out
}

const mainLines = 30

func mains(s Source) []string {
	if !s.Main() || s.Test() {
		return nil
	}
	var out []string
	if s.Lines > mainLines {
		out = append(out, fmt.Sprintf("%s: %d lines, a main has at most %d", s.Path, s.Lines, mainLines))
	}
	if dir := path.Dir(s.Dir()); path.Base(dir) != "cmd" {
		out = append(out, s.Path+": a main is <area>/cmd/<binary>/main.go")
	}
	return out
}

func forbiddenCalls(s Source) []string {
	if s.Main() || s.Test() {
		return nil
	}
	var out []string
	say := func(n ast.Node, what string) {
		out = append(out, fmt.Sprintf("%s:%d: %s", s.Path, s.Fset.Position(n.Pos()).Line, what))
	}
	ast.Inspect(s.File, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.FuncDecl:
			if n.Recv == nil && n.Name.Name == "init" {
				say(n, "init()")
			}
		case *ast.SelectorExpr:
			pkg, ok := n.X.(*ast.Ident)
			if ok && forbidden(pkg.Name+"."+n.Sel.Name) {
				say(n, pkg.Name+"."+n.Sel.Name)
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

const fileLines = 500

func fileLength(s Source) []string {
	if s.Lines > fileLines && !s.Test() {
		return []string{fmt.Sprintf("%s: %d lines, at most %d", s.Path, s.Lines, fileLines)}
	}
	return nil
}

// The lengths of functions, in lines: nine of ten, and all.
const (
	mostLines = 40
	allLines  = 100
)

func functionLength(all []Source) []string {
	var lengths []int
	var out []string
	for _, s := range all {
		if s.Test() {
			continue
		}
		for _, d := range s.File.Decls {
			f, ok := d.(*ast.FuncDecl)
			if !ok {
				continue
			}
			n := lines(s.Fset, f)
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

func lines(fset *token.FileSet, n ast.Node) int {
	return fset.Position(n.End()).Line - fset.Position(n.Pos()).Line + 1
}

func packageComments(all []Source) []string {
	said := map[string]bool{}
	for _, s := range all {
		if s.Test() && !onlyTests(all, s.Dir()) {
			continue
		}
		said[s.Dir()] = said[s.Dir()] || s.File.Doc != nil && len(s.File.Doc.Text()) > 20
	}
	var out []string
	for dir, ok := range said {
		if !ok {
			out = append(out, dir+": no package comment")
		}
	}
	slices.Sort(out)
	return out
}

func onlyTests(all []Source, dir string) bool {
	return !slices.ContainsFunc(all, func(s Source) bool { return s.Dir() == dir && !s.Test() })
}

// noParser are the packages under formats that parse nothing themselves.
func noParser() []string {
	return []string{"formats", "formats/formatstest", "formats/blockcache", "formats/raw"}
}

func parsersFuzzed(all []Source) []string {
	fuzzed := map[string]bool{}
	for _, s := range all {
		dir := s.Dir()
		if room(dir) != "formats" || slices.Contains(noParser(), dir) {
			continue
		}
		fuzzed[dir] = fuzzed[dir] || s.Test() && strings.Contains(s.Text, "\nfunc Fuzz")
	}
	var out []string
	for dir, ok := range fuzzed {
		if !ok {
			out = append(out, dir+": no fuzz target")
		}
	}
	slices.Sort(out)
	return out
}

func machinePaths(s Source) []string {
	// Written in parts, so that this file does not name them either.
	for _, p := range []string{"/wo" + "rk/main", "shared/" + "DESIGN", "shared/" + "facts", "/fa" + "rm/"} {
		if strings.Contains(s.Text, p) {
			return []string{s.Path + ": names " + p}
		}
	}
	return nil
}
