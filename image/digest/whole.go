package digest

import (
	"context"
	"crypto/sha256"
	"hash"
	"runtime"

	"golang.org/x/sync/errgroup"

	"hyper2kvm/formats"
)

// part is a piece of a disk on its way to the hash.
type part struct {
	off, length int64
	buf         []byte        // nil for zeroes
	read        chan struct{} // closed when buf is filled; nil for zeroes
}

// Whole gives the digest of all that a guest sees. A hash goes from front to
// back on one core; the others read, and unpack, ahead of it.
func Whole(ctx context.Context, d formats.Disk, progress Progress) (Sum, error) {
	workers := runtime.GOMAXPROCS(0)
	w := &whole{disk: d, order: make(chan part, 2*workers), reads: make(chan part), free: make(chan []byte, 3*workers)}
	for range cap(w.free) {
		w.free <- nil // allocated when first used
	}
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return w.split(ctx) })
	for range workers {
		g.Go(func() error {
			for p := range w.reads {
				if err := fill(d, p.buf, p.off); err != nil {
					return err
				}
				close(p.read)
			}
			return nil
		})
	}
	h := sha256.New()
	g.Go(func() error { return w.hash(ctx, h, progress) })
	err := g.Wait()
	return Sum(h.Sum(nil)), err
}

type whole struct {
	disk  formats.Disk
	order chan part   // as they lie on the disk
	reads chan part   // those to be read
	free  chan []byte // buffers, which bound the memory
}

// split walks the disk.
func (w *whole) split(ctx context.Context) error {
	defer close(w.order)
	defer close(w.reads)
	for off := int64(0); off < w.disk.Size(); {
		e, err := w.disk.Extent(off, w.disk.Size()-off)
		if err != nil {
			return err
		}
		p := part{off: off, length: e.Length}
		if e.Kind != formats.Zero {
			if p, err = w.data(ctx, off, min(e.Length, chunk)); err != nil {
				return err
			}
		}
		select {
		case w.order <- p:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		off += p.length
	}
	return nil
}

// data has a piece read.
func (w *whole) data(ctx context.Context, off, length int64) (part, error) {
	p := part{off: off, length: length, read: make(chan struct{})}
	select {
	case p.buf = <-w.free:
	case <-ctx.Done():
		return p, context.Cause(ctx)
	}
	if p.buf == nil {
		p.buf = make([]byte, chunk)
	}
	p.buf = p.buf[:length]
	select {
	case w.reads <- p:
		return p, nil
	case <-ctx.Done():
		return p, context.Cause(ctx)
	}
}

// hash takes the pieces in order.
func (w *whole) hash(ctx context.Context, h hash.Hash, progress Progress) error {
	zeroes := make([]byte, chunk)
	for p := range w.order {
		if p.read != nil {
			select {
			case <-p.read:
			case <-ctx.Done():
				return context.Cause(ctx)
			}
			h.Write(p.buf)
			w.free <- p.buf[:chunk]
		}
		for left := p.length; p.read == nil && left > 0; left -= chunk {
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			h.Write(zeroes[:min(left, chunk)])
			if progress != nil {
				progress(p.off+p.length-left, w.disk.Size())
			}
		}
		if progress != nil {
			progress(p.off+p.length, w.disk.Size())
		}
	}
	return nil
}
