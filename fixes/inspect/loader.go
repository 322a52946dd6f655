package inspect

import (
	"path"
	"slices"
	"strings"

	"hyper2kvm/fixes/guest"
)

// GPT types (UEFI specification 2.10 table 5.7; GRUB manual, "BIOS installation").
const (
	typeESP  = "c12a7328-f81f-11d2-ba4b-00a0c93ec93b"
	typeBIOS = "21686148-6449-6e6f-744e-656564454649"
	mbrESP   = "0xef"
)

func (f *finder) loader() {
	l := &f.facts.Loader
	l.ESP = f.esp()
	if l.ESP != "" {
		l.Loaders = f.efiPrograms(l.ESP)
	}
	l.Configs = f.configs()
	l.Kind = f.loaderKind()
	f.twinSystem()
}

// twinSystem tells of Flatcar and CoreOS by their partitions: two images of /usr
// that take turns, and one for the platform.
func (f *finder) twinSystem() {
	labels := map[string]bool{}
	for _, d := range f.facts.Disks {
		for _, p := range d.Partitions {
			labels[p.Label] = true
		}
	}
	if labels["USR-A"] && labels["USR-B"] {
		f.warn("the disk is one of Flatcar or CoreOS: its kernel has virtio built in, and nothing of it has to be repaired. " +
			"Convert it as it is, and set oem_id=\"qemu\" in the grub.cfg of the partition OEM")
	}
}

// esp finds where the EFI system partition is mounted: by the type of its
// partition, or by the folder EFI on one of the usual places.
func (f *finder) esp() string {
	for _, m := range f.facts.Mounts {
		point := strings.Trim(m.Point, "/")
		if point != "" && m.Type == "vfat" && (f.isESP(m) || f.folder(point, "EFI") != "") {
			return point
		}
	}
	return ""
}

func (f *finder) isESP(m guest.Mount) bool {
	for _, s := range f.facts.Filesystems {
		if s.Device != m.Device || s.Device == "" {
			continue
		}
		t := f.partitionType(s)
		return t == typeESP || t == mbrESP
	}
	return false
}

func (f *finder) partitionType(s guest.Filesystem) string {
	for _, d := range f.facts.Disks {
		for _, p := range d.Partitions {
			if d.Index == s.Disk && p.Number == s.Partition {
				return p.Type
			}
		}
	}
	return ""
}

// folder finds a folder whatever the case of its name: FAT has none.
func (f *finder) folder(dir, name string) string {
	for _, e := range f.list(dir, "") {
		if strings.EqualFold(path.Base(e), name) && f.isDir(e) {
			return e
		}
	}
	return ""
}

// efiPrograms lists what the firmware could start, relative to the ESP.
func (f *finder) efiPrograms(esp string) []string {
	var out []string
	efi := f.folder(esp, "EFI")
	if efi == "" {
		return nil
	}
	for _, vendor := range f.list(efi, "") {
		for _, name := range f.list(vendor, "") {
			if strings.EqualFold(path.Ext(name), ".efi") {
				out = append(out, strings.TrimPrefix(name, esp+"/"))
			}
		}
	}
	return out
}

// configs lists the files that hold kernel command lines, each once however
// many links lead to it.
func (f *finder) configs() []string {
	names := []string{
		"boot/grub2/grub.cfg", "boot/grub/grub.cfg", "boot/grub/custom.cfg", "boot/grub2/custom.cfg",
		"boot/grub/menu.lst", "boot/grub/grub.conf", "boot/grub2/grubenv", "boot/grub/grubenv",
		"boot/extlinux.conf", "boot/extlinux/extlinux.conf", "boot/syslinux/syslinux.cfg",
		"boot/photon.cfg", "etc/lilo.conf", "etc/zipl.conf",
		"etc/default/grub", "etc/kernel/cmdline", "etc/update-extlinux.conf",
	}
	names = append(names, f.list("boot/loader/entries", ".conf")...)
	names = append(names, f.list("etc/default/grub.d", ".cfg")...)
	if esp := f.facts.Loader.ESP; esp != "" {
		names = append(names, f.list(esp+"/loader/entries", ".conf")...)
		if efi := f.folder(esp, "EFI"); efi != "" {
			for _, vendor := range f.list(efi, "") {
				names = append(names, vendor+"/grub.cfg", vendor+"/grub.conf", vendor+"/grubenv")
			}
		}
	}
	var out []string
	seen := map[string]bool{}
	for _, name := range names {
		real, err := guest.Resolve(f.tree, name)
		if err != nil || seen[real] {
			continue
		}
		if info, err := f.tree.Stat(name); err != nil || !info.Mode().IsRegular() {
			continue
		}
		seen[real] = true
		out = append(out, name)
	}
	return out
}

// loaderKind tells which loader starts the kernel. A systemd-boot counts only
// where no GRUB lies beside it: its package brings the file without using it.
// SUSE calls it grub.efi in its own folder, since that is what its shim starts.
func (f *finder) loaderKind() string {
	has := func(names ...string) bool {
		return slices.ContainsFunc(f.facts.Loader.Configs, func(c string) bool {
			return slices.Contains(names, path.Base(c)) && !strings.HasPrefix(c, "etc/")
		})
	}
	systemd := func(l string) bool {
		l = strings.ToLower(l)
		return strings.HasPrefix(path.Base(l), "systemd-boot") || path.Base(path.Dir(l)) == "systemd"
	}
	// In EFI/BOOT are copies, and SUSE's shim has systemd-boot there under that name.
	grub := func(l string) bool {
		l = strings.ToLower(l)
		return strings.HasPrefix(path.Base(l), "grub") && !systemd(l) && (path.Base(path.Dir(l)) != "boot" || has("grub.cfg"))
	}
	loaders := f.facts.Loader.Loaders
	switch {
	case slices.ContainsFunc(loaders, systemd) && !slices.ContainsFunc(loaders, grub):
		return "systemd-boot"
	case has("grub.cfg"):
		return "grub2"
	case has("menu.lst", "grub.conf"):
		return "grub-legacy"
	case has("extlinux.conf", "syslinux.cfg"):
		return "extlinux"
	case len(UnifiedImages(f.tree, f.facts.Loader.ESP)) > 0:
		return "uki"
	case f.exists("etc/lilo.conf"):
		return "lilo"
	case f.exists("etc/zipl.conf") && f.facts.Arch == "s390x":
		return "zipl"
	}
	return "none"
}

// firmware keeps what the plan says, and checks it; where the plan says nothing
// the disks decide. Both kinds of boot partition on one disk (cloud images have
// them) is taken for BIOS, which every machine can do.
func (f *finder) firmware() {
	found := f.firmwareOfDisks()
	switch {
	case f.facts.Firmware == "":
		f.facts.Firmware = found
	case f.facts.Firmware == "uefi" && found == "bios" && f.facts.Loader.ESP == "":
		f.warn("the source machine has UEFI firmware, but no EFI system partition was found")
	case f.facts.Firmware == "bios" && found == "uefi":
		f.warn("the source machine has BIOS firmware, but its disk looks like one for UEFI")
	}
}

func (f *finder) firmwareOfDisks() string {
	esp, bios := false, false
	for _, d := range f.facts.Disks {
		for _, p := range d.Partitions {
			switch p.Type {
			case typeESP:
				esp = true
			case typeBIOS:
				bios = true
			case mbrESP:
				// An MBR disk boots either way; programs on the ESP decide.
				esp = esp || len(f.facts.Loader.Loaders) > 0
			}
		}
	}
	if esp && !bios {
		return "uefi"
	}
	return "bios"
}
