package convert

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"sync"
	"sync/atomic"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"hyper2kvm/formats"
	"hyper2kvm/formats/qcow2"
	"hyper2kvm/formats/raw"
	"hyper2kvm/formats/vdi"
	"hyper2kvm/formats/vhd"
	"hyper2kvm/formats/vhdx"
	"hyper2kvm/formats/vmdk"
	"hyper2kvm/image/hostfile"
)

// prove reads the output back, as far as opt asks.
func prove(ctx context.Context, disk formats.Disk, f *os.File, opt Options, res *Result) error {
	if !opt.Verify && !opt.Digest {
		return nil
	}
	if err := forgetWritten(f); err != nil {
		return err
	}
	got, err := reopen(f, opt.Format, disk.Size())
	if err != nil {
		return fmt.Errorf("open output to verify it: %w: %w", ErrVerify, err)
	}
	if opt.Verify {
		if opt.Bandwidth > 0 {
			wait := pace(opt.Bandwidth)
			disk = paced{disk, func(n int64) error { return wait(ctx, n) }}
		}
		switch _, err := Compare(ctx, disk, readBack{got}, nil); {
		case errors.Is(err, ErrDiffer):
			return fmt.Errorf("%w: %w", ErrVerify, err)
		case err != nil:
			return fmt.Errorf("verify output: %w", err)
		}
	}
	if opt.Digest {
		res.Digest, err = Digest(ctx, got, nil)
	}
	return err
}

// forgetWritten takes a file out of the page cache, so that what is read of it
// comes from the disk: what the cache has is what was to be written.
func forgetWritten(f *os.File) error {
	if err := f.Sync(); err != nil {
		return fmt.Errorf("sync output: %w", err)
	}
	// Only a hint: file systems in memory have nothing else.
	_ = unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED)
	return nil
}

// readBack is the output as the verification reads it: what cannot be read was
// written wrong.
type readBack struct{ formats.Disk }

// ReadAt implements formats.Disk.
func (d readBack) ReadAt(p []byte, off int64) (int, error) {
	n, err := d.Disk.ReadAt(p, off)
	if err != nil && !errors.Is(err, io.EOF) {
		err = fmt.Errorf("%w: %w", ErrVerify, err)
	}
	return n, err
}

// Extent implements formats.Disk.
func (d readBack) Extent(off, limit int64) (formats.Extent, error) {
	e, err := d.Disk.Extent(off, limit)
	if err != nil {
		err = fmt.Errorf("%w: %w", ErrVerify, err)
	}
	return e, err
}

// reopen reads the image just written through the parser of its format.
func reopen(f *os.File, format string, size int64) (formats.Disk, error) {
	h, err := hostfile.New(f)
	if err != nil {
		return nil, err
	}
	switch format {
	case "raw":
		file := h.Format()
		if _, device := h.SectorSize(); device {
			file.Size = size // what lies behind is not of the disk
		}
		return raw.New(file), nil
	case "vmdk":
		return vmdk.Open(h.Format(), nil)
	case "vhd":
		return vhd.Open(h.Format(), nil)
	case "vdi":
		return vdi.Open(h.Format(), nil)
	case "vhdx":
		return vhdx.Open(h.Format(), nil)
	}
	return qcow2.Open(h.Format(), nil)
}

// ErrDiffer says that two disks have different content.
var ErrDiffer = errors.New("disks differ")

// compareBytes is how much is compared in one piece.
const compareBytes = 1 << 20

