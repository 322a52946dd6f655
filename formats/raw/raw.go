// Package raw reads a disk whose bytes lie in a file as the guest sees them:
// a raw image, a block device, or a flat extent within a larger file.
package raw

import (
	"fmt"
	"io"

	"hyper2kvm/formats"
)

// holeFinder is what a file may offer beside ReadAt: where its data is. The
// first run of data at or after off begins at data and ends before hole; both
// are the size of the file when none follows.
type holeFinder interface {
	NextData(off int64) (data, hole int64, err error)
}

// Disk is a run of bytes of a file.
type Disk struct {
	file  formats.File
	start int64 // where the disk begins in the file
	size  int64
	holes holeFinder // nil when the file does not tell
}

// New makes the whole file a disk.
func New(f formats.File) *Disk {
	holes, _ := f.ReaderAt.(holeFinder)
	return &Disk{file: f, size: f.Size, holes: holes}
}

// Section makes the length bytes of f that begin at start a disk. It gives
// formats.ErrTruncated when the file ends before.
func Section(f formats.File, start, length int64) (*Disk, error) {
	if start < 0 || length < 0 || start > f.Size || length > f.Size-start {
		return nil, fmt.Errorf("%s: %d bytes at offset %d of a file of %d bytes: %w",
			f.Name, length, start, f.Size, formats.ErrTruncated)
	}
	d := New(f)
	d.start, d.size = start, length
	return d, nil
}

// Size implements formats.Disk.
func (d *Disk) Size() int64 { return d.size }

// Info implements formats.Image. The sector size of a raw disk is not
// recorded anywhere: it is 512 unless the user knows better.
func (d *Disk) Info() formats.Info {
	return formats.Info{Format: "raw", Size: d.size, Sector: 512}
}

// ReadAt implements formats.Disk.
func (d *Disk) ReadAt(p []byte, off int64) (int, error) {
	if off < 0 {
		return 0, fmt.Errorf("read %s at negative offset %d", d.file.Name, off)
	}
	if off >= d.size {
		return 0, io.EOF
	}
	short := int64(len(p)) > d.size-off
	if short {
		p = p[:d.size-off]
	}
	n, err := d.file.ReadAt(p, d.start+off)
	switch {
	case n == len(p) && short:
		return n, io.EOF
	case n == len(p):
		return n, nil
	case err == io.EOF:
		return n, fmt.Errorf("read %s at %d: the file has become shorter: %w", d.file.Name, d.start+off, formats.ErrTruncated)
	}
	return n, err
}

// Extent implements formats.Disk.
func (d *Disk) Extent(offset, limit int64) (formats.Extent, error) {
	if offset < 0 || offset >= d.size || limit <= 0 {
		return formats.Extent{}, fmt.Errorf("extent of %s at %d, limit %d: outside of %d bytes", d.file.Name, offset, limit, d.size)
	}
	limit = min(limit, d.size-offset)
	e := formats.Extent{Offset: offset, Length: limit, Kind: formats.Data}
	if d.holes != nil {
		at := d.start + offset
		data, hole, err := d.holes.NextData(at)
		if err != nil {
			return formats.Extent{}, err
		}
		if data > at {
			return formats.Extent{Offset: offset, Length: min(limit, data-at), Kind: formats.Zero}, nil
		}
		e.Length = min(limit, max(hole-at, 1))
	}
	e.Plain = &formats.Location{File: d.file.ReaderAt, Offset: d.start + offset}
	return e, nil
}
