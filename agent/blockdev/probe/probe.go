// Package probe tells what a block device holds by its bytes alone, in the
// words of blkid(8): TYPE, UUID, LABEL.
//
// Each format's layout is cited at its reader. Nothing is written, no more than
// a few hundred KiB are read, and no length in the data is trusted.
package probe

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"strings"
	"unicode/utf16"

	"hyper2kvm/fixes/guest"
)

// Content is what a device holds. Type is "" for what is not known.
type Content struct {
	Type    string // blkid's TYPE: "ext4", "swsuspend", "LVM2_member"
	UUID    string
	Label   string
	Version string
	// Note names a state that forbids or discourages writing, one of the
	// constants below.
	Note string
	// LUKS is what a LUKS header says of what opens it.
	LUKS *guest.LUKS
}

// The notes.
const (
	Hibernated  = "hibernated"           // a swap area that holds a suspended system
	Dirty       = "dirty"                // NTFS that was not unmounted
	HasErrors   = "errors"               // ext file system that found itself damaged
	NeedsReplay = "needs journal replay" // ext, XFS or btrfs that was not unmounted
)

// prober recognises one format; it gives false for anything else.
type prober func(*source) (Content, bool)

// Probe looks at a device of size bytes. What cannot be read is an error; what
// is not recognised is a Content without Type.
func Probe(r io.ReaderAt, size int64) (Content, error) {
	s := &source{r: r, size: size}
	for _, p := range probers() {
		c, ok := p(s)
		if s.err != nil {
			return Content{}, fmt.Errorf("probe content: %w", s.err)
		}
		if ok {
			return c, nil
		}
	}
	return Content{}, nil
}

// probers lists all formats; the order decides where two signatures are found.
// Members of arrays and volumes come first: what they hold may show through.
func probers() []prober {
	return []prober{
		raidMember, lvmMember, swapArea, luks, bitlocker,
		xfs, ext, vfat, ntfs, btrfs, exfat,
		udf, iso9660, squashfs, bcache, zfs, fixed,
	}
}

// headSize is read at once: it holds the signatures of nearly all formats, the
// last being btrfs's at 64 KiB.
const headSize = 72 << 10

// source gives bytes of the device. The first error that is not the end of the
// device is kept.
type source struct {
	r    io.ReaderAt
	size int64
	head []byte
	err  error
}

// at returns n bytes at off, or nil if the device does not have them.
func (s *source) at(off, n int64) []byte {
	if s.err != nil || off < 0 || n <= 0 || off > s.size || n > s.size-off {
		return nil
	}
	if s.head == nil {
		s.head = s.read(0, min(headSize, s.size))
	}
	if off+n <= int64(len(s.head)) {
		return s.head[off : off+n]
	}
	return s.read(off, n)
}

func (s *source) read(off, n int64) []byte {
	buf := make([]byte, n)
	got, err := s.r.ReadAt(buf, off)
	if int64(got) < n {
		if !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
			s.err = err
		}
		return nil
	}
	return buf
}

func (s *source) has(off int64, magic string) bool {
	return bytes.Equal(s.at(off, int64(len(magic))), []byte(magic))
}

func le16(b []byte) int64 { return int64(binary.LittleEndian.Uint16(b)) }
func le32(b []byte) int64 { return int64(binary.LittleEndian.Uint32(b)) }

// le64 is at most the greatest int64, so that sums of offsets stay checkable.
func le64(b []byte) int64 { return int64(binary.LittleEndian.Uint64(b) &^ (1 << 63)) }

func zero(b []byte) bool { return len(bytes.Trim(b, "\x00")) == 0 }

// uuid prints 16 bytes in order (RFC 9562), "" if they are all zero.
func uuid(b []byte) string {
	if zero(b) {
		return ""
	}
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:16])
}

// text is a label: up to the first zero byte, blanks at the end cut off.
func text(b []byte) string {
	b, _, _ = bytes.Cut(b, []byte{0})
	return strings.TrimRight(string(b), " \t\n\r")
}

func utf16Text(b []byte, order binary.ByteOrder) string {
	var units []uint16
	for ; len(b) >= 2; b = b[2:] {
		u := order.Uint16(b)
		if u == 0 {
			break
		}
		units = append(units, u)
	}
	return strings.TrimRight(string(utf16.Decode(units)), " ")
}

func powerOfTwo(n, low, high int64) bool { return n >= low && n <= high && n&(n-1) == 0 }
