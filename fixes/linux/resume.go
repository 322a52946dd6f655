package linux

import (
	"strings"

	"hyper2kvm/fixes/guest"
	"hyper2kvm/fixes/linux/cmdline"
	"hyper2kvm/fixes/linux/shellvars"
)

func resume(opts Options) fix {
	return fix{
		id:  "linux/resume",
		why: "An initramfs that waits for a swap device that is not there delays every boot by 30 seconds and more.",
		plan: func(p *planner) error {
			d := opts.devices(p.facts)
			files := append([]string{"etc/initramfs-tools/initramfs.conf"}, p.list("etc/initramfs-tools/conf.d", "")...)
			for _, name := range p.once(files) {
				resumeFile(p, d, name)
			}
			p.cmdlines(func(pl place, a *cmdline.Args) { resumeArgs(p, d, pl, a) })
			return nil
		},
	}
}

// resumeFile edits RESUME= of initramfs-tools(7).
func resumeFile(p *planner, d devices, name string) {
	data, ok := p.read(name)
	if !ok {
		return
	}
	file := shellvars.Parse(data)
	for _, v := range file.Vars() {
		if v.Name == "ROOT" && strings.HasPrefix(v.Value, "/dev/") {
			v.Value = p.renamePart(d, name, v.Value)
		}
		if v.Name != "RESUME" {
			continue
		}
		s, state := d.look(v.Value, "swap")
		switch state {
		case moves:
			if tag, ok := d.stable(s); ok {
				v.Value = tag
			} else {
				p.note("%s: %s has no UUID of its own; no resume device", name, v.Value)
				v.Value = "none"
			}
		case missing:
			p.note("%s: %s is on no disk that was given; no resume device", name, v.Value)
			v.Value = "none"
		}
	}
	p.write(name, data, file.Bytes())
}

// resumeArgs edits resume= on a kernel command line.
func resumeArgs(p *planner, d devices, pl place, a *cmdline.Args) {
	gone := false
	for i := len(a.All()) - 1; i >= 0; i-- {
		key, value, _ := cmdline.Split(a.All()[i])
		if key != "resume" {
			continue
		}
		switch s, state := d.look(value, "swap"); state {
		case moves:
			gone = holdsVolumes(s.Type) || !renameArg(p, d, pl, a, i, s)
			if gone {
				p.note("%s: resume=%s is no swap that could be named; removed", pl.file, value)
				a.Remove(i)
			}
		case missing:
			p.note("%s: resume=%s is on no disk that was given; removed", pl.file, value)
			a.Remove(i)
			gone = true
		}
	}
	for i := len(a.All()) - 1; gone && i >= 0; i-- {
		if strings.HasPrefix(a.All()[i], "resume_offset=") {
			a.Remove(i)
		}
	}
}

// renameArg gives argument i the stable name of s and keeps its quotes.
func renameArg(p *planner, d devices, pl place, a *cmdline.Args, i int, s *guest.Filesystem) bool {
	old := a.All()[i]
	if holdsVolumes(s.Type) {
		p.note("%s: %s holds %s, which cannot be mounted; left", pl.file, old, s.Type)
		return false
	}
	key, value, _ := cmdline.Split(old)
	tag, ok := d.stable(s)
	if pl.kernel != "" && bootsWithoutInitramfs(p.facts, pl.kernel) {
		// Without an initramfs the kernel itself finds the root, by PARTUUID only.
		tag, ok = d.first(s, "partuuid")
	}
	if !ok {
		p.note("%s: %s names a device without a UUID of its own; left", pl.file, old)
		return false
	}
	a.Set(i, strings.Replace(old, key+"="+value, key+"="+tag, 1))
	return true
}
