package repair_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"hyper2kvm/agent/api"
	"hyper2kvm/agent/repair"
)

const (
	rootUUID = "11111111-2222-3333-4444-555555555555"
	bootUUID = "11111111-2222-3333-4444-666666666666"
	swapUUID = "11111111-2222-3333-4444-777777777777"
)

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func tool(t *testing.T, args ...string) string {
	t.Helper()
	if _, err := exec.LookPath(args[0]); err != nil {
		t.Skipf("%s is not installed", args[0])
	}
	out, err := exec.Command(args[0], args[1:]...).CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %v\n%s", args, err, out)
	}
	return strings.TrimSpace(string(out))
}

// tree writes files of a guest to a folder.
func tree(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, content := range files {
		full := filepath.Join(dir, name)
		must(t, os.MkdirAll(filepath.Dir(full), 0o755))
		if to, ok := strings.CutPrefix(content, "-> "); ok {
			must(t, os.Symlink(to, full))
			continue
		}
		must(t, os.WriteFile(full, []byte(content), 0o644))
	}
	for _, d := range []string{"boot", "proc", "sys", "dev", "run", "var", "tmp"} {
		must(t, os.MkdirAll(filepath.Join(dir, d), 0o755))
	}
	return dir
}

const elf = "\x7fELF\x02\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00\x3e\x00"

func system() map[string]string {
	return map[string]string{
		"etc/os-release":                "ID=debian\nVERSION_ID=12\nPRETTY_NAME=\"Debian GNU/Linux 12\"\n",
		"etc/fstab":                     "/dev/sda1 / ext4 defaults 0 1\n/dev/sda2 none swap sw 0 0\n",
		"etc/passwd":                    "root:x:0:0::/root:/bin/sh\n",
		"etc/hostname":                  "web01\n",
		"bin/sh":                        elf,
		"sbin/init":                     "-> /lib/systemd/systemd",
		"lib/systemd/systemd":           elf,
		"lib/modules/6.1.0/modules.dep": "",
		"lib/modules/6.1.0/modules.builtin": "kernel/drivers/block/virtio_blk.ko\nkernel/drivers/scsi/virtio_scsi.ko\n" +
			"kernel/drivers/virtio/virtio_pci.ko\nkernel/drivers/scsi/sd_mod.ko\n",
		"boot/vmlinuz-6.1.0":     "kernel",
		"boot/grub/grub.cfg":     "menuentry x {\n\tlinux /boot/vmlinuz-6.1.0 root=/dev/sda1 ro\n}\n",
		"etc/default/grub":       "GRUB_CMDLINE_LINUX=\"\"\n",
		"etc/network/interfaces": "auto ens192\niface ens192 inet dhcp\n",
	}
}

// part is one partition of a disk: what makes its content, with FILE for the
// name of the image.
type part struct {
	size int64
	mkfs []string
}

// disk puts partitions one after the other on an MBR disk.
func disk(t *testing.T, parts ...part) string {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root for loop devices")
	}
	image := filepath.Join(t.TempDir(), "disk")
	script, at := "label: dos\n", int64(1<<20)
	for _, p := range parts {
		script += "start=" + sectors(at) + ",size=" + sectors(p.size) + "\n"
		at += p.size
	}
	f, err := os.Create(image)
	must(t, err)
	defer f.Close()
	must(t, f.Truncate(at))
	cmd := exec.Command("sfdisk", "--quiet", image)
	cmd.Stdin = strings.NewReader(script)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("sfdisk: %v\n%s", err, out)
	}
	at = 1 << 20
	for _, p := range parts {
		content := filepath.Join(t.TempDir(), "part")
		must(t, os.WriteFile(content, nil, 0o600))
		must(t, os.Truncate(content, p.size))
		args := slices.Clone(p.mkfs)
		for i := range args {
			args[i] = strings.ReplaceAll(args[i], "FILE", content)
		}
		tool(t, args...)
		data, err := os.ReadFile(content)
		must(t, err)
		const block = 64 << 10
		for i := 0; i < len(data); i += block { // holes stay holes
			b := data[i:min(i+block, len(data))]
			if len(bytes.Trim(b, "\x00")) > 0 {
				_, err := f.WriteAt(b, at+int64(i))
				must(t, err)
			}
		}
		at += p.size
	}
	must(t, f.Sync())
	return image
}

