package linux

import (
	"cmp"
	"encoding/binary"
	"path"
	"slices"
	"strings"
	"unicode/utf16"

	"hyper2kvm/fixes"
	"hyper2kvm/fixes/bootmenu"
	"hyper2kvm/fixes/guest"
)

// fallbackLoader gives the firmware a loader where it looks without boot
// entries: those lived in the NVRAM of the old machine.
func fallbackLoader(opts Options) fix {
	return fix{
		id:      "linux/uefi-fallback",
		why:     "The boot entries stayed in the old machine's NVRAM; without EFI/BOOT/BOOT*.EFI the firmware finds nothing to start.",
		applies: func(f *guest.Facts) bool { return f.Firmware == "uefi" },
		plan: func(p *planner) error {
			planFallback(p, opts)
			return nil
		},
	}
}

func planFallback(p *planner, opts Options) {
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
	e := &espFolder{p: p, opts: opts, arch: arch, esp: esp, efi: efi, boot: p.fold(efi, "BOOT")}
	e.want = p.fold(e.boot, "BOOT"+strings.ToUpper(arch)+".EFI")
	if p.exists(e.want) {
		e.complete()
		return
	}
	if e.fallBack() {
		return
	}
	if !e.startup() {
		p.note("%s is missing and no loader was found on the EFI system partition to copy there", e.want)
	}
}

// espFolder is what of the EFI system partition matters to the fallback loader.
type espFolder struct {
	p              *planner
	opts           Options
	arch           string // in names of UEFI: "x64"
	esp, efi, boot string // folders
	want           string // the fallback loader
}

// loader is a program and what it needs beside it.
type loader struct {
	dir, name string
	// beside are the programs that it starts from its own folder; the first must be there.
	beside []string
	// config is the file that it reads in its folder, by its own name, "" where
	// it looks elsewhere.
	config string
}

// loaders lists what can be started without a boot entry, the best first.
//
// shim starts grub from the folder that it was started from, and a signed grub
// finds its configuration in the vendor's folder, which its prefix names. SUSE's
// shim looks for grub.efi, all others' for one with the machine's name. GRUB
// legacy (RHEL 6) reads what is called like itself, with .conf for .efi.
func (e *espFolder) loaders() []loader {
	var out []loader
	dirs := e.p.vendors(e.efi)
	for _, dir := range dirs {
		out = append(out,
			loader{dir, "shim" + e.arch + ".efi", []string{"grub" + e.arch + ".efi", "mm" + e.arch + ".efi"}, ""},
			loader{dir, "shim.efi", []string{"grub.efi", "MokManager.efi"}, ""})
	}
	for _, l := range []loader{
		{name: "grub" + e.arch + ".efi"}, {name: "grub.efi", config: "grub.conf"},
		{name: "systemd-boot" + e.arch + ".efi"}, {name: "refind_" + e.arch + ".efi"}, {name: "elilo.efi", config: "elilo.conf"},
	} {
		for _, dir := range dirs {
			l.dir = dir
			out = append(out, l)
		}
	}
	// A unified kernel image is a program of the firmware, too: the default one,
	// or the newest, but one that is fit for KVM before one that is not.
	ukis := e.p.list(e.p.fold(e.efi, "Linux"), ".efi")
	rank := map[string]int{}
	for _, u := range ukis {
		quiet := &planner{fs: e.p.fs, facts: e.p.facts}
		switch image := (&unifiedImage{p: quiet, name: u}); {
		case !image.fit(e.opts):
			rank[u] = 2
		case u != e.defaultImage():
			rank[u] = 1
		}
	}
	slices.SortFunc(ukis, func(a, b string) int {
		return cmp.Or(rank[a]-rank[b], bootmenu.CompareVersions(path.Base(b), path.Base(a)))
	})
	for _, u := range ukis {
		out = append(out, loader{dir: path.Dir(u), name: path.Base(u)})
	}
	return out
}

// defaultImage is the unified kernel image that is the default of the menu.
func (e *espFolder) defaultImage() string {
	if d := e.p.defaultEntry(); d != nil {
		return d.File
	}
	return ""
}

// fallBack copies the best loader to where the firmware looks.
func (e *espFolder) fallBack() bool {
	for _, l := range e.loaders() {
		from := e.p.fold(l.dir, l.name)
		if !e.p.exists(from) || len(l.beside) > 0 && !e.p.exists(e.p.fold(l.dir, l.beside[0])) {
			continue
		}
		if len(l.beside) > 0 && e.fallbackProgram() != "" && !e.entries(l) {
			continue
		}
		changes := []fixes.Change{fixes.CopyFile{From: from, Name: e.want}}
		changes = append(changes, e.companions(l)...)
		if e.fits(changes) {
			e.p.note("%s: a copy of %s; it must be renewed by hand, or with grub-install --removable, when that is updated", e.want, from)
			e.checkPrefix(l)
		}
		return true
	}
	return false
}

