package overlay

import (
	"bytes"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// WriteAt implements io.WriterAt. Blocks that are all zeroes are recorded as
// such and take no space.
func (o *Overlay) WriteAt(p []byte, off int64) (int, error) {
	if err := o.checkRange(off, int64(len(p))); err != nil {
		return 0, fmt.Errorf("write: %w", err)
	}
	done := 0
	for done < len(p) {
		at := off + int64(done)
		n := int(min(int64(len(p)-done), chunkBytes-at%chunkBytes))
		if err := o.writeChunk(p[done:done+n], at); err != nil {
			return done, fmt.Errorf("write %d bytes at %d: %w", n, at, err)
		}
		done += n
	}
	return done, nil
}

// Zero makes a range read as zeroes, without taking space for it.
func (o *Overlay) Zero(off, length int64) error {
	if err := o.checkRange(off, length); err != nil {
		return fmt.Errorf("zero: %w", err)
	}
	for end := off + length; off < end; {
		n := min(end-off, chunkBytes-off%chunkBytes)
		if err := o.zeroChunk(off, n); err != nil {
			return fmt.Errorf("zero %d bytes at %d: %w", n, off, err)
		}
		off += n
	}
	return nil
}

// Trim discards a range: it reads as zeroes afterwards, and the space that the
// overlay had for it is given back.
func (o *Overlay) Trim(off, length int64) error { return o.Zero(off, length) }

func (o *Overlay) checkRange(off, length int64) error {
	if off < 0 || length < 0 || off > o.size || length > o.size-off {
		return fmt.Errorf("%d bytes at %d of a disk of %d: %w", length, off, o.size, ErrRange)
	}
	return nil
}

// writeChunk writes p, which lies within one chunk.
func (o *Overlay) writeChunk(p []byte, off int64) error {
	c := off / chunkBytes
	lock := &o.locks[c%stripes]
	lock.Lock()
	defer lock.Unlock()
	defer o.unsynced.Store(true)
	for len(p) > 0 {
		n, err := o.writeSome(c, p, off)
		if err != nil {
			return err
		}
		p, off = p[n:], off+int64(n)
	}
	return nil
}

// writeSome writes the first part of p that is of one sort: a part of a block,
// blocks of zeroes, or other blocks.
func (o *Overlay) writeSome(c int64, p []byte, off int64) (int, error) {
	if in := off % BlockSize; in != 0 || o.isPart(p, off) {
		n := min(len(p), int(BlockSize-in))
		return n, o.writePart(c, p[:n], off)
	}
	first := o.firstBlock(p)
	zeroes := isZero(p[:first])
	n := first
	for n < len(p) && !o.isPart(p[n:], off+int64(n)) {
		next := o.firstBlock(p[n:])
		if isZero(p[n:n+next]) != zeroes {
			break
		}
		n += next
	}
	from, to := block(off), block(off+int64(n)-1)+1
	if zeroes {
		return n, o.zeroBlocks(c, from, to)
	}
	if _, err := o.data.WriteAt(p[:n], off); err != nil {
		return 0, err
	}
	o.table.set(c, from, to, own)
	return n, nil
}

// isPart reports whether p, which begins at the begin of a block, does not
// fill it. The last block of the disk is full at the end of the disk.
func (o *Overlay) isPart(p []byte, off int64) bool {
	return len(p) < BlockSize && off+int64(len(p)) < o.size
}

func (o *Overlay) firstBlock(p []byte) int { return min(len(p), BlockSize) }

// writePart writes p, which lies within one block and does not fill it.
func (o *Overlay) writePart(c int64, p []byte, off int64) error {
	b := block(off)
	now, _ := o.table.run(c, b, b+1)
	if now == own {
		_, err := o.data.WriteAt(p, off)
		return err
	}
	if now == zero && isZero(p) {
		return nil
	}
	var whole [BlockSize]byte
	start := off - off%BlockSize
	if now == absent {
		if _, err := o.readRun(absent, whole[:min(BlockSize, o.size-start)], start); err != nil {
			return err
		}
	}
	copy(whole[off-start:], p)
	if _, err := o.data.WriteAt(whole[:], start); err != nil {
		return err
	}
	o.table.set(c, b, b+1, own)
	return nil
}

// zeroChunk zeroes length bytes within one chunk.
func (o *Overlay) zeroChunk(off, length int64) error {
	c, end := off/chunkBytes, off+length
	lock := &o.locks[c%stripes]
	lock.Lock()
	defer lock.Unlock()
	defer o.unsynced.Store(true)
	var zeroes [BlockSize]byte
	if in := off % BlockSize; in != 0 {
		n := min(length, BlockSize-in)
		if err := o.writePart(c, zeroes[:n], off); err != nil {
			return err
		}
		off += n
	}
	whole := end - end%BlockSize
	if end == o.size {
		whole = roundUp(end)
	}
	if off < min(whole, end) {
		from, to := block(off), block(whole-1)+1
		if err := o.zeroBlocks(c, from, to); err != nil {
			return err
		}
		off = whole
	}
	if off < end {
		return o.writePart(c, zeroes[:end-off], off)
	}
	return nil
}

// zeroBlocks makes blocks [from, to) of chunk c zero.
func (o *Overlay) zeroBlocks(c int64, from, to int) error {
	had := false
	for b := from; b < to && !had; {
		s, next := o.table.run(c, b, to)
		had = s == own
		b = next
	}
	o.table.set(c, from, to, zero)
	if had {
		// The state alone makes it read as zeroes: where the file system cannot
		// give the space back, the space is all that is lost.
		_ = punch(o.data, c*chunkBytes+int64(from)*BlockSize, int64(to-from)*BlockSize)
	}
	return nil
}

// punch makes a hole in f.
func punch(f *os.File, off, length int64) error {
	return unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, off, length)
}

