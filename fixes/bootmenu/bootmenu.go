// Package bootmenu reads the menus of boot loaders and changes which entry of
// them is the default: GRUB 2 and its environment block, GRUB legacy, entries of
// the Boot Loader Specification, systemd-boot, syslinux.
//
// Nothing in a configuration is run or included. What is a script (GRUB 2's is)
// is read as grub-mkconfig writes it: one command a line. A change replaces the
// one value that it is about.
package bootmenu

import (
	"bytes"
	"strings"
)

// Entry is one thing that a loader offers to start. Paths are as the loader
// takes them: on the file system that the entry is about.
type Entry struct {
	ID      string // "" where the loader has no such thing
	Title   string
	Version string
	Kernel  string
	Initrds []string
	Args    string
	// Xen says that a hypervisor is started, and the kernel by it.
	Xen bool
	// First and Last are the lines of the entry in its file, from 0, where it is
	// one of several.
	First, Last int
}

// words splits a line as a shell does: at blanks, quotes taken off, a backslash
// taking the next character as it is.
func words(line string) []string {
	var out []string
	var b strings.Builder
	var quote byte
	inside := false
	for i := 0; i < len(line); i++ {
		switch c := line[i]; {
		case quote == 0 && (c == ' ' || c == '\t' || c == '\r'):
			if inside {
				out = append(out, b.String())
				b.Reset()
			}
			inside = false
		case quote == 0 && c == '#' && !inside:
			return out
		case quote == 0 && (c == '\'' || c == '"'):
			quote, inside = c, true
		case c == quote:
			quote = 0
		case c == '\\' && quote != '\'' && i+1 < len(line):
			i++
			b.WriteByte(line[i])
			inside = true
		default:
			b.WriteByte(c)
			inside = true
		}
	}
	if inside {
		out = append(out, b.String())
	}
	return out
}

// lines splits a file; their ends are kept.
func lines(data []byte) []string { return strings.SplitAfter(string(data), "\n") }

// text is a line without its end.
func text(line string) string { return strings.TrimRight(line, "\r\n") }

// replace gives data with the line at i changed; its end stays.
func replace(data []byte, i int, now string) []byte {
	all := lines(data)
	all[i] = now + all[i][len(text(all[i])):]
	return []byte(strings.Join(all, ""))
}

// insert gives data with a line put in before line i.
func insert(data []byte, i int, line string) []byte {
	all := lines(data)
	end := "\n"
	if bytes.Contains(data, []byte("\r\n")) {
		end = "\r\n"
	}
	var b strings.Builder
	for j, l := range all {
		if j == i {
			b.WriteString(line + end)
		}
		b.WriteString(l)
	}
	if i >= len(all) {
		b.WriteString(line + end)
	}
	return []byte(b.String())
}
