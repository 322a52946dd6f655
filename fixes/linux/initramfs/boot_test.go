package initramfs

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"hyper2kvm/fixes/guest"
	"hyper2kvm/fixes/guest/guesttest"
	"hyper2kvm/formats/cpio"
)

// booted is what the root file system's init says.
const booted = "H2K: the root file system is there"

// lab is what a boot needs: a kernel with its modules, indexed, and a disk with
// a root file system.
type lab struct {
	version, kernel, modules, config, disk string
}

// unprepared skips, or fails where CI promised that the parts are there.
func unprepared(t testing.TB, format string, args ...any) {
	t.Helper()
	if os.Getenv("H2K_REQUIRE_VM") != "" {
		t.Fatalf(format, args...)
	}
	t.Skipf(format, args...)
}

func program(t testing.TB, name string) string {
	t.Helper()
	for _, dir := range append(filepath.SplitList(os.Getenv("PATH")), "/usr/sbin", "/sbin") {
		if file := filepath.Join(dir, name); isProgram(file) {
			return file
		}
	}
	unprepared(t, "%s is not here", name)
	return ""
}

func isProgram(name string) bool {
	info, err := os.Stat(name)
	return err == nil && info.Mode().IsRegular() && info.Mode()&0o111 != 0
}

// newLab finds the kernel of the helper VM and makes the disk.
func newLab(t testing.TB) *lab {
	t.Helper()
	cache, err := os.UserCacheDir()
	if err != nil {
		t.Fatal(err)
	}
	kernels, _ := filepath.Glob(filepath.Join(cache, "hyper2kvm/kernel/*/boot/vmlinuz-*"))
	if len(kernels) == 0 {
		unprepared(t, "there is no kernel in %s", cache)
	}
	l := &lab{kernel: kernels[len(kernels)-1]}
	l.version = strings.TrimPrefix(filepath.Base(l.kernel), "vmlinuz-")
	l.config = filepath.Join(filepath.Dir(l.kernel), "config-"+l.version)
	top := filepath.Dir(filepath.Dir(l.kernel))
	dir := t.TempDir()
	l.modules = filepath.Join(dir, "lib/modules", l.version)
	l.copyModules(t, top)
	command(t, dir, nil, program(t, "depmod"), "-b", dir, l.version)
	l.disk = l.makeDisk(t, dir)
	return l
}

// copyModules takes the folders that a small guest needs.
func (l *lab) copyModules(t testing.TB, top string) {
	t.Helper()
	from := filepath.Join(top, "lib/modules", l.version)
	for _, name := range []string{
		"modules.order", "modules.builtin", "modules.builtin.modinfo", "kernel/drivers/virtio", "kernel/drivers/block",
		"kernel/drivers/scsi", "kernel/drivers/net/virtio_net.ko", "kernel/drivers/net/virtio_net.ko.xz", "kernel/lib", "kernel/crypto", "kernel/fs/ext4", "kernel/fs/jbd2", "kernel/fs/mbcache.ko",
	} {
		if _, err := os.Stat(filepath.Join(from, name)); err != nil {
			continue
		}
		to := filepath.Join(l.modules, filepath.Dir(name))
		if err := os.MkdirAll(to, 0o755); err != nil {
			t.Fatal(err)
		}
		command(t, "", nil, "cp", "-a", filepath.Join(from, name), to)
	}
}

