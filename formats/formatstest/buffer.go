package formatstest

// Buffer is a file in memory for writers.
type Buffer []byte

// WriteAt implements io.WriterAt; the file grows as needed.
func (b *Buffer) WriteAt(p []byte, off int64) (int, error) {
	if end := int(off) + len(p); end > len(*b) {
		*b = append(*b, make([]byte, end-len(*b))...)
	}
	return copy((*b)[off:], p), nil
}
