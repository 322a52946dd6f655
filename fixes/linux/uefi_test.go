package linux

import (
	"strings"
	"testing"
	"unicode/utf16"

	"hyper2kvm/fixes"
	"hyper2kvm/fixes/guest"
	"hyper2kvm/fixes/guest/guesttest"
)

// TestFallbackOfShim has shims that would start nothing, or something else than
// grub.
func TestFallbackOfShim(t *testing.T) {
	const vendor = "-- efi/EFI/debian/shimx64.efi --\nshim\n-- efi/EFI/debian/grubx64.efi --\ngrub\n-- efi/EFI/debian/mmx64.efi --\nmm\n-- efi/EFI/debian/grub.cfg --\n"
	for name, test := range map[string]struct{ tree, want, says string }{
		"a whole vendor's folder": {vendor, "efi/EFI/BOOT/BOOTX64.EFI<efi/EFI/debian/shimx64.efi efi/EFI/BOOT/grubx64.efi<efi/EFI/debian/grubx64.efi efi/EFI/BOOT/mmx64.efi<efi/EFI/debian/mmx64.efi", "a copy of"},
		"no configuration in the folder that grub looks in": {strings.Replace(vendor, "-- efi/EFI/debian/grub.cfg --\n", "", 1),
			"efi/EFI/BOOT/BOOTX64.EFI<efi/EFI/debian/shimx64.efi efi/EFI/BOOT/grubx64.efi<efi/EFI/debian/grubx64.efi efi/EFI/BOOT/mmx64.efi<efi/EFI/debian/mmx64.efi", "grub.cfg is not there"},
		"a copy of shim without its grub": {vendor + "-- efi/EFI/BOOT/BOOTX64.EFI --\nshim\n",
			"efi/EFI/BOOT/grubx64.efi<efi/EFI/debian/grubx64.efi efi/EFI/BOOT/mmx64.efi<efi/EFI/debian/mmx64.efi", "is shim without the grubx64.efi"},
		"a copy of shim that is whole":          {vendor + "-- efi/EFI/BOOT/BOOTX64.EFI --\nshim\n-- efi/EFI/BOOT/grubx64.efi --\ngrub\n", "", ""},
		"another shim, by what it declares":     {vendor + "-- efi/EFI/BOOT/BOOTX64.EFI --\nuki\n.sbat sbat,1,SBAT\\nshim,4,UEFI shim\\n\n-- efi/EFI/BOOT/fbx64.efi --\n", "CSV", "the list of boot entries"},
		"another program":                       {vendor + "-- efi/EFI/BOOT/BOOTX64.EFI --\nother\n", "", ""},
		"shim's fallback program and its list":  {vendor + "-- efi/EFI/BOOT/BOOTX64.EFI --\nshim\n-- efi/EFI/BOOT/fbx64.efi --\n-- efi/EFI/debian/BOOTX64.CSV --\nx\n", "", ""},
		"shim's fallback program without lists": {vendor + "-- efi/EFI/BOOT/BOOTX64.EFI --\nshim\n-- efi/EFI/BOOT/fbx64.efi --\n", "CSV", "the list of boot entries"},
		"that, and no loader":                   {vendor + "-- efi/EFI/BOOT/fbx64.efi --\n", "CSV efi/EFI/BOOT/BOOTX64.EFI<efi/EFI/debian/shimx64.efi efi/EFI/BOOT/grubx64.efi<efi/EFI/debian/grubx64.efi efi/EFI/BOOT/mmx64.efi<efi/EFI/debian/mmx64.efi", "the list of boot entries"},
		"SUSE's names":                          {"-- efi/EFI/debian/shim.efi --\nshim\n-- efi/EFI/debian/grub.efi --\ngrub\n-- efi/EFI/debian/MokManager.efi --\nmm\n", "efi/EFI/BOOT/BOOTX64.EFI<efi/EFI/debian/shim.efi efi/EFI/BOOT/grub.efi<efi/EFI/debian/grub.efi efi/EFI/BOOT/MokManager.efi<efi/EFI/debian/MokManager.efi", ""},
	} {
		t.Run(name, func(t *testing.T) {
			g := guesttest.NewGuest(t, test.tree, &guest.Facts{OS: guest.OS{Family: "linux", ID: "debian"}, Arch: "x86_64", Firmware: "uefi",
				Loader: guest.BootLoader{Kind: "grub2", ESP: "efi"}})
			addPrograms(t, g.FS.(*guesttest.FS))
			p, err := fallbackLoader(Options{}).Plan(t.Context(), g)
			if err != nil {
				t.Fatal(err)
			}
			got := copies(p.Changes)
			for _, c := range p.Changes {
				if w, ok := c.(fixes.WriteFile); ok {
					got = strings.TrimSpace("CSV " + got)
					checkList(t, w)
				}
			}
			if got != test.want {
				t.Errorf("got  %s\nwant %s", got, test.want)
			}
			if notes := strings.Join(p.Notes, "\n"); !strings.Contains(notes, test.says) || test.says == "" && test.want == "" && notes != "" {
				t.Errorf("notes %q do not say %q", notes, test.says)
			}
		})
	}
}

