package convert

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sync/errgroup"

	"hyper2kvm/formats"
	"hyper2kvm/formats/qcow2"
	"hyper2kvm/formats/raw"
	"hyper2kvm/formats/vmdk"
	"hyper2kvm/image/hostfile"
)

// prove reads the output back, as far as opt asks.
func prove(ctx context.Context, disk formats.Disk, f *os.File, opt Options, res *Result) error {
	if !opt.Verify && !opt.Digest {
		return nil
	}
	got, err := reopen(f, opt.Format)
	if err != nil {
		return fmt.Errorf("open output to verify it: %w: %w", ErrVerify, err)
	}
	if opt.Verify {
		switch off, err := Compare(ctx, disk, got, nil); {
		case errors.Is(err, ErrDiffer):
			return fmt.Errorf("at guest offset %d: %w", off, ErrVerify)
		case err != nil:
			return fmt.Errorf("verify output: %w", err)
		}
	}
	if opt.Digest {
		res.Digest, err = Digest(ctx, got, nil)
	}
	return err
}

// reopen reads the image just written through the parser of its format.
func reopen(f *os.File, format string) (formats.Disk, error) {
	h, err := hostfile.New(f)
	if err != nil {
		return nil, err
	}
	switch format {
	case "raw":
		return raw.New(h.Format()), nil
	case "vmdk":
		return vmdk.Open(h.Format(), nil)
	}
	return qcow2.Open(h.Format(), nil)
}

// ErrDiffer says that two disks have different content.
var ErrDiffer = errors.New("disks differ")

// compareBytes is how much is compared in one piece.
const compareBytes = 1 << 20

// Compare compares what a guest sees on two disks. Ranges that hold nothing on
// both sides are passed over unread. The longer disk may have zeroes only
// beyond the end of the other. When they differ it returns the offset of the
// first differing byte and ErrDiffer.
func Compare(ctx context.Context, a, b formats.Disk, progress func(done, total int64)) (int64, error) {
	c := &comparer{a: a, b: b, bufA: make([]byte, compareBytes), bufB: make([]byte, compareBytes)}
	size := max(a.Size(), b.Size())
	for off := int64(0); off < size; {
		if err := ctx.Err(); err != nil {
			return off, context.Cause(ctx)
		}
		n, err := c.step(off, size)
		if err != nil {
			return off + n, err
		}
		off += n
		if progress != nil {
			progress(off, size)
		}
	}
	return 0, nil
}

type comparer struct {
	a, b       formats.Disk
	bufA, bufB []byte
}

// step compares a run that begins at off and returns its length, or how far
// into it the first difference is.
func (c *comparer) step(off, size int64) (int64, error) {
	ea, err := extent(c.a, off, size-off)
	if err != nil {
		return 0, err
	}
	eb, err := extent(c.b, off, ea.Length)
	if err != nil {
		return 0, err
	}
	if ea.Kind == eb.Kind && ea.Kind != formats.Data {
		return eb.Length, nil
	}
	n := min(eb.Length, compareBytes)
	pa, pb := c.bufA[:n], c.bufB[:n]
	var g errgroup.Group
	g.Go(func() error { return fill(c.a, pa, off, ea.Kind) })
	g.Go(func() error { return fill(c.b, pb, off, eb.Kind) })
	if err := g.Wait(); err != nil {
		return 0, err
	}
	if string(pa) == string(pb) {
		return n, nil
	}
	for i := range pa {
		if pa[i] != pb[i] {
			return int64(i), fmt.Errorf("at offset %d: %w", off+int64(i), ErrDiffer)
		}
	}
	return n, nil
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
