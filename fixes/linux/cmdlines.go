package linux

import (
	"bytes"
	"path"
	"regexp"
	"strings"

	"hyper2kvm/fixes/bootmenu"
	"hyper2kvm/fixes/linux/cmdline"
	"hyper2kvm/fixes/linux/shellvars"
)

// place says where a kernel command line stands.
type place struct {
	file string
	// entry is true for the command line of a boot entry, false for a setting
	// that a generator makes entries from.
	entry bool
	// name is the variable that holds it, "" in an entry.
	name string
	// kernel is the kernel as the entry names it, where it does.
	kernel string
}

// editLine changes one command line.
type editLine func(place, *cmdline.Args)

// cmdlines lets edit see every kernel command line of the guest, and proposes
// the files that come out changed.
func (p *planner) cmdlines(edit editLine) {
	for _, c := range p.cmdlineFiles() {
		data, ok := p.read(c.name)
		if !ok {
			continue
		}
		now := c.rewrite(c.name, data, edit)
		if now == nil {
			p.note("%s: the new command line does not fit; left", c.name)
			continue
		}
		p.write(c.name, data, now)
	}
}

type cmdlineFile struct {
	name string
	// rewrite returns the content with edit applied, nil where that is not possible.
	rewrite func(name string, data []byte, edit editLine) []byte
}

// cmdlineFiles lists the files that hold kernel command lines. The configuration
// of GRUB that only finds the real one (on the ESP) holds none, so nothing in it
// can change.
func (p *planner) cmdlineFiles() []cmdlineFile {
	var grub, legacy, bls, syslinux []string
	lilo := []string{"etc/lilo.conf", "etc/elilo.conf", "etc/zipl.conf"}
	for _, dir := range []string{"boot/grub", "boot/grub2"} {
		grub = append(grub, path.Join(dir, "grub.cfg"), path.Join(dir, "custom.cfg"))
		legacy = append(legacy, path.Join(dir, "menu.lst"), path.Join(dir, "grub.conf"))
	}
	esps := []string{"boot/efi", "efi", "boot"}
	if esp := p.facts.Loader.ESP; esp != "" {
		esps = append([]string{esp}, esps...)
	}
	bls = p.list("boot/loader/entries", ".conf")
	for _, esp := range esps {
		for _, vendor := range p.list(path.Join(esp, "EFI"), "") {
			grub = append(grub, path.Join(vendor, "grub.cfg"))
			legacy = append(legacy, p.list(vendor, ".conf")...)
			lilo = append(lilo, path.Join(vendor, "elilo.conf"))
		}
		bls = append(bls, p.list(path.Join(esp, "loader/entries"), ".conf")...)
	}
	syslinux = []string{"boot/extlinux.conf", "boot/extlinux/extlinux.conf", "boot/syslinux/syslinux.cfg", "extlinux.conf"}
	for _, dir := range []string{"boot/extlinux", "boot/syslinux"} { // what is included
		syslinux = append(syslinux, p.list(dir, ".cfg")...)
		syslinux = append(syslinux, p.list(dir, ".conf")...)
	}
	for _, name := range p.facts.Loader.Configs {
		switch path.Base(name) {
		case "grub.cfg":
			grub = append(grub, name)
		case "extlinux.conf", "syslinux.cfg":
			syslinux = append(syslinux, name)
		}
	}
	shell := append([]string{"etc/default/grub"}, p.list("etc/default/grub.d", ".cfg")...)
	shell = append(shell, "etc/dracut.conf", "etc/update-extlinux.conf", "etc/default/extlinux", "etc/default/u-boot")
	shell = append(shell, p.list("etc/dracut.conf.d", ".conf")...)
	plain := append([]string{"etc/kernel/cmdline"}, p.list("etc/cmdline.d", ".conf")...)
	plain = append(plain, p.list("etc/kernel/cmdline.d", ".conf")...)
	env := p.environments()
	photon := append(p.list("boot", ".cfg"), p.list("boot/grub2", ".cfg")...)

	var out []cmdlineFile
	for _, set := range []struct {
		names   []string
		rewrite func(string, []byte, editLine) []byte
	}{
		{grub, inGrubConfig}, {lilo, inLilo}, {legacy, inGrubLegacy}, {bls, inBLS}, {syslinux, inSyslinux},
		{env, inGrubEnv}, {photon, inPhoton}, {shell, inShell}, {plain, inPlain},
		{[]string{"etc/sysconfig/bootloader"}, inBootloader},
	} {
		for _, name := range p.once(set.names) {
			out = append(out, cmdlineFile{name, set.rewrite})
		}
	}
	return out
}

