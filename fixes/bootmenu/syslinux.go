package bootmenu

import (
	"regexp"
	"slices"
	"strings"
)

// Syslinux is a configuration of syslinux, extlinux or their kin.
type Syslinux struct {
	Entries []Entry
	// Default is the label that is started, "" for none that is known.
	Default string
	// Includes are other configuration files that it names.
	Includes []string

	defaults []defaultAt
}

// defaultAt is a line that decides about the default.
type defaultAt struct {
	line int
	kind string // "default", "ontimeout", "menu default"
	name string
}

var syslinuxDefault = regexp.MustCompile(`^([ \t]*(?i:default|ontimeout)[ \t]+)(.*)$`)

// ParseSyslinux reads a configuration. Keywords have no case.
func ParseSyslinux(data []byte) *Syslinux {
	c := &Syslinux{}
	for i, l := range lines(data) {
		w := strings.Fields(text(l))
		if len(w) == 0 || w[0][0] == '#' {
			continue
		}
		c.keyword(i, strings.ToLower(w[0]), w[1:])
	}
	c.choose()
	return c
}

func (c *Syslinux) keyword(i int, key string, w []string) {
	value := strings.Join(w, " ")
	switch {
	case len(w) == 0:
	case key == "default" || key == "ontimeout":
		c.defaults = append(c.defaults, defaultAt{i, key, w[0]})
	case key == "include":
		c.Includes = append(c.Includes, w[0])
	case key == "label":
		c.Entries = append(c.Entries, Entry{ID: w[0], First: i, Last: i})
	case len(c.Entries) > 0:
		e := &c.Entries[len(c.Entries)-1]
		e.Last = i
		c.inLabel(i, e, key, w, value)
	}
}

func (c *Syslinux) inLabel(i int, e *Entry, key string, w []string, value string) {
	switch key {
	case "kernel", "linux":
		e.Kernel = w[0]
	case "initrd":
		e.Initrds = strings.Split(w[0], ",")
	case "append":
		e.Args = value
		for _, arg := range w {
			if files, ok := strings.CutPrefix(arg, "initrd="); ok {
				e.Initrds = strings.Split(files, ",")
			}
		}
	case "menu":
		switch strings.ToLower(w[0]) {
		case "default":
			c.defaults = append(c.defaults, defaultAt{i, "menu default", e.ID})
		case "label":
			e.Title = strings.ReplaceAll(strings.Join(w[1:], " "), "^", "") // before the hot key
		}
	}
}

// choose follows the rules of doc/syslinux.txt and doc/menu.txt: a menu that is
// the default starts its own default when its time is up, unless ONTIMEOUT says
// another.
func (c *Syslinux) choose() {
	last := map[string]string{}
	for _, d := range c.defaults {
		last[d.kind] = d.name
	}
	has := func(name string) bool {
		// Without labels they are in files that it includes.
		return slices.ContainsFunc(c.Entries, func(e Entry) bool { return e.ID == name }) ||
			len(c.Entries) == 0 && name != "" && !isModule(name)
	}
	for _, kind := range []string{"ontimeout", "menu default", "default"} {
		if has(last[kind]) {
			c.Default = last[kind]
			return
		}
	}
	if len(c.Entries) > 0 {
		c.Default = c.Entries[0].ID
	}
}

// SetSyslinuxDefault makes a label the default wherever another one is.
func SetSyslinuxDefault(data []byte, label string) []byte {
	c := ParseSyslinux(data)
	if c.Default == label {
		return data
	}
	menu, named := -1, false
	out := data
	for _, d := range c.defaults {
		switch {
		case d.kind == "menu default":
			menu = d.line
		case !isModule(d.name):
			m := syslinuxDefault.FindStringSubmatch(text(lines(out)[d.line]))
			out, named = replace(out, d.line, m[1]+label), true
		}
	}
	if menu >= 0 {
		return moveMenuDefault(out, menu, label)
	}
	if !named {
		return insert(out, 0, "DEFAULT "+label)
	}
	return out
}

// isModule reports whether a name is that of a program of syslinux's, like its
// menu, and not a label.
func isModule(name string) bool {
	name = strings.ToLower(name)
	return strings.HasSuffix(name, ".c32") || strings.HasSuffix(name, ".com") || strings.HasSuffix(name, ".cbt")
}

// moveMenuDefault moves the line MENU DEFAULT to another label.
func moveMenuDefault(data []byte, at int, label string) []byte {
	all := lines(data)
	line := all[at]
	all = slices.Delete(all, at, at+1)
	out := []byte(strings.Join(all, ""))
	for _, e := range ParseSyslinux(out).Entries {
		if e.ID == label {
			return insert(out, e.First+1, text(line))
		}
	}
	return data
}
