package vhdx

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"slices"

	"github.com/google/uuid"

	"hyper2kvm/formats"
	"hyper2kvm/formats/guid"
)

// The log, 2.3: a ring of entries, each of which is some sectors of descriptors
// and then a sector of data for each descriptor that is not of zeroes.
const (
	logSector       = 4 << 10
	entryHead       = 64
	descriptorSize  = 32
	entrySignature  = "loge"
	zeroSignature   = "zero"
	dataDescriptor  = "desc"
	dataSignature   = "data"
	scanBytes       = 256 << 10
	maxLogWrites    = 1 << 19 // the usual log of 1 MiB has room for 32 Ki
	leading, behind = 8, 4    // bytes of a data sector that its descriptor holds
)

// logEntry is a valid entry of the log, 2.3.1.1. Offsets are in the log.
type logEntry struct {
	at, length    int64
	tail          int64
	sequence      uint64
	flushed, last int64 // sizes of the file
}

// write is what a descriptor, 2.3.1.2 and 2.3.1.3, has written to the file.
type write struct {
	off, length int64
	data        int64 // where in the file the data sector lies, 0 for zeroes
	first       [leading]byte
	end         [behind]byte
}

// ring reads the log.
type ring struct {
	file       formats.File
	at, length int64
	id         uuid.UUID
}

// replay finds what has to be read from the log, 2.3.3.
func (img *Image) replay() error {
	if img.log == uuid.Nil {
		return nil
	}
	bad := func(why string) error {
		return fmt.Errorf("%s: its log has to be replayed and cannot be: %s: %w", img.raw.Name, why, formats.ErrCorrupt)
	}
	if img.logLength == 0 || img.logLength%sectionSize != 0 || img.logAt%sectionSize != 0 || img.logAt < sectionSize {
		return bad(fmt.Sprintf("it has %d bytes at %d", img.logLength, img.logAt))
	}
	if size := uint64(img.raw.Size); img.logAt > size || img.logLength > size-img.logAt {
		return fmt.Errorf("%w: %w", bad("it lies behind the end of the file"), formats.ErrTruncated)
	}
	r := &ring{file: img.raw, at: int64(img.logAt), length: int64(img.logLength), id: img.log}
	all, why, err := r.entries()
	if err != nil {
		return err
	}
	active := r.active(all)
	if len(active) == 0 {
		if len(all) > 0 {
			why = fmt.Sprintf("%d entries are valid, and the newest of no sequence points to the begin of it", len(all))
		}
		return bad(why)
	}
	head := active[len(active)-1]
	if head.flushed > img.raw.Size {
		return fmt.Errorf("%w: %w", bad(fmt.Sprintf("the file had %d bytes, and has %d", head.flushed, img.raw.Size)), formats.ErrTruncated)
	}
	var writes []write
	for _, e := range active {
		_, more, why, err := r.entry(e.at, e.length)
		switch {
		case err != nil:
			return err
		case why != "":
			return bad("the file changes while it is read: " + why)
		case len(writes)+len(more) > maxLogWrites:
			return fmt.Errorf("%s: log of more than %d updates: %w", img.raw.Name, maxLogWrites, formats.ErrUnsupported)
		}
		writes = append(writes, more...)
	}
	img.over = layOver(img.raw, writes, head.last)
	img.file = formats.File{ReaderAt: img.over, Size: img.over.size, Name: img.raw.Name}
	return nil
}

// read reads a sector of the log, which goes on at its begin.
func (r *ring) read(p []byte, off int64) error { return formats.ReadFull(r.file, p, r.at+off%r.length) }

// starts lists the sectors that begin like an entry.
func (r *ring) starts() ([]int64, error) {
	var out []int64
	b := make([]byte, scanBytes)
	for off := int64(0); off < r.length; off += scanBytes {
		if err := r.read(b, off); err != nil {
			return nil, err
		}
		for i := 0; i < len(b); i += logSector {
			if string(b[i:i+4]) == entrySignature {
				out = append(out, off+int64(i))
			}
		}
	}
	return out, nil
}

// entries gives the valid entries, in the order of the file; why says what is
// wrong with the first that is not. No sector of an entry but its first begins
// like one: so each sector is looked at once, whatever the lengths claim.
func (r *ring) entries() (out []logEntry, why string, err error) {
	starts, err := r.starts()
	if err != nil {
		return nil, "", err
	}
	for i, at := range starts {
		room := r.length
		if next := starts[(i+1)%len(starts)]; next != at {
			room = (next - at + r.length) % r.length
		}
		e, _, bad, err := r.entry(at, room)
		switch {
		case err != nil:
			return nil, "", err
		case bad == "":
			out = append(out, e)
		case why == "":
			why = fmt.Sprintf("entry at %d of the log: %s", at, bad)
		}
	}
	if why == "" {
		why = "it has no entry"
	}
	return out, why, nil
}

