package inspect_test

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"hyper2kvm/fixes/guest"
	"hyper2kvm/fixes/guest/guesttest"
	"hyper2kvm/fixes/inspect"
)

// elf is the beginning of a program for x86-64.
const elf = "\x7fELF\x02\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00\x3e\x00"

func look(t *testing.T, archive string, given guest.Facts) *guest.Facts {
	t.Helper()
	tree := guesttest.New(t, archive)
	tree.Put("usr/bin/dash", []byte(elf))
	return inspect.Inspect(tree, given)
}

const debian = `
-- bin link=usr/bin --
-- lib link=usr/lib --
-- usr/bin/sh link=dash --
-- sbin link=usr/sbin --
-- usr/sbin/init link=/lib/systemd/systemd --
-- usr/lib/systemd/systemd --
-- etc/os-release link=../usr/lib/os-release --
-- usr/lib/os-release --
PRETTY_NAME="Debian GNU/Linux 12 (bookworm)"
ID=debian
VERSION_ID="12"
-- etc/hostname --
web01
-- usr/sbin/mkinitramfs --
-- usr/sbin/update-initramfs --
exec mkinitramfs
-- usr/lib/modules/6.1.0-9-amd64/modules.dep --
-- usr/lib/modules/6.1.0-25-amd64/modules.dep --
-- boot/vmlinuz-6.1.0-9-amd64 --
-- boot/vmlinuz-6.1.0-25-amd64 --
-- boot/vmlinuz link=vmlinuz-6.1.0-9-amd64 --
-- boot/vmlinuz-4.0.0-gone --
-- boot/initrd.img-6.1.0-25-amd64 --
-- boot/initrd.img-6.1.0-25-amd64.bak --
-- boot/config-6.1.0-25-amd64 --
-- boot/grub/grub.cfg --
set default="0"
menuentry 'Debian' {
	linux	/boot/vmlinuz-6.1.0-25-amd64 root=/dev/sda1 ro quiet
}
-- boot/grub/grubenv --
-- etc/default/grub --
GRUB_DEFAULT=0
-- etc/network/interfaces --
auto lo
iface lo inet loopback
auto ens192
iface ens192 inet static
	address 10.0.2.50/24
iface br-lan inet dhcp
	bridge_ports ens224
iface ens192.7 inet manual
-- usr/bin/vmtoolsd --
`

