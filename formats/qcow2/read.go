package qcow2

import (
	"encoding/binary"
	"fmt"
	"io"

	"hyper2kvm/formats"
	"hyper2kvm/formats/blockcache"
)

// Bounds of what an opened image keeps in memory, in bytes.
const (
	cachedTables   = 8 << 20
	cachedClusters = 4 << 20
	tablesPerRun   = 1024 // L2 tables that one call of Extent looks at
)

// subclusters is the number of parts of a cluster with extended L2 entries.
const subclusters = 32

// Image is an opened qcow2 image.
type Image struct {
	file    formats.File
	head    *header
	data    formats.File // where data clusters lie: file, or the external data file
	info    formats.Info
	v3      bool
	size    int64
	cluster int64
	// unit is the smallest run with a state of its own: a cluster, or a part of
	// one with extended L2 entries.
	unit      int64
	extended  bool
	external  bool
	perTable  int64 // units per L2 table
	hasParent bool

	l1       []uint64
	tables   *blockcache.Cache[[]uint64] // by index in l1
	clusters *blockcache.Cache[[]byte]   // decompressed, by L2 entry
	unpacker unpacker
}

// Open reads the header of f. The external data file that an image may name is
// asked for through open, which may be nil where none is allowed. It gives
// formats.ErrFormat for what is not qcow2.
func Open(f formats.File, open formats.Opener) (*Image, error) {
	h, err := readHeader(f)
	if err != nil {
		return nil, err
	}
	q := &Image{file: f, head: h, data: f, info: h.info(f), v3: h.version >= 3, size: int64(h.size), cluster: 1 << h.clusterBits,
		extended: h.incompatible&incompatExtendedL2 != 0, external: h.incompatible&incompatDataFile != 0,
		hasParent: h.backing != ""}
	q.unit = q.cluster
	q.perTable = q.cluster / 8
	if q.extended {
		q.unit = q.cluster / subclusters
		q.perTable = q.cluster / 16 * subclusters
	}
	if q.external {
		if q.data, err = openData(h.dataFile, open); err != nil {
			return nil, fmt.Errorf("data file %q of %s: %w", h.dataFile, f.Name, err)
		}
	}
	if err := q.loadL1(h); err != nil {
		return nil, err
	}
	q.tables = blockcache.New(max(2, int(cachedTables/q.cluster)), q.loadTable)
	q.clusters = blockcache.New(max(2, int(cachedClusters/q.cluster)), q.loadCluster)
	q.unpacker, err = newUnpacker(h.compression)
	return q, err
}

func openData(name string, open formats.Opener) (formats.File, error) {
	if open == nil {
		return formats.File{}, formats.ErrRefused
	}
	return open(name)
}

func (q *Image) loadL1(h *header) error {
	covers := q.perTable * q.unit
	need := q.size / covers
	if q.size%covers != 0 {
		need++
	}
	if int64(h.l1Size) < need {
		return fmt.Errorf("%s: L1 table of %d entries, %d needed: %w", q.file.Name, h.l1Size, need, formats.ErrCorrupt)
	}
	if need == 0 {
		return nil
	}
	if h.l1Offset > uint64(q.file.Size) || need*8 > q.file.Size-int64(h.l1Offset) {
		return fmt.Errorf("%s: L1 table of %d entries at offset %d of a file of %d bytes: %w",
			q.file.Name, need, h.l1Offset, q.file.Size, formats.ErrTruncated)
	}
	var err error
	if q.l1, err = q.readWords(int64(h.l1Offset), need); err != nil {
		return fmt.Errorf("L1 table: %w", err)
	}
	for i, e := range q.l1 {
		if off := int64(e & offsetMask); off != 0 {
			switch {
			case off%q.cluster != 0:
				return fmt.Errorf("%s: L2 table %d at offset %d: %w", q.file.Name, i, off, formats.ErrCorrupt)
			case off > q.file.Size-q.cluster:
				return fmt.Errorf("%s: L2 table %d at offset %d of a file of %d bytes: %w", q.file.Name, i, off, q.file.Size, formats.ErrTruncated)
			}
		}
	}
	return nil
}

