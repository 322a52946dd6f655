package vhd

import (
	"encoding/binary"
	"errors"
	"fmt"
	"strings"

	"github.com/google/uuid"

	"hyper2kvm/formats"
	"hyper2kvm/formats/winname"
)

const (
	sectorSize = 512
	headerSize = 1024

	footerCookie  = "conectix"
	dynamicCookie = "cxsparse"
	version       = 0x00010000
	// unused is a BAT entry without a block, and the data offset of a fixed disk.
	unused = 0xFFFFFFFF
)

// The types of disk, section "Disk Type".
const (
	typeFixed        = 2
	typeDynamic      = 3
	typeDifferencing = 4
)

// Bounds of what a header may ask for.
const (
	// maxBlocks is what 2040 GiB, the largest VHD, has of the smallest blocks
	// that are in use.
	maxBlocks    = 8 << 20
	minBlock     = 4 << 10
	maxBlock     = 256 << 20
	maxDisk      = 64 << 40
	maxNameBytes = 64 << 10
)

// footer is the hard disk footer, all numbers big-endian.
type footer struct {
	dataOffset    uint64
	timestamp     uint32 // seconds since 2000-01-01 UTC
	creator       string // 4 bytes
	creatorVer    uint32
	creatorOS     string
	originalSize  uint64
	currentSize   uint64
	cylinders     uint16
	heads, perTrk uint8
	diskType      uint32
	id            uuid.UUID
	savedState    bool
	checksumGood  bool
}

// parseFooter reads a footer, of which old versions wrote 511 bytes.
func parseFooter(b []byte) (footer, bool) {
	if len(b) < sectorSize-1 || string(b[:8]) != footerCookie {
		return footer{}, false
	}
	be := binary.BigEndian
	f := footer{
		dataOffset: be.Uint64(b[16:]), timestamp: be.Uint32(b[24:]), creator: string(b[28:32]), creatorVer: be.Uint32(b[32:]),
		creatorOS: string(b[36:40]), originalSize: be.Uint64(b[40:]), currentSize: be.Uint64(b[48:]),
		cylinders: be.Uint16(b[56:]), heads: b[58], perTrk: b[59], diskType: be.Uint32(b[60:]), savedState: b[84] != 0,
	}
	copy(f.id[:], b[68:84])
	f.checksumGood = be.Uint32(b[64:]) == checksum(b, 64)
	return f, true
}

// checksum is the one's complement of the sum of all bytes but the four at skip.
func checksum(b []byte, skip int) uint32 {
	sum := uint32(0)
	for i, c := range b {
		if i < skip || i >= skip+4 {
			sum += uint32(c)
		}
	}
	return ^sum
}

// chs is the size that the geometry gives.
func (f *footer) chs() uint64 {
	return uint64(f.cylinders) * uint64(f.heads) * uint64(f.perTrk) * sectorSize
}

// maxCHS is the largest geometry: larger disks have it, too.
const maxCHS = 65535 * 16 * 255 * sectorSize

// size is what the guest saw. Virtual PC, Virtual Server and old versions of
// QEMU go by the geometry; Hyper-V, Disk2vhd, VirtualBox, XenServer and newer
// QEMU by the current size (QEMU documents the former in block/vpc.c).
func (f *footer) size() (int64, error) {
	n := f.currentSize
	switch f.creator {
	case "vpc ", "vs  ", "qemu":
		if c := f.chs(); c != 0 && c != maxCHS {
			n = c
		}
	}
	if n > maxDisk || n%sectorSize != 0 {
		return 0, fmt.Errorf("virtual size of %d bytes: %w", n, formats.ErrCorrupt)
	}
	return int64(n), nil
}

// dynamic is the dynamic disk header.
type dynamic struct {
	table      int64 // offset of the BAT
	entries    int64
	block      int64 // bytes
	parentID   uuid.UUID
	parentTime uint32
	parentName string
	locators   []locator
}

// locator says where a name of the parent lies, section "Parent Locator".
type locator struct {
	platform string // "W2ru", "W2ku", "Wi2r", …
	length   int64
	offset   int64
}

// parseDynamic reads and bounds a dynamic disk header.
func parseDynamic(b []byte) (d dynamic, warnings []string, err error) {
	be := binary.BigEndian
	if string(b[:8]) != dynamicCookie {
		return d, nil, fmt.Errorf("dynamic disk header begins with %q: %w", b[:8], formats.ErrCorrupt)
	}
	if be.Uint32(b[36:]) != checksum(b, 36) {
		warnings = append(warnings, "the checksum of the dynamic disk header is wrong")
	}
	table := be.Uint64(b[16:])
	d = dynamic{table: int64(table), entries: int64(be.Uint32(b[28:])), block: int64(be.Uint32(b[32:])), parentTime: be.Uint32(b[56:])}
	switch {
	case table > maxDisk:
		return d, nil, fmt.Errorf("block allocation table at offset %d: %w", table, formats.ErrCorrupt)
	case d.block < minBlock || d.block > maxBlock || d.block&(d.block-1) != 0:
		return d, nil, fmt.Errorf("blocks of %d bytes: %w", d.block, formats.ErrCorrupt)
	case d.entries > maxBlocks:
		return d, nil, fmt.Errorf("block allocation table of %d entries: %w", d.entries, formats.ErrCorrupt)
	}
	copy(d.parentID[:], b[40:56])
	d.parentName = winname.UTF16(b[64:576], be)
	for p := b[576:768]; len(p) >= 24; p = p[24:] {
		l := locator{platform: string(p[:4]), length: int64(be.Uint32(p[8:])), offset: int64(be.Uint64(p[16:]))}
		if l.platform != "\x00\x00\x00\x00" && l.length > 0 && l.length <= maxNameBytes && l.offset >= 0 {
			d.locators = append(d.locators, l)
		}
	}
	return d, warnings, nil
}

// parent is the claim of a differencing disk. A relative name is taken before
// an absolute one, of which only the last part can mean anything here. The
// parent's time of change is not claimed: a copy of the file has another.
func (d *dynamic) parent(f formats.File) (*formats.Claim, []string) {
	names := map[string]string{}
	var warnings []string
	for _, l := range d.locators {
		b := make([]byte, l.length)
		if err := formats.ReadFull(f, b, l.offset); err != nil {
			if errors.Is(err, formats.ErrTruncated) {
				warnings = append(warnings, fmt.Sprintf("the name of the parent at offset %d lies behind the end of the file", l.offset))
			}
			continue
		}
		switch l.platform {
		case "W2ru", "W2ku":
			names[l.platform] = winname.UTF16(b, binary.LittleEndian)
		case "Wi2r", "Wi2k":
			names["W2"+l.platform[3:]+"u"] = strings.TrimRight(string(b), "\x00")
		}
	}
	name := winname.First(names["W2ru"], names["W2ku"], d.parentName)
	return &formats.Claim{Name: name, ID: d.parentID.String()}, warnings
}
