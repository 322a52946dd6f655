package inspect_test

import (
	"encoding/binary"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"hyper2kvm/fixes/guest"
	"hyper2kvm/fixes/guest/guesttest"
	"hyper2kvm/fixes/inspect"
)

// menuOf prints what inspection makes of a boot loader's menu.
func menuOf(f *guest.Facts) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s\n", f.Loader.Kind)
	for _, e := range f.Loader.Entries {
		mark := " "
		if e.Default {
			mark = "*"
		}
		fmt.Fprintf(&b, "%s %s | %s %s", mark, e.Name, e.Image, e.Initramfs)
		if e.Xen {
			b.WriteString(" under Xen")
		}
		b.WriteString("\n")
	}
	for _, k := range f.Kernels {
		mark := " "
		if k.Default {
			mark = "*"
		}
		fmt.Fprintf(&b, "%s kernel %s %s %s: %s\n", mark, k.Version, k.Image, k.Initramfs, strings.Join(k.Entries, ", "))
	}
	return b.String()
}

func TestMenus(t *testing.T) {
	esp := guest.Facts{Firmware: "uefi", Mounts: []guest.Mount{{Point: "/"}, {Point: "/boot/efi", Type: "vfat"}}}
	for name, test := range map[string]struct {
		given guest.Facts
		tree  string
		want  string
	}{
		"RHEL 5 whose default is under Xen": {guest.Facts{}, `
-- boot/grub/grub.conf --
default=0
title CentOS (2.6.18-308.el5xen)
	root (hd0,0)
	kernel /xen.gz-2.6.18-308.el5
	module /vmlinuz-2.6.18-308.el5xen ro root=LABEL=/
	module /initrd-2.6.18-308.el5xen.img
title CentOS (2.6.18-308.el5)
	root (hd0,0)
	kernel /vmlinuz-2.6.18-308.el5 ro root=LABEL=/
	initrd /initrd-2.6.18-308.el5.img
-- boot/grub/menu.lst link=grub.conf --
-- boot/vmlinuz-2.6.18-308.el5 --
-- boot/vmlinuz-2.6.18-308.el5xen --
-- boot/initrd-2.6.18-308.el5.img --
-- boot/initrd-2.6.18-308.el5xen.img --
-- lib/modules/2.6.18-308.el5/x --
-- lib/modules/2.6.18-308.el5xen/x --
`, `grub-legacy
* 0 | boot/vmlinuz-2.6.18-308.el5xen boot/initrd-2.6.18-308.el5xen.img under Xen
  1 | boot/vmlinuz-2.6.18-308.el5 boot/initrd-2.6.18-308.el5.img
* kernel 2.6.18-308.el5xen boot/vmlinuz-2.6.18-308.el5xen boot/initrd-2.6.18-308.el5xen.img: 0
  kernel 2.6.18-308.el5 boot/vmlinuz-2.6.18-308.el5 boot/initrd-2.6.18-308.el5.img: 1
`},
		"SUSE on btrfs, default saved": {guest.Facts{}, `
-- boot/grub2/grub.cfg --
set default="${saved_entry}"
menuentry 'SLES 15' $menuentry_id_option 'simple' {
	linux	/@/boot/vmlinuz-6.4.0-9-default root=UUID=1
	initrd	/@/boot/initrd-6.4.0-9-default
}
submenu 'Advanced' $menuentry_id_option 'adv' {
	menuentry 'old' $menuentry_id_option 'old' {
		linux	/boot/vmlinuz-6.4.0-7-default root=UUID=1
		initrd	/boot/initrd-6.4.0-7-default
	}
}
-- boot/grub2/grubenv --
# GRUB Environment Block
saved_entry=adv>old
-- boot/vmlinuz-6.4.0-9-default --
-- boot/vmlinuz-6.4.0-7-default link=../usr/lib/modules/6.4.0-7-default/vmlinuz --
-- usr/lib/modules/6.4.0-7-default/vmlinuz --
-- boot/initrd-6.4.0-7-default --
-- boot/initrd-6.4.0-9-default --
-- lib link=usr/lib --
-- usr/lib/modules/6.4.0-9-default/x --
`, `grub2
  simple | boot/vmlinuz-6.4.0-9-default boot/initrd-6.4.0-9-default
* adv>old | boot/vmlinuz-6.4.0-7-default boot/initrd-6.4.0-7-default
  kernel 6.4.0-9-default boot/vmlinuz-6.4.0-9-default boot/initrd-6.4.0-9-default: simple
* kernel 6.4.0-7-default boot/vmlinuz-6.4.0-7-default boot/initrd-6.4.0-7-default: adv>old
`},
		"RHEL 9 with a wrapper on the ESP": {esp, `
-- boot/efi/EFI/redhat/grubx64.efi --
-- boot/efi/EFI/redhat/grub.cfg --
search --no-floppy --fs-uuid --set=dev 1
set prefix=($dev)/grub2
configfile $prefix/grub.cfg
-- boot/grub2/grub.cfg --
set default="${saved_entry}"
insmod blscfg
blscfg
menuentry 'UEFI Firmware Settings' $menuentry_id_option 'uefi-firmware' {
	fwsetup
}
-- boot/grub2/grubenv --
saved_entry=gone
-- boot/loader/entries/m-0-rescue.conf --
linux /vmlinuz-0-rescue
-- boot/loader/entries/m-5.14.0-70.el9.x86_64.conf --
linux /vmlinuz-5.14.0-70.el9.x86_64
initrd /initramfs-5.14.0-70.el9.x86_64.img $tuned_initrd
-- boot/loader/entries/m-5.14.0-427.el9.x86_64.conf --
linux /vmlinuz-5.14.0-427.el9.x86_64
initrd /initramfs-5.14.0-427.el9.x86_64.img
-- boot/vmlinuz-0-rescue --
-- boot/vmlinuz-5.14.0-70.el9.x86_64 --
-- boot/vmlinuz-5.14.0-427.el9.x86_64 --
-- boot/initramfs-5.14.0-70.el9.x86_64.img --
-- boot/initramfs-5.14.0-427.el9.x86_64.img --
-- lib/modules/5.14.0-70.el9.x86_64/x --
-- lib/modules/5.14.0-427.el9.x86_64/x --
`, `grub2
* m-5.14.0-427.el9.x86_64 | boot/vmlinuz-5.14.0-427.el9.x86_64 boot/initramfs-5.14.0-427.el9.x86_64.img
  m-5.14.0-70.el9.x86_64 | boot/vmlinuz-5.14.0-70.el9.x86_64 boot/initramfs-5.14.0-70.el9.x86_64.img
  m-0-rescue | boot/vmlinuz-0-rescue 
  uefi-firmware |  
* kernel 5.14.0-427.el9.x86_64 boot/vmlinuz-5.14.0-427.el9.x86_64 boot/initramfs-5.14.0-427.el9.x86_64.img: m-5.14.0-427.el9.x86_64
  kernel 5.14.0-70.el9.x86_64 boot/vmlinuz-5.14.0-70.el9.x86_64 boot/initramfs-5.14.0-70.el9.x86_64.img: m-5.14.0-70.el9.x86_64
`},
		"systemd-boot with its kernels on the ESP": {esp, `
-- boot/efi/EFI/systemd/systemd-bootx64.efi --
-- boot/efi/EFI/BOOT/BOOTX64.EFI --
-- boot/efi/loader/loader.conf --
default opensuse*
-- boot/efi/loader/entries/opensuse-6.12.0-1-default-2.conf --
sort-key opensuse
version 2@6.12.0-1-default
linux /opensuse/6.12.0-1-default/linux-abc
initrd /opensuse/6.12.0-1-default/initrd-def
-- boot/efi/loader/entries/opensuse-6.12.0-3-default-3.conf --
sort-key opensuse
version 3@6.12.0-3-default
linux /opensuse/6.12.0-3-default/linux-abc
initrd /opensuse/6.12.0-3-default/initrd-def
-- boot/efi/opensuse/6.12.0-1-default/linux-abc --
-- boot/efi/opensuse/6.12.0-1-default/initrd-def --
-- boot/efi/opensuse/6.12.0-3-default/linux-abc --
-- boot/efi/opensuse/6.12.0-3-default/initrd-def --
-- lib/modules/6.12.0-1-default/x --
-- lib/modules/6.12.0-3-default/x --
`, `systemd-boot
* opensuse-6.12.0-3-default-3.conf | boot/efi/opensuse/6.12.0-3-default/linux-abc boot/efi/opensuse/6.12.0-3-default/initrd-def
  opensuse-6.12.0-1-default-2.conf | boot/efi/opensuse/6.12.0-1-default/linux-abc boot/efi/opensuse/6.12.0-1-default/initrd-def
* kernel 6.12.0-3-default boot/efi/opensuse/6.12.0-3-default/linux-abc boot/efi/opensuse/6.12.0-3-default/initrd-def: opensuse-6.12.0-3-default-3.conf
  kernel 6.12.0-1-default boot/efi/opensuse/6.12.0-1-default/linux-abc boot/efi/opensuse/6.12.0-1-default/initrd-def: opensuse-6.12.0-1-default-2.conf
`},
		"Alpine": {guest.Facts{}, `
-- boot/extlinux.conf --
DEFAULT menu.c32
LABEL lts
  MENU DEFAULT
  LINUX vmlinuz-lts
  INITRD initramfs-lts
  APPEND root=UUID=1
-- boot/vmlinuz-lts --
-- boot/initramfs-lts --
-- lib/modules/6.6.4-0-lts/x --
`, `extlinux
* lts | boot/vmlinuz-lts boot/initramfs-lts
* kernel 6.6.4-0-lts boot/vmlinuz-lts boot/initramfs-lts: lts
`},
		"Photon": {guest.Facts{}, `
-- boot/grub2/grub.cfg --
set default=0
set rootpartition=PARTUUID=1
load_env -f /boot/photon.cfg
menuentry "Photon" {
    linux "/$photon_linux" root=$rootpartition $photon_cmdline
    initrd "/$photon_initrd"
}
-- boot/photon.cfg link=linux-6.1.10-11.ph5.cfg --
-- boot/linux-6.1.10-11.ph5.cfg --
photon_cmdline=init=/lib/systemd/systemd ro quiet
photon_linux=vmlinuz-6.1.10-11.ph5
photon_initrd=initrd.img-6.1.10-11.ph5
-- boot/vmlinuz-6.1.10-11.ph5 --
-- boot/initrd.img-6.1.10-11.ph5 --
-- lib/modules/6.1.10-11.ph5/x --
`, `grub2
* Photon | boot/vmlinuz-6.1.10-11.ph5 boot/initrd.img-6.1.10-11.ph5
* kernel 6.1.10-11.ph5 boot/vmlinuz-6.1.10-11.ph5 boot/initrd.img-6.1.10-11.ph5: Photon
`},
	} {
		t.Run(name, func(t *testing.T) {
			if diff := cmp.Diff(test.want, menuOf(look(t, test.tree, test.given))); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// TestImageVersion has kernels whose names do not tell which they are.
func TestImageVersion(t *testing.T) {
	tree := guesttest.New(t, "-- boot/initramfs-linux.img --\n-- lib/modules/6.9.1-arch1-1/pkgbase --\nlinux\n-- lib/modules/6.9.3-arch1-1/pkgbase --\nlinux\n")
	image := make([]byte, 0x400)
	copy(image[0x202:], "HdrS")
	binary.LittleEndian.PutUint16(image[0x20e:], 0x100)
	copy(image[0x300:], "6.9.3-arch1-1 (linux@archlinux) #1 SMP\x00")
	tree.Put("boot/vmlinuz-linux", image)
	got := inspect.Inspect(tree, guest.Facts{})
	if len(got.Kernels) != 1 || got.Kernels[0].Version != "6.9.3-arch1-1" {
		t.Errorf("kernels %+v", got.Kernels)
	}
}

const allModules = `kernel/drivers/block/virtio_blk.ko.xz:
kernel/drivers/scsi/virtio_scsi.ko.xz:
kernel/drivers/net/virtio_net.ko.xz:
kernel/drivers/virtio/virtio_pci.ko.xz:
kernel/drivers/scsi/sd_mod.ko.xz:
kernel/drivers/ata/ahci.ko.xz:
kernel/drivers/net/e1000.ko.xz:
`

func without(modules string, names ...string) string {
	var b strings.Builder
	for l := range strings.Lines(modules) {
		keep := true
		for _, n := range names {
			keep = keep && !strings.Contains(l, "/"+n+".ko")
		}
		if keep {
			b.WriteString(l)
		}
	}
	return b.String()
}

func TestSupport(t *testing.T) {
	for name, test := range map[string]struct{ version, tree, want string }{
		"all as modules":      {"5", "-- lib/modules/5/modules.dep --\n" + allModules, "virtio,scsi,sata virtio,e1000 "},
		"nothing known":       {"5", "-- lib/modules/5/x --\n", "  "},
		"no index of modules": {"5", "-- lib/modules/5/a/b/virtio-pci.ko.zst --\n-- lib/modules/5/updates/virtio_blk.ko.gz --\n", "virtio  "},
		"built in, by modules.builtin": {"5", "-- lib/modules/5/modules.dep --\n" + without(allModules, "virtio_pci", "virtio_blk") +
			"-- lib/modules/5/modules.builtin --\nkernel/x/virtio_pci.ko\nkernel/x/virtio_blk.ko\n", "virtio,scsi,sata virtio,e1000 "},
		"built in, by the configuration": {"5", "-- lib/modules/5/modules.dep --\n" + without(allModules, "virtio_pci", "virtio_blk") +
			"-- boot/config-5 --\nCONFIG_VIRTIO_PCI=y\nCONFIG_VIRTIO_BLK=y\n", "virtio,scsi,sata virtio,e1000 "},
		"configured as modules of a package that is not installed": {"5-azure", "-- lib/modules/5-azure/modules.dep --\n" + without(allModules, "virtio_scsi", "virtio_blk") +
			"-- boot/config-5-azure --\nCONFIG_VIRTIO_BLK=m\nCONFIG_SCSI_VIRTIO=m\n", "sata virtio,e1000 it has no virtio driver for disks"},
		"before virtio-scsi": {"2.6.18-128.el5", "-- lib/modules/2.6.18-128.el5/modules.dep --\n" + without(allModules, "virtio_scsi"), "virtio,sata virtio,e1000 "},
		"before virtio": {"2.6.9-5.EL", "-- lib/modules/2.6.9-5.EL/modules.dep --\nkernel/ata_piix.ko:\nkernel/sd_mod.ko:\nkernel/8139cp.ko:\n",
			"ide rtl8139 it has no virtio driver for disks"},
		"Xen by configuration": {"3.0.101-xen", "-- lib/modules/3.0.101-xen/x --\n-- boot/config-3.0.101-xen --\nCONFIG_X86_64_XEN=y\n", "  it runs under Xen only"},
		"Xen by name":          {"2.6.18-308.el5xen", "-- lib/modules/2.6.18-308.el5xen/modules.dep --\nkernel/xenblk.ko:\n", "  it runs under Xen only"},
		"knows Xen, too":       {"4.4-xen", "-- lib/modules/4.4-xen/modules.dep --\n" + allModules + "-- boot/config-4.4-xen --\nCONFIG_XEN=y\n", "virtio,scsi,sata virtio,e1000 "},
	} {
		t.Run(name, func(t *testing.T) {
			got := look(t, "-- boot/vmlinuz-"+test.version+" --\n"+test.tree, guest.Facts{})
			if len(got.Kernels) != 1 {
				t.Fatalf("kernels %+v", got.Kernels)
			}
			s := got.Kernels[0].Support
			if line := strings.Join(s.Buses, ",") + " " + strings.Join(s.NICs, ",") + " " + s.Unfit; line != test.want {
				t.Errorf("got %q, want %q", line, test.want)
			}
		})
	}
}

func TestDebugKernels(t *testing.T) {
	for version, want := range map[string]bool{
		"5.14.0-70.el9.x86_64+debug": true, "4.4.0-debug": true, "5.3.18-kdump": true, "2.6.18-308.el5debug": true,
		"6.1.0-25-amd64": false, "5.3.18-default": false,
	} {
		got := look(t, "-- boot/vmlinuz-"+version+" --\n-- lib/modules/"+version+"/x --\n", guest.Facts{})
		if len(got.Kernels) != 1 || got.Kernels[0].Debug != want {
			t.Errorf("%s: %+v", version, got.Kernels)
		}
	}
}

// TestNeeds has what a guest asks of its machine.
func TestNeeds(t *testing.T) {
	const old = "-- lib/modules/%[1]s/modules.dep --\nkernel/sd_mod.ko:\nkernel/ata_piix.ko:\nkernel/e1000.ko:\n-- boot/vmlinuz-%[1]s --\n"
	const new = "-- lib/modules/%[1]s/modules.dep --\n" + allModules + "-- boot/vmlinuz-%[1]s --\n"
	for name, test := range map[string]struct {
		release, kernel, modules string
		bus                      string
		want                     guest.Needs
	}{
		"RHEL 4":             {"rhel 4.8", "2.6.9-89.EL", old, "ide", guest.Needs{Machine: "pc", Virtio: "transitional", NIC: "e1000"}},
		"RHEL 6":             {"rhel 6.10", "2.6.32-754.el6.x86_64", new, "virtio", guest.Needs{Virtio: "transitional"}},
		"CentOS 7.1":         {"centos 7", "3.10.0-229.el7.x86_64", new, "virtio", guest.Needs{Virtio: "transitional"}},
		"CentOS 7.9":         {"centos 7", "3.10.0-1160.el7.x86_64", new, "virtio", guest.Needs{}},
		"RHEL 9":             {"rhel 9.4", "5.14.0-427.el9.x86_64", new, "virtio", guest.Needs{CPU: "x86-64-v2"}},
		"Rocky 10":           {"rocky 10.0", "6.12.0-55.el10_0.x86_64", new, "virtio", guest.Needs{CPU: "x86-64-v3"}},
		"AlmaLinux 10 v2":    {"almalinux 10.0", "6.12.0-55.el10_0.x86_64_v2", new, "virtio", guest.Needs{CPU: "x86-64-v2"}},
		"SLES 16":            {"sles 16.0", "6.12.0-160000.5-default", new, "virtio", guest.Needs{CPU: "x86-64-v2"}},
		"SLES 15":            {"sles 15.5", "5.14.21-default", new, "virtio", guest.Needs{}},
		"Amazon Linux 2023":  {"amzn 2023", "6.1.1-1.amzn2023.x86_64", new, "virtio", guest.Needs{CPU: "x86-64-v2"}},
		"Amazon Linux 2":     {"amzn 2", "4.14.1-1.amzn2.x86_64", new, "virtio", guest.Needs{}},
		"Debian 8":           {"debian 8", "3.16.0-4-amd64", new, "virtio", guest.Needs{Virtio: "transitional"}},
		"Fedora 42":          {"fedora 42", "6.14.0-63.fc42.x86_64", new, "virtio", guest.Needs{}},
		"virtio-scsi wanted": {"fedora 42 scsi", "6.14.0-63.fc42.x86_64", new, "scsi", guest.Needs{}},
	} {
		t.Run(name, func(t *testing.T) {
			w := append(strings.Fields(test.release), "virtio")
			tree := "-- etc/os-release --\nID=" + w[0] + "\nVERSION_ID=\"" + w[1] + "\"\n-- bin/sh link=/usr/bin/dash --\n" + fmt.Sprintf(test.modules, test.kernel)
			got := look(t, tree, guest.Facts{TargetBus: w[2]})
			if got.TargetBus != test.bus {
				t.Errorf("boots from %q, want %q", got.TargetBus, test.bus)
			}
			if diff := cmp.Diff(test.want, got.Needs); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// TestLevelOfLibrary reads the C library of this machine, with the level that it
// needs put up.
func TestLevelOfLibrary(t *testing.T) {
	data, err := os.ReadFile("/lib/x86_64-linux-gnu/libc.so.6")
	if err != nil {
		t.Skipf("no C library of Debian here: %v", err)
	}
	property := []byte{0x02, 0x80, 0x00, 0xc0, 4, 0, 0, 0, 1, 0, 0, 0}
	at := strings.Index(string(data), string(property))
	if at < 0 {
		t.Fatal("readelf -n shows the property x86 ISA needed")
	}
	for mask, want := range map[byte]string{1: "", 2: "x86-64-v2", 3: "x86-64-v2", 7: "x86-64-v3"} {
		data[at+8] = mask
		tree := guesttest.New(t, "-- etc/os-release --\nID=own\n-- lib64/libc.so.6 --\n-- bin/sh link=/usr/bin/dash --\n")
		tree.Put("usr/bin/dash", []byte(elf))
		tree.Put("lib64/libc.so.6", data)
		if got := inspect.Inspect(tree, guest.Facts{}); got.Needs.CPU != want {
			t.Errorf("levels %03b: %q, want %q", mask, got.Needs.CPU, want)
		}
	}
}