func (q *Image) readWords(off, n int64) ([]uint64, error) {
	b := make([]byte, n*8)
	if err := formats.ReadFull(q.file, b, off); err != nil {
		return nil, err
	}
	out := make([]uint64, n)
	for i := range out {
		out[i] = binary.BigEndian.Uint64(b[i*8:])
	}
	return out, nil
}

func (q *Image) loadTable(i int64) ([]uint64, error) {
	t, err := q.readWords(int64(q.l1[i]&offsetMask), q.cluster/8)
	if err != nil {
		return nil, fmt.Errorf("L2 table %d: %w", i, err)
	}
	return t, nil
}

// Info implements formats.Image.
func (q *Image) Info() formats.Info { return q.info }

// Size implements formats.Disk.
func (q *Image) Size() int64 { return q.size }

// place says where a unit is.
type place struct {
	kind   formats.Kind
	packed uint64 // L2 entry of a compressed cluster, 0 when it is not one
	off    int64  // bytes into the data file, for plain Data
}

// empty is what a cluster without entry is.
func (q *Image) empty() place {
	if q.hasParent {
		return place{kind: formats.Absent}
	}
	return place{kind: formats.Zero}
}

// decode tells what the table says of a unit, counted from the table's begin.
func (q *Image) decode(table []uint64, index int64) (place, error) {
	if q.extended {
		return q.decodeExtended(table, index)
	}
	e := table[index]
	off := int64(e & offsetMask)
	switch {
	case e&entryCompressed != 0:
		return place{kind: formats.Data, packed: e}, nil
	case q.v3 && e&entryZero != 0:
		return place{kind: formats.Zero}, nil
	case off == 0 && (!q.external || e&entryCopied == 0):
		return q.empty(), nil
	case off%q.cluster != 0:
		return place{}, fmt.Errorf("%s: data cluster at offset %d: %w", q.file.Name, off, formats.ErrCorrupt)
	}
	return place{kind: formats.Data, off: off}, nil
}

// decodeExtended reads an entry of two words: the second has one bit for each
// part that is allocated and, in its upper half, for each that is zero.
func (q *Image) decodeExtended(table []uint64, index int64) (place, error) {
	e, bitmap := table[index/subclusters*2], table[index/subclusters*2+1]
	part := index % subclusters
	off := int64(e & offsetMask)
	switch {
	case e&entryCompressed != 0:
		return place{kind: formats.Data, packed: e}, nil
	case bitmap>>part&(1|1<<subclusters) == 1|1<<subclusters:
		return place{}, fmt.Errorf("%s: part %d of a cluster is both allocated and zero: %w", q.file.Name, part, formats.ErrCorrupt)
	case bitmap&(1<<(part+subclusters)) != 0:
		return place{kind: formats.Zero}, nil
	case bitmap&(1<<part) == 0:
		return q.empty(), nil
	case off%q.cluster != 0 || off == 0 && !q.external:
		return place{}, fmt.Errorf("%s: data cluster at offset %d: %w", q.file.Name, off, formats.ErrCorrupt)
	}
	return place{kind: formats.Data, off: off + part*q.unit}, nil
}

// Extent implements formats.Disk.
func (q *Image) Extent(offset, limit int64) (formats.Extent, error) {
	if offset < 0 || offset >= q.size || limit <= 0 {
		return formats.Extent{}, fmt.Errorf("extent of %s at %d, limit %d: outside of %d bytes", q.file.Name, offset, limit, q.size)
	}
	end := offset + min(limit, q.size-offset)
	first, last := offset/q.unit, (end-1)/q.unit
	var run place
	count := int64(0) // units in the run
	for visited := 0; first+count <= last && visited < tablesPerRun; visited++ {
		n, more, err := q.runInTable(first+count, last, &run, count)
		if err != nil && count == 0 {
			return formats.Extent{}, err
		}
		count += n
		if err != nil || !more {
			break
		}
	}
	e := formats.Extent{Offset: offset, Length: min((first+count)*q.unit, end) - offset, Kind: run.kind}
	if run.kind == formats.Data && run.packed == 0 {
		at := run.off + offset%q.unit
		if at > q.data.Size || e.Length > q.data.Size-at {
			return formats.Extent{}, fmt.Errorf("%s: clusters for %d bytes at guest offset %d lie at %d of a file of %d bytes: %w",
				q.data.Name, e.Length, offset, at, q.data.Size, formats.ErrTruncated)
		}
		e.Plain = &formats.Location{File: q.data.ReaderAt, Offset: at}
	}
	return e, nil
}

