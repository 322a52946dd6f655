package reporthtml

import (
	"fmt"
	"regexp"
	"strings"
	"unicode"

	"hyper2kvm/agent/api"
)

// fix is one fix with its diff taken apart.
type fix struct {
	api.FixReport
	Class string
	Files []fileDiff
	More  int // lines that are left out
}

// fileDiff is the part of a diff that concerns one file.
type fileDiff struct {
	Name           string
	Notes          []string // header lines that say something: modes, "Binary files differ"
	Lines          []line
	Added, Removed int
}

// line is a line of a diff: class "add", "del", "hunk" or "same".
type line struct{ Class, Mark, Text string }

func newFix(f api.FixReport) fix {
	x := fix{FixReport: f, Class: "quiet"}
	switch f.State {
	case "changed", "planned":
		x.Class = "good"
	case "failed":
		x.Class = "bad"
	}
	x.Files, x.More = parseDiff(f.Diff)
	return x
}

// parseDiff takes a diff in git's form apart. Text that is not in that form is
// kept as it is.
func parseDiff(diff string) (files []fileDiff, more int) {
	if diff == "" {
		return nil, 0
	}
	var cur *fileDiff
	body := false // after the first hunk's begin, where "---" is a removed "--"
	count := 0
	for text := range strings.Lines(strings.TrimSuffix(diff, "\n")) {
		text = strings.TrimRight(text, "\r\n")
		switch {
		case strings.HasPrefix(text, "diff --git "), cur == nil, !body && len(cur.Lines) > 0 && strings.HasPrefix(text, "--- "):
			files = append(files, fileDiff{})
			cur, body = &files[len(files)-1], false
		}
		if count++; count > maxLines {
			more++
			continue
		}
		if strings.HasPrefix(text, "@@") {
			body = true
		}
		if body {
			cur.addLine(text)
		} else {
			cur.addHeader(text)
		}
	}
	return files, more
}

// addHeader takes a line before the first hunk.
func (f *fileDiff) addHeader(text string) {
	switch {
	case strings.HasPrefix(text, "diff --git "), strings.HasPrefix(text, "index "):
		if f.Name == "" {
			if _, name, ok := strings.Cut(text, " b/"); ok {
				f.Name = name
			}
		}
	case strings.HasPrefix(text, "--- "), strings.HasPrefix(text, "+++ "):
		name := strings.TrimPrefix(strings.TrimPrefix(text[4:], "a/"), "b/")
		if name != "/dev/null" {
			f.Name = name
		}
	case strings.TrimSpace(text) != "":
		f.Notes = append(f.Notes, text)
	}
}

// addLine takes a line of a hunk.
func (f *fileDiff) addLine(text string) {
	if text == "" {
		f.Lines = append(f.Lines, line{"same", " ", ""})
		return
	}
	l := line{Class: "same", Mark: text[:1], Text: visible(text[1:])}
	switch text[0] {
	case '+':
		l.Class = "add"
		f.Added++
	case '-':
		l.Class = "del"
		f.Removed++
	case '@':
		l = line{"hunk", "", visible(text)}
	case '\\':
		l = line{"hunk", "", visible(text[1:])}
	case ' ':
	default: // multi-byte characters must not be cut
		l = line{"same", " ", visible(text)}
	}
	f.Lines = append(f.Lines, l)
}

// visible shows characters that have no shape, or that turn the direction of
// text around, by their number: a diff must look like what it does.
func visible(s string) string {
	if !strings.ContainsFunc(s, hidden) {
		return s
	}
	var b strings.Builder
	for _, r := range s {
		if hidden(r) {
			fmt.Fprintf(&b, "⟨U+%04X⟩", r)
		} else {
			b.WriteRune(r)
		}
	}
	return b.String()
}

func hidden(r rune) bool {
	return r != '\t' && r != '\n' && (unicode.IsControl(r) || unicode.Is(unicode.Cf, r))
}

// cleanTerminal takes escape sequences (ECMA-48, 5.3 and 5.4) and other control
// characters out of a console text.
func cleanTerminal(s string) string {
	s = regexp.MustCompile(`\x1b\[[0-?]*[ -/]*[@-~]|\x1b\][^\x07\x1b]*(\x07|\x1b\\)?|\x1b[ -/]*[0-~]?`).ReplaceAllString(s, "")
	s = strings.ReplaceAll(s, "\r\n", "\n")
	s = strings.ToValidUTF8(s, "·")
	return strings.Map(func(r rune) rune {
		if hidden(r) {
			return -1
		}
		return r
	}, s)
}
