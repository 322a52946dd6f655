package qcow2

import (
	"encoding/binary"
	"fmt"
	"strconv"
	"strings"

	"hyper2kvm/formats"
)

// Types of header extensions.
const (
	extEnd           = 0
	extBackingFormat = 0xe2792aca
	extFeatureNames  = 0x6803f857
	extDataFile      = 0x44415441
	extBitmaps       = 0x23852875
)

// Bounds of what is read because the header says so.
const (
	maxName       = 1023 // backing_file_size, by the specification
	maxExtensions = 64
)

// header is the header of an image with its extensions.
type header struct {
	version       uint32
	clusterBits   uint32
	size          uint64
	crypt         uint32
	l1Size        uint32
	l1Offset      uint64
	snapshots     uint32
	snapshotsAt   uint64
	refTableAt    uint64
	refTableSize  uint32 // clusters
	incompatible  uint64
	compatible    uint64
	autoclear     uint64
	refcountOrder uint32
	headerLength  uint32
	compression   uint8

	backing       string
	backingFormat string
	dataFile      string
	bitmaps       uint32
	bitmapsAt     uint64           // the directory of bitmaps
	bitmapsSize   uint64           // its size in bytes
	outdated      bool             // the bitmaps: somebody wrote to the disk who does not know them
	featureNames  map[uint8]string // of incompatible bits
}

// readHeader reads and checks the header of f.
func readHeader(f formats.File) (*header, error) {
	var b [headerCompressType]byte
	n := min(f.Size, int64(len(b)))
	if n < 4 {
		return nil, fmt.Errorf("%s: %d bytes: %w", f.Name, f.Size, formats.ErrFormat)
	}
	if err := formats.ReadFull(f, b[:n], 0); err != nil {
		return nil, err
	}
	be := binary.BigEndian
	if be.Uint32(b[0:]) != magic {
		return nil, fmt.Errorf("%s: %w", f.Name, formats.ErrFormat)
	}
	if n < headerV2Bytes {
		return nil, fmt.Errorf("%s: header of a file of %d bytes: %w", f.Name, f.Size, formats.ErrTruncated)
	}
	h := &header{
		version: be.Uint32(b[4:]), clusterBits: be.Uint32(b[20:]), size: be.Uint64(b[24:]), crypt: be.Uint32(b[32:]),
		l1Size: be.Uint32(b[36:]), l1Offset: be.Uint64(b[40:]), snapshots: be.Uint32(b[60:]), snapshotsAt: be.Uint64(b[64:]),
		refTableAt: be.Uint64(b[48:]), refTableSize: be.Uint32(b[56:]),
		headerLength: headerV2Bytes, refcountOrder: 4,
	}
	if h.version == 3 {
		if n < headerV3Bytes {
			return nil, fmt.Errorf("%s: header of a file of %d bytes: %w", f.Name, f.Size, formats.ErrTruncated)
		}
		h.incompatible, h.compatible, h.autoclear = be.Uint64(b[72:]), be.Uint64(b[80:]), be.Uint64(b[88:])
		h.refcountOrder, h.headerLength = be.Uint32(b[96:]), be.Uint32(b[100:])
		if h.headerLength > headerV3Bytes && n > headerV3Bytes {
			h.compression = b[104]
		}
	}
	if err := h.checkShape(f); err != nil {
		return nil, err
	}
	if err := h.readExtensions(f); err != nil {
		return nil, err
	}
	if err := h.readBacking(f, be.Uint64(b[8:]), be.Uint32(b[16:])); err != nil {
		return nil, err
	}
	return h, h.checkFeatures(f)
}

// checkShape refuses numbers that nothing could be read by.
func (h *header) checkShape(f formats.File) error {
	corrupt := func(what string, value uint64) error {
		return fmt.Errorf("%s: qcow2 %s %d: %w", f.Name, what, value, formats.ErrCorrupt)
	}
	switch {
	case h.version != 2 && h.version != 3:
		return fmt.Errorf("%s: qcow2 version %d: %w", f.Name, h.version, formats.ErrUnsupported)
	case h.clusterBits < minClusterBits || h.clusterBits > maxClusterBits:
		return corrupt("cluster_bits", uint64(h.clusterBits))
	case h.size > 1<<60:
		return corrupt("virtual size", h.size)
	case h.headerLength < headerV2Bytes || h.headerLength > 1<<h.clusterBits:
		return corrupt("header_length", uint64(h.headerLength))
	case h.refcountOrder > 6:
		return corrupt("refcount_order", uint64(h.refcountOrder))
	case h.l1Size > maxL1Bytes/8:
		return corrupt("L1 size", uint64(h.l1Size))
	}
	return nil
}

// readExtensions reads the extensions that follow the header, within its
// cluster.
func (h *header) readExtensions(f formats.File) error {
	at, end := int64(h.headerLength), min(f.Size, 1<<h.clusterBits)
	for range maxExtensions {
		var b [8]byte
		if at > end-int64(len(b)) {
			return nil
		}
		if err := formats.ReadFull(f, b[:], at); err != nil {
			return err
		}
		kind, length := binary.BigEndian.Uint32(b[0:]), int64(binary.BigEndian.Uint32(b[4:]))
		if kind == extEnd {
			return nil
		}
		at += int64(len(b))
		if length > end-at {
			return fmt.Errorf("%s: header extension %#x of %d bytes: %w", f.Name, kind, length, formats.ErrCorrupt)
		}
		if err := h.readExtension(f, kind, at, length); err != nil {
			return fmt.Errorf("header extension %#x: %w", kind, err)
		}
		at += (length + 7) &^ 7
	}
	return nil
}