func sectors(n int64) string { return strconv.FormatInt(n/512, 10) }

func attach(t *testing.T, image string) string {
	t.Helper()
	device := tool(t, "losetup", "--find", "--show", image)
	t.Cleanup(func() { tool(t, "losetup", "--detach", device) })
	return device
}

// first runs do with a loop device for the first partition alone, which is gone
// again after.
func first(t *testing.T, image string, do func(device string)) {
	t.Helper()
	tool(t, "sync", image)
	device := tool(t, "losetup", "--find", "--show", "--offset", "1048576", "--sizelimit", sizeOfFirst(t, image), image)
	defer tool(t, "losetup", "--detach", device)
	do(device)
}

func sizeOfFirst(t *testing.T, image string) string {
	t.Helper()
	sectors := tool(t, "partx", "--show", "--noheadings", "--output", "SECTORS", "--nr", "1", image)
	return times512(sectors)
}

func times512(sectors string) string {
	n, err := strconv.ParseInt(sectors, 10, 64)
	if err != nil {
		return sectors
	}
	return strconv.FormatInt(n*512, 10)
}

// mountFirst mounts the first partition while do runs.
func mountFirst(t *testing.T, image, options string, do func(dir string)) {
	t.Helper()
	first(t, image, func(device string) {
		dir := t.TempDir()
		tool(t, "mount", "-o", options, device, dir)
		defer tool(t, "umount", dir)
		do(dir)
	})
}

func ext4(uuid, dir string) part {
	return part{40 << 20, []string{"mke2fs", "-q", "-t", "ext4", "-U", uuid, "-d", dir, "FILE"}}
}

func swap() part {
	return part{8 << 20, []string{"mkswap", "-q", "-U", swapUUID, "FILE"}}
}

// events keeps what a run told.
type events struct {
	mu  sync.Mutex
	all []api.Event
}

func (e *events) Emit(ev api.Event) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.all = append(e.all, ev)
}

func plan(fix api.FixOptions, stages []api.Stage, devices ...string) *api.Plan {
	p := &api.Plan{Version: api.Version, Name: "test", Stages: stages, Fix: fix}
	for _, d := range devices {
		p.Sources = append(p.Sources, api.Source{Path: d, Format: "raw"})
	}
	return p
}

func look() []api.Stage   { return []api.Stage{api.Inspect} }
func mend() []api.Stage   { return []api.Stage{api.Inspect, api.Fix} }
func revert() []api.Stage { return []api.Stage{api.Undo} }

// run runs a plan and checks that it leaves nothing mounted.
func run(t *testing.T, p *api.Plan) (*api.Report, error) {
	t.Helper()
	temp := t.TempDir()
	report, runErr := repair.New(repair.Config{TempDir: temp, NoPrograms: true}).Run(t.Context(), p, "", &events{})
	mounts, err := os.ReadFile("/proc/self/mounts")
	must(t, err)
	if strings.Contains(string(mounts), temp) {
		t.Errorf("still mounted:\n%s", mounts)
	}
	if left, err := os.ReadDir(temp); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
	if report == nil {
		t.Fatal("no report")
	}
	return report, runErr
}

func code(err error) api.Code {
	if err == nil {
		return ""
	}
	return api.AsError(err).Code
}

func digest(t *testing.T, image string) [32]byte {
	t.Helper()
	data, err := os.ReadFile(image)
	must(t, err)
	return sha256.Sum256(data)
}

