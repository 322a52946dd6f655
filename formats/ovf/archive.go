package ovf

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"path"
	"strings"

	"hyper2kvm/formats"
)

// maxMembers bounds how many members an archive may have.
const maxMembers = 4096

// Member is a file inside an archive: it lies there as it is.
type Member struct {
	Name         string // cleaned, and never out of the archive
	Offset, Size int64  // in the archive, in bytes
}

// Archive is the index of a tar file. Nothing of it is extracted: a member is
// read where it lies.
type Archive struct {
	Members []Member
	file    formats.File
}

// ReadArchive indexes a tar file (POSIX.1-2001, ustar, and GNU's long names).
// What is no tar file gives formats.ErrFormat. Members that are no plain files,
// or whose names would lead out of a folder, refuse the whole: an OVA has none,
// and who made one with them meant harm.
func ReadArchive(f formats.File) (*Archive, error) {
	a := &Archive{file: f}
	// The reader of a tar file seeks over what it does not read, and reads whole
	// headers: it stands at the begin of a member's data when it gives its header.
	section := io.NewSectionReader(f, 0, f.Size)
	tr := tar.NewReader(section)
	for n := 0; ; n++ {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, tarError(f, n, err)
		}
		if n >= maxMembers {
			return nil, fmt.Errorf("read archive %s: more than %d members: %w", f.Name, maxMembers, formats.ErrUnsupported)
		}
		at, err := section.Seek(0, io.SeekCurrent)
		if err != nil {
			return nil, fmt.Errorf("read archive %s: %w", f.Name, err)
		}
		if err := a.add(h, at); err != nil {
			return nil, fmt.Errorf("read archive %s: %w", f.Name, err)
		}
	}
	if len(a.Members) == 0 {
		return nil, fmt.Errorf("read archive %s: no file in it: %w", f.Name, formats.ErrFormat)
	}
	return a, nil
}

// tarError judges what the tar reader could not read; before the first member
// the file is no archive.
func tarError(f formats.File, members int, err error) error {
	kind := formats.ErrCorrupt
	switch {
	case errors.Is(err, io.ErrUnexpectedEOF):
		kind = formats.ErrTruncated
	case members == 0:
		kind = formats.ErrFormat
	}
	return fmt.Errorf("read archive %s, member %d: %w: %w", f.Name, members, err, kind)
}

func (a *Archive) add(h *tar.Header, at int64) error {
	if h.Typeflag == tar.TypeXGlobalHeader {
		return nil // what it says of all members concerns none of ours
	}
	name, err := inside(h.Name)
	if err != nil {
		return err
	}
	switch h.Typeflag {
	case tar.TypeReg:
	case tar.TypeDir:
		return nil
	case tar.TypeGNUSparse:
		return fmt.Errorf("member %q is stored sparse: %w", cut(h.Name), formats.ErrUnsupported)
	default:
		return fmt.Errorf("member %q is a link, a device or the like (type %q): %w", cut(h.Name), h.Typeflag, formats.ErrRefused)
	}
	for key := range h.PAXRecords {
		if strings.HasPrefix(key, "GNU.sparse.") {
			return fmt.Errorf("member %q is stored sparse: %w", cut(h.Name), formats.ErrUnsupported)
		}
	}
	if h.Size < 0 || h.Size > a.file.Size-at {
		return fmt.Errorf("member %q of %d bytes at offset %d of a file of %d: %w", cut(h.Name), h.Size, at, a.file.Size, formats.ErrTruncated)
	}
	if _, twice := a.Find(name); twice {
		return fmt.Errorf("member %q is there twice: %w", cut(name), formats.ErrRefused)
	}
	a.Members = append(a.Members, Member{Name: name, Offset: at, Size: h.Size})
	return nil
}

// inside cleans the name of a member, and refuses one that leads out.
func inside(name string) (string, error) {
	clean := path.Clean(name)
	if name == "" || strings.ContainsAny(name, "\\\x00") || path.IsAbs(name) || clean == ".." || strings.HasPrefix(clean, "../") {
		return "", fmt.Errorf("member %q lies outside of the archive: %w", cut(name), formats.ErrRefused)
	}
	return clean, nil
}

// Find finds a member by its name.
func (a *Archive) Find(name string) (Member, bool) {
	for _, m := range a.Members {
		if m.Name == name {
			return m, true
		}
	}
	return Member{}, false
}

// Open gives a member as a file. Its name is that of the archive and its own.
func (a *Archive) Open(m Member) formats.File {
	return formats.File{
		ReaderAt: io.NewSectionReader(a.file, m.Offset, m.Size), Size: m.Size, Name: a.file.Name + "/" + m.Name,
	}
}
