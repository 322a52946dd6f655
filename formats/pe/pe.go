// Package pe reads the section table of programs for UEFI firmware (PE32 and
// PE32+ images), which is how a unified kernel image holds a kernel, its
// initramfs and its command line
// (https://uapi-group.org/specifications/specs/unified_kernel_image/).
//
// Offsets are those of the "PE Format" reference of Microsoft.
package pe

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"

	"hyper2kvm/formats"
)

// Image is an open image.
type Image struct {
	Machine  uint16 // IMAGE_FILE_MACHINE_…: 0x8664 is x86-64
	Sections []Section
	// Signed says that there is a table of certificates. Whether one of them is
	// right, or known to anybody, is not looked at.
	Signed bool

	r io.ReaderAt
}

// Section is one section, in the order of the table.
type Section struct {
	Name   string // at most eight bytes
	Offset int64  // in the file
	Size   int64  // of its content, in bytes
}

const (
	maxSections   = 4096 // there are 96 at most in what Windows loads
	fileHeader    = 24   // with the signature
	sectionHeader = 40
	pe32          = 0x10b
	pe32plus      = 0x20b
	// certificates is the number of the entry in the table of directories.
	certificates = 4
)

// Read reads the table of an image of size bytes.
func Read(r io.ReaderAt, size int64) (*Image, error) {
	dos := make([]byte, 64)
	if err := readAt(r, dos, 0, size); err != nil {
		return nil, err
	}
	if dos[0] != 'M' || dos[1] != 'Z' {
		return nil, fmt.Errorf("no MZ at its beginning: %w", formats.ErrFormat)
	}
	at := int64(binary.LittleEndian.Uint32(dos[0x3c:]))
	head := make([]byte, fileHeader)
	if err := readAt(r, head, at, size); err != nil {
		return nil, err
	}
	if !bytes.HasPrefix(head, []byte("PE\x00\x00")) {
		return nil, fmt.Errorf("no PE signature at %d: %w", at, formats.ErrFormat)
	}
	count := int(binary.LittleEndian.Uint16(head[6:]))
	optional := int64(binary.LittleEndian.Uint16(head[20:]))
	if count > maxSections {
		return nil, fmt.Errorf("%d sections: %w", count, formats.ErrCorrupt)
	}
	img := &Image{Machine: binary.LittleEndian.Uint16(head[4:]), r: r}
	opt := make([]byte, optional)
	if err := readAt(r, opt, at+fileHeader, size); err != nil {
		return nil, err
	}
	img.Signed = hasCertificates(opt)
	return img, img.readSections(at+fileHeader+optional, count, size)
}

func readAt(r io.ReaderAt, b []byte, at, size int64) error {
	if at < 0 || at > size || int64(len(b)) > size-at {
		return fmt.Errorf("%d bytes at %d of a file of %d: %w", len(b), at, size, formats.ErrCorrupt)
	}
	if len(b) == 0 {
		return nil
	}
	if n, err := r.ReadAt(b, at); n < len(b) {
		return fmt.Errorf("read %d bytes at %d: %w", len(b), at, err)
	}
	return nil
}

// hasCertificates looks into the optional header: the number of directories
// stands before them, and their place depends on the size of addresses.
func hasCertificates(opt []byte) bool {
	if len(opt) < 2 {
		return false
	}
	dirs := 0
	switch binary.LittleEndian.Uint16(opt) {
	case pe32:
		dirs = 96
	case pe32plus:
		dirs = 112
	default:
		return false
	}
	at := dirs + certificates*8
	return len(opt) >= at+8 && binary.LittleEndian.Uint32(opt[dirs-4:]) > certificates &&
		binary.LittleEndian.Uint32(opt[at+4:]) > 0
}

func (img *Image) readSections(at int64, count int, size int64) error {
	table := make([]byte, count*sectionHeader)
	if err := readAt(img.r, table, at, size); err != nil {
		return err
	}
	for i := range count {
		h := table[i*sectionHeader:]
		// The content is what is in the file, without what fills its last block.
		s := Section{
			Name:   string(bytes.TrimRight(h[:8], "\x00")),
			Offset: int64(binary.LittleEndian.Uint32(h[20:])),
			Size:   int64(min(binary.LittleEndian.Uint32(h[8:]), binary.LittleEndian.Uint32(h[16:]))),
		}
		if s.Size > 0 && (s.Offset > size || s.Size > size-s.Offset) {
			return fmt.Errorf("section %q is not within the file: %w", s.Name, formats.ErrCorrupt)
		}
		img.Sections = append(img.Sections, s)
	}
	return nil
}

// Section gives the content of the first section of a name, and false where
// there is none. In a unified kernel image of several profiles that is the one
// that all have in common.
func (img *Image) Section(name string) (*io.SectionReader, bool) {
	for _, s := range img.Sections {
		if s.Name == name {
			return io.NewSectionReader(img.r, s.Offset, s.Size), true
		}
	}
	return nil, false
}

// Text gives the content of a small section as text, without the zeroes at its
// end. One that is larger than limit bytes is an error.
func (img *Image) Text(name string, limit int64) (string, error) {
	s, ok := img.Section(name)
	if !ok {
		return "", nil
	}
	if s.Size() > limit {
		return "", fmt.Errorf("section %s has %d bytes, not text of %d at most: %w", name, s.Size(), limit, formats.ErrCorrupt)
	}
	data, err := io.ReadAll(s)
	if err != nil {
		return "", fmt.Errorf("read section %s: %w", name, err)
	}
	return string(bytes.TrimRight(data, "\x00")), nil
}
