// Package detect finds out which format a disk image has, and opens it.
//
// Formats are asked in a fixed order, those with a signature first. Bytes
// without any signature are a raw disk only when they show it: by a partition
// table, a file system or a volume signature, or by being called a disk (.raw,
// .img, .dd, .bin, -flat.vmdk) with a size in whole sectors and no sign of
// being something else. So a text file or an archive is refused rather than
// turned into a disk that boots nothing.
package detect

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"hyper2kvm/formats"
	"hyper2kvm/formats/qcow2"
	"hyper2kvm/formats/raw"
	"hyper2kvm/formats/vdi"
	"hyper2kvm/formats/vhd"
	"hyper2kvm/formats/vhdx"
	"hyper2kvm/formats/vmdk"
)

// ErrEmpty says that the file has no bytes at all. It is a formats.ErrFormat.
var ErrEmpty = fmt.Errorf("empty file: %w", formats.ErrFormat)

// Format is a format that is read.
type Format struct {
	Name string
	Open func(f formats.File, open formats.Opener) (formats.Image, error)
}

// Formats lists what is read, in the order in which it is tried.
func Formats() []Format {
	return []Format{
		{"qcow2", openAs(qcow2.Open)},
		{"vmdk", openAs(vmdk.Open)},
		{"vdi", openAs(vdi.Open)},
		{"vhdx", openAs(vhdx.Open)},
		{"vhd", openAs(vhd.Open)},
		{"raw", openRaw},
	}
}

// openAs keeps a nil pointer of a parser from becoming an Image that is not nil.
func openAs[T formats.Image](open func(formats.File, formats.Opener) (T, error)) func(formats.File, formats.Opener) (formats.Image, error) {
	return func(f formats.File, o formats.Opener) (formats.Image, error) {
		img, err := open(f, o)
		if err != nil {
			return nil, err
		}
		return img, nil
	}
}

func openRaw(f formats.File, _ formats.Opener) (formats.Image, error) {
	if f.Size == 0 {
		return nil, fmt.Errorf("%s: %w", f.Name, ErrEmpty)
	}
	return raw.New(f), nil
}

// Open detects the format of f and opens it. What is no disk image gives
// formats.ErrFormat (ErrEmpty is one); an image of a format that is known but
// not read gives formats.ErrUnsupported.
func Open(f formats.File, open formats.Opener) (formats.Image, error) {
	if f.Size == 0 {
		return nil, fmt.Errorf("%s: %w", f.Name, ErrEmpty)
	}
	for _, format := range Formats() {
		if format.Name == "raw" {
			continue
		}
		img, err := format.Open(f, open)
		if !errors.Is(err, formats.ErrFormat) {
			return img, err
		}
	}
	h, err := readSample(f)
	if err != nil {
		return nil, err
	}
	if name := h.match(unread()); name != "" {
		return nil, fmt.Errorf("%s is a %s image: %w", f.Name, name, formats.ErrUnsupported)
	}
	// Before the disks: two bytes of a boot signature turn up anywhere.
	if name := h.match(others()); name != "" {
		return nil, fmt.Errorf("%s is a %s, not a disk image: %w", f.Name, name, formats.ErrFormat)
	}
	if calledPart(f.Name) {
		return nil, fmt.Errorf("%s is called like an extent of a split VMDK: %w", f.Name, formats.ErrPart)
	}
	if h.match(disks()) != "" || h.calledDisk(f) {
		return openRaw(f, open)
	}
	return nil, fmt.Errorf("%s is not a disk image that is known: %w", f.Name, formats.ErrFormat)
}

// OpenAs opens f as the named format, "raw" for bytes of any kind; "" detects.
func OpenAs(format string, f formats.File, open formats.Opener) (formats.Image, error) {
	if format == "" {
		return Open(f, open)
	}
	list := Formats()
	i := slices.IndexFunc(list, func(x Format) bool { return x.Name == format })
	if i < 0 {
		return nil, fmt.Errorf("format %q: %w", format, formats.ErrUnsupported)
	}
	return list[i].Open(f, open)
}

// sample is what signatures are looked for in: the begin of the file, and its
// last sector.
type sample struct {
	head, tail []byte
}

// headBytes reaches past the btrfs superblock at 64 KiB.
const headBytes = 68 << 10

func readSample(f formats.File) (sample, error) {
	s := sample{head: make([]byte, min(f.Size, headBytes)), tail: make([]byte, min(f.Size, 512))}
	for _, part := range []struct {
		p   []byte
		off int64
	}{{s.head, 0}, {s.tail, f.Size - int64(len(s.tail))}} {
		if n, err := f.ReadAt(part.p, part.off); n < len(part.p) {
			if err == nil || errors.Is(err, io.EOF) {
				err = formats.ErrTruncated
			}
			return s, fmt.Errorf("read %s at %d: %w", f.Name, part.off, err)
		}
	}
	return s, nil
}

// match names the first signature that the sample has, "" for none.
func (s sample) match(list []signature) string {
	for _, sig := range list {
		b := s.head
		if sig.tail {
			b = s.tail
		}
		if len(b) >= sig.offset+len(sig.bytes) && string(b[sig.offset:sig.offset+len(sig.bytes)]) == sig.bytes {
			return sig.name
		}
	}
	return ""
}

// calledPart reports whether a file is called as VMware calls the flat extents
// of a disk in 2 GB pieces, disk-f001.vmdk: the first has a boot sector and a
// partition table, and the rest of the disk is missing from it.
func calledPart(name string) bool {
	stem, ok := strings.CutSuffix(strings.ToLower(name), ".vmdk")
	number := strings.TrimRight(stem, "0123456789")
	return ok && len(stem)-len(number) >= 3 && strings.HasSuffix(number, "-f")
}

// calledDisk reports whether a file without signature is to be believed its
// name.
func (s sample) calledDisk(f formats.File) bool {
	if f.Size%512 != 0 || isText(s.head) {
		return false
	}
	name := strings.ToLower(f.Name)
	return slices.ContainsFunc([]string{".raw", ".img", ".dd", ".bin", "-flat.vmdk"}, func(ext string) bool {
		return strings.HasSuffix(name, ext)
	})
}

// isText reports whether the bytes are printable, as no disk's first sectors are.
func isText(b []byte) bool {
	return !slices.ContainsFunc(b, func(c byte) bool { return c < ' ' && c != '\n' && c != '\r' && c != '\t' && c != '\f' })
}
