package guest

import "strings"

// Facts is what INSPECT found of a guest; fixes decide on facts alone, reports
// print them, and they travel as JSON. Sizes are in bytes, UUIDs in the form
// that blkid prints.
type Facts struct {
	OS       OS     `json:"os"`
	Arch     string `json:"arch"` // GNU machine name: "x86_64"
	Hostname string `json:"hostname,omitempty"`
	Firmware string `json:"firmware"`       // "bios" or "uefi"
	Init     string `json:"init,omitempty"` // "systemd", "sysv", "upstart", "openrc"

	Disks       []Disk       `json:"disks"`
	Filesystems []Filesystem `json:"filesystems"` // every block device with content, partitions and logical volumes alike
	Mounts      []Mount      `json:"mounts"`      // how the tree was put together, root first
	Fstab       []FstabEntry `json:"fstab,omitempty"`

	Kernels   []Kernel   `json:"kernels"`
	Initramfs string     `json:"initramfs,omitempty"` // generator: "initramfs-tools", "dracut", "mkinitcpio", "mkinitfs", "mkinitrd", or one that is only named: "booster", "genkernel", "make-initrd", "tiny-initramfs"
	Loader    BootLoader `json:"boot_loader"`
	Network   []string   `json:"network,omitempty"` // stacks with configuration: "ifupdown", "networkd", "networkmanager", "netplan", "ifcfg"
	NICs      []NIC      `json:"nics,omitempty"`    // the plan's NICs, in order, with the name the guest gave each
	Tools     []string   `json:"tools,omitempty"`   // hypervisor tools found: "open-vm-tools"
	SELinux   string     `json:"selinux,omitempty"` // "enforcing", "permissive", "disabled", "" when not there

	// Clock is how the guest reads the machine's clock: "localtime", or "" for UTC.
	Clock string `json:"clock,omitempty"`

	// TargetBus is the bus the guest will boot from: "virtio" or "scsi", and
	// "sata" or "ide" for a guest whose kernels have no driver for those.
	TargetBus string `json:"target_bus,omitempty"`
	// Needs is what the virtual machine must be like.
	Needs Needs `json:"needs,omitzero"`
	// Warnings are things inspection could not read or found strange.
	Warnings []string `json:"warnings,omitempty"`
}

// OS identifies the operating system.
type OS struct {
	Family  string   `json:"family"` // "linux", "windows", "bsd", "unknown"
	ID      string   `json:"id"`     // os-release ID: "debian"
	IDLike  []string `json:"id_like,omitempty"`
	Version string   `json:"version,omitempty"` // os-release VERSION_ID: "12"
	Name    string   `json:"name,omitempty"`    // PRETTY_NAME
}

// Disk is one attached disk, in the order in which the source had them.
type Disk struct {
	Index      int         `json:"index"` // 0 is the disk that the source called sda
	Device     string      `json:"-"`     // device node in the helper VM
	Size       int64       `json:"size"`
	SectorSize int64       `json:"sector_size"`
	Table      string      `json:"table"` // "gpt", "dos", "none"
	TableID    string      `json:"table_id,omitempty"`
	Partitions []Partition `json:"partitions,omitempty"`
	BootCode   string      `json:"boot_code,omitempty"` // "grub" where the MBR holds GRUB's boot.img, "none" where it holds no code
}

// Partition is one entry of a partition table.
type Partition struct {
	Number   int    `json:"number"`
	Start    int64  `json:"start"`
	Size     int64  `json:"size"`
	Type     string `json:"type"` // GPT type GUID lower case, or MBR type as "0x83"
	UUID     string `json:"uuid"` // PARTUUID
	Label    string `json:"label,omitempty"`
	Bootable bool   `json:"bootable,omitempty"`
}

// Filesystem is the content of a partition, whole disk or volume.
type Filesystem struct {
	// Device is the node in the helper VM; it means nothing elsewhere.
	Device string `json:"-"`
	// Disk and Partition place it; Disk is -1 for a logical volume, Partition 0
	// for a whole disk or a volume.
	Disk      int    `json:"disk"`
	Partition int    `json:"partition,omitempty"`
	Volume    string `json:"volume,omitempty"` // "vg0/root" for a logical volume, "md/0", "luks/NAME"
	Type      string `json:"type"`             // blkid's TYPE: "ext4", "xfs", "vfat", "swap", "LVM2_member", "crypto_LUKS"
	UUID      string `json:"uuid,omitempty"`
	Label     string `json:"label,omitempty"`
	PartUUID  string `json:"partuuid,omitempty"`
	Size      int64  `json:"size"`
	// Note names what forbids touching it: "hibernated", "dirty".
	Note string `json:"note,omitempty"`
	// LUKS is set where Type is "crypto_LUKS".
	LUKS *LUKS `json:"luks,omitempty"`
	// Within are the UUIDs of the encrypted volumes that a volume lies in, the
	// nearest first.
	Within []string `json:"within,omitempty"`
}