// Compare compares what a guest sees on two disks, on all cores. Ranges that
// hold nothing on both sides are passed over unread. The longer disk may have
// zeroes only beyond the end of the other. When they differ it returns the
// offset of the first differing byte and ErrDiffer.
func Compare(ctx context.Context, a, b formats.Disk, progress func(done, total int64)) (int64, error) {
	c := &comparer{a: a, b: b, size: max(a.Size(), b.Size()), progress: progress}
	c.first.Store(c.size)
	g, ctx := errgroup.WithContext(ctx)
	queue := make(chan stretch)
	g.Go(func() error {
		defer close(queue)
		return c.split(ctx, queue)
	})
	for range min(runtime.GOMAXPROCS(0), maxWorkers) {
		g.Go(func() error {
			bufA, bufB := make([]byte, compareBytes), make([]byte, compareBytes)
			for s := range queue {
				if err := c.compare(s, bufA, bufB); err != nil {
					return err
				}
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return 0, err
	}
	if off := c.first.Load(); off < c.size {
		return off, fmt.Errorf("at offset %d: %w", off, ErrDiffer)
	}
	return 0, nil
}

// comparer compares two disks, stretch by stretch, several at once.
type comparer struct {
	a, b  formats.Disk
	size  int64
	first atomic.Int64 // the first difference found so far; size when there is none

	tell     sync.Mutex // around progress
	done     int64
	progress func(done, total int64)
}

// stretch is a part of both disks, at most compareBytes, of one kind on each.
type stretch struct {
	off, length int64
	a, b        formats.Kind
}

// split sends the stretches that have to be looked at, from front to back, and
// stops where a difference lies before.
func (c *comparer) split(ctx context.Context, queue chan<- stretch) error {
	for off := int64(0); off < c.first.Load(); {
		ea, err := extent(c.a, off, c.size-off)
		if err != nil {
			return err
		}
		eb, err := extent(c.b, off, ea.Length)
		if err != nil {
			return err
		}
		s := stretch{off, eb.Length, ea.Kind, eb.Kind}
		if s.a == s.b && s.a != formats.Data {
			c.count(s.length)
			if err := ctx.Err(); err != nil {
				return context.Cause(ctx)
			}
		} else {
			s.length = min(s.length, compareBytes)
			select {
			case queue <- s:
			case <-ctx.Done():
				return context.Cause(ctx)
			}
		}
		off += s.length
	}
	return nil
}

func (c *comparer) compare(s stretch, bufA, bufB []byte) error {
	p, q := bufA[:s.length], bufB[:s.length]
	if err := fill(c.a, p, s.off, s.a); err != nil {
		return err
	}
	if err := fill(c.b, q, s.off, s.b); err != nil {
		return err
	}
	if !bytes.Equal(p, q) {
		at := s.off
		for i := range p {
			if p[i] != q[i] {
				at += int64(i)
				break
			}
		}
		for old := c.first.Load(); at < old && !c.first.CompareAndSwap(old, at); old = c.first.Load() {
		}
	}
	c.count(s.length)
	return nil
}

func (c *comparer) count(n int64) {
	if c.progress == nil {
		return
	}
	c.tell.Lock()
	defer c.tell.Unlock()
	c.done += n
	c.progress(c.done, c.size)
}

// extent is Extent of a disk that goes on in zeroes after its end.
func extent(d formats.Disk, off, limit int64) (formats.Extent, error) {
	if off >= d.Size() {
		return formats.Extent{Offset: off, Length: limit, Kind: formats.Zero}, nil
	}
	return d.Extent(off, min(limit, d.Size()-off))
}

func fill(d formats.Disk, p []byte, off int64, kind formats.Kind) error {
	if kind == formats.Zero {
		clear(p)
		return nil
	}
	n, err := d.ReadAt(p, off)
	if n == len(p) {
		return nil
	}
	if err == nil {
		err = io.ErrUnexpectedEOF
	}
	return fmt.Errorf("read at guest offset %d: %w", off, err)
}

// Digest is the sha256, in hexadecimal, of all that a guest sees: the same as
// of the raw image. Holes are hashed without being read.
func Digest(ctx context.Context, d formats.Disk, progress func(done, total int64)) (string, error) {
	h := sha256.New()
	buf, zero := make([]byte, compareBytes), make([]byte, compareBytes)
	for off := int64(0); off < d.Size(); {
		if err := ctx.Err(); err != nil {
			return "", context.Cause(ctx)
		}
		e, err := d.Extent(off, min(compareBytes, d.Size()-off))
		if err != nil {
			return "", err
		}
		p := zero[:e.Length]
		if e.Kind != formats.Zero {
			p = buf[:e.Length]
			if err := fill(d, p, off, e.Kind); err != nil {
				return "", err
			}
		}
		h.Write(p)
		off += e.Length
		if progress != nil {
			progress(off, d.Size())
		}
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}
