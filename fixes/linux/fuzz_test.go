package linux

import (
	"bytes"
	"testing"

	"hyper2kvm/fixes"
	"hyper2kvm/fixes/guest"
	"hyper2kvm/fixes/guest/guesttest"
)

// FuzzFixes puts hostile bytes where the fixes read, and holds that no fix
// fails, that no file loses or gains a line in the middle, and that a second run
// finds nothing to do.
func FuzzFixes(f *testing.F) {
	f.Add("/dev/sda1 / ext4 x,journal=/dev/sda2\n/dev/sdc1 /d xfs\n", uint8(0))
	f.Add("menuentry x {\n\tlinux /v root=/dev/sda1 ro resume=/dev/sdz console=hvc0 \"a b\n}\n", uint8(1))
	f.Add("a /dev/sda2 /dev/sdb:/k swap\n", uint8(2))
	f.Add("GRUB_CMDLINE_LINUX=root=/dev/sda1\nGRUB_DISABLE_LINUX_UUID=true", uint8(3))
	f.Add("[Match]\nMACAddress=00:50:56:01:02:03\nDriver=vmxnet3\nPath=pci-0000:0b:00.0\n[Link]\nName=x", uint8(4))
	f.Add("NAME=\"eth0\", KERNELS==\"x\", ATTR{address}==\"\"\nNAME=\"eth0\"", uint8(5))
	f.Add("iface eth0 inet dhcp\n\tbond_slaves a b\n", uint8(6))
	f.Add("filter = [ \"r|.*|\" ]\n filter=[ 'a|(|' ]", uint8(7))
	f.Add("Name: grub-pc/install_devices\nValue: /dev/sda, /dev/sdb", uint8(8))
	f.Add("network:\n  ethernets:\n    a: {}\n     b:\n", uint8(9))
	f.Add("DEVICE /dev/sd*\nARRAY x devices=/dev/sda1\n uuid=1", uint8(18))
	f.Add("defaults { find_multipaths no }", uint8(19))
	f.Add("raw /dev/sda1\next4 /dev/sdb1", uint8(20))
	f.Add("a :/dev/sda1 :/dev/sdb1", uint8(21))
	f.Add("raw1:sda1\n/dev/raw/raw1 /dev/sdb1", uint8(22))
	f.Add("/dev/sda -a # x\n/dev/sdb", uint8(23))
	f.Add("root=/dev/sda1\nappend=\"resume=/dev/sdb2\"", uint8(24))
	f.Add("X_APPEND=\"resume=/dev/sdb2\"", uint8(25))
	f.Add("[Swap]\nWhat=/dev/sda2\nAfter=dev-sdb1.device", uint8(27))
	names := []string{"etc/fstab", "boot/grub/grub.cfg", "etc/crypttab", "etc/default/grub", "etc/systemd/network/a.network",
		"etc/udev/rules.d/70-persistent-net.rules", "etc/network/interfaces", "etc/lvm/lvm.conf", debconfFile,
		"etc/netplan/a.yaml", "boot/grub/menu.lst", "etc/modules", "etc/inittab", "boot/grub2/grubenv",
		"boot/loader/entries/a.conf", "etc/systemd/network/a.link", "etc/initramfs-tools/conf.d/resume", "boot/grub/device.map",
		"etc/mdadm.conf", "etc/multipath.conf", "etc/kdump.conf", "etc/auto.misc", "etc/raw", "etc/smartd.conf", "etc/lilo.conf",
		"etc/sysconfig/bootloader", "etc/uswsusp.conf", "etc/systemd/system/dev-sda2.swap", "etc/systemd/system/a.mount.d/b.conf", "etc/app.conf"}
	f.Fuzz(func(t *testing.T, content string, at uint8) {
		facts := twoDisks()
		facts.TargetBus = "virtio"
		facts.NICs = []guest.NIC{{MAC: "52:54:00:00:00:01", Name: "eth0"}}
		facts.Network = []string{"x"}
		if at&0x80 != 0 {
			facts.Init, facts.NICs = "sysv", nil
		}
		tree := guesttest.Empty()
		name := names[int(at&0x7f)%len(names)]
		tree.Put(name, []byte(content))
		tree.Put("etc/default/grub", []byte("GRUB_CMDLINE_LINUX=\"\"\n"))
		if name == "etc/default/grub" {
			tree.Put(name, []byte(content))
		}
		g := &guest.Guest{FS: tree, Facts: facts}
		for _, f := range All(Options{}, nil) {
			p, err := f.Plan(t.Context(), g)
			if err != nil {
				t.Fatalf("%s: %v", f.ID(), err)
			}
			for _, c := range p.Changes {
				if w, ok := c.(fixes.WriteFile); ok && w.Name == name {
					before, after := bytes.Count([]byte(content), []byte("\n")), bytes.Count(w.Content, []byte("\n"))
					if after < before || after > before+4 {
						t.Fatalf("%s: %d lines became %d in %s", f.ID(), before, after, name)
					}
				}
			}
			applyTo(t, tree, p.Changes)
			if again, _ := f.Plan(t.Context(), g); len(again.Changes) > 0 {
				t.Fatalf("%s wants to change %s again: %q from %q", f.ID(), name, again.Changes, content)
			}
		}
	})
}
