package linux

import (
	"errors"
	"io/fs"
	"strings"
	"testing"

	"hyper2kvm/fixes"
	"hyper2kvm/fixes/bootmenu"
	"hyper2kvm/fixes/guest"
	"hyper2kvm/fixes/guest/guesttest"
	"hyper2kvm/fixes/inspect"
)

// TestRefusedKernels has guests without a kernel for KVM: nothing is planned,
// and it is said which package to install, in the words of the distribution.
func TestRefusedKernels(t *testing.T) {
	for name, test := range map[string]struct{ release, arch, want string }{
		"RHEL 5":      {"ID=rhel\nID_LIKE=fedora\nVERSION_ID=5.11", "x86_64", "install the package kernel (that of RHEL 4.8, 5.3 or newer has virtio drivers) on the source"},
		"RHEL 5 PAE":  {"ID=centos\nID_LIKE=\"rhel fedora\"\nVERSION_ID=5", "i686", "kernel-PAE"},
		"SLES 11":     {"ID=sles\nVERSION_ID=11.4", "x86_64", "the package kernel-default"},
		"SLES 11 PAE": {"ID=sles\nVERSION_ID=11.4", "i686", "kernel-pae"},
		"Debian":      {"ID=debian\nVERSION_ID=12", "x86_64", "linux-image-amd64"},
		"Debian 32":   {"ID=debian\nVERSION_ID=7", "i686", "linux-image-686-pae"},
		"Ubuntu":      {"ID=ubuntu\nID_LIKE=debian\nVERSION_ID=20.04", "x86_64", "linux-image-generic"},
		"Photon":      {"ID=photon\nVERSION_ID=5.0", "x86_64", "tdnf install linux"},
		"Amazon":      {"ID=amzn\nID_LIKE=\"rhel fedora\"\nVERSION_ID=2018.03", "x86_64", "HVM"},
		"Alpine":      {"ID=alpine\nVERSION_ID=3.20", "x86_64", "linux-virt"},
		"Arch":        {"ID=arch", "x86_64", "the package linux"},
		"unknown":     {"ID=own", "x86_64", "CONFIG_VIRTIO_BLK"},
	} {
		facts := &guest.Facts{Arch: test.arch, Firmware: "bios", Kernels: []guest.Kernel{
			{Version: "2.6.18-xen", Default: true, Support: guest.Support{Unfit: "it runs under Xen only"}},
			{Version: "4.4-own", Support: guest.Support{Unfit: "it has no virtio driver for disks"}},
		}}
		g := guesttest.NewGuest(t, "-- etc/os-release --\n"+test.release+"\n", facts)
		facts.OS = inspect.Identify(g.FS)
		planned, err := fixes.Plan(t.Context(), g, All(Options{}, nil), fixes.Selection{})
		refusal, ok := errors.AsType[*KernelError](err)
		if !ok || !strings.Contains(refusal.Error(), test.want) || !strings.Contains(refusal.Error(), "2.6.18-xen: it runs under Xen only; 4.4-own: ") {
			t.Errorf("%s: %v", name, err)
		}
		if planned.Pending() && !errors.As(err, new(*fixes.FatalError)) {
			t.Errorf("%s: something would be changed all the same", name)
		}
		if _, err := fixes.Plan(t.Context(), g, All(Options{}, nil), fixes.Selection{Skip: []string{"linux/kernel"}}); err != nil {
			t.Errorf("%s: skipped: %v", name, err)
		}
	}
}

const twoKernels = `
-- boot/vmlinuz-1 --
-- boot/vmlinuz-2 --
-- lib/modules/1/modules.dep --
k/virtio_pci.ko:
k/virtio_blk.ko:
-- lib/modules/2/modules.dep --
k/sd_mod.ko:
`

// menuGuest is a guest whose kernel 1 runs on KVM and whose kernel 2 does not.
func menuGuest(t *testing.T, tree string, esp string) *guest.Guest {
	t.Helper()
	files := guesttest.New(t, twoKernels+tree)
	addPrograms(t, files)
	given := guest.Facts{Firmware: "bios"}
	if esp != "" {
		given.Firmware = "uefi"
		given.Mounts = []guest.Mount{{Point: "/"}, {Point: "/" + esp, Type: "vfat"}}
	}
	files.Put("etc/os-release", []byte("ID=debian\n"))
	return &guest.Guest{FS: files, Facts: inspect.Inspect(files, given)}
}

