// Package overlay lays a writable layer over a disk that is only read: what is
// written goes into one sparse host file, block by block, and a map beside it
// tells which blocks those are.
//
// A block lies in the file at the offset it has on the disk. The map has two
// bits for each block, kept only where a stretch of the disk is mixed, so that
// a huge disk that is hardly touched costs hardly any memory.
//
// An overlay behaves like a disk with a volatile write cache. After kill -9 or
// a power cut every block holds what it held at the last completed Sync, or
// something that was written to it since; never anything else.
package overlay

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"os"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"hyper2kvm/formats"
)

// BlockSize is the unit of copy on write, in bytes: what guests' file systems
// and page caches write in.
const BlockSize = 4096

// Sentinels to branch on.
var (
	// ErrBusy says that another process, or another Overlay, has the file open.
	ErrBusy = errors.New("overlay is in use")
	// ErrMap says that the map is not one, or not of this overlay.
	ErrMap = errors.New("not the map of this overlay")
	// ErrRange says that a range does not lie within the disk.
	ErrRange = errors.New("outside of the disk")
)

// stripes is how many locks the chunks share.
const stripes = 64

// Overlay is a writable layer over a Disk. Its methods may be called from
// several goroutines at once, except that Close must come last.
type Overlay struct {
	base  formats.Disk
	size  int64
	data  *os.File
	table table
	log   *mapLog
	// locks guard the chunks of the table, chunk i by locks[i%stripes], and
	// make each change of state one with the bytes behind it.
	locks [stripes]sync.RWMutex

	unsynced atomic.Bool // something was written since the last Sync
	syncing  sync.Mutex  // one Sync at a time
	broken   error       // set when a Sync failed: what is on disk is not known any more
}

// MapPath is the path of the map that belongs to the overlay at path.
func MapPath(path string) string { return path + ".map" }

// Create makes an empty overlay over base. An overlay that is there already is
// replaced, unless somebody has it open.
func Create(path string, base formats.Disk) (*Overlay, error) {
	f, err := lockFile(path, os.O_CREATE)
	if err != nil {
		return nil, err
	}
	o, err := create(f, path, base)
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return o, nil
}

func create(f *os.File, path string, base formats.Disk) (*Overlay, error) {
	size, err := checkSize(path, base)
	if err != nil {
		return nil, err
	}
	// The old map goes first: it must never be found with new data.
	if err := os.Remove(MapPath(path)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	if err := f.Truncate(0); err != nil {
		return nil, err
	}
	if err := f.Truncate(roundUp(size)); err != nil {
		return nil, err
	}
	o := &Overlay{base: base, size: size, data: f}
	o.table.init(size)
	o.log, err = createLog(MapPath(path), size, &o.table)
	return o, err
}

// Open opens the overlay that Create made at path over the same base.
func Open(path string, base formats.Disk) (*Overlay, error) {
	f, err := lockFile(path, 0)
	if err != nil {
		return nil, err
	}
	size, err := checkSize(path, base)
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	o := &Overlay{base: base, size: size, data: f}
	o.table.init(size)
	if o.log, err = openLog(MapPath(path), size, &o.table); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	if err := f.Truncate(roundUp(size)); err != nil { // a no-op, unless somebody cut the file
		return nil, errors.Join(err, o.log.close(), f.Close())
	}
	return o, nil
}

// Remove removes the overlay at path; it is no error when there is none.
func Remove(path string) error {
	var err error
	for _, p := range []string{path, MapPath(path), MapPath(path) + newSuffix} {
		if e := os.Remove(p); e != nil && !errors.Is(e, fs.ErrNotExist) {
			err = errors.Join(err, e)
		}
	}
	return err
}

// lockFile opens the data file so that nobody else can.
func lockFile(path string, flag int) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDWR|flag|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		if errors.Is(err, unix.EWOULDBLOCK) {
			err = ErrBusy
		}
		return nil, errors.Join(&fs.PathError{Op: "lock", Path: path, Err: err}, f.Close())
	}
	return f, nil
}

// checkSize refuses sizes that no file can have.
func checkSize(path string, base formats.Disk) (int64, error) {
	size := base.Size()
	if size < 0 || size > math.MaxInt64-chunkBytes {
		return 0, fmt.Errorf("overlay %s over a disk of %d bytes: %w", path, size, ErrRange)
	}
	return size, nil
}

func roundUp(n int64) int64 { return (n + BlockSize - 1) &^ (BlockSize - 1) }

// Size implements formats.Disk.
func (o *Overlay) Size() int64 { return o.size }

// ReadAt implements formats.Disk.
func (o *Overlay) ReadAt(p []byte, off int64) (int, error) {
	if off < 0 {
		return 0, fmt.Errorf("read overlay at negative offset %d", off)
	}
	if off >= o.size {
		return 0, io.EOF
	}
	var eof error
	if int64(len(p)) > o.size-off {
		p, eof = p[:o.size-off], io.EOF
	}
	done := 0
	for done < len(p) {
		at := off + int64(done)
		s, n := o.run(at, int64(len(p)-done))
		got, err := o.readRun(s, p[done:done+int(n)], at)
		done += got
		if err != nil {
			return done, err
		}
	}
	return done, eof
}

