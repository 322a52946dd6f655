package vdi

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/google/uuid"

	"hyper2kvm/formats/guid"
)

// Options choose the shape of a disk to write.
type Options struct {
	Variant string // "dynamic" ("" is that) or "fixed"
	// Name goes into the disk's ids: the same name and size give the same ids.
	Name string
}

// ErrOptions says that a disk cannot be written with these options.
var ErrOptions = errors.New("impossible image options")

const (
	// writtenBlock is the block size of VirtualBox, and the only one that QEMU
	// reads.
	writtenBlock = 1 << 20
	// maxWritten is what QEMU reads at most (VDI_BLOCKS_IN_IMAGE_MAX blocks). The
	// offset of the first block has 32 bits, which leaves room for its map.
	maxWritten = 0x1fffffff * writtenBlock
	// fixedUnit is the granularity in which zeroes become holes: the usual block
	// of file systems.
	fixedUnit = 4096
	mapAt     = 512
)

// Writer lays out a new disk without parent. Places are given by one goroutine
// at a time, in ascending guest order; the caller writes the bytes there in any
// order. The file depends only on what is placed. The map is written as the
// places go by: no more than a part of it is in memory.
type Writer struct {
	out    io.WriterAt
	size   int64
	fixed  bool
	name   string
	blocks int64
	used   int64 // blocks in the file
	last   int64 // guest offset up to which places were given
	table  []byte
	part   int64 // the part of the map that is in table
}

// NewWriter begins a disk of size bytes in out, which must be empty. A size that
// is not a multiple of 512 is rounded up.
func NewWriter(out io.WriterAt, size int64, opt Options) (*Writer, error) {
	w := &Writer{out: out, size: (size + sectorSize - 1) / sectorSize * sectorSize, name: opt.Name}
	if size < 0 || w.size > maxWritten {
		return nil, fmt.Errorf("VDI of %d bytes: %w", size, ErrOptions)
	}
	switch opt.Variant {
	case "", "dynamic":
	case "fixed":
		w.fixed = true
	default:
		return nil, fmt.Errorf("VDI variant %q: %w", opt.Variant, ErrOptions)
	}
	w.blocks = (w.size + writtenBlock - 1) / writtenBlock
	w.table = make([]byte, 4*tableEntries)
	w.clearTable()
	return w, nil
}

// dataAt is where blocks begin, on a block's boundary.
func (w *Writer) dataAt() int64 {
	return (mapAt + w.blocks*4 + writtenBlock - 1) / writtenBlock * writtenBlock
}

func (w *Writer) clearTable() {
	for i := range w.table {
		w.table[i] = 0xFF
	}
}

// Unit is the allocation unit in bytes: places begin at multiples of it.
func (w *Writer) Unit() int64 {
	if w.fixed {
		return fixedUnit
	}
	return writtenBlock
}

// Place gives room to length bytes that begin at guest. placed may be less than
// length: then Place is called again for the rest.
func (w *Writer) Place(guest, length int64) (host, placed int64, err error) {
	if guest%w.Unit() != 0 || guest < w.last || length <= 0 || guest+length > w.size {
		return 0, 0, fmt.Errorf("place %d bytes at guest offset %d after %d of %d", length, guest, w.last, w.size)
	}
	if w.fixed {
		w.last = guest + length
		return w.dataAt() + guest, length, nil
	}
	host = w.dataAt() + w.used*writtenBlock
	for placed < length {
		if err := w.set(guest/writtenBlock+placed/writtenBlock, uint32(w.used)); err != nil {
			return 0, 0, err
		}
		w.used++
		placed += min(length-placed, writtenBlock)
	}
	w.last = (guest + placed + writtenBlock - 1) / writtenBlock * writtenBlock
	return host, placed, nil
}

// set notes an entry of the map. Entries come in ascending order.
func (w *Writer) set(block int64, entry uint32) error {
	if err := w.goTo(block / tableEntries); err != nil {
		return err
	}
	binary.LittleEndian.PutUint32(w.table[block%tableEntries*4:], entry)
	return nil
}

// goTo writes the parts of the map before part.
func (w *Writer) goTo(part int64) error {
	for ; w.part < part; w.part++ {
		n := min(tableEntries, w.blocks-w.part*tableEntries) * 4
		if err := w.write(w.table[:n], mapAt+w.part*tableEntries*4); err != nil {
			return err
		}
		w.clearTable()
	}
	return nil
}

// Finish writes the rest of the map and the header, and returns the size of the
// file.
func (w *Writer) Finish() (int64, error) {
	if w.fixed {
		for ; w.used < w.blocks; w.used++ {
			if err := w.set(w.used, uint32(w.used)); err != nil {
				return 0, err
			}
		}
	}
	if err := w.goTo((w.blocks + tableEntries - 1) / tableEntries); err != nil {
		return 0, err
	}
	return w.dataAt() + w.used*writtenBlock, w.write(w.header(), 0)
}

func (w *Writer) write(b []byte, off int64) error {
	if _, err := w.out.WriteAt(b, off); err != nil {
		return fmt.Errorf("write VDI at offset %d: %w", off, err)
	}
	return nil
}

func (w *Writer) header() []byte {
	b, le := make([]byte, headerEnd), binary.LittleEndian
	copy(b, "<<< hyper2kvm VDI disk image >>>\n")
	le.PutUint32(b[signatureAt:], signature)
	le.PutUint32(b[68:], version1)
	le.PutUint32(b[72:], plusSize)
	le.PutUint32(b[76:], uint32(kindDynamic))
	if w.fixed {
		le.PutUint32(b[76:], uint32(kindFixed))
	}
	le.PutUint32(b[340:], mapAt)
	le.PutUint32(b[344:], uint32(w.dataAt()))
	// VirtualBox finds a geometry itself where there is none.
	le.PutUint32(b[360:], sectorSize)
	le.PutUint64(b[368:], uint64(w.size))
	le.PutUint32(b[376:], writtenBlock)
	le.PutUint32(b[384:], uint32(w.blocks))
	le.PutUint32(b[388:], uint32(w.used))
	for at, what := range map[int]string{392: "image", 408: "content"} {
		id := uuid.NewSHA1(uuid.NameSpaceOID, fmt.Appendf(nil, "hyper2kvm vdi %s %s %d", what, w.name, w.size))
		copy(b[at:], guid.Bytes(id))
	}
	le.PutUint32(b[468:], sectorSize) // of the other geometry
	return b
}