// isZero compares each byte with the next, which the compiler's memequal does
// at the speed of memory.
func isZero(p []byte) bool {
	return len(p) == 0 || p[0] == 0 && bytes.Equal(p[1:], p[:len(p)-1])
}

// Sync brings what was written to stable storage: first the data, then the map
// that makes it count.
func (o *Overlay) Sync() error {
	o.syncing.Lock()
	defer o.syncing.Unlock()
	if o.broken != nil {
		return o.broken
	}
	if !o.unsynced.Swap(false) {
		return nil
	}
	if err := o.sync(); err != nil {
		// After a failed fsync the kernel may have dropped what it could not
		// write: no later one can be believed.
		o.broken = fmt.Errorf("sync overlay: %w", err)
	}
	return o.broken
}

func (o *Overlay) sync() error {
	// The states are taken before the data is synced. A block is marked after
	// it was written, so that all the marked ones are covered.
	anew := o.log.overgrown()
	records := o.takeRecords(anew)
	if err := unix.Fdatasync(int(o.data.Fd())); err != nil {
		return err
	}
	if anew {
		return o.log.rewrite(records)
	}
	return o.log.append(records)
}

// takeRecords gives the states of the chunks that changed since the last call,
// or, for a new log, of all that are not absent throughout.
func (o *Overlay) takeRecords(all bool) []record {
	var out []record
	changed := o.table.takeChanged()
	if !all {
		for c := range changed {
			out = append(out, o.record(c))
		}
		return out
	}
	for c := range int64(len(o.table.chunks)) {
		if r := o.record(c); r.state != absent {
			out = append(out, r)
		}
	}
	return out
}

// record copies the state of chunk c.
func (o *Overlay) record(c int64) record {
	lock := &o.locks[c%stripes]
	lock.RLock()
	defer lock.RUnlock()
	r := record{chunk: c, state: o.table.chunks[c].state}
	if r.state == mixed {
		p := *o.table.chunks[c].page
		r.page = &p
	}
	return r
}