func TestInspect(t *testing.T) {
	image := disk(t, ext4(rootUUID, tree(t, system())), swap())
	device := attach(t, image)
	before := digest(t, image)
	report, err := run(t, plan(api.FixOptions{}, look(), device))
	must(t, err)
	g := report.Guest
	if g.OS.ID != "debian" || g.Hostname != "web01" || len(g.Kernels) != 1 || g.Firmware != "bios" || g.Arch != "x86_64" || g.Init != "systemd" {
		t.Errorf("facts %+v", g)
	}
	if len(g.Fstab) != 2 || g.Fstab[0].UUID != rootUUID || g.Fstab[1].UUID != swapUUID {
		t.Errorf("fstab %+v", g.Fstab)
	}
	if len(g.Mounts) != 1 || g.Mounts[0].Spec != "/dev/sda1" || g.Mounts[0].Free < 20<<20 || g.Mounts[0].Inodes < 100 {
		t.Errorf("mounts %+v", g.Mounts)
	}
	report, err = run(t, plan(api.FixOptions{DryRun: true}, mend(), device))
	must(t, err)
	if diff := fixDiff(report, "linux/fstab"); !strings.Contains(diff, "+UUID="+rootUUID) {
		t.Errorf("the dry run proposes:\n%s", diff)
	}
	tool(t, "sync", image)
	if digest(t, image) != before {
		t.Error("looking changed the disk")
	}
}

func fixDiff(r *api.Report, id string) string {
	for _, f := range r.Fixes {
		if f.ID == id {
			return f.Diff
		}
	}
	return ""
}

// content reads a file of the first partition.
func content(t *testing.T, image, name string) (text string) {
	t.Helper()
	mountFirst(t, image, "ro", func(dir string) {
		data, err := os.ReadFile(filepath.Join(dir, name))
		must(t, err)
		text = string(data)
	})
	return text
}

// fsck checks the first partition.
func fsck(t *testing.T, image string, args ...string) {
	t.Helper()
	first(t, image, func(device string) { tool(t, append(args, device)...) })
}

func TestFixAndUndo(t *testing.T) {
	image := disk(t, ext4(rootUUID, tree(t, system())), swap())
	device := attach(t, image)
	report, err := run(t, plan(api.FixOptions{}, mend(), device))
	must(t, err)
	if report.Status != api.Done || report.Guest == nil || len(report.Fixes) == 0 {
		t.Errorf("report %+v", report)
	}
	want := "UUID=" + rootUUID + " / ext4 defaults 0 1\nUUID=" + swapUUID + " none swap sw 0 0\n"
	if got := content(t, image, "etc/fstab"); got != want {
		t.Errorf("fstab is\n%swant\n%s", got, want)
	}
	fsck(t, image, "e2fsck", "-f", "-n")
	again, err := run(t, plan(api.FixOptions{}, mend(), device))
	must(t, err)
	for _, f := range again.Fixes {
		if f.State == "changed" {
			t.Errorf("a second run changes %s:\n%s", f.ID, f.Diff)
		}
	}
	_, err = run(t, plan(api.FixOptions{}, revert(), device))
	must(t, err)
	if got := content(t, image, "etc/fstab"); got != system()["etc/fstab"] {
		t.Errorf("after undo fstab is\n%s", got)
	}
	if _, err = run(t, plan(api.FixOptions{}, revert(), device)); code(err) != api.CodeUndo {
		t.Errorf("a second undo gives %v", err)
	}
}

