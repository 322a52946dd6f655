package initramfs

import (
	"io"
	"io/fs"

	"hyper2kvm/fixes/guest"
)

// Lacks says which modules an initramfs lacks that is no file of its own but a
// part of one, as in a unified kernel image: content reads it. The kernel's
// Initramfs is the name of the file that holds it.
func Lacks(g *guest.Guest, k guest.Kernel, content io.Reader) ([]string, error) {
	inside := &guest.Guest{FS: within{g.FS, k.Initramfs, content}, Facts: g.Facts}
	c, err := check(inside, k)
	if err != nil || c == nil {
		return nil, err
	}
	return c.missing, nil
}

// within is a tree in which one file has another content.
type within struct {
	guest.FS
	name    string
	content io.Reader
}

// Open opens the content in the place of the file.
func (w within) Open(name string) (fs.File, error) {
	file, err := w.FS.Open(name)
	if err != nil || name != w.name {
		return file, err
	}
	return part{file, w.content}, nil
}

type part struct {
	fs.File
	content io.Reader
}

// Read reads the part of the file.
func (p part) Read(b []byte) (int, error) { return p.content.Read(b) }
