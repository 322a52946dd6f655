package vdi

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math/bits"

	"github.com/google/uuid"

	"hyper2kvm/formats"
	"hyper2kvm/formats/guid"
)

const (
	sectorSize = 512
	// signature is VDI_IMAGE_SIGNATURE, at signatureAt.
	signature   = 0xbeda107f
	signatureAt = 64
	// headerAt is where VDIHEADER1 begins, after VDIPREHEADER.
	headerAt = 72
	// headerSize is what VDIHEADER1 has at least, and plusSize what VDIHEADER1PLUS
	// has, which adds another geometry.
	headerSize = 384
	plusSize   = 400
	headerEnd  = headerAt + plusSize
	// version1 is the version that all since VirtualBox 1.1 write.
	version1 = 0x00010001

	maxBlock = 256 << 20
	maxExtra = 1 << 20
)

// What an entry of the block map is where it is no number of a block.
const (
	unused = 0xFFFFFFFF // VDI_IMAGE_BLOCK_FREE: in the parent, else zeroes
	zeroed = 0xFFFFFFFE // VDI_IMAGE_BLOCK_ZERO
)

// kind is VDIIMAGETYPE.
type kind uint32

const (
	kindDynamic kind = 1
	kindFixed   kind = 2
	kindUndo    kind = 3
	kindDiff    kind = 4
)

func (k kind) String() string {
	switch k {
	case kindDynamic:
		return "dynamic"
	case kindFixed:
		return "fixed"
	case kindDiff:
		return "differencing"
	}
	return fmt.Sprintf("of type %d", uint32(k))
}

// header is VDIPREHEADER and VDIHEADER1. Sizes and offsets are in bytes.
type header struct {
	text, comment              string
	version                    uint32
	kind                       kind
	mapAt, dataAt              int64
	cylinders, heads, perTrack uint32
	size                       int64
	block, extra               int64
	blocks, allocated          int64

	create, modify, parent, parentModify uuid.UUID
}

// parseHeader reads the first headerEnd bytes of a file, or all it has.
func parseHeader(b []byte) (header, error) {
	le := binary.LittleEndian
	if len(b) < headerAt || le.Uint32(b[signatureAt:]) != signature {
		return header{}, fmt.Errorf("no VDI signature: %w", formats.ErrFormat)
	}
	h := header{text: label(b[:64]), version: le.Uint32(b[68:])}
	if h.version>>16 != version1>>16 {
		return h, fmt.Errorf("VDI version %d.%d: %w", h.version>>16, h.version&0xFFFF, formats.ErrUnsupported)
	}
	if len(b) < headerAt+headerSize {
		return h, fmt.Errorf("header of a file of %d bytes: %w", len(b), formats.ErrTruncated)
	}
	if n := le.Uint32(b[72:]); n < headerSize {
		return h, fmt.Errorf("header of %d bytes: %w", n, formats.ErrCorrupt)
	}
	h.kind = kind(le.Uint32(b[76:]))
	h.comment = label(b[84:340])
	h.mapAt, h.dataAt = int64(le.Uint32(b[340:])), int64(le.Uint32(b[344:]))
	h.cylinders, h.heads, h.perTrack = le.Uint32(b[348:]), le.Uint32(b[352:]), le.Uint32(b[356:])
	size := le.Uint64(b[368:])
	h.block, h.extra = int64(le.Uint32(b[376:])), int64(le.Uint32(b[380:]))
	h.blocks, h.allocated = int64(le.Uint32(b[384:])), int64(le.Uint32(b[388:]))
	h.create, h.modify = guid.Parse(b[392:]), guid.Parse(b[408:])
	h.parent, h.parentModify = guid.Parse(b[424:]), guid.Parse(b[440:])
	return h, h.check(size)
}

// check refuses what no image can be, and takes the size.
func (h *header) check(size uint64) error {
	switch {
	case h.kind != kindDynamic && h.kind != kindFixed && h.kind != kindDiff:
		return fmt.Errorf("disk %s: %w", h.kind, formats.ErrUnsupported)
	case h.block < sectorSize || h.block > maxBlock || bits.OnesCount64(uint64(h.block)) != 1:
		return fmt.Errorf("blocks of %d bytes: %w", h.block, formats.ErrCorrupt)
	case h.extra > maxExtra:
		return fmt.Errorf("%d bytes before each block: %w", h.extra, formats.ErrCorrupt)
	case h.mapAt < headerAt+headerSize:
		return fmt.Errorf("block map at offset %d, in the header: %w", h.mapAt, formats.ErrCorrupt)
	case size > uint64(h.blocks*h.block):
		return fmt.Errorf("%d blocks of %d bytes for a disk of %d: %w", h.blocks, h.block, size, formats.ErrCorrupt)
	}
	h.size = int64(size)
	h.blocks = (h.size + h.block - 1) / h.block
	return nil
}

// label is text that ends at a zero byte or a line break.
func label(b []byte) string {
	if i := bytes.IndexAny(b, "\x00\n"); i >= 0 {
		b = b[:i]
	}
	return string(bytes.ToValidUTF8(b, []byte("?")))
}
