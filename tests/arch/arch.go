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
	"path/filepath"
	"strconv"
	"strings"
)

// module is the import path of the tree's top.
const module = "hyper2kvm/"

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

// Parse parses one file.
func Parse(name, text string) (Source, error) {
	fset := token.NewFileSet()
	f, err := parser.ParseFile(fset, name, text, parser.ParseComments)
	if err != nil {
		return Source{}, err
	}
	return Source{Path: name, Lines: strings.Count(text, "\n"), File: f, Fset: fset, Text: text}, nil
}

// Tree parses every Go file below top, whatever its build tags.
func Tree(top fs.FS) ([]Source, error) {
	var out []Source
	err := fs.WalkDir(top, ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && (name == "build" || name == "bin" || name == "demo" || strings.HasPrefix(d.Name(), ".") && name != "." || d.Name() == "testdata") {
			return fs.SkipDir
		}
		if d.IsDir() || filepath.Ext(name) != ".go" {
			return nil
		}
		data, err := fs.ReadFile(top, name)
		if err != nil {
			return err
		}
		s, err := Parse(name, string(data))
		if err == nil {
			out = append(out, s)
		}
		return err
	})
	return out, err
}

// room is the part of the tree that a rule is about.
func room(dir string) string {
	switch {
	case strings.HasPrefix(dir, "agent/api"):
		return "agent/api"
	case strings.HasPrefix(dir, "fixes/guest"):
		return "fixes/guest"
	}
	top, _, _ := strings.Cut(dir, "/")
	return top
}

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
func fixesFormats() []string { return []string{"formats/regf", "formats/cpio", "formats/kmod"} }
