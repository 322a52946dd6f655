package convert

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"sync/atomic"

	"golang.org/x/sync/errgroup"

	"hyper2kvm/formats"
)

// windowBytes is how much of the guest a worker takes at a time: small enough
// to stay in a core's cache between reading and writing.
const windowBytes = 1 << 20

// copier moves the data of a disk to a target. Windows of the guest are read
// (and compressed) by several workers at once; each then waits for the one
// before it, takes its place in the file, and writes while the next places.
type copier struct {
	disk   formats.Disk
	out    *os.File
	target target
	total  int64

	// noOffload is set where the kernel does not copy for us, or no better.
	noOffload atomic.Bool
	written   atomic.Int64
	progress  func(done, total int64)
	tell      sync.Mutex // around progress
	done      int64
}

// window is the work of one worker at a time: an aligned run of the guest.
type window struct {
	start, end int64
	runs       []formats.Extent // Data extents within, in order
	data       int64            // bytes in runs
	turn       <-chan struct{}  // closed when the window before is placed
	placed     chan struct{}    // closed when this one is
}

// run copies everything; it returns when all workers have ended.
func (c *copier) run(ctx context.Context, workers int) error {
	g, ctx := errgroup.WithContext(ctx)
	queue := make(chan *window)
	g.Go(func() error {
		defer close(queue)
		return c.split(ctx, queue)
	})
	for range workers {
		g.Go(func() error {
			w, err := c.newWorker()
			if err != nil {
				return err
			}
			for win := range queue {
				if err := w.do(ctx, win); err != nil {
					return err
				}
			}
			return nil
		})
	}
	return g.Wait()
}

// windowSize is windowBytes in whole units.
func (c *copier) windowSize() int64 {
	unit := c.target.Unit()
	return max(windowBytes/unit, 1) * unit
}

