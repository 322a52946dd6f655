package linux

import (
	"cmp"
	"errors"
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"

	"hyper2kvm/fixes"
	"hyper2kvm/fixes/bootmenu"
	"hyper2kvm/fixes/guest"
	"hyper2kvm/fixes/linux/shellvars"
)

// KernelError says that none of a guest's kernels can be started on KVM.
type KernelError struct{ Reason string }

func (e *KernelError) Error() string { return e.Reason }

// kernelChoice has the boot loader start a kernel that runs on KVM.
//
// What it sets is what the loader's own tools would set: the entries stay, and
// so does the order of them.
func kernelChoice() fix {
	return fix{
		id:  "linux/kernel",
		why: "A kernel that runs under Xen only, or has no virtio drivers, does not boot on KVM; another one that is installed does.",
		plan: func(p *planner) error {
			if p.facts.DefaultKernel() == nil {
				return nil
			}
			return chooseKernel(p)
		},
	}
}

func chooseKernel(p *planner) error {
	best := p.facts.KVMKernel()
	if best == nil {
		return refuseKernels(p)
	}
	for _, k := range p.facts.Kernels {
		if k.Unfit != "" && k.Image != best.Image {
			p.note("kernel %s is not for KVM: %s; it stays installed, with its boot entry", k.Version, k.Unfit)
		}
	}
	if best.Emulated() {
		p.note("kernel %s is the best there is, but %s: its disk is attached to %s. On virtio it would be faster: install %s",
			best.Version, best.Unfit, strings.ToUpper(best.Buses[0]), packageFor(p.facts))
	}
	old := p.defaultEntry()
	if best.Default && (old == nil || !old.Xen) {
		return nil
	}
	if err := p.makeDefault(best); err != nil {
		return &fixes.FatalError{Err: err}
	}
	p.note("the boot loader starts kernel %s from now on", best.Version)
	p.clearNextEntry()
	if old != nil && !p.exists("boot/photon.cfg") {
		// A paravirtualized guest of Xen's does not start with another kernel.
		p.note("the entry that was the default, %q, stays in the menu: choose it, or undo the repair, if the guest has to start once more where it came from", cmp.Or(old.Title, old.Name))
	}
	defaultPackage(p, best)
	return nil
}

// refuseKernels says what to do before the move.
func refuseKernels(p *planner) error {
	var reasons []string
	for _, k := range p.facts.Kernels {
		reasons = append(reasons, k.Version+": "+k.Unfit)
	}
	return &fixes.FatalError{Err: &KernelError{fmt.Sprintf("no installed kernel runs on KVM (%s): before the move, install %s on the source",
		strings.Join(reasons, "; "), packageFor(p.facts))}}
}

func (p *planner) defaultEntry() *guest.BootEntry {
	for i, e := range p.facts.Loader.Entries {
		if e.Default {
			return &p.facts.Loader.Entries[i]
		}
	}
	return nil
}

// entryOf is the first entry that starts a kernel by itself, and can be told from
// those before it by its name.
func (p *planner) entryOf(k *guest.Kernel) *guest.BootEntry {
	named := map[string]bool{}
	for i, e := range p.facts.Loader.Entries {
		if e.Image == k.Image && !e.Xen && !named[e.Name] {
			return &p.facts.Loader.Entries[i]
		}
		named[e.Name] = true
	}
	return nil
}

// makeDefault makes the entry of a kernel the default.
func (p *planner) makeDefault(k *guest.Kernel) error {
	menu := p.facts.Loader.Menu
	if p.facts.Loader.Kind == "grub-legacy" {
		return p.legacyDefault(menu, k)
	}
	if photonKernel(p, k) {
		return nil
	}
	e := p.entryOf(k)
	if e == nil {
		return &KernelError{fmt.Sprintf("kernel %s runs on KVM and the default one does not, but no boot entry starts it, or none with a name of its own: "+
			"on the source, have its package or the boot loader's tool make one, and make it the default", k.Version)}
	}
	switch p.facts.Loader.Kind {
	case "grub2":
		return p.grubDefault(menu, e)
	case "systemd-boot":
		data, _ := p.read(menu)
		p.write(menu, data, bootmenu.SetLoaderDefault(data, e.Name))
	case "extlinux":
		data, _ := p.read(menu)
		p.write(menu, data, bootmenu.SetSyslinuxDefault(data, e.Name))
		p.setVar("etc/update-extlinux.conf", "default", e.Name)
	default:
		return &KernelError{fmt.Sprintf("kernel %s runs on KVM and the default one does not: make it the default on the source; how, is not known for the boot loader (%s)",
			k.Version, p.facts.Loader.Kind)}
	}
	return nil
}