// TestSeparateBoot has /boot on the second disk, named by a bus path, and XFS
// as the root.
func TestSeparateBoot(t *testing.T) {
	files, boot := system(), map[string]string{}
	for name, data := range files {
		if rest, ok := strings.CutPrefix(name, "boot/"); ok {
			boot[rest] = data
			delete(files, name)
		}
	}
	files["etc/fstab"] = "/dev/sda1 / xfs defaults 0 0\n/dev/disk/by-path/pci-0000:03:00.0-scsi-0:0:1:0-part1 /boot ext4 defaults 0 2\n/dev/sdc1 /data ext4 defaults 0 2\n"
	root := part{320 << 20, []string{"mkfs.xfs", "-q", "-m", "uuid=" + rootUUID, "FILE"}}
	system := disk(t, root)
	mountFirst(t, system, "rw", func(dir string) { tool(t, "cp", "-a", tree(t, files)+"/.", dir) })
	kernels := disk(t, ext4(bootUUID, tree(t, boot)))
	report, err := run(t, plan(api.FixOptions{}, mend(), attach(t, system), attach(t, kernels)))
	must(t, err)
	var points []string
	for _, m := range report.Guest.Mounts {
		points = append(points, m.Point+" "+m.UUID)
	}
	if want := []string{"/ " + rootUUID, "/boot " + bootUUID}; !slices.Equal(points, want) {
		t.Errorf("mounted %v, want %v", points, want)
	}
	if len(report.Guest.Kernels) != 1 {
		t.Errorf("kernels %+v", report.Guest.Kernels)
	}
	// A kernel without an initramfs knows partitions alone.
	if got := content(t, kernels, "grub/grub.cfg"); !strings.Contains(got, "root=PARTUUID=") {
		t.Errorf("grub.cfg is\n%s", got)
	}
	fsck(t, system, "xfs_repair", "-n")
}