func (h *header) readExtension(f formats.File, kind uint32, at, length int64) error {
	switch kind {
	case extBackingFormat, extDataFile, extFeatureNames, extBitmaps:
	default:
		return nil // extensions that are not known may be passed over
	}
	b := make([]byte, min(length, 4096))
	if err := formats.ReadFull(f, b, at); err != nil {
		return err
	}
	switch kind {
	case extBackingFormat:
		h.backingFormat = string(b)
	case extDataFile:
		h.dataFile = string(b)
	case extBitmaps:
		if len(b) < 24 {
			return fmt.Errorf("%s: %d bytes: %w", f.Name, len(b), formats.ErrCorrupt)
		}
		h.bitmaps, h.bitmapsSize, h.bitmapsAt = binary.BigEndian.Uint32(b), binary.BigEndian.Uint64(b[8:]), binary.BigEndian.Uint64(b[16:])
		h.outdated = h.autoclear&autoclearBitmaps == 0
	case extFeatureNames:
		// Entries of 48 bytes: type, bit, name padded with NUL.
		h.featureNames = make(map[uint8]string)
		for ; len(b) >= 48; b = b[48:] {
			if b[0] == 0 {
				h.featureNames[b[1]] = strings.TrimRight(string(b[2:48]), "\x00")
			}
		}
	}
	return nil
}

func (h *header) readBacking(f formats.File, at uint64, length uint32) error {
	if at == 0 || length == 0 {
		return nil
	}
	if length > maxName || at > 1<<h.clusterBits {
		return fmt.Errorf("%s: backing file name of %d bytes at %d: %w", f.Name, length, at, formats.ErrCorrupt)
	}
	b := make([]byte, length)
	if err := formats.ReadFull(f, b, int64(at)); err != nil {
		return fmt.Errorf("backing file name: %w", err)
	}
	h.backing = string(b)
	return nil
}

// checkFeatures refuses what is not read, by name.
func (h *header) checkFeatures(f formats.File) error {
	unsupported := func(what string) error {
		return fmt.Errorf("%s: qcow2 %s: %w", f.Name, what, formats.ErrUnsupported)
	}
	switch h.crypt {
	case 0:
	case 1:
		return unsupported("encryption with AES")
	case 2:
		return unsupported("encryption with LUKS")
	default:
		return unsupported(fmt.Sprintf("encryption method %d", h.crypt))
	}
	const known = incompatDirty | incompatCorrupt | incompatDataFile | incompatCompression | incompatExtendedL2
	if unknown := h.incompatible &^ known; unknown != 0 {
		for bit := range uint8(64) {
			if unknown&(1<<bit) != 0 {
				return unsupported(fmt.Sprintf("incompatible feature bit %d (%s)", bit, cmpOr(h.featureNames[bit], "not named")))
			}
		}
	}
	switch {
	case h.incompatible&incompatCompression == 0 && h.compression != compressionZlib:
		return fmt.Errorf("%s: compression type %d without its feature bit: %w", f.Name, h.compression, formats.ErrCorrupt)
	case h.compression > compressionZstd:
		return unsupported("compression type " + strconv.Itoa(int(h.compression)))
	case h.incompatible&incompatExtendedL2 != 0 && h.clusterBits < 14:
		return fmt.Errorf("%s: extended L2 entries with clusters of %d bytes: %w", f.Name, 1<<h.clusterBits, formats.ErrCorrupt)
	case h.incompatible&incompatDataFile != 0 && h.dataFile == "":
		return fmt.Errorf("%s: external data file without a name: %w", f.Name, formats.ErrCorrupt)
	}
	return nil
}

func cmpOr(s, other string) string {
	if s != "" {
		return s
	}
	return other
}

// info puts the header into words.
func (h *header) info(f formats.File) formats.Info {
	in := formats.Info{Format: "qcow2", Variant: "v" + strconv.Itoa(int(h.version)), Size: int64(h.size),
		ClusterSz: 1 << h.clusterBits, Sector: sectorSize}
	if h.backing != "" {
		in.Parent = &formats.Claim{Name: h.backing, Format: h.backingFormat}
	}
	field := func(name, value string) { in.Fields = append(in.Fields, formats.Field{Name: name, Value: value}) }
	field("compression", []string{"zlib", "zstd"}[h.compression])
	field("refcount bits", strconv.Itoa(1<<h.refcountOrder))
	if h.compatible&1 != 0 {
		field("lazy refcounts", "true")
	}
	if h.incompatible&incompatExtendedL2 != 0 {
		field("extended L2", "true")
	}
	if h.dataFile != "" {
		field("data file", h.dataFile)
		field("data file raw", strconv.FormatBool(h.autoclear&autoclearRawData != 0))
	}
	if h.incompatible&incompatCorrupt != 0 {
		in.Warnings = append(in.Warnings, "the image is marked corrupt")
	}
	if h.incompatible&incompatDirty != 0 {
		field("dirty", "true") // only the refcounts lag behind; reading does not use them
	}
	h.listExtras(f, &in)
	return in
}
