package probe

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"strings"

	"hyper2kvm/formats/guid"
)

// maxClusters bounds how far a root folder's chain is followed: 8 Ki entries.
const maxClusters = 256

// fat is what a FAT boot sector says (Microsoft FAT specification 1.03, section
// "Boot Sector and BPB"). Offsets and lengths are in bytes.
type fat struct {
	is32            bool
	cluster         int64
	fatAt, dataAt   int64
	rootAt, rootLen int64 // FAT12 and FAT16
	rootCluster     int64 // FAT32
	clusters        int64
	serial          []byte
}

func parseFAT(s *source) (*fat, bool) {
	b := s.at(0, 512)
	if b == nil || b[510] != 0x55 || b[511] != 0xaa || b[0] != 0xeb && b[0] != 0xe9 {
		return nil, false
	}
	sector, per, reserved, fats := le16(b[11:]), int64(b[13]), le16(b[14:]), int64(b[16])
	media := b[21]
	if !powerOfTwo(sector, 512, 4096) || !powerOfTwo(per, 1, 128) || reserved == 0 || fats == 0 || media != 0xf0 && media < 0xf8 {
		return nil, false
	}
	root, total, length := le16(b[17:]), le16(b[19:]), le16(b[22:])
	if total == 0 {
		total = le32(b[32:])
	}
	f := &fat{cluster: per * sector, fatAt: reserved * sector, serial: b[0x27:0x2b]}
	if length == 0 {
		f.is32, length = true, le32(b[36:])
		f.rootCluster, f.serial = le32(b[44:]), b[0x43:0x47]
	}
	f.rootAt = f.fatAt + fats*length*sector
	f.rootLen = root * 32
	f.dataAt = f.rootAt + (f.rootLen+sector-1)/sector*sector
	f.clusters = (total*sector - f.dataAt) / f.cluster
	if length == 0 || f.clusters <= 0 || f.is32 && f.rootCluster < 2 {
		return nil, false
	}
	return f, true
}

// vfat reads FAT12, FAT16 and FAT32; the label is the root folder's.
func vfat(s *source) (Content, bool) {
	f, ok := parseFAT(s)
	if !ok || s.has(3, "NTFS    ") || s.has(3, "-FVE-FS-") || s.has(3, "EXFAT   ") {
		return Content{}, false
	}
	c := Content{Type: "vfat", UUID: serial(f.serial), Version: "FAT16"}
	switch {
	case f.is32:
		c.Version = "FAT32"
	case f.clusters < 4085:
		c.Version = "FAT12"
	}
	c.Label = f.label(s)
	return c, true
}

func serial(b []byte) string {
	if zero(b) {
		return ""
	}
	return fmt.Sprintf("%02X%02X-%02X%02X", b[3], b[2], b[1], b[0])
}

func (f *fat) label(s *source) string {
	if !f.is32 {
		label, _ := fatLabel(s.at(f.rootAt, f.rootLen))
		return label
	}
	next := f.rootCluster
	for range maxClusters {
		if next < 2 || next >= f.clusters+2 {
			return ""
		}
		dir := s.at(f.dataAt+(next-2)*f.cluster, f.cluster)
		if label, done := fatLabel(dir); done || dir == nil {
			return label
		}
		link := s.at(f.fatAt+next*4, 4)
		if link == nil {
			return ""
		}
		next = le32(link) & 0x0fffffff
	}
	return ""
}

// fatLabel looks for the volume label among directory entries; done means that
// it is found or that the directory ends.
func fatLabel(dir []byte) (label string, done bool) {
	const longName, kinds, volume = 0x0f, 0x18, 0x08 // attributes
	for ; len(dir) >= 32; dir = dir[32:] {
		e := dir[:32]
		switch {
		case e[0] == 0:
			return "", true
		case e[0] == 0xe5 || e[11]&longName == longName || e[11]&kinds != volume || le16(e[20:]) != 0 || le16(e[26:]) != 0:
			continue
		}
		name := bytes.Clone(e[:11])
		if name[0] == 0x05 {
			name[0] = 0xe5
		}
		return text(name), true
	}
	return "", false
}

