// Package initramfs says what the appliance carries, as lists, and brings it
// up: mounts, kernel modules, the keys of the run, the disks.
//
// The appliance consists of two images. The initramfs proper is what every run
// needs: the agent, which is /init itself, and the modules of the boot list.
// The tools image holds programs and rarer modules; it is attached as a disk,
// read only where somebody asks for one of them (Tools.Need), and never
// unpacked as a whole.
package initramfs

// Paths inside the appliance.
const (
	// AgentPath is the agent. /init and Modprobe are links to it.
	AgentPath = "bin/h2k-agent"
	// Modprobe is what the kernel runs for its own requests
	// (/proc/sys/kernel/modprobe).
	Modprobe = "sbin/modprobe"
	// BootModules names the modules of the boot list, one path a line, in the
	// order in which they are loaded.
	BootModules = "lib/modules/boot"
	// CanaryPath is the program that VALIDATE puts into guests.
	CanaryPath = "lib/hyper2kvm/h2k-canary"
)

// What the helper VM is made of, as the host and the appliance agree on it.
const (
	// Port is the name of the virtio-serial port that carries SSH.
	Port = "org.hyper2kvm.agent"
	// KeyFolder is the prefix of the fw_cfg files, which QEMU asks users to
	// begin with "opt/" (docs/specs/fw_cfg.rst).
	KeyFolder = "opt/org.hyper2kvm/"
	// HostKey is the fw_cfg file with the agent's private SSH key (OpenSSH
	// PEM), ClientKey that with the one public key that may connect
	// (authorized_keys line), DiskCount that with the number of disks.
	HostKey   = "host-key"
	ClientKey = "client-key"
	DiskCount = "disks"
	// DiskTarget is the SCSI target whose logical units are the disks, in
	// order; the tools image is unit 0 of ToolsTarget.
	DiskTarget  = 0
	ToolsTarget = 1
	// DiskFolder holds links to the disks by number: disk0, disk1, ...
	DiskFolder = "/dev/h2k"
)

// Console lines. Programs look for them.
const (
	// LinePrefix begins each line of the agent.
	LinePrefix = "h2k-agent: "
	// LineReady says that the agent serves.
	LineReady = LinePrefix + "ready"
	// LineFailed begins the reason why it does not; the machine ends.
	LineFailed = LinePrefix + "failed: "
)

// Boot lists the modules that every run needs, besides what the kernel has
// built in: the port and the disks.
func Boot() []string {
	return []string{"virtio_pci", "virtio_console", "virtio_scsi", "sd_mod"}
}

// Modules lists what the tools image carries for disks and file systems. A
// module brings those it depends on. One that the kernel has built in, or does
// not have at all, is left out.
func Modules() []string {
	return []string{
		// file systems that guests live on, and images
		"ext4", "xfs", "btrfs", "vfat", "ntfs3", "f2fs", "exfat", "isofs", "udf", "squashfs", "erofs", "overlay",
		"fuse", "jfs", "reiserfs", "hfsplus",
		// names on FAT file systems
		"nls_cp437", "nls_ascii", "nls_iso8859_1", "nls_utf8", "nls_cp850",
		// volumes and arrays
		"dm_mod", "dm_snapshot", "dm_thin_pool", "dm_mirror", "dm_raid", "dm_crypt", "dm_integrity", "dm_cache",
		"dm_cache_smq", "dm_writecache", "dm_zero", "dm_bufio", "dm_log_userspace", "dm_verity", "dm_vdo", "dm_multipath",
		"md_mod", "linear", "raid0", "raid1", "raid10", "raid456",
		// disks
		"loop", "nbd", "virtio_blk", "sr_mod", "sg", "nvme", "ahci", "efivarfs",
		// checksums and ciphers that the above ask the kernel for by name
		"crc32c_generic", "crc32c_intel", "libcrc32c", "xxhash_generic", "sha256_generic", "blake2b_generic",
		"xts", "cbc", "aes_generic", "aesni_intel", "essiv", "sha512_generic", "algif_skcipher", "algif_hash", "af_alg",
	}
}

// Program is a program of the tools image.
type Program struct {
	Name string
	// Package is the Debian package that brings it.
	Package string
	// Paths are where distributions put it; the first that exists is taken.
	Paths []string
}

// Programs lists what the tools image carries.
func Programs() []Program {
	sbin := func(pkg string, names ...string) []Program {
		var out []Program
		for _, n := range names {
			out = append(out, Program{n, pkg, []string{"/usr/sbin/" + n, "/sbin/" + n, "/usr/bin/" + n, "/bin/" + n}})
		}
		return out
	}
	var all []Program
	for _, of := range [][]Program{
		sbin("lvm2", "lvm"),
		sbin("dmsetup", "dmsetup"),
		sbin("cryptsetup-bin", "cryptsetup"),
		sbin("mdadm", "mdadm"),
		sbin("e2fsprogs", "e2fsck", "mke2fs", "tune2fs", "resize2fs"),
		sbin("xfsprogs", "xfs_repair", "mkfs.xfs", "xfs_db"),
		sbin("btrfs-progs", "btrfs", "mkfs.btrfs"),
		sbin("dosfstools", "fsck.fat", "mkfs.fat"),
		sbin("ntfs-3g", "ntfs-3g", "ntfsfix", "mkntfs"),
	} {
		all = append(all, of...)
	}
	return all
}

// Aliases are further names for programs, as in Need.
func Aliases() map[string]string {
	return map[string]string{
		"fsck.ext2": "e2fsck", "fsck.ext3": "e2fsck", "fsck.ext4": "e2fsck",
		"mkfs.ext2": "mke2fs", "mkfs.ext3": "mke2fs", "mkfs.ext4": "mke2fs",
		"fsck.vfat": "fsck.fat", "mkfs.vfat": "mkfs.fat", "mkfs.ntfs": "mkntfs",
	}
}
