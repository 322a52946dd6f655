package vhdx

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"unicode/utf16"

	"github.com/google/uuid"

	"hyper2kvm/formats/guid"
)

// Options choose the shape of a disk to write.
type Options struct {
	Variant string // "dynamic" ("" is that) or "fixed"
	Sector  int64  // logical sector size: 512 (0 is that) or 4096
	// Name goes into the disk's ids: the same name and size give the same ids.
	Name string
}

// ErrOptions says that a disk cannot be written with these options.
var ErrOptions = errors.New("impossible image options")

const (
	// smallBlock is the block size of disks up to maxBlocks blocks of it. The
	// larger the block, the more of the file is room for what is not there yet.
	smallBlock = 2 << 20
	// maxBlocks bounds the BAT: the largest disk, of 64 TiB, gets the blocks of
	// 32 MiB that Hyper-V makes.
	maxBlocks = 2 << 20
	// fixedUnit is the granularity in which zeroes become holes: the usual block
	// of file systems.
	fixedUnit = 4096
	// writtenPhysical is the physical sector size of Hyper-V's disks.
	writtenPhysical = 4096
	// Where things lie is what Windows does, too.
	logAt      = 1 << 20
	logLength  = 1 << 20
	metadataAt = 2 << 20
	batAt      = 3 << 20
)

// Writer lays out a new disk without parent. Places are given by one goroutine
// at a time, in ascending guest order; the caller writes the bytes there in any
// order. The file depends only on what is placed. The BAT is written as the
// places go by: no more than a part of it is in memory.
type Writer struct {
	out    io.WriterAt
	size   int64
	sector int64
	fixed  bool
	name   string

	block, blocks, ratio int64
	used                 int64 // blocks in the file
	last                 int64 // guest offset up to which places were given
	table                []byte
	part                 int64 // the part of the BAT that is in table
	dirty                bool  // and whether it holds something
}

// NewWriter begins a disk of size bytes in out, which must be empty. A size that
// is no multiple of the sector size is rounded up.
func NewWriter(out io.WriterAt, size int64, opt Options) (*Writer, error) {
	w := &Writer{out: out, sector: opt.Sector, name: opt.Name, block: smallBlock, table: make([]byte, 8*batEntries)}
	if w.sector == 0 {
		w.sector = 512
	}
	if w.sector != 512 && w.sector != 4096 {
		return nil, fmt.Errorf("VHDX with sectors of %d bytes: %w", w.sector, ErrOptions)
	}
	w.size = (size + w.sector - 1) / w.sector * w.sector
	if size < 0 || w.size > maxDisk {
		return nil, fmt.Errorf("VHDX of %d bytes: %w", size, ErrOptions)
	}
	switch opt.Variant {
	case "", "dynamic":
	case "fixed":
		w.fixed = true
	default:
		return nil, fmt.Errorf("VHDX variant %q: %w", opt.Variant, ErrOptions)
	}
	for w.block*maxBlocks < w.size {
		w.block *= 2
	}
	w.blocks = (w.size + w.block - 1) / w.block
	w.ratio = sectorsPerMap * w.sector / w.block
	return w, nil
}

// batLength is the room of the BAT. What a child of the disk would have behind
// the last block, its sector bitmap's entry, has its place already.
func (w *Writer) batLength() int64 {
	bytes := (w.blocks + w.ratio - 1) / w.ratio * (w.ratio + 1) * 8
	return max((bytes+sectionSize-1)/sectionSize, 1) * sectionSize
}

// dataAt is where blocks begin.
func (w *Writer) dataAt() int64 { return batAt + w.batLength() }

// Unit is the allocation unit in bytes: places begin at multiples of it.
func (w *Writer) Unit() int64 {
	if w.fixed {
		return fixedUnit
	}
	return w.block
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
	host = w.dataAt() + w.used*w.block
	for placed < length {
		if err := w.set((guest + placed) / w.block); err != nil {
			return 0, 0, err
		}
		placed += min(length-placed, w.block)
	}
	w.last = (guest + placed + w.block - 1) / w.block * w.block
	return host, placed, nil
}

// set gives a payload block the next place. Blocks come in ascending order.
func (w *Writer) set(block int64) error {
	index := blockIndex(block, w.ratio)
	if err := w.goTo(index / batEntries); err != nil {
		return err
	}
	binary.LittleEndian.PutUint64(w.table[index%batEntries*8:], uint64(w.dataAt()+w.used*w.block)|fullyPresent)
	w.dirty = true
	w.used++
	return nil
}

