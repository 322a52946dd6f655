package probe

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"hash/crc32"
)

// raidMember recognises members of arrays. Linux MD first (md(4); the layouts
// are in include/uapi/linux/raid/md_p.h), then firmware RAID by signature.
func raidMember(s *source) (Content, bool) {
	if c, ok := md1(s); ok {
		return c, true
	}
	if c, ok := md0(s); ok {
		return c, true
	}
	for _, m := range []struct {
		fromEnd int64
		magic   string
		kind    string
	}{
		{1024, "Intel Raid ISM Cfg Sig. ", "isw_raid_member"},
		{512, "\xde\x11\xde\x11", "ddf_raid_member"},
		{512, "\x11\xde\x11\xde", "ddf_raid_member"},
	} {
		if s.has(s.size&^511-m.fromEnd, m.magic) {
			return Content{Type: m.kind}, true
		}
	}
	return Content{}, false
}

const mdMagic = 0xa92b4efc

// md1 reads superblocks of version 1: at the end (1.0, aligned to 4 KiB, at
// least 8 KiB before it), at the start (1.1), or at 4 KiB (1.2).
func md1(s *source) (Content, bool) {
	end := (s.size/512 - 16) &^ 7 * 512
	for _, place := range []struct {
		off     int64
		version string
	}{{end, "1.0"}, {0, "1.1"}, {4096, "1.2"}} {
		sb := s.at(place.off, 256)
		if sb == nil || le32(sb) != mdMagic || le32(sb[4:]) != 1 || le64(sb[144:])*512 != place.off {
			continue
		}
		return Content{Type: "linux_raid_member", UUID: uuid(sb[16:32]), Label: text(sb[32:64]), Version: place.version}, true
	}
	return Content{}, false
}

// md0 reads the superblock of version 0.90: 64 KiB aligned, in the last 128 KiB,
// in the byte order of the machine that made it.
func md0(s *source) (Content, bool) {
	if s.size < 128<<10 {
		return Content{}, false
	}
	sb := s.at(s.size&^0xffff-64<<10, 4096)
	if sb == nil {
		return Content{}, false
	}
	order := binary.ByteOrder(binary.LittleEndian)
	if order.Uint32(sb) != mdMagic {
		order = binary.BigEndian
	}
	if order.Uint32(sb) != mdMagic || order.Uint32(sb[4:]) != 0 {
		return Content{}, false
	}
	id := make([]byte, 0, 16)
	for _, word := range []int{5, 13, 14, 15} { // set_uuid0, then 1 to 3
		id = binary.BigEndian.AppendUint32(id, order.Uint32(sb[4*word:]))
	}
	version := fmt.Sprintf("%d.%d.%d", order.Uint32(sb[4:]), order.Uint32(sb[8:]), order.Uint32(sb[12:]))
	return Content{Type: "linux_raid_member", UUID: uuid(id), Version: version}, true
}

// lvmMember reads the label of an LVM2 physical volume, which is in one of the
// first four sectors (lvm2 lib/label/label.h): the type at 24, a checksum of
// what follows it at 16, and the UUID where the offset at 20 points.
func lvmMember(s *source) (Content, bool) {
	for sector := range int64(4) {
		l := s.at(sector*512, 512)
		if l == nil {
			return Content{}, false
		}
		if !bytes.HasPrefix(l, []byte("LABELONE")) || !bytes.HasPrefix(l[24:], []byte("LVM2 001")) || le64(l[8:]) != sector {
			continue
		}
		// LVM's checksum is CRC-32 with its own start value and no inversion.
		const start = 0xf597a6cf
		sum := ^crc32.Update(^uint32(start), crc32.IEEETable, l[20:])
		at := le32(l[20:])
		if int64(sum) != le32(l[16:]) || at+32 > 512 {
			continue
		}
		u := string(l[at : at+32])
		id := fmt.Sprintf("%s-%s-%s-%s-%s-%s-%s", u[:6], u[6:10], u[10:14], u[14:18], u[18:22], u[22:26], u[26:])
		return Content{Type: "LVM2_member", UUID: id, Version: "LVM2 001"}, true
	}
	return Content{}, false
}
