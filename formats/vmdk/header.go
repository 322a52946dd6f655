package vmdk

import (
	"encoding/binary"
	"fmt"
	"strconv"

	"hyper2kvm/formats"
)

// Magic numbers, as little-endian integers at offset 0 of a file.
const (
	sparseMagic = 0x564d444b // "KDMV", section "Hosted Sparse Extent Header"
	cowdMagic   = 0x44574f43 // "COWD", section "ESX Server Sparse Extent Header"
	seMagic     = 0xcafebabe // seSparse; the upper half of its 64 bits is zero
)

// Bits of the flags of a hosted sparse header.
const (
	flagNewLineTest    = 1 << 0
	flagRedundantTable = 1 << 1
	flagCompressed     = 1 << 16
	flagMarkers        = 1 << 17
)

// Special values.
const (
	gdAtEnd        = ^uint64(0) // gdOffset of a stream: the footer knows
	deflateGrains  = 1          // compressAlgorithm
	markerFooter   = 3          // type of the marker before the footer
	markerBytes    = 12         // of the marker before a compressed grain
	maxGrainBytes  = 16 << 20   // bounds the memory that a compressed grain takes
	maxTableSize   = 1 << 16    // entries of a grain table; 512 and 4096 occur
	maxDirectory   = 1 << 24    // entries of a grain directory: 64 MiB, 512 TiB with usual grains
	cowdTableSize  = 4096
	maxHeaderBytes = 2048 // a COWD header is 4 sectors
)

// sparseHeader is the header of a sparse file. Positions are in sectors.
type sparseHeader struct {
	version          uint32
	flags            uint32
	capacity         uint64
	grainSize        uint64
	descriptorOffset uint64
	descriptorSize   uint64
	gtesPerTable     uint32
	rgdOffset        uint64
	gdOffset         uint64
	compression      uint16
	uncleanShutdown  bool
	hasFooter        bool
	cowd             bool
}

func (h *sparseHeader) compressed() bool { return h.flags&flagCompressed != 0 }

func (h *sparseHeader) variant() string {
	switch {
	case h.cowd:
		return "vmfsSparse"
	case h.compressed():
		return "streamOptimized"
	}
	return "monolithicSparse"
}

func (h *sparseHeader) fields() []formats.Field {
	return []formats.Field{
		{Name: "header version", Value: strconv.FormatUint(uint64(h.version), 10)},
		{Name: "compressed grains", Value: strconv.FormatBool(h.compressed())},
	}
}

// readSparseHeader reads the header of f and, for a stream, its footer.
func readSparseHeader(f formats.File) (*sparseHeader, error) {
	h, err := parseSparseHeader(f, 0)
	if err != nil {
		return nil, err
	}
	if h.gdOffset != gdAtEnd {
		return h, nil
	}
	// Section "Stream-Optimized Compressed Sparse Extents": the file ends with
	// footer marker, footer, end-of-stream marker.
	end := f.Size &^ (sectorSize - 1)
	var marker [sectorSize]byte
	if err := formats.ReadFull(f, marker[:], end-3*sectorSize); err != nil {
		return nil, fmt.Errorf("footer marker: %w", err)
	}
	if binary.LittleEndian.Uint32(marker[8:]) != 0 || binary.LittleEndian.Uint32(marker[12:]) != markerFooter {
		return nil, fmt.Errorf("%s: stream does not end in a footer: %w", f.Name, formats.ErrTruncated)
	}
	foot, err := parseSparseHeader(f, end-2*sectorSize)
	if err != nil {
		return nil, fmt.Errorf("footer: %w", err)
	}
	if foot.gdOffset == gdAtEnd {
		return nil, fmt.Errorf("%s: footer without grain directory: %w", f.Name, formats.ErrCorrupt)
	}
	foot.hasFooter = true
	// Writers that stream leave the descriptor's place to the header.
	foot.descriptorOffset, foot.descriptorSize = h.descriptorOffset, h.descriptorSize
	return foot, nil
}

func parseSparseHeader(f formats.File, off int64) (*sparseHeader, error) {
	var b [sectorSize]byte
	if err := formats.ReadFull(f, b[:], off); err != nil {
		return nil, fmt.Errorf("sparse header: %w", err)
	}
	le := binary.LittleEndian
	if le.Uint32(b[0:]) != sparseMagic {
		return nil, fmt.Errorf("%s: no sparse header at offset %d: %w", f.Name, off, formats.ErrCorrupt)
	}
	h := &sparseHeader{
		version:          le.Uint32(b[4:]),
		flags:            le.Uint32(b[8:]),
		capacity:         le.Uint64(b[12:]),
		grainSize:        le.Uint64(b[20:]),
		descriptorOffset: le.Uint64(b[28:]),
		descriptorSize:   le.Uint64(b[36:]),
		gtesPerTable:     le.Uint32(b[44:]),
		rgdOffset:        le.Uint64(b[48:]),
		gdOffset:         le.Uint64(b[56:]),
		uncleanShutdown:  b[72] != 0,
		compression:      le.Uint16(b[77:]),
	}
	if h.version < 1 || h.version > 3 {
		return nil, fmt.Errorf("%s: sparse header version %d: %w", f.Name, h.version, formats.ErrUnsupported)
	}
	// A transfer in text mode rewrites line ends; these four bytes show it.
	if h.flags&flagNewLineTest != 0 && string(b[73:77]) != "\n \r\n" {
		return nil, fmt.Errorf("%s: line ends were rewritten, as by a transfer in text mode: %w", f.Name, formats.ErrCorrupt)
	}
	return h, nil
}

