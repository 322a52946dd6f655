// Package formatstest is the conformance suite of formats.Disk: what every
// parser, chain and overlay has to keep, whatever lies behind it.
//
// A test opens a disk and calls Disk with it, and with the bytes it should
// hold where they are known:
//
//	formatstest.Disk(t, img, bytes.NewReader(want))
package formatstest

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"sync"
	"testing"

	"hyper2kvm/formats"
)

// Bounds of what the suite reads of a large disk.
const (
	maxExtents = 2000    // extents that are looked at one by one
	sampleRead = 1 << 20 // bytes read of one extent
	readers    = 8       // concurrent readers
)

// Disk runs the suite on d. want holds the guest-visible bytes; nil when they
// are not known. Where d is Absent, want is not asked.
func Disk(t *testing.T, d formats.Disk, want io.ReaderAt) {
	t.Helper()
	t.Run("extents cover the disk", func(t *testing.T) { cover(t, d) })
	t.Run("extents agree from any offset", func(t *testing.T) { midpoints(t, d) })
	t.Run("reads agree with extents", func(t *testing.T) { content(t, d, want) })
	t.Run("the end", func(t *testing.T) { ends(t, d) })
	t.Run("outside of the disk", func(t *testing.T) { outside(t, d) })
	t.Run("several readers at once", func(t *testing.T) { together(t, d) })
	if img, ok := d.(formats.Image); ok {
		t.Run("info", func(t *testing.T) { info(t, img) })
	}
}

// Extents lists the extents of d from front to back, at most limit of them.
func Extents(d formats.Disk, limit int) ([]formats.Extent, error) {
	var out []formats.Extent
	for off := int64(0); off < d.Size() && len(out) < limit; {
		e, err := d.Extent(off, d.Size()-off)
		if err != nil {
			return out, err
		}
		if e.Offset != off || e.Length < 1 || e.Length > d.Size()-off {
			return out, fmt.Errorf("Extent(%d, %d) = offset %d, length %d", off, d.Size()-off, e.Offset, e.Length)
		}
		out = append(out, e)
		off += e.Length
	}
	return out, nil
}

func extents(t *testing.T, d formats.Disk) []formats.Extent {
	t.Helper()
	list, err := Extents(d, maxExtents)
	if err != nil {
		t.Fatal(err)
	}
	return list
}

func cover(t *testing.T, d formats.Disk) {
	for _, e := range extents(t, d) {
		if e.Kind > formats.Absent {
			t.Errorf("extent at %d: unknown %v", e.Offset, e.Kind)
		}
		if e.Plain != nil && e.Kind != formats.Data {
			t.Errorf("extent at %d: %v with a plain location", e.Offset, e.Kind)
		}
		// A small limit gives a small extent of the same kind.
		for _, limit := range []int64{1, 511, 4096} {
			limit = min(limit, d.Size()-e.Offset)
			small, err := d.Extent(e.Offset, limit)
			if err != nil {
				t.Fatalf("Extent(%d, %d): %v", e.Offset, limit, err)
			}
			if small.Length < 1 || small.Length > limit || small.Offset != e.Offset || small.Kind != e.Kind {
				t.Errorf("Extent(%d, %d) = %+v, of %+v", e.Offset, limit, small, e)
			}
		}
	}
}

// midpoints asks for extents from within others.
func midpoints(t *testing.T, d formats.Disk) {
	for _, e := range extents(t, d) {
		for _, in := range []int64{e.Length / 2, e.Length - 1} {
			got, err := d.Extent(e.Offset+in, e.Length-in)
			if err != nil {
				t.Fatalf("Extent(%d, %d): %v", e.Offset+in, e.Length-in, err)
			}
			if got.Offset != e.Offset+in || got.Kind != e.Kind {
				t.Errorf("Extent(%d, %d) = %+v, within %+v", e.Offset+in, e.Length-in, got, e)
			}
			if e.Plain != nil && got.Plain != nil && got.Plain.Offset != e.Plain.Offset+in {
				t.Errorf("Extent(%d, …) lies at %d, within %d + %d", e.Offset+in, got.Plain.Offset, e.Plain.Offset, in)
			}
		}
	}
}

