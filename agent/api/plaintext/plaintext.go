// Package plaintext prints what guests and images wrote so that it is harmless
// on a terminal, and in the columns and colours that the programs share.
package plaintext

import (
	"bytes"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"unicode"
)

// Safe makes text that a guest or an image wrote harmless on a terminal: no
// control character reaches it, nor any that turns the direction of writing.
func Safe(s string) string {
	return strings.Map(visible, strings.ToValidUTF8(s, "�"))
}

// SafeLines is Safe for text of several lines.
func SafeLines(s string) string {
	lines := strings.Split(s, "\n")
	for i, l := range lines {
		cells := strings.Split(l, "\t") // a tab is harmless, and a diff needs it
		for j, c := range cells {
			cells[j] = Safe(c)
		}
		lines[i] = strings.Join(cells, "\t")
	}
	return strings.Join(lines, "\n")
}

func visible(r rune) rune {
	switch {
	case r == '\t':
		return ' '
	case unicode.IsControl(r), unicode.Is(unicode.Bidi_Control, r):
		return '·'
	}
	return r
}

// Indent puts two blanks before every line.
func Indent(s string) string {
	return "  " + strings.ReplaceAll(strings.TrimRight(s, "\n"), "\n", "\n  ")
}

// Table prints rows in columns; cells are made safe.
func Table(out io.Writer, rows [][]string) {
	var text bytes.Buffer
	w := tabwriter.NewWriter(&text, 0, 8, 2, ' ', 0)
	for _, row := range rows {
		for i, cell := range row {
			row[i] = Safe(cell)
		}
		fmt.Fprintln(w, strings.Join(row, "\t"))
	}
	_ = w.Flush() // into memory
	for l := range strings.Lines(text.String()) {
		fmt.Fprintf(out, "%s\n", strings.TrimRight(l, " \n"))
	}
}

const (
	red         = "\x1b[31m"
	green       = "\x1b[32m"
	cyan        = "\x1b[36m"
	plainColour = "\x1b[0m"
)

// Diff prints a unified diff, indented, in colours where they are wanted.
func Diff(out io.Writer, diff string, colours bool) {
	for l := range strings.Lines(diff) {
		l = SafeLines(strings.TrimRight(l, "\n"))
		if colours {
			l = colour(l)
		}
		fmt.Fprintf(out, "  %s\n", l)
	}
}

func colour(l string) string {
	switch {
	case strings.HasPrefix(l, "+"):
		return green + l + plainColour
	case strings.HasPrefix(l, "-"):
		return red + l + plainColour
	case strings.HasPrefix(l, "@@"):
		return cyan + l + plainColour
	}
	return l
}
