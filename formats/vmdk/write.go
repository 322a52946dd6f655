package vmdk

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/bits"
)

// Options choose the shape of a disk to write.
type Options struct {
	Variant   string // "monolithicSparse" ("" is that) or "streamOptimized"
	GrainSize int64  // bytes, a power of two from 4 KiB to 1 MiB; 0 is 64 KiB
	// Name is what the descriptor calls the file; "" is "disk.vmdk".
	Name string
}

// ErrOptions says that a disk cannot be written with these options.
var ErrOptions = errors.New("impossible image options")

// Layout of the disks we write, in sectors. The descriptor has the place and
// size that VMware gives it.
const (
	gtesPerTable      = 512
	tableSectors      = gtesPerTable * 4 / sectorSize
	descriptorSector  = 1
	descriptorSectors = 20
	streamOverhead    = 128
	maxSector         = 1<<32 - 1 // a grain table entry has 32 bits
)

// Types of stream markers, section "Markers".
const (
	markerEnd   = 0
	markerTable = 1
	markerDir   = 2
)

// Writer lays out a new disk without parent. Places are given by one goroutine
// at a time, in ascending guest order; the caller writes the bytes there in any
// order. The file depends only on what is placed.
type Writer struct {
	out    io.WriterAt
	name   string
	size   int64 // bytes, a multiple of sectorSize
	grain  int64 // bytes
	stream bool

	gd      []uint32 // sectors of the grain tables
	spare   int64    // sectors from a table to its redundant copy, downwards
	table   [gtesPerTable]uint32
	index   int64 // of the table in memory; -1 before the first
	next    int64 // where the next grain goes, in sectors
	last    int64 // guest offset up to which places were given
	rgd, at int64 // sectors of the redundant and the first directory
	grains  int64 // sector where the grains begin
}

// NewWriter begins a disk of size bytes in out, which must be empty. A size
// that is not a multiple of 512 is rounded up.
func NewWriter(out io.WriterAt, size int64, opt Options) (*Writer, error) {
	if opt.GrainSize == 0 {
		opt.GrainSize = 64 << 10
	}
	switch g := opt.GrainSize; {
	case bits.OnesCount64(uint64(g)) != 1 || g < 4<<10 || g > 1<<20:
		return nil, fmt.Errorf("VMDK grain size %d: %w", g, ErrOptions)
	case size < 0 || size > maxDiskSectors*sectorSize:
		return nil, fmt.Errorf("VMDK of %d bytes: %w", size, ErrOptions)
	}
	w := &Writer{out: out, name: opt.Name, size: (size + sectorSize - 1) &^ (sectorSize - 1), grain: opt.GrainSize, index: -1}
	tables := (w.size + w.grain*gtesPerTable - 1) / (w.grain * gtesPerTable)
	if tables > maxDirectory {
		return nil, fmt.Errorf("VMDK of %d bytes with grains of %d: %w", size, w.grain, ErrOptions)
	}
	w.gd = make([]uint32, tables)
	switch opt.Variant {
	case "", "monolithicSparse":
		return w, w.layOut()
	case "streamOptimized":
		w.stream, w.grains, w.next = true, streamOverhead, streamOverhead
		return w, nil
	}
	return nil, fmt.Errorf("VMDK variant %q: %w", opt.Variant, ErrOptions)
}

// layOut gives the tables of a monolithicSparse disk their places: redundant
// directory and tables, then the first ones, then the grains.
func (w *Writer) layOut() error {
	tables := int64(len(w.gd))
	dir := (tables*4 + sectorSize - 1) / sectorSize
	w.rgd = descriptorSector + descriptorSectors
	w.at = w.rgd + dir + tables*tableSectors
	w.spare = w.at - w.rgd
	end := w.at + dir + tables*tableSectors
	perGrain := w.grain / sectorSize
	w.grains = (end + perGrain - 1) / perGrain * perGrain
	w.next = w.grains
	if w.next > maxSector {
		return fmt.Errorf("VMDK of %d bytes: tables of %d sectors: %w", w.size, end, ErrOptions)
	}
	for i := range w.gd {
		w.gd[i] = uint32(w.at + dir + int64(i)*tableSectors)
	}
	return nil
}