// content reads the begin and end of every extent, and compares with what the
// extent says and with want.
func content(t *testing.T, d formats.Disk, want io.ReaderAt) {
	for _, e := range extents(t, d) {
		n := min(e.Length, sampleRead)
		for _, off := range []int64{e.Offset, e.Offset + e.Length - n} {
			check(t, d, e, off, n, want)
		}
		check(t, d, e, e.Offset+e.Length/3, min(e.Length-e.Length/3, 1000), want)
	}
}

func check(t *testing.T, d formats.Disk, e formats.Extent, off, n int64, want io.ReaderAt) {
	t.Helper()
	p := bytes.Repeat([]byte{0xa5}, int(n))
	got, err := d.ReadAt(p, off)
	if e.Kind == formats.Absent {
		if !errors.Is(err, formats.ErrAbsent) {
			t.Fatalf("ReadAt(%d bytes, %d) in %v = %d, %v; want ErrAbsent", n, off, e, got, err)
		}
		return
	}
	atEnd := off+n == d.Size() && errors.Is(err, io.EOF)
	if int64(got) != n || err != nil && !atEnd {
		t.Fatalf("ReadAt(%d bytes, %d) = %d, %v", n, off, got, err)
	}
	if e.Kind == formats.Zero && len(bytes.Trim(p, "\x00")) > 0 {
		t.Errorf("%d bytes at %d of a zero extent are not all zero", n, off)
	}
	if e.Plain != nil {
		q := make([]byte, n)
		if got, err := e.Plain.File.ReadAt(q, e.Plain.Offset+off-e.Offset); int64(got) != n {
			t.Fatalf("plain location of %d: read %d of %d bytes: %v", off, got, n, err)
		}
		if !bytes.Equal(p, q) {
			t.Errorf("%d bytes at %d differ from the plain location %d", n, off, e.Plain.Offset+off-e.Offset)
		}
	}
	if want == nil {
		return
	}
	q := make([]byte, n)
	if got, err := want.ReadAt(q, off); int64(got) != n {
		t.Fatalf("expected content at %d: read %d of %d bytes: %v", off, got, n, err)
	}
	if !bytes.Equal(p, q) {
		t.Errorf("%d bytes at %d differ from the expected content", n, off)
	}
}

func ends(t *testing.T, d formats.Disk) {
	size := d.Size()
	p := make([]byte, 100)
	if n, err := d.ReadAt(p, size); n != 0 || !errors.Is(err, io.EOF) {
		t.Errorf("ReadAt at the size = %d, %v; want 0, EOF", n, err)
	}
	if n, err := d.ReadAt(p, size+1<<20); n != 0 || !errors.Is(err, io.EOF) {
		t.Errorf("ReadAt beyond the size = %d, %v; want 0, EOF", n, err)
	}
	if size == 0 {
		return
	}
	tail := min(size, 50)
	switch n, err := d.ReadAt(p, size-tail); {
	case errors.Is(err, formats.ErrAbsent):
	case int64(n) != tail || !errors.Is(err, io.EOF):
		t.Errorf("ReadAt across the end = %d, %v; want %d, EOF", n, err, tail)
	}
	if n, err := d.ReadAt(nil, 0); n != 0 || err != nil {
		t.Errorf("ReadAt of no bytes = %d, %v", n, err)
	}
}

func outside(t *testing.T, d formats.Disk) {
	if n, err := d.ReadAt(make([]byte, 1), -1); err == nil || n != 0 {
		t.Errorf("ReadAt at -1 = %d, %v; want an error", n, err)
	}
	for _, off := range []int64{-1, d.Size(), d.Size() + 1} {
		if e, err := d.Extent(off, 1); err == nil {
			t.Errorf("Extent(%d, 1) = %+v; want an error", off, e)
		}
	}
	if e, err := d.Extent(0, 0); err == nil {
		t.Errorf("Extent(0, 0) = %+v; want an error", e)
	}
}

