// Package arch holds the rules of the tree: which room may import which, and
// what no file may do. They are checked on parsed sources, in this process, so
// that a cached test result never hides a violation.
package arch

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path"
	"slices"
	"strconv"
	"strings"
)

// module is the import path of the tree's top.
const module = "hyper2kvm/"

// Tree is what the rules look at.
type Tree struct {
	Top   []string // names in the top folder
	Go    []Source
	Texts []Text // files of other kinds that people wrote
}

// Text is a file that is not Go.
type Text struct{ Path, Text string }

// Source is one parsed Go file. Path is relative to the top of the tree.
type Source struct {
	Path  string
	Lines int
	File  *ast.File
	Fset  *token.FileSet
	Text  string
}

// Dir is the folder of the file.
func (s Source) Dir() string { return path.Dir(s.Path) }

// Test reports whether the file is a test.
func (s Source) Test() bool { return strings.HasSuffix(s.Path, "_test.go") }

// Main reports whether the file belongs to a main package.
func (s Source) Main() bool { return s.File.Name.Name == "main" }

// Imports lists what the file imports.
func (s Source) Imports() []string {
	var out []string
	for _, i := range s.File.Imports {
		if p, err := strconv.Unquote(i.Path.Value); err == nil {
			out = append(out, p)
		}
	}
	return out
}

// imported is the path of the package that name means in the file, "" where
// it means none.
func (s Source) imported(name string) string {
	for i, p := range s.Imports() {
		spec := s.File.Imports[i]
		if spec.Name != nil && spec.Name.Name == name || spec.Name == nil && path.Base(p) == name {
			return p
		}
	}
	return ""
}

// line is the line of a node.
func (s Source) line(n ast.Node) int { return s.Fset.Position(n.Pos()).Line }

// Parse parses one file.
func Parse(name, text string) (Source, error) {
	fset := token.NewFileSet()
	f, err := parser.ParseFile(fset, name, text, parser.ParseComments)
	if err != nil {
		return Source{}, err
	}
	return Source{Path: name, Lines: strings.Count(text, "\n"), File: f, Fset: fset, Text: text}, nil
}

// built are the folders that hold no sources.
func built() []string { return []string{"build", "bin", "demo", ".git"} }

// Read parses every Go file below top, whatever its build tags.
func Read(top fs.FS) (Tree, error) {
	var tree Tree
	err := fs.WalkDir(top, ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if slices.Contains(built(), name) || d.Name() == "testdata" {
			return fs.SkipDir
		}
		if path.Dir(name) == "." && name != "." {
			tree.Top = append(tree.Top, name)
		}
		if d.IsDir() || path.Ext(name) != ".go" && !written(name) {
			return nil
		}
		data, err := fs.ReadFile(top, name)
		if err != nil {
			return err
		}
		if written(name) {
			tree.Texts = append(tree.Texts, Text{name, string(data)})
			return nil
		}
		s, err := Parse(name, string(data))
		tree.Go = append(tree.Go, s)
		return err
	})
	return tree, err
}

// written says that a file is a text that is not Go.
func written(name string) bool {
	return slices.Contains([]string{".md", ".sh", ".txt", ".yml", ".yaml", ".toml", ".html"}, path.Ext(name)) ||
		slices.Contains([]string{"Makefile", "run"}, path.Base(name))
}

// room is the part of the tree that a rule is about.
func room(dir string) string {
	switch {
	case within(dir, "agent/api"):
		return "agent/api"
	case within(dir, "fixes/guest"):
		return "fixes/guest"
	}
	top, _, _ := strings.Cut(dir, "/")
	return top
}

func within(dir, parent string) bool { return dir == parent || strings.HasPrefix(dir, parent+"/") }

// arrows says which rooms a room may import, besides itself. agent/api may
// know a guest's facts: they are part of a report.
func arrows() map[string][]string {
	return map[string][]string{
		"formats":     {},
		"fixes/guest": {},
		"fixes":       {"fixes/guest", "formats"},
		"agent/api":   {"fixes/guest"},
		"initramfs":   {},
		"image":       {"formats"},
		"agent":       {"agent/api", "image", "formats", "fixes", "fixes/guest", "initramfs"},
		"buildimage":  {"initramfs", "formats", "image"},
		"remote":      {"agent/api"},
		"livefix":     {"fixes", "fixes/guest", "agent/api"},
	}
}

// fixesFormats are the only formats that a fix may know.
func fixesFormats() []string {
	return []string{"formats/regf", "formats/cpio", "formats/kmod", "formats/pe"}
}

// topLevel is the fixed top of the tree, besides dotfiles.
func topLevel() []string {
	return []string{"agent", "initramfs", "livefix", "remote", "image", "fixes", "formats", "buildimage", "tests",
		"go.mod", "go.sum", "Makefile", "README.md", "LICENSE", "COPYING", "CHANGELOG.md"}
}
