// Package qcow2 reads and writes QEMU's copy-on-write images, versions 2 and 3.
//
// The source of the layout is docs/interop/qcow2.rst of QEMU; the names of
// fields in comments are those of that document.
package qcow2

// magic is "QFI\xfb", big-endian at offset 0.
const magic = 0x514649fb

// Limits. Those of QEMU are kept when writing, so that it opens the result.
const (
	minClusterBits = 9
	maxClusterBits = 21
	maxL1Bytes     = 32 << 20 // QEMU's QCOW_MAX_L1_SIZE
	maxRefTable    = 8 << 20  // QEMU's QCOW_MAX_REFTABLE_SIZE
	sectorSize     = 512
)

// Bits of a table entry.
const (
	entryCopied     = 1 << 63 // "QCOW_OFLAG_COPIED": refcount is exactly one
	entryCompressed = 1 << 62 // in an L2 entry
	entryZero       = 1 << 0  // in an L2 entry of version 3
	offsetMask      = 0x00fffffffffffe00
)

// Bits of incompatible_features.
const (
	incompatDirty       = 1 << 0
	incompatCorrupt     = 1 << 1
	incompatDataFile    = 1 << 2
	incompatCompression = 1 << 3
	incompatExtendedL2  = 1 << 4
)

// Bits of autoclear_features.
const (
	autoclearBitmaps = 1 << 0 // the bitmaps are up to date
	autoclearRawData = 1 << 1 // the external data file is a raw disk of its own
)

// Values of compression_type.
const (
	compressionZlib = 0 // raw deflate
	compressionZstd = 1
)

// Sizes of the header, in bytes.
const (
	headerV2Bytes      = 72
	headerV3Bytes      = 104
	headerCompressType = 112 // with compression_type and its padding
)