// checkList reads a list of boot entries as shim's fallback program does.
func checkList(t *testing.T, w fixes.WriteFile) {
	t.Helper()
	var units []uint16
	for i := 0; i+1 < len(w.Content); i += 2 {
		units = append(units, uint16(w.Content[i])|uint16(w.Content[i+1])<<8)
	}
	if got := string(utf16.Decode(units)); w.Name != "efi/EFI/debian/BOOTX64.CSV" || got != "\ufeffshimx64.efi,debian,,This is the boot entry for debian\n" {
		t.Errorf("%s has %q", w.Name, got)
	}
}

// TestKernelAlone has guests whose firmware started the kernel by an entry that
// stayed behind.
func TestKernelAlone(t *testing.T) {
	for name, test := range map[string]struct{ tree, want, says string }{
		"arguments in a file": {"-- etc/kernel/cmdline --\nroot=UUID=1 rw\n", "\\vmlinuz-linux root=UUID=1 rw initrd=\\initramfs-linux.img\r\n", "the firmware's shell starts"},
		"nowhere":             {"", "", "stayed in the old machine's NVRAM"},
		"there already":       {"-- etc/kernel/cmdline --\nroot=UUID=1\n-- boot/startup.nsh --\nmine\n", "", ""},
	} {
		tree := guesttest.New(t, test.tree+"-- boot/EFI/x/ --\n-- boot/initramfs-linux.img --\n")
		tree.Put("boot/vmlinuz-linux", unifiedProgram(t, "\n.text code"))
		g := &guest.Guest{FS: tree, Facts: &guest.Facts{OS: guest.OS{Family: "linux", ID: "arch"}, Arch: "x86_64", Firmware: "uefi",
			Loader:  guest.BootLoader{Kind: "none", ESP: "boot"},
			Kernels: []guest.Kernel{{Version: "6.9", Image: "boot/vmlinuz-linux", Initramfs: "boot/initramfs-linux.img", Modules: "lib/modules/6.9", Default: true}}}}
		p, err := fallbackLoader(Options{}).Plan(t.Context(), g)
		if err != nil {
			t.Fatal(err)
		}
		got := ""
		for _, c := range p.Changes {
			if w, ok := c.(fixes.WriteFile); ok && w.Name == "boot/startup.nsh" {
				got = string(w.Content)
			}
		}
		if notes := strings.Join(p.Notes, "\n"); got != test.want || !strings.Contains(notes, test.says) {
			t.Errorf("%s: %q, notes %q", name, got, notes)
		}
	}
}

func TestKernelWithArgumentsBuiltIn(t *testing.T) {
	tree := guesttest.New(t, "-- boot/EFI/x/ --\n-- boot/config-6.9 --\nA=y\nCONFIG_CMDLINE=\"root=PARTUUID=1\"\n")
	tree.Put("boot/vmlinuz", unifiedProgram(t, "\n.text code"))
	g := &guest.Guest{FS: tree, Facts: &guest.Facts{OS: guest.OS{Family: "linux", ID: "gentoo"}, Arch: "x86_64", Firmware: "uefi",
		Loader: guest.BootLoader{ESP: "boot"}, Kernels: []guest.Kernel{{Version: "6.9", Image: "boot/vmlinuz", Modules: "lib/modules/6.9", Default: true}}}}
	p, err := fallbackLoader(Options{}).Plan(t.Context(), g)
	if err != nil || copies(p.Changes) != "boot/EFI/BOOT/BOOTX64.EFI<boot/vmlinuz" {
		t.Errorf("%q, %v", copies(p.Changes), err)
	}
}
