// Package inflate decompresses deflate (RFC 1951) and zlib (RFC 1950) from one
// slice into another, as compressed grains and clusters come: the whole of the
// input is at hand, and how long the output is, is known before. That takes
// half the time that a decompressor for streams needs.
package inflate

import (
	"encoding/binary"
	"errors"
	"hash/adler32"
	"io"
)

// Sentinels to branch on. Input that ends too early is io.ErrUnexpectedEOF.
var (
	// ErrData says that the input is not deflate, or not zlib.
	ErrData = errors.New("invalid compressed data")
	// ErrChecksum says that what was decompressed is not what was compressed.
	ErrChecksum = errors.New("compressed data with a wrong checksum")
)

// Decoder holds the tables of a decompressor, used again and again. It must not
// be used by two goroutines at once.
type Decoder struct {
	src, dst []byte
	in, out  int
	bits     uint64 // read and not yet used, the next one lowest
	n        uint   // how many of them there are; what is above is not to be relied on

	lit   [litSize]entry
	dist  [distSize]entry
	pre   [1 << preBits]entry
	fixed bool // the tables are those of fixed blocks

	last bool // the block is the last one
	open bool // it is a packed one, and not at its end
	more bool // dst is full, and there is more

	symbols symbols
	lens    [maxSymbols]uint8
	sorted  [litSymbols]uint16
}

// New makes a decoder.
func New() *Decoder {
	d := &Decoder{}
	d.symbols.fill()
	return d
}

// Into fills dst from the deflate stream that src begins with. What comes behind
// in the stream or in src is not looked at.
func (d *Decoder) Into(dst, src []byte) error {
	d.begin(dst, src)
	defer d.begin(nil, nil)
	return d.fill()
}

// Zlib fills dst from the zlib stream that src begins with. whole says that this
// is all that the stream holds: then its checksum was compared.
func (d *Decoder) Zlib(dst, src []byte) (whole bool, err error) {
	const method, dictionary = 8, 1 << 5
	if len(src) < 2 {
		return false, io.ErrUnexpectedEOF
	}
	head := binary.BigEndian.Uint16(src)
	if head>>8&0x0F != method || head>>12 > 7 || head%31 != 0 || head&dictionary != 0 {
		return false, ErrData
	}
	d.begin(dst, src[2:])
	defer d.begin(nil, nil)
	if err := d.fill(); err != nil {
		return false, err
	}
	if whole, err = d.atEnd(); err != nil || !whole {
		return false, err
	}
	d.align()
	if len(d.src)-d.in < adler32.Size {
		return false, io.ErrUnexpectedEOF
	}
	if binary.BigEndian.Uint32(d.src[d.in:]) != adler32.Checksum(dst) {
		return false, ErrChecksum
	}
	return true, nil
}

func (d *Decoder) begin(dst, src []byte) {
	d.src, d.dst, d.in, d.out, d.bits, d.n = src, dst, 0, 0, 0, 0
	d.last, d.open, d.more = false, false, false
}

// fill decodes blocks until dst is full.
func (d *Decoder) fill() error {
	for d.out < len(d.dst) {
		if d.last {
			return io.ErrUnexpectedEOF
		}
		if err := d.block(); err != nil {
			return err
		}
	}
	return nil
}

// atEnd reports, once dst is full, whether the stream holds nothing more.
func (d *Decoder) atEnd() (bool, error) {
	for !d.more {
		var err error
		switch {
		case d.open:
			_, err = d.one()
			d.more = d.open
		case d.last:
			return true, nil
		default:
			err = d.block()
			d.more = d.more || d.open
		}
		if err != nil {
			return false, err
		}
	}
	return false, nil
}

// align gives back what was read of whole bytes, and drops the rest of one.
func (d *Decoder) align() {
	d.in -= int(d.n / 8)
	d.bits, d.n = 0, 0
}

// refill reads until there are at least 56 bits, or all there are.
func (d *Decoder) refill() {
	for d.n < 56 && d.in < len(d.src) {
		d.bits |= uint64(d.src[d.in]) << (d.n & 63)
		d.in++
		d.n += 8
	}
}

// take uses up n bits.
func (d *Decoder) take(n uint) (uint64, error) {
	if d.n < n {
		d.refill()
		if d.n < n {
			return 0, io.ErrUnexpectedEOF
		}
	}
	v := d.bits & (1<<n - 1)
	d.bits >>= n
	d.n -= n
	return v, nil
}

// block decodes one block, or as much of it as dst has room for.
func (d *Decoder) block() error {
	head, err := d.take(3)
	if err != nil {
		return err
	}
	d.last = head&1 != 0
	switch head >> 1 {
	case 0:
		return d.stored()
	case 1:
		err = d.fixedTables()
	case 2:
		err = d.readTables()
	default:
		err = ErrData
	}
	if err != nil {
		return err
	}
	d.open = true
	return d.packed()
}

// stored copies a block that is not compressed.
func (d *Decoder) stored() error {
	d.align()
	if len(d.src)-d.in < 4 {
		return io.ErrUnexpectedEOF
	}
	size := binary.LittleEndian.Uint16(d.src[d.in:])
	if size != ^binary.LittleEndian.Uint16(d.src[d.in+2:]) {
		return ErrData
	}
	d.in += 4
	want := min(int(size), len(d.dst)-d.out)
	d.more = want < int(size)
	n := copy(d.dst[d.out:d.out+want], d.src[d.in:])
	d.in += n
	d.out += n
	if n < want {
		return io.ErrUnexpectedEOF
	}
	return nil
}

// packed decodes the symbols of a block.
func (d *Decoder) packed() error {
	for {
		done, err := d.fast()
		if done || err != nil {
			return err
		}
		if done, err = d.one(); done || err != nil {
			return err
		}
	}
}

// one decodes one symbol with every bound checked, as near the ends of input
// and output. done says that the block is at its end, or dst full.
func (d *Decoder) one() (done bool, err error) {
	d.refill()
	e := d.lit[d.bits&(1<<litBits-1)]
	if e&isSub != 0 {
		e = d.lit[e.sub(d.bits, litBits)]
	}
	if e&isBad != 0 {
		return false, ErrData
	}
	v, err := d.take(e.bits())
	switch {
	case err != nil:
		return false, err
	case e&isEnd != 0:
		d.open = false
		return true, nil
	case d.out == len(d.dst):
		return true, nil
	case e&isLiteral != 0:
		d.dst[d.out] = byte(e >> valueShift)
		d.out++
		return false, nil
	}
	length := e.value(v)
	d.refill()
	e = d.dist[d.bits&(1<<distBits-1)]
	if e&isSub != 0 {
		e = d.dist[e.sub(d.bits, distBits)]
	}
	if e&isBad != 0 {
		return false, ErrData
	}
	if v, err = d.take(e.bits()); err != nil {
		return false, err
	}
	from := d.out - e.value(v)
	if from < 0 {
		return false, ErrData
	}
	for range min(length, len(d.dst)-d.out) {
		d.dst[d.out] = d.dst[from]
		d.out, from = d.out+1, from+1
	}
	return false, nil
}
