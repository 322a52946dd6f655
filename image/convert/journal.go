package convert

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"math"
	"os"
	"path/filepath"
	"sync"

	"golang.org/x/sys/unix"
)

// A journal keeps, beside an output that is being written, what was placed in
// it and up to where the bytes are safe. The layout of an output is a function
// of what was placed: placing the same again gives the same offsets, so that a
// run which was killed goes on with the first window that was not safe yet.
//
// The file is a header (magic, identity) and records, little-endian:
//
//	type  1 byte   'w' window: start, then pieces as (blocks skipped, blocks, packed size)
//	               'm' mark: everything before this guest offset is safe in an
//	               output that has so many bytes
//	size  4 bytes  of the body, whose numbers are uvarints
//	body
//	crc   4 bytes  CRC-32C of all before it
//
// A record that is cut off or damaged ends the journal: what came behind it was
// not marked.
type journal struct {
	file *os.File

	mu     sync.Mutex // around all below
	out    *bufio.Writer
	record []byte
	upTo   int64 // the last mark that is on the disk
}

// Sizes and types of the parts of a journal.
const (
	journalMagic = "h2kckpt1"
	journalHead  = len(journalMagic) + sha256.Size
	recordHead   = 5
	recordWindow = 'w'
	recordMark   = 'm'
	// maxRecord is more than a window of the smallest blocks can take.
	maxRecord = 1 << 20
	// maxPacked is more than the largest unit can take, packed.
	maxPacked = 4 << 20
)

// checksum is CRC-32C.
func checksum(p []byte) uint32 { return crc32.Checksum(p, crc32.MakeTable(crc32.Castagnoli)) }

// newJournal begins the journal at path; "" gives none.
func newJournal(path string, id [sha256.Size]byte) (*journal, error) {
	if path == "" {
		return nil, nil
	}
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_TRUNC|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, fmt.Errorf("begin checkpoint: %w", err)
	}
	j := &journal{file: f, out: bufio.NewWriterSize(f, 64<<10)}
	if _, err := j.out.WriteString(journalMagic + string(id[:])); err != nil {
		f.Close()
		return nil, fmt.Errorf("begin checkpoint: %w", err)
	}
	return j, nil
}

// window records where a window begins and what of it was placed.
func (j *journal) window(start int64, pieces []piece) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.begin(recordWindow, start)
	next := 0
	for _, p := range pieces {
		j.record = binary.AppendUvarint(j.record, uint64(p.first-next))
		j.record = binary.AppendUvarint(j.record, uint64(p.n))
		j.record = binary.AppendUvarint(j.record, uint64(p.packed))
		next = p.first + p.n
	}
	return j.end()
}

func (j *journal) begin(kind byte, number int64) {
	j.record = append(j.record[:0], kind, 0, 0, 0, 0)
	j.record = binary.AppendUvarint(j.record, uint64(number))
}

func (j *journal) end() error {
	binary.LittleEndian.PutUint32(j.record[1:], uint32(len(j.record)-recordHead))
	j.record = binary.LittleEndian.AppendUint32(j.record, checksum(j.record))
	if _, err := j.out.Write(j.record); err != nil {
		return fmt.Errorf("write checkpoint: %w", err)
	}
	return nil
}

// mark records that all of the guest before offset is safe in the output,
// which was synced and has size bytes.
func (j *journal) mark(offset, size int64) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.begin(recordMark, offset)
	j.record = binary.AppendUvarint(j.record, uint64(size))
	if err := errors.Join(j.end(), j.out.Flush(), unix.Fdatasync(int(j.file.Fd()))); err != nil {
		return fmt.Errorf("write checkpoint: %w", err)
	}
	if j.upTo == 0 {
		// Now its name is worth something too.
		if err := syncDir(filepath.Dir(j.file.Name())); err != nil {
			return fmt.Errorf("write checkpoint: %w", err)
		}
	}
	j.upTo = offset
	return nil
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	if err := d.Sync(); err != nil && !errors.Is(err, unix.EINVAL) {
		return err
	}
	return nil
}

// close ends the use of the journal, which stays.
func (j *journal) close() {
	if j != nil {
		j.file.Close()
	}
}

// remove ends the journal for good.
func (j *journal) remove() {
	if j != nil {
		j.file.Close()
		os.Remove(j.file.Name())
	}
}

// errStale says that a journal or the output beside it is of no use: the run
// starts clean.
var errStale = errors.New("the checkpoint does not fit")

// readMark gives the last mark of a journal: 0 where there is none, and where
// it belongs to something else.
func readMark(path string, id [sha256.Size]byte) (offset, size int64) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW, 0)
	if path == "" || err != nil {
		return 0, 0
	}
	defer f.Close()
	r, err := newRecords(f, id)
	for err == nil {
		var rec record
		if rec, err = r.next(); err == nil && rec.kind == recordMark {
			offset, size = rec.number, rec.size
		}
	}
	return offset, size
}

