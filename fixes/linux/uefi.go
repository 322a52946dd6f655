package linux

import (
	"path"
	"slices"
	"strings"

	"hyper2kvm/fixes"
	"hyper2kvm/fixes/guest"
)

// fallbackLoader gives the firmware a loader where it looks without boot
// entries: those lived in the NVRAM of the old machine.
func fallbackLoader() fix {
	return fix{
		id:      "linux/uefi-fallback",
		why:     "The boot entries stayed in the old machine's NVRAM; without EFI/BOOT/BOOT*.EFI the firmware finds nothing to start.",
		applies: func(f *guest.Facts) bool { return f.Firmware == "uefi" },
		plan: func(p *planner) error {
			planFallback(p)
			return nil
		},
	}
}

func planFallback(p *planner) {
	// The name per machine is in the UEFI specification, 3.5.1.1.
	arch := map[string]string{"x86_64": "x64", "aarch64": "aa64"}[p.facts.Arch]
	if isX86(p.facts.Arch) {
		arch = "ia32"
	}
	esp := p.facts.Loader.ESP
	switch {
	case arch == "":
		p.note("no name of the UEFI fallback loader is known for %s", p.facts.Arch)
		return
	case esp == "":
		p.note("no EFI system partition is mounted; the firmware's own search must find the loader")
		return
	}
	efi := p.fold(esp, "EFI")
	boot := p.fold(efi, "BOOT")
	want := p.fold(boot, "BOOT"+strings.ToUpper(arch)+".EFI")
	if p.exists(want) {
		return
	}
	files := loaderFiles(p, efi, arch)
	if len(files) == 0 {
		p.note("%s is missing and no loader was found on the EFI system partition to copy there", want)
		return
	}
	var need int64
	var changes []fixes.Change
	for i, f := range files {
		to := want
		if i > 0 {
			to = p.fold(boot, path.Base(f))
		}
		if i > 0 && p.exists(to) {
			continue
		}
		if info, err := p.fs.Stat(f); err == nil {
			need += info.Size()
		}
		changes = append(changes, fixes.CopyFile{From: f, Name: to})
	}
	if free, ok := freeOn(p.facts, esp); ok && free < need {
		p.note("%s: %d bytes are free on the EFI system partition, the fallback loader needs %d; left", want, free, need)
		return
	}
	p.changes = append(p.changes, changes...)
	p.note("%s: a copy of %s; it must be renewed by hand, or with grub-install --removable, when that is updated", want, files[0])
}

// loaderFiles lists what to copy: the loader first, then what it loads from
// its own folder.
//
// shim loads grub from the folder it was started from, and grub finds its
// configuration in the vendor's folder, which its prefix names. shim's fallback
// program (fbx64.efi) is not copied: next to a fallback loader shim starts it
// instead of grub, and where there is a TPM but the NVRAM does not last it
// resets the machine at every boot.
func loaderFiles(p *planner, efi, arch string) []string {
	vendors := p.vendors(efi)
	for _, dir := range vendors {
		shim, grub := p.fold(dir, "shim"+arch+".efi"), p.fold(dir, "grub"+arch+".efi")
		if !p.exists(shim) || !p.exists(grub) {
			continue
		}
		files := []string{shim, grub}
		if mm := p.fold(dir, "mm"+arch+".efi"); p.exists(mm) {
			files = append(files, mm)
		}
		return files
	}
	for _, name := range []string{"grub" + arch + ".efi", "systemd-boot" + arch + ".efi", "grub.efi", "refind_" + arch + ".efi", "elilo.efi"} {
		for _, dir := range vendors {
			if f := p.fold(dir, name); p.exists(f) {
				return []string{f}
			}
		}
	}
	// A unified kernel image is a program of the firmware, too; the newest
	// version sorts last.
	ukis := p.list(p.fold(efi, "Linux"), ".efi")
	if len(ukis) > 0 {
		return ukis[len(ukis)-1:]
	}
	return nil
}

// vendors lists the folders of loaders, the guest's own system first.
func (p *planner) vendors(efi string) []string {
	all := p.list(efi, "")
	all = slices.DeleteFunc(all, func(d string) bool {
		base := strings.ToLower(path.Base(d))
		return base == "boot" || base == "microsoft" || base == "linux"
	})
	slices.SortStableFunc(all, func(a, b string) int { return p.rank(a) - p.rank(b) })
	return all
}

func (p *planner) rank(dir string) int {
	base := strings.ToLower(path.Base(dir))
	if base == p.facts.OS.ID || base == "redhat" && p.facts.OS.ID == "rhel" || base == "systemd" {
		return 0
	}
	return 1
}

// fold gives the name under which an entry exists in dir: FAT ignores case, but
// keeps the case that a name was made with. A missing one keeps the given name.
func (p *planner) fold(dir, name string) string {
	if entries, err := p.fs.ReadDir(dir); err == nil {
		for _, e := range entries {
			if strings.EqualFold(e.Name(), name) {
				return path.Join(dir, e.Name())
			}
		}
	}
	return path.Join(dir, name)
}

// freeOn returns the free bytes of the file system mounted at point.
func freeOn(f *guest.Facts, point string) (int64, bool) {
	for _, m := range f.Mounts {
		if strings.Trim(m.Point, "/") == strings.Trim(point, "/") {
			return m.Free, true
		}
	}
	return 0, false
}