// companions are copies of what a loader needs in its own folder.
func (e *espFolder) companions(l loader) []fixes.Change {
	var out []fixes.Change
	for _, name := range l.beside {
		from, to := e.p.fold(l.dir, name), e.p.fold(e.boot, name)
		if e.p.exists(from) && !e.p.exists(to) {
			out = append(out, fixes.CopyFile{From: from, Name: to})
		}
	}
	if from := e.p.fold(l.dir, l.config); l.config != "" && e.p.exists(from) {
		to := strings.TrimSuffix(e.want, path.Ext(e.want)) + ".conf"
		if !e.p.exists(to) {
			out = append(out, fixes.CopyFile{From: from, Name: to})
		}
	}
	return out
}

// fits proposes changes if there is room for them.
func (e *espFolder) fits(changes []fixes.Change) bool {
	var need int64
	for _, c := range changes {
		if f, ok := c.(fixes.CopyFile); ok {
			if info, err := e.p.fs.Stat(f.From); err == nil {
				need += info.Size()
			}
		}
	}
	if free, ok := freeOn(e.p.facts, e.esp); ok && free < need {
		e.p.note("%s: %d bytes are free on the EFI system partition, the fallback loader needs %d; left", e.want, free, need)
		return false
	}
	e.p.changes = append(e.p.changes, changes...)
	return true
}

// fallbackProgram is shim's own: where it lies beside a shim that the firmware
// started as its fallback, shim starts it instead of grub. It is not copied: it
// makes boot entries from the vendors' lists, and where there is a TPM it resets
// the machine once it has.
func (e *espFolder) fallbackProgram() string {
	for _, name := range []string{"fb" + e.arch + ".efi", "fallback.efi"} {
		if f := e.p.fold(e.boot, name); e.p.exists(f) {
			return f
		}
	}
	return ""
}

// entries makes sure that shim's fallback program finds a list of boot entries:
// the file BOOT<ARCH>.CSV in a vendor's folder, in UTF-16 (shim's
// README.fallback). Without one it starts nothing, but resets the machine, over
// and over.
func (e *espFolder) entries(l loader) bool {
	csv := "BOOT" + strings.ToUpper(e.arch) + ".CSV"
	for _, dir := range e.p.vendors(e.efi) {
		for _, name := range []string{csv, "BOOT.CSV"} {
			if e.p.exists(e.p.fold(dir, name)) {
				return true
			}
		}
	}
	label := path.Base(l.dir)
	text := utf16.Encode([]rune(l.name + "," + label + ",,This is the boot entry for " + label + "\n"))
	content := []byte{0xff, 0xfe}
	for _, c := range text {
		content = binary.LittleEndian.AppendUint16(content, c)
	}
	name := path.Join(l.dir, csv)
	e.p.changes = append(e.p.changes, fixes.WriteFile{Name: name, Content: content})
	e.p.note("%s: the list of boot entries that %s reads; without one it resets the machine, over and over", name, e.fallbackProgram())
	return true
}

// complete looks after a fallback loader that is there: a shim that lacks the
// grub to start.
func (e *espFolder) complete() {
	for _, l := range e.loaders() {
		from := e.p.fold(l.dir, l.name)
		if len(l.beside) == 0 || !e.p.exists(from) || !e.p.exists(e.p.fold(l.dir, l.beside[0])) {
			continue
		}
		if !e.p.sameFile(from, e.want) && !isShim(e.p, e.want) {
			continue
		}
		if e.fallbackProgram() != "" {
			e.entries(l)
			e.checkPrefix(l)
			return
		}
		if e.p.exists(e.p.fold(e.boot, l.beside[0])) {
			e.checkPrefix(l)
			return
		}
		if changes := e.companions(l); e.fits(changes) {
			e.p.note("%s is shim without the %s that it starts: a copy is put beside it", e.want, l.beside[0])
			e.checkPrefix(l)
		}
		return
	}
}

// checkPrefix says when the folder that a signed grub looks in has no
// configuration for it.
func (e *espFolder) checkPrefix(l loader) {
	if len(l.beside) == 0 || e.p.facts.Loader.Kind != "grub2" {
		return
	}
	if config := e.p.fold(l.dir, "grub.cfg"); !e.p.exists(config) {
		e.p.note("%s is not there: a signed grub looks for its configuration in that folder, and else shows a prompt", config)
	}
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
	switch id := p.facts.OS.ID; {
	case base == id, base == "redhat" && (id == "rhel" || id == "ol"), base == "opensuse" && strings.HasPrefix(id, "opensuse"), base == "systemd":
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
