// Package cpio reads and writes initramfs archives as the Linux kernel does.
//
// An initramfs is one or more cpio archives in the "newc" form, one after the
// other, each plain or compressed, with zero bytes between them; a later member
// replaces an earlier one of the same name. The rules are those of the kernel:
// Documentation/driver-api/early-userspace/buffer-format.rst and
// init/initramfs.c.
package cpio

import (
	"fmt"
	"io"
	"path"
	"strconv"

	"hyper2kvm/formats"
)

// The type bits of Header.Mode (POSIX, pax "cpio Interchange Format").
const (
	TypeMask = 0o170000
	TypeFile = 0o100000
	TypeDir  = 0o040000
	TypeLink = 0o120000
)

const (
	headerSize = 110 // of a newc header: magic and 13 fields of 8 hex digits
	maxName    = 4096
	trailer    = "TRAILER!!!"
)

// Header describes a member.
type Header struct {
	// Name has no leading slash and no ".": "usr/lib/modules".
	Name     string
	Ino      uint32
	Mode     uint32 // type and permission bits
	UID, GID uint32
	NLink    uint32
	MTime    uint32 // seconds since 1970
	Size     int64  // bytes of content; of a link, its target is the content
}

// IsDir reports whether the member is a folder.
func (h *Header) IsDir() bool { return h.Mode&TypeMask == TypeDir }

// IsFile reports whether the member is a regular file.
func (h *Header) IsFile() bool { return h.Mode&TypeMask == TypeFile }

// IsLink reports whether the member is a symbolic link.
func (h *Header) IsLink() bool { return h.Mode&TypeMask == TypeLink }

// Segment is one part of an initramfs.
type Segment struct {
	Offset      int64  // in the file, bytes
	Compression string // "none", "gzip", "xz", "zstd", "lz4", "bzip2", "lzma", "lzo", LZ4Frame
}

// Limits bound what a hostile archive can cost. Zero values take the defaults.
type Limits struct {
	Unpacked int64 // bytes that all segments may unpack to; 4 GiB
	Members  int   // 1 Mi
}

// Reader reads the members of all segments of an initramfs in order.
type Reader struct {
	file     *stream // the file itself
	inner    *stream // what a compressed segment unpacks to, nil between segments
	close    func()
	limits   Limits
	members  int
	segments []Segment
	at       *stream // where the current member lies, nil between archives
	left     int64   // bytes of the current member not read yet
}

// NewReader reads an initramfs from r.
func NewReader(r io.Reader, limits Limits) *Reader {
	if limits.Unpacked == 0 {
		limits.Unpacked = 4 << 30
	}
	if limits.Members == 0 {
		limits.Members = 1 << 20
	}
	return &Reader{file: newStream(r), limits: limits, close: func() {}}
}

// Segments returns the segments met so far.
func (r *Reader) Segments() []Segment { return r.segments }

// Size returns how many bytes of the file have been read.
func (r *Reader) Size() int64 { return r.file.pos }

// Close lets go of a decompressor in use.
func (r *Reader) Close() {
	r.close()
	r.close = func() {}
}

// Next goes to the next member. At the end of the file it returns io.EOF.
func (r *Reader) Next() (*Header, error) {
	for {
		if r.at == nil {
			if err := r.nextArchive(); err != nil {
				return nil, err
			}
			continue
		}
		if err := r.skipRest(); err != nil {
			return nil, err
		}
		h, err := readHeader(r.at)
		if err != nil {
			return nil, r.fail(err)
		}
		if h.Name == trailer {
			r.at = nil
			continue
		}
		if r.members++; r.members > r.limits.Members {
			return nil, r.fail(fmt.Errorf("%w: more than %d members", formats.ErrUnsupported, r.limits.Members))
		}
		h.Name = clean(h.Name)
		r.left = h.Size
		return h, nil
	}
}

func clean(name string) string {
	if name = path.Clean("/" + name)[1:]; name == "" {
		return "."
	}
	return name
}

// Read reads the content of the current member.
func (r *Reader) Read(p []byte) (int, error) {
	if r.left == 0 || r.at == nil {
		return 0, io.EOF
	}
	n, err := r.at.Read(p[:min(int64(len(p)), r.left)])
	r.left -= int64(n)
	if err != nil && r.left > 0 {
		return n, r.fail(truncated(err))
	}
	return n, nil
}

