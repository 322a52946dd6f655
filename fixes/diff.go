package fixes

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"hyper2kvm/fixes/guest"
)

// maxDiff is the largest file whose lines are compared, in bytes. Larger ones
// are shown as "differ": nobody reads such a diff.
const maxDiff = 1 << 20

// context3 is how many unchanged lines surround a change, as in diff -u.
const context3 = 3

// diffName shows how name differs between two trees, in the form of git diff
// that patch and git apply take. It is "" when nothing does.
func diffName(before, after guest.FS, name string) (string, error) {
	old, err := show(before, name)
	if err != nil {
		return "", err
	}
	now, err := show(after, name)
	if err != nil {
		return "", err
	}
	var b strings.Builder
	if old.mode != now.mode || old.uid != now.uid || old.gid != now.gid || !bytes.Equal(old.data, now.data) || old.size != now.size {
		writeDiff(&b, name, old, now)
	}
	return b.String(), nil
}

// shown is a file or link as a diff sees it; mode is git's, "" for none.
type shown struct {
	mode     string
	uid, gid int
	data     []byte // at most maxDiff bytes
	size     int64
}

func (s shown) text() bool {
	if s.size > int64(len(s.data)) || !utf8.Valid(s.data) {
		return false
	}
	// Control characters of a guest's file have no business on a terminal.
	for i, r := range string(s.data) {
		crlf := r == '\r' && i+1 < len(s.data) && s.data[i+1] == '\n'
		if unicode.IsControl(r) && r != '\n' && r != '\t' && !crlf {
			return false
		}
	}
	return true
}

func show(tree guest.FS, name string) (shown, error) {
	info, err := tree.Lstat(name)
	if errors.Is(err, fs.ErrNotExist) {
		return shown{}, nil
	}
	if err != nil {
		return shown{}, err
	}
	if info.Mode()&fs.ModeSymlink != 0 {
		target, err := tree.ReadLink(name)
		return shown{mode: "120000", data: []byte(target), size: int64(len(target))}, err
	}
	if !info.Mode().IsRegular() {
		return shown{}, nil
	}
	attr, err := tree.Attr(name)
	if err != nil {
		return shown{}, err
	}
	f, err := tree.Open(name)
	if err != nil {
		return shown{}, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxDiff))
	if err != nil {
		return shown{}, err
	}
	mode := fmt.Sprintf("100%03o", attr.Mode.Perm())
	return shown{mode: mode, uid: attr.UID, gid: attr.GID, data: data, size: info.Size()}, nil
}

func writeDiff(b *strings.Builder, name string, old, now shown) {
	a, z := quote("a/"+name), quote("b/"+name)
	if old.mode != "" && now.mode != "" && (old.uid != now.uid || old.gid != now.gid) {
		fmt.Fprintf(b, "# owner of %s: %d:%d -> %d:%d\n", quote(name), old.uid, old.gid, now.uid, now.gid)
	}
	// git describes a change of type as a removal and a creation.
	if old.mode != "" && now.mode != "" && (old.mode == "120000") != (now.mode == "120000") {
		writeDiff(b, name, old, shown{})
		writeDiff(b, name, shown{}, now)
		return
	}
	fmt.Fprintf(b, "diff --git %s %s\n", a, z)
	switch {
	case old.mode == "":
		fmt.Fprintf(b, "new file mode %s\n", now.mode)
		a = "/dev/null"
	case now.mode == "":
		fmt.Fprintf(b, "deleted file mode %s\n", old.mode)
		z = "/dev/null"
	case old.mode != now.mode:
		fmt.Fprintf(b, "old mode %s\nnew mode %s\n", old.mode, now.mode)
	}
	switch {
	case old.size == now.size && bytes.Equal(old.data, now.data):
	case !old.text() || !now.text():
		fmt.Fprintf(b, "Binary files %s and %s differ (%d -> %d bytes)\n", a, z, old.size, now.size)
	default:
		fmt.Fprintf(b, "--- %s\n+++ %s\n", a, z)
		writeHunks(b, lines(old.data), lines(now.data))
	}
}

// quote quotes a name that would break a line or a terminal.
func quote(name string) string {
	for _, r := range name {
		if r == '"' || r == '\\' || !unicode.IsPrint(r) {
			return strconv.QuoteToASCII(name)
		}
	}
	return name
}

// lines cuts text after each newline.
func lines(text []byte) []string {
	out := strings.SplitAfter(string(text), "\n")
	if out[len(out)-1] == "" {
		out = out[:len(out)-1]
	}
	return out
}

// edit is one line of a diff: ' ' kept, '-' removed, '+' added.
type edit struct {
	op   byte
	line string
}

// writeHunks writes the changed lines with their surroundings.
func writeHunks(b *strings.Builder, old, now []string) {
	edits := compare(old, now)
	oldAt, nowAt := 0, 0 // lines before edits[i]
	for i := 0; i < len(edits); {
		if edits[i].op == ' ' {
			i, oldAt, nowAt = i+1, oldAt+1, nowAt+1
			continue
		}
		from := max(0, i-context3)
		to := hunkEnd(edits, i)
		oldAt -= i - from
		nowAt -= i - from
		oldLen, nowLen := count(edits[from:to])
		fmt.Fprintf(b, "@@ -%s +%s @@\n", span(oldAt, oldLen), span(nowAt, nowLen))
		for _, e := range edits[from:to] {
			b.WriteByte(e.op)
			b.WriteString(e.line)
			if !strings.HasSuffix(e.line, "\n") {
				b.WriteString("\n\\ No newline at end of file\n")
			}
		}
		i, oldAt, nowAt = to, oldAt+oldLen, nowAt+nowLen
	}
}

// hunkEnd returns the end of the hunk whose first change is edits[i]: changes
// closer together than twice the context share a hunk.
func hunkEnd(edits []edit, i int) int {
	last := i
	for j := i; j < len(edits) && j <= last+2*context3; j++ {
		if edits[j].op != ' ' {
			last = j
		}
	}
	return min(len(edits), last+1+context3)
}

func count(edits []edit) (old, now int) {
	for _, e := range edits {
		if e.op != '+' {
			old++
		}
		if e.op != '-' {
			now++
		}
	}
	return old, now
}

// span is the "start,length" of a hunk header; an empty one starts at the line
// before it (POSIX diff, "Diff Unified Output Format").
func span(at, length int) string {
	switch length {
	case 0:
		return fmt.Sprintf("%d,0", at)
	case 1:
		return strconv.Itoa(at + 1)
	}
	return fmt.Sprintf("%d,%d", at+1, length)
}