func TestRefusals(t *testing.T) {
	fresh := func(change func(map[string]string)) part {
		files := system()
		if change != nil {
			change(files)
		}
		return ext4(rootUUID, tree(t, files))
	}
	other := ext4(bootUUID, tree(t, system()))
	full := part{40 << 20, []string{"sh", "-c", "mke2fs -q -t ext4 -d " + tree(t, system()) + " FILE && head -c 28M /dev/urandom >FILE.fill && debugfs -w -R \"write FILE.fill fill\" FILE"}}
	damaged := part{40 << 20, []string{"sh", "-c", "mke2fs -q -t ext4 -d " + tree(t, system()) + " FILE && debugfs -w -R 'clri <2>' FILE"}}
	for name, test := range map[string]struct {
		parts []part
		fix   api.FixOptions
		want  api.Code
		says  string
	}{
		"no system":       {[]part{ext4(rootUUID, tree(t, map[string]string{"srv/data": "x"}))}, api.FixOptions{}, api.CodeNoRoot, "/dev/sda1 ext4"},
		"no kernel":       {[]part{fresh(func(f map[string]string) { delete(f, "boot/vmlinuz-6.1.0") })}, api.FixOptions{}, api.CodeNoRoot, "kernel"},
		"two systems":     {[]part{fresh(nil), other}, api.FixOptions{}, api.CodeManyRoots, "/dev/sda1 (Debian GNU/Linux 12), /dev/sda2"},
		"one chosen":      {[]part{fresh(nil), other}, api.FixOptions{Root: "/dev/sda2"}, "", ""},
		"chosen by UUID":  {[]part{fresh(nil), other}, api.FixOptions{Root: bootUUID}, "", ""},
		"wrongly chosen":  {[]part{fresh(nil)}, api.FixOptions{Root: "/dev/sdb1"}, api.CodeNoRoot, "/dev/sda1"},
		"encrypted":       {[]part{{20 << 20, []string{"sh", "-c", "echo pass | cryptsetup luksFormat -q --pbkdf pbkdf2 --pbkdf-force-iterations 1000 FILE"}}}, api.FixOptions{}, api.CodeEncrypted, "crypto_LUKS"},
		"suspended":       {[]part{fresh(nil), {8 << 20, []string{"sh", "-c", "mkswap -q FILE; printf 'S1SUSPEND\\0' | dd of=FILE bs=1 seek=4086 conv=notrunc status=none"}}}, api.FixOptions{}, api.CodeHibernated, "/dev/sda2"},
		"full":            {[]part{full}, api.FixOptions{}, api.CodeGuestSpace, "/"},
		"damaged":         {[]part{damaged}, api.FixOptions{}, api.CodeGuestDamaged, ""},
		"quietly damaged": {[]part{{40 << 20, []string{"sh", "-c", "mke2fs -q -t ext4 -d " + tree(t, system()) + " FILE && debugfs -w -R 'clri /etc/passwd' FILE"}}}, api.FixOptions{}, api.CodeGuestDamaged, "e2fsck finds errors"},
		"Xen's kernel": {[]part{fresh(func(f map[string]string) { f["boot/config-6.1.0"] = "CONFIG_X86_64_XEN=y\n" })}, api.FixOptions{}, api.CodeKernel,
			"6.1.0: it runs under Xen only): before the move, install the package linux-image-amd64"},
		"no such fix":    {[]part{fresh(nil)}, api.FixOptions{Only: []string{"linux/magic"}}, api.CodeUsage, "linux/magic"},
		"without canary": {[]part{fresh(nil)}, api.FixOptions{Canary: true}, api.CodeInternal, "canary"},
		"farm of links": {[]part{fresh(func(f map[string]string) {
			f["etc/fstab"] = "-> /../../../../../etc/fstab"
			f["boot/grub/grub.cfg"] = "-> ../../../../../../etc/hostname"
		})}, api.FixOptions{}, "", ""},
	} {
		t.Run(name, func(t *testing.T) {
			image := disk(t, test.parts...)
			device := attach(t, image)
			untouched := slices.Contains([]string{"two systems", "suspended", "encrypted", "no system"}, name)
			var before [32]byte
			if untouched {
				before = digest(t, image)
			}
			host, err := os.ReadFile("/etc/fstab")
			must(t, err)
			report, err := run(t, plan(test.fix, mend(), device))
			if code(err) != test.want {
				t.Fatalf("gives %q: %v", code(err), err)
			}
			if after, _ := os.ReadFile("/etc/fstab"); !bytes.Equal(host, after) {
				t.Error("a file of this machine was changed")
			}
			if err == nil {
				return
			}
			if text := err.Error() + report.Error.Detail; !strings.Contains(text, test.says) {
				t.Errorf("error %q does not say %q", text, test.says)
			}
			if report.Status != test.want.Status() {
				t.Errorf("status %q for %s", report.Status, test.want)
			}
			if untouched {
				tool(t, "sync", image)
				if digest(t, image) != before {
					t.Error("a refused guest was changed")
				}
			}
		})
	}
}

func TestBtrfsVolume(t *testing.T) {
	image := disk(t, part{256 << 20, []string{"mkfs.btrfs", "-q", "-U", rootUUID, "FILE"}})
	files := system()
	files["etc/fstab"] = "/dev/sda1 / btrfs defaults,subvol=@ 0 0\n/dev/sda1 /home btrfs subvol=@home 0 0\n"
	mountFirst(t, image, "rw", func(dir string) {
		for _, v := range []string{"@", "@home"} {
			tool(t, "btrfs", "subvolume", "create", filepath.Join(dir, v))
		}
		tool(t, "cp", "-a", tree(t, files)+"/.", filepath.Join(dir, "@"))
		must(t, os.Mkdir(filepath.Join(dir, "snapshots"), 0o755))
		tool(t, "btrfs", "subvolume", "snapshot", filepath.Join(dir, "@"), filepath.Join(dir, "snapshots/1"))
		tool(t, "btrfs", "subvolume", "snapshot", filepath.Join(dir, "@"), filepath.Join(dir, "@before"))
	})
	device := attach(t, image)
	before := digest(t, image)
	_, err := run(t, plan(api.FixOptions{}, look(), device))
	must(t, err)
	tool(t, "sync", image)
	if digest(t, image) != before {
		t.Error("looking changed the disk")
	}
	report, err := run(t, plan(api.FixOptions{}, mend(), device))
	must(t, err)
	if m := report.Guest.Mounts; len(m) != 1 || m[0].Opts != "subvol=@" {
		t.Errorf("mounts %+v", m)
	}
	for name, want := range map[string]bool{"@": true, "@before": false, "snapshots/1": false} {
		if text := content(t, image, filepath.Join(name, "etc/fstab")); strings.Contains(text, "UUID="+rootUUID) != want {
			t.Errorf("fstab of %s:\n%s", name, text)
		}
	}
}

