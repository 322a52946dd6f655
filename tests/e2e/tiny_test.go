package e2e

import (
	"encoding/binary"
	"fmt"
	"hyper2kvm/formats/formatstest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

const mib = 1 << 20

// part is a partition of a tiny disk: a file system made from a folder, or
// prepared bytes.
type part struct {
	file string // the file with its content
	size int64  // bytes
}

// tinyDisk makes a raw disk with an MBR and the partitions one after another.
func tinyDisk(t *testing.T, dir string, parts ...part) string {
	t.Helper()
	path := filepath.Join(dir, "tiny.raw")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	mbr := make([]byte, 512)
	copy(mbr[0x1B8:], "h2k!")
	mbr[510], mbr[511] = 0x55, 0xAA
	start := int64(mib)
	for i, p := range parts {
		e := mbr[446+16*i:]
		e[4] = 0x83
		binary.LittleEndian.PutUint32(e[8:], uint32(start/512))
		binary.LittleEndian.PutUint32(e[12:], uint32(p.size/512))
		data, err := os.ReadFile(p.file)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.WriteAt(data, start); err != nil {
			t.Fatal(err)
		}
		start += p.size
	}
	if _, err := f.WriteAt(mbr, 0); err != nil {
		t.Fatal(err)
	}
	if err := f.Truncate(start + mib); err != nil {
		t.Fatal(err)
	}
	return path
}

// tree is a guest's files; a value that begins with "-> " is a symbolic link.
type tree map[string]string

// tinyGuest is enough of a Debian to be recognised and repaired: its kernel
// and modules are names only.
func tinyGuest() tree {
	const kver = "6.1.0-99-amd64"
	t := tree{
		"etc/os-release":                     "ID=debian\nVERSION_ID=\"12\"\nPRETTY_NAME=\"Debian GNU/Linux 12 (bookworm)\"\n",
		"etc/debian_version":                 "12.9\n",
		"etc/hostname":                       "tiny\n",
		"etc/fstab":                          "/dev/sda1 / ext4 errors=remount-ro 0 1\n",
		"etc/default/grub":                   "GRUB_DEFAULT=0\nGRUB_DISABLE_LINUX_UUID=true\nGRUB_CMDLINE_LINUX=\"\"\n",
		"etc/initramfs-tools/modules":        "# modules\n",
		"etc/initramfs-tools/initramfs.conf": "MODULES=most\n",
		"usr/sbin/update-initramfs":          "#!/bin/sh\n",
		"usr/sbin/mkinitramfs":               "#!/bin/sh\n",
		"usr/bin/sh":                         "\x7fELF\x02\x01\x01" + strings.Repeat("\x00", 9) + "\x03\x00\x3e\x00" + strings.Repeat("\x00", 44),
		"bin":                                "-> usr/bin",
		"sbin":                               "-> usr/sbin",
		"lib":                                "-> usr/lib",
		"boot/vmlinuz-" + kver:               "kernel",
		"boot/config-" + kver:                "CONFIG_VIRTIO=m\nCONFIG_VIRTIO_PCI=m\nCONFIG_VIRTIO_BLK=m\nCONFIG_RD_GZIP=y\n",
		"boot/grub/grub.cfg":                 "menuentry 'Debian' {\n\tlinux /boot/vmlinuz-" + kver + " root=/dev/sda1 ro quiet\n\tinitrd /boot/initrd.img-" + kver + "\n}\n",
		"usr/lib/systemd/systemd":            "\x7fELF\x02\x01\x01" + strings.Repeat("\x00", 9) + "\x03\x00\x3e\x00" + strings.Repeat("\x00", 44),
		"boot/initrd.img-" + kver:            cpioOfNothing,
		"usr/lib/modules/" + kver + "/modules.order":   "",
		"usr/lib/modules/" + kver + "/modules.builtin": "",
		"usr/lib/modules/" + kver + "/modules.alias":   "alias virtio:d00000002v* virtio_blk\n",
		"usr/lib/modules/" + kver + "/modules.softdep": "",
		"usr/lib/modules/" + kver + "/modules.symbols": "",
		"usr/lib/modules/" + kver + "/modules.devname": "",
	}
	var dep strings.Builder
	for _, m := range []string{"virtio/virtio", "virtio/virtio_ring", "virtio/virtio_pci", "virtio/virtio_pci_modern_dev", "virtio/virtio_pci_legacy_dev",
		"block/virtio_blk", "scsi/virtio_scsi", "net/virtio_net", "scsi/scsi_mod", "scsi/sd_mod", "scsi/scsi_common"} {
		t["usr/lib/modules/"+kver+"/kernel/drivers/"+m+".ko"] = emptyModule
		fmt.Fprintf(&dep, "kernel/drivers/%s.ko:\n", m)
	}
	t["usr/lib/modules/"+kver+"/modules.dep"] = dep.String()
	return t
}

// emptyModule is an ELF object without sections (gABI, ELF-64 header).
var emptyModule = "\x7fELF\x02\x01\x01" + strings.Repeat("\x00", 9) + "\x01\x00\x3e\x00\x01" + strings.Repeat("\x00", 31) +
	"\x40\x00\x00\x00\x00\x00\x40\x00\x00\x00\x00\x00"

// cpioOfNothing is a newc archive with no member but its trailer.
var cpioOfNothing = "070701" + strings.Repeat("0", 8*4) + "00000001" + strings.Repeat("0", 8*6) + "0000000B" + "00000000" + "TRAILER!!!\x00\x00\x00\x00"

// ext4 makes a file system of the given size from the tree; more are arguments
// of mke2fs.
func ext4(t *testing.T, dir, name string, files tree, size int64, more ...string) part {
	t.Helper()
	top := files.write(t, filepath.Join(dir, name+".d"))
	img := filepath.Join(dir, name+".ext4")
	args := append([]string{"-q", "-F", "-t", "ext4", "-m", "0", "-d", top}, more...)
	cmd := exec.Command("mke2fs", append(args, img, fmt.Sprintf("%dk", size/1024))...)
	cmd.Env = append(os.Environ(), "PATH="+os.Getenv("PATH")+":/sbin:/usr/sbin")
	if msg, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("mke2fs: %v\n%s", err, msg)
	}
	return part{img, size}
}