// legacyDefault numbers the kernel's entry in GRUB legacy's menu. Where the
// kernel has none but one of Xen's, an entry is made after that one's pattern,
// at the end: the numbers of the others stay.
func (p *planner) legacyDefault(menu string, k *guest.Kernel) error {
	data, ok := p.read(menu)
	if !ok {
		return &KernelError{menu + " cannot be read, and its default kernel does not run on KVM"}
	}
	find := func(data []byte) int {
		return slices.IndexFunc(bootmenu.ParseLegacy(data).Entries, func(e bootmenu.Entry) bool {
			return !e.Xen && baseName(e.Kernel) == path.Base(k.Image)
		})
	}
	now := data
	n := find(now)
	if n < 0 {
		xen := slices.IndexFunc(bootmenu.ParseLegacy(data).Entries, func(e bootmenu.Entry) bool { return e.Xen && e.Kernel != "" })
		if xen < 0 {
			return &KernelError{fmt.Sprintf("%s has no entry for kernel %s, the one that runs on KVM: make one on the source", menu, k.Version)}
		}
		initrd := ""
		if k.Initramfs != "" {
			initrd = path.Base(k.Initramfs)
		}
		pattern := bootmenu.ParseLegacy(data).Entries[xen]
		now = bootmenu.LegacyFromXen(data, pattern, "Linux ("+k.Version+")", path.Base(k.Image), initrd)
		n = find(now)
		p.note("%s: an entry for kernel %s is made after %q, which starts Xen", menu, k.Version, pattern.Title)
	}
	p.write(menu, data, bootmenu.SetLegacyDefault(now, n))
	return nil
}

// baseName is the last element of a path of GRUB's: (hd0,0)/vmlinuz.
func baseName(name string) string { return name[strings.LastIndexAny(name, "/)")+1:] }

// environments lists GRUB's environment blocks, the one beside the menu first.
func (p *planner) environments() []string {
	names := []string{"boot/grub2/grubenv", "boot/grub/grubenv"}
	if menu := p.facts.Loader.Menu; path.Base(menu) == "grub.cfg" {
		names = append([]string{path.Dir(menu) + "/grubenv"}, names...)
	}
	for _, name := range p.facts.Loader.Configs {
		if path.Base(name) == "grubenv" {
			names = append(names, name)
		}
	}
	return names
}

// grubDefault sets what GRUB 2's menu takes its default from: the environment
// block, or the configuration, and then what grub-mkconfig writes it from.
func (p *planner) grubDefault(menu string, e *guest.BootEntry) error {
	data, ok := p.read(menu)
	if g := bootmenu.ParseGrub(data); !ok || strings.Contains(g.Default, "saved_entry") {
		return p.savedDefault(e)
	}
	p.write(menu, data, bootmenu.SetGrubDefault(data, e.Name))
	p.setVar("etc/default/grub", "GRUB_DEFAULT", e.Name)
	return nil
}

// savedDefault writes the environment block. Tools of RHEL 7 look for titles
// there, newer ones for ids: what stands there tells which.
func (p *planner) savedDefault(e *guest.BootEntry) error {
	for _, name := range p.once(p.environments()) {
		data, ok := p.read(name)
		if !ok {
			continue
		}
		env, ok := bootmenu.ParseEnv(data)
		if !ok {
			return &KernelError{fmt.Sprintf("%s is damaged, so that kernel %s, the one that runs on KVM, cannot be made the default: grub-editenv %s create makes a new one",
				name, e.Version, name)}
		}
		old, _ := env.Get("saved_entry")
		now := e.Name
		if e.Title != "" && !strings.Contains(e.Name, ">") && !strings.Contains(e.Title, ">") && p.isTitle(old) {
			now = e.Title
		}
		env.Set("saved_entry", now)
		block, ok := env.Bytes()
		if !ok {
			return &KernelError{name + " is full: kernel " + e.Version + " cannot be made the default"}
		}
		p.write(name, data, block)
		return nil
	}
	env, _ := bootmenu.ParseEnv([]byte(bootmenu.EnvHeader + strings.Repeat("#", bootmenu.EnvSize-len(bootmenu.EnvHeader))))
	env.Set("saved_entry", e.Name)
	block, ok := env.Bytes()
	if !ok {
		return errors.New("the name of a boot entry is longer than GRUB's environment block")
	}
	name := "boot/grub/grubenv"
	if p.exists("boot/grub2") {
		name = "boot/grub2/grubenv"
	}
	p.create(name, string(block))
	return nil
}

// clearNextEntry takes back what grub-reboot(8) chose for the next boot: it was
// chosen for the old machine.
func (p *planner) clearNextEntry() {
	for _, name := range p.once(p.environments()) {
		data, ok := p.pending(name)
		env, whole := bootmenu.ParseEnv(data)
		if !ok || !whole {
			continue
		}
		if next, _ := env.Get("next_entry"); next != "" {
			env.Set("next_entry", "")
			if block, ok := env.Bytes(); ok {
				p.note("%s: the next boot would have started %q; not any more", name, next)
				p.amend(name, data, block)
			}
		}
	}
}