// Unit is the grain size in bytes: places begin at multiples of it.
func (w *Writer) Unit() int64 { return w.grain }

// begin makes sure that the table of guest is the one in memory.
func (w *Writer) begin(guest int64) error {
	if guest%w.grain != 0 || guest < w.last || guest >= w.size {
		return fmt.Errorf("place at guest offset %d after %d of %d", guest, w.last, w.size)
	}
	if t := guest / (w.grain * gtesPerTable); t != w.index {
		if err := w.flushTable(); err != nil {
			return err
		}
		w.index = t
	}
	return nil
}

// take reserves sectors for the grain of guest.
func (w *Writer) take(guest, sectors int64) (int64, error) {
	if w.next+sectors > maxSector {
		return 0, fmt.Errorf("VMDK file of more than 2 TiB: %w", ErrOptions)
	}
	at := w.next
	w.table[guest/w.grain%gtesPerTable] = uint32(at)
	w.next += sectors
	w.last = guest + w.grain
	return at * sectorSize, nil
}

// Place gives room to the grains that begin at guest and cover length bytes.
// placed may be less than length: then Place is called again for the rest.
func (w *Writer) Place(guest, length int64) (host, placed int64, err error) {
	if w.stream {
		return 0, 0, fmt.Errorf("grains of a streamOptimized disk are compressed: %w", ErrOptions)
	}
	if err := w.begin(guest); err != nil {
		return 0, 0, err
	}
	covers := w.grain * gtesPerTable
	length = min(length, covers-guest%covers)
	host = w.next * sectorSize
	for placed < length {
		if _, err := w.take(guest+placed, w.grain/sectorSize); err != nil {
			return 0, 0, err
		}
		placed += w.grain
	}
	return host, min(placed, length), nil
}

// PlacePacked gives room to one grain as Packer made it.
func (w *Writer) PlacePacked(guest int64, size int) (host int64, err error) {
	if err := w.begin(guest); err != nil {
		return 0, err
	}
	return w.take(guest, int64(size)/sectorSize)
}

// flushTable writes the table in memory, in a stream behind its grains.
func (w *Writer) flushTable() error {
	if w.index < 0 {
		return nil
	}
	b := make([]byte, tableSectors*sectorSize)
	for i, e := range w.table {
		binary.LittleEndian.PutUint32(b[i*4:], e)
	}
	w.table = [gtesPerTable]uint32{}
	if w.stream {
		at, err := w.append(markerTable, b)
		w.gd[w.index] = uint32(at)
		return err
	}
	at := int64(w.gd[w.index])
	return errors.Join(w.write(b, at), w.write(b, at-w.spare))
}

func (w *Writer) write(b []byte, sector int64) error {
	if _, err := w.out.WriteAt(b, sector*sectorSize); err != nil {
		return fmt.Errorf("write VMDK at sector %d: %w", sector, err)
	}
	return nil
}

// append writes a marker and what it announces, and returns the latter's
// sector. A footer's marker counts it too; the end marker announces nothing.
func (w *Writer) append(kind uint32, b []byte) (int64, error) {
	sectors := int64(len(b)+sectorSize-1) / sectorSize
	if w.next+1+sectors > maxSector {
		return 0, fmt.Errorf("VMDK file of more than 2 TiB: %w", ErrOptions)
	}
	out := make([]byte, (1+sectors)*sectorSize)
	binary.LittleEndian.PutUint64(out, uint64(sectors))
	binary.LittleEndian.PutUint32(out[12:], kind)
	copy(out[sectorSize:], b)
	at := w.next + 1
	err := w.write(out, w.next)
	w.next = at + sectors
	return at, err
}

// directory gives the grain directory, moved by delta sectors.
func (w *Writer) directory(delta int64) []byte {
	b := make([]byte, (len(w.gd)*4+sectorSize-1)/sectorSize*sectorSize)
	for i, t := range w.gd {
		binary.LittleEndian.PutUint32(b[i*4:], uint32(int64(t)+delta))
	}
	return b
}

