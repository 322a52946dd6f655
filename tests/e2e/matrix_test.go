package e2e

import (
	"crypto/sha256"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"hyper2kvm/agent/api"
	"hyper2kvm/formats/formatstest"
)

// specimen is a guest of the matrix, and what is expected of it.
type specimen struct {
	name     string
	disks    []string
	firmware string
	nic      string // the name that the interface keeps
	address  string // the address that it keeps
	args     []string
	fixes    []string
	dead     api.VerdictState // what it is before
	bus      string           // the one that `make test` boots from, "" for none
	trees    []place          // where on the first disk its file systems lie
}

// place is a file system on a disk, its offset in MiB.
type place struct {
	kind   string
	offset int64
}

// matrix is guests that differ in all that a repair has to deal with: release,
// firmware, loader, file systems and volumes, initramfs, network, format. Each
// is as it stood on VMware.
func matrix() []specimen {
	usual := []string{"linux/fstab", "linux/grub", "linux/initramfs", "linux/network"}
	return []specimen{
		{
			name: "trixie-sdboot", disks: []string{"sda.vmdk"}, firmware: "uefi", nic: "ens192", address: "10.0.2.61/24",
			fixes: usual, dead: api.Emergency, bus: "virtio-scsi",
			trees: []place{{"vfat", 1}, {"btrfs", 257}},
		},
		{
			name: "bookworm-lvm", disks: []string{"sda.vhdx"}, firmware: "bios", nic: "ens192", address: "10.0.2.62/24",
			fixes: []string{"linux/fstab", "linux/initramfs", "linux/network"}, dead: api.Emergency, bus: "virtio-blk",
			trees: []place{{"ext4", 1}, {"xfs", 194}}, // LVM's label and metadata take the first MiB
		},
		{
			name: "bookworm-md", disks: []string{"sda.vdi", "sdb.img"}, firmware: "bios", nic: "ens192", address: "10.0.2.63/24",
			fixes: []string{"linux/fstab", "linux/initramfs", "linux/network"}, dead: api.Emergency,
			trees: []place{{"ext4", 2}}, // so does the superblock of the mirror
		},
		{
			name: "bookworm-extlinux", disks: []string{"sda.vmdk"}, firmware: "bios", nic: "ens192", address: "10.0.2.64/24",
			fixes: usual, dead: api.Emergency, bus: "virtio-scsi",
			trees: []place{{"ext4", 1}},
		},
		{
			name: "trixie-netplan", disks: []string{"sda.qcow2"}, firmware: "uefi", nic: "ens192", address: "10.0.2.65/24",
			fixes: append([]string{"linux/uefi-fallback"}, usual...), dead: api.NoLoader,
			trees: []place{{"vfat", 1}, {"ext4", 65}, {"ext4", 705}},
		},
		{
			name: "bullseye-bios", disks: []string{"sda.vhd"}, firmware: "bios", nic: "eth0", address: "10.0.2.67/24",
			fixes: []string{"linux/fstab", "linux/grub", "linux/initramfs", "linux/resume"}, dead: api.Emergency, bus: "virtio-blk",
			trees: []place{{"ext4", 1}},
		},
	}
}

// everything is what `make test-guests` asks for: each guest, on both buses,
// and dead before.
func everything() bool { return os.Getenv("H2K_GUESTS") == "all" }

func TestMatrix(t *testing.T) {
	for _, s := range matrix() {
		if s.bus == "" && !everything() {
			continue
		}
		t.Run(s.name, func(t *testing.T) {
			t.Parallel() // one machine each
			s.check(t)
		})
	}
}

func (s specimen) check(t *testing.T) {
	rel := filepath.Join("build/guests", s.name)
	requireVM(t, rel)
	folder := filepath.Join(root, rel)
	files, err := os.ReadDir(folder)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		unchanged(t, filepath.Join(folder, f.Name()))
	}
	var sources []string
	for _, d := range s.disks {
		sources = append(sources, filepath.Join(folder, d))
	}
	if everything() {
		s.isDead(t, sources)
	}
	outputs := s.convert(t, sources)
	secondRunChangesNothing(t, outputs...)
	h2k(t, slices.Concat([]string{"undo", "--json"}, outputs, s.args)...).want(t, 0)
	s.sameFiles(t, sources[0], outputs[0])
}

