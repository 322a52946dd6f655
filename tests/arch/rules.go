package arch

import (
	"fmt"
	"path"
	"slices"
	"strings"
)

// Rule finds violations in the whole tree.
type Rule struct {
	Name  string
	Check func(Tree) []string
}

// Rules lists all of them.
func Rules() []Rule {
	return []Rule{
		{"imports follow the arrows", each(importArrows)},
		{"outside modules stay in their room", each(placement)},
		{"mains are small and in their place", each(mains)},
		{"no exit, init or background below main", each(forbiddenCalls)},
		{"packages keep no state", each(packageState)},
		{"files are short", each(fileLength)},
		{"functions are short", functionLength},
		{"interfaces are small", each(interfaceSize)},
		{"every package says what it is for", packageComments},
		{"every parser has a fuzz target", parsersFuzzed},
		{"names say what is inside", each(names)},
		{"the top level is fixed", topNames},
		{"no path of somebody's machine", machinePaths},
	}
}

func each(f func(Source) []string) func(Tree) []string {
	return func(tree Tree) []string {
		var out []string
		for _, s := range tree.Go {
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

// placement keeps big or telling modules where they belong, and parsers from
// opening anything.
func placement(s Source) []string {
	rooms := map[string][]string{
		"github.com/vmware/govmomi": {"remote/inventory/vsphere"},
		"github.com/pkg/sftp":       {"livefix/sshguest", "agent/server"},
		"github.com/spf13/cobra":    {"remote/cli", "livefix/cli"},
	}
	var out []string
	for _, imp := range s.Imports() {
		for mod, dirs := range rooms {
			if within(imp, mod) && !slices.ContainsFunc(dirs, func(d string) bool { return within(s.Dir(), d) }) {
				out = append(out, fmt.Sprintf("%s: %s belongs in %s", s.Path, mod, strings.Join(dirs, " or ")))
			}
		}
		if room(s.Dir()) == "formats" && s.Dir() != "formats/formatstest" && !s.Test() && (imp == "os" || imp == "os/exec") {
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
	if path.Base(path.Dir(s.Dir())) != "cmd" {
		out = append(out, s.Path+": a main is <area>/cmd/<binary>/main.go")
	}
	return out
}

const fileLines = 500

func fileLength(s Source) []string {
	if s.Lines > fileLines && !s.Test() {
		return []string{fmt.Sprintf("%s: %d lines, at most %d", s.Path, s.Lines, fileLines)}
	}
	return nil
}

// minComment is the length, in bytes, below which a package comment says nothing.
const minComment = 40

func packageComments(tree Tree) []string {
	said := map[string]bool{}
	for _, s := range tree.Go {
		if s.Test() && !onlyTests(tree, s.Dir()) {
			continue
		}
		said[s.Dir()] = said[s.Dir()] || s.File.Doc != nil && len(s.File.Doc.Text()) > minComment
	}
	return missing(said, "no package comment that says what it is for")
}

func onlyTests(tree Tree, dir string) bool {
	return !slices.ContainsFunc(tree.Go, func(s Source) bool { return s.Dir() == dir && !s.Test() })
}

func missing(there map[string]bool, what string) []string {
	var out []string
	for dir, ok := range there {
		if !ok {
			out = append(out, dir+": "+what)
		}
	}
	slices.Sort(out)
	return out
}

// noParser are the packages under formats that parse nothing themselves.
func noParser() []string {
	return []string{"formats", "formats/formatstest", "formats/blockcache", "formats/guid", "formats/raw", "formats/sectormap", "formats/winname"}
}

func parsersFuzzed(tree Tree) []string {
	fuzzed := map[string]bool{}
	for _, s := range tree.Go {
		dir := s.Dir()
		if room(dir) != "formats" || slices.Contains(noParser(), dir) {
			continue
		}
		fuzzed[dir] = fuzzed[dir] || s.Test() && strings.Contains(s.Text, "\nfunc Fuzz")
	}
	return missing(fuzzed, "no fuzz target")
}

// names refuses packages that say nothing, and files that a build for Linux
// would silently leave out.
func names(s Source) []string {
	var out []string
	if slices.Contains([]string{"util", "utils", "common", "helpers", "misc", "pkg", "base"}, path.Base(s.Dir())) {
		out = append(out, s.Dir()+": a folder's name says what is inside")
	}
	name := strings.TrimSuffix(strings.TrimSuffix(path.Base(s.Path), ".go"), "_test")
	for _, system := range []string{"windows", "darwin", "freebsd", "openbsd", "netbsd", "solaris", "android", "plan9"} {
		if strings.HasSuffix(name, "_"+system) {
			out = append(out, s.Path+": a guest's system is a folder, never a suffix: Go leaves this file out")
		}
	}
	return out
}

func topNames(tree Tree) []string {
	var out []string
	for _, name := range tree.Top {
		if !strings.HasPrefix(name, ".") && !slices.Contains(topLevel(), name) && !slices.Contains(built(), name) {
			out = append(out, name+": not of the top level")
		}
	}
	return out
}

// machinePaths finds names that mean something on one machine only. They are
// written in parts, so that this file does not name them either.
func machinePaths(tree Tree) []string {
	var out []string
	look := func(name, text string) {
		for _, p := range []string{"/wo" + "rk/", "shared/" + "DESIGN", "shared/" + "facts", "/fa" + "rm/", "/home" + "/"} {
			for i, l := range strings.Split(text, "\n") {
				if strings.Contains(l, p) {
					out = append(out, fmt.Sprintf("%s:%d: names %s", name, i+1, p))
				}
			}
		}
	}
	for _, s := range tree.Go {
		look(s.Path, s.Text)
	}
	for _, t := range tree.Texts {
		look(t.Path, t.Text)
	}
	return out
}