func TestDefaultIsChanged(t *testing.T) {
	entries := "menuentry 'two' {\n\tlinux /boot/vmlinuz-2 ro\n}\nmenuentry 'one' --id first {\n\tlinux /boot/vmlinuz-1 ro\n}\n"
	block := bootmenu.EnvHeader + "saved_entry=two\n"
	block += strings.Repeat("#", bootmenu.EnvSize-len(block)-1)
	const bls = "-- boot/loader/entries/a-1.conf --\nlinux /vmlinuz-1\n-- boot/loader/entries/a-2.conf --\nlinux /vmlinuz-2\n"
	for name, test := range map[string]struct{ tree, esp, file, want string }{
		"a number":                    {"-- boot/grub/grub.cfg --\nset default=\"0\"\n" + entries, "", "boot/grub/grub.cfg", "set default=\"first\"\n" + entries},
		"none named":                  {"-- boot/grub/grub.cfg --\n" + entries, "", "boot/grub/grub.cfg", "set default=\"first\"\n" + entries},
		"saved":                       {"-- boot/grub/grub.cfg --\nset default=\"${saved_entry}\"\n" + entries + "-- boot/grub/grubenv --\n" + block + "\n", "", "boot/grub/grubenv", "saved_entry=first\n"},
		"chosen for one boot":         {"-- boot/grub/grub.cfg --\nset default=\"0\"\n" + entries + "-- boot/grub/grubenv --\n" + strings.Replace(block, "saved_entry=two\n#", "next_entry=two\n##", 1) + "\n", "", "boot/grub/grubenv", "next_entry=\n"},
		"saved by title":              {"-- boot/grub/grub.cfg --\nset default=\"${saved_entry}\"\nmenuentry 'II' --id two {\n\tlinux /boot/vmlinuz-2 ro\n}\n" + entries[strings.Index(entries, "menuentry 'one'"):] + "-- boot/grub/grubenv --\n" + strings.Replace(block, "=two\n#", "=II\n##", 1) + "\n", "", "boot/grub/grubenv", "saved_entry=one\n"},
		"saved, without a block":      {"-- boot/grub/grub.cfg --\nset default=\"${saved_entry}\"\n" + entries, "", "boot/grub/grubenv", "saved_entry=first\n"},
		"systemd-boot":                {bls + "-- efi/EFI/systemd/systemd-bootx64.efi --\n", "efi", "efi/loader/loader.conf", "default a-1.conf\n"},
		"systemd-boot with a default": {bls + "-- efi/EFI/systemd/systemd-bootx64.efi --\n-- efi/loader/loader.conf --\ntimeout 3\ndefault a-2*\n", "efi", "efi/loader/loader.conf", "timeout 3\ndefault a-1.conf\n"},
		"extlinux with its includes": {"-- boot/extlinux/extlinux.conf --\ndefault l2\ninclude linux.cfg\n-- boot/extlinux/linux.cfg --\nlabel l2\nlinux ../vmlinuz-2\nlabel l1\nlinux ../vmlinuz-1\n", "",
			"boot/extlinux/extlinux.conf", "default l1\ninclude linux.cfg\n"},
		"GRUB legacy": {"-- boot/grub/menu.lst --\ntitle two\nkernel (hd0,0)/boot/vmlinuz-2\ntitle one\nkernel (hd0,0)/boot/vmlinuz-1\n", "",
			"boot/grub/menu.lst", "default=1\ntitle two\nkernel (hd0,0)/boot/vmlinuz-2\ntitle one\nkernel (hd0,0)/boot/vmlinuz-1\n"},
	} {
		t.Run(name, func(t *testing.T) {
			g := menuGuest(t, test.tree, test.esp)
			if k := g.Facts.DefaultKernel(); k == nil || k.Version != "2" {
				t.Fatalf("the default is %+v of %+v", k, g.Facts.Loader)
			}
			p, err := kernelChoice().Plan(t.Context(), g)
			if err != nil {
				t.Fatal(err)
			}
			tree := g.FS.(*guesttest.FS)
			applyTo(t, tree, p.Changes)
			data, err := fs.ReadFile(tree, test.file)
			if err != nil || !strings.Contains(string(data), test.want) {
				t.Errorf("%s is %q, %v", test.file, data, err)
			}
			if k := menuGuestAgain(g).DefaultKernel(); k == nil || k.Version != "1" {
				t.Errorf("the default is %+v then", k)
			}
			if again, _ := kernelChoice().Plan(t.Context(), g); len(again.Changes) > 0 {
				t.Errorf("changes again: %v", again.Changes)
			}
		})
	}
}

func menuGuestAgain(g *guest.Guest) *guest.Facts {
	return inspect.Inspect(g.FS, guest.Facts{Firmware: g.Facts.Firmware, Mounts: g.Facts.Mounts})
}