// Finish writes what is still in memory and returns the size of the file.
func (w *Writer) Finish() (int64, error) {
	if err := w.flushTable(); err != nil {
		return 0, err
	}
	var err error
	if w.stream {
		err = w.finishStream()
	} else {
		err = errors.Join(w.write(w.directory(0), w.at), w.write(w.directory(-w.spare), w.rgd),
			w.write(w.head(w.at, w.rgd), 0))
	}
	return w.next * sectorSize, err
}

// finishStream ends the stream: directory, footer, end of stream.
func (w *Writer) finishStream() error {
	gd, err := w.append(markerDir, w.directory(0))
	if err != nil {
		return err
	}
	if _, err := w.append(markerFooter, w.header(gd, 0)); err != nil {
		return err
	}
	if _, err := w.append(markerEnd, nil); err != nil {
		return err
	}
	// The header says -1: only the footer knows where the directory is.
	return w.write(w.head(-1, 0), 0)
}

// head gives header and descriptor.
func (w *Writer) head(gd, rgd int64) []byte {
	b := make([]byte, (descriptorSector+descriptorSectors)*sectorSize)
	copy(b, w.header(gd, rgd))
	copy(b[descriptorSector*sectorSize:], w.descriptor())
	return b
}

func (w *Writer) header(gd, rgd int64) []byte {
	b := make([]byte, sectorSize)
	le := binary.LittleEndian
	version, flags := uint32(1), uint32(flagNewLineTest|flagRedundantTable)
	if w.stream {
		version, flags = 3, flagNewLineTest|flagCompressed|flagMarkers
		le.PutUint16(b[77:], deflateGrains)
	}
	le.PutUint32(b[0:], sparseMagic)
	le.PutUint32(b[4:], version)
	le.PutUint32(b[8:], flags)
	le.PutUint64(b[12:], uint64(w.size/sectorSize))
	le.PutUint64(b[20:], uint64(w.grain/sectorSize))
	le.PutUint64(b[28:], descriptorSector)
	le.PutUint64(b[36:], descriptorSectors)
	le.PutUint32(b[44:], gtesPerTable)
	le.PutUint64(b[48:], uint64(rgd))
	le.PutUint64(b[56:], uint64(gd))
	le.PutUint64(b[64:], uint64(w.grains))
	copy(b[73:], "\n \r\n")
	return b
}

// descriptor gives the text. The content id is the one of a disk that was
// never written to since it was made; a random one would make every run differ.
func (w *Writer) descriptor() string {
	variant := "monolithicSparse"
	if w.stream {
		variant = "streamOptimized"
	}
	name := w.name
	for _, c := range name {
		if c < ' ' || c == '"' {
			name = ""
			break
		}
	}
	if name == "" || len(name) > 255 {
		name = "disk.vmdk"
	}
	sectors := w.size / sectorSize
	cylinders, heads, perTrack := geometry(sectors)
	return fmt.Sprintf(`# Disk DescriptorFile
version=1
CID=fffffffe
parentCID=ffffffff
createType="%s"

# Extent description
RW %d SPARSE "%s"

# The Disk Data Base
#DDB

ddb.virtualHWVersion = "4"
ddb.geometry.cylinders = "%d"
ddb.geometry.heads = "%d"
ddb.geometry.sectors = "%d"
ddb.adapterType = "lsilogic"
`, variant, sectors, name, cylinders, heads, perTrack)
}

// geometry is what VMware's SCSI adapters give a disk of that size.
func geometry(sectors int64) (cylinders, heads, perTrack int64) {
	const gib = 1 << 30 / sectorSize
	switch {
	case sectors < gib:
		heads, perTrack = 64, 32
	case sectors < 2*gib:
		heads, perTrack = 128, 32
	default:
		heads, perTrack = 255, 63
	}
	return min(sectors/(heads*perTrack), 65535), heads, perTrack
}
