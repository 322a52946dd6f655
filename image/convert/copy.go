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
	disk formats.Disk
	out  *os.File
	*placer
	log   *journal // nil where no checkpoints are kept
	from  int64    // guest offset to begin at: what lies before is in the output
	total int64
	// wait is called before so many bytes of the source are read.
	wait func(ctx context.Context, bytes int64) error

	// keepsOld says that what is not written keeps its old content: a device.
	// fills says that zeroes within the data have to be written there.
	keepsOld, fills bool
	directOut       *os.File              // the output for direct I/O; nil for a file
	devices         map[*os.File]*os.File // block devices of the source, for direct I/O where that is not nil
	// noOffload is set where the kernel does not copy for us, or no better.
	noOffload atomic.Bool
	progress  func(done, total int64)

	mu   sync.Mutex // around all below, and progress
	done int64
	// ended are the ends of windows that are complete, by their number; next is
	// the first that is not, and safe is where the ones before it end.
	ended      map[int64]int64
	next, safe int64
}

// window is the work of one worker at a time: an aligned run of the guest.
type window struct {
	number     int64 // in the order of the guest
	start, end int64
	runs       []formats.Extent // Data extents within, in order
	data       int64            // bytes in runs
	turn       <-chan struct{}  // closed when the window before is placed
	placed     chan struct{}    // closed when this one is
}

