package probe

import (
	"bytes"
	"fmt"
)

// iso9660 reads the primary volume descriptor at sector 16 (ECMA-119 section
// 8.4): the volume's name at 40, the dates of change and creation at 830, 813.
func iso9660(s *source) (Content, bool) {
	d := s.at(16*2048, 2048)
	if d == nil || !bytes.Equal(d[1:6], []byte("CD001")) || d[0] != 1 {
		return Content{}, false
	}
	c := Content{Type: "iso9660", Label: text(d[40:72])}
	for _, date := range [][]byte{d[830:846], d[813:829]} {
		if zero(date) || bytes.Equal(date, []byte("0000000000000000")) {
			continue
		}
		c.UUID = fmt.Sprintf("%s-%s-%s-%s-%s-%s-%s", date[:4], date[4:6], date[6:8], date[8:10], date[10:12], date[12:14], date[14:16])
		break
	}
	return c, true
}

// signature is a format that is told by fixed bytes in a fixed place. id and
// label are offsets, 0 for none.
type signature struct {
	kind  string
	at    int64
	magic string
	id    int64
	label int64
	width int64 // of the label
}

// signatures lists formats that no fix touches: the report names them, and what
// is not named must not be taken for empty.
func signatures() []signature {
	return []signature{
		{kind: "erofs", at: 1024, magic: "\xe2\xe1\xf5\xe0", id: 1024 + 48, label: 1024 + 64, width: 16},
		{kind: "f2fs", at: 1024, magic: "\x10\x20\xf5\xf2", id: 1024 + 108},
		{kind: "jfs", at: 32 << 10, magic: "JFS1", id: 32<<10 + 136, label: 32<<10 + 152, width: 16},
		{kind: "reiserfs", at: 64<<10 + 52, magic: "ReIsErFs", id: 64<<10 + 84, label: 64<<10 + 100, width: 16},
		{kind: "reiserfs", at: 64<<10 + 52, magic: "ReIsEr2Fs", id: 64<<10 + 84, label: 64<<10 + 100, width: 16},
		{kind: "reiserfs", at: 64<<10 + 52, magic: "ReIsEr3Fs", id: 64<<10 + 84, label: 64<<10 + 100, width: 16},
		{kind: "reiser4", at: 64 << 10, magic: "ReIsEr4", id: 64<<10 + 20, label: 64<<10 + 36, width: 16},
		{kind: "apfs", at: 32, magic: "NXSB", id: 72},
		{kind: "hfsplus", at: 1024, magic: "H+\x00\x04"},
		{kind: "hfsplus", at: 1024, magic: "HX\x00\x05"},
		{kind: "ReFS", magic: "\x00\x00\x00ReFS\x00"},
		{kind: "VMFS", at: 2 << 20, magic: "\x5e\xf1\xab\x2f"},
		{kind: "VMFS_volume_member", at: 1 << 20, magic: "\x0d\xd0\x01\xc0"},
		{kind: "gfs2", at: 64 << 10, magic: "\x01\x16\x19\x70", label: 64<<10 + 160, width: 64},
		{kind: "ocfs2", at: 1024, magic: "OCFSV2"},
		{kind: "ocfs2", at: 2048, magic: "OCFSV2"},
		{kind: "ocfs2", at: 4096, magic: "OCFSV2"},
		{kind: "ocfs2", at: 8192, magic: "OCFSV2"},
		{kind: "oracleasm", at: 32, magic: "ORCLDISK"},
		{kind: "vdo", magic: "dmvdo001"},
		{kind: "stratis", at: 512 + 4, magic: "!Stra0tis\x86\xff\x02^Arh"},
		{kind: "ceph_bluestore", magic: "bluestore block device"},
		{kind: "ufs", at: 64<<10 + 1372, magic: "\x19\x01\x54\x19"},
		{kind: "ufs", at: 8192 + 1372, magic: "\x54\x19\x01\x00"},
	}
}

func fixed(s *source) (Content, bool) {
	for _, sig := range signatures() {
		if !s.has(sig.at, sig.magic) {
			continue
		}
		c := Content{Type: sig.kind}
		if id := s.at(sig.id, 16); sig.id > 0 && id != nil {
			c.UUID = uuid(id)
		}
		if label := s.at(sig.label, sig.width); sig.label > 0 && label != nil {
			c.Label = text(label)
		}
		return c, true
	}
	return Content{}, false
}

// udf looks for the NSR descriptor among the volume recognition structures that
// begin at 32 KiB, a sector apart but no less than 2 KiB (ECMA-167 part 2
// section 8.3, part 3 section 9.1); an ISO 9660 may share them.
func udf(s *source) (Content, bool) {
	return Content{Type: "udf"}, hasNSR(s, 2048) || hasNSR(s, 4096)
}

func hasNSR(s *source, step int64) bool {
	for i := range int64(64) {
		d := s.at(32<<10+i*step, 6)
		if d == nil {
			return false
		}
		switch string(d[1:6]) {
		case "NSR02", "NSR03":
			return true
		case "BEA01", "BOOT2", "CD001", "CDW02", "TEA01":
		default:
			return false
		}
	}
	return false
}

// squashfs reads the version at 28 (kernel fs/squashfs/squashfs_fs.h).
func squashfs(s *source) (Content, bool) {
	b := s.at(0, 32)
	if b == nil || !bytes.HasPrefix(b, []byte("hsqs")) || le16(b[28:]) != 4 {
		return Content{}, false
	}
	return Content{Type: "squashfs", Version: fmt.Sprintf("4.%d", le16(b[30:]))}, true
}

// bcache reads the super block at 4 KiB, which holds its own sector (kernel
// include/uapi/linux/bcache.h); bcachefs has the same magic but not that.
func bcache(s *source) (Content, bool) {
	const magic = "\xc6\x85\x73\xf6\x4e\x1a\x45\xca\x82\x65\xf5\x7f\x48\xba\x6d\x81"
	b := s.at(4096, 104)
	if b == nil || !bytes.Equal(b[24:40], []byte(magic)) || le64(b[8:]) != 8 {
		return Content{}, false
	}
	return Content{Type: "bcache", UUID: uuid(b[40:56]), Label: text(b[72:104])}, true
}

// zfs looks for the list of names and values that describes a pool's member,
// 16 KiB into its first label (ZFS on-disk specification section 1.3).
func zfs(s *source) (Content, bool) {
	b := s.at(16<<10, 4096)
	if b == nil || b[0] != 1 || b[1] > 1 || !bytes.Contains(b, []byte("pool_guid")) {
		return Content{}, false
	}
	return Content{Type: "zfs_member"}, true
}
