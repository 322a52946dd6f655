package table

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"strings"
	"unicode/utf16"

	"hyper2kvm/fixes/guest"
	"hyper2kvm/formats/guid"
)

// Limits of a GPT header: 92 bytes are defined (UEFI 2.10 table 5.5). 4096
// entries of up to 4 KiB each are far more than any tool makes.
const (
	headerSize = 92
	maxEntries = 4096
	maxArray   = 4 << 20
)

type header struct {
	sector         int64
	first, last    int64 // usable sectors
	diskGUID       string
	entriesAt      int64
	count, entrySz int64
	entries        []byte
}

// readGPT reads the primary header, or else the backup at the end of the disk.
// It reports false if neither is there.
func (t *Table) readGPT(r io.ReaderAt, size, sector int64) (bool, error) {
	other := 512 + 4096 - sector
	for _, try := range []struct {
		sector, at int64
		warning    string
	}{
		{sector, sector, ""},
		{sector, size/sector*sector - sector, "the primary GPT is damaged: the backup was read"},
		{other, other, fmt.Sprintf("the GPT was made with sectors of %d bytes, the disk has %d", other, sector)},
	} {
		h, err := readHeader(r, try.at, try.sector, size)
		if err != nil {
			return false, err
		}
		if h == nil {
			continue
		}
		if try.warning != "" {
			t.warn("%s", try.warning)
		}
		t.takeGPT(h, size)
		return true, nil
	}
	t.warn("the disk has a protective MBR but no valid GPT")
	return false, nil
}

// readHeader reads and checks the header at offset at and its entries; it gives
// nil for what is no valid header.
func readHeader(r io.ReaderAt, at, sector, size int64) (*header, error) {
	raw, err := readAt(r, at, 512, size)
	if errors.Is(err, io.EOF) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read GPT header: %w", err)
	}
	le := binary.LittleEndian
	length := int64(le.Uint32(raw[12:]))
	if !bytes.HasPrefix(raw, []byte("EFI PART")) || length < headerSize || length > int64(len(raw)) {
		return nil, nil
	}
	sum := le.Uint32(raw[16:])
	clear(raw[16:20])
	if crc32.ChecksumIEEE(raw[:length]) != sum || le.Uint64(raw[24:]) != uint64(at/sector) {
		return nil, nil
	}
	h := &header{
		sector: sector, first: int64(le.Uint64(raw[40:])), last: int64(le.Uint64(raw[48:])),
		diskGUID: guid.String(raw[56:]), entriesAt: int64(le.Uint64(raw[72:])),
		count: int64(le.Uint32(raw[80:])), entrySz: int64(le.Uint32(raw[84:])),
	}
	if h.entrySz < 128 || h.entrySz > 4096 || h.count > maxEntries || h.count*h.entrySz > maxArray ||
		h.entriesAt < 0 || h.entriesAt > size/sector {
		return nil, nil
	}
	h.entries, err = readAt(r, h.entriesAt*sector, h.count*h.entrySz, size)
	if errors.Is(err, io.EOF) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read GPT entries: %w", err)
	}
	if crc32.ChecksumIEEE(h.entries) != le.Uint32(raw[88:]) {
		return nil, nil
	}
	return h, nil
}

func (t *Table) takeGPT(h *header, size int64) {
	t.Kind, t.ID, t.SectorSize = "gpt", h.diskGUID, h.sector
	le := binary.LittleEndian
	sectors := uint64(size / h.sector)
	for i := range h.count {
		e := h.entries[i*h.entrySz:][:128]
		if bytes.Equal(e[:16], make([]byte, 16)) {
			continue
		}
		first, last := le.Uint64(e[32:]), le.Uint64(e[40:])
		if first > last || last >= sectors {
			t.warn("GPT entry %d lies outside the disk (sectors %d to %d of %d)", i+1, first, last, sectors)
			continue
		}
		t.Partitions = append(t.Partitions, guest.Partition{
			Number: int(i) + 1, Start: int64(first) * h.sector, Size: int64(last-first+1) * h.sector,
			Type: guid.String(e), UUID: guid.String(e[16:]), Label: utf16Label(e[56:128]),
			Bootable: le.Uint64(e[48:])&(1<<2) != 0, // legacy BIOS bootable
		})
	}
}

func utf16Label(b []byte) string {
	var units []uint16
	for ; len(b) >= 2; b = b[2:] {
		u := binary.LittleEndian.Uint16(b)
		if u == 0 {
			break
		}
		units = append(units, u)
	}
	return strings.TrimRight(string(utf16.Decode(units)), " ")
}