// split walks the extents of the disk and sends the windows that hold data.
func (c *copier) split(ctx context.Context, queue chan<- *window) error {
	size, step := c.disk.Size(), c.windowSize()
	first := make(chan struct{})
	close(first)
	var turn <-chan struct{} = first
	var win *window
	send := func() error {
		if win == nil {
			return nil
		}
		win.turn, win.placed = turn, make(chan struct{})
		turn = win.placed
		select {
		case queue <- win:
			win = nil
			return nil
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	for off := int64(0); off < size; {
		e, err := c.disk.Extent(off, size-off)
		if err != nil {
			return fmt.Errorf("map of the source: %w", err)
		}
		off += e.Length
		for e.Kind == formats.Data && e.Length > 0 {
			if start := e.Offset - e.Offset%step; win == nil || win.start != start {
				if err := send(); err != nil {
					return err
				}
				win = &window{start: start, end: min(start+step, size)}
			}
			var head formats.Extent
			head, e = cut(e, win.end-e.Offset)
			win.runs = append(win.runs, head)
			win.data += head.Length
		}
		if err := ctx.Err(); err != nil {
			return context.Cause(ctx)
		}
	}
	return send()
}

// cut splits an extent after n bytes.
func cut(e formats.Extent, n int64) (head, rest formats.Extent) {
	if n >= e.Length {
		return e, formats.Extent{Kind: e.Kind}
	}
	head, rest = e, e
	head.Length = n
	rest.Offset, rest.Length = e.Offset+n, e.Length-n
	if e.Plain != nil {
		rest.Plain = &formats.Location{File: e.Plain.File, Offset: e.Plain.Offset + n}
	}
	return head, rest
}

// worker has the buffers of one goroutine.
type worker struct {
	*copier
	unit   int64
	buf    []byte
	used   []bool              // by unit of the window: holds something else than zeroes
	plain  []*formats.Location // by unit: where its bytes lie, nil when they are in buf
	packer packer              // nil when the target is not compressed
	packed []byte
	sizes  []int // by unit of the window: packed bytes, 0 when stored as it is
}

func (c *copier) newWorker() (*worker, error) {
	p, err := newPacker(c.target)
	if err != nil {
		return nil, err
	}
	n := c.windowSize()
	units := n / c.target.Unit()
	return &worker{copier: c, unit: c.target.Unit(), buf: make([]byte, n), packer: p,
		used: make([]bool, units), plain: make([]*formats.Location, units), sizes: make([]int, units)}, nil
}

// do carries out one window.
func (w *worker) do(ctx context.Context, win *window) error {
	if err := w.read(win); err != nil {
		return err
	}
	if w.packer != nil {
		if err := w.pack(win); err != nil {
			return err
		}
	}
	select {
	case <-win.turn:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	writes, err := w.place(win)
	if err != nil {
		return err
	}
	close(win.placed)
	for _, c := range writes {
		if err := w.write(c); err != nil {
			return err
		}
	}
	w.flush(writes)
	w.report(win.data)
	return nil
}

// read fills the buffer and finds the units that hold something. Units that
// the kernel can copy are only looked at.
func (w *worker) read(win *window) error {
	clear(w.used)
	clear(w.plain)
	at := win.start
	for _, r := range win.runs {
		clear(w.buf[at-win.start : r.Offset-win.start])
		at = r.Offset + r.Length
		if err := w.readRun(win, r); err != nil {
			return fmt.Errorf("read source at guest offset %d: %w", r.Offset, err)
		}
	}
	// The last unit of the disk may be cut; it is stored whole.
	clear(w.buf[at-win.start:])
	for i := range w.used {
		if w.plain[i] == nil {
			w.used[i] = !isZero(w.buf[int64(i)*w.unit:][:w.unit])
		}
	}
	return nil
}

// readRun reads one run of the source, except for the whole units in it that
// can be left to the kernel.
func (w *worker) readRun(win *window, r formats.Extent) error {
	if w.packer != nil || r.Plain == nil || w.noOffload.Load() || osFile(r.Plain.File) == nil {
		return w.fill(win, r)
	}
	// Up to the first whole unit, whole units, and what is left.
	head, r := cut(r, (w.unit-r.Offset%w.unit)%w.unit)
	if head.Length > 0 {
		if err := w.fill(win, head); err != nil {
			return err
		}
	}
	for r.Length >= w.unit {
		var u formats.Extent
		u, r = cut(r, w.unit)
		if err := w.look(win, u); err != nil {
			return err
		}
	}
	if r.Length > 0 {
		return w.fill(win, r)
	}
	return nil
}

// fill reads the bytes of a run into the buffer.
func (w *worker) fill(win *window, r formats.Extent) error {
	p := w.buf[r.Offset-win.start:][:r.Length]
	n, err := w.disk.ReadAt(p, r.Offset)
	if n == len(p) {
		return nil
	}
	if err == nil || errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return err
}

// peekBytes is how much of a unit is read to see that it is not empty. Units
// that begin with zeroes are read whole.
const peekBytes = 512

// look reads as much of a unit as tells whether it holds something.
func (w *worker) look(win *window, u formats.Extent) error {
	i := (u.Offset - win.start) / w.unit
	peek, _ := cut(u, min(peekBytes, w.unit))
	if err := w.fill(win, peek); err != nil {
		return err
	}
	if isZero(w.buf[u.Offset-win.start:][:peek.Length]) {
		return w.fill(win, u)
	}
	w.used[i], w.plain[i] = true, u.Plain
	return nil
}

// isZero compares the bytes with themselves, one further: the comparison of
// the run-time library is faster than any loop.
func isZero(p []byte) bool {
	return len(p) == 0 || p[0] == 0 && bytes.Equal(p[:len(p)-1], p[1:])
}

// pack compresses the used units one after the other into w.packed.
func (w *worker) pack(win *window) error {
	w.packed = w.packed[:0]
	for i, used := range w.used {
		w.sizes[i] = 0
		if !used {
			continue
		}
		before := len(w.packed)
		packed, err := w.packer.Pack(w.packed, win.start+int64(i)*w.unit, w.buf[int64(i)*w.unit:][:w.unit])
		if err != nil {
			return fmt.Errorf("compress guest offset %d: %w", win.start+int64(i)*w.unit, err)
		}
		w.packed = packed
		w.sizes[i] = len(packed) - before
	}
	return nil
}

// chunk is bytes and where they go in the file.
type chunk struct {
	host  int64
	data  []byte            // room for the bytes, and the bytes unless plain is set
	plain *formats.Location // where the bytes lie in the source, for the kernel to copy
}

// place gives every used unit its place, in guest order.
func (w *worker) place(win *window) ([]chunk, error) {
	var out []chunk
	packed := w.packed
	for i := 0; i < len(w.used); {
		if !w.used[i] {
			i++
			continue
		}
		guest := win.start + int64(i)*w.unit
		if w.packer != nil && w.sizes[i] > 0 {
			host, err := w.target.(packing).PlacePacked(guest, w.sizes[i])
			if err != nil {
				return nil, err
			}
			out = appendChunk(out, chunk{host: host, data: packed[:w.sizes[i]]})
			w.written.Add(min(w.unit, win.end-guest))
			packed = packed[w.sizes[i]:]
			i++
			continue
		}
		n := i + 1
		for n < len(w.used) && w.used[n] && (w.packer == nil || w.sizes[n] == 0) {
			n++
		}
		for i < n {
			guest := win.start + int64(i)*w.unit
			length := min(int64(n-i)*w.unit, win.end-guest)
			host, placed, err := w.target.Place(guest, length)
			if err != nil {
				return nil, err
			}
			for end := guest + placed; guest < end; guest += w.unit {
				data := w.buf[guest-win.start:][:min(w.unit, end-guest)]
				out = appendChunk(out, chunk{host, data, w.plain[i]})
				host += w.unit
				i++
			}
			w.written.Add(placed)
		}
	}
	return out, nil
}

// appendChunk joins bytes that follow each other both in the file and where
// they come from, so that they are moved in one go.
func appendChunk(out []chunk, c chunk) []chunk {
	n := len(out)
	if n == 0 {
		return append(out, c)
	}
	last := &out[n-1]
	end := len(last.data)
	joined := last.host+int64(end) == c.host && (last.plain == nil) == (c.plain == nil) &&
		cap(last.data) >= end+len(c.data) && &last.data[:end+1][end] == &c.data[0]
	if joined && c.plain != nil {
		joined = last.plain.File == c.plain.File && last.plain.Offset+int64(end) == c.plain.Offset
	}
	if !joined {
		return append(out, c)
	}
	last.data = last.data[:end+len(c.data)]
	return out
}

func (c *copier) report(n int64) {
	if c.progress == nil {
		return
	}
	c.tell.Lock()
	defer c.tell.Unlock()
	c.done += n
	c.progress(c.done, c.total)
}