// write makes the files below top.
func (files tree) write(t *testing.T, top string) string {
	t.Helper()
	for path, content := range files {
		full := filepath.Join(top, path)
		if err := os.MkdirAll(filepath.Dir(full), 0o755); err != nil {
			t.Fatal(err)
		}
		var err error
		if to, ok := strings.CutPrefix(content, "-> "); ok {
			err = os.Symlink(to, full)
		} else {
			err = os.WriteFile(full, []byte(content), 0o755)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return top
}

// convertTiny converts a tiny disk and returns how that ended.
func convertTiny(t *testing.T, disk string, args ...string) (result, string) {
	t.Helper()
	unchanged(t, disk)
	out := filepath.Join(t.TempDir(), "x.qcow2")
	return h2k(t, append([]string{"convert", disk, "-o", out, "--json"}, args...)...), out
}

func refusedWith(t *testing.T, r result, out, code string) {
	t.Helper()
	r.want(t, 3)
	if r.report.Error == nil || string(r.report.Error.Code) != code {
		t.Errorf("error = %+v, want code %s", r.report.Error, code)
	}
	nothingLeft(t, filepath.Dir(out))
}

func TestTinyGuestIsRepaired(t *testing.T) {
	t.Parallel()
	requireVM(t)
	dir := t.TempDir()
	r, out := convertTiny(t, tinyDisk(t, dir, ext4(t, dir, "root", tinyGuest(), 256*mib)))
	r.want(t, 0)
	if !changed(r.report.Fixes, "linux/fstab") {
		t.Errorf("fstab is not repaired: %+v", r.report.Fixes)
	}
	secondRunChangesNothing(t, out)
}

func TestTwoRootsAreRefused(t *testing.T) {
	t.Parallel()
	requireVM(t)
	dir := t.TempDir()
	disk := tinyDisk(t, dir, ext4(t, dir, "a", tinyGuest(), 256*mib), ext4(t, dir, "b", tinyGuest(), 256*mib))
	r, out := convertTiny(t, disk)
	refusedWith(t, r, out, "H2K-GUEST-MANY-ROOTS")
}

func TestEncryptedGuestIsRefused(t *testing.T) {
	t.Parallel()
	requireVM(t)
	dir := t.TempDir()
	luks := filepath.Join(dir, "luks")
	if err := os.WriteFile(luks, make([]byte, 64*mib), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("cryptsetup", "luksFormat", "-q", "--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000", luks, "-")
	cmd.Stdin = strings.NewReader("secret")
	if msg, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("cryptsetup: %v\n%s", err, msg)
	}
	disk := tinyDisk(t, dir, part{luks, 64 * mib})
	r, out := convertTiny(t, disk)
	refusedWith(t, r, out, "H2K-GUEST-ENCRYPTED")
	convertTinyNoFix(t, disk)
}

func convertTinyNoFix(t *testing.T, disk string) {
	t.Helper()
	r, out := convertTiny(t, disk, "--no-fix")
	r.want(t, 0)
	formatstest.QemuImg(t, "compare", disk, out)
}

func TestFullBootIsRefused(t *testing.T) {
	t.Parallel()
	requireVM(t)
	dir := t.TempDir()
	files, boot := tinyGuest(), tree{}
	for path, content := range files {
		if name, ok := strings.CutPrefix(path, "boot/"); ok {
			boot[name] = strings.ReplaceAll(content, "/boot/", "/")
			delete(files, path)
		}
	}
	files["boot/.keep"] = ""
	files["etc/fstab"] += "/dev/sda2 /boot ext4 defaults 0 2\n"
	boot["filler"] = strings.Repeat("x", 4*mib)
	disk := tinyDisk(t, dir, ext4(t, dir, "root", files, 256*mib), ext4(t, dir, "boot", boot, 7*mib))
	r, out := convertTiny(t, disk)
	refusedWith(t, r, out, "H2K-GUEST-NO-SPACE")
}

// TestNoSpaceWhileRepairing fills the host's file system while the helper VM
// writes, and while the result boots.
func TestNoSpaceWhileRepairing(t *testing.T) {
	t.Parallel()
	requireVM(t)
	dir := t.TempDir()
	disk := tinyDisk(t, dir, ext4(t, dir, "root", tinyGuest(), 256*mib))
	unchanged(t, disk)
	full := small(t, "300k")
	out := filepath.Join(full, "x.qcow2")
	r := h2k(t, "convert", disk, "-o", out, "--compress", "zlib", "--json").want(t, 1)
	if r.report.Error == nil || r.report.Error.Code != "H2K-NO-SPACE" {
		t.Errorf("error = %+v, want code H2K-NO-SPACE", r.report.Error)
	}
	nothingLeft(t, full)
}

// TestHostileLinks gives a guest whose configuration files are links that try
// to leave it: into the helper VM's own files, round in circles, and to a
// device.
func TestHostileLinks(t *testing.T) {
	t.Parallel()
	requireVM(t)
	dir := t.TempDir()
	files := tinyGuest()
	files["etc/default/grub"] = "-> ../../../../../../../../init"
	files["etc/network/interfaces"] = "-> /proc/self/environ"
	files["etc/crypttab"] = "-> crypttab"
	files["etc/hostname"] = "-> /dev/kmsg"
	files["etc/initramfs-tools/conf.d/resume"] = "-> /../../../../proc/1/cmdline"
	disk := tinyDisk(t, dir, ext4(t, dir, "root", files, 256*mib))
	r, out := convertTiny(t, disk)
	if r.code != 0 && r.code != 3 {
		t.Fatalf("exit code %d, want 0 or 3\n%s\n%s", r.code, r.stdout, r.stderr)
	}
	if strings.Contains(r.stdout, "PATH=") || strings.Contains(r.stdout, "ttyS0 h2k") {
		t.Errorf("the report holds something of the helper VM:\n%s", r.stdout)
	}
	if r.code == 0 {
		secondRunChangesNothing(t, out)
	}
}

// TestInPlaceAndUndo repairs an image in place and takes it back: what a plan
// would change is then, byte for byte, what it would have changed before.
func TestInPlaceAndUndo(t *testing.T) {
	t.Parallel()
	requireVM(t)
	dir := t.TempDir()
	raw := tinyDisk(t, dir, ext4(t, dir, "root", tinyGuest(), 256*mib))
	vmdk := filepath.Join(dir, "tiny.vmdk")
	formatstest.QemuImg(t, "convert", "-f", "raw", "-O", "vmdk", raw, vmdk)
	qcow2 := filepath.Join(dir, "tiny.qcow2")
	formatstest.QemuImg(t, "convert", "-f", "raw", "-O", "qcow2", raw, qcow2)
	for _, disk := range []string{raw, vmdk, qcow2} {
		before := diffs(h2k(t, "fix", "--dry-run", "--json", disk).want(t, 0))
		if before == "" {
			t.Fatal("there is nothing to repair")
		}
		h2k(t, "fix", "--in-place", "--json", disk).want(t, 0)
		if after := diffs(h2k(t, "fix", "--dry-run", "--json", disk).want(t, 0)); after != "" {
			t.Errorf("%s: a second run would change:\n%s", disk, after)
		}
		h2k(t, "undo", "--json", disk).want(t, 0)
		if again := diffs(h2k(t, "fix", "--dry-run", "--json", disk).want(t, 0)); again != before {
			t.Errorf("%s: undo did not give the files back; a plan says\n%s\nand said before\n%s", disk, again, before)
		}
	}
	nothingLeft(t, dir, "root.d", "root.ext4", "tiny.raw", "tiny.vmdk", "tiny.qcow2")
}

func diffs(r result) string {
	var b strings.Builder
	for _, f := range r.report.Fixes {
		b.WriteString(f.Diff)
	}
	return b.String()
}