func TestDebian(t *testing.T) {
	got := look(t, debian, guest.Facts{Disks: []guest.Disk{{Table: "dos", Partitions: []guest.Partition{{Number: 1, Type: "0x83"}}}}})
	want := &guest.Facts{
		OS:   guest.OS{Family: "linux", ID: "debian", Version: "12", Name: "Debian GNU/Linux 12 (bookworm)"},
		Arch: "x86_64", Hostname: "web01", Firmware: "bios", Init: "systemd", Disks: got.Disks,
		Kernels: []guest.Kernel{
			{Version: "6.1.0-25-amd64", Image: "boot/vmlinuz-6.1.0-25-amd64", Initramfs: "boot/initrd.img-6.1.0-25-amd64", Modules: "usr/lib/modules/6.1.0-25-amd64", Default: true, Entries: []string{"Debian"}},
			{Version: "6.1.0-9-amd64", Image: "boot/vmlinuz-6.1.0-9-amd64", Modules: "usr/lib/modules/6.1.0-9-amd64"},
		},
		Initramfs: "initramfs-tools",
		Loader: guest.BootLoader{Kind: "grub2", Configs: []string{"boot/grub/grub.cfg", "boot/grub/grubenv", "etc/default/grub"}, Menu: "boot/grub/grub.cfg",
			Entries: []guest.BootEntry{{File: "boot/grub/grub.cfg", Name: "Debian", Title: "Debian", Image: "boot/vmlinuz-6.1.0-25-amd64", Version: "6.1.0-25-amd64", Default: true}}},
		Network: []string{"ifupdown"},
		NICs:    []guest.NIC{{Name: "ens192", From: "etc/network/interfaces"}},
		Tools:   []string{"open-vm-tools"},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

const uefi = `
-- etc/os-release --
ID=debian
VERSION_ID=13
-- usr/bin/dracut --
-- usr/sbin/update-initramfs --
#!/bin/sh
# dracut's stand-in
-- lib/modules/6.12.38+deb13-amd64/modules.dep --
-- boot/vmlinuz-6.12.38+deb13-amd64 --
-- boot/initrd.img-6.12.38+deb13-amd64 --
-- boot/efi/EFI/debian/shimx64.efi --
-- boot/efi/EFI/debian/grubx64.efi --
-- boot/efi/EFI/debian/BOOTX64.CSV --
-- boot/efi/EFI/debian/grub.cfg --
search.fs_uuid aa root
-- etc/systemd/network/10-lan.network --
[Match]
MACAddress=00:50:56:01:0D:03

[Network]
Address=10.0.2.60/24
`

func uefiFacts() guest.Facts {
	return guest.Facts{
		Disks: []guest.Disk{{Table: "gpt", Partitions: []guest.Partition{
			{Number: 1, Type: "c12a7328-f81f-11d2-ba4b-00a0c93ec93b"}, {Number: 2, Type: "0fc63daf-8483-4772-8e79-3d69d8477de4"}}}},
		Filesystems: []guest.Filesystem{{Device: "/dev/sda1", Disk: 0, Partition: 1, Type: "vfat"}},
		Mounts:      []guest.Mount{{Point: "/"}, {Point: "/boot/efi", Type: "vfat", Device: "/dev/sda1"}},
	}
}

func TestUEFI(t *testing.T) {
	got := look(t, uefi, uefiFacts())
	if got.Firmware != "uefi" || got.Initramfs != "dracut" {
		t.Errorf("firmware %q, initramfs %q", got.Firmware, got.Initramfs)
	}
	want := guest.BootLoader{Kind: "grub2", ESP: "boot/efi", Configs: []string{"boot/efi/EFI/debian/grub.cfg"},
		Loaders: []string{"EFI/debian/grubx64.efi", "EFI/debian/shimx64.efi"}}
	if diff := cmp.Diff(want, got.Loader); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]guest.NIC{{MAC: "00:50:56:01:0d:03", From: "etc/systemd/network/10-lan.network"}}, got.NICs); diff != "" {
		t.Error(diff)
	}
}

func TestFirmware(t *testing.T) {
	both := uefiFacts()
	both.Disks[0].Partitions[1].Type = "21686148-6449-6e6f-744e-656564454649"
	mbr := uefiFacts()
	mbr.Disks[0] = guest.Disk{Table: "dos", Partitions: []guest.Partition{{Number: 1, Type: "0xef"}}}
	given := uefiFacts()
	given.Firmware = "bios"
	for name, test := range map[string]struct {
		facts   guest.Facts
		want    string
		warning bool
	}{
		"ESP and BIOS boot partition": {both, "bios", false},
		"MBR with type EF":            {mbr, "uefi", false},
		"the plan decides":            {given, "bios", true},
	} {
		got := look(t, uefi, test.facts)
		if got.Firmware != test.want || test.warning != strings.Contains(strings.Join(got.Warnings, "\n"), "UEFI") {
			t.Errorf("%s: %q, warnings %q", name, got.Firmware, got.Warnings)
		}
	}
}