// isDead proves that the guest as it is does not boot.
func (s specimen) isDead(t *testing.T, sources []string) {
	t.Helper()
	r := h2k(t, slices.Concat([]string{"validate", "--json"}, sources, s.args)...).want(t, 4)
	for _, v := range r.report.Verdicts {
		if v.State != s.dead {
			t.Errorf("before: %s: %s: %s; want %s", v.Bus, v.State, v.Why, s.dead)
		}
	}
}

// convert repairs and boots the guest and returns the disks that came out.
func (s specimen) convert(t *testing.T, sources []string) []string {
	t.Helper()
	out := filepath.Join(t.TempDir(), "guest.qcow2") // a folder, for several
	want, buses := 1, []string{"--bus", s.bus}
	if everything() {
		want, buses = 2, nil
	}
	r := h2k(t, slices.Concat([]string{"convert", "-o", out, "--validate", "--json"}, sources, buses, s.args)...).want(t, 0)
	if len(r.report.Verdicts) != want {
		t.Errorf("%d verdicts, want %d", len(r.report.Verdicts), want)
	}
	for _, v := range r.report.Verdicts {
		checkVerdict(t, v, s.nic, s.address)
	}
	for _, id := range s.fixes {
		if !changed(r.report.Fixes, id) {
			t.Errorf("%s is not among the repairs: %+v", id, r.report.Fixes)
		}
	}
	if len(sources) == 1 {
		return []string{out}
	}
	outputs, err := filepath.Glob(filepath.Join(out, "*.qcow2"))
	if err != nil || len(outputs) != len(sources) {
		t.Fatalf("the disks that came out are %v, %v", outputs, err)
	}
	return outputs
}

// sameFiles fails the test unless the disks hold the same files.
func (s specimen) sameFiles(t *testing.T, before, after string) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("mounting a file system takes root")
	}
	dir := t.TempDir()
	var raw []string
	for i, image := range []string{before, after} {
		raw = append(raw, filepath.Join(dir, fmt.Sprintf("%d.raw", i)))
		formatstest.QemuImg(t, "convert", "-O", "raw", image, raw[i])
	}
	for _, p := range s.trees {
		// One after the other: they have the same UUID.
		was, is := p.files(t, raw[0]), p.files(t, raw[1])
		if len(was) < 3 {
			t.Errorf("%s at %d MiB holds %d files", p.kind, p.offset, len(was))
		}
		for name, attributes := range was {
			if is[name] != attributes {
				t.Errorf("undo: %s was %q, is %q", name, attributes, is[name])
			}
			delete(is, name)
		}
		for name := range is {
			t.Errorf("undo left %s", name)
		}
	}
}

// files describes every file of a file system: kind, mode, owner, content.
func (p place) files(t *testing.T, disk string) map[string]string {
	t.Helper()
	at := filepath.Join(t.TempDir(), "mnt")
	if err := os.Mkdir(at, 0o755); err != nil {
		t.Fatal(err)
	}
	defer p.open(t, disk, at)()
	all := map[string]string{}
	err := filepath.WalkDir(at, func(path string, d fs.DirEntry, err error) error {
		if err == nil {
			all[strings.TrimPrefix(path, at)], err = attributes(path, d)
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
	return all
}

// open shows the file system at a folder, and returns what ends that.
func (p place) open(t *testing.T, disk, at string) (end func()) {
	t.Helper()
	if p.kind == "vfat" { // not every kernel mounts it
		command(t, "mcopy", "-s", "-i", fmt.Sprintf("%s@@%dM", disk, p.offset), "::/*", at)
		return func() {}
	}
	// Read-only, and without playing back a journal.
	options := map[string]string{"ext4": ",noload", "xfs": ",norecovery,nouuid", "btrfs": ",subvolid=5"}[p.kind]
	command(t, "mount", "-t", p.kind, "-o", fmt.Sprintf("ro,loop,offset=%d%s", p.offset*mib, options), disk, at)
	return func() { command(t, "umount", at) }
}

func attributes(path string, d fs.DirEntry) (string, error) {
	info, err := d.Info()
	if err != nil {
		return "", err
	}
	var uid, gid uint32
	if s, ok := info.Sys().(*syscall.Stat_t); ok {
		uid, gid = s.Uid, s.Gid
	}
	text := fmt.Sprintf("%v %d:%d", info.Mode(), uid, gid)
	switch {
	case info.Mode()&fs.ModeSymlink != 0:
		to, err := os.Readlink(path)
		return text + " -> " + to, err
	case info.Mode().IsRegular():
		data, err := os.ReadFile(path)
		return fmt.Sprintf("%s %d %x", text, len(data), sha256.Sum256(data)), err
	}
	return text, nil
}