// copy copies everything; it returns when all workers have ended.
func (c *copier) copy(ctx context.Context, workers int) error {
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

// split walks the extents of the disk and sends the windows that hold data.
func (c *copier) split(ctx context.Context, queue chan<- *window) error {
	step, number := c.window(), int64(0)
	first := make(chan struct{})
	close(first)
	var turn <-chan struct{} = first
	var win *window
	send := func() error {
		if win == nil {
			return nil
		}
		win.turn, win.placed, win.number = turn, make(chan struct{}), number
		turn = win.placed
		number++
		select {
		case queue <- win:
			win = nil
			return nil
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	for off := c.from; off < c.size; {
		e, err := c.disk.Extent(off, c.size-off)
		if err != nil {
			return fmt.Errorf("map of the source: %w", err)
		}
		off += e.Length
		for e.Kind == formats.Data && e.Length > 0 {
			if start := e.Offset - e.Offset%step; win == nil || win.start != start {
				if err := send(); err != nil {
					return err
				}
				win = &window{start: start, end: min(start+step, c.size)}
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
	buf    []byte
	used   []bool              // by block of the window: holds something else than zeroes
	plain  []*formats.Location // by block: where its bytes lie, nil when they are in buf
	packer packer              // nil when the target is not compressed
	packed []byte
	behind []span // what this worker wrote last to a device
	sizes  []int  // by block of the window: packed bytes, 0 when stored as it is
}

func (c *copier) newWorker() (*worker, error) {
	p, err := newPacker(c.target)
	if err != nil {
		return nil, err
	}
	n := c.window()
	blocks := n / c.block
	return &worker{copier: c, buf: alignedBuffer(n), packer: p,
		used: make([]bool, blocks), plain: make([]*formats.Location, blocks), sizes: make([]int, blocks)}, nil
}

// do carries out one window.
func (w *worker) do(ctx context.Context, win *window) error {
	if err := w.wait(ctx, win.data); err != nil {
		return err
	}
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
	writes, err := w.layOut(win)
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
	w.forget(win)
	w.finish(win)
	return nil
}

// read fills the buffer and finds the blocks that hold something. Blocks that
// the kernel can copy are only looked at.
func (w *worker) read(win *window) error {
	clear(w.used)
	clear(w.plain)
	at := win.start
	for _, r := range win.runs {
		clear(w.buf[at-win.start : r.Offset-win.start])
		at = r.Offset + r.Length
		if w.fills {
			for i := (r.Offset - win.start) / w.block; i*w.block < at-win.start; i++ {
				w.used[i] = true
			}
		}
		if err := w.readRun(win, r); err != nil {
			return fmt.Errorf("read source at guest offset %d: %w", r.Offset, err)
		}
	}
	// The last block of the disk may be cut; packed, it is stored whole.
	clear(w.buf[at-win.start:])
	for i := range w.used {
		if w.plain[i] == nil && !w.used[i] {
			w.used[i] = !isZero(w.buf[int64(i)*w.block:][:w.block])
		}
	}
	return nil
}

// readRun reads one run of the source, except for the whole blocks in it that
// can be left to the kernel.
func (w *worker) readRun(win *window, r formats.Extent) error {
	if w.packer != nil || r.Plain == nil || w.noOffload.Load() || osFile(r.Plain.File) == nil {
		return w.fill(win, r)
	}
	// Up to the first whole block, whole blocks, and what is left.
	head, r := cut(r, (w.block-r.Offset%w.block)%w.block)
	if head.Length > 0 {
		if err := w.fill(win, head); err != nil {
			return err
		}
	}
	for r.Length >= w.block {
		var u formats.Extent
		u, r = cut(r, w.block)
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
	p, off := w.buf[r.Offset-win.start:][:r.Length], r.Offset
	if r.Plain != nil && len(w.devices) > 0 {
		done := w.readDirect(p, osFile(r.Plain.File), r.Plain.Offset)
		if p, off = p[done:], off+int64(done); len(p) == 0 {
			return nil
		}
	}
	n, err := w.disk.ReadAt(p, off)
	if n == len(p) {
		return nil
	}
	if err == nil || errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return err
}

// peekBytes is how much of a block is read to see that it is not empty. Those
// that begin with zeroes are read whole.
const peekBytes = 512

// look reads as much of a block as tells whether it holds something.
func (w *worker) look(win *window, u formats.Extent) error {
	i := (u.Offset - win.start) / w.block
	peek, _ := cut(u, min(peekBytes, w.block))
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

// pack compresses the used blocks one after the other into w.packed.
func (w *worker) pack(win *window) error {
	w.packed = w.packed[:0]
	for i, used := range w.used {
		w.sizes[i] = 0
		if !used {
			continue
		}
		before := len(w.packed)
		packed, err := w.packer.Pack(w.packed, win.start+int64(i)*w.block, w.buf[int64(i)*w.block:][:w.block])
		if err != nil {
			return fmt.Errorf("compress guest offset %d: %w", win.start+int64(i)*w.block, err)
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

// layOut gives what is used of the window its place, in guest order, and
// records it.
func (w *worker) layOut(win *window) ([]chunk, error) {
	pieces := w.pieces()
	if w.log != nil {
		if err := w.log.window(win.start, pieces); err != nil {
			return nil, err
		}
	}
	var out []chunk
	packed := w.packed
	err := w.place(win.start, pieces, func(first, n int, host int64) {
		if size := w.sizes[first]; w.packer != nil && size > 0 {
			out = appendChunk(out, chunk{host: host, data: packed[:size]})
			packed = packed[size:]
			return
		}
		for i := first; i < first+n; i++ {
			at := int64(i) * w.block
			data := w.buf[at:][:min(w.block, win.end-win.start-at)]
			out = appendChunk(out, chunk{host, data, w.plain[i]})
			host += w.block
		}
	})
	return out, err
}

// pieces joins the used blocks to runs that are placed alike.
func (w *worker) pieces() []piece {
	var out []piece
	for i, used := range w.used {
		if !used {
			continue
		}
		if w.packer != nil && w.sizes[i] > 0 {
			out = append(out, piece{first: i, n: 1, packed: w.sizes[i]})
			continue
		}
		if n := len(out); n > 0 && out[n-1].packed == 0 && out[n-1].first+out[n-1].n == i {
			out[n-1].n++
			continue
		}
		out = append(out, piece{first: i, n: 1})
	}
	return out
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

// finish counts a window as complete.
func (c *copier) finish(win *window) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.ended[win.number] = win.end
	for end, ok := c.ended[c.next]; ok; end, ok = c.ended[c.next] {
		delete(c.ended, c.next)
		c.next++
		c.safe = end
	}
	c.done += win.data
	if c.progress != nil {
		c.progress(c.done, c.total)
	}
}
