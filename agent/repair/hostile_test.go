package repair_test

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"hyper2kvm/agent/api"
)

// sentinels are files of this machine that a hostile guest points at.
func sentinels() []string {
	return []string{"/etc/shadow", "/etc/passwd", "/etc/fstab", "/etc/hostname"}
}

// TestHostileGuest has a guest whose configuration is made to reach out of it,
// or to hold the run up for ever. Whatever becomes of the repair, it ends, and
// nothing of this machine is read into it or written.
func TestHostileGuest(t *testing.T) {
	for name, spoil := range map[string]func(t *testing.T, dir string){
		"links to the host": func(t *testing.T, dir string) {
			for _, l := range [][2]string{
				{"/etc/shadow", "etc/crypttab"},
				{"../../../../../../../../etc/shadow", "etc/cloud/cloud.cfg"},
				{"/proc/self/root/etc/shadow", "etc/default/grub"},
				{"/../../../../etc/fstab", "etc/initramfs-tools/conf.d/resume"},
				{"/etc/passwd", "boot/grub/device.map"},
				{"/proc/self/environ", "etc/network/interfaces.d/env"},
			} {
				link(t, dir, l[0], l[1])
			}
		},
		"loops of links": func(t *testing.T, dir string) {
			link(t, dir, "b", "etc/a")
			link(t, dir, "a", "etc/b")
			link(t, dir, "../a/x", "etc/crypttab")
			link(t, dir, ".", "etc/network/interfaces.d")
			link(t, dir, "../grub.d", "etc/default/grub.d")
			link(t, dir, "grub.cfg", "boot/grub/grub.cfg")
			link(t, dir, "/boot/boot", "boot/boot")
		},
		"a fstab of ten gigabytes": func(t *testing.T, dir string) {
			must(t, os.Truncate(filepath.Join(dir, "etc/fstab"), 10<<30))
		},
		"pipes, sockets and devices for files": func(t *testing.T, dir string) {
			for _, f := range []string{"etc/crypttab", "etc/default/grub", "boot/grub/device.map"} {
				must(t, os.RemoveAll(filepath.Join(dir, f)))
				must(t, unix.Mkfifo(filepath.Join(dir, f), 0o644))
			}
			must(t, os.MkdirAll(filepath.Join(dir, "etc/cloud"), 0o755))
			must(t, unix.Mknod(filepath.Join(dir, "etc/cloud/cloud.cfg"), unix.S_IFCHR|0o666, int(unix.Mkdev(1, 5)))) // /dev/zero
			must(t, unix.Mknod(filepath.Join(dir, "etc/hosts"), unix.S_IFSOCK|0o666, 0))
			must(t, os.Remove(filepath.Join(dir, "etc/network/interfaces")))
			must(t, unix.Mkfifo(filepath.Join(dir, "etc/network/interfaces"), 0o644))
		},
		"names that are no text": func(t *testing.T, dir string) {
			for _, name := range []string{"etc/network/interfaces.d/\xff\xfe", "boot/vmlinuz-\xff", "etc/default/grub.d/a\nb.cfg", "lib/modules/\x1b[31m/modules.dep", "boot/initrd.img-\xc0\xaf"} {
				put(t, dir, name, "\xff\xfe\x00garbage\n")
			}
		},
		"configuration that is no text": func(t *testing.T, dir string) {
			for _, name := range []string{"etc/default/grub", "etc/crypttab", "boot/grub/grub.cfg", "etc/network/interfaces", "etc/os-release"} {
				put(t, dir, name, "\x00\xff"+strings.Repeat("\"'`$(reboot)\\\n", 4096))
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			image := disk(t, part{60 << 20, []string{"mke2fs", "-q", "-t", "ext4", "-U", rootUUID, "-d", tree(t, system()), "FILE"}})
			mountFirst(t, image, "rw", func(dir string) { spoil(t, dir) })
			before := map[string][]byte{}
			for _, f := range sentinels() {
				before[f], _ = os.ReadFile(f)
			}
			report, err := run(t, plan(api.FixOptions{}, mend(), attach(t, image)))
			if err != nil && code(err) == api.CodeInternal {
				t.Errorf("the run fails as if we were to blame: %v", err)
			}
			for _, f := range sentinels() {
				if now, _ := os.ReadFile(f); !bytes.Equal(before[f], now) {
					t.Errorf("%s of this machine was changed", f)
				}
			}
			shadow := strings.TrimSpace(string(before["/etc/shadow"]))
			for _, f := range report.Fixes {
				if shadow != "" && strings.Contains(f.Diff, shadow) {
					t.Errorf("%s shows the host's shadow file", f.ID)
				}
			}
			fsck(t, image, "e2fsck", "-f", "-n")
		})
	}
}

func link(t *testing.T, dir, to, name string) {
	t.Helper()
	full := filepath.Join(dir, name)
	must(t, os.MkdirAll(filepath.Dir(full), 0o755))
	must(t, os.RemoveAll(full))
	must(t, os.Symlink(to, full))
}

func put(t *testing.T, dir, name, content string) {
	t.Helper()
	full := filepath.Join(dir, name)
	must(t, os.MkdirAll(filepath.Dir(full), 0o755))
	must(t, os.WriteFile(full, []byte(content), 0o644))
}
