// Package digest says with sha256 what a guest sees on a disk: of the whole in
// one number, which is that of the raw image, or of each range of it, so that
// another site can tell which part of its copy is wrong.
//
// All cores work, in bounded memory, and what is empty is never read.
package digest

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"runtime"
	"sync"
	"sync/atomic"

	"golang.org/x/sync/errgroup"

	"hyper2kvm/formats"
)

// Sum is a digest.
type Sum = [sha256.Size]byte

// MaxRanges is how many ranges a disk may be divided into. With all of them, a
// list takes some 100 MB of text.
const MaxRanges = 1 << 20

// ErrRange says that a disk cannot be divided into ranges of that size.
var ErrRange = errors.New("impossible size of a range")

// chunk is how much is read at a time, in bytes.
const chunk = 1 << 20

// Progress is told how many bytes of the disk are done, from one goroutine at a
// time; nil is silent.
type Progress func(done, total int64)

// Ranges gives the digest of every range of size bytes; the last one may be
// shorter.
func Ranges(ctx context.Context, d formats.Disk, size int64, progress Progress) ([]Sum, error) {
	if size <= 0 || (d.Size()-1)/size >= MaxRanges {
		return nil, fmt.Errorf("%d bytes of a disk of %d: %w: at least %d", size, d.Size(), ErrRange, max(1, (d.Size()+MaxRanges-1)/MaxRanges))
	}
	sums := make([]Sum, (d.Size()+size-1)/size)
	j := &job{disk: d, size: size, sums: sums, progress: progress}
	g, ctx := errgroup.WithContext(ctx)
	for range min(runtime.GOMAXPROCS(0), len(sums)) {
		g.Go(func() error { return j.work(ctx) })
	}
	return sums, g.Wait()
}

// job is one division of a disk.
type job struct {
	disk     formats.Disk
	size     int64 // of a range
	sums     []Sum
	next     atomic.Int64 // range to be done
	progress Progress

	zeroOnce sync.Once
	zero     Sum // of a whole range that is empty

	mu   sync.Mutex
	done int64 // bytes
}

func (j *job) work(ctx context.Context) error {
	buf, zeroes := make([]byte, min(chunk, j.size)), make([]byte, min(chunk, j.size))
	for {
		i := j.next.Add(1) - 1
		if i >= int64(len(j.sums)) {
			return nil
		}
		if err := ctx.Err(); err != nil {
			return context.Cause(ctx)
		}
		off := i * j.size
		length := min(j.size, j.disk.Size()-off)
		sum, err := j.one(ctx, off, length, buf, zeroes)
		if err != nil {
			return err
		}
		j.sums[i] = sum
		j.report(length)
	}
}

// one gives the digest of a range.
func (j *job) one(ctx context.Context, off, length int64, buf, zeroes []byte) (Sum, error) {
	empty, err := isEmpty(j.disk, off, length)
	if err != nil {
		return Sum{}, err
	}
	if empty && length == j.size {
		j.zeroOnce.Do(func() { j.zero = ofZeroes(length, zeroes) })
		return j.zero, nil
	}
	h := sha256.New()
	for end := off + length; off < end; {
		if err := ctx.Err(); err != nil {
			return Sum{}, context.Cause(ctx)
		}
		e, err := j.disk.Extent(off, min(end-off, int64(len(buf))))
		if err != nil {
			return Sum{}, err
		}
		p := zeroes[:e.Length]
		if e.Kind != formats.Zero {
			p = buf[:e.Length]
			if err := fill(j.disk, p, off); err != nil {
				return Sum{}, err
			}
		}
		h.Write(p)
		off += e.Length
	}
	return Sum(h.Sum(nil)), nil
}

// isEmpty reports whether a range holds nothing at all.
func isEmpty(d formats.Disk, off, length int64) (bool, error) {
	for end := off + length; off < end; {
		e, err := d.Extent(off, end-off)
		if err != nil || e.Kind != formats.Zero {
			return false, err
		}
		off += e.Length
	}
	return true, nil
}

func ofZeroes(length int64, zeroes []byte) Sum {
	h := sha256.New()
	for length > 0 {
		n, _ := h.Write(zeroes[:min(length, int64(len(zeroes)))])
		length -= int64(n)
	}
	return Sum(h.Sum(nil))
}

func (j *job) report(n int64) {
	if j.progress == nil {
		return
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	j.done += n
	j.progress(j.done, j.disk.Size())
}

func fill(d formats.Disk, p []byte, off int64) error {
	n, err := d.ReadAt(p, off)
	if n == len(p) {
		return nil
	}
	if err == nil || errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return fmt.Errorf("read at guest offset %d: %w", off, err)
}
