// Package xzlimit reads xz streams that nobody vouches for: what a header asks
// for in memory is looked at before it is allocated.
package xzlimit

import (
	"bufio"
	"fmt"
	"io"

	"github.com/ulikunitz/xz"

	"hyper2kvm/formats"
)

// Peeker is a reader that can look ahead, as *bufio.Reader.
type Peeker interface {
	io.Reader
	Peek(n int) ([]byte, error)
}

// NewReader reads one xz stream from r. A first block whose dictionary is larger
// than maxDict bytes is formats.ErrUnsupported. After the stream the decoder
// reads one byte to see whether the file ends there.
func NewReader(r Peeker, maxDict int64) (io.Reader, error) {
	size, err := dictionary(r)
	if err != nil {
		return nil, err
	}
	if size > maxDict {
		return nil, fmt.Errorf("%w: an xz dictionary of %d bytes", formats.ErrUnsupported, size)
	}
	// The decoder allocates the larger of DictCap and what the header says.
	return xz.ReaderConfig{DictCap: minDict, SingleStream: true}.NewReader(r)
}

// New is NewReader for any reader.
func New(r io.Reader, maxDict int64) (io.Reader, error) {
	return NewReader(bufio.NewReader(r), maxDict)
}

const (
	minDict      = 4096 // the smallest that LZMA2 knows
	streamHeader = 12
	blockHeader  = 1024 // at most
	lzma2        = 0x21
)

// dictionary reads the size of the LZMA2 dictionary out of the first block
// header (.xz file format 1.0.4, sections 3.1 and 5.3.1). It is 0 where there
// is no block, and where the decoder will find the header wrong by itself.
func dictionary(r Peeker) (int64, error) {
	head, err := r.Peek(streamHeader + blockHeader)
	if err != nil && err != io.EOF && err != bufio.ErrBufferFull {
		return 0, err
	}
	if len(head) < streamHeader+2 {
		return 0, nil
	}
	block := head[streamHeader:]
	flags := block[1]
	block = block[2:min(len(block), (int(block[0])+1)*4)]
	sizes := int(flags>>6&1) + int(flags>>7)
	for range sizes {
		_, block = varint(block)
	}
	for range int(flags&3) + 1 {
		var id, n uint64
		id, block = varint(block)
		n, block = varint(block)
		if n > uint64(len(block)) {
			return 0, nil
		}
		if id == lzma2 && n == 1 {
			bits := block[0] & 0x3f
			if bits >= 40 {
				return 1<<32 - 1, nil
			}
			return int64(2|bits&1) << (bits/2 + 11), nil
		}
		block = block[n:]
	}
	return 0, nil
}

// varint reads a multibyte integer (section 1.2).
func varint(b []byte) (uint64, []byte) {
	var v uint64
	for i := range min(len(b), 9) {
		v |= uint64(b[i]&0x7f) << (7 * i)
		if b[i]&0x80 == 0 {
			return v, b[i+1:]
		}
	}
	return 0, nil
}
