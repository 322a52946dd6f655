// Package recipes holds guests as scripts (build.sh), and proves that each
// boots on hardware like the one it comes from: what KVM cannot boot must be
// the fault of the move, not of the recipe.
package recipes

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"hyper2kvm/agent/canary"
	"hyper2kvm/agent/canary/watch"
	"hyper2kvm/agent/qemu"
	"hyper2kvm/fixes"
	"hyper2kvm/fixes/guest"
)

const mib = 1 << 20

// vmware is a machine of QEMU's with VMware's controllers, in the slots in which
// VMware has them: the disk's controller on PCI bus 3, the network card in
// hotplug slot 192, hence the name ens192.
func vmware(disk, mac string) []string {
	return []string{
		"-M", "q35", "-m", "1G", "-smp", "2", "-device", "VGA",
		"-global", "ICH9-LPC.acpi-pci-hotplug-with-bridge-support=off",
		"-device", "pcie-root-port,id=bus1,chassis=1,slot=160,addr=5.0",
		"-device", "pcie-root-port,id=bus2,chassis=2,slot=192,addr=6.0",
		"-device", "pcie-root-port,id=bus3,chassis=3,slot=224,addr=7.0",
		"-device", "pvscsi,id=scsi,bus=bus3",
		"-drive", "if=none,id=sda,format=raw,cache=unsafe,file=" + disk,
		"-device", "scsi-hd,bus=scsi.0,scsi-id=0,drive=sda,bootindex=1",
		"-netdev", "user,id=net,restrict=on", "-device", "vmxnet3,netdev=net,bus=bus2,romfile=,mac=" + mac,
		"-serial", "chardev:" + qemu.ConsoleID,
		"-device", "virtio-serial-pci", "-device", "virtserialport,chardev=canary,name=" + watch.Port,
	}
}

func TestBootsWhereItComesFrom(t *testing.T) {
	if testing.Short() {
		t.Skip("boots whole guests")
	}
	bin := buildCanary(t)
	t.Run("debian12-bios", func(t *testing.T) {
		if os.Getenv("H2K_GUESTS") != "all" {
			t.Skip("h2k-livefix is tested on this guest, booted on that hardware; this runs in make test-guests")
		}
		t.Parallel()
		disk := rawCopy(t, "debian12-bios")
		plant(t, disk, 1*mib, bin) // the root is the first partition
		data := dataDisk(t)
		// The second disk's controller is none that the initramfs knows, so the
		// disk cannot become sda.
		r := boot(t, append(vmware(disk, "00:50:56:01:0c:02"),
			"-drive", "if=none,id=sdb,format=raw,file="+data, "-device", "ide-hd,bus=ide.0,drive=sdb"))
		check(t, r, "ens192", "10.0.2.50/24", "/dev/sda1")
	})
	t.Run("debian13-uefi", func(t *testing.T) {
		t.Parallel()
		disk := rawCopy(t, "debian13-uefi")
		// Behind ESP and /boot, LVM's label and metadata take the first MiB.
		plant(t, disk, 514*mib, bin)
		kernel, initrd, cmdline := bootFiles(t, disk, 65*mib)
		// OVMF as Debian builds it has no driver for VMware's controller.
		r := boot(t, append(vmware(disk, "00:50:56:01:0d:03"), "-kernel", kernel, "-initrd", initrd, "-append", cmdline))
		check(t, r, "", "10.0.2.60/24", "/dev/mapper/vg0-root")
	})
}

func check(t *testing.T, r watch.Report, nic, address, root string) {
	t.Helper()
	if r.Event != watch.Up || len(r.Failed) > 0 {
		t.Fatalf("not up: %+v", r)
	}
	if r.Root != root {
		t.Errorf("root is %s, want %s", r.Root, root)
	}
	for _, i := range r.Interfaces {
		if (nic == "" || i.Name == nic) && slices.Contains(i.Addresses, address) {
			return
		}
	}
	t.Errorf("no interface %q with %s: %+v", nic, address, r.Interfaces)
}

