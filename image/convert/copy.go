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

	written  atomic.Int64
	progress func(done, total int64)
	tell     sync.Mutex // around progress
	done     int64
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
	used   []bool // by unit of the window: holds something else than zeroes
	packer packer // nil when the target is not compressed
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
		used: make([]bool, units), sizes: make([]int, units)}, nil
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
	for _, wr := range writes {
		if _, err := w.out.WriteAt(wr.data, wr.host); err != nil {
			return fmt.Errorf("write output: %w", err)
		}
	}
	w.report(win.data)
	return nil
}

// read fills the buffer and finds the units that hold something.
func (w *worker) read(win *window) error {
	at := win.start
	for _, r := range win.runs {
		clear(w.buf[at-win.start : r.Offset-win.start])
		p := w.buf[r.Offset-win.start:][:r.Length]
		if n, err := w.disk.ReadAt(p, r.Offset); n < len(p) {
			if err == nil || errors.Is(err, io.EOF) {
				err = io.ErrUnexpectedEOF
			}
			return fmt.Errorf("read source at guest offset %d: %w", r.Offset, err)
		}
		at = r.Offset + r.Length
	}
	// The last unit of the disk may be cut; it is stored whole.
	clear(w.buf[at-win.start:])
	for i := range w.used {
		w.used[i] = !isZero(w.buf[int64(i)*w.unit:][:w.unit])
	}
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
	host int64
	data []byte
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
			out = appendChunk(out, host, packed[:w.sizes[i]])
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
			out = appendChunk(out, host, w.buf[guest-win.start:][:placed])
			w.written.Add(placed)
			i += int((placed + w.unit - 1) / w.unit)
		}
	}
	return out, nil
}

// appendChunk joins bytes that follow each other both in the file and in
// memory, so that they are written in one go.
func appendChunk(out []chunk, host int64, data []byte) []chunk {
	if n := len(out); n > 0 {
		last := &out[n-1]
		end := len(last.data)
		if last.host+int64(end) == host && cap(last.data) >= end+len(data) && &last.data[:end+1][end] == &data[0] {
			last.data = last.data[:end+len(data)]
			return out
		}
	}
	return append(out, chunk{host, data})
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
