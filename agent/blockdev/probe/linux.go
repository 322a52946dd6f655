package probe

import (
	"bytes"
	"encoding/binary"
)

// ext reads ext2, ext3, ext4 and their external journal: the super block is at
// 1024 (Linux Documentation/filesystems/ext4/super.rst, offsets in hex there).
func ext(s *source) (Content, bool) {
	sb := s.at(1024, 1024)
	if sb == nil || le16(sb[0x38:]) != 0xef53 {
		return Content{}, false
	}
	const (
		hasJournal = 0x4 // compat

		replay   = 0x4 // incompat
		journal  = 0x8
		incompat = 0x2 | 0x10 // filetype, meta_bg: all that ext2 has

		roCompat = 0x1 | 0x2 | 0x4 // sparse_super, large_file, btree_dir

		stateError = 0x2
	)
	compat, inc, ro := le32(sb[0x5c:]), le32(sb[0x60:]), le32(sb[0x64:])
	c := Content{Type: "ext4", UUID: uuid(sb[0x68:0x78]), Label: text(sb[0x78:0x88]), Version: "1.0"}
	switch {
	case inc&journal != 0:
		c.Type = "jbd"
	case compat&hasJournal == 0 && inc&^incompat == 0 && ro&^roCompat == 0:
		c.Type = "ext2"
	case compat&hasJournal != 0 && inc&^(incompat|replay) == 0 && ro&^roCompat == 0:
		c.Type = "ext3"
	}
	switch {
	case le16(sb[0x3a:])&stateError != 0:
		c.Note = HasErrors
	case inc&replay != 0:
		c.Note = NeedsReplay
	}
	return c, true
}

// xfs reads the super block at 0, or the log header of an external log (XFS
// Algorithms & Data Structures, sections "Superblocks" and "Journaling Log").
func xfs(s *source) (Content, bool) {
	sb := s.at(0, 512)
	if sb == nil {
		return Content{}, false
	}
	be := binary.BigEndian
	if !bytes.HasPrefix(sb, []byte("XFSB")) {
		return xfsLog(s)
	}
	block, sector, groups := int64(be.Uint32(sb[4:])), int64(be.Uint16(sb[102:])), be.Uint32(sb[88:])
	if !powerOfTwo(block, 512, 65536) || !powerOfTwo(sector, 512, 32768) || groups == 0 {
		return Content{}, false
	}
	c := Content{Type: "xfs", UUID: uuid(sb[32:48]), Label: text(sb[108:120])}
	if ring, ok := xfsRingOf(s, sb); ok && !ring.clean() {
		c.Note = NeedsReplay
	}
	return c, true
}

func xfsLog(s *source) (Content, bool) {
	for sector := range int64(256) / 2 {
		h := s.at(sector*512, 512)
		if h == nil || s.err != nil {
			return Content{}, false
		}
		be := binary.BigEndian
		version := be.Uint32(h[4:])
		if be.Uint32(h) == 0xfeedbabe && (version == 1 || version == 2) && be.Uint32(h[300:]) >= 1 && be.Uint32(h[300:]) <= 3 {
			return Content{Type: "xfs_external_log"}, true
		}
	}
	return Content{}, false
}

// btrfs reads the first super block at 64 KiB (btrfs on-disk format, "Superblock").
func btrfs(s *source) (Content, bool) {
	sb := s.at(64<<10, 4096)
	if sb == nil || !bytes.Equal(sb[0x40:0x48], []byte("_BHRfS_M")) {
		return Content{}, false
	}
	c := Content{Type: "btrfs", UUID: uuid(sb[0x20:0x30]), Label: text(sb[0x12b : 0x12b+256])}
	if le64(sb[0x60:]) != 0 { // log_root: the tree of what was synced since the last commit
		c.Note = NeedsReplay
	}
	return c, true
}

// swapArea reads swap headers: the signature ends the first page, whose size is
// the machine's; version, UUID and label are at 1024 (include/linux/swap.h).
// A suspended system has its own signature in the same place
// (kernel/power/swap.c and the suspend program), TuxOnIce at the very start.
func swapArea(s *source) (Content, bool) {
	if s.has(0, "\xed\xc3\x02\xe9\x98\x56\xe5\x0c") {
		c := swapIdentity(s)
		c.Type, c.Version, c.Note = "swsuspend", "tuxonice", Hibernated
		return c, true
	}
	for page := int64(4096); page <= 65536; page *= 2 {
		sig := s.at(page-10, 10)
		switch {
		case sig == nil:
			return Content{}, false
		case string(sig) == "SWAP-SPACE":
			return Content{Type: "swap", Version: "0"}, true
		case string(sig) == "SWAPSPACE2":
			c := swapIdentity(s)
			if c.Version != "1" {
				continue
			}
			c.Type = "swap"
			return c, true
		case suspended(sig):
			c := swapIdentity(s)
			c.Type, c.Version, c.Note = "swsuspend", string(bytes.TrimRight(sig, "\x00")), Hibernated
			return c, true
		}
	}
	return Content{}, false
}

func suspended(sig []byte) bool {
	for _, magic := range []string{"S1SUSPEND", "S2SUSPEND", "ULSUSPEND", "LINHIB0001"} {
		if bytes.HasPrefix(sig, []byte(magic)) {
			return true
		}
	}
	return false
}

func swapIdentity(s *source) Content {
	h := s.at(1024, 44)
	if h == nil || binary.LittleEndian.Uint32(h) != 1 && binary.BigEndian.Uint32(h) != 1 {
		return Content{}
	}
	return Content{Version: "1", UUID: uuid(h[12:28]), Label: text(h[28:44])}
}