// boot runs the machine until the canary's last word.
func boot(t *testing.T, args []string) watch.Report {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 6*time.Minute)
	defer cancel()
	accel, err := qemu.Accelerator(ctx)
	if err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	vm, err := qemu.Start(ctx, qemu.Config{Accel: accel, Args: append(args, "-cpu", accel.CPU()), Channels: []string{"canary"}})
	if err != nil {
		t.Fatal(err)
	}
	defer vm.Close()
	if dir := os.Getenv("H2K_KEEP"); dir != "" {
		defer func() {
			_ = vm.SavePNG(t.Context(), filepath.Join(dir, strings.ReplaceAll(t.Name(), "/", "-")+".png"))
		}()
	}
	for lines := bufio.NewScanner(vm.Channel("canary")); lines.Scan(); {
		r, err := watch.Parse(lines.Bytes())
		if err != nil {
			t.Fatal(err)
		}
		t.Logf("%.0f s: %+v", time.Since(start).Seconds(), r)
		if r.Event != watch.Alive {
			return r
		}
	}
	t.Fatalf("the canary fell silent: %v\n%s", ctx.Err(), vm.Console())
	return watch.Report{}
}

func buildCanary(t *testing.T) []byte {
	t.Helper()
	missing(t, "../../build/guests/debian12-bios.vmdk", "../../build/guests/debian13-uefi.vmdk")
	if os.Geteuid() != 0 {
		t.Skip("mounting a guest takes root")
	}
	path := filepath.Join(t.TempDir(), "canary")
	cmd := exec.Command("go", "build", "-trimpath", "-ldflags=-s -w", "-o", path, "../../agent/cmd/h2k-canary")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build canary: %v\n%s", err, out)
	}
	bin, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return bin
}

// missing skips, or fails where CI promised that the files are there.
func missing(t *testing.T, files ...string) {
	t.Helper()
	for _, f := range files {
		if _, err := os.Stat(f); err == nil {
			continue
		}
		if os.Getenv("H2K_REQUIRE_VM") != "" {
			t.Fatalf("%s is missing", f)
		}
		t.Skipf("%s is missing; tests/recipes/build.sh makes it", f)
	}
}

func run(t *testing.T, name string, args ...string) {
	t.Helper()
	if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
}

func rawCopy(t *testing.T, name string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "disk.raw")
	run(t, "qemu-img", "convert", "-O", "raw", "../../build/guests/"+name+".vmdk", path)
	return path
}

// dataDisk is the second disk, which does not come along when the guest moves.
func dataDisk(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "data.raw")
	run(t, "truncate", "-s", "64M", path)
	cmd := exec.Command("sfdisk", "--quiet", path)
	cmd.Stdin = strings.NewReader("start=1MiB, type=83\n")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("sfdisk: %v\n%s", err, out)
	}
	run(t, "mke2fs", "-q", "-F", "-E", "offset=1048576", path, "60M")
	return path
}

// mounted mounts the file system at offset of the disk.
func mounted(t *testing.T, disk string, offset int64) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "mnt")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	run(t, "mount", "-o", fmt.Sprintf("loop,offset=%d", offset), disk, dir)
	t.Cleanup(func() { _ = exec.Command("umount", dir).Run() }) // where the test has not come to it
	return dir
}

// plant writes the canary as the engine would.
func plant(t *testing.T, disk string, offset int64, bin []byte) {
	t.Helper()
	changes, err := canary.Changes(bin, &guest.Facts{Init: "systemd"})
	if err != nil {
		t.Fatal(err)
	}
	dir := mounted(t, disk, offset)
	for _, c := range changes {
		path := filepath.Join(dir, c.Target())
		err := os.MkdirAll(filepath.Dir(path), 0o755)
		switch c := c.(type) {
		case fixes.WriteFile:
			if err == nil {
				err = os.WriteFile(path, c.Content, c.Attr.Mode)
			}
		case fixes.Symlink:
			if err == nil {
				err = os.Symlink(c.To, path)
			}
		default:
			t.Fatalf("the canary wants %T", c)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	run(t, "umount", dir)
}

// bootFiles takes kernel, initramfs and command line out of /boot.
func bootFiles(t *testing.T, disk string, offset int64) (kernel, initrd, cmdline string) {
	t.Helper()
	dir, out := mounted(t, disk, offset), t.TempDir()
	for _, name := range []string{"vmlinuz", "initrd.img"} {
		found, err := filepath.Glob(filepath.Join(dir, name+"-*"))
		if err != nil || len(found) != 1 {
			t.Fatalf("%s: %v %v", name, found, err)
		}
		run(t, "cp", found[0], filepath.Join(out, name))
	}
	cfg, err := os.ReadFile(filepath.Join(dir, "grub/grub.cfg"))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(cfg)) {
		if f := strings.Fields(line); len(f) > 2 && f[0] == "linux" {
			cmdline = strings.Join(f[2:], " ")
			break
		}
	}
	run(t, "umount", dir)
	return filepath.Join(out, "vmlinuz"), filepath.Join(out, "initrd.img"), cmdline
}