func TestNamesOfCards(t *testing.T) {
	const tree = `
-- etc/udev/rules.d/70-persistent-net.rules --
SUBSYSTEM=="net", ACTION=="add", DRIVERS=="?*", ATTR{address}=="00:50:56:aa:00:01", ATTR{type}=="1", KERNEL=="eth*", NAME="eth0"
-- etc/sysconfig/network-scripts/ifcfg-ens224 --
DEVICE="ens224"
HWADDR=00:50:56:AA:00:02
-- etc/sysconfig/network-scripts/ifcfg-bond0 --
DEVICE=bond0
TYPE=Bond
-- etc/NetworkManager/system-connections/lan.nmconnection mode=0600 --
[connection]
type=ethernet
interface-name=ens256
[ethernet]
mac-address=00:50:56:AA:00:03
-- etc/netplan/50.yaml --
network:
  ethernets:
    lan:
      match: {macaddress: "00:50:56:aa:00:04"}
      set-name: ens161
    ens193: {dhcp4: true}
-- etc/systemd/network/x.link --
[Match]
MACAddress=00:50:56:aa:00:06
[Link]
Name=lan6
-- var/lib/dhcp/dhclient.ens225.leases --
lease {
  interface "ens225";
  fixed-address 10.0.0.7;
  option dhcp-client-identifier 1:0:50:56:aa:0:7;
}
-- var/lib/NetworkManager/internal-01234567-89ab-cdef-0123-456789abcdef-ens257.lease --
ADDRESS=10.0.0.8
CLIENTID=0100:50:56:aa:00:08
HWADDR=00:50:56:aa:00:08
`
	var plan []guest.NIC
	for _, n := range "12345678" {
		plan = append(plan, guest.NIC{MAC: "00:50:56:AA:00:0" + string(n)})
	}
	plan[4].MAC = "" // left to inspection: the name without an address, which is given one
	got := look(t, tree, guest.Facts{NICs: plan})
	var names []string
	for _, n := range got.NICs {
		names = append(names, n.MAC+" "+n.Name)
	}
	want := []string{"00:50:56:aa:00:01 eth0", "00:50:56:aa:00:02 ens224", "00:50:56:aa:00:03 ens256", "00:50:56:aa:00:04 ens161",
		"52:54:00:c1:23:52 ens193", "00:50:56:aa:00:06 lan6", "00:50:56:aa:00:07 ens225", "00:50:56:aa:00:08 ens257"}
	if diff := cmp.Diff(want, names); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]string{"ifcfg", "networkmanager", "netplan"}, got.Network); diff != "" {
		t.Error(diff)
	}
}

func TestOldSystems(t *testing.T) {
	for want, tree := range map[string]string{
		"centos 6.10 sysv":     "-- etc/redhat-release --\nCentOS release 6.10 (Final)\n-- etc/inittab --\n",
		"rhel 5.11 upstart":    "-- etc/redhat-release --\nRed Hat Enterprise Linux Server release 5.11 (Tikanga)\n-- sbin/initctl --\n-- etc/init/rc.conf --\n",
		"sles 11.4 ":           "-- etc/SuSE-release --\nSUSE Linux Enterprise Server 11 (x86_64)\nVERSION = 11\nPATCHLEVEL = 4\n",
		"alpine 3.19.1 openrc": "-- etc/alpine-release --\n3.19.1\n-- sbin/openrc --\n",
		"debian 7.11 ":         "-- etc/debian_version --\n7.11\n",
		"ubuntu 10.04 ":        "-- etc/lsb-release --\nDISTRIB_ID=Ubuntu\nDISTRIB_RELEASE=10.04\n",
		"  ":                   "-- etc/fstab --\n",
	} {
		got := look(t, tree, guest.Facts{})
		if line := got.OS.ID + " " + got.OS.Version + " " + got.Init; line != want {
			t.Errorf("got %q, want %q", line, want)
		}
	}
}

func TestGenerators(t *testing.T) {
	const both = "-- usr/sbin/mkinitramfs --\n-- usr/bin/dracut --\n-- usr/sbin/update-initramfs --\nmkinitramfs -o x\n"
	for want, tree := range map[string]string{
		"initramfs-tools": both + "-- var/lib/dpkg/status --\nPackage: initramfs-tools\nStatus: install ok installed\n\nPackage: dracut\nStatus: deinstall ok config-files\n\n",
		"dracut":          both + "-- var/lib/dpkg/status --\nPackage: dracut\nStatus: install ok installed\nVersion: 1\n\nPackage: initramfs-tools\nStatus: deinstall ok config-files\n\n",
		"mkinitcpio":      "-- usr/bin/mkinitcpio --\n",
		"mkinitrd":        "-- sbin/mkinitrd --\n",
		"":                "-- etc/fstab --\n",
	} {
		if got := look(t, tree, guest.Facts{}); got.Initramfs != want {
			t.Errorf("got %q, want %q", got.Initramfs, want)
		}
	}
}