// readCOWDHeader reads the header of an ESX delta in the terms of a hosted one.
func readCOWDHeader(f formats.File) (*sparseHeader, error) {
	var b [maxHeaderBytes]byte
	if err := formats.ReadFull(f, b[:], 0); err != nil {
		return nil, fmt.Errorf("COWD header: %w", err)
	}
	le := binary.LittleEndian
	h := &sparseHeader{
		version:      le.Uint32(b[4:]),
		capacity:     uint64(le.Uint32(b[12:])),
		grainSize:    uint64(le.Uint32(b[16:])),
		gdOffset:     uint64(le.Uint32(b[20:])),
		gtesPerTable: cowdTableSize,
		cowd:         true,
	}
	if h.version != 1 {
		return nil, fmt.Errorf("%s: COWD version %d: %w", f.Name, h.version, formats.ErrUnsupported)
	}
	return h, nil
}

// check refuses what no reader could make sense of, before anything is
// allocated by it.
func (h *sparseHeader) check(f formats.File) error {
	corrupt := func(what string, value uint64) error {
		return fmt.Errorf("%s: %s %d: %w", f.Name, what, value, formats.ErrCorrupt)
	}
	switch {
	case h.capacity > maxDiskSectors:
		return corrupt("capacity in sectors", h.capacity)
	case h.grainSize == 0 || h.grainSize > maxGrainBytes/sectorSize:
		return corrupt("grain size in sectors", h.grainSize)
	case h.gtesPerTable == 0 || h.gtesPerTable > maxTableSize:
		return corrupt("entries in a grain table", uint64(h.gtesPerTable))
	case h.compressed() && h.compression != deflateGrains:
		return fmt.Errorf("%s: grain compression %d: %w", f.Name, h.compression, formats.ErrUnsupported)
	}
	return nil
}

// places lists where headers, descriptor and directories of n bytes lie, as far
// as they lie in a file of that size.
func (h *sparseHeader) places(size, n int64) []span {
	type place struct {
		sector, bytes uint64
		what          string
	}
	list := []place{{0, sectorSize, "the header"}, {h.gdOffset, uint64(n), "the grain directory"}}
	switch {
	case h.cowd:
		list[0].bytes = maxHeaderBytes
	case h.flags&flagRedundantTable != 0 && h.rgdOffset != 0:
		list = append(list, place{h.rgdOffset, uint64(n), "the redundant grain directory"})
	}
	if h.descriptorOffset != 0 && h.descriptorSize <= maxDescriptorBytes/sectorSize {
		list = append(list, place{h.descriptorOffset, h.descriptorSize * sectorSize, "the descriptor"})
	}
	var out []span
	for _, p := range list {
		if at := int64(p.sector) * sectorSize; p.bytes > 0 && p.sector <= uint64(size)/sectorSize && int64(p.bytes) <= size-at {
			out = append(out, span{at, at + int64(p.bytes), p.what})
		}
	}
	return out
}

// descriptor reads the embedded descriptor; nil when the file has none.
func (h *sparseHeader) descriptor(f formats.File) (*descriptor, error) {
	if h.descriptorOffset == 0 || h.descriptorSize == 0 {
		return nil, nil
	}
	if h.descriptorSize > maxDescriptorBytes/sectorSize {
		return nil, fmt.Errorf("%s: embedded descriptor of %d sectors: %w", f.Name, h.descriptorSize, formats.ErrCorrupt)
	}
	if h.descriptorOffset > uint64(f.Size)/sectorSize {
		return nil, fmt.Errorf("%s: embedded descriptor at sector %d: %w", f.Name, h.descriptorOffset, formats.ErrTruncated)
	}
	at := int64(h.descriptorOffset) * sectorSize
	if size := int64(h.descriptorSize) * sectorSize; size > f.Size-at {
		return nil, fmt.Errorf("%s: embedded descriptor of %d bytes at offset %d: %w", f.Name, size, at, formats.ErrTruncated)
	}
	text := make([]byte, h.descriptorSize*sectorSize)
	if err := formats.ReadFull(f, text, at); err != nil {
		return nil, fmt.Errorf("embedded descriptor: %w", err)
	}
	d, err := parseDescriptor(text)
	if err != nil {
		return nil, fmt.Errorf("embedded descriptor of %s: %w", f.Name, err)
	}
	if len(d.keys) == 0 && len(d.extents) == 0 {
		return nil, nil // QEMU leaves room for one in extents of a split disk, too
	}
	return d, nil
}