// goTo writes the parts of the BAT before part. One without blocks is zeroes,
// as the file is.
func (w *Writer) goTo(part int64) error {
	if part == w.part {
		return nil
	}
	if w.dirty {
		if err := w.write(w.table, batAt+w.part*int64(len(w.table))); err != nil {
			return err
		}
		clear(w.table)
	}
	w.part, w.dirty = part, false
	return nil
}

// Finish writes the rest of the BAT, the metadata and the headers, and returns
// the size of the file.
func (w *Writer) Finish() (int64, error) {
	if w.fixed {
		for block := range w.blocks {
			if err := w.set(block); err != nil {
				return 0, err
			}
		}
	}
	if err := w.goTo(w.part + 1); err != nil {
		return 0, err
	}
	if err := w.writeMetadata(); err != nil {
		return 0, err
	}
	tables := w.regionTable()
	for _, x := range []struct {
		b  []byte
		at int64
	}{
		{tables, tablesAt()[0]}, {tables, tablesAt()[1]}, {w.header(1), headersAt()[0]}, {w.header(2), headersAt()[1]}, {identifier(), 0},
	} {
		if err := w.write(x.b, x.at); err != nil {
			return 0, err
		}
	}
	return w.dataAt() + w.used*w.block, nil
}

func (w *Writer) write(b []byte, off int64) error {
	if _, err := w.out.WriteAt(b, off); err != nil {
		return fmt.Errorf("write VHDX at offset %d: %w", off, err)
	}
	return nil
}

// id is a GUID of the disk.
func (w *Writer) id(what string) []byte {
	return guid.Bytes(uuid.NewSHA1(uuid.NameSpaceOID, fmt.Appendf(nil, "hyper2kvm vhdx %s %s %d", what, w.name, w.size)))
}

// identifier is the file type identifier, 2.2.1.
func identifier() []byte {
	b := make([]byte, len(signature)+creatorSize)
	copy(b, signature)
	for i, c := range utf16.Encode([]rune("hyper2kvm")) {
		binary.LittleEndian.PutUint16(b[len(signature)+2*i:], c)
	}
	return b
}

func (w *Writer) header(sequence uint64) []byte {
	b, le := make([]byte, headerSize), binary.LittleEndian
	copy(b, "head")
	le.PutUint64(b[8:], sequence)
	copy(b[16:], w.id("file"))
	copy(b[32:], w.id("content"))
	le.PutUint16(b[66:], version1)
	le.PutUint32(b[68:], logLength)
	le.PutUint64(b[72:], logAt)
	sign(b)
	return b
}

func (w *Writer) regionTable() []byte {
	b, le := make([]byte, tableSize), binary.LittleEndian
	copy(b, "regi")
	le.PutUint32(b[8:], 2)
	for i, r := range []region{{id: regionMetadata, at: metadataAt, length: sectionSize}, {id: regionBAT, at: batAt, length: w.batLength()}} {
		e := b[tableHead+i*tableEntry:]
		copy(e, guid.Bytes(uuid.MustParse(r.id)))
		le.PutUint64(e[16:], uint64(r.at))
		le.PutUint32(e[24:], uint32(r.length))
		le.PutUint32(e[28:], 1)
	}
	sign(b)
	return b
}

// writeMetadata writes the metadata region, whose items follow its table.
func (w *Writer) writeMetadata() error {
	le := binary.LittleEndian
	flags := uint32(0)
	if w.fixed {
		flags = leaveAllocated
	}
	items := []struct {
		id    string
		flags uint32
		value []byte
	}{
		{itemFile, isRequired, le.AppendUint32(le.AppendUint32(nil, uint32(w.block)), flags)},
		{itemSize, isRequired | isVirtualDisk, le.AppendUint64(nil, uint64(w.size))},
		{itemLogical, isRequired | isVirtualDisk, le.AppendUint32(nil, uint32(w.sector))},
		{itemPhysical, isRequired | isVirtualDisk, le.AppendUint32(nil, writtenPhysical)},
		{itemDiskID, isRequired | isVirtualDisk, w.id("disk")},
	}
	table, values := make([]byte, metadataTable), []byte(nil)
	copy(table, metadataSignature)
	le.PutUint16(table[10:], uint16(len(items)))
	for i, item := range items {
		e := table[metadataHead+i*tableEntry:]
		copy(e, guid.Bytes(uuid.MustParse(item.id)))
		le.PutUint32(e[16:], uint32(metadataTable+len(values)))
		le.PutUint32(e[20:], uint32(len(item.value)))
		le.PutUint32(e[24:], item.flags)
		values = append(values, item.value...)
	}
	return w.write(append(table, values...), metadataAt)
}
