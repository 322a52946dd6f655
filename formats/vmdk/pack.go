package vmdk

import (
	"bytes"
	"encoding/binary"
	"fmt"

	"github.com/klauspost/compress/zlib"
)

// deflateLevel reaches what zlib's usual level does, in a third of its time.
const deflateLevel = 6

// Packer compresses one grain at a time. A goroutine needs its own.
type Packer struct {
	zlib *zlib.Writer
	buf  bytes.Buffer
}

// NewPacker makes a packer for this disk; nil when it is not compressed.
func (w *Writer) NewPacker() (*Packer, error) {
	if !w.stream {
		return nil, nil
	}
	z, err := zlib.NewWriterLevel(nil, deflateLevel)
	if err != nil {
		return nil, fmt.Errorf("deflate level %d: %w", deflateLevel, err)
	}
	return &Packer{zlib: z}, nil
}

// Pack appends the grain that begins at guest with its marker, filled up to
// whole sectors. Section "Compressed Grains": sector number, size, data.
func (p *Packer) Pack(dst []byte, guest int64, grain []byte) ([]byte, error) {
	p.buf.Reset()
	p.zlib.Reset(&p.buf)
	if _, err := p.zlib.Write(grain); err != nil {
		return dst, fmt.Errorf("deflate grain: %w", err)
	}
	if err := p.zlib.Close(); err != nil {
		return dst, fmt.Errorf("deflate grain: %w", err)
	}
	dst = binary.LittleEndian.AppendUint64(dst, uint64(guest/sectorSize))
	dst = binary.LittleEndian.AppendUint32(dst, uint32(p.buf.Len()))
	dst = append(dst, p.buf.Bytes()...)
	if rest := (12 + p.buf.Len()) % sectorSize; rest > 0 {
		dst = append(dst, make([]byte, sectorSize-rest)...)
	}
	return dst, nil
}
