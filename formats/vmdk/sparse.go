package vmdk

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"sync"
	"sync/atomic"

	"hyper2kvm/formats"
	"hyper2kvm/formats/blockcache"
)

// Bounds of what an opened sparse file keeps in memory.
const (
	cachedTables = 512     // grain tables: 2 MiB with 512 entries each
	cachedGrains = 4 << 20 // bytes of decompressed grains
	tablesPerRun = 4096    // tables that one call of Extent looks at
)

// sparse is a sparse file: grains behind a directory of grain tables.
type sparse struct {
	file      formats.File
	size      int64 // bytes the guest sees
	grain     int64 // bytes
	perTable  int64 // grains per grain table
	gd        []uint32
	spareAt   uint64    // sector of the redundant directory, 0 for none
	damaged   string    // what is wrong with the first directory, where the other is used
	places    []span    // of headers and directories
	se        *seLayout // nil where an entry is the number of a sector
	hasParent bool
	markers   bool
	tables    *blockcache.Cache[[]int64] // by index in gd, places as decode takes them; nil for a table without entries
	holes     holeFinder                 // nil when the file does not tell
	hole      atomic.Pointer[[2]int64]   // the hole that was found last, in bytes
	grains    *blockcache.Cache[[]byte]  // by grain index; nil when not compressed
	inflaters sync.Pool
	ahead     sync.Pool // of *[]byte
	warnings  []string
}

// holeFinder is what a file may offer beside ReadAt: the first run of data at
// or after off begins at data and ends before hole. Tables of a disk that is
// nearly empty lie in holes: they need not be read.
type holeFinder interface {
	NextData(off int64) (data, hole int64, err error)
}

// grainAt says where a grain is.
type grainAt struct {
	kind formats.Kind
	off  int64 // bytes into the file, for Data
}

func newSparse(f formats.File, h *sparseHeader, hasParent bool) (*sparse, error) {
	if err := h.check(f); err != nil {
		return nil, err
	}
	s := &sparse{
		file: f, size: int64(h.capacity) * sectorSize, grain: int64(h.grainSize) * sectorSize,
		perTable: int64(h.gtesPerTable), hasParent: hasParent,
		markers: h.flags&flagMarkers != 0,
	}
	if err := s.loadDirectory(h); err != nil {
		return nil, err
	}
	s.ready()
	if h.compressed() {
		s.grains = blockcache.New(max(1, cachedGrains/int(s.grain)), s.loadGrain)
	}
	return s, nil
}

// ready makes what finds and keeps the tables.
func (s *sparse) ready() {
	s.holes, _ = s.file.ReaderAt.(holeFinder)
	s.tables = blockcache.New(max(1, cachedTables*512/int(s.perTable)), s.loadTable)
}

// tableBytes is the size of a grain table.
func (s *sparse) tableBytes() int64 {
	if s.se != nil {
		return s.perTable * seEntry
	}
	return s.perTable * 4
}

// tableAt is where the grain table lies that the directory has as entry.
func (s *sparse) tableAt(entry uint32) int64 {
	if s.se != nil {
		return s.se.tables + int64(entry-1)*s.tableBytes()
	}
	return int64(entry) * sectorSize
}

// loadDirectory reads the grain directory, or the redundant one when the
// first leads out of the file.
func (s *sparse) loadDirectory(h *sparseHeader) error {
	read := func(sector uint64) ([]uint32, error) {
		gd, err := s.readDirectory(sector)
		if err == nil {
			err = s.checkDirectory(gd)
		}
		return gd, err
	}
	gd, err := read(h.gdOffset)
	if h.flags&flagRedundantTable != 0 {
		s.spareAt = h.rgdOffset
	}
	if err != nil && s.spareAt != 0 {
		spare, err2 := read(s.spareAt)
		if err2 == nil {
			s.damaged = "the grain directory is damaged; the redundant one is used: " + err.Error()
			s.warnings = append(s.warnings, s.damaged)
			gd, err = spare, nil
		}
	}
	s.gd = gd
	s.places = h.places(s.file.Size, int64(len(gd))*4)
	return err
}

