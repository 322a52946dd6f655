// Package multipathconf reads multipath.conf(5) and adds sections at its end:
// sections in braces, an attribute and its value on one line, comments from # or
// ! to the end of the line, values in quotes or bare.
package multipathconf

import (
	"bytes"
	"strings"
)

// File is such a file.
type File struct {
	data     []byte
	settings []Setting
	sound    bool
}

// Setting is one attribute.
type Setting struct {
	Path  string // its sections and its name: "multipaths/multipath/alias"
	Value string
}

// Parse reads a file. Sound reports whether all sections are closed and no quote
// is left open: only then can anything be added at the end.
func Parse(data []byte) *File {
	f := &File{data: data, sound: true}
	var path []string
	for line := range strings.Lines(string(data)) {
		words, ok := split(line)
		if !ok {
			f.sound = false
			return f
		}
		path, ok = f.line(path, words)
		if !ok {
			f.sound = false
			return f
		}
	}
	f.sound = len(path) == 0
	return f
}

// line takes the words of a line in; braces stand among them as words.
func (f *File) line(path, words []string) ([]string, bool) {
	for len(words) > 0 {
		switch {
		case words[0] == "}":
			if len(path) == 0 {
				return nil, false
			}
			path, words = path[:len(path)-1], words[1:]
		case len(words) > 1 && words[1] == "{":
			path, words = append(path, words[0]), words[2:]
		case words[0] == "{":
			return nil, false
		default:
			n := 1
			for n < len(words) && words[n] != "}" {
				n++
			}
			f.settings = append(f.settings, Setting{strings.Join(append(path[:len(path):len(path)], words[0]), "/"), strings.Join(words[1:n], " ")})
			words = words[n:]
		}
	}
	return path, true
}

// split cuts a line into words; a quoted one is a word without its quotes.
func split(line string) ([]string, bool) {
	var words []string
	for s := strings.TrimLeft(line, " \t\r\n"); s != ""; s = strings.TrimLeft(s, " \t\r\n") {
		switch s[0] {
		case '#', '!':
			return words, true
		case '{', '}':
			words, s = append(words, s[:1]), s[1:]
		case '"':
			end := strings.IndexByte(s[1:], '"')
			if end < 0 {
				return nil, false
			}
			words, s = append(words, s[1:1+end]), s[end+2:]
		default:
			end := strings.IndexAny(s, " \t\r\n{}\"#")
			if end < 0 {
				end = len(s)
			}
			if end == 0 {
				return nil, false
			}
			words, s = append(words, s[:end]), s[end:]
		}
	}
	return words, true
}

// Sound reports whether the file was understood to its end.
func (f *File) Sound() bool { return f.sound }

// Settings lists all attributes in order.
func (f *File) Settings() []Setting { return f.settings }

// Append adds a section with the given lines at the end.
func (f *File) Append(section string, lines ...string) {
	var b bytes.Buffer
	b.Write(f.data)
	if len(f.data) > 0 && !bytes.HasSuffix(f.data, []byte("\n")) {
		b.WriteByte('\n')
	}
	b.WriteString(section + " {\n")
	for _, l := range lines {
		b.WriteString("\t" + l + "\n")
	}
	b.WriteString("}\n")
	*f = *Parse(b.Bytes())
}

// Bytes gives the file as it stands now.
func (f *File) Bytes() []byte { return f.data }