func TestDefaultKernel(t *testing.T) {
	const kernels = "-- boot/vmlinuz-5.14.0-70.el9.x86_64 --\n-- lib/modules/5.14.0-70.el9.x86_64/x --\n-- boot/vmlinuz-5.14.0-427.el9.x86_64 --\n-- lib/modules/5.14.0-427.el9.x86_64/x --\n"
	for name, test := range map[string]struct{ tree, want string }{
		"newest": {"", "5.14.0-427.el9.x86_64"},
		"saved":  {"-- boot/loader/entries/0123-5.14.0-70.el9.x86_64.conf --\nlinux /vmlinuz-5.14.0-70.el9.x86_64\n-- boot/grub2/grubenv --\nsaved_entry=0123-5.14.0-70.el9.x86_64\n", "5.14.0-70.el9.x86_64"},
		"first":  {"-- boot/grub2/grub.cfg --\nlinux16 /vmlinuz-5.14.0-70.el9.x86_64 ro\nlinux16 /vmlinuz-5.14.0-427.el9.x86_64 ro\n", "5.14.0-70.el9.x86_64"},
		"legacy": {"-- boot/grub/menu.lst --\ndefault=1\ntitle a\n kernel /vmlinuz-5.14.0-427.el9.x86_64\ntitle b\n kernel /vmlinuz-5.14.0-70.el9.x86_64\n", "5.14.0-70.el9.x86_64"},
	} {
		got := look(t, kernels+test.tree, guest.Facts{})
		if len(got.Kernels) != 2 || got.Kernels[0].Version != "5.14.0-427.el9.x86_64" {
			t.Fatalf("%s: kernels %+v", name, got.Kernels)
		}
		for _, k := range got.Kernels {
			if k.Default != (k.Version == test.want) {
				t.Errorf("%s: %s default %v", name, k.Version, k.Default)
			}
		}
	}
}

func TestFlavours(t *testing.T) {
	arch := look(t, "-- boot/vmlinuz-linux --\n-- boot/initramfs-linux.img --\n-- boot/initramfs-linux-fallback.img --\n-- lib/modules/6.9.1-arch1-1/pkgbase --\nlinux\n", guest.Facts{})
	alpine := look(t, "-- boot/vmlinuz-lts --\n-- boot/initramfs-lts --\n-- lib/modules/6.6.4-0-lts/x --\n", guest.Facts{})
	for _, k := range append(arch.Kernels, alpine.Kernels...) {
		t.Log(k)
	}
	if len(arch.Kernels) != 1 || arch.Kernels[0].Version != "6.9.1-arch1-1" || arch.Kernels[0].Initramfs != "boot/initramfs-linux.img" {
		t.Errorf("Arch: %+v", arch.Kernels)
	}
	if len(alpine.Kernels) != 1 || alpine.Kernels[0].Initramfs != "boot/initramfs-lts" {
		t.Errorf("Alpine: %+v", alpine.Kernels)
	}
}

func TestVersions(t *testing.T) {
	ordered := []string{"2.6.18-308.el5", "2.6.18-308.el5xen", "5.4.0-9-generic", "5.4.0-150-generic", "6.1-rc1", "6.1.0-9-amd64", "6.1.0-25-amd64", "6.12.38+deb13-amd64"}
	for i := range ordered {
		for j := range ordered {
			if got := inspect.CompareVersions(ordered[i], ordered[j]); (got < 0) != (i < j) || (got == 0) != (i == j) {
				t.Errorf("%s against %s gives %d", ordered[i], ordered[j], got)
			}
		}
	}
}

