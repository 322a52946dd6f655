package qcow2

import (
	"bytes"
	"fmt"

	"github.com/klauspost/compress/flate"
	"github.com/klauspost/compress/zstd"
)

// zlibLevel gives results a little smaller than QEMU's, whose window is 4 KiB,
// in a third of its time.
const zlibLevel = 6

// Packer compresses one cluster at a time. A goroutine needs its own.
type Packer struct {
	deflate *flate.Writer
	buf     bytes.Buffer
	zstd    *zstd.Encoder
}

// NewPacker makes a packer for this image; nil when it is not compressed.
func (w *Writer) NewPacker() (*Packer, error) {
	switch w.compression {
	case "zlib":
		d, err := flate.NewWriter(nil, zlibLevel)
		if err != nil {
			return nil, fmt.Errorf("deflate level %d: %w", zlibLevel, err)
		}
		return &Packer{deflate: d}, nil
	case "zstd":
		z, err := zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1), zstd.WithEncoderCRC(false),
			zstd.WithWindowSize(max(int(w.cluster), zstd.MinWindowSize)), zstd.WithLowerEncoderMem(true))
		if err != nil {
			return nil, fmt.Errorf("zstd encoder: %w", err)
		}
		return &Packer{zstd: z}, nil
	}
	return nil, nil
}

// Pack appends the compressed form of one whole cluster to dst. The result is
// no longer than dst when compressing does not make the cluster smaller: then
// it is to be placed as it is.
func (p *Packer) Pack(dst []byte, _ int64, cluster []byte) ([]byte, error) {
	var packed []byte
	if p.zstd != nil {
		packed = p.zstd.EncodeAll(cluster, dst)
	} else {
		p.buf.Reset()
		p.deflate.Reset(&p.buf)
		if _, err := p.deflate.Write(cluster); err != nil {
			return dst, fmt.Errorf("deflate cluster: %w", err)
		}
		if err := p.deflate.Close(); err != nil {
			return dst, fmt.Errorf("deflate cluster: %w", err)
		}
		packed = append(dst, p.buf.Bytes()...)
	}
	if len(packed)-len(dst) >= len(cluster) {
		return dst, nil
	}
	return packed, nil
}
