package linux

import (
	"bytes"
	"io/fs"
	"testing"

	"hyper2kvm/fixes"
	"hyper2kvm/fixes/guest"
	"hyper2kvm/fixes/guest/guesttest"
)

// FuzzTools puts hostile bytes where the fixes of tools, consoles and services
// read, under each init, and holds that none fails, that no file loses a line,
// and that a second run finds nothing to do.
func FuzzTools(f *testing.F) {
	f.Add("refclock PHC /dev/ptp_hyperv\nserver 169.254.169.123\n", uint8(0), uint8(0))
	f.Add("server metadata iburst\n", uint8(1), uint8(1))
	f.Add("[Time]\nNTP=169.254.169.123 x\\\n", uint8(2), uint8(2))
	f.Add("ext4 /dev/sda2\nraw /dev/sdb", uint8(3), uint8(0))
	f.Add("Section \"Device\"\nDriver \"vmware\"\nBusID \"PCI\"\nSection \"x\nEndSection", uint8(4), uint8(0))
	f.Add("blacklist virtio_blk\ninstall sd_mod :", uint8(5), uint8(0))
	f.Add("[a]\nbaseurl=http://vmware.com\n[b]\n[a]\nenabled=1\nbaseurl=vmware.com", uint8(6), uint8(0))
	f.Add("start on (a\n and (b)\nexec getty hvc0", uint8(7), uint8(2))
	f.Add("co:2345:respawn:/sbin/agetty xvc0\n#ttyS0::respawn:/sbin/getty ttyS0\nx:hvc0:ttyS0", uint8(8), uint8(3))
	f.Add("#1:2345:respawn:/sbin/mingetty tty1", uint8(8), uint8(1))
	f.Add("hvc0\n", uint8(9), uint8(1))
	f.Add("title x\nkernel /v ro root=x console=hvc0 vga=0x317 module_blacklist=virtio,a console=xvc0", uint8(10), uint8(1))
	names := []string{"etc/chrony.conf", "etc/ntp.conf", "etc/systemd/timesyncd.conf", "etc/kdump.conf", "etc/X11/xorg.conf", "etc/modprobe.d/a.conf",
		"etc/yum.repos.d/a.repo", "etc/init/hvc0.conf", "etc/inittab", "etc/securetty", "boot/grub/menu.lst", "etc/init/kudzu.conf", "etc/sysconfig/qemu-ga",
		"etc/init.d/qemu-ga", "usr/lib/systemd/system/qemu-guest-agent.service", "etc/nsswitch.conf", "etc/modules"}
	inits := []string{"systemd", "sysv", "upstart", "openrc", ""}
	f.Fuzz(func(t *testing.T, content string, at, init uint8) {
		facts := twoDisks()
		facts.OS.Family, facts.TargetBus, facts.Arch, facts.Init = "linux", "virtio", "x86_64", inits[int(init)%len(inits)]
		tree := guesttest.New(t, "-- usr/bin/qemu-ga mode=0755 --\n-- usr/sbin/xe-daemon --\n-- etc/init.d/kudzu --\n-- etc/rc3.d/S05kudzu link=../init.d/kudzu --\n-- boot/initramfs-1kdump.img --\n")
		name := names[int(at)%len(names)]
		tree.Put(name, []byte(content))
		g := &guest.Guest{FS: tree, Facts: facts}
		planned, err := fixes.Plan(t.Context(), g, All(Options{Agent: []Package{{Name: "a.deb"}}}, nil), fixes.Selection{})
		if err == nil {
			err = planned.Failures()
		}
		if err == nil {
			err = fixes.Apply(t.Context(), g, planned, nil)
		}
		if err != nil {
			t.Fatal(err)
		}
		now, err := fs.ReadFile(tree, name)
		if err != nil {
			t.Fatal(err)
		}
		if before, after := bytes.Count([]byte(content), []byte("\n")), bytes.Count(now, []byte("\n")); after < before {
			t.Fatalf("%d lines became %d in %s: %q", before, after, name, now)
		}
		again, err := fixes.Plan(t.Context(), g, All(Options{Agent: []Package{{Name: "a.deb"}}}, nil), fixes.Selection{})
		if err != nil {
			t.Fatal(err)
		}
		if again.Pending() {
			for _, r := range again.Results {
				if r.Diff != "" {
					t.Errorf("%s wants more:\n%s", r.ID, r.Diff)
				}
			}
		}
	})
}
