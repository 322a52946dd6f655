// Package splice replaces single values of a text where they stand, and leaves
// every other byte of it alone: what an editor needs that parses with a library
// which would print the file anew.
package splice

import (
	"bytes"
	"slices"
)

// Text is a text and what is to be replaced in it.
type Text struct {
	data []byte
	cuts []cut
}

// cut replaces the bytes from start up to end.
type cut struct {
	start, end int
	with       string
}

// New makes a Text of which nothing is replaced. It keeps data.
func New(data []byte) *Text { return &Text{data: data} }

// Replace puts with in the place of the bytes from start up to end, counted in
// the text as it was. It reports false, and does nothing, where that lies
// outside the text or overlaps what is replaced already.
func (t *Text) Replace(start, end int, with string) bool {
	if start < 0 || end < start || end > len(t.data) {
		return false
	}
	at, _ := slices.BinarySearchFunc(t.cuts, start, func(c cut, start int) int { return c.start - start })
	if at > 0 && t.cuts[at-1].end > start || at < len(t.cuts) && t.cuts[at].start < max(end, start+1) {
		return false
	}
	t.cuts = slices.Insert(t.cuts, at, cut{start, end, with})
	return true
}

// Bytes gives the text as it stands now.
func (t *Text) Bytes() []byte {
	if len(t.cuts) == 0 {
		return t.data
	}
	var b bytes.Buffer
	at := 0
	for _, c := range t.cuts {
		b.Write(t.data[at:c.start])
		b.WriteString(c.with)
		at = c.end
	}
	b.Write(t.data[at:])
	return b.Bytes()
}