// readRun reads p, all of which is in state s, at off.
func (o *Overlay) readRun(s state, p []byte, off int64) (int, error) {
	var n int
	var err error
	switch s {
	case zero:
		clear(p)
		return len(p), nil
	case own:
		n, err = o.data.ReadAt(p, off)
	default:
		n, err = o.base.ReadAt(p, off)
	}
	if n == len(p) {
		return n, nil
	}
	if err == nil || errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return n, fmt.Errorf("read %d bytes at %d: %w", len(p), off, err)
}

// run gives the state of the byte at off, and for how many of the next limit
// bytes it stays the same.
func (o *Overlay) run(off, limit int64) (state, int64) {
	end := off + limit
	s, at := o.runInChunk(off, end)
	for at < end {
		next, to := o.runInChunk(at, end)
		if next != s {
			break
		}
		at = to
	}
	return s, at - off
}

// runInChunk is run up to the end of the chunk that holds off.
func (o *Overlay) runInChunk(off, end int64) (s state, to int64) {
	c := off / chunkBytes
	end = min(end, (c+1)*chunkBytes)
	lock := &o.locks[c%stripes]
	lock.RLock()
	defer lock.RUnlock()
	s, b := o.table.run(c, block(off), block(end-1)+1)
	return s, min(end, c*chunkBytes+int64(b)*BlockSize)
}

// maxRun bounds what one call of Extent looks at, so that a base of many small
// extents does not make each call scan the whole table.
const maxRun = 4 << 30

// Extent implements formats.Disk. Absent never appears: what the overlay does
// not hold is described by the base, which must be whole.
func (o *Overlay) Extent(offset, limit int64) (formats.Extent, error) {
	if offset < 0 || offset >= o.size || limit <= 0 {
		return formats.Extent{}, fmt.Errorf("extent at %d, limit %d of %d bytes: %w", offset, limit, o.size, ErrRange)
	}
	s, n := o.run(offset, min(limit, o.size-offset, maxRun))
	switch s {
	case zero:
		return formats.Extent{Offset: offset, Length: n, Kind: formats.Zero}, nil
	case own:
		return formats.Extent{Offset: offset, Length: n, Kind: formats.Data,
			Plain: &formats.Location{File: o.data, Offset: offset}}, nil
	}
	e, err := o.base.Extent(offset, n)
	if err != nil {
		return formats.Extent{}, err
	}
	if e.Kind == formats.Absent {
		return formats.Extent{}, fmt.Errorf("base of overlay at %d: %w", offset, formats.ErrAbsent)
	}
	return e, nil
}

// Dirty lists what differs from the base, in order: Data that was written and
// Zero that was zeroed or discarded.
func (o *Overlay) Dirty() []formats.Extent {
	var out []formats.Extent
	for off := int64(0); off < o.size; {
		s, n := o.run(off, o.size-off)
		if s != absent {
			e := formats.Extent{Offset: off, Length: n, Kind: formats.Zero}
			if s == own {
				e.Kind, e.Plain = formats.Data, &formats.Location{File: o.data, Offset: off}
			}
			out = append(out, e)
		}
		off += n
	}
	return out
}

// Close syncs the overlay and closes it.
func (o *Overlay) Close() error {
	return errors.Join(o.Sync(), o.log.close(), o.data.Close())
}

// Commit writes all that differs from the base into w, which is the base as a
// raw file or device. It changes nothing here and needs nothing of the base,
// so that it can be repeated after it was killed. Discarded blocks become
// holes where w can have them.
func (o *Overlay) Commit(ctx context.Context, w io.WriterAt) error {
	buf := make([]byte, 1<<20)
	for _, e := range o.Dirty() {
		if err := o.commitExtent(ctx, w, e, buf); err != nil {
			return fmt.Errorf("commit %d bytes at %d: %w", e.Length, e.Offset, err)
		}
	}
	return nil
}

func (o *Overlay) commitExtent(ctx context.Context, w io.WriterAt, e formats.Extent, buf []byte) error {
	if e.Kind == formats.Zero {
		if f, ok := w.(*os.File); ok && punch(f, e.Offset, e.Length) == nil {
			return nil
		}
		clear(buf)
	}
	for done := int64(0); done < e.Length; {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		p := buf[:min(int64(len(buf)), e.Length-done)]
		if e.Kind == formats.Data {
			if _, err := o.readRun(own, p, e.Offset+done); err != nil {
				return err
			}
		}
		if _, err := w.WriteAt(p, e.Offset+done); err != nil {
			return err
		}
		done += int64(len(p))
	}
	return nil
}
