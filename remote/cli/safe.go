package cli

import (
	"fmt"
	"os"
	"strings"
	"unicode"
)

// safe makes text that a guest or an image wrote harmless on a terminal: no
// control character reaches it, nor any that turns the direction of writing.
func safe(s string) string {
	return strings.Map(visible, strings.ToValidUTF8(s, "�"))
}

// safeLines is safe for text of several lines.
func safeLines(s string) string {
	lines := strings.Split(s, "\n")
	for i, l := range lines {
		cells := strings.Split(l, "\t") // a tab is harmless, and a diff needs it
		for j, c := range cells {
			cells[j] = safe(c)
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

func indent(s string) string {
	return "  " + strings.ReplaceAll(strings.TrimRight(s, "\n"), "\n", "\n  ")
}

// short is a path as the user would type it: below the working folder,
// relative to it.
func short(path string) string {
	wd, err := os.Getwd()
	if err != nil {
		return safe(path)
	}
	if rest, ok := strings.CutPrefix(path, strings.TrimSuffix(wd, "/")+"/"); ok {
		path = rest
	}
	return safe(path)
}

// size prints bytes the way people read them.
func size(n int64) string {
	const unit = 1024
	if n < unit {
		return fmt.Sprintf("%d B", n)
	}
	v, i := float64(n)/unit, 0
	for v >= unit && i < 4 {
		v, i = v/unit, i+1
	}
	return fmt.Sprintf("%.1f %ciB", v, "KMGTP"[i])
}