func (p *planner) isTitle(saved string) bool {
	return saved != "" && slices.ContainsFunc(p.facts.Loader.Entries, func(e guest.BootEntry) bool { return e.Title == saved && e.Name != saved })
}

// photonKernel points Photon's link to the file with the names of a kernel.
func photonKernel(p *planner, k *guest.Kernel) bool {
	const link = "boot/photon.cfg"
	info, err := p.fs.Lstat(link)
	if err != nil || info.Mode().IsRegular() {
		return false
	}
	for _, name := range p.list("boot", ".cfg") {
		data, _ := p.read(name)
		if v := shellvars.Parse(data).Last("photon_linux"); name != link && v != nil && path.Base(v.Value) == path.Base(k.Image) {
			if to, err := p.fs.ReadLink(link); err != nil || to != path.Base(name) {
				p.note("%s led to %s, and leads to %s from now on", link, to, path.Base(name))
				p.changes = append(p.changes, fixes.Symlink{Name: link, To: path.Base(name)})
			}
			return true
		}
	}
	return false
}

// setVar changes a variable of a file of settings, where there is one.
func (p *planner) setVar(name, variable, value string) {
	data, ok := p.read(name)
	if !ok {
		return
	}
	file := shellvars.Parse(data)
	switch v := file.Last(variable); {
	case v == nil:
	case strings.ContainsAny(value, "\"'`$\\"):
		p.note("%s: %s stays %s: %s cannot be written there; the next run of the tool that reads it sets the default back", name, variable, v.Value, value)
	default:
		v.Value = value
		p.write(name, data, file.Bytes())
	}
}

// defaultPackage names the package whose kernels become the default when they
// are updated (new-kernel-pkg(8), kernel-install of Red Hat's kind).
func defaultPackage(p *planner, k *guest.Kernel) {
	const name = "etc/sysconfig/kernel"
	data, ok := p.read(name)
	if !ok {
		return
	}
	file := shellvars.Parse(data)
	v := file.Last("DEFAULTKERNEL")
	if v == nil {
		return
	}
	now := "kernel"
	for _, flavour := range []string{"PAE", "uek", "xen", "debug"} {
		if strings.Contains(k.Version, flavour) {
			now = "kernel-" + flavour
		}
	}
	if strings.HasSuffix(v.Value, "-core") {
		now += "-core"
	}
	v.Value = now
	p.write(name, data, file.Bytes())
}

// packageFor names the package with a kernel that has virtio drivers, in the
// words of the guest's distribution.
func packageFor(f *guest.Facts) string {
	major, _ := strconv.Atoi(strings.SplitN(f.OS.Version, ".", 2)[0])
	like := func(ids ...string) bool {
		return slices.ContainsFunc(append([]string{f.OS.ID}, f.OS.IDLike...), func(id string) bool { return slices.Contains(ids, id) })
	}
	wide := f.Arch != "x86_64" // 32 bits
	switch {
	case like("photon"):
		return "the package linux (tdnf install linux)"
	case like("amzn"):
		return "the package kernel of the HVM flavour of Amazon Linux"
	case like("ubuntu"):
		return "the package linux-image-generic, or linux-image-virtual (and the linux-modules-extra of a cloud's kernel)"
	case like("debian") && wide:
		return "the package linux-image-686-pae, or linux-image-686"
	case like("debian"):
		return "the package linux-image-" + debianArch(f.Arch)
	case like("suse", "sles", "sled", "opensuse") && wide && major < 12:
		return "the package kernel-default, or kernel-pae"
	case like("suse", "sles", "sled", "opensuse"):
		return "the package kernel-default"
	case like("rhel", "fedora", "centos") && wide && major < 7:
		return "the package kernel, or kernel-PAE (that of RHEL 4.8, 5.3 or newer has virtio drivers)"
	case like("rhel", "fedora", "centos") && major < 6:
		return "the package kernel (that of RHEL 4.8, 5.3 or newer has virtio drivers)"
	case like("rhel", "fedora", "centos"):
		return "the package kernel"
	case like("alpine"):
		return "the package linux-virt, or linux-lts"
	case like("arch"):
		return "the package linux"
	}
	return "a kernel with CONFIG_VIRTIO_PCI, CONFIG_VIRTIO_BLK and CONFIG_VIRTIO_NET"
}

func debianArch(arch string) string {
	if name := map[string]string{"x86_64": "amd64", "aarch64": "arm64"}[arch]; name != "" {
		return name
	}
	return arch
}
