// Package shellvars edits the values in files of shell assignments
// (/etc/default/grub, /etc/sysconfig/*, dracut.conf) and leaves all else in
// them as it is. It runs nothing and expands nothing.
package shellvars

import (
	"regexp"
	"strings"
)

// File is a file of assignments.
type File struct {
	lines []string // with their ends
	vars  []*Var
	open  bool // the last quote is not closed
}

// Var is one assignment, on one line.
type Var struct {
	Name string
	// Append is true for NAME+=value.
	Append bool
	// Value is the text between the quotes, unexpanded.
	Value string

	old        string
	line       int
	head, tail string // what stands before the value, and after it
	quote      string
}

// assignment matches up to the value: blanks, export, the name, the operator.
var assignment = regexp.MustCompile(`^([ \t]*(?:export[ \t]+)?)([A-Za-z_][A-Za-z0-9_]*)(\+?=)`)

// Parse reads a file. What is no assignment on a single line is kept and not
// listed.
func Parse(data []byte) *File {
	f := &File{lines: strings.SplitAfter(string(data), "\n")}
	for i := 0; i < len(f.lines); i++ {
		m := assignment.FindStringSubmatch(f.lines[i])
		if m == nil {
			continue
		}
		v := &Var{Name: m[2], Append: m[3] == "+=", line: i, head: m[0]}
		if !v.parse(f.lines[i][len(m[0]):]) {
			i = f.skip(i, f.lines[i][len(m[0]):])
			continue
		}
		v.old = v.Value
		f.vars = append(f.vars, v)
	}
	return f
}

// skip returns the line on which the quote that opened on line i closes, the
// last one where it never does.
func (f *File) skip(i int, rest string) int {
	if rest == "" || rest[0] != '"' && rest[0] != '\'' || closing(rest) >= 0 {
		return i
	}
	for j := i + 1; j < len(f.lines); j++ {
		if strings.IndexByte(f.lines[j], rest[0]) >= 0 {
			return j
		}
	}
	f.open = true
	return len(f.lines)
}

// parse reads the value that rest begins with.
func (v *Var) parse(rest string) bool {
	if rest != "" && (rest[0] == '"' || rest[0] == '\'') {
		end := closing(rest)
		if end < 0 {
			return false
		}
		v.quote, v.Value, v.tail = rest[:1], rest[1:end], rest[end+1:]
		// "a"'b' is one word of several pieces.
		return v.tail == "" || strings.ContainsRune(" \t\r\n;#&|", rune(v.tail[0]))
	}
	end := strings.IndexAny(rest, " \t\r\n;#&|")
	if end < 0 {
		end = len(rest)
	}
	v.Value, v.tail = rest[:end], rest[end:]
	return !strings.ContainsAny(v.Value, "\"'`\\(")
}

// closing is the place of the quote that ends the string rest begins with.
func closing(rest string) int {
	for i := 1; i < len(rest); i++ {
		switch {
		case rest[i] == '\n':
			return -1
		case rest[i] == '\\' && rest[0] == '"':
			i++
		case rest[i] == rest[0]:
			return i
		}
	}
	return -1
}

// Vars lists the assignments in order. Their Value may be changed.
func (f *File) Vars() []*Var { return f.vars }

// Last returns the last assignment to name, nil if there is none.
func (f *File) Last(name string) *Var {
	for i := len(f.vars) - 1; i >= 0; i-- {
		if f.vars[i].Name == name {
			return f.vars[i]
		}
	}
	return nil
}

// Add appends an assignment at the end of the file. It reports false where that
// would land in a quote that is not closed.
func (f *File) Add(name, value string) bool {
	if f.open {
		return false
	}
	last := len(f.lines) - 1
	if f.lines[last] != "" {
		f.lines[last] += "\n"
		f.lines = append(f.lines, "")
		last++
	}
	f.lines[last] = name + `="` + value + "\"\n"
	f.lines = append(f.lines, "")
	return true
}

// Bytes gives the file as it stands now.
func (f *File) Bytes() []byte {
	lines := append([]string(nil), f.lines...)
	for _, v := range f.vars {
		if v.Value == v.old {
			continue
		}
		quote := v.quote
		if quote == "" && strings.ContainsAny(v.Value, " \t;#&|<>()*?[]~!") {
			quote = `"`
		}
		lines[v.line] = v.head + quote + v.Value + quote + v.tail
	}
	return []byte(strings.Join(lines, ""))
}
