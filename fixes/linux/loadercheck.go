package linux

import (
	"path"
	"slices"
	"strings"

	"hyper2kvm/fixes/bootmenu"
	"hyper2kvm/fixes/guest"
)

// loaderCheck looks whether the new machine's firmware will get as far as the
// kernel, and says what to do where it will not and no edit of a file helps. It
// changes nothing.
func loaderCheck() fix {
	return fix{
		id:  "linux/loader-check",
		why: "A boot loader that is not there, is made for the other firmware or has lost its kernel stops the boot before the guest's system has a say.",
		plan: func(p *planner) error {
			checkBIOS(p)
			checkCommands(p)
			checkKind(p)
			checkDefaultEntry(p)
			checkFlatcar(p)
			return nil
		},
	}
}

// checkBIOS misses the code in the first sector that a BIOS starts. Guests that
// were paravirtualized under Xen never needed any: pygrub and pv-grub read their
// menu from outside.
func checkBIOS(p *planner) {
	if p.facts.Firmware != "bios" || !isX86(p.facts.Arch) && p.facts.Arch != "x86_64" || len(p.facts.Disks) == 0 {
		return
	}
	if slices.ContainsFunc(p.facts.Disks, func(d guest.Disk) bool { return d.BootCode != "none" }) {
		return
	}
	p.note("no disk has boot code in its first sector, so a BIOS starts nothing: either let libvirt start the kernel itself (%s), or install GRUB from a rescue system (grub-install on the disk)",
		directBoot(p))
}

// directBoot is what libvirt needs to start a kernel without a loader
// (https://libvirt.org/formatdomain.html#direct-kernel-boot).
func directBoot(p *planner) string {
	k := p.facts.KVMKernel()
	if k == nil {
		return "<kernel>, <initrd>, <cmdline>"
	}
	text := "<kernel>, a copy of " + k.Image
	if k.Initramfs != "" {
		text += "; <initrd>, of " + k.Initramfs
	}
	return text + "; <cmdline>, as its boot entry has it"
}

// checkCommands finds a menu that was made for the other firmware: linux16 is
// there in a GRUB for BIOS only, linuxefi in one for UEFI.
func checkCommands(p *planner) {
	menu := p.facts.Loader.Menu
	if p.facts.Loader.Kind != "grub2" || menu == "" {
		return
	}
	wrong, program := "linux16", "grub2-mkconfig -o /"+menu+" on a system that was started by UEFI"
	if p.facts.Firmware == "bios" {
		wrong, program = "linuxefi", "grub2-mkconfig -o /"+menu+" on a system that was started by a BIOS"
	}
	data, _ := p.read(menu)
	if commands := bootmenu.ParseGrub(data).Commands; len(commands) > 0 && !slices.ContainsFunc(commands, func(c string) bool { return c != wrong }) {
		p.note("%s loads its kernels with %s, which a GRUB for %s does not have: is the firmware the one that the guest had? Else %s writes it anew",
			menu, wrong, strings.ToUpper(p.facts.Firmware), program)
	}
}

// checkKind speaks of loaders that keep what they need in places that no edit
// reaches.
func checkKind(p *planner) {
	switch p.facts.Loader.Kind {
	case "lilo":
		p.note("etc/lilo.conf: LILO keeps a list of blocks and the root in its map file, which only lilo itself writes. The blocks stay where they are and the boot works; " +
			"a root named by disk (root=/dev/sda1) does not: at LILO's prompt give root= by hand once, then edit etc/lilo.conf and run lilo")
	case "zipl":
		p.note("etc/zipl.conf: zipl keeps a list of blocks and the arguments in its map file, which only zipl itself writes: run it in the guest after the move")
	case "none":
		if len(p.facts.Loader.Entries) == 0 {
			p.note("no configuration of a boot loader was found: the guest may have been started from outside (pygrub, pv-grub, direct kernel boot): %s", directBoot(p))
		}
	}
}

// checkDefaultEntry holds that the default entry leads to files that are there.
func checkDefaultEntry(p *planner) {
	e := p.defaultEntry()
	if e == nil || strings.EqualFold(path.Ext(e.File), ".efi") {
		return
	}
	k := p.facts.DefaultKernel()
	switch {
	case e.Image == "":
		p.note("the default boot entry %q (%s) starts no kernel that is there", e.Name, e.File)
	case e.Initramfs == "" && k != nil && k.Initramfs != "" && k.Image == e.Image && !e.Xen:
		p.note("the default boot entry %q (%s) starts %s without its initramfs %s", e.Name, e.File, e.Image, k.Initramfs)
	}
}

// checkFlatcar speaks of Flatcar and CoreOS, whose kernel and /usr are images
// that take turns: nothing in them is to be edited.
func checkFlatcar(p *planner) {
	if p.facts.OS.ID != "flatcar" && p.facts.OS.ID != "coreos" {
		return
	}
	p.note("the kernel has virtio built in and is left as it is. The platform that Ignition and the metadata agent ask is in the partition OEM: in its grub.cfg set oem_id=\"qemu\" for KVM")
	for _, name := range []string{"flatcar/first_boot", "coreos/first_boot"} {
		for _, base := range []string{"boot", p.facts.Loader.ESP} {
			if file := path.Join(base, name); base != "" && p.exists(file) {
				p.note("%s is there: the next boot is taken for the first, and Ignition configures the guest again; remove it if that is not wanted", file)
			}
		}
	}
}
