package vhdx

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"slices"

	"github.com/google/uuid"

	"hyper2kvm/formats"
	"hyper2kvm/formats/guid"
)

// The header section, 2.2: of the headers and the region tables there are two.
const (
	signature   = "vhdxfile"
	creatorSize = 512 // after the signature
	headerSize  = 4 << 10
	tableSize   = 64 << 10
	sectionSize = 1 << 20 // of the whole section, and what all else is aligned to
	version1    = 1
	checksumAt  = 4 // in headers, region tables and log entries

	// maxEntries is what a region table or a metadata table has at most.
	maxEntries = 2047
	tableHead  = 16 // before the entries of a region table
	tableEntry = 32
)

func headersAt() [2]int64 { return [2]int64{64 << 10, 128 << 10} }
func tablesAt() [2]int64  { return [2]int64{192 << 10, 256 << 10} }

// The known regions, 2.2.3.2.
const (
	regionBAT      = "2dc27766-f623-4200-9d64-115e9bfd4a08"
	regionMetadata = "8b7ca206-4790-4b9a-b8fe-575f050f886e"
)

// header is a header, 2.2.2.
type header struct {
	sequence             uint64
	fileWrite, dataWrite uuid.UUID
	log                  uuid.UUID // zero when there is nothing to replay
	logVersion, version  uint16
	logLength, logAt     uint64
}

func parseHeader(b []byte) header {
	le := binary.LittleEndian
	return header{
		sequence: le.Uint64(b[8:]), fileWrite: guid.Parse(b[16:]), dataWrite: guid.Parse(b[32:]), log: guid.Parse(b[48:]),
		logVersion: le.Uint16(b[64:]), version: le.Uint16(b[66:]), logLength: uint64(le.Uint32(b[68:])), logAt: le.Uint64(b[72:]),
	}
}

// checksum is CRC-32C with the four bytes of the checksum itself as zeroes.
func checksum(b []byte) uint32 {
	t := crc32.MakeTable(crc32.Castagnoli)
	sum := crc32.Update(0, t, b[:checksumAt])
	sum = crc32.Update(sum, t, make([]byte, 4))
	return crc32.Update(sum, t, b[checksumAt+4:])
}

// sign writes the checksum of b into it.
func sign(b []byte) { binary.LittleEndian.PutUint32(b[checksumAt:], checksum(b)) }

// twin is a structure that is there twice, and which of them are whole.
type twin struct {
	raw  [2][]byte
	good [2]bool
}

// readTwin reads both copies of a structure.
func readTwin(f formats.File, at [2]int64, size int, signature string) (twin, error) {
	var t twin
	for i := range at {
		b := make([]byte, size)
		if err := formats.ReadFull(f, b, at[i]); err != nil {
			return t, err
		}
		t.raw[i] = b
		t.good[i] = string(b[:4]) == signature && binary.LittleEndian.Uint32(b[checksumAt:]) == checksum(b)
	}
	return t, nil
}

func readHeaders(f formats.File) (twin, error) { return readTwin(f, headersAt(), headerSize, "head") }
func readTables(f formats.File) (twin, error)  { return readTwin(f, tablesAt(), tableSize, "regi") }

// current says which of two headers counts.
func (t twin) current() (int, error) {
	first, second := parseHeader(t.raw[0]).sequence, parseHeader(t.raw[1]).sequence
	switch {
	case !t.good[0] && !t.good[1]:
		return 0, fmt.Errorf("both headers are damaged: %w", formats.ErrCorrupt)
	case !t.good[0]:
		return 1, nil
	case !t.good[1] || first > second:
		return 0, nil
	case second > first:
		return 1, nil
	}
	// Disk2vhd writes one header twice.
	if !bytes.Equal(t.raw[0], t.raw[1]) {
		return 0, fmt.Errorf("two headers of sequence number %d, and they differ: %w", first, formats.ErrCorrupt)
	}
	return 0, nil
}

// findHeader takes the current header.
func (img *Image) findHeader() error {
	t, err := readHeaders(img.raw)
	if err != nil {
		return err
	}
	i, err := t.current()
	if err != nil {
		return fmt.Errorf("%s: %w", img.raw.Name, err)
	}
	img.header = parseHeader(t.raw[i])
	if !t.good[1-i] {
		img.warn("one of the two headers is damaged; the other one is used")
	}
	switch {
	case img.version != version1:
		return fmt.Errorf("%s: VHDX version %d: %w", img.raw.Name, img.version, formats.ErrUnsupported)
	case img.logVersion != 0 && img.log != uuid.Nil:
		return fmt.Errorf("%s: log of version %d: %w", img.raw.Name, img.logVersion, formats.ErrUnsupported)
	}
	return nil
}

// region is an entry of the region table, 2.2.3.2.
type region struct {
	id       string
	at       int64
	length   int64
	required bool
}

// parseRegions takes the entries of a region table.
func parseRegions(b []byte) ([]region, error) {
	le := binary.LittleEndian
	n := le.Uint32(b[8:])
	if n > maxEntries {
		return nil, fmt.Errorf("region table of %d entries: %w", n, formats.ErrCorrupt)
	}
	var out []region
	for e := range slices.Chunk(b[tableHead:tableHead+n*tableEntry], tableEntry) {
		r := region{id: guid.String(e), at: int64(le.Uint64(e[16:])), length: int64(le.Uint32(e[24:])), required: le.Uint32(e[28:])&1 != 0}
		if r.at < sectionSize || r.at > maxFile || r.at%sectionSize != 0 || r.length%sectionSize != 0 {
			return nil, fmt.Errorf("region %s of %d bytes at %d: %w", r.id, r.length, uint64(r.at), formats.ErrCorrupt)
		}
		if slices.ContainsFunc(out, func(x region) bool { return x.id == r.id }) {
			return nil, fmt.Errorf("region %s is there twice: %w", r.id, formats.ErrCorrupt)
		}
		out = append(out, r)
	}
	return out, nil
}

// findRegions takes the regions of the file.
func (img *Image) findRegions() error {
	t, err := readTables(img.file)
	if err != nil {
		return err
	}
	i := 0
	switch {
	case !t.good[0] && !t.good[1]:
		return fmt.Errorf("%s: both region tables are damaged: %w", img.file.Name, formats.ErrCorrupt)
	case !t.good[0]:
		i = 1
		fallthrough
	case !t.good[1]:
		img.warn("one of the two region tables is damaged; the other one is used")
	}
	if img.regions, err = parseRegions(t.raw[i]); err != nil {
		return fmt.Errorf("%s: %w", img.file.Name, err)
	}
	for _, r := range img.regions {
		switch r.id {
		case regionBAT:
			img.bat = r
		case regionMetadata:
			img.meta = r
		default:
			if r.required {
				return fmt.Errorf("%s: region %s, which has to be understood: %w", img.file.Name, r.id, formats.ErrUnsupported)
			}
		}
	}
	if img.bat.id == "" || img.meta.id == "" {
		return fmt.Errorf("%s: no region for the block allocation table, or none for the metadata: %w", img.file.Name, formats.ErrCorrupt)
	}
	return nil
}
