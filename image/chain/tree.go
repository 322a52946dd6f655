package chain

import (
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"unicode"

	"hyper2kvm/formats"
	"hyper2kvm/formats/detect"
	"hyper2kvm/image/hostfile"
)

// node is a file of the chain as far as it could be opened.
type node struct {
	name    string
	info    *formats.Info // nil when it could not be parsed
	err     error
	extents []*node
}

// BrokenError says that a file which an image stands on cannot be used.
type BrokenError struct {
	Path string // the image that was to be opened
	Err  error
	tree []*node
}

func (e *BrokenError) Error() string { return fmt.Sprintf("chain of %s: %v", e.Path, e.Err) }

func (e *BrokenError) Unwrap() error { return e.Err }

// broken makes the error of a chain; one that concerns just the named file
// needs no chain to be understood.
func (r *resolver) broken(err error, chain bool) error {
	if !chain {
		return err
	}
	return &BrokenError{Path: r.tree[0].name, Err: err, tree: r.tree}
}

// Tree draws the chain, each image over its parent, with what is wrong:
//
//	web-000002.vmdk  vmdk monolithicSparse, id 5f3a2b01, over 9c01d2aa
//	└─ web-000001.vmdk  vmdk monolithicSparse, id 9c01d2aa, over 77b1c0de
//	   └─ web.vmdk  MISSING
func (e *BrokenError) Tree() string {
	var b strings.Builder
	indent := ""
	for i, n := range e.tree {
		if i > 0 {
			b.WriteString(indent + "└─ ")
			indent += "   "
		}
		b.WriteString(n.line() + "\n")
		for j, x := range n.extents {
			branch := "├─ "
			if j == len(n.extents)-1 && i == len(e.tree)-1 {
				branch = "└─ "
			}
			b.WriteString(indent + branch + x.line() + "\n")
		}
	}
	return strings.TrimSuffix(b.String(), "\n")
}

// line describes one file. Names come out of images: they are quoted where
// they could disturb a terminal.
func (n *node) line() string {
	name := n.name
	if name == "" || strings.ContainsFunc(name, func(r rune) bool { return !unicode.IsPrint(r) }) {
		name = fmt.Sprintf("%q", name)
	}
	parts := []string{name}
	if n.info != nil {
		what := strings.TrimSpace(n.info.Format + " " + n.info.Variant)
		if n.info.ID != "" {
			what += ", id " + n.info.ID
		}
		if n.info.Parent != nil && n.info.Parent.ID != "" {
			what += ", over " + n.info.Parent.ID
		}
		parts = append(parts, what)
	}
	if n.err != nil {
		parts = append(parts, problem(n.err))
	}
	return strings.Join(parts, "  ")
}

// problem names what is wrong with a file in a word or two; the message of the
// error has the rest.
func problem(err error) string {
	for _, x := range []struct {
		err  error
		text string
	}{
		{formats.ErrRefused, "REFUSED"},
		{formats.ErrPart, "PART OF A DISK"},
		{ErrWrongParent, "WRONG PARENT"},
		{ErrLoop, "IN A CIRCLE"},
		{ErrDepth, "TOO MANY"},
		{detect.ErrEmpty, "EMPTY"},
		{hostfile.ErrDirectory, "A DIRECTORY"},
		{fs.ErrNotExist, "MISSING"},
		{fs.ErrPermission, "UNREADABLE"},
		{formats.ErrFormat, "NOT AN IMAGE"},
		{formats.ErrTruncated, "TRUNCATED"},
		{formats.ErrUnsupported, "UNSUPPORTED"},
		{formats.ErrCorrupt, "DAMAGED"},
	} {
		if errors.Is(err, x.err) {
			return x.text
		}
	}
	return "FAILED"
}