// runInTable counts the units from index to the end of its table (or last)
// that go on the run, which has count units already; more is false when the
// run ends within the table.
func (q *Image) runInTable(index, last int64, run *place, count int64) (n int64, more bool, err error) {
	t := index / q.perTable
	stop := min((t+1)*q.perTable-1, last)
	if q.l1[t]&offsetMask == 0 {
		if count > 0 && *run != q.empty() {
			return 0, false, nil
		}
		*run = q.empty()
		return stop - index + 1, true, nil
	}
	table, err := q.tables.Get(t)
	if err != nil {
		return 0, false, err
	}
	for ; index+n <= stop; n++ {
		p, err := q.decode(table, (index+n)%q.perTable)
		if err != nil {
			return n, false, err
		}
		if count+n == 0 {
			*run = p
		} else if !q.follows(*run, p, count+n) {
			return n, false, nil
		}
	}
	return n, true, nil
}

// follows reports whether a unit goes on a run of n units.
func (q *Image) follows(run, p place, n int64) bool {
	if p.kind != run.kind || (p.packed != 0) != (run.packed != 0) {
		return false
	}
	return p.kind != formats.Data || p.packed != 0 || p.off == run.off+n*q.unit
}

// ReadAt implements formats.Disk.
func (q *Image) ReadAt(p []byte, off int64) (int, error) {
	if off < 0 {
		return 0, fmt.Errorf("read %s at negative offset %d", q.file.Name, off)
	}
	if off >= q.size {
		return 0, io.EOF
	}
	var eof error
	if int64(len(p)) > q.size-off {
		p, eof = p[:q.size-off], io.EOF
	}
	n, err := formats.ReadRuns(p, off, q.readRun)
	if err != nil {
		return n, err
	}
	return n, eof
}

// readRun reads the first run of p, at least one byte of it.
func (q *Image) readRun(p []byte, off int64) (int, error) {
	e, err := q.Extent(off, int64(len(p)))
	if err != nil {
		return 0, err
	}
	p = p[:e.Length]
	switch {
	case e.Kind == formats.Zero:
		clear(p)
		return len(p), nil
	case e.Kind == formats.Absent:
		return 0, fmt.Errorf("%s at guest offset %d: %w", q.file.Name, off, formats.ErrAbsent)
	case e.Plain != nil:
		if err := formats.ReadFull(q.data, p, e.Plain.Offset); err != nil {
			return 0, err
		}
		return len(p), nil
	}
	return q.readPacked(p, off)
}

// readPacked reads from one compressed cluster.
func (q *Image) readPacked(p []byte, off int64) (int, error) {
	unit := off / q.unit
	table, err := q.tables.Get(unit / q.perTable)
	if err != nil {
		return 0, err
	}
	at, err := q.decode(table, unit%q.perTable)
	if err != nil {
		return 0, err
	}
	in := off % q.cluster
	if in == 0 && int64(len(p)) >= q.cluster {
		if err := q.unpack(p[:q.cluster], at.packed); err != nil {
			return 0, err
		}
		return int(q.cluster), nil
	}
	cluster, err := q.clusters.Get(int64(at.packed))
	if err != nil {
		return 0, err
	}
	return copy(p, cluster[in:]), nil
}

func (q *Image) loadCluster(entry int64) ([]byte, error) {
	b := make([]byte, q.cluster)
	return b, q.unpack(b, uint64(entry))
}