// TestNoWayToTheDefault has guests where the kernel that fits cannot be made the
// default: they are refused, for they would not boot.
func TestNoWayToTheDefault(t *testing.T) {
	for name, test := range map[string]struct{ tree, says string }{
		"no entry":          {"-- boot/grub/grub.cfg --\nmenuentry 'two' {\n\tlinux /boot/vmlinuz-2 ro\n}\n", "no boot entry starts it"},
		"no entry, legacy":  {"-- boot/grub/menu.lst --\ntitle two\nkernel /boot/vmlinuz-2\n", "has no entry for kernel 1"},
		"a damaged block":   {"-- boot/grub/grub.cfg --\nset default=\"${saved_entry}\"\nmenuentry 'two' {\n\tlinux /boot/vmlinuz-2 ro\n}\nmenuentry 'one' {\n\tlinux /boot/vmlinuz-1 ro\n}\n-- boot/grub/grubenv --\nx\n", "is damaged"},
		"a loader's secret": {"-- etc/lilo.conf --\n", "no boot entry starts it"},
	} {
		g := menuGuest(t, test.tree, "")
		_, err := kernelChoice().Plan(t.Context(), g)
		if _, ok := errors.AsType[*fixes.FatalError](err); !ok || !strings.Contains(err.Error(), test.says) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestEmulatedDisks(t *testing.T) {
	g := guesttest.NewGuest(t, "", &guest.Facts{OS: guest.OS{Family: "linux", ID: "rhel", Version: "4"}, Kernels: []guest.Kernel{
		{Version: "2.6.9", Default: true, Support: guest.Support{Buses: []string{"ide"}, Unfit: "it has no virtio driver for disks"}}}})
	p, err := kernelChoice().Plan(t.Context(), g)
	if notes := strings.Join(p.Notes, "\n"); err != nil || len(p.Changes) > 0 || !strings.Contains(notes, "attached to IDE") || !strings.Contains(notes, "install the package kernel") {
		t.Errorf("%v, %v, %v", p.Changes, p.Notes, err)
	}
}

func TestLoaderCheck(t *testing.T) {
	for name, test := range map[string]struct {
		facts guest.Facts
		tree  string
		says  string
	}{
		"no boot code":           {guest.Facts{Firmware: "bios", Arch: "x86_64", Disks: []guest.Disk{{BootCode: "none"}}, Loader: guest.BootLoader{Kind: "grub2"}}, "", "no disk has boot code"},
		"boot code of its own":   {guest.Facts{Firmware: "bios", Arch: "x86_64", Disks: []guest.Disk{{}}, Loader: guest.BootLoader{Kind: "grub2"}}, "", ""},
		"made for the other":     {guest.Facts{Firmware: "uefi", Loader: guest.BootLoader{Kind: "grub2", Menu: "boot/grub2/grub.cfg"}}, "-- boot/grub2/grub.cfg --\nmenuentry 'a' {\nlinux16 /v\n}\n", "with linux16"},
		"made for UEFI":          {guest.Facts{Firmware: "bios", Loader: guest.BootLoader{Kind: "grub2", Menu: "boot/grub2/grub.cfg"}}, "-- boot/grub2/grub.cfg --\nmenuentry 'a' {\nlinuxefi /v\n}\n", "with linuxefi"},
		"made for it":            {guest.Facts{Firmware: "uefi", Loader: guest.BootLoader{Kind: "grub2", Menu: "boot/grub2/grub.cfg"}}, "-- boot/grub2/grub.cfg --\nmenuentry 'a' {\nlinuxefi /v\n}\n", ""},
		"zipl":                   {guest.Facts{Loader: guest.BootLoader{Kind: "zipl"}}, "", "run it in the guest"},
		"nothing":                {guest.Facts{Loader: guest.BootLoader{Kind: "none"}}, "", "pygrub"},
		"a kernel that is gone":  {guest.Facts{Loader: guest.BootLoader{Kind: "grub2", Entries: []guest.BootEntry{{Name: "x", File: "f", Default: true}}}}, "", "starts no kernel that is there"},
		"Flatcar":                {guest.Facts{OS: guest.OS{ID: "flatcar"}, Loader: guest.BootLoader{Kind: "grub2"}}, "-- boot/flatcar/first_boot --\n", "Ignition configures the guest again"},
		"without its initramfs":  {guest.Facts{Loader: guest.BootLoader{Kind: "grub2", Entries: []guest.BootEntry{{Name: "x", Image: "v", Default: true}}}, Kernels: []guest.Kernel{{Image: "v", Initramfs: "i", Default: true}}}, "", "without its initramfs i"},
		"a paravirtualized disk": {guest.Facts{Firmware: "bios", Arch: "x86_64", Disks: []guest.Disk{{BootCode: "none"}}, Kernels: []guest.Kernel{{Image: "boot/v", Initramfs: "boot/i", Default: true}}, Loader: guest.BootLoader{Kind: "grub-legacy"}}, "", "a copy of boot/v; <initrd>, of boot/i"},
	} {
		test.facts.OS.Family = "linux"
		p, err := loaderCheck().Plan(t.Context(), guesttest.NewGuest(t, test.tree, &test.facts))
		notes := strings.Join(p.Notes, "\n")
		if err != nil || len(p.Changes) > 0 || !strings.Contains(notes, test.says) || test.says == "" && notes != "" {
			t.Errorf("%s: %q, %v", name, notes, err)
		}
	}
}