func (s *sparse) readDirectory(sector uint64) ([]uint32, error) {
	perTable := s.grain * s.perTable
	entries := s.size / perTable
	if s.size%perTable != 0 {
		entries++
	}
	if entries > maxDirectory {
		return nil, fmt.Errorf("%s: grain directory of %d entries: %w", s.file.Name, entries, formats.ErrUnsupported)
	}
	if sector > uint64(s.file.Size)/sectorSize || entries*4 > s.file.Size-int64(sector)*sectorSize {
		return nil, fmt.Errorf("%s: grain directory of %d entries at sector %d of a file of %d bytes: %w",
			s.file.Name, entries, sector, s.file.Size, formats.ErrTruncated)
	}
	b := make([]byte, entries*4)
	if err := formats.ReadFull(s.file, b, int64(sector)*sectorSize); err != nil {
		return nil, fmt.Errorf("grain directory: %w", err)
	}
	gd := make([]uint32, entries)
	for i := range gd {
		gd[i] = binary.LittleEndian.Uint32(b[i*4:])
	}
	return gd, nil
}

// checkDirectory refuses tables that do not lie in the file.
func (s *sparse) checkDirectory(gd []uint32) error {
	for i, table := range gd {
		if at := s.tableAt(table); table != 0 && at+s.tableBytes() > s.file.Size {
			return fmt.Errorf("%s: grain table %d at offset %d of a file of %d bytes: %w",
				s.file.Name, i, at, s.file.Size, formats.ErrTruncated)
		}
	}
	return nil
}

// loadTable reads a grain table; nil is one without entries.
func (s *sparse) loadTable(i int64) ([]int64, error) {
	at := s.tableAt(s.gd[i])
	if s.inHole(at, true) {
		return nil, nil
	}
	b := make([]byte, s.tableBytes())
	if err := formats.ReadFull(s.file, b, at); err != nil {
		return nil, fmt.Errorf("grain table %d: %w", i, err)
	}
	if allZero(b) {
		s.lookAhead(at)
		return nil, nil
	}
	gt := make([]int64, s.perTable)
	if s.se != nil {
		return gt, s.se.decodeTable(gt, b, i)
	}
	for j := range gt {
		// Entry 1 is a zeroed grain (section "Grain Table Entry"): sector 1 can
		// never hold a grain.
		if e := binary.LittleEndian.Uint32(b[j*4:]); e == 1 {
			gt[j] = zeroed
		} else {
			gt[j] = int64(e) * sectorSize
		}
	}
	return gt, nil
}

// allZero reports whether b, which is not empty, has zeroes only. Comparing the
// bytes with themselves, one further, is the fastest test.
func allZero(b []byte) bool { return b[0] == 0 && bytes.Equal(b[:len(b)-1], b[1:]) }

// aheadBytes is how far is looked for more empty tables behind an empty one.
const aheadBytes = 256 << 10

// lookAhead keeps the run of zeroes at off as a hole: the empty tables of a
// disk that is nearly empty follow each other, and are passed over as one.
func (s *sparse) lookAhead(off int64) {
	buf, _ := s.ahead.Get().(*[]byte)
	if buf == nil {
		b := make([]byte, aheadBytes)
		buf = &b
	}
	defer s.ahead.Put(buf)
	b := (*buf)[:min(aheadBytes, s.file.Size-off)]
	if formats.ReadFull(s.file, b, off) != nil {
		return // whoever needs these bytes will be told
	}
	zeroes := len(b)
	if len(b) > 0 && !allZero(b) {
		zeroes -= len(bytes.TrimLeft(b, "\x00"))
	}
	s.hole.Store(&[2]int64{off, off + int64(zeroes)})
}

// inHole reports whether the grain table at off lies in a hole of the file, as
// far as is known; look asks the file.
func (s *sparse) inHole(off int64, look bool) bool {
	end := off + s.tableBytes()
	if h := s.hole.Load(); h != nil && off >= h[0] && end <= h[1] {
		return true
	}
	if !look || s.holes == nil {
		return false
	}
	data, _, err := s.holes.NextData(off)
	if err != nil || data < end {
		return false // reading tells what is wrong
	}
	s.hole.Store(&[2]int64{off, data})
	return true
}

