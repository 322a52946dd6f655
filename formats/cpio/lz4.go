package cpio

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/pierrec/lz4/v4"
)

// The legacy lz4 form: a magic number, then blocks of at most 8 MiB, each behind
// its packed size (LZ4 frame format, "Legacy frame").
const (
	lz4Magic = 0x184c2102
	lz4Block = 8 << 20
)

func openLZ4(s *stream) (io.Reader, func(), error) {
	return &lz4Reader{s: s}, nothing, s.discard(4)
}

type lz4Reader struct {
	s           *stream
	out         []byte
	packed, raw []byte
	err         error
}

func (l *lz4Reader) Read(p []byte) (int, error) {
	for len(l.out) == 0 {
		if l.err == nil {
			l.err = l.block()
		}
		if l.err != nil {
			return 0, l.err
		}
	}
	n := copy(p, l.out)
	l.out = l.out[n:]
	return n, nil
}

// block unpacks one block. As in the kernel (lib/decompress_unlz4.c) a magic
// number in place of a size goes on with another frame, and a size of zero is
// padding after the end.
func (l *lz4Reader) block() error {
	head, err := l.s.br.Peek(4)
	if len(head) < 4 {
		if err != io.EOF {
			return err
		}
		return io.EOF
	}
	size := binary.LittleEndian.Uint32(head)
	if size == 0 {
		return io.EOF
	}
	if err := l.s.discard(4); err != nil {
		return err
	}
	if size == lz4Magic {
		return nil
	}
	if int(size) > lz4.CompressBlockBound(lz4Block) {
		return fmt.Errorf("a block of %d bytes", size)
	}
	if l.raw == nil {
		l.raw = make([]byte, lz4Block)
	}
	if cap(l.packed) < int(size) {
		l.packed = make([]byte, size)
	}
	if _, err := io.ReadFull(l.s, l.packed[:size]); err != nil {
		return truncated(err)
	}
	n, err := lz4.UncompressBlock(l.packed[:size], l.raw)
	l.out = l.raw[:max(n, 0)]
	return err
}

// openLZ4Frame reads one frame (LZ4 frame format). Frames whose blocks need the
// ones before them are read too: the decoder holds 64 KiB of those.
func openLZ4Frame(s *stream) (io.Reader, func(), error) {
	return lz4.NewReader(&lz4Frame{s: s}), nothing, nil
}

// lz4Frame gives the bytes of one frame and then io.EOF.
type lz4Frame struct {
	s       *stream
	pending []byte // read and not given yet
	left    int64  // bytes to give after pending
	sums    int64  // bytes of checksum behind a block
	final   int64  // bytes of checksum behind the last block
	began   bool
	end     bool
}

func (f *lz4Frame) Read(p []byte) (int, error) {
	for {
		switch {
		case len(f.pending) > 0:
			n := copy(p, f.pending)
			f.pending = f.pending[n:]
			return n, nil
		case f.left > 0:
			n, err := f.s.Read(p[:min(int64(len(p)), f.left)])
			f.left -= int64(n)
			return n, truncated(err)
		case f.end:
			return 0, io.EOF
		case !f.began:
			if err := f.header(); err != nil {
				return 0, err
			}
		default:
			if err := f.block(); err != nil {
				return 0, err
			}
		}
	}
}

func (f *lz4Frame) header() error {
	head := make([]byte, 6)
	if _, err := io.ReadFull(f.s, head); err != nil {
		return truncated(err)
	}
	flags := head[4]
	if flags&1 != 0 {
		return errors.New("an lz4 frame with a dictionary")
	}
	f.began, f.pending, f.left = true, head, 1 // checksum of the header
	if flags&8 != 0 {
		f.left += 8 // size of the content
	}
	f.sums, f.final = int64(flags>>4&1)*4, int64(flags>>2&1)*4
	return nil
}

func (f *lz4Frame) block() error {
	head := make([]byte, 4)
	if _, err := io.ReadFull(f.s, head); err != nil {
		return truncated(err)
	}
	f.pending = head
	size := int64(binary.LittleEndian.Uint32(head) &^ (1 << 31))
	if size == 0 {
		f.end, f.left = true, f.final
		return nil
	}
	f.left = size + f.sums
	return nil
}