// LUKS is what opens an encrypted volume, as its header says.
type LUKS struct {
	Version int `json:"version"`
	// Opened says that inspection had a key for it.
	Opened bool `json:"opened,omitempty"`
	// Tokens are what else than a passphrase opens it.
	Tokens []LUKSToken `json:"tokens,omitempty"`
	// Passphrases counts the key slots that no token holds, which a passphrase or
	// key file opens; -1 is not known.
	Passphrases int `json:"passphrases"`
}

// LUKSToken is one way to open a volume without a passphrase.
type LUKSToken struct {
	Type   string `json:"type"`             // "clevis", "systemd-tpm2", "systemd-fido2"
	Pin    string `json:"pin,omitempty"`    // of clevis: "tang", "tpm2"
	Server string `json:"server,omitempty"` // the Tang server's URL
}

// Mount is one mounted file system of the guest.
type Mount struct {
	Point  string `json:"point"` // "/", "/boot"
	Spec   string `json:"spec"`  // as fstab names it, "" for one that fstab does not list
	Type   string `json:"type"`
	Device string `json:"-"`
	UUID   string `json:"uuid,omitempty"`
	Opts   string `json:"options,omitempty"`
	Free   int64  `json:"free"`
	Inodes int64  `json:"free_inodes"` // -1 where the file system has no fixed number
}

// FstabEntry is one line of etc/fstab (fstab(5)), its escapes undone.
type FstabEntry struct {
	Spec    string   `json:"spec"`
	Point   string   `json:"point"`
	Type    string   `json:"type"`
	Options []string `json:"options"`
	// UUID is that of the file system of the guest that Spec means, "" when none
	// of its disks has it.
	UUID string `json:"uuid,omitempty"`
}

// Option gives the value of an option, and whether it is there.
func (e FstabEntry) Option(name string) (string, bool) {
	for _, o := range e.Options {
		if key, value, _ := strings.Cut(o, "="); key == name {
			return value, true
		}
	}
	return "", false
}

// Kernel is one installed kernel.
type Kernel struct {
	Version   string `json:"version"`
	Image     string `json:"image"`               // guest path without leading slash: "boot/vmlinuz-6.1.0-25-amd64"
	Initramfs string `json:"initramfs,omitempty"` // likewise; "" when there is none
	Modules   string `json:"modules"`             // "lib/modules/6.1.0-25-amd64" (links resolved)
	Default   bool   `json:"default,omitempty"`
	Support
	// Entries name the boot entries that start it.
	Entries []string `json:"entries,omitempty"`
}

// BootLoader says what starts the kernel.
type BootLoader struct {
	// Kind is "grub2", "grub-legacy", "systemd-boot", "extlinux", "uki" where the
	// firmware itself starts unified kernel images, "lilo", "zipl", or "none".
	Kind string `json:"kind"`
	// Configs are the files that hold the kernel command lines.
	Configs []string `json:"configs,omitempty"`
	// ESP is the mount point of the EFI system partition without leading slash, "" when there is none.
	ESP string `json:"esp,omitempty"`
	// Loaders are the EFI programs found on it: "EFI/debian/shimx64.efi".
	Loaders []string `json:"loaders,omitempty"`
	// Menu is the file that tells which entry is the default: "boot/grub2/grub.cfg",
	// "boot/efi/loader/loader.conf".
	Menu string `json:"menu,omitempty"`
	// Entries are what the loader offers to start, in its order.
	Entries []BootEntry `json:"entries,omitempty"`
}

// NIC is a network interface of the source machine.
type NIC struct {
	MAC  string `json:"mac"`            // lower case, colons
	Name string `json:"name,omitempty"` // the guest's name for it: "ens192"; "" when not known
	// From says where the name was found: "etc/network/interfaces".
	From string `json:"from,omitempty"`
	// Was is the address that the card had on the source, where the target
	// gives it another; "" where it keeps it or nobody said.
	Was string `json:"was,omitempty"`
	// Addresses are the IP addresses that the source's hypervisor knew of it.
	Addresses []string `json:"addresses,omitempty"`
	// Made is true for an address that is not the source's: the target's card is
	// given it so that its name can hang on it.
	Made bool `json:"made,omitempty"`
	// Unsure says why the card has no Name, where the guest's files give several.
	Unsure string `json:"unsure,omitempty"`
}
