// Package kmod reads and writes the index files of a kernel's modules folder:
// modules.dep, modules.alias, modules.softdep, modules.builtin and modules.order
// as text (man modules.dep, depmod) and, for modprobe and udev, as the binary
// tries that libkmod looks things up in.
package kmod

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"path"
	"strings"

	"hyper2kvm/formats"
)

// Bounds on hostile files: real ones have some 5000 modules, 100000 aliases and
// lines of a few KiB.
const (
	maxLine  = 1 << 20
	maxLines = 1 << 20
)

// Name gives the name of a module from the name of its file: "virtio_blk" from
// "kernel/drivers/block/virtio-blk.ko.xz". Dashes and underscores are equal to
// the kernel.
func Name(file string) string {
	return Normal(trimExt(path.Base(file)))
}

// Normal gives the form of a module's name in which dashes are underscores.
func Normal(name string) string { return strings.ReplaceAll(name, "-", "_") }

// IsModule reports whether a file's name is that of a module.
func IsModule(file string) bool { return trimExt(file) != file }

// trimExt takes the ending off; that of Linux 2.4 is .o.
func trimExt(file string) string {
	for _, ext := range []string{".ko", ".ko.gz", ".ko.xz", ".ko.zst", ".ko.lz4", ".o", ".o.gz"} {
		if name, ok := strings.CutSuffix(file, ext); ok {
			return name
		}
	}
	return file
}

// Module is one line of modules.dep.
type Module struct {
	Name string
	Path string   // relative to the modules folder, or absolute
	Deps []string // names of the modules it needs, as listed: nearest first
}

// Modules is a modules.dep.
type Modules struct {
	List   []*Module // in the order of the file
	byName map[string]*Module
}

// New makes a Modules from modules; of two of one name the first is found.
func New(list []*Module) *Modules {
	m := &Modules{List: list, byName: map[string]*Module{}}
	for _, mod := range list {
		if m.byName[mod.Name] == nil {
			m.byName[mod.Name] = mod
		}
	}
	return m
}

// ParseDep reads a modules.dep.
func ParseDep(r io.Reader) (*Modules, error) {
	var list []*Module
	err := eachLine(r, "modules.dep", func(line string) error {
		file, deps, ok := strings.Cut(line, ":")
		if !ok || file == "" {
			return fmt.Errorf("%w: no colon in %.80q", formats.ErrCorrupt, line)
		}
		m := &Module{Name: Name(file), Path: file}
		for _, dep := range strings.Fields(deps) {
			m.Deps = append(m.Deps, Name(dep))
		}
		list = append(list, m)
		return nil
	})
	return New(list), err
}

// Find returns the module called name, dashes or underscores; nil if there is
// none.
func (m *Modules) Find(name string) *Module { return m.byName[Normal(name)] }

// Closure returns the named modules and all that they need, each after what it
// needs, and the names that are not there.
func (m *Modules) Closure(names ...string) (mods []*Module, missing []string) {
	seen := map[string]bool{}
	var add func(string)
	add = func(name string) {
		name = Normal(name)
		if seen[name] {
			return
		}
		seen[name] = true
		mod := m.byName[name]
		if mod == nil {
			missing = append(missing, name)
			return
		}
		for i := len(mod.Deps) - 1; i >= 0; i-- { // depmod lists the nearest first
			add(mod.Deps[i])
		}
		mods = append(mods, mod)
	}
	for _, name := range names {
		add(name)
	}
	return mods, missing
}

// Text writes m as modules.dep.
func (m *Modules) Text() []byte {
	var b bytes.Buffer
	for _, mod := range m.List {
		b.WriteString(m.line(mod))
		b.WriteByte('\n')
	}
	return b.Bytes()
}

func (m *Modules) line(mod *Module) string {
	var b strings.Builder
	b.WriteString(mod.Path)
	b.WriteByte(':')
	for _, name := range mod.Deps {
		if dep := m.byName[name]; dep != nil {
			b.WriteByte(' ')
			b.WriteString(dep.Path)
		}
	}
	return b.String()
}

// Index writes m as modules.dep.bin.
func (m *Modules) Index() ([]byte, error) {
	var entries []Entry
	for i, mod := range m.List {
		entries = append(entries, Entry{Key: mod.Name, Value: m.line(mod), Priority: uint32(i)})
	}
	return WriteIndex(entries)
}

