package inspect

import (
	"io"
	"path"
	"slices"
	"strconv"
	"strings"

	"hyper2kvm/fixes/bootmenu"
	"hyper2kvm/fixes/guest"
)

// menu lists what the boot loader offers to start, tells which of it is the
// default, and adds to the kernels those that only entries know.
func (f *finder) menu() {
	l := &f.facts.Loader
	switch l.Kind {
	case "grub-legacy":
		f.legacyMenu()
	case "systemd-boot", "uki":
		f.systemdMenu()
	case "extlinux":
		f.syslinuxMenu()
	default:
		f.grubMenu()
	}
	images := map[string]int{} // places in Kernels, by the real name
	for i, k := range f.facts.Kernels {
		if real, err := guest.Resolve(f.tree, k.Image); err == nil {
			images[real] = i
		}
	}
	for i := range l.Entries {
		f.enter(&l.Entries[i], images)
	}
	f.chooseDefault()
}

// offer adds an entry. Its files are looked for below bases.
func (f *finder) offer(file, name string, e bootmenu.Entry, isDefault bool, bases ...string) {
	out := guest.BootEntry{File: file, Name: name, Title: e.Title, Version: e.Version, Xen: e.Xen, Default: isDefault}
	out.Image = f.bootFile(e.Kernel, bases...)
	// Of several the last is the system's; microcode stands before it.
	for _, initrd := range slices.Backward(e.Initrds) {
		if out.Initramfs = f.bootFile(initrd, bases...); out.Initramfs != "" {
			break
		}
	}
	f.facts.Loader.Entries = append(f.facts.Loader.Entries, out)
}

// bootFile finds a file by what a loader calls it: on the file system that the
// entry is about, which can be mounted on one of bases. "" is not found.
//
// What was found is remembered: menus name the same files again and again, and
// looking costs a way through the network for a guest on its other end.
func (f *finder) bootFile(name string, bases ...string) string {
	key := name + "\x00" + strings.Join(bases, "\x00")
	if found, ok := f.bootFiles[key]; ok {
		return found
	}
	if f.bootFiles == nil {
		f.bootFiles = map[string]string{}
	}
	f.bootFiles[key] = f.lookFor(name, bases)
	return f.bootFiles[key]
}