// makeDisk makes an ext4 disk whose init says that it was reached.
func (l *lab) makeDisk(t testing.TB, dir string) string {
	t.Helper()
	top := filepath.Join(dir, "root")
	for _, d := range []string{"proc", "sys", "dev", "run", "sbin", "bin", "etc"} {
		if err := os.MkdirAll(filepath.Join(top, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	command(t, "", nil, "cp", busybox(t), filepath.Join(top, "bin/busybox"))
	script := "#!/bin/busybox sh\n/bin/busybox mount -t devtmpfs dev /dev\n/bin/busybox echo '" + booted + "' >/dev/console\n/bin/busybox poweroff -f\n"
	if err := os.WriteFile(filepath.Join(top, "sbin/init"), []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	// systemd does not change to a root without it.
	if err := os.WriteFile(filepath.Join(top, "etc/os-release"), []byte("ID=h2k\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	disk := filepath.Join(dir, "disk")
	command(t, "", nil, program(t, "mke2fs"), "-q", "-t", "ext4", "-d", top, disk, "16m")
	return disk
}

// busybox must be one that needs no library.
func busybox(t testing.TB) string { return program(t, "busybox") }

func command(t testing.TB, dir string, stdin []byte, args ...string) []byte {
	t.Helper()
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Dir, cmd.Stdin = dir, bytes.NewReader(stdin)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return out
}

// guest is a guest with the lab's kernel and an image.
func (l *lab) guest(t testing.TB, image []byte) (*guesttest.FS, *guest.Guest) {
	t.Helper()
	tree := guesttest.New(t, "-- var/lib/ --\n")
	copyTree(t, tree, filepath.Dir(filepath.Dir(filepath.Dir(l.modules))), "lib/modules")
	config, err := os.ReadFile(l.config)
	if err != nil {
		t.Fatal(err)
	}
	tree.Put("boot/config-"+l.version, config)
	name := "boot/initrd.img-" + l.version
	tree.Put(name, image)
	return tree, &guest.Guest{FS: tree, Facts: &guest.Facts{
		OS:      guest.OS{Family: "linux"},
		Kernels: []guest.Kernel{{Version: l.version, Image: "boot/vmlinuz-" + l.version, Initramfs: name, Modules: "lib/modules/" + l.version, Default: true}},
	}}
}

// boot starts the kernel with an image and the disk on a bus, and returns what
// it said.
func (l *lab) boot(t testing.TB, image []byte, bus, options string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "initrd")
	if err := os.WriteFile(file, image, 0o644); err != nil {
		t.Fatal(err)
	}
	drive, root := []string{"-device", "virtio-blk-pci,drive=d"}, "/dev/vda"
	if bus == "scsi" {
		drive, root = []string{"-device", "virtio-scsi-pci", "-device", "scsi-hd,drive=d"}, "/dev/sda"
	}
	ctx, cancel := context.WithTimeout(t.Context(), 4*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, program(t, "qemu-system-x86_64"), append([]string{
		"-accel", "tcg", "-machine", "q35", "-cpu", "max", "-m", "512", "-display", "none", "-serial", "stdio", "-monitor", "none", "-nic", "none", "-no-reboot",
		"-kernel", l.kernel, "-initrd", file, "-append", "console=ttyS0 panic=-1 root=" + root + " rootfstype=ext4 ro " + options,
		"-drive", "if=none,id=d,format=raw,snapshot=on,file=" + l.disk,
	}, drive...)...)
	console := &console{enough: cancel}
	cmd.Stdout, cmd.Stderr = console, console
	if err := cmd.Run(); err != nil && ctx.Err() == nil {
		t.Fatalf("qemu: %v\n%s", err, console.said.String())
	}
	return console.said.String()
}

// console keeps what a machine says, and ends it once that is known to be enough.
type console struct {
	said   bytes.Buffer
	enough func()
}

func (c *console) Write(p []byte) (int, error) {
	c.said.Write(p)
	for _, end := range []string{booted, "Entering emergency mode", "Kernel panic"} {
		if bytes.Contains(c.said.Bytes(), []byte(end)) {
			c.enough()
		}
	}
	return len(p), nil
}

// TestBoot boots images that had no virtio driver: stand-ins with the files that
// each layout is told by and the way in which its init loads modules.
func TestBoot(t *testing.T) {
	if testing.Short() {
		t.Skip("it boots machines")
	}
	l := newLab(t)
	for _, test := range []struct {
		name        string
		layout      layout
		compression string
		bus         string
		init        string // what init does before it looks for the disk
		files       map[string]string
	}{
		{"mkinitcpio", mkinitcpio, "lz4", "blk", ". /config\nmodprobe -qab $MODULES\n",
			map[string]string{"init_functions": "#\n", "config": "MODULES=\"loop\"\nHOOKS=\"udev\"\n"}},
		{"mkinitfs", mkinitfs, "zstd", "scsi", "sed 's/\\#.*//g' </etc/modules | while read module args; do modprobe -q $module $args; done\n",
			map[string]string{"sbin/nlplug-findfs": "", "etc/modules": "loop # a comment"}},
		{"SUSE", suse, "gzip", "blk", ". /run_all.sh\n",
			map[string]string{"run_all.sh": "[ \"$RESOLVED_INITRD_MODULES\" ] || RESOLVED_INITRD_MODULES='loop'\nfor m in $RESOLVED_INITRD_MODULES; do modprobe $m; done\n"}},
		{"nash", scripted, "xz", "scsi", "echo \"Loading loop module\"\ninsmod /lib/loop.ko\n",
			map[string]string{"lib/loop.ko": "-"}},
		{"script", scripted, "lzo", "blk", "modprobe loop\n", nil},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			l.bootCompleted(t, l.standIn(t, test.compression, test.init, test.files), test.layout, test.bus, "")
		})
	}
}

func tailOf(s string) string { return s[max(0, len(s)-4000):] }

// standIn makes an image of busybox and a script.
func (l *lab) standIn(t testing.TB, compression, init string, files map[string]string) []byte {
	t.Helper()
	box, err := os.ReadFile(busybox(t))
	if err != nil {
		t.Fatal(err)
	}
	script := "#!/bin/sh\nmount -t proc proc /proc\nmount -t sysfs sysfs /sys\nmount -t devtmpfs dev /dev\n" + init +
		"mkrootdev() { for i in 1 2 3 4 5 6 7 8 9; do [ -b $1 ] && return; sleep 1; done; }\n" +
		"root=$(sed 's/.*root=\\([^ ]*\\).*/\\1/' /proc/cmdline)\nmkrootdev $root\nmount -o ro $root /sysroot\nexec switch_root /sysroot /sbin/init\n"
	members := []cpio.Member{
		{Name: "init", Mode: cpio.TypeFile | 0o755, Data: []byte(script)}, {Name: "bin/busybox", Mode: cpio.TypeFile | 0o755, Data: box},
		cpio.Dir("bin"), cpio.Dir("proc"), cpio.Dir("sys"), cpio.Dir("dev"), cpio.Dir("sysroot"), cpio.Dir("lib"),
	}
	for _, name := range []string{"sh", "mount", "modprobe", "insmod", "cat", "sed", "sleep", "switch_root", "echo"} {
		members = append(members, cpio.Link("bin/"+name, "busybox"))
	}
	img := &image{members: map[string]member{}}
	for _, m := range members {
		img.members[m.Name] = member{}
	}
	for name, text := range files {
		members = append(members, cpio.File(name, []byte(text)))
	}
	var b bytes.Buffer
	if err := cpio.Write(&b, img.withDirs(members)); err != nil {
		t.Fatal(err)
	}
	if compression == "lzo" {
		return command(t, "", b.Bytes(), program(t, "lzop"), "-c")
	}
	if compression == "xz" {
		return command(t, "", b.Bytes(), program(t, "xz"), "--check=crc32")
	}
	return pack(t, compression, b.Bytes())
}

// TestRealDracut has dracut make an image for a machine without virtio, completes
// it, and boots it.
func TestRealDracut(t *testing.T) {
	if testing.Short() {
		t.Skip("it boots machines")
	}
	l := newLab(t)
	image := filepath.Join(t.TempDir(), "image")
	command(t, "", nil, program(t, "dracut"), "--force", "--no-hostonly", "--no-early-microcode", "--gzip", "--kmoddir", l.modules,
		"--modules", "base kernel-modules rootfs-block udev-rules fs-lib",
		"--omit-drivers", "virtio virtio_ring virtio_pci virtio_pci_modern_dev virtio_pci_legacy_dev virtio_blk virtio_scsi", image, l.version)
	data, err := os.ReadFile(image)
	if err != nil {
		t.Fatal(err)
	}
	l.bootCompleted(t, data, dracut, "scsi", "rd.shell=0")
}

// bootCompleted completes an image and boots it.
func (l *lab) bootCompleted(t *testing.T, image []byte, want layout, bus, options string) {
	t.Helper()
	tree, g := l.guest(t, image)
	c, err := check(g, g.Facts.Kernels[0])
	if err != nil || c.layout != want || len(c.missing) == 0 {
		t.Fatalf("layout %q, missing %q, %v", c.layout, c.missing, err)
	}
	apply(t, g, Inject)
	wantFit(t, g)
	if out := l.boot(t, []byte(tree.ReadFile(t, g.Facts.Kernels[0].Initramfs)), bus, options); !strings.Contains(out, booted) {
		t.Errorf("it did not boot:\n%s", tailOf(out))
	}
}

// TestRealImage completes an image that H2K_INITRAMFS_BOOT names, made by a real
// generator for the lab's kernel, and boots it.
func TestRealImage(t *testing.T) {
	name := os.Getenv("H2K_INITRAMFS_BOOT")
	if name == "" {
		t.Skip("H2K_INITRAMFS_BOOT names no image")
	}
	l := newLab(t)
	data, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	tree, g := l.guest(t, data)
	c, err := check(g, g.Facts.Kernels[0])
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("layout %q, last segment %s, missing %q", c.layout, c.img.last, c.missing)
	p := apply(t, g, Inject)
	t.Logf("%s\n%s", p.Results[0].Diff, strings.Join(p.Results[0].Notes, "\n"))
	wantFit(t, g)
	image := []byte(tree.ReadFile(t, g.Facts.Kernels[0].Initramfs))
	if out := os.Getenv("H2K_INITRAMFS_OUT"); out != "" {
		if err := os.WriteFile(out, image, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	bus := "blk"
	if os.Getenv("H2K_INITRAMFS_BUS") != "" {
		bus = os.Getenv("H2K_INITRAMFS_BUS")
	}
	out := l.boot(t, image, bus, os.Getenv("H2K_INITRAMFS_OPTIONS"))
	if !strings.Contains(out, booted) {
		t.Fatalf("it did not boot:\n%s", tailOf(out))
	}
	t.Log(out[max(0, len(out)-500):])
}
