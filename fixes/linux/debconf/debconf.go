// Package debconf edits the answers in Debian's configuration database
// (/var/cache/debconf/config.dat, debconf-devel(7)): stanzas of "Key: value"
// lines between blank lines. What is not changed stays byte for byte.
package debconf

import (
	"slices"
	"strings"
)

// DB is the database.
type DB struct {
	lines []string // with their ends
}

// Parse reads a database. Every input is a valid one.
func Parse(data []byte) *DB {
	return &DB{lines: strings.SplitAfter(string(data), "\n")}
}

// Bytes gives the database as it stands now.
func (d *DB) Bytes() []byte { return []byte(strings.Join(d.lines, "")) }

// Get returns the answer to a question. It reports false where there is no
// such question, or no answer yet.
func (d *DB) Get(question string) (string, bool) {
	_, value, ok := d.find(question, "Value")
	return value, ok
}

// Flag reports whether a question has a flag, as "seen".
func (d *DB) Flag(question, flag string) bool {
	_, value, _ := d.find(question, "Flags")
	return slices.Contains(splitList(value), flag)
}

// Set changes the answer to a question that exists and marks it as seen, so
// that it is not asked again. It reports whether the question exists.
func (d *DB) Set(question, value string) bool {
	if _, ok := d.stanza(question); !ok {
		return false
	}
	// The order in which debconf writes fields: Name, Template, Value, Owners, Flags.
	d.put(question, "Value", value, "Template")
	if !d.Flag(question, "seen") {
		_, flags, _ := d.find(question, "Flags")
		d.put(question, "Flags", strings.Join(append(splitList(flags), "seen"), ", "), "Owners")
	}
	return true
}

func splitList(s string) []string {
	return strings.FieldsFunc(s, func(r rune) bool { return r == ',' || r == ' ' })
}

// stanza returns the line of a question's Name.
func (d *DB) stanza(question string) (int, bool) {
	for i, l := range d.lines {
		if key, value, ok := field(l); ok && key == "Name" && value == question {
			return i, true
		}
	}
	return 0, false
}

// find returns the line and value of a field of a question.
func (d *DB) find(question, key string) (int, string, bool) {
	from, ok := d.stanza(question)
	if !ok {
		return 0, "", false
	}
	for i := from; i < len(d.lines) && strings.TrimSpace(d.lines[i]) != ""; i++ {
		if k, v, ok := field(d.lines[i]); ok && k == key {
			return i, v, true
		}
	}
	return 0, "", false
}

// put sets a field, in a new line after field after where it is missing.
func (d *DB) put(question, key, value, after string) {
	text := key + ": " + value + "\n"
	if i, old, ok := d.find(question, key); ok {
		if old != value {
			d.lines[i] = text
		}
		return
	}
	at, _, ok := d.find(question, after)
	if !ok {
		at, _ = d.stanza(question)
	}
	if !strings.HasSuffix(d.lines[at], "\n") {
		d.lines[at] += "\n"
	}
	d.lines = slices.Insert(d.lines, at+1, text)
}

// field takes a line apart; a line that begins with a blank belongs to the
// field before it.
func field(l string) (key, value string, ok bool) {
	if l == "" || l[0] == ' ' || l[0] == '\t' {
		return "", "", false
	}
	key, value, ok = strings.Cut(l, ":")
	return key, strings.TrimSpace(value), ok
}
