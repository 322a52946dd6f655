package vmdk

import (
	"encoding/binary"
	"fmt"

	"hyper2kvm/formats"
)

// A seSparse file, the delta of VMFS 6 and of disks above 2 TB, has everything
// in 64 bits: a header that never changes, one that does, and then, each in a
// region of its own, directory, grain tables and grains. Tables and grains are
// numbered within their region.
const (
	seVolatileMagic = 0xcafecafe
	seVersion       = 2<<32 | 1
	seEntry         = 8 // bytes of an entry of directory and tables
	seGrainSectors  = 8
	seTableSectors  = 64
	seHeaderBytes   = sectorSize
)

// Types of an entry, its upper four bits. An entry of zero has nothing: the
// parent answers.
const (
	seTable     = 1 // in a directory: there is a table
	seUnmapped  = 1 // in a table: zero, the guest trimmed it
	seZero      = 2
	seAllocated = 3
)

// seHeader is the constant header. Positions and sizes are in sectors.
type seHeader struct {
	capacity, directory, directorySize, tables, grains, volatile uint64
}

// seLayout is where the regions of a seSparse file lie, in bytes.
type seLayout struct {
	name           string
	tables, grains int64
	count          int64 // grains that the file has room for, the last one maybe in part
}

// isSE reports whether a file that begins with seMagic is a seSparse one.
func isSE(f formats.File) bool {
	var b [8]byte
	return formats.ReadFull(f, b[:], 0) == nil && binary.LittleEndian.Uint64(b[:]) == seMagic
}

// newSE opens a seSparse file.
func newSE(f formats.File, hasParent bool) (*sparse, error) {
	h, err := readSEHeader(f)
	if err != nil {
		return nil, err
	}
	if err := h.checkVolatile(f); err != nil {
		return nil, err
	}
	s := &sparse{
		file: f, size: int64(h.capacity) * sectorSize, grain: seGrainSectors * sectorSize,
		perTable: seTableSectors * sectorSize / seEntry, hasParent: hasParent,
		se: &seLayout{name: f.Name, tables: int64(h.tables) * sectorSize, grains: int64(h.grains) * sectorSize},
	}
	s.se.count = (f.Size - s.se.grains + s.grain - 1) / s.grain
	if err := s.loadSEDirectory(h); err != nil {
		return nil, err
	}
	s.ready()
	s.places = []span{{0, seHeaderBytes, "the header"}, {int64(h.volatile) * sectorSize, int64(h.volatile+1) * sectorSize, "the volatile header"},
		{int64(h.directory) * sectorSize, int64(h.directory)*sectorSize + int64(len(s.gd))*seEntry, "the grain directory"}}
	return s, nil
}

func readSEHeader(f formats.File) (*seHeader, error) {
	var b [seHeaderBytes]byte
	if err := formats.ReadFull(f, b[:], 0); err != nil {
		return nil, fmt.Errorf("seSparse header: %w", err)
	}
	word := func(i int) uint64 { return binary.LittleEndian.Uint64(b[i*8:]) }
	unsupported := func(what string, value uint64) error {
		return fmt.Errorf("%s: seSparse %s %#x: %w", f.Name, what, value, formats.ErrUnsupported)
	}
	switch {
	case word(0) != seMagic:
		return nil, fmt.Errorf("%s is not a seSparse extent: %w", f.Name, formats.ErrCorrupt)
	case word(1) != seVersion:
		return nil, unsupported("version", word(1))
	case word(3) != seGrainSectors:
		return nil, unsupported("grain size in sectors", word(3))
	case word(4) != seTableSectors:
		return nil, unsupported("grain table size in sectors", word(4))
	case word(5) != 0:
		return nil, unsupported("flags", word(5))
	}
	h := &seHeader{
		capacity: word(2), volatile: word(10), directory: word(16), directorySize: word(17), tables: word(18), grains: word(24),
	}
	if h.capacity > maxDiskSectors {
		return nil, fmt.Errorf("%s: capacity in sectors %d: %w", f.Name, h.capacity, formats.ErrCorrupt)
	}
	for _, at := range []uint64{h.volatile, h.directory, h.tables, h.grains} {
		// Regions without content may lie past the end of the file.
		if at == 0 || at > maxDiskSectors {
			return nil, fmt.Errorf("%s: seSparse region at sector %d: %w", f.Name, at, formats.ErrCorrupt)
		}
	}
	return h, nil
}

