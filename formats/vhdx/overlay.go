package vhdx

import (
	"fmt"
	"io"
	"slices"
	"sort"

	"hyper2kvm/formats"
)

// replayed is a file with the writes of its log laid over it. What they write
// stays in the log, where it is read: memory has only where.
type replayed struct {
	base   formats.File
	size   int64
	writes []write
	// bounds are where writes begin and end; the run from bounds[i] to the next
	// one was written last by writes[owner[i]], -1 for none.
	bounds []int64
	owner  []int32
}

// layOver makes a file of base and writes, of which later ones count, that has at
// least size bytes.
func layOver(base formats.File, writes []write, size int64) *replayed {
	r := &replayed{base: base, size: max(base.Size, size), writes: writes}
	for _, w := range writes {
		r.bounds = append(r.bounds, w.off, w.off+w.length)
		r.size = max(r.size, w.off+w.length)
	}
	slices.Sort(r.bounds)
	r.bounds = slices.Compact(r.bounds)
	// From the last write to the first, each takes the runs that are free; next
	// leads from a run to the next one that is.
	r.owner = make([]int32, len(r.bounds))
	next := make([]int32, len(r.bounds)+1)
	for i := range next {
		next[i] = int32(i)
	}
	for i := range r.owner {
		r.owner[i] = -1
	}
	free := func(i int32) int32 {
		for next[i] != i {
			next[i] = next[next[i]]
			i = next[i]
		}
		return i
	}
	for i, w := range slices.Backward(writes) {
		at := int32(sort.Search(len(r.bounds), func(j int) bool { return r.bounds[j] >= w.off }))
		for at = free(at); int(at) < len(r.bounds) && r.bounds[at] < w.off+w.length; at = free(at) {
			r.owner[at] = int32(i)
			next[at] = at + 1
		}
	}
	return r
}

// run is what wrote at off, nil for nothing, and where the next run begins.
func (r *replayed) run(off int64) (w *write, end int64) {
	i := sort.Search(len(r.bounds), func(j int) bool { return r.bounds[j] > off })
	end = r.size
	if i < len(r.bounds) {
		end = r.bounds[i]
	}
	if i > 0 && r.owner[i-1] >= 0 {
		w = &r.writes[r.owner[i-1]]
	}
	return w, end
}

// ReadAt implements io.ReaderAt.
func (r *replayed) ReadAt(p []byte, off int64) (int, error) {
	if off < 0 {
		return 0, fmt.Errorf("read %s at negative offset %d", r.base.Name, off)
	}
	if off >= r.size {
		return 0, io.EOF
	}
	var eof error
	if int64(len(p)) > r.size-off {
		p, eof = p[:r.size-off], io.EOF
	}
	n, err := formats.ReadRuns(p, off, r.readRun)
	if err != nil {
		return n, err
	}
	return n, eof
}

func (r *replayed) readRun(p []byte, off int64) (int, error) {
	w, end := r.run(off)
	p = p[:min(int64(len(p)), end-off)]
	switch {
	case w == nil:
		// The log may have made the file longer.
		have := min(int64(len(p)), max(0, r.base.Size-off))
		clear(p[have:])
		if have > 0 {
			if err := formats.ReadFull(r.base, p[:have], off); err != nil {
				return 0, err
			}
		}
	case w.data == 0:
		clear(p)
	default:
		b, err := r.content(w)
		if err != nil {
			return 0, err
		}
		copy(p, b[off-w.off:])
	}
	return len(p), nil
}

// content is what a write writes.
func (r *replayed) content(w *write) ([]byte, error) {
	b := make([]byte, w.length)
	if w.data == 0 {
		return b, nil
	}
	if err := formats.ReadFull(r.base, b, w.data); err != nil {
		return nil, err
	}
	copy(b, w.first[:])
	copy(b[logSector-behind:], w.end[:])
	return b, nil
}

// plainFile is the file that has the bytes at off as they are: the one of the
// image itself, for the kernel to copy from, unless the log has some of them.
func (img *Image) plainFile(off, length int64) io.ReaderAt {
	if img.over == nil {
		return img.raw.ReaderAt
	}
	if w, end := img.over.run(off); w == nil && end-off >= length && off+length <= img.raw.Size {
		return img.raw.ReaderAt
	}
	return img.over
}