// active finds the newest sequence of entries, each of which follows the one
// before, that reaches back to where its newest entry says that it begins.
func (r *ring) active(all []logEntry) []logEntry {
	place := make(map[int64]int, len(all))
	for i, e := range all {
		place[e.at] = i
	}
	next := func(i int) (int, bool) {
		j, ok := place[(all[i].at+all[i].length)%r.length]
		return j, ok && all[j].sequence == all[i].sequence+1
	}
	follows := make([]bool, len(all))
	for i := range all {
		if j, ok := next(i); ok {
			follows[j] = true
		}
	}
	var best []logEntry
	for i := range all {
		if follows[i] {
			continue
		}
		run := []logEntry{all[i]}
		for j, ok := next(i); ok; j, ok = next(j) {
			run = append(run, all[j])
		}
		head := run[len(run)-1]
		tail := slices.IndexFunc(run, func(e logEntry) bool { return e.at == head.tail })
		if tail >= 0 && (best == nil || head.sequence > best[len(best)-1].sequence) {
			best = run[tail:]
		}
	}
	return best
}

// entry reads the entry at an offset, which has room bytes at most, and what it
// writes. It judges all of it: bad says why it is none.
func (r *ring) entry(at, room int64) (e logEntry, writes []write, bad string, err error) {
	b, le := make([]byte, logSector), binary.LittleEndian
	if err := r.read(b, at); err != nil {
		return e, nil, "", err
	}
	e = logEntry{
		at: at, length: int64(le.Uint32(b[8:])), tail: int64(le.Uint32(b[12:])), sequence: le.Uint64(b[16:]),
		flushed: int64(le.Uint64(b[48:])), last: int64(le.Uint64(b[56:])),
	}
	w := walker{sequence: e.sequence, descriptors: int64(le.Uint32(b[24:]))}
	if bad := r.judge(e, w.descriptors, room); bad != "" {
		return e, nil, bad, nil
	}
	if guid.Parse(b[32:]) != r.id {
		return e, nil, "it is of another log", nil
	}
	sum := le.Uint32(b[checksumAt:])
	clear(b[checksumAt : checksumAt+4])
	crc := crc32.New(crc32.MakeTable(crc32.Castagnoli))
	for off, skip := int64(0), entryHead; off < e.length; off, skip = off+logSector, 0 {
		if off > 0 {
			if err := r.read(b, at+off); err != nil {
				return e, nil, "", err
			}
		}
		_, _ = crc.Write(b) // a hash gives no error
		if bad := w.sector(b, skip, r.at+(at+off)%r.length); bad != "" {
			return e, nil, bad, nil
		}
	}
	switch {
	case w.descriptors > 0 || w.placed < len(w.data):
		return e, nil, "its data is missing", nil
	case crc.Sum32() != sum:
		return e, nil, "its checksum is wrong", nil
	}
	return e, w.writes, "", nil
}

// judge looks at the fields of an entry's header.
func (r *ring) judge(e logEntry, descriptors, room int64) (bad string) {
	switch {
	case e.length == 0 || e.length%logSector != 0 || e.length > room:
		return fmt.Sprintf("%d bytes, where there is room for %d", e.length, room)
	case e.sequence == 0 || e.tail%logSector != 0 || e.tail >= r.length:
		return fmt.Sprintf("sequence number %d, tail %d", e.sequence, e.tail)
	case e.flushed < 0 || e.flushed > maxFile || e.last < 0 || e.last > maxFile:
		return fmt.Sprintf("sizes of the file %d and %d", uint64(e.flushed), uint64(e.last))
	case entryHead+descriptors*descriptorSize > e.length || descriptors > maxLogWrites:
		return fmt.Sprintf("%d descriptors in %d bytes", descriptors, e.length)
	}
	return ""
}

// walker judges the sectors of an entry, one after the other.
type walker struct {
	sequence    uint64
	descriptors int64 // to come
	writes      []write
	data        []int // indices in writes of those that have a data sector
	placed      int   // of these, whose sector was there
}

// sector takes the next sector of the entry, which lies at a place in the file;
// skip is the header in it.
func (w *walker) sector(b []byte, skip int, at int64) (bad string) {
	le := binary.LittleEndian
	switch {
	case w.descriptors > 0:
		for d := range slices.Chunk(b[skip:], descriptorSize) {
			if w.descriptors == 0 {
				break
			}
			w.descriptors--
			if bad := w.descriptor(d); bad != "" {
				return bad
			}
		}
	case w.placed < len(w.data):
		if string(b[:4]) != dataSignature || uint64(le.Uint32(b[4:]))<<32|uint64(le.Uint32(b[logSector-behind:])) != w.sequence {
			return "a data sector is not of it"
		}
		w.writes[w.data[w.placed]].data = at
		w.placed++
	}
	return "" // more is padding, to a larger sector of the host's disk
}

// descriptor takes a descriptor.
func (w *walker) descriptor(d []byte) (bad string) {
	le := binary.LittleEndian
	x := write{off: int64(le.Uint64(d[16:])), length: logSector}
	switch string(d[:4]) {
	case dataDescriptor:
		copy(x.end[:], d[4:])
		copy(x.first[:], d[8:])
		w.data = append(w.data, len(w.writes))
	case zeroSignature:
		x.length = int64(le.Uint64(d[8:]))
	default:
		return fmt.Sprintf("descriptor %q", d[:4])
	}
	if le.Uint64(d[24:]) != w.sequence {
		return "a descriptor is not of it"
	}
	if x.off < 0 || x.length < 0 || x.off%logSector != 0 || x.length%logSector != 0 || x.off > maxFile || x.length > maxFile-x.off {
		return fmt.Sprintf("%d bytes for offset %d", uint64(x.length), uint64(x.off))
	}
	w.writes = append(w.writes, x)
	return ""
}