// empty is what a grain without entry is.
func (s *sparse) empty() formats.Kind {
	if s.hasParent {
		return formats.Absent
	}
	return formats.Zero
}

// zeroed is the place of a grain that is said to be zero.
const zeroed = -1

// decode tells what the place of a grain means.
func (s *sparse) decode(at int64) grainAt {
	switch at {
	case 0:
		return grainAt{kind: s.empty()}
	case zeroed:
		return grainAt{kind: formats.Zero}
	}
	return grainAt{kind: formats.Data, off: at}
}

// Extent implements formats.Disk.
func (s *sparse) Extent(offset, limit int64) (formats.Extent, error) {
	first := offset / s.grain
	end := min(offset+limit, s.size)
	last := (end - 1) / s.grain
	var run grainAt
	count := int64(0) // grains in the run
	for visited := 0; first+count <= last && visited < tablesPerRun; visited++ {
		index := first + count
		n, more, err := s.runInTable(index, last, &run, count)
		if err != nil && count == 0 {
			return formats.Extent{}, err
		}
		count += n
		if err != nil || !more {
			break
		}
	}
	e := formats.Extent{Offset: offset, Length: min((first+count)*s.grain, end) - offset, Kind: run.kind}
	if run.kind == formats.Data && s.grains == nil {
		at := run.off + offset%s.grain
		if at+e.Length > s.file.Size {
			return formats.Extent{}, fmt.Errorf("%s: grains for %d bytes at guest offset %d lie at %d of a file of %d bytes: %w",
				s.file.Name, e.Length, offset, at, s.file.Size, formats.ErrTruncated)
		}
		e.Plain = &formats.Location{File: s.file.ReaderAt, Offset: at}
	}
	return e, nil
}

// table gives a grain table; nil is one without entries.
func (s *sparse) table(i int64) ([]int64, error) {
	if s.gd[i] == 0 || s.inHole(s.tableAt(s.gd[i]), false) {
		return nil, nil
	}
	return s.tables.Get(i)
}

// runInTable counts the grains from index to the end of its table (or last)
// that go on the run, which has count grains already; more is false when the
// run ends within the table.
func (s *sparse) runInTable(index, last int64, run *grainAt, count int64) (n int64, more bool, err error) {
	table := index / s.perTable
	stop := min((table+1)*s.perTable-1, last)
	gt, err := s.table(table)
	if err != nil {
		return 0, false, err
	}
	if gt == nil {
		if count > 0 && run.kind != s.empty() {
			return 0, false, nil
		}
		run.kind = s.empty()
		return stop - index + 1, true, nil
	}
	for ; index+n <= stop; n++ {
		g := s.decode(gt[(index+n)%s.perTable])
		switch {
		case count+n == 0:
			*run = g
		case g.kind != run.kind:
			return n, false, nil
		case g.kind == formats.Data && s.grains == nil && g.off != run.off+(count+n)*s.grain:
			return n, false, nil
		}
	}
	return n, true, nil
}

// ReadAt implements formats.Disk; the caller has cut p to the disk.
func (s *sparse) ReadAt(p []byte, off int64) (int, error) {
	return formats.ReadRuns(p, off, s.readRun)
}

// readRun reads the first run of p, at least one byte of it.
func (s *sparse) readRun(p []byte, off int64) (int, error) {
	e, err := s.Extent(off, int64(len(p)))
	if err != nil {
		return 0, err
	}
	p = p[:e.Length]
	switch {
	case e.Kind == formats.Zero:
		clear(p)
		return len(p), nil
	case e.Kind == formats.Absent:
		return 0, fmt.Errorf("%s at guest offset %d: %w", s.file.Name, off, formats.ErrAbsent)
	case e.Plain != nil:
		if err := formats.ReadFull(s.file, p, e.Plain.Offset); err != nil {
			return 0, err
		}
		return len(p), nil
	}
	return s.readCompressed(p, off)
}