// together reads the same places from several goroutines, which must all get
// what one alone gets.
func together(t *testing.T, d formats.Disk) {
	list := extents(t, d)
	if len(list) == 0 {
		return
	}
	type read struct {
		off  int64
		want []byte
	}
	r := rand.New(rand.NewPCG(1, 2))
	var reads []read
	for range 64 {
		e := list[r.IntN(len(list))]
		if e.Kind == formats.Absent {
			continue
		}
		p := make([]byte, min(e.Length, 1+r.Int64N(128<<10)))
		off := e.Offset + r.Int64N(e.Length-int64(len(p))+1)
		if n, err := d.ReadAt(p, off); n < len(p) {
			t.Fatalf("ReadAt(%d bytes, %d) = %d, %v", len(p), off, n, err)
		}
		reads = append(reads, read{off, p})
	}
	var wg sync.WaitGroup
	for i := range readers {
		wg.Go(func() {
			for j := range reads {
				x := reads[(j+i*7)%len(reads)]
				p := make([]byte, len(x.want))
				if n, err := d.ReadAt(p, x.off); n < len(p) || !bytes.Equal(p, x.want) {
					t.Errorf("concurrent ReadAt(%d bytes, %d) = %d, %v, or other bytes than alone", len(p), x.off, n, err)
					return
				}
			}
		})
	}
	wg.Wait()
}

func info(t *testing.T, img formats.Image) {
	in := img.Info()
	if in.Format == "" || in.Size != img.Size() || in.Sector < 512 {
		t.Errorf("Info = %+v; want a format, size %d, a sector size", in, img.Size())
	}
	if in.Parent != nil {
		return
	}
	for _, e := range extents(t, img) {
		if e.Kind == formats.Absent {
			t.Errorf("%d bytes at %d are absent, but the image claims no parent", e.Length, e.Offset)
		}
	}
}

// Every reads all data of d and gives the first error that is no ErrAbsent:
// for fuzz targets, whose invariant is an error, or every byte in bounds. At
// most budget bytes are read, and a thousandth as many extents looked at.
func Every(d formats.Disk, budget int64) error {
	buf := make([]byte, 64<<10)
	steps := budget/1000 + 100
	for off := int64(0); off < d.Size() && budget > 0 && steps > 0; steps-- {
		e, err := d.Extent(off, d.Size()-off)
		if err != nil {
			return err
		}
		if e.Offset != off || e.Length < 1 || e.Length > d.Size()-off {
			return fmt.Errorf("%w: Extent(%d) = %+v of %d", ErrBroken, off, e, d.Size())
		}
		for rest := e; rest.Length > 0 && budget > 0; {
			p := buf[:min(rest.Length, int64(len(buf)))]
			if err := everyRead(d, p, rest); err != nil {
				return err
			}
			budget -= int64(len(p))
			rest.Offset, rest.Length = rest.Offset+int64(len(p)), rest.Length-int64(len(p))
			if e.Kind != formats.Data {
				break // one look is enough for what holds nothing
			}
		}
		off += e.Length
	}
	return nil
}

// everyRead reads p at the begin of an extent and judges the result.
func everyRead(d formats.Disk, p []byte, e formats.Extent) error {
	n, err := d.ReadAt(p, e.Offset)
	switch {
	case e.Kind == formats.Absent && errors.Is(err, formats.ErrAbsent):
		return nil
	case n == len(p) && (err == nil || errors.Is(err, io.EOF)):
		return nil
	case n < len(p) && err != nil && !errors.Is(err, io.EOF):
		return err
	}
	return fmt.Errorf("%w: ReadAt(%d bytes, %d) in %v = %d, %w", ErrBroken, len(p), e.Offset, e.Kind, n, err)
}

// Same reads the first bytes of two disks, at most budget of them, and gives an
// error where what can be read of the first one is not the same on the second:
// for fuzz targets that repair an image.
func Same(before, after formats.Disk, budget int64) error {
	p, q := make([]byte, 512), make([]byte, 512)
	for off := int64(0); off < min(before.Size(), budget); off += int64(len(p)) {
		n, err := before.ReadAt(p, off)
		if err != nil && !errors.Is(err, io.EOF) {
			continue
		}
		if m, err := after.ReadAt(q[:n], off); m < n {
			return fmt.Errorf("%w: %d bytes at %d cannot be read: %w", ErrBroken, n, off, err)
		}
		if !bytes.Equal(p[:n], q[:n]) {
			return fmt.Errorf("%w: %d bytes at %d are other ones", ErrBroken, n, off)
		}
	}
	return nil
}

// ErrBroken is given by Every when a disk does not keep the contract.
var ErrBroken = errors.New("contract of Disk broken")
