package cpio

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// The file format of lzop, as far as the kernel reads it (lib/decompress_unlzo.c):
// a header, then blocks, each behind its sizes and checksums.
const (
	lzoMagic    = 9         // bytes
	lzoMaxBlock = 256 << 10 // bytes unpacked, LZO_BLOCK_SIZE

	lzoFiltered = 0x800 // flags of the header: a filter's number follows
	lzoDataSums = 0x001 | 0x100
	lzoPackSums = 0x002 | 0x200
)

func openLZO(s *stream) (io.Reader, func(), error) {
	flags, err := lzoHeader(s)
	return &lzoReader{s: s, flags: flags}, nothing, err
}

// lzoHeader goes past the header and returns its flags.
func lzoHeader(s *stream) (uint32, error) {
	if err := s.discard(lzoMagic); err != nil {
		return 0, err
	}
	version, err := s.uint(2)
	if err != nil {
		return 0, err
	}
	rest := int64(2 + 2 + 1) // library, needed version, method
	after := int64(4 + 4)    // mode, time
	if version >= 0x0940 {
		rest++     // level
		after += 4 // upper half of the time
	}
	if err := s.discard(rest); err != nil {
		return 0, err
	}
	flags, err := s.uint(4)
	if err != nil {
		return 0, err
	}
	if flags&lzoFiltered != 0 {
		after += 4
	}
	if err := s.discard(after); err != nil {
		return 0, err
	}
	name, err := s.uint(1)
	if err != nil {
		return 0, err
	}
	return flags, s.discard(int64(name) + 4)
}

// uint reads a big-endian number of up to 4 bytes.
func (s *stream) uint(size int) (uint32, error) {
	var b [4]byte
	if _, err := io.ReadFull(s, b[4-size:]); err != nil {
		return 0, truncated(err)
	}
	return binary.BigEndian.Uint32(b[:]), nil
}

type lzoReader struct {
	s      *stream
	flags  uint32
	out    []byte // unpacked and not given yet
	packed []byte
	err    error
}

func (l *lzoReader) Read(p []byte) (int, error) {
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

func (l *lzoReader) block() error {
	size, err := l.s.uint(4)
	if err != nil {
		return err
	}
	if size == 0 {
		return io.EOF
	}
	packed, err := l.s.uint(4)
	if err != nil {
		return err
	}
	if size > lzoMaxBlock || packed > size {
		return fmt.Errorf("a block of %d bytes, %d unpacked", packed, size)
	}
	sums := bitsOf(l.flags & lzoDataSums)
	if packed < size {
		sums += bitsOf(l.flags & lzoPackSums)
	}
	if err := l.s.discard(4 * sums); err != nil {
		return err
	}
	if cap(l.packed) < int(packed) {
		l.packed = make([]byte, lzoMaxBlock)
	}
	if _, err := io.ReadFull(l.s, l.packed[:packed]); err != nil {
		return truncated(err)
	}
	if packed == size { // stored
		l.out = append(l.out[:0], l.packed[:packed]...)
		return nil
	}
	l.out, err = unpackLZO(l.packed[:packed], int(size))
	return err
}

func bitsOf(flags uint32) int64 {
	n := int64(0)
	for ; flags != 0; flags &= flags - 1 {
		n++
	}
	return n
}

var errLZO = errors.New("lzo data is damaged")

// lzo unpacks one LZO1X block (Documentation/staging/lzo.rst).
type lzo struct {
	in, out []byte
	size    int // bytes that out must not pass
	// literals is how many bytes the last instruction copied from in, 4 for a
	// long run: it decides what an instruction below 16 means.
	literals int
}

func unpackLZO(in []byte, size int) ([]byte, error) {
	l := &lzo{in: in, size: size, out: make([]byte, 0, size)}
	if len(in) > 0 && in[0] > 17 {
		n := int(in[0]) - 17
		l.in = in[1:]
		if err := l.copyIn(n, min(n, 4)); err != nil {
			return nil, err
		}
	}
	for {
		done, err := l.step()
		if err == nil && done && len(l.out) != size {
			err = errLZO
		}
		if err != nil || done {
			return l.out, err
		}
	}
}

// step does one instruction.
func (l *lzo) step() (done bool, err error) {
	op, err := l.next()
	if err != nil {
		return false, err
	}
	if op < 16 && l.literals == 0 {
		n, err := l.length(op, 15)
		if err != nil {
			return false, err
		}
		return false, l.copyIn(n+3, 4)
	}
	length, distance, tail, err := l.match(op)
	if err != nil || distance == 0 {
		return err == nil, err
	}
	if err := l.copyOut(length, distance); err != nil {
		return false, err
	}
	return false, l.copyIn(tail, tail)
}

// match reads the rest of an instruction that repeats what was unpacked before.
// A distance of zero is the end of the block.
func (l *lzo) match(op int) (length, distance, tail int, err error) {
	if op >= 64 || op < 16 {
		high, err := l.next()
		switch {
		case op >= 128:
			return 5 + op>>5&3, high<<3 + op>>2&7 + 1, op & 3, err
		case op >= 64:
			return 3 + op>>5&1, high<<3 + op>>2&7 + 1, op & 3, err
		case l.literals == 4:
			return 3, high<<2 + op>>2 + 2049, op & 3, err
		}
		return 2, high<<2 + op>>2 + 1, op & 3, err
	}
	far := op < 32
	mask := 31
	if far {
		mask = 7
	}
	if length, err = l.length(op&mask, mask); err != nil {
		return 0, 0, 0, err
	}
	low, err := l.next()
	if err != nil {
		return 0, 0, 0, err
	}
	high, err := l.next()
	distance = (high<<8 | low) >> 2
	switch {
	case !far:
		distance++
	case distance == 0 && op&8 == 0:
		return 0, 0, 0, err
	default:
		distance += 16384 + (op&8)<<11
	}
	return length + 2, distance, low & 3, err
}

func (l *lzo) next() (int, error) {
	if len(l.in) == 0 {
		return 0, errLZO
	}
	b := l.in[0]
	l.in = l.in[1:]
	return int(b), nil
}

// length completes a length whose bits in the instruction are short; zero means
// that it goes on in the bytes that follow.
func (l *lzo) length(short, full int) (int, error) {
	if short != 0 {
		return short, nil
	}
	for n := full; n <= l.size; n += 255 {
		b, err := l.next()
		if err != nil || b != 0 {
			return n + b, err
		}
	}
	return 0, errLZO
}

func (l *lzo) copyIn(n, state int) error {
	if n > len(l.in) || n > l.size-len(l.out) {
		return errLZO
	}
	l.out = append(l.out, l.in[:n]...)
	l.in, l.literals = l.in[n:], state
	return nil
}

func (l *lzo) copyOut(n, distance int) error {
	if distance > len(l.out) || n > l.size-len(l.out) {
		return errLZO
	}
	for range n { // source and target may overlap
		l.out = append(l.out, l.out[len(l.out)-distance])
	}
	return nil
}
