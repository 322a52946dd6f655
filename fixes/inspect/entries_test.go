package inspect_test

import (
	"slices"
	"testing"

	"hyper2kvm/fixes/guest"
)

// The copies that kernel-install puts on the ESP are what systemd-boot starts:
// repairing the initramfs in /boot alone would leave the guest dead.
func TestKernelsThatEntriesStartFromTheESP(t *testing.T) {
	const tree = `
-- usr/lib/modules/6.12.1-amd64/modules.dep --
-- lib link=usr/lib --
-- boot/vmlinuz-6.12.1-amd64 --
-- boot/initrd.img-6.12.1-amd64 --
-- boot/efi/EFI/systemd/systemd-bootx64.efi --
-- boot/efi/token/6.12.1-amd64/linux --
-- boot/efi/token/6.12.1-amd64/microcode --
-- boot/efi/token/6.12.1-amd64/initrd.img-6.12.1-amd64 --
-- boot/efi/loader/entries/token-6.12.1-amd64.conf --
title   Debian
version 6.12.1-amd64
options root=/dev/sda2
linux   /token/6.12.1-amd64/linux
initrd  /token/6.12.1-amd64/microcode
initrd  /token/6.12.1-amd64/initrd.img-6.12.1-amd64
-- boot/efi/loader/entries/gone.conf --
version 6.12.0-amd64
linux   /token/6.12.0-amd64/linux
-- boot/efi/loader/entries/outside.conf --
version 6.12.1-amd64
linux   /../vmlinuz-6.12.1-amd64
`
	given := guest.Facts{Mounts: []guest.Mount{{Point: "/"}, {Point: "/boot/efi", Type: "vfat"}}}
	got := look(t, tree, given).Kernels
	const folder = "boot/efi/token/6.12.1-amd64/"
	for _, want := range []guest.Kernel{
		{Image: "boot/vmlinuz-6.12.1-amd64", Initramfs: "boot/initrd.img-6.12.1-amd64"},
		{Image: folder + "linux", Initramfs: folder + "initrd.img-6.12.1-amd64"},
	} {
		if !slices.ContainsFunc(got, func(k guest.Kernel) bool {
			return k.Image == want.Image && k.Initramfs == want.Initramfs && k.Version == "6.12.1-amd64" && k.Modules == "usr/lib/modules/6.12.1-amd64"
		}) {
			t.Errorf("%s with %s is not among %+v", want.Image, want.Initramfs, got)
		}
	}
	if len(got) != 2 {
		t.Errorf("%d kernels, want two: %+v", len(got), got)
	}
}
