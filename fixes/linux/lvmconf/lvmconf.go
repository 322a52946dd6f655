// Package lvmconf edits lists in lvm.conf(5) where they stand: sections in
// braces, name = value, lists in brackets over any number of lines, comments
// from # to the end of a line. All other bytes come out as they went in.
package lvmconf

import (
	"strings"

	"hyper2kvm/fixes/linux/splice"
)

// File is such a file.
type File struct {
	text     *splice.Text
	settings []*Setting
	sound    bool
}

// Setting is one assignment.
type Setting struct {
	// Path is the section and the name: "devices/filter".
	Path string
	// Values are the strings and numbers of the value, unescaped; a single one
	// for what is no list.
	Values []string
	List   bool

	file *File
	open int // where a new first value goes
}

// Parse reads a file. Sound reports whether it could be read to the end: what
// stands behind a mistake is not known, so such a file is better left.
func Parse(data []byte) *File {
	f := &File{text: splice.New(data)}
	p := &parser{file: f, s: string(data)}
	f.sound = p.section("", 0) && p.at >= len(p.s)
	return f
}

// Sound reports whether the whole file was understood.
func (f *File) Sound() bool { return f.sound }

// Settings lists all assignments in order.
func (f *File) Settings() []*Setting { return f.settings }

// Bytes gives the file as it stands now.
func (f *File) Bytes() []byte { return f.text.Bytes() }

// Prepend puts a string at the start of a list. It may hold neither quotes nor
// backslashes.
func (s *Setting) Prepend(value string) {
	text := `"` + value + `"`
	if len(s.Values) > 0 {
		text += ", "
	}
	if s.file.text.Replace(s.open, s.open, text) {
		s.Values = append([]string{value}, s.Values...)
	}
}

type parser struct {
	file *File
	s    string
	at   int
}

// maxDepth bounds nested sections; real files have one level.
const maxDepth = 16

// section reads up to the brace that ends a section, or the end of the file.
func (p *parser) section(prefix string, depth int) bool {
	for {
		p.blanks()
		if p.at >= len(p.s) {
			return depth == 0
		}
		if p.s[p.at] == '}' {
			p.at++
			return depth > 0
		}
		name := p.name()
		if name == "" || depth >= maxDepth {
			return false
		}
		p.blanks()
		switch {
		case p.take('{'):
			if !p.section(prefix+name+"/", depth+1) {
				return false
			}
		case p.take('='):
			if !p.value(prefix + name) {
				return false
			}
		default:
			return false
		}
	}
}

// blanks skips blanks and comments.
func (p *parser) blanks() {
	for p.at < len(p.s) {
		switch p.s[p.at] {
		case '#':
			n := strings.IndexByte(p.s[p.at:], '\n')
			if n < 0 {
				p.at = len(p.s)
				return
			}
			p.at += n + 1
		case ' ', '\t', '\n', '\r':
			p.at++
		default:
			return
		}
	}
}

func (p *parser) take(c byte) bool {
	if p.at < len(p.s) && p.s[p.at] == c {
		p.at++
		return true
	}
	return false
}

// name reads a word: of a section, a setting, or a number.
func (p *parser) name() string {
	start := p.at
	for p.at < len(p.s) && strings.IndexByte(" \t\r\n#{}[]=,\"'", p.s[p.at]) < 0 {
		p.at++
	}
	return p.s[start:p.at]
}

func (p *parser) value(path string) bool {
	set := &Setting{Path: path, file: p.file}
	p.blanks()
	if !p.take('[') {
		v, ok := p.scalar()
		set.Values = []string{v}
		p.file.settings = append(p.file.settings, set)
		return ok
	}
	set.List, set.open = true, p.at
	for {
		p.blanks()
		if p.take(']') {
			break
		}
		start := p.at
		v, ok := p.scalar()
		if !ok {
			return false
		}
		if len(set.Values) == 0 {
			set.open = start
		}
		set.Values = append(set.Values, v)
		p.blanks()
		p.take(',')
	}
	p.file.settings = append(p.file.settings, set)
	return true
}

// scalar reads a string in either kind of quotes, of which only the double ones
// have escapes, or a number.
func (p *parser) scalar() (string, bool) {
	if p.at >= len(p.s) {
		return "", false
	}
	quote := p.s[p.at]
	if quote != '"' && quote != '\'' {
		word := p.name()
		return word, word != ""
	}
	var b strings.Builder
	for p.at++; p.at < len(p.s); p.at++ {
		switch c := p.s[p.at]; {
		case c == quote:
			p.at++
			return b.String(), true
		case c == '\\' && quote == '"' && p.at+1 < len(p.s):
			p.at++
			b.WriteByte(p.s[p.at])
		default:
			b.WriteByte(c)
		}
	}
	return "", false
}