// Alias is one line of modules.alias or modules.symbols.
type Alias struct {
	Pattern string // "pci:v00001AF4d00001001sv*…", a glob
	Module  string
}

// ParseAlias reads a modules.alias or modules.symbols.
func ParseAlias(r io.Reader) ([]Alias, error) {
	var out []Alias
	err := eachLine(r, "modules.alias", func(line string) error {
		// A pattern may hold spaces; the module is the last word.
		rest, ok := strings.CutPrefix(line, "alias ")
		at := strings.LastIndexByte(rest, ' ')
		if !ok || at <= 0 {
			return fmt.Errorf("%w: %.80q is no alias", formats.ErrCorrupt, line)
		}
		out = append(out, Alias{rest[:at], rest[at+1:]})
		return nil
	})
	return out, err
}

// AliasText writes a modules.alias.
func AliasText(aliases []Alias) []byte {
	var b bytes.Buffer
	b.WriteString("# Aliases extracted from modules themselves.\n")
	for _, a := range aliases {
		fmt.Fprintf(&b, "alias %s %s\n", a.Pattern, a.Module)
	}
	return b.Bytes()
}

// AliasIndex writes a modules.alias.bin. Where two modules claim one alias, the
// one that comes first in m is tried first.
func (m *Modules) AliasIndex(aliases []Alias) ([]byte, error) {
	rank := map[string]uint32{}
	for i, mod := range m.List {
		rank[mod.Name] = uint32(i)
	}
	var entries []Entry
	for _, a := range aliases {
		entries = append(entries, Entry{Key: normalPattern(a.Pattern), Value: a.Module, Priority: rank[Normal(a.Module)]})
	}
	return WriteIndex(entries)
}

// normalPattern turns dashes into underscores but for those in brackets, which
// stand for a range.
func normalPattern(pattern string) string {
	inside := false
	return strings.Map(func(r rune) rune {
		switch {
		case r == '[':
			inside = true
		case r == ']':
			inside = false
		case r == '-' && !inside:
			return '_'
		}
		return r
	}, pattern)
}

// Softdep is one line of modules.softdep.
type Softdep struct {
	Module    string
	Pre, Post []string
	Line      string
}

// ParseSoftdep reads a modules.softdep.
func ParseSoftdep(r io.Reader) ([]Softdep, error) {
	var out []Softdep
	err := eachLine(r, "modules.softdep", func(line string) error {
		words := strings.Fields(line)
		if len(words) < 2 || words[0] != "softdep" {
			return nil // libkmod passes over what it does not know
		}
		s := Softdep{Module: Normal(words[1]), Line: line}
		var into *[]string
		for _, word := range words[2:] {
			switch {
			case word == "pre:":
				into = &s.Pre
			case word == "post:":
				into = &s.Post
			case into != nil:
				*into = append(*into, Normal(word))
			}
		}
		out = append(out, s)
		return nil
	})
	return out, err
}

// ParseBuiltin reads a modules.builtin or modules.order: the names in it.
func ParseBuiltin(r io.Reader) (map[string]bool, error) {
	out := map[string]bool{}
	err := eachLine(r, "modules.builtin", func(line string) error {
		out[Name(line)] = true
		return nil
	})
	return out, err
}

// eachLine calls f for each line that is neither empty nor a comment.
func eachLine(r io.Reader, what string, f func(string) error) error {
	scan := bufio.NewScanner(r)
	scan.Buffer(nil, maxLine)
	for n := 1; scan.Scan(); n++ {
		if n > maxLines {
			return fmt.Errorf("read %s: %w: more than %d lines", what, formats.ErrUnsupported, maxLines)
		}
		line := strings.TrimSpace(scan.Text())
		if line == "" || line[0] == '#' {
			continue
		}
		if err := f(line); err != nil {
			return fmt.Errorf("read %s: line %d: %w", what, n, err)
		}
	}
	if err := scan.Err(); errors.Is(err, bufio.ErrTooLong) {
		return fmt.Errorf("read %s: %w: a line longer than %d bytes", what, formats.ErrCorrupt, maxLine)
	} else if err != nil {
		return fmt.Errorf("read %s: %w", what, err)
	}
	return nil
}
