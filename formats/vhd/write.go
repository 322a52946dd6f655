package vhd

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/google/uuid"
)

// Options choose the shape of a disk to write.
type Options struct {
	Variant string // "dynamic" ("" is that) or "fixed"
	// Name goes into the disk's id: the same name and size give the same id.
	Name string
}

// ErrOptions says that a disk cannot be written with these options.
var ErrOptions = errors.New("impossible image options")

const (
	// writtenBlock is the block size that Hyper-V, Virtual PC and QEMU use.
	writtenBlock = 2 << 20
	// maxWritten is the largest disk of Hyper-V, 2040 GiB.
	maxWritten = 2040 << 30
	// fixedUnit is the granularity in which zeroes become holes: the usual block
	// of file systems.
	fixedUnit = 4096
	// dataAlign is where the data of a block begins: on a page.
	dataAlign = 4096
)

// Writer lays out a new disk without parent. Places are given by one goroutine
// at a time, in ascending guest order; the caller writes the bytes there in any
// order. The file depends only on what is placed.
type Writer struct {
	out   io.WriterAt
	size  int64 // bytes, a multiple of sectorSize
	id    uuid.UUID
	table []uint32 // BAT; nil for a fixed disk
	next  int64    // where the next block may begin
	last  int64    // guest offset up to which places were given
}

// NewWriter begins a disk of size bytes in out, which must be empty. A size
// that is not a multiple of 512 is rounded up.
func NewWriter(out io.WriterAt, size int64, opt Options) (*Writer, error) {
	w := &Writer{out: out, size: (size + sectorSize - 1) / sectorSize * sectorSize}
	if size < 0 || w.size > maxWritten {
		return nil, fmt.Errorf("VHD of %d bytes: %w", size, ErrOptions)
	}
	w.id = uuid.NewSHA1(uuid.NameSpaceOID, fmt.Appendf(nil, "hyper2kvm vhd %s %d", opt.Name, w.size))
	switch opt.Variant {
	case "fixed":
	case "", "dynamic":
		w.table = make([]uint32, (w.size+writtenBlock-1)/writtenBlock)
		for i := range w.table {
			w.table[i] = unused
		}
		w.next = sectorSize + headerSize + w.tableBytes()
	default:
		return nil, fmt.Errorf("VHD variant %q: %w", opt.Variant, ErrOptions)
	}
	return w, nil
}

// tableBytes is the room of the BAT, in whole sectors.
func (w *Writer) tableBytes() int64 {
	return (int64(len(w.table))*4 + sectorSize - 1) / sectorSize * sectorSize
}

// Unit is the allocation unit in bytes: places begin at multiples of it.
func (w *Writer) Unit() int64 {
	if w.table == nil {
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
	if w.table == nil {
		w.last = guest + length
		return guest, length, nil
	}
	// The bitmap lies in the sector before the data.
	host = (w.next + sectorSize + dataAlign - 1) / dataAlign * dataAlign
	full := bytes.Repeat([]byte{0xFF}, writtenBlock/sectorSize/8)
	if err := w.write(full, host-sectorSize); err != nil {
		return 0, 0, err
	}
	w.table[guest/writtenBlock] = uint32((host - sectorSize) / sectorSize)
	w.next = host + writtenBlock
	w.last = guest + writtenBlock
	return host, min(length, writtenBlock), nil
}

// Finish writes tables, header and footers and returns the size of the file.
func (w *Writer) Finish() (int64, error) {
	foot := w.footer()
	if w.table == nil {
		return w.size + sectorSize, w.write(foot, w.size)
	}
	bat := bytes.Repeat([]byte{0xFF}, int(w.tableBytes()))
	for i, e := range w.table {
		binary.BigEndian.PutUint32(bat[i*4:], e)
	}
	err := errors.Join(w.write(bat, sectorSize+headerSize), w.write(w.header(), sectorSize),
		w.write(foot, 0), w.write(foot, w.next))
	return w.next + sectorSize, err
}

func (w *Writer) write(b []byte, off int64) error {
	if _, err := w.out.WriteAt(b, off); err != nil {
		return fmt.Errorf("write VHD at offset %d: %w", off, err)
	}
	return nil
}

func (w *Writer) footer() []byte {
	b, be := make([]byte, sectorSize), binary.BigEndian
	copy(b, footerCookie)
	be.PutUint32(b[8:], 2) // a reserved bit that is always set
	be.PutUint32(b[12:], version)
	be.PutUint64(b[16:], 1<<64-1)
	be.PutUint32(b[60:], typeFixed)
	if w.table != nil {
		be.PutUint64(b[16:], sectorSize)
		be.PutUint32(b[60:], typeDynamic)
	}
	// Readers go by the exact size for creators that they know; this is Hyper-V
	// of Windows Server 2012.
	copy(b[28:], "win ")
	be.PutUint32(b[32:], 0x00060002)
	copy(b[36:], "Wi2k")
	be.PutUint64(b[40:], uint64(w.size))
	be.PutUint64(b[48:], uint64(w.size))
	cylinders, heads, sectors := geometry(w.size / sectorSize)
	be.PutUint16(b[56:], uint16(cylinders))
	b[58], b[59] = byte(heads), byte(sectors)
	copy(b[68:], w.id[:])
	be.PutUint32(b[64:], checksum(b, 64))
	return b
}

func (w *Writer) header() []byte {
	b, be := make([]byte, headerSize), binary.BigEndian
	copy(b, dynamicCookie)
	be.PutUint64(b[8:], 1<<64-1)
	be.PutUint64(b[16:], sectorSize+headerSize)
	be.PutUint32(b[24:], version)
	be.PutUint32(b[28:], uint32(len(w.table)))
	be.PutUint32(b[32:], writtenBlock)
	be.PutUint32(b[36:], checksum(b, 36))
	return b
}

// geometry is computed as the appendix "CHS Calculation" says.
func geometry(sectors int64) (cylinders, heads, perTrack int64) {
	sectors = min(sectors, 65535*16*255)
	if sectors >= 65535*16*63 {
		return sectors / 255 / 16, 16, 255
	}
	perTrack = 17
	rest := sectors / perTrack
	heads = max((rest+1023)/1024, 4)
	if rest >= heads*1024 || heads > 16 {
		heads, perTrack = 16, 31
		rest = sectors / perTrack
	}
	if rest >= heads*1024 {
		heads, perTrack = 16, 63
		rest = sectors / perTrack
	}
	return rest / heads, heads, perTrack
}