// exfat reads the boot sector (exFAT specification, section 3.1).
func exfat(s *source) (Content, bool) {
	b := s.at(0, 512)
	if b == nil || !s.has(3, "EXFAT   ") || b[510] != 0x55 || b[511] != 0xaa {
		return Content{}, false
	}
	return Content{Type: "exfat", UUID: serial(b[100:104]), Version: fmt.Sprintf("%d.%d", b[105], b[104])}, true
}

// ntfs reads the boot sector, and from the master file table's record 3,
// $Volume, the label and whether it was unmounted (ntfs-3g, layout.h).
func ntfs(s *source) (Content, bool) {
	b := s.at(0, 512)
	if b == nil || !s.has(3, "NTFS    ") {
		return Content{}, false
	}
	sector, per := le16(b[11:]), int64(b[13])
	if per > 128 { // a power of two, negated
		per = 1 << min(uint(256-per), 31)
	}
	if !powerOfTwo(sector, 256, 4096) || per == 0 {
		return Content{}, false
	}
	cluster := sector * per
	record := int64(int8(b[0x40]))
	if record < 0 {
		record = 1 << min(uint(-record), 31)
	} else {
		record *= cluster
	}
	c := Content{Type: "ntfs", UUID: fmt.Sprintf("%016X", binary.LittleEndian.Uint64(b[0x48:]))}
	mft := le64(b[0x30:])
	if !powerOfTwo(record, 256, 64<<10) || mft > s.size/cluster {
		return c, true
	}
	c.Label, c.Note = ntfsVolume(s.at(mft*cluster+3*record, record))
	return c, true
}

func ntfsVolume(record []byte) (label, note string) {
	if len(record) < 48 || !bytes.HasPrefix(record, []byte("FILE")) {
		return "", ""
	}
	for at := le16(record[0x14:]); at+24 <= int64(len(record)); {
		a := record[at:]
		kind, length := le32(a), le32(a[4:])
		if kind == 0xffffffff || length < 24 || length > int64(len(a)) {
			break
		}
		off, n := le16(a[20:]), le32(a[16:])
		if a[8] == 0 && off+n <= length { // resident
			value := a[off : off+n]
			switch {
			case kind == 0x60:
				label = utf16Text(value, binary.LittleEndian)
			case kind == 0x70 && len(value) >= 12 && value[10]&1 != 0:
				note = Dirty
			}
		}
		at += length
	}
	return label, note
}

// bitlocker recognises BitLocker and reads the volume's GUID and description
// from its first metadata block (libbde, "BitLocker Drive Encryption format").
func bitlocker(s *source) (Content, bool) {
	b := s.at(0, 512)
	if b == nil || b[0] != 0xeb {
		return Content{}, false
	}
	var meta int64
	switch {
	case s.has(0, "\xeb\x52\x90-FVE-FS-"): // Vista
		return Content{Type: "BitLocker"}, true
	case s.has(0, "\xeb\x58\x90-FVE-FS-"):
		meta = le64(b[176:])
	case s.has(0, "\xeb\x58\x90MSWIN4.1") && guid.String(b[424:440]) == "4967d63b-2e29-4ad8-8399-f6a339e3d001": // To Go
		meta = le64(b[440:])
	default:
		return Content{}, false
	}
	c := Content{Type: "BitLocker"}
	m := s.at(meta, 112)
	if m == nil || !bytes.HasPrefix(m, []byte("-FVE-FS-")) {
		return c, true
	}
	c.UUID, c.Version = guid.String(m[80:96]), fmt.Sprint(le16(m[10:]))
	c.Label = bdeDescription(s, meta+112, min(le32(m[64:]), 64<<10)-48)
	return c, true
}

// bdeDescription looks for the metadata entry of type 7 with a text value (2).
func bdeDescription(s *source, at, left int64) string {
	for left >= 8 {
		e := s.at(at, 8)
		if e == nil || le16(e) < 8 || le16(e) > left {
			return ""
		}
		n := le16(e)
		if le16(e[2:]) == 7 && le16(e[4:]) == 2 && n > 8 {
			return strings.TrimRight(utf16Text(s.at(at+8, n-8), binary.LittleEndian), " ")
		}
		at, left = at+n, left-n
	}
	return ""
}
