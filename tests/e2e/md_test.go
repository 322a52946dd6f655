package e2e

import (
	"bytes"
	"encoding/binary"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// mirror makes the two members of a RAID 1 with the content: a superblock of
// version 1.2, 4 KiB into the device, and the content behind it, as
// struct mdp_superblock_1 of the kernel's include/uapi/linux/raid/md_p.h says. It
// is written here because a test's kernel may lack md.
func mirror(t *testing.T, dir, name string, content part) [2]part {
	t.Helper()
	const sector, super, data = 512, 4096, mib
	plain, err := os.ReadFile(content.file)
	if err != nil {
		t.Fatal(err)
	}
	var out [2]part
	for i := range out {
		sb := make([]byte, 256+2*2)
		le := binary.LittleEndian
		le.PutUint32(sb[0:], 0xa92b4efc)
		le.PutUint32(sb[4:], 1)
		copy(sb[16:32], name+strings.Repeat("!", 16)) // UUID of the array
		copy(sb[32:64], name)
		le.PutUint64(sb[64:], 1700000000)
		le.PutUint32(sb[72:], 1)
		le.PutUint64(sb[80:], uint64(content.size/sector))
		le.PutUint32(sb[92:], 2)
		le.PutUint64(sb[128:], data/sector)
		le.PutUint64(sb[136:], uint64(content.size/sector))
		le.PutUint64(sb[144:], super/sector)
		le.PutUint32(sb[160:], uint32(i))
		copy(sb[168:184], strings.Repeat(string(rune('a'+i)), 16))
		le.PutUint64(sb[192:], 1700000000)
		le.PutUint64(sb[200:], 42)
		le.PutUint64(sb[208:], ^uint64(0)) // in step
		le.PutUint32(sb[220:], 2)
		le.PutUint16(sb[256:], 0)
		le.PutUint16(sb[258:], 1)
		sum := uint64(0)
		for at := 0; at < len(sb); at += 4 {
			sum += uint64(le.Uint32(sb[at:]))
		}
		le.PutUint32(sb[216:], uint32(sum)+uint32(sum>>32))
		img := make([]byte, data+content.size)
		copy(img[super:], sb)
		copy(img[data:], plain)
		out[i] = part{filepath.Join(dir, name+string(rune('a'+i))+".member"), int64(len(img))}
		if err := os.WriteFile(out[i].file, img, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return out
}

// TestMirroredGuestIsRepaired: LVM on RAID 1, and an array that has a name in the
// place of a number. Both halves of a mirror are written alike.
func TestMirroredGuestIsRepaired(t *testing.T) {
	long(t)
	t.Parallel()
	requireVM(t)
	requireRoot(t)
	dir := t.TempDir()
	files := tinyGuest()
	files["etc/fstab"] = "/dev/vg0/root / ext4 defaults 0 1\n/dev/md/data /var/lib/data ext4 defaults 0 2\n/dev/disk/by-path/pci-0000:00:10.0-scsi-0:0:3:0-part9 /far ext4 defaults 0 2\n"
	files["boot/grub/grub.cfg"] = strings.ReplaceAll(files["boot/grub/grub.cfg"], "/dev/sda1", "/dev/mapper/vg0-root")
	files["etc/mdadm/mdadm.conf"] = "DEVICE /dev/sd[a-b]*\nARRAY /dev/md/0 name=tiny:0 devices=/dev/sda1,/dev/sda2\n"
	root := mirror(t, dir, "tiny:0", volumeGroup(t, dir, "vg0", "root", ext4(t, dir, "root", files, 256*mib)))
	data := mirror(t, dir, "tiny:data", ext4(t, dir, "data", tree{"x": "y"}, 8*mib))
	disk := tinyDisk(t, dir, root[0], root[1], data[0], data[1])

	r := h2k(t, "fix", disk, "--in-place", "--json")
	r.want(t, 0)
	volumes := map[string]string{}
	for _, f := range r.report.Guest.Filesystems {
		volumes[f.Volume] = f.Type
	}
	if volumes["md/0"] != "LVM2_member" || volumes["md/data"] != "ext4" || volumes["vg0/root"] != "ext4" {
		t.Errorf("volumes %v, warnings %v", volumes, r.report.Warnings)
	}
	diff := fixDiffs(t, r)
	for _, want := range []string{"+DEVICE partitions\n", "+ARRAY /dev/md/0 name=tiny:0\n", "-part9 /far ext4 defaults,nofail"} {
		if !strings.Contains(diff, want) {
			t.Errorf("the repair lacks %q:\n%s", want, diff)
		}
	}
	if strings.Contains(diff, "-/dev/md/data /var") {
		t.Errorf("the name of an array was changed:\n%s", diff)
	}
	checkHalves(t, disk, root)
	r = h2k(t, "fix", disk, "--dry-run", "--json")
	if again := fixDiffs(t, r); again != "" {
		t.Errorf("a second run changes:\n%s", again)
	}
}

// checkHalves compares the data of the two members at the start of a disk.
func checkHalves(t *testing.T, disk string, members [2]part) {
	t.Helper()
	all, err := os.ReadFile(disk)
	if err != nil {
		t.Fatal(err)
	}
	first := all[2*mib : mib+members[0].size]
	second := all[2*mib+members[0].size : mib+members[0].size+members[1].size]
	if !bytes.Equal(first, second) {
		t.Error("the halves of the mirror differ")
	}
	original, err := os.ReadFile(members[0].file)
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Equal(first, original[mib:]) {
		t.Error("nothing was written")
	}
}