// replay places what an earlier run had placed before the mark, and gives the
// journal to go on with.
func replay(path string, from checkpoint, p *placer) (*journal, error) {
	f, err := os.OpenFile(path, os.O_RDWR|unix.O_NOFOLLOW, 0)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errStale, err)
	}
	end, err := replayRecords(f, from, p)
	if err == nil {
		_, err = f.Seek(end, io.SeekStart)
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("%w: %w", errStale, err)
	}
	// Windows behind the mark are placed and recorded again.
	j := &journal{file: f, out: bufio.NewWriterSize(f, 64<<10), upTo: from.marked}
	if err := j.mark(from.marked, from.size); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	at, err := f.Seek(0, io.SeekCurrent)
	if err == nil {
		err = f.Truncate(at)
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("go on with checkpoint: %w", err)
	}
	return j, nil
}

// replayRecords returns the offset behind the last record that counts.
func replayRecords(f *os.File, from checkpoint, p *placer) (int64, error) {
	r, err := newRecords(f, from.id)
	if err != nil {
		return 0, err
	}
	end, last := r.at, int64(-1)
	for {
		rec, err := r.next()
		if err != nil {
			return 0, err // the mark itself lies behind
		}
		switch {
		case rec.kind == recordMark && rec.number == from.marked, rec.kind == recordWindow && rec.number >= from.marked:
			return end, nil
		case rec.kind == recordMark:
			end = r.at
			continue
		}
		if rec.number <= last || rec.number%p.window() != 0 || rec.number >= p.size {
			return 0, fmt.Errorf("window at %d after %d", rec.number, last)
		}
		if err := rec.check(p); err != nil {
			return 0, err
		}
		if err := p.place(rec.number, rec.pieces, nil); err != nil {
			return 0, err
		}
		end, last = r.at, rec.number
	}
}

// record is one record of a journal that was read.
type record struct {
	kind   byte
	number int64 // guest offset
	size   int64 // of the output, in a mark
	pieces []piece
}

// check refuses pieces that do not lie in a window of the disk.
func (r *record) check(p *placer) error {
	blocks := (min(p.window(), p.size-r.number) + p.block - 1) / p.block
	_, packs := p.target.(packing)
	for _, x := range r.pieces {
		if int64(x.first+x.n) > blocks || x.n < 1 || x.packed > 0 && (!packs || x.n > 1) {
			return fmt.Errorf("window at %d: %d blocks at %d", r.number, x.n, x.first)
		}
	}
	return nil
}

// records reads a journal from the front.
type records struct {
	in *bufio.Reader
	at int64
}

func newRecords(f io.Reader, id [sha256.Size]byte) (*records, error) {
	r := &records{in: bufio.NewReaderSize(f, 64<<10), at: int64(journalHead)}
	head := make([]byte, journalHead)
	if _, err := io.ReadFull(r.in, head); err != nil {
		return nil, err
	}
	if !bytes.Equal(head, append([]byte(journalMagic), id[:]...)) {
		return nil, errors.New("it belongs to another source or to other options")
	}
	return r, nil
}

// next gives the next record; io.EOF or any other error is the end.
func (r *records) next() (record, error) {
	head := make([]byte, recordHead)
	if _, err := io.ReadFull(r.in, head); err != nil {
		return record{}, err
	}
	size := binary.LittleEndian.Uint32(head[1:])
	if size > maxRecord {
		return record{}, fmt.Errorf("record of %d bytes", size)
	}
	all := make([]byte, recordHead+int(size)+4)
	copy(all, head)
	if _, err := io.ReadFull(r.in, all[recordHead:]); err != nil {
		return record{}, err
	}
	body := all[:len(all)-4]
	if checksum(body) != binary.LittleEndian.Uint32(all[len(body):]) {
		return record{}, errors.New("record with a wrong checksum")
	}
	r.at += int64(len(all))
	return decode(body[0], body[recordHead:])
}

func decode(kind byte, body []byte) (record, error) {
	bad := fmt.Errorf("record of type %q is malformed", kind)
	var nums []int64
	for len(body) > 0 {
		v, n := binary.Uvarint(body)
		if n <= 0 || v > math.MaxInt64 {
			return record{}, bad
		}
		nums, body = append(nums, int64(v)), body[n:]
	}
	switch {
	case kind == recordMark && len(nums) == 2:
		return record{kind: kind, number: nums[0], size: nums[1]}, nil
	case kind != recordWindow || len(nums)%3 != 1:
		return record{}, bad
	}
	rec := record{kind: kind, number: nums[0]}
	next := int64(0)
	for x := nums[1:]; len(x) > 0; x = x[3:] {
		first := next + x[0]
		next = first + x[1]
		if x[0] > windowBytes || x[1] > windowBytes || x[2] > maxPacked || next > windowBytes {
			return record{}, bad
		}
		rec.pieces = append(rec.pieces, piece{int(first), int(x[1]), int(x[2])})
	}
	return rec, nil
}
