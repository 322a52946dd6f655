package linux

import (
	"errors"
	"strings"
	"testing"

	"hyper2kvm/fixes"
	"hyper2kvm/fixes/guest"
	"hyper2kvm/fixes/guest/guesttest"
	"hyper2kvm/fixes/inspect"
)

// FuzzLoaders puts hostile bytes where a boot loader's configuration is, and
// holds that the guest is repaired or refused, that a second run finds nothing
// to do, and that the kernel that runs on KVM is the default then.
func FuzzLoaders(f *testing.F) {
	f.Add("set default=\"0\"\nmenuentry a {\nlinux /vmlinuz-2 root=/dev/sda1\n}\nmenuentry b {\nlinux /vmlinuz-1\n}\n", uint8(0))
	f.Add("default 0\ntitle a\nkernel /xen.gz\nmodule /vmlinuz-2 ro\nmodule /i\n", uint8(1))
	f.Add("default a\nlabel a\nlinux vmlinuz-2\nlabel b\nlinux vmlinuz-1\nappend modules=x\n", uint8(2))
	f.Add("default *\n", uint8(3))
	f.Add("linux /vmlinuz-2\noptions root=/dev/sda1", uint8(4))
	f.Add("photon_linux=vmlinuz-1\nphoton_cmdline=a", uint8(5))
	f.Add("GRUB_DEFAULT=0", uint8(6))
	f.Add("label 0\nlabel 0\nlinux vmlinuz-1", uint8(2))
	f.Add("uki\n.linux x\n.cmdline root=/dev/sda1\n.initrd a", uint8(7))
	names := []string{"boot/grub/grub.cfg", "boot/grub/menu.lst", "boot/extlinux.conf", "efi/loader/loader.conf", "efi/loader/entries/a.conf",
		"boot/linux.cfg", "etc/default/grub", "efi/EFI/Linux/a.efi", "boot/grub/grubenv", "boot/grub/default"}
	f.Fuzz(func(t *testing.T, content string, at uint8) {
		tree := guesttest.New(t, twoKernels+"-- etc/os-release --\nID=debian\n")
		name := names[int(at&0x7f)%len(names)]
		tree.Put(name, []byte(content))
		if strings.HasPrefix(content, "uki\n") {
			tree.Put(name, unifiedProgram(t, strings.TrimPrefix(content, "uki")))
		}
		given := guest.Facts{Firmware: "bios", TargetBus: "virtio", Arch: "x86_64"}
		if at&0x80 != 0 || strings.HasPrefix(name, "efi") {
			given.Firmware, given.Mounts = "uefi", []guest.Mount{{Point: "/"}, {Point: "/efi", Type: "vfat", Free: 1 << 30}}
			tree.Put("efi/EFI/systemd/systemd-bootx64.efi", []byte("MZ"))
		}
		facts := inspect.Inspect(tree, given)
		facts.Arch = "x86_64"
		g := &guest.Guest{FS: tree, Facts: facts}
		planned, err := fixes.Plan(t.Context(), g, All(Options{}, nil), fixes.Selection{})
		if _, refused := errors.AsType[*fixes.FatalError](err); refused {
			return
		}
		if err == nil {
			err = planned.Failures()
		}
		if err == nil {
			err = fixes.Apply(t.Context(), g, planned, nil)
		}
		if err != nil {
			t.Fatal(err)
		}
		now := inspect.Inspect(tree, given)
		now.Arch = "x86_64"
		if k := now.DefaultKernel(); k == nil || k.Unfit != "" {
			t.Fatalf("the default kernel is %+v of %+v after the repair of %q", k, now.Loader, content)
		}
		again, err := fixes.Plan(t.Context(), &guest.Guest{FS: tree, Facts: now}, All(Options{}, nil), fixes.Selection{})
		if err != nil || again.Pending() {
			t.Fatalf("a second run: %v, %+v", err, again)
		}
	})
}