func TestFstab(t *testing.T) {
	got := inspect.Fstab([]byte("# c\n/dev/sda1 / ext4 errors=remount-ro,subvol=@ 0 1\n\nLABEL=a\\040b /mnt/my\\040disk\nshort\n"))
	want := []guest.FstabEntry{
		{Spec: "/dev/sda1", Point: "/", Type: "ext4", Options: []string{"errors=remount-ro", "subvol=@"}},
		{Spec: "LABEL=a b", Point: "/mnt/my disk", Type: "auto", Options: []string{"defaults"}},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if v, ok := got[0].Option("subvol"); v != "@" || !ok {
		t.Errorf("subvol is %q, %v", v, ok)
	}
}

func TestIsRoot(t *testing.T) {
	for name, test := range map[string]struct {
		tree string
		want bool
	}{
		"system":        {"-- bin/sh --\n-- etc/fstab --\n", true},
		"usr apart":     {"-- bin link=usr/bin --\n-- etc/os-release link=../usr/lib/os-release --\n-- etc/passwd --\n", true},
		"boot":          {"-- grub/grub.cfg --\n-- vmlinuz-6.1 --\n", false},
		"home":          {"-- user/etc/fstab --\n-- user/bin/x --\n", false},
		"usr":           {"-- bin/sh --\n-- lib/os-release --\n", false},
		"etc by chance": {"-- etc/fstab --\n", false},
	} {
		if got := inspect.IsRoot(guesttest.New(t, test.tree)); got != test.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}

// TestHostile gives inspection what a guest can put in the place of its files.
func TestHostile(t *testing.T) {
	tree := guesttest.New(t, `
-- etc/os-release link=os-release --
-- etc/hostname/ --
-- boot/grub/grub.cfg link=/../../../boot/grub/grub.cfg --
-- boot/vmlinuz-1 link=vmlinuz-1 --
-- lib/modules/1/x --
-- sbin/init link=init --
-- etc/netplan/a.yaml --
a: &a [x, x, x]
b: [*a, *c]
`)
	tree.Put("etc/network/interfaces", make([]byte, 5<<20))
	got := inspect.Inspect(tree, guest.Facts{})
	if len(got.Kernels) != 0 || got.OS.Family != "unknown" {
		t.Errorf("facts %+v", got)
	}
	if text := strings.Join(got.Warnings, "\n"); !strings.Contains(text, "too large") || !strings.Contains(text, "etc/os-release") || !strings.Contains(text, "a.yaml") {
		t.Errorf("warnings:\n%s", text)
	}
}

func FuzzConfigs(f *testing.F) {
	f.Add("etc/fstab", "UUID=a\\04 / x")
	f.Add("etc/netplan/a.yaml", "network: {ethernets: {a: {match: {}}}}")
	f.Add("etc/systemd/network/a.network", "=\n[Match]\nMACAddress=")
	f.Add("boot/grub/grub.cfg", "linux\nlinux x")
	f.Add("etc/sysconfig/network-scripts/ifcfg-x", "DEVICE='\n")
	f.Add("var/lib/dhcp/leases", "interface \"\"")
	f.Add("boot/grub/menu.lst", "default 1\ntitle a\nkernel (hd0,0)/vmlinuz-1")
	f.Add("boot/extlinux.conf", "LABEL a\nLINUX ../vmlinuz-1")
	f.Add("boot/loader/entries/a.conf", "linux /vmlinuz-1")
	f.Add("lib/modules/1/modules.dep", "a.ko:")
	f.Add("lib64/libc.so.6", "\x7fELF\x02\x01")
	f.Fuzz(func(t *testing.T, name, content string) {
		tree := guesttest.New(t, "-- boot/vmlinuz-1 --\n-- lib/modules/1/x --\n")
		if strings.ContainsAny(name, "\x00") || len(name) > 100 {
			return
		}
		if err := tree.Write("boot/config-1", strings.NewReader(content), guest.Attr{Mode: 0o644}); err != nil {
			t.Fatal(err)
		}
		for _, known := range []string{"etc/fstab", "etc/netplan/a.yaml", "etc/systemd/network/a.network", "boot/grub/grub.cfg", "etc/sysconfig/network-scripts/ifcfg-x", "var/lib/dhcp/leases",
			"boot/grub/menu.lst", "boot/extlinux.conf", "boot/loader/entries/a.conf", "boot/efi/EFI/Linux/a.efi", "lib/modules/1/modules.dep", "lib64/libc.so.6"} {
			if known == name {
				tree.Put(name, []byte(content))
			}
		}
		got := inspect.Inspect(tree, guest.Facts{})
		if len(got.Kernels) != 1 || !got.Kernels[0].Default {
			t.Errorf("one file hides the kernel: %+v", got.Kernels)
		}
		for _, e := range inspect.Fstab([]byte(content)) {
			if e.Point == "" && e.Spec == "" {
				t.Errorf("empty entry of %q", content)
			}
		}
	})
}