// checkVolatile refuses a file whose tables are not the last word.
func (h *seHeader) checkVolatile(f formats.File) error {
	var b [seHeaderBytes]byte
	if err := formats.ReadFull(f, b[:], int64(h.volatile)*sectorSize); err != nil {
		return fmt.Errorf("seSparse volatile header: %w", err)
	}
	if magic := binary.LittleEndian.Uint64(b[0:]); magic != seVolatileMagic {
		return fmt.Errorf("%s: seSparse volatile header begins with %#x: %w", f.Name, magic, formats.ErrCorrupt)
	}
	if binary.LittleEndian.Uint64(b[24:]) != 0 {
		return fmt.Errorf("%s: the journal holds changes that were not carried out, its machine was not stopped cleanly: %w",
			f.Name, formats.ErrUnsupported)
	}
	return nil
}

// loadSEDirectory reads the directory, and keeps of each entry the number of
// its table, counted from one.
func (s *sparse) loadSEDirectory(h *seHeader) error {
	covers := s.grain * s.perTable
	entries := s.size / covers
	if s.size%covers != 0 {
		entries++
	}
	if at := int64(h.directory) * sectorSize; entries*seEntry > s.file.Size-at {
		return fmt.Errorf("%s: grain directory of %d entries at offset %d of a file of %d bytes: %w",
			s.file.Name, entries, at, s.file.Size, formats.ErrTruncated)
	}
	if entries > maxDirectory || uint64(entries) > h.directorySize*(sectorSize/seEntry) {
		return fmt.Errorf("%s: grain directory of %d sectors for %d bytes: %w", s.file.Name, h.directorySize, s.size, formats.ErrCorrupt)
	}
	s.gd = make([]uint32, entries)
	const chunk = 1 << 20
	b := make([]byte, min(entries*seEntry, chunk))
	for i := range s.gd {
		in := i * seEntry % chunk
		if in == 0 {
			b = b[:min(chunk, (len(s.gd)-i)*seEntry)]
			if err := formats.ReadFull(s.file, b, int64(h.directory)*sectorSize+int64(i)*seEntry); err != nil {
				return fmt.Errorf("grain directory: %w", err)
			}
		}
		e := binary.LittleEndian.Uint64(b[in:])
		number := e &^ (0xf << 60)
		switch {
		case e == 0:
		case e>>60 == seTable && number < 1<<32-1:
			s.gd[i] = uint32(number) + 1
		default:
			return fmt.Errorf("%s: entry %d of the grain directory is %#x: %w", s.file.Name, i, e, formats.ErrCorrupt)
		}
	}
	return s.checkDirectory(s.gd)
}

// decodeTable puts the places of the grains of table i, which b holds, into gt.
func (l *seLayout) decodeTable(gt []int64, b []byte, i int64) error {
	for j := range gt {
		e := binary.LittleEndian.Uint64(b[j*seEntry:])
		switch kind := e >> 60; {
		case e == 0:
		case kind == seUnmapped, kind == seZero:
			gt[j] = zeroed
		case kind == seAllocated:
			// The number of the grain: its lowest 12 bits stand in front of the others.
			number := e>>48&0xfff | e&(1<<48-1)<<12
			if number >= uint64(max(l.count, 0)) {
				return fmt.Errorf("%s: entry %d of grain table %d: grain %d of %d: %w", l.name, j, i, number, l.count, formats.ErrTruncated)
			}
			gt[j] = l.grains + int64(number)*seGrainSectors*sectorSize
		default:
			return fmt.Errorf("%s: entry %d of grain table %d is %#x: %w", l.name, j, i, e, formats.ErrCorrupt)
		}
	}
	return nil
}
