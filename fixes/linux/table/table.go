// Package table edits files whose lines are fields between blanks (fstab,
// crypttab), without touching a byte that need not change: comments, blank
// lines, spacing and lines that were not set come out as they went in.
package table

import (
	"strings"
)

// File is such a file. The zero File is empty.
type File struct {
	lines []line
}

type line struct {
	text string // as read, with its end
	row  *Row   // nil for a comment or a blank line
}

// Row is one line with fields.
type Row struct {
	// Line counts from 1.
	Line int

	lead   string
	fields []string
	gaps   []string // gaps[i] follows fields[i]; the last one holds the line end
	dirty  bool
}

// Parse reads a file. Every input is a valid one.
func Parse(data []byte) *File {
	f := &File{}
	for i, text := range strings.SplitAfter(string(data), "\n") {
		f.lines = append(f.lines, line{text: text, row: parseRow(i+1, text)})
	}
	return f
}

func parseRow(number int, text string) *Row {
	r := &Row{Line: number}
	r.lead, text = blanks(text)
	if text == "" || text[0] == '#' {
		return nil
	}
	for text != "" {
		end := strings.IndexAny(text, " \t\r\n")
		if end < 0 {
			end = len(text)
		}
		r.fields = append(r.fields, text[:end])
		var gap string
		gap, text = blanks(text[end:])
		r.gaps = append(r.gaps, gap)
	}
	return r
}

// blanks cuts the blanks at the start of s off.
func blanks(s string) (gap, rest string) {
	rest = strings.TrimLeft(s, " \t\r\n")
	return s[:len(s)-len(rest)], rest
}

// Bytes gives the file as it stands now.
func (f *File) Bytes() []byte {
	var b strings.Builder
	for _, l := range f.lines {
		if l.row == nil || !l.row.dirty {
			b.WriteString(l.text)
			continue
		}
		b.WriteString(l.row.String())
	}
	return []byte(b.String())
}

// Rows lists the lines that have fields.
func (f *File) Rows() []*Row {
	var rows []*Row
	for _, l := range f.lines {
		if l.row != nil {
			rows = append(rows, l.row)
		}
	}
	return rows
}

// String gives the line with its end.
func (r *Row) String() string {
	var b strings.Builder
	b.WriteString(r.lead)
	for i := range r.fields {
		b.WriteString(r.fields[i])
		b.WriteString(r.gaps[i])
	}
	return b.String()
}

// Len is the number of fields.
func (r *Row) Len() int { return len(r.fields) }

// Field returns field i, counted from 0, as written; "" for one that is not
// there.
func (r *Row) Field(i int) string {
	if i >= len(r.fields) {
		return ""
	}
	return r.fields[i]
}

// Set changes field i, or adds it when the line has i fields. Where spaces
// align the next column, it stays where it was if the new text leaves room.
func (r *Row) Set(i int, text string) {
	if i < len(r.fields) && r.fields[i] == text || i > len(r.fields) || text == "" {
		return
	}
	r.dirty = true
	if i == len(r.fields) {
		r.add(text)
		return
	}
	gap := r.gaps[i]
	if i+1 < len(r.fields) && len(gap) > 1 && strings.Trim(gap, " ") == "" {
		width := len(r.fields[i]) + len(gap)
		r.gaps[i] = strings.Repeat(" ", max(1, width-len(text)))
	}
	r.fields[i] = text
}

// add puts a field at the end, before the line's end.
func (r *Row) add(text string) {
	last := len(r.gaps) - 1
	end := strings.TrimLeft(r.gaps[last], " \t")
	r.gaps[last] = "\t"
	if last > 0 && !strings.Contains(r.gaps[0], "\t") {
		r.gaps[last] = " "
	}
	r.fields = append(r.fields, text)
	r.gaps = append(r.gaps, end)
}

// Unescape undoes the octal escapes (\040 for a space) that fields use for
// blanks (getmntent(3)).
func Unescape(field string) string {
	if !strings.Contains(field, `\`) {
		return field
	}
	var b strings.Builder
	for i := 0; i < len(field); i++ {
		if c, ok := octal(field[i:]); ok {
			b.WriteByte(c)
			i += 3
			continue
		}
		b.WriteByte(field[i])
	}
	return b.String()
}

func octal(s string) (byte, bool) {
	if len(s) < 4 || s[0] != '\\' {
		return 0, false
	}
	value := 0
	for _, c := range s[1:4] {
		if c < '0' || c > '7' {
			return 0, false
		}
		value = value*8 + int(c-'0')
	}
	return byte(value), value < 256
}

// Escape is the reverse of Unescape.
func Escape(text string) string {
	return strings.NewReplacer(`\`, `\134`, " ", `\040`, "\t", `\011`, "\n", `\012`).Replace(text)
}
