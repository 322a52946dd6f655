package bootmenu

import (
	"regexp"
	"strconv"
	"strings"
)

// Legacy is a configuration of GRUB legacy: menu.lst or grub.conf.
type Legacy struct {
	Entries []Entry
	// Default is the number of the default entry, from 0; Saved says that it is
	// the one that was started last, whose number is in the file "default" beside.
	Default int
	Saved   bool

	defaultLine int
	firstTitle  int
}

var (
	legacyDefault = regexp.MustCompile(`^([ \t]*default[ \t=]+)(\S+)(.*)$`)
	legacyCommand = regexp.MustCompile(`^[ \t]*([a-z]+)[ \t=]+(.*)$`)
)

// ParseLegacy reads a configuration.
func ParseLegacy(data []byte) *Legacy {
	c := &Legacy{defaultLine: -1, firstTitle: -1}
	for i, l := range lines(data) {
		c.line(i, text(l))
	}
	return c
}

func (c *Legacy) line(i int, l string) {
	m := legacyCommand.FindStringSubmatch(l)
	if m == nil {
		return
	}
	if m[1] == "title" {
		if c.firstTitle < 0 {
			c.firstTitle = i
		}
		c.Entries = append(c.Entries, Entry{Title: strings.TrimSpace(m[2]), First: i, Last: i})
		return
	}
	if len(c.Entries) == 0 {
		if d := legacyDefault.FindStringSubmatch(l); d != nil {
			c.defaultLine, c.Saved = i, d[2] == "saved"
			c.Default, _ = strconv.Atoi(d[2])
		}
		return
	}
	e := &c.Entries[len(c.Entries)-1]
	e.Last = i
	w := strings.Fields(m[2])
	for len(w) > 0 && strings.HasPrefix(w[0], "--") { // --no-mem-option and the like
		w = w[1:]
	}
	if len(w) == 0 {
		return
	}
	switch m[1] {
	case "kernel":
		if isXen(w[0]) {
			e.Xen = true
		} else {
			e.Kernel, e.Args = w[0], strings.Join(w[1:], " ")
		}
	case "module":
		if e.Xen && e.Kernel == "" {
			e.Kernel, e.Args = w[0], strings.Join(w[1:], " ")
		} else if e.Xen {
			e.Initrds = append(e.Initrds, w[0])
		}
	case "initrd":
		e.Initrds = w[:1]
	}
}

// isXen reports whether a file is the hypervisor, by its name: xen.gz,
// xen-4.1.gz, xen.gz-2.6.18-308.el5, xen-pae.gz.
func isXen(file string) bool {
	base := file[strings.LastIndexAny(file, "/)")+1:]
	return strings.HasPrefix(base, "xen") && strings.Contains(base, "gz") || base == "xen"
}

// SetLegacyDefault makes entry n the default.
func SetLegacyDefault(data []byte, n int) []byte {
	c := ParseLegacy(data)
	if c.defaultLine < 0 {
		return insert(data, max(c.firstTitle, 0), "default="+strconv.Itoa(n))
	}
	m := legacyDefault.FindStringSubmatch(text(lines(data)[c.defaultLine]))
	return replace(data, c.defaultLine, m[1]+strconv.Itoa(n)+m[3])
}

// LegacyFromXen makes an entry that starts a kernel by itself of one that starts
// it, or another, under Xen: the same title, place of the files and arguments.
func LegacyFromXen(data []byte, e Entry, title, kernel, initrd string) []byte {
	var b strings.Builder
	b.WriteString("title " + title + "\n")
	for _, l := range lines(data)[e.First+1 : e.Last+1] {
		if m := legacyCommand.FindStringSubmatch(text(l)); m != nil && (m[1] == "root" || m[1] == "rootnoverify") {
			b.WriteString(text(l) + "\n")
		}
	}
	b.WriteString("\tkernel " + beside(e.Kernel, kernel))
	if e.Args != "" {
		b.WriteString(" " + e.Args)
	}
	b.WriteString("\n")
	if initrd != "" {
		b.WriteString("\tinitrd " + beside(e.Kernel, initrd) + "\n")
	}
	out := string(data)
	if out != "" && !strings.HasSuffix(out, "\n") {
		out += "\n"
	}
	return []byte(out + b.String())
}

// beside names a file in the folder of another.
func beside(other, name string) string {
	return other[:strings.LastIndexAny(other, "/)")+1] + name
}
