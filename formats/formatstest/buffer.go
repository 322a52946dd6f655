package formatstest

import (
	"bytes"
	"testing"
)

// Buffer is a file in memory for writers.
type Buffer []byte

// WriteAt implements io.WriterAt; the file grows as needed.
func (b *Buffer) WriteAt(p []byte, off int64) (int, error) {
	if end := int(off) + len(p); end > len(*b) {
		*b = append(*b, make([]byte, end-len(*b))...)
	}
	return copy((*b)[off:], p), nil
}

// Writer is what the writers of all formats have.
type Writer interface {
	Unit() int64
	Place(guest, length int64) (host, placed int64, err error)
	Finish() (size int64, err error)
}

// Write gives data to a writer as a conversion does, without what is empty.
func (b *Buffer) Write(t testing.TB, w Writer, data []byte) {
	t.Helper()
	unit := int(w.Unit())
	for off := 0; off < len(data); {
		end := off
		for end < len(data) && len(bytes.TrimLeft(data[end:min(end+unit, len(data))], "\x00")) > 0 {
			end += unit
		}
		if end == off {
			off += unit
			continue
		}
		host, placed, err := w.Place(int64(off), int64(min(end, len(data))-off))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := b.WriteAt(data[off:off+int(placed)], host); err != nil {
			t.Fatal(err)
		}
		off += int(placed)
	}
	size, err := w.Finish()
	if err != nil || size < int64(len(*b)) {
		t.Fatalf("a file of %d bytes, %d were written, %v", size, len(*b), err)
	}
	*b = append(*b, make([]byte, int(size)-len(*b))...)
}
