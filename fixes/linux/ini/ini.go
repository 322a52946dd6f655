// Package ini edits the values in files of sections and keys (systemd units,
// .link and .network files, NetworkManager keyfiles) and leaves comments,
// order, spacing and every other line as they are.
package ini

import "strings"

// File is such a file.
type File struct {
	lines   []string // with their ends
	entries []*Entry
}

// Entry is one key=value line.
type Entry struct {
	Section, Key string
	// Value is without the blanks around it; it may be changed.
	Value string

	old        string
	line       int
	head, tail string
}

// blanks are what systemd trims (src/basic/string-util.h: WHITESPACE).
const blanks = " \t\r\n"

// Parse reads a file. A value that a backslash continues on the next line is
// not listed.
func Parse(data []byte) *File {
	f := &File{lines: strings.SplitAfter(string(data), "\n")}
	section := ""
	continued := false
	for i, l := range f.lines {
		text := strings.Trim(l, blanks)
		was := continued
		comment := text == "" || text[0] == '#' || text[0] == ';'
		if !comment || !was {
			continued = !comment && strings.HasSuffix(text, `\`)
		}
		switch {
		case was || comment || continued:
		case text[0] == '[' && text[len(text)-1] == ']':
			section = text[1 : len(text)-1]
		default:
			if e := parseEntry(l); e != nil {
				e.Section, e.line = section, i
				f.entries = append(f.entries, e)
			}
		}
	}
	return f
}

func parseEntry(l string) *Entry {
	key, value, ok := strings.Cut(l, "=")
	if !ok {
		return nil
	}
	e := &Entry{Key: strings.Trim(key, blanks)}
	e.Value = strings.Trim(value, blanks)
	e.old = e.Value
	lead := len(value) - len(strings.TrimLeft(value, blanks))
	if e.Value == "" {
		lead = 0
	}
	e.head = key + "=" + value[:lead]
	e.tail = value[lead+len(e.Value):]
	return e
}

// Entries lists the keys in order.
func (f *File) Entries() []*Entry { return f.entries }

// Values lists the values of all entries of key in section, each split at
// blanks. Both names are compared without case.
func (f *File) Values(section, key string) []string {
	var out []string
	for _, e := range f.entries {
		if strings.EqualFold(e.Section, section) && strings.EqualFold(e.Key, key) {
			out = append(out, strings.Fields(e.Value)...)
		}
	}
	return out
}

// Bytes gives the file as it stands now.
func (f *File) Bytes() []byte {
	lines := append([]string(nil), f.lines...)
	for _, e := range f.entries {
		if e.Value != e.old {
			lines[e.line] = e.head + e.Value + e.tail
		}
	}
	return []byte(strings.Join(lines, ""))
}
