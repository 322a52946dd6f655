package detect

// signature is bytes at a fixed place that tell what a file is.
type signature struct {
	name   string
	offset int
	bytes  string
	tail   bool // the offset is in the last sector
}

// unread lists formats of disk images that are recognised but not read.
func unread() []signature {
	return []signature{
		{name: "QED", bytes: "QED\x00"},
		{name: "Parallels", bytes: "WithoutFreeSpace"},
		{name: "Parallels", bytes: "WithouFreSpacExt"},
		{name: "EWF", bytes: "EVF\x09\x0d\x0a\xff\x00"},
		{name: "compressed DMG", bytes: "koly", tail: true},
	}
}

// disks lists what shows that bytes are a disk or a volume as they are.
func disks() []signature {
	return []signature{
		{name: "MBR or boot sector", offset: 510, bytes: "\x55\xaa"},
		{name: "GPT, 512-byte sectors", offset: 512, bytes: "EFI PART"},
		{name: "GPT, 4096-byte sectors", offset: 4096, bytes: "EFI PART"},
		{name: "ext", offset: 1024 + 56, bytes: "\x53\xef"},
		{name: "XFS", bytes: "XFSB"},
		{name: "btrfs", offset: 0x10040, bytes: "_BHRfS_M"},
		{name: "NTFS", offset: 3, bytes: "NTFS    "},
		{name: "LVM", bytes: "LABELONE"},
		{name: "LVM", offset: 512, bytes: "LABELONE"},
		{name: "LVM", offset: 1024, bytes: "LABELONE"},
		{name: "LVM", offset: 1536, bytes: "LABELONE"},
		{name: "LUKS", bytes: "LUKS\xba\xbe"},
		{name: "MD RAID 1.1", bytes: "\xfc\x4e\x2b\xa9"},
		{name: "MD RAID 1.2", offset: 4096, bytes: "\xfc\x4e\x2b\xa9"},
		{name: "swap", offset: 4086, bytes: "SWAPSPACE2"},
		{name: "ISO 9660", offset: 0x8001, bytes: "CD001"},
		{name: "squashfs", bytes: "hsqs"},
		{name: "EROFS", offset: 1024, bytes: "\xe2\xe1\xf5\xe0"},
	}
}

// others lists files that people hand over in place of a disk.
func others() []signature {
	return []signature{
		{name: "zip archive", bytes: "PK\x03\x04"},
		{name: "zip archive", bytes: "PK\x05\x06"},
		{name: "gzip file", bytes: "\x1f\x8b"},
		{name: "xz file", bytes: "\xfd7zXZ\x00"},
		{name: "zstd file", bytes: "\x28\xb5\x2f\xfd"},
		{name: "bzip2 file", bytes: "BZh"},
		{name: "7z archive", bytes: "7z\xbc\xaf\x27\x1c"},
		{name: "RAR archive", bytes: "Rar!\x1a\x07"},
		{name: "tar archive (an OVA?)", offset: 257, bytes: "ustar"},
		{name: "PDF document", bytes: "%PDF-"},
		{name: "ELF program", bytes: "\x7fELF"},
		{name: "XML document", bytes: "<?xml"},
		{name: "registry hive", bytes: "regf"},
	}
}