// eachLine passes each line without its end through change.
func eachLine(data []byte, change func(string) string) []byte {
	var b bytes.Buffer
	for l := range strings.SplitAfterSeq(string(data), "\n") {
		text := strings.TrimRight(l, "\r\n")
		b.WriteString(change(text))
		b.WriteString(l[len(text):])
	}
	return b.Bytes()
}

var (
	grubLinux = regexp.MustCompile(`^([ \t]*(?:linux|linux16|linuxefi|module|module2)[ \t]+)(.*)$`)
	grubOpts  = regexp.MustCompile(`^([ \t]*set[ \t]+(?:default_)?kernelopts=")([^"]*)(".*)$`)
	// Photon's grub.cfg puts the root into a variable.
	grubRoot = regexp.MustCompile(`^([ \t]*set[ \t]+root)(partition=[^ \t"']+)(.*)$`)
)

// inGrubConfig edits GRUB 2's configuration: the arguments of linux commands,
// and the variables that Fedora and Photon put them into.
func inGrubConfig(name string, data []byte, edit editLine) []byte {
	return eachLine(data, func(l string) string {
		if m := grubLinux.FindStringSubmatch(l); m != nil {
			return m[1] + kernelAndArgs(place{file: name, entry: true}, m[2], edit)
		}
		if m := grubOpts.FindStringSubmatch(l); m != nil {
			return m[1] + editText(place{file: name, name: "kernelopts"}, m[2], edit) + m[3]
		}
		if m := grubRoot.FindStringSubmatch(l); m != nil {
			_, value, _ := strings.Cut(m[2], "=")
			arg := editText(place{file: name, name: "rootpartition"}, "root="+value, edit)
			return m[1] + "partition=" + strings.TrimPrefix(arg, "root=") + m[3]
		}
		return l
	})
}

// kernelAndArgs edits what follows a linux command: the kernel, then its
// arguments. A line without arguments of Linux's (memtest, a Xen initrd) stays.
func kernelAndArgs(pl place, text string, edit editLine) string {
	kernel, rest := text, ""
	if i := strings.IndexAny(text, " \t"); i >= 0 {
		kernel, rest = text[:i], text[i:]
	}
	args := cmdline.Parse(rest)
	if args.Open() || !args.Has("root") && !args.Has("ro") && !args.Has("rw") && !args.Has("$kernelopts") {
		return text
	}
	pl.kernel = strings.Trim(kernel, `"'`)
	edit(pl, args)
	return kernel + args.String()
}

func editText(pl place, text string, edit editLine) string {
	args := cmdline.Parse(text)
	if !args.Open() {
		edit(pl, args)
	}
	return args.String()
}

var legacyKernel = regexp.MustCompile(`^([ \t]*(?:kernel|module)[ \t]+|# kopt=|# xenkopt=|# defoptions=)(.*)$`)

// inGrubLegacy edits menu.lst and grub.conf, with the comments that Debian's
// update-grub reads its settings from.
func inGrubLegacy(name string, data []byte, edit editLine) []byte {
	return eachLine(data, func(l string) string {
		m := legacyKernel.FindStringSubmatch(l)
		switch {
		case m == nil:
			return l
		case m[1][0] == '#':
			return m[1] + editText(place{file: name, name: strings.Trim(m[1], "# =")}, m[2], edit)
		}
		return m[1] + kernelAndArgs(place{file: name, entry: true}, m[2], edit)
	})
}

