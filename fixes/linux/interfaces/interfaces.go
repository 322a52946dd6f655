// Package interfaces edits single words of interfaces(5), the configuration of
// ifupdown and ifupdown-ng, where they stand.
package interfaces

import (
	"strings"

	"hyper2kvm/fixes/linux/splice"
)

// File is such a file.
type File struct {
	data  []byte
	lines []*Line
}

// Line is one logical line: a backslash at the end of a line goes on with the
// next.
type Line struct {
	Words []*Word
	// Stanza is the line that begins the stanza this one is an option of: iface,
	// mapping and the like; nil outside of one.
	Stanza *Line
}

// Word is one word of a line.
type Word struct {
	// Text may be changed.
	Text string

	old   string
	start int
}

// Word gives word i of the line, "" for one that is not there.
func (l *Line) Word(i int) string {
	if l == nil || i >= len(l.Words) {
		return ""
	}
	return l.Words[i].Text
}

// Key is the first word, in the form with dashes that newer releases write.
func (l *Line) Key() string { return strings.ReplaceAll(l.Word(0), "_", "-") }

// Parse reads a file. Every input is a valid one.
func Parse(data []byte) *File {
	f := &File{data: data}
	var stanza *Line
	for at := 0; at < len(data); {
		end := logicalEnd(data, at)
		if l := parseLine(data, at, end); l != nil {
			switch {
			case begins(l.Word(0)):
				stanza = l
			case ends(l.Word(0)):
				stanza = nil
			default:
				l.Stanza = stanza
			}
			f.lines = append(f.lines, l)
		}
		at = end
	}
	return f
}

// begins reports whether a word begins a stanza with options.
func begins(word string) bool { return word == "iface" || word == "mapping" }

// ends reports whether a word stands outside of stanzas and ends one.
func ends(word string) bool {
	return word == "auto" || word == "source" || word == "source-directory" || word == "template" ||
		word == "no-auto-down" || word == "no-scripts" || word == "rename" || strings.HasPrefix(word, "allow-")
}

// logicalEnd is the place behind the line that begins at at, and behind those
// that it goes on with.
func logicalEnd(data []byte, at int) int {
	comment := strings.HasPrefix(strings.TrimLeft(string(data[at:min(len(data), at+256)]), " \t"), "#")
	for i := at; i < len(data); i++ {
		if data[i] != '\n' {
			continue
		}
		before := i
		if before > at && data[before-1] == '\r' {
			before--
		}
		if comment || before == at || data[before-1] != '\\' {
			return i + 1
		}
	}
	return len(data)
}

func parseLine(data []byte, at, end int) *Line {
	l := &Line{}
	for i := at; i < end; {
		if strings.IndexByte(" \t\r\n", data[i]) >= 0 || data[i] == '\\' && goesOn(data[i+1:end]) {
			i++
			continue
		}
		start := i
		for i < end && strings.IndexByte(" \t\r\n", data[i]) < 0 && (data[i] != '\\' || !goesOn(data[i+1:end])) {
			i++
		}
		text := string(data[start:i])
		if len(l.Words) == 0 && text[0] == '#' {
			return nil
		}
		l.Words = append(l.Words, &Word{Text: text, old: text, start: start})
	}
	if len(l.Words) == 0 {
		return nil
	}
	return l
}

// goesOn reports whether what follows a backslash is the end of a line.
func goesOn(rest []byte) bool {
	return len(rest) > 0 && rest[0] == '\n' || len(rest) > 1 && rest[0] == '\r' && rest[1] == '\n'
}

// Lines lists the lines that are neither empty nor a comment.
func (f *File) Lines() []*Line { return f.lines }

// Bytes gives the file as it stands now.
func (f *File) Bytes() []byte {
	out := splice.New(f.data)
	for _, l := range f.lines {
		for _, w := range l.Words {
			if w.Text != w.old && w.Text != "" && !strings.ContainsAny(w.Text, " \t\r\n\\") {
				out.Replace(w.start, w.start+len(w.old), w.Text)
			}
		}
	}
	return out.Bytes()
}