func (r *Reader) skipRest() error {
	if err := r.at.discard(r.left); err != nil {
		return r.fail(err)
	}
	r.left = 0
	if err := r.at.align(); err != nil {
		return r.fail(err)
	}
	return nil
}

func (r *Reader) fail(err error) error {
	return fmt.Errorf("read cpio near byte %d: %w", r.file.pos, err)
}

// nextArchive goes to the start of the next archive: in the segment that is
// being unpacked, or else of the next segment.
func (r *Reader) nextArchive() error {
	at := r.inner
	if at == nil {
		at = r.file
	}
	magic, err := at.skipZeros()
	if err == io.EOF && r.inner != nil {
		r.Close()
		r.inner = nil
		return nil
	}
	if err == io.EOF {
		return err
	}
	if err != nil {
		return r.fail(err)
	}
	if magic[0] == '0' {
		if at.pos%4 != 0 {
			return r.fail(fmt.Errorf("%w: an archive begins at %d, not at a multiple of 4", formats.ErrCorrupt, at.pos))
		}
		if r.inner == nil {
			r.segments = append(r.segments, Segment{at.pos, "none"})
		}
		r.at = at
		return nil
	}
	if r.inner != nil {
		return r.fail(fmt.Errorf("%w: bytes after the archive in a compressed segment", formats.ErrCorrupt))
	}
	return r.open(magic)
}

// open begins to unpack a compressed segment.
func (r *Reader) open(magic []byte) error {
	start := r.file.pos
	name, unpack := detect(magic)
	if unpack == nil {
		if len(r.segments) == 0 {
			return r.fail(formats.ErrFormat)
		}
		return r.fail(fmt.Errorf("%w: neither an archive nor a known compression", formats.ErrCorrupt))
	}
	unpacked, done, err := unpack(r.file)
	if err != nil {
		return r.fail(fmt.Errorf("%w: %s: %w", formats.ErrCorrupt, name, err))
	}
	r.segments = append(r.segments, Segment{start, name})
	r.inner = newStream(&limited{r: unpacked, left: &r.limits.Unpacked})
	r.close = done
	return nil
}

var errTooLarge = fmt.Errorf("%w: unpacks to more than is allowed", formats.ErrUnsupported)

// limited counts down what all segments together may unpack to.
type limited struct {
	r    io.Reader
	left *int64
}

func (l *limited) Read(p []byte) (int, error) {
	n, err := l.r.Read(p)
	if *l.left -= int64(n); *l.left < 0 {
		return 0, errTooLarge
	}
	if err != nil && err != io.EOF {
		err = fmt.Errorf("%w: %w", formats.ErrCorrupt, err)
	}
	return n, err
}

// readHeader reads a header and the name after it.
func readHeader(s *stream) (*Header, error) {
	var raw [headerSize]byte
	if _, err := io.ReadFull(s, raw[:]); err != nil {
		return nil, truncated(err)
	}
	if magic := string(raw[:6]); magic != "070701" && magic != "070702" {
		return nil, fmt.Errorf("%w: %q is no header of a member", formats.ErrCorrupt, magic)
	}
	var field [13]uint32
	for i := range field {
		v, err := strconv.ParseUint(string(raw[6+8*i:14+8*i]), 16, 32)
		if err != nil {
			return nil, fmt.Errorf("%w: field %d of a header: %w", formats.ErrCorrupt, i, err)
		}
		field[i] = uint32(v)
	}
	h := &Header{
		Ino: field[0], Mode: field[1], UID: field[2], GID: field[3], NLink: field[4],
		MTime: field[5], Size: int64(field[6]),
	}
	length := field[11]
	if length < 1 || length > maxName {
		return nil, fmt.Errorf("%w: a name of %d bytes", formats.ErrCorrupt, length)
	}
	name := make([]byte, length)
	if _, err := io.ReadFull(s, name); err != nil {
		return nil, truncated(err)
	}
	if name[length-1] != 0 {
		return nil, fmt.Errorf("%w: a name without end", formats.ErrCorrupt)
	}
	for i, c := range name {
		if c == 0 {
			h.Name = string(name[:i])
			break
		}
	}
	return h, s.align()
}

// ReadAll returns the content of the current member, at most limit bytes of it.
func (r *Reader) ReadAll(limit int64) ([]byte, error) {
	if r.left > limit {
		return nil, r.fail(fmt.Errorf("%w: a member of %d bytes where at most %d are expected", formats.ErrUnsupported, r.left, limit))
	}
	return io.ReadAll(r)
}