var (
	blsOptions = regexp.MustCompile(`^([ \t]*options[ \t]+)(.*)$`)
	blsLinux   = regexp.MustCompile(`(?m)^[ \t]*linux[ \t]+(\S+)`)
)

// inBLS edits an entry of the Boot Loader Specification, type 1.
func inBLS(name string, data []byte, edit editLine) []byte {
	pl := place{file: name, entry: true}
	if m := blsLinux.FindSubmatch(data); m != nil {
		pl.kernel = string(m[1])
	}
	return eachLine(data, func(l string) string {
		if m := blsOptions.FindStringSubmatch(l); m != nil {
			return m[1] + editText(pl, m[2], edit)
		}
		return l
	})
}

var syslinuxAppend = regexp.MustCompile(`^([ \t]*(?i:append)[ \t]+)(.*)$`)

func inSyslinux(name string, data []byte, edit editLine) []byte {
	return eachLine(data, func(l string) string {
		if m := syslinuxAppend.FindStringSubmatch(l); m != nil {
			return m[1] + editText(place{file: name, entry: true}, m[2], edit)
		}
		return l
	})
}

// inShell edits the settings that generators of boot entries read. The root of
// Alpine's update-extlinux.conf stands in a variable of its own.
func inShell(name string, data []byte, edit editLine) []byte {
	file := shellvars.Parse(data)
	for _, v := range file.Vars() {
		switch v.Name {
		case "GRUB_CMDLINE_LINUX", "GRUB_CMDLINE_LINUX_DEFAULT", "GRUB_CMDLINE_LINUX_RECOVERY",
			"GRUB_CMDLINE_LINUX_XEN_REPLACE", "GRUB_CMDLINE_LINUX_XEN_REPLACE_DEFAULT",
			"kernel_cmdline", "default_kernel_opts",
			"EXTLINUX_ROOT", "EXTLINUX_PARAMETERS", "U_BOOT_ROOT", "U_BOOT_PARAMETERS": // of Debian's
			v.Value = editText(place{file: name, name: v.Name}, v.Value, edit)
		case "root":
			if path.Base(name) == "update-extlinux.conf" && v.Value != "" {
				v.Value = strings.TrimPrefix(editText(place{file: name, name: v.Name}, "root="+v.Value, edit), "root=")
			}
		}
	}
	return file.Bytes()
}

var photonLine = regexp.MustCompile(`^(photon_cmdline=)(.*)$`)

// inPhoton edits the files that Photon's grub.cfg loads for a kernel: most of its
// command line is in a variable, and the root in grub.cfg.
func inPhoton(name string, data []byte, edit editLine) []byte {
	return eachLine(data, func(l string) string {
		if m := photonLine.FindStringSubmatch(l); m != nil {
			return m[1] + editText(place{file: name, entry: true, name: "photon_cmdline"}, m[2], edit)
		}
		return l
	})
}

func inPlain(name string, data []byte, edit editLine) []byte {
	return eachLine(data, func(l string) string {
		if l == "" || l[0] == '#' {
			return l
		}
		return editText(place{file: name, name: path.Base(name)}, l, edit)
	})
}

// inGrubEnv edits the variable that boot entries of RHEL 8 and Fedora 30 take
// their arguments from. GRUB writes to the block in place: its size must stay.
func inGrubEnv(name string, data []byte, edit editLine) []byte {
	env, ok := bootmenu.ParseEnv(data)
	if !ok {
		return data
	}
	old, ok := env.Get("kernelopts")
	if !ok {
		return data
	}
	now := editText(place{file: name, name: "kernelopts"}, old, edit)
	if now == old {
		return data
	}
	env.Set("kernelopts", now)
	block, _ := env.Bytes() // nil where it does not fit
	return block
}
