package vmdk

import (
	"errors"
	"fmt"
	"io"
)

// Options choose the shape of a disk to write.
type Options struct {
	Variant   string // "monolithicSparse" ("" is that) or "streamOptimized"
	GrainSize int64  // bytes; 0 is 64 KiB
}

// ErrOptions says that a disk cannot be written with these options.
var ErrOptions = errors.New("impossible image options")

// Writer lays out a new disk.
type Writer struct{}

// NewWriter begins a disk of size bytes in out.
func NewWriter(_ io.WriterAt, _ int64, _ Options) (*Writer, error) {
	return nil, fmt.Errorf("writing VMDK: %w", ErrOptions)
}

// Unit is the grain size in bytes.
func (w *Writer) Unit() int64 { return 0 }

// Place gives room to grains.
func (w *Writer) Place(_, _ int64) (host, placed int64, err error) { return 0, 0, ErrOptions }

// Finish completes the disk.
func (w *Writer) Finish() (int64, error) { return 0, ErrOptions }

// Packer compresses grains.
type Packer struct{}

// Pack compresses one grain.
func (p *Packer) Pack(dst []byte, _ int64, _ []byte) ([]byte, error) { return dst, ErrOptions }

// NewPacker makes a packer; nil when the disk is not compressed.
func (w *Writer) NewPacker() (*Packer, error) { return nil, nil }
