// Package table reads partition tables: GPT, and MBR with its chain of extended
// boot records. It only reads; numbers are those that Linux gives, so that
// partition 5 here is /dev/sda5 there.
//
// Sources: UEFI specification 2.10 section 5 (GPT, protective MBR); Linux
// block/partitions/msdos.c and efi.c for numbering and for what counts.
package table

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"hyper2kvm/fixes/guest"
)

// GUIDs and MBR types that decide how a disk boots (UEFI 2.10 table 5.7; the
// BIOS boot partition is GRUB's).
const (
	TypeESP     = "c12a7328-f81f-11d2-ba4b-00a0c93ec93b"
	TypeBIOS    = "21686148-6449-6e6f-744e-656564454649"
	TypeMBRESP  = "0xef"
	TypeMBRSwap = "0x82"
)

// Table is a partition table as found.
type Table struct {
	Kind string // "gpt", "dos", "none"
	// ID is the disk GUID or the MBR signature, as blkid's PTUUID.
	ID         string
	SectorSize int64 // that the table counts in; the one asked for if there is none
	Partitions []guest.Partition
	BootCode   string // "grub" where sector 0 holds GRUB's boot.img, "none" where it holds no code
	Warnings   []string
}

const (
	mbrSize      = 512
	mbrEntries   = 446 // offset of the four entries
	mbrSignature = 510
	diskID       = 440
)

// Read reads the table of a disk of size bytes with sectors of the given size.
// A GPT that was made with the other sector size (512, 4096) is read, with a
// warning: Linux will not see it on this disk.
func Read(r io.ReaderAt, size, sector int64) (*Table, error) {
	if sector != 512 && sector != 4096 {
		return nil, fmt.Errorf("read partition table: sector size %d is neither 512 nor 4096", sector)
	}
	t := &Table{Kind: "none", SectorSize: sector}
	mbr, err := readAt(r, 0, mbrSize, size)
	if errors.Is(err, io.EOF) {
		return t, nil // smaller than a sector
	}
	if err != nil {
		return nil, fmt.Errorf("read partition table: %w", err)
	}
	switch code := mbr[:diskID]; {
	case bytes.Contains(code, []byte("GRUB")):
		t.BootCode = "grub"
		t.checkCore(r, mbr, size, sector)
	case bytes.Count(code, []byte{0}) == len(code):
		t.BootCode = "none"
	}
	if mbr[mbrSignature] != 0x55 || mbr[mbrSignature+1] != 0xaa {
		return t, nil
	}
	if isProtective(mbr) {
		found, err := t.readGPT(r, size, sector)
		if err != nil || found {
			return t, err
		}
	}
	return t, t.readMBR(r, mbr, size, sector)
}

// Offsets in GRUB's boot sector: of the first sector of what it loads, in GRUB 2
// (grub/i386/pc/boot.h), and of the version, in GRUB legacy (stage1.h).
const (
	coreSector    = 0x5c
	legacyVersion = 0x3e
)

// checkCore warns of a boot sector of GRUB 2 that leads nowhere: its core image
// is in the gap before the first partition or in a BIOS boot partition, where
// partitioning tools do not see it and copies forget it.
func (t *Table) checkCore(r io.ReaderAt, mbr []byte, size, sector int64) {
	if mbr[legacyVersion] == 3 && mbr[legacyVersion+1] == 2 {
		return
	}
	at := binary.LittleEndian.Uint64(mbr[coreSector:])
	if at == 0 || at >= uint64(size/sector) {
		t.warn("GRUB's boot sector leads to sector %d, which the disk does not have: it does not boot with a BIOS", at)
		return
	}
	core, err := readAt(r, int64(at)*sector, mbrSize, size)
	if err == nil && bytes.Count(core, []byte{0}) == len(core) {
		t.warn("GRUB's boot sector leads to sector %d, which is empty: the disk does not boot with a BIOS", at)
	}
}

// readAt reads exactly n bytes at off of a disk of size bytes; what lies beyond
// its end is io.EOF.
func readAt(r io.ReaderAt, off, n, size int64) ([]byte, error) {
	if off < 0 || n < 0 || off > size || n > size-off {
		return nil, io.EOF
	}
	buf := make([]byte, n)
	if got, err := r.ReadAt(buf, off); int64(got) < n {
		return nil, fmt.Errorf("read %d bytes at %d: %w", n, off, err)
	}
	return buf, nil
}

// mbrEntry is one of the four 16-byte entries. Start and count are in sectors.
type mbrEntry struct {
	status, kind byte
	start, count int64
}

func entry(sector []byte, i int) mbrEntry {
	e := sector[mbrEntries+16*i:]
	return mbrEntry{
		status: e[0], kind: e[4],
		start: int64(binary.LittleEndian.Uint32(e[8:])),
		count: int64(binary.LittleEndian.Uint32(e[12:])),
	}
}

func (e mbrEntry) empty() bool { return e.count == 0 || e.kind == 0 }

func (e mbrEntry) extended() bool {
	return e.kind == 0x05 || e.kind == 0x0f || e.kind == 0x85
}

// isProtective reports whether an MBR only guards a GPT: one entry of type 0xEE
// that begins at sector 1.
func isProtective(mbr []byte) bool {
	for i := range 4 {
		if e := entry(mbr, i); e.kind == 0xee && e.start == 1 {
			return true
		}
	}
	return false
}
