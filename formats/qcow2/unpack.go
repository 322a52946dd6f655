package qcow2

import (
	"fmt"
	"io"
	"math/bits"
	"sync"

	"github.com/klauspost/compress/zstd"

	"hyper2kvm/formats"
	"hyper2kvm/formats/inflate"
)

// unpacker decompresses clusters, in several goroutines at once.
type unpacker struct {
	zstd     *zstd.Decoder // nil for zlib
	inflates *sync.Pool    // of *inflate.Decoder
	bufs     *sync.Pool    // of *[]byte
}

func newUnpacker(compression uint8) (unpacker, error) {
	u := unpacker{inflates: &sync.Pool{}, bufs: &sync.Pool{}}
	if compression == compressionZstd {
		// The limit is the capacity of the cluster: a small frame cannot make a
		// large one.
		d, err := zstd.NewReader(nil, zstd.WithDecodeAllCapLimit(true), zstd.WithDecoderMaxWindow(64<<20))
		if err != nil {
			return u, fmt.Errorf("zstd decoder: %w", err)
		}
		u.zstd = d
	}
	return u, nil
}

// packedAt says where the compressed cluster of that entry lies: bits 0 to x-1
// are the offset, x to 61 the number of further 512-byte sectors.
func (q *Image) packedAt(entry uint64) (off, n int64) {
	x := 62 - (bits.TrailingZeros64(uint64(q.cluster)) - 8)
	off = int64(entry & (1<<x - 1))
	sectors := int64(entry &^ (entryCopied | entryCompressed) >> x)
	return off, (sectors+1)*sectorSize - off%sectorSize
}

// unpack fills dst, one cluster, from the compressed cluster of that entry.
func (q *Image) unpack(dst []byte, entry uint64) error {
	off, n := q.packedAt(entry)
	// The last sector of a file need not be whole.
	if off >= q.data.Size {
		return fmt.Errorf("%s: compressed cluster at offset %d of a file of %d bytes: %w", q.data.Name, off, q.data.Size, formats.ErrTruncated)
	}
	n = min(n, q.data.Size-off)
	buf, _ := q.unpacker.bufs.Get().(*[]byte)
	if buf == nil || int64(cap(*buf)) < n {
		b := make([]byte, n)
		buf = &b
	}
	defer q.unpacker.bufs.Put(buf)
	packed := (*buf)[:n]
	if err := formats.ReadFull(q.data, packed, off); err != nil {
		return err
	}
	if err := q.unpacker.into(dst, packed); err != nil {
		//nolint:errorlint // a decoder's io.EOF must not look like the end of the disk
		return fmt.Errorf("%s: decompress cluster at offset %d: %v: %w", q.data.Name, off, err, formats.ErrCorrupt)
	}
	return nil
}

// into decompresses packed, behind whose end there may be other bytes.
func (u *unpacker) into(dst, packed []byte) error {
	if u.zstd != nil {
		out, err := u.zstd.DecodeAll(packed, dst[:0:len(dst)])
		switch {
		case len(out) == len(dst):
			return nil // what follows the frame is not ours
		case err == nil:
			err = io.ErrUnexpectedEOF
		}
		return err
	}
	z, _ := u.inflates.Get().(*inflate.Decoder)
	if z == nil {
		z = inflate.New()
	}
	defer u.inflates.Put(z)
	return z.Into(dst, packed)
}
