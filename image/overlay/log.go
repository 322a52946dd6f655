package overlay

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// The map file is a log: a header, then batches, one or more for each Sync.
// All numbers are little endian.
//
//	header  magic (8), block size (4), blocks in a chunk (4), disk size (8), CRC-32C of these (4)
//	batch   magic (4), bytes of records (4), CRC-32C of the records (4), records
//	record  chunk << 8 | state (8), and for a mixed one its page (1024)
//
// What a crash left of the last batch does not match its checksum: reading ends
// there, and the next Sync writes over it.
const (
	headerMagic = "h2kmap1\n"
	headerBytes = 8 + 4 + 4 + 8 + 4
	batchMagic  = 0x68637462 // "btch"
	batchBytes  = 12
	recordBytes = 8
	// maxBatch bounds the records of one batch, in bytes, and with it what
	// reading takes of memory.
	maxBatch = 1 << 20
	// slack is how much a log may grow beyond twice its size when it was last
	// written anew, in bytes.
	slack = 1 << 20
)

// newSuffix is added to the name of a map while it is written anew.
const newSuffix = ".new"

// record is the state of a chunk.
type record struct {
	chunk int64
	state state
	page  *page // of a mixed one; the record's own copy
}

// mapLog is the open map file.
type mapLog struct {
	path string
	size int64 // of the disk
	f    *os.File
	end  int64 // of the valid part
	grow int64 // end at which it is to be written anew
}

func castagnoli(p []byte) uint32 { return crc32.Checksum(p, crc32.MakeTable(crc32.Castagnoli)) }

func header(size int64) []byte {
	b := make([]byte, 0, headerBytes)
	b = append(b, headerMagic...)
	b = binary.LittleEndian.AppendUint32(b, BlockSize)
	b = binary.LittleEndian.AppendUint32(b, chunkBlocks)
	b = binary.LittleEndian.AppendUint64(b, uint64(size))
	return binary.LittleEndian.AppendUint32(b, castagnoli(b))
}

// createLog makes the map of an overlay without changes.
func createLog(path string, size int64, t *table) (*mapLog, error) {
	l := &mapLog{path: path, size: size}
	if err := l.rewrite(nil); err != nil {
		return nil, err
	}
	t.takeChanged()
	return l, nil
}

// openLog reads the map at path into t.
func openLog(path string, size int64, t *table) (*mapLog, error) {
	f, err := os.OpenFile(path, os.O_RDWR|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	end, err := replay(bufio.NewReaderSize(f, 1<<16), size, t)
	if err == nil {
		err = f.Truncate(end)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("read %s: %w", path, err), f.Close())
	}
	return &mapLog{path: path, size: size, f: f, end: end, grow: end + slack}, nil
}

// replay puts the batches of a map into t and gives the end of the last whole
// one. Only a header that is wrong is an error.
func replay(r io.Reader, size int64, t *table) (end int64, err error) {
	head := make([]byte, headerBytes)
	if _, err := io.ReadFull(r, head); err != nil {
		return 0, fmt.Errorf("header: %w: %w", ErrMap, err)
	}
	if string(head) != string(header(size)) {
		return 0, fmt.Errorf("header for a disk of %d bytes: %w", size, ErrMap)
	}
	end = headerBytes
	for {
		body := readBatch(r)
		if body == nil || !validRecords(body, t) {
			return end, nil
		}
		applyRecords(body, t)
		end += batchBytes + int64(len(body))
	}
}

// readBatch gives the records of the next batch, nil where no whole one is.
func readBatch(r io.Reader) []byte {
	var head [batchBytes]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return nil
	}
	n := binary.LittleEndian.Uint32(head[4:])
	if binary.LittleEndian.Uint32(head[:]) != batchMagic || n == 0 || n > maxBatch {
		return nil
	}
	body := make([]byte, n)
	if _, err := io.ReadFull(r, body); err != nil {
		return nil
	}
	if binary.LittleEndian.Uint32(head[8:]) != castagnoli(body) {
		return nil
	}
	return body
}

// nextRecord cuts the first record off body; ok is false when it is cut short.
func nextRecord(body []byte) (r record, rest []byte, ok bool) {
	if len(body) < recordBytes {
		return r, nil, false
	}
	word := binary.LittleEndian.Uint64(body)
	r.chunk, r.state, body = int64(word>>8), state(word), body[recordBytes:]
	if r.state != mixed {
		return r, body, r.state < mixed
	}
	if len(body) < pageBytes {
		return r, nil, false
	}
	r.page = (*page)(body[:pageBytes])
	return r, body[pageBytes:], true
}

// validRecords checks a batch before any of it counts.
func validRecords(body []byte, t *table) bool {
	for len(body) > 0 {
		r, rest, ok := nextRecord(body)
		if !ok || r.chunk >= int64(len(t.chunks)) {
			return false
		}
		if r.state == mixed {
			for b := range t.blocksIn(r.chunk) {
				if r.page.get(b) == mixed {
					return false
				}
			}
		}
		body = rest
	}
	return true
}

func applyRecords(body []byte, t *table) {
	for len(body) > 0 {
		r, rest, _ := nextRecord(body)
		ch := chunk{state: r.state}
		if r.state == mixed {
			p := *r.page
			ch.page = &p
		}
		t.chunks[r.chunk] = ch
		body = rest
	}
}

// batches encodes records.
func batches(records []record) []byte {
	var out, body []byte
	flush := func() {
		if len(body) == 0 {
			return
		}
		out = binary.LittleEndian.AppendUint32(out, batchMagic)
		out = binary.LittleEndian.AppendUint32(out, uint32(len(body)))
		out = binary.LittleEndian.AppendUint32(out, castagnoli(body))
		out = append(out, body...)
		body = body[:0]
	}
	for _, r := range records {
		if len(body)+recordBytes+pageBytes > maxBatch {
			flush()
		}
		body = binary.LittleEndian.AppendUint64(body, uint64(r.chunk)<<8|uint64(r.state))
		if r.state == mixed {
			body = append(body, r.page[:]...)
		}
	}
	flush()
	return out
}

// append adds records and syncs them.
func (l *mapLog) append(records []record) error {
	if len(records) == 0 {
		return nil
	}
	b := batches(records)
	if _, err := l.f.WriteAt(b, l.end); err != nil {
		return err
	}
	if err := unix.Fdatasync(int(l.f.Fd())); err != nil {
		return err
	}
	l.end += int64(len(b))
	return nil
}

// overgrown reports whether most of the log is likely out of date.
func (l *mapLog) overgrown() bool { return l.end > l.grow }

// rewrite replaces the log by one with just these records.
func (l *mapLog) rewrite(records []record) error {
	tmp := l.path + newSuffix
	f, err := os.OpenFile(tmp, os.O_RDWR|os.O_CREATE|os.O_TRUNC|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return err
	}
	b := append(header(l.size), batches(records)...)
	_, err = f.Write(b)
	if err == nil {
		err = f.Sync()
	}
	if err == nil {
		err = os.Rename(tmp, l.path)
	}
	if err == nil {
		err = syncDir(filepath.Dir(l.path))
	}
	if err != nil {
		_ = os.Remove(tmp)
		return errors.Join(err, f.Close())
	}
	if l.f != nil {
		err = l.f.Close()
	}
	l.f, l.end = f, int64(len(b))
	l.grow = 2*l.end + slack
	return err
}

// syncDir makes a rename last.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	err = d.Sync()
	if errors.Is(err, unix.EINVAL) {
		err = nil // some network file systems cannot; they are no worse off
	}
	return errors.Join(err, d.Close())
}

func (l *mapLog) close() error { return l.f.Close() }