func (f *finder) lookFor(name string, bases []string) string {
	name = name[strings.LastIndexByte(name, ')')+1:] // (hd0,0)/vmlinuz
	name = strings.TrimPrefix(path.Clean("/"+strings.ReplaceAll(name, `\`, "/")), "/")
	for name != "" {
		for _, base := range bases {
			full := path.Join(base, name)
			if info, err := f.tree.Stat(full); err == nil && info.Mode().IsRegular() {
				return full
			}
		}
		// A subvolume of btrfs stands before the path: /@/boot/vmlinuz.
		_, name, _ = strings.Cut(name, "/")
	}
	return ""
}

// grubConfig finds the configuration that has the menu: with UEFI that can be
// the one on the ESP, which elsewhere only leads to the one in /boot.
func (f *finder) grubConfig() (g *bootmenu.Grub, name string) {
	names := []string{"boot/grub2/grub.cfg", "boot/grub/grub.cfg"}
	if f.facts.Firmware == "uefi" {
		var onESP []string
		for _, c := range f.facts.Loader.Configs {
			if path.Base(c) == "grub.cfg" && !slices.Contains(names, c) {
				onESP = append(onESP, c)
			}
		}
		names = append(onESP, names...)
	}
	for _, n := range names {
		data, ok := f.read(n)
		if !ok {
			continue
		}
		if g := bootmenu.ParseGrub(data); len(g.Nodes) > 0 || g.BLS {
			return g, n
		}
	}
	return &bootmenu.Grub{BLS: true, Default: savedEntry}, ""
}

const savedEntry = "${saved_entry}"

// grubMenu lists GRUB 2's menu.
func (f *finder) grubMenu() {
	g, config := f.grubConfig()
	f.facts.Loader.Menu = config
	nodes := g.Nodes
	files := map[*bootmenu.Node]string{}
	if g.BLS {
		var entries []*bootmenu.Node
		for _, e := range f.blsEntries(bootmenu.SortGrubBLS) {
			n := &bootmenu.Node{Title: e.Title, ID: e.ID, Entry: &e.Entry}
			files[n] = e.file
			entries = append(entries, n)
		}
		nodes = slices.Insert(slices.Clone(nodes), g.Before, entries...)
	}
	choice := g.Default
	if strings.Contains(choice, "saved_entry") {
		names := []string{"boot/grub2/grubenv", "boot/grub/grubenv"}
		if config != "" {
			names = append([]string{path.Dir(config) + "/grubenv"}, names...)
		}
		env, _ := f.first(names...)
		choice = shellVars(env)["saved_entry"]
	}
	chosen := bootmenu.Find(nodes, choice)
	photon, _ := f.read("boot/photon.cfg")
	for _, n := range bootmenu.Entries(nodes) {
		f.expand(n.Entry, shellVars(photon))
		file, bases := config, []string{"boot", ".", f.facts.Loader.ESP}
		if files[n] != "" {
			file, bases = files[n], blsBases(files[n])
		}
		f.offer(file, n.Name(), *n.Entry, n == chosen, bases...)
	}
}

// expand puts the variables in that Photon keeps the names of its files in.
func (f *finder) expand(e *bootmenu.Entry, vars map[string]string) {
	for name, value := range vars {
		if !strings.HasPrefix(name, "photon_") {
			continue
		}
		e.Kernel = strings.ReplaceAll(e.Kernel, "$"+name, value)
		for i := range e.Initrds {
			e.Initrds[i] = strings.ReplaceAll(e.Initrds[i], "$"+name, value)
		}
	}
}

// blsEntry is an entry of type 1 and its file.
type blsEntry struct {
	bootmenu.BLS
	file string
}

// blsEntries lists the entries of type 1 in the order that a loader gives them.
func (f *finder) blsEntries(order func([]bootmenu.BLS)) []blsEntry {
	var names []string
	for _, c := range f.facts.Loader.Configs {
		if strings.HasSuffix(path.Dir(c), "loader/entries") {
			names = append(names, c)
		}
	}
	var list []bootmenu.BLS
	files := map[string]string{}
	for _, name := range names {
		data, ok := f.read(name)
		if e := bootmenu.ParseBLS(path.Base(name), data); ok && files[e.ID] == "" {
			files[e.ID] = name
			list = append(list, e)
		}
	}
	order(list)
	var out []blsEntry
	for _, e := range list {
		out = append(out, blsEntry{e, files[e.ID]})
	}
	return out
}

// blsBases are where the files of an entry are: the specification has them on
// the same file system, whose root is above loader/entries. Where /boot is a
// folder of the root, GRUB's are called by the whole path.
func blsBases(file string) []string {
	return []string{path.Dir(path.Dir(path.Dir(file))), "."}
}

// systemdMenu lists systemd-boot's menu: entries of type 1, and unified kernel
// images, which are of type 2. What was chosen as default in the menu is in the
// NVRAM, which stays behind.
func (f *finder) systemdMenu() {
	esp := f.facts.Loader.ESP
	entries := f.blsEntries(func([]bootmenu.BLS) {})
	list := make([]bootmenu.BLS, 0, len(entries))
	files := map[string]string{}
	for _, e := range entries {
		list, files[e.ID] = append(list, e.BLS), e.file
	}
	for _, u := range f.unified() {
		e := bootmenu.BLS{Entry: bootmenu.Entry{ID: path.Base(u.path), Title: u.release["PRETTY_NAME"], Version: u.version}}
		e.Kernel = strings.TrimPrefix(u.path, blsBases(u.path)[0])
		if e.SortKey = u.release["ID"]; e.SortKey != "" {
			e.Version = u.release["VERSION_ID"] + "." + u.version
		}
		list, files[e.ID] = append(list, e), u.path
	}
	bootmenu.SortBLS(list)
	f.facts.Loader.Menu = path.Join(esp, "loader/loader.conf")
	conf, _ := f.read(f.facts.Loader.Menu)
	pattern, chosen := bootmenu.LoaderDefault(conf), 0
	if i := slices.IndexFunc(list, func(e bootmenu.BLS) bool { return bootmenu.MatchLoader(pattern, files[e.ID]) }); pattern != "" && i >= 0 {
		chosen = i
	}
	for i, e := range list {
		file := files[e.ID]
		f.offer(file, path.Base(file), e.Entry, i == chosen, blsBases(file)...)
	}
}

// legacyMenu lists GRUB legacy's menu.
func (f *finder) legacyMenu() {
	name := f.config("menu.lst", "grub.conf")
	f.facts.Loader.Menu = name
	data, _ := f.read(name)
	c := bootmenu.ParseLegacy(data)
	chosen := c.Default
	if c.Saved {
		// A number, and lines of "#" that keep the place for it.
		saved, _ := f.read(path.Dir(name) + "/default")
		number, _, _ := strings.Cut(string(saved), "\n")
		chosen, _ = strconv.Atoi(strings.TrimSpace(number))
	}
	if chosen >= len(c.Entries) {
		chosen = 0
	}
	for i, e := range c.Entries {
		f.offer(name, strconv.Itoa(i), e, i == chosen, "boot", ".", path.Dir(name))
	}
}

// syslinuxMenu lists the labels of syslinux.
func (f *finder) syslinuxMenu() {
	name := f.config("extlinux.conf", "syslinux.cfg")
	f.facts.Loader.Menu = name
	data, _ := f.read(name)
	// What is included is read as if it stood at the end.
	for _, other := range bootmenu.ParseSyslinux(data).Includes {
		included, _ := f.read(f.bootFile(other, path.Dir(name), "boot", "."))
		data = slices.Concat(data, []byte("\n"), included)
	}
	c := bootmenu.ParseSyslinux(data)
	chosen := slices.IndexFunc(c.Entries, func(e bootmenu.Entry) bool { return e.ID == c.Default })
	for i, e := range c.Entries {
		f.offer(name, e.ID, e, i == chosen, path.Dir(name), "boot", ".")
	}
}

// config gives the first of the loader's files with one of those names.
func (f *finder) config(names ...string) string {
	for _, c := range f.facts.Loader.Configs {
		if slices.Contains(names, path.Base(c)) && !strings.HasPrefix(c, "etc/") {
			return c
		}
	}
	return "boot/" + names[0]
}

// enter finds the kernel of an entry, and makes it one where it has its own copy
// of a kernel: on the ESP, beside an initramfs of its own.
func (f *finder) enter(e *guest.BootEntry, images map[string]int) {
	if e.Image == "" || strings.Contains(path.Base(e.Image), "rescue") {
		return
	}
	real, err := guest.Resolve(f.tree, e.Image)
	if err != nil {
		return
	}
	if i, ok := images[real]; ok {
		k := &f.facts.Kernels[i]
		e.Image, e.Version = k.Image, k.Version
		// Without an entry the image was found by its name.
		if e.Initramfs != "" && (len(k.Entries) == 0 || e.Default) {
			k.Initramfs = e.Initramfs
		}
		k.Entries = append(k.Entries, e.Name)
		return
	}
	version := f.versionFor(e)
	modules, err := guest.Resolve(f.tree, "lib/modules/"+version)
	if version == "" || err != nil || !f.isDir(modules) {
		return
	}
	e.Version = version
	images[real] = len(f.facts.Kernels)
	f.facts.Kernels = append(f.facts.Kernels, guest.Kernel{
		Version: version, Image: e.Image, Initramfs: e.Initramfs, Modules: modules, Entries: []string{e.Name},
	})
}

// versionFor finds the version of an entry's kernel: by its folder or what the
// entry says, else by what the kernel says itself.
func (f *finder) versionFor(e *guest.BootEntry) string {
	best := ""
	for _, dir := range f.list("lib/modules", "") {
		v := path.Base(dir)
		if len(v) > len(best) && (slices.Contains(strings.Split(e.Image, "/"), v) || strings.HasSuffix(e.Version, v)) {
			best = v
		}
	}
	if best == "" {
		best = f.imageVersion(e.Image)
	}
	return best
}

// The header of a kernel for x86 (Documentation/arch/x86/boot.rst of Linux): a
// magic at 0x202, at 0x20e where the version is, less 0x200.
const (
	headerMagic   = 0x202
	headerVersion = 0x20e
	headerBase    = 0x200
	maxHeader     = 64 << 10
)

// imageVersion reads the version that a kernel image bears, "" for one that is
// not for x86.
func (f *finder) imageVersion(name string) string {
	file, err := f.tree.Open(name)
	if err != nil {
		return ""
	}
	defer file.Close()
	data, err := io.ReadAll(io.LimitReader(file, maxHeader))
	if err != nil || len(data) < headerBase+0x10 || string(data[headerMagic:headerMagic+4]) != "HdrS" {
		return ""
	}
	at := headerBase + int(data[headerVersion]) + int(data[headerVersion+1])<<8
	if at >= len(data) {
		return ""
	}
	version, _, _ := strings.Cut(string(data[at:min(at+256, len(data))]), " ")
	if version == "" || strings.ContainsAny(version, "/\x00") {
		return ""
	}
	return version
}