// TestDirtyJournal has a guest that was not shut down: a repair replays its
// journal, a look does not.
func TestDirtyJournal(t *testing.T) {
	t.Run("ext4", func(t *testing.T) {
		dirtyJournal(t, disk(t, ext4(rootUUID, tree(t, system()))), "e2fsck", "-f", "-n")
	})
	files := system()
	files["etc/fstab"] = "/dev/sda1 / xfs defaults 0 0\n"
	for name, part := range map[string]part{
		"xfs":   {320 << 20, []string{"mkfs.xfs", "-q", "-m", "uuid=" + rootUUID, "FILE"}},
		"btrfs": {256 << 20, []string{"mkfs.btrfs", "-q", "-U", rootUUID, "FILE"}},
	} {
		t.Run(name, func(t *testing.T) {
			image := disk(t, part)
			mountFirst(t, image, "rw", func(dir string) { tool(t, "cp", "-a", tree(t, files)+"/.", dir) })
			if name == "xfs" {
				dirtyJournal(t, image, "xfs_repair", "-n")
			} else {
				dirtyJournal(t, image, "btrfs", "check")
			}
		})
	}
}

func dirtyJournal(t *testing.T, image string, check ...string) {
	crashed := filepath.Join(t.TempDir(), "crashed")
	mountFirst(t, image, "rw", func(dir string) {
		late := filepath.Join(dir, "etc/late")
		must(t, os.WriteFile(late, []byte("in the journal"), 0o644))
		tool(t, "sync", late)                            // fsync: the file system itself is not committed
		tool(t, "cp", "--sparse=always", image, crashed) // as a snapshot of a running machine is
	})
	device := attach(t, crashed)
	before := digest(t, crashed)
	report, err := run(t, plan(api.FixOptions{}, look(), device))
	must(t, err)
	if !strings.Contains(strings.Join(report.Warnings, "\n"), "not replayed") {
		t.Errorf("warnings on looking: %q", report.Warnings)
	}
	tool(t, "sync", crashed)
	if digest(t, crashed) != before {
		t.Error("looking replayed the journal")
	}
	report, err = run(t, plan(api.FixOptions{}, mend(), device))
	must(t, err)
	if !strings.Contains(strings.Join(report.Warnings, "\n"), "was replayed") {
		t.Errorf("warnings %q", report.Warnings)
	}
	report, err = run(t, plan(api.FixOptions{}, look(), device))
	must(t, err)
	for _, f := range report.Guest.Filesystems {
		if f.Note != "" {
			t.Errorf("after the repair %s is noted as %q", f.Type, f.Note)
		}
	}
	if got := content(t, crashed, "etc/late"); got != "in the journal" {
		t.Errorf("what the journal held is %q", got)
	}
	fsck(t, crashed, check...)
}

func TestInterrupted(t *testing.T) {
	device := attach(t, disk(t, ext4(rootUUID, tree(t, system()))))
	ctx, stop := context.WithCancel(t.Context())
	stop()
	report, err := repair.New(repair.Config{TempDir: t.TempDir(), NoPrograms: true}).Run(ctx, plan(api.FixOptions{}, mend(), device), "", nil)
	if code(err) != api.CodeInterrupted || report.Status != api.Interrupted {
		t.Errorf("an interrupted run gives %v, status %s", err, report.Status)
	}
}
