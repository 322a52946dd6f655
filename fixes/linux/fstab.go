package linux

import (
	"slices"
	"strings"

	"hyper2kvm/fixes/guest"
	"hyper2kvm/fixes/linux/table"
)

// deviceTimeout is how long systemd waits for a disk that was not there when
// the guest was moved, systemd.mount(5). swap.target waits for its swaps even
// when they may fail, so it is short; a disk that is attached later comes up in
// less.
const deviceTimeout = "x-systemd.device-timeout=5s"

func fstab(opts Options) fix {
	return fix{
		id:  "linux/fstab",
		why: "File systems named by disk order or bus address (/dev/sda1, by-path) have another name on KVM, and a missing one stops the boot in emergency mode.",
		plan: func(p *planner) error {
			const name = "etc/fstab"
			d := opts.devices(p.facts)
			mountUnits(p, d)
			data, ok := p.read(name)
			if !ok {
				return nil
			}
			file := table.Parse(data)
			e := &fstabEditor{planner: p, devices: d, crypt: cryptStates(p, d)}
			e.take(file.Rows())
			for _, row := range file.Rows() {
				if row.Len() >= 3 {
					e.row(row)
				}
			}
			for _, row := range file.Rows() {
				if row.Len() >= 3 {
					e.dependent(row)
				}
			}
			p.write(name, data, file.Bytes())
			return nil
		},
	}
}

type fstabEditor struct {
	*planner
	devices
	crypt map[string]state // by the names that crypttab gives to opened volumes
	gone  []string         // mount points whose disks were not given
	taken map[*guest.Filesystem]bool
}

// take notes which file systems are named by what tells a disk, too: a name that
// tells only a partition number means another one.
func (e *fstabEditor) take(rows []*table.Row) {
	e.taken = map[*guest.Filesystem]bool{}
	for _, r := range rows {
		spec, fstype := table.Unescape(r.Field(0)), r.Field(2)
		if s, ok := e.devices.facts.ResolveAs(spec, fstype); ok && e.devices.facts.Candidates(spec, fstype) == nil && s.Type != "btrfs" {
			e.taken[s] = true
		}
	}
}

// lookFree is look among the file systems that nothing else in the file names.
func (e *fstabEditor) lookFree(spec, fstype string) (*guest.Filesystem, state) {
	s, state := e.look(spec, fstype)
	candidates := e.devices.facts.Candidates(spec, fstype)
	if candidates == nil || s != nil && !e.taken[s] {
		return s, state
	}
	free := slices.DeleteFunc(candidates, func(c *guest.Filesystem) bool { return e.taken[c] })
	switch len(free) {
	case 0:
		return nil, missing
	case 1:
		return free[0], moves
	}
	return nil, other
}

// row edits one entry: specification, mount point, type, options.
func (e *fstabEditor) row(r *table.Row) {
	spec, point, fstype := table.Unescape(r.Field(0)), table.Unescape(r.Field(1)), r.Field(2)
	opts := r.Field(3)
	switch {
	case shareOf(spec, fstype) != "":
		r.Set(3, withOptions(opts, "noauto", "nofail"))
		if r.Field(3) != opts {
			e.note("etc/fstab line %d: %s is a shared folder of %s: not mounted at boot any more", r.Line, spec, shareOf(spec, fstype))
		}
		return
	case hasOption(opts, "bind") || hasOption(opts, "rbind"):
		return
	case strings.HasPrefix(spec, "/dev/hd") && optical(fstype):
		r.Set(0, "/dev/cdrom") // IDE drives of old kernels; udev makes the link
		return
	}
	r.Set(3, e.options(r, opts))
	s, state := e.lookFree(spec, fstype)
	if mapped, ok := strings.CutPrefix(spec, "/dev/mapper/"); ok {
		if crypt, listed := e.crypt[mapped]; listed {
			state = crypt // there or not as what crypttab makes it of
		}
	}
	switch state {
	case moves:
		e.rename(r, s, spec, fstype)
	case missing:
		e.missing(r, spec, point)
	case other:
		if e.ambiguous(spec, fstype) {
			e.note("etc/fstab line %d: %s stands for several file systems; left", r.Line, spec)
			if guest.Unstable(spec) && point != "/" && point != "/usr" && !hasOption(opts, "noauto") {
				r.Set(3, withOptions(r.Field(3), e.mayFail()...)) // no such name is there on KVM
			}
		}
	}
}

// optical reports whether a type is that of optical media.
func optical(fstype string) bool {
	return slices.ContainsFunc(strings.Split(fstype, ","), func(t string) bool { return t == "iso9660" || t == "udf" })
}

// dependent keeps an entry that lies on a disk that was not given from stopping
// the boot: systemd fails what needs a mount that failed.
func (e *fstabEditor) dependent(r *table.Row) {
	opts := r.Field(3)
	if hasOption(opts, "nofail") || hasOption(opts, "noauto") {
		return
	}
	for _, on := range e.gone {
		for _, field := range []int{0, 1} {
			if name := table.Unescape(r.Field(field)); strings.HasPrefix(name, on+"/") {
				r.Set(3, withOptions(opts, slices.DeleteFunc(e.mayFail(), func(o string) bool { return o == deviceTimeout })...))
				e.note("etc/fstab line %d: %s lies on %s, whose disk was not given; the boot goes on without it (nofail)", r.Line, name, on)
				return
			}
		}
	}
}

func (e *fstabEditor) rename(r *table.Row, s *guest.Filesystem, spec, fstype string) {
	switch {
	case optical(s.Type):
		e.note("etc/fstab line %d: %s is an optical medium; left", r.Line, spec)
		return
	case holdsVolumes(s.Type):
		e.note("etc/fstab line %d: %s holds %s, which cannot be mounted; left", r.Line, spec, s.Type)
		return
	}
	name, ok := e.stable(s)
	if !ok {
		e.note("etc/fstab line %d: %s has neither a UUID, a PARTUUID nor a label of its own; left", r.Line, spec)
		return
	}
	if fstype == "swap" && s.Type != "swap" && s.Type != "" {
		e.note("etc/fstab line %d: %s is listed as swap and holds %s", r.Line, spec, s.Type)
	}
	r.Set(0, name)
}

// missing keeps an entry for a disk that was not given from stopping the boot.
func (e *fstabEditor) missing(r *table.Row, spec, point string) {
	opts := r.Field(3)
	if strings.HasPrefix(point, "/") && point != "/" && !hasOption(opts, "noauto") {
		e.gone = append(e.gone, strings.TrimRight(point, "/"))
	}
	switch {
	case hasOption(opts, "nofail") && r.Field(2) != "swap":
		return
	case hasOption(opts, "noauto"):
		if guest.Unstable(spec) {
			e.note("etc/fstab line %d: %s is on no disk that was given; not mounted at boot anyway, left", r.Line, spec)
		}
		return
	case point == "/" || point == "/usr":
		e.note("etc/fstab line %d: %s (%s) is on no disk that was given; left", r.Line, spec, point)
		return
	}
	r.Set(3, withOptions(opts, e.mayFail()...))
	if init := e.planner.facts.Init; init != "systemd" && init != "" && r.Len() > 5 {
		// fsck of those days looks for the disk whatever the options say.
		r.Set(5, "0")
	}
	if r.Field(3) != opts {
		e.note("etc/fstab line %d: %s (%s) is on no disk that was given; the boot goes on without it (nofail)", r.Line, spec, point)
	}
}

// mayFail are the options of what the boot goes on without. Programs that mount
// without systemd hand options that they do not know to the kernel, which refuses
// them; Ubuntu's mountall(8) waits unless told otherwise.
func (e *fstabEditor) mayFail() []string {
	switch {
	case e.planner.facts.Init == "upstart" && e.like("ubuntu"):
		return []string{"nofail", "nobootwait"}
	case e.planner.facts.Init != "systemd" && e.planner.facts.Init != "":
		return []string{"nofail"}
	}
	return []string{"nofail", deviceTimeout}
}

// options renames devices that options name.
func (e *fstabEditor) options(r *table.Row, opts string) string {
	list := strings.Split(opts, ",")
	for i, opt := range list {
		key, value, _ := strings.Cut(opt, "=")
		switch key {
		case "x-systemd.requires", "x-systemd.after", "x-systemd.before", "x-systemd.requires-mounts-for",
			"journal", "journal_path", "logdev", "rtdev", "device":
		default:
			continue
		}
		if unit, ok := (unitEditor{e.planner, e.devices}).unitNow("etc/fstab", table.Unescape(value)); ok {
			list[i] = key + "=" + strings.ReplaceAll(unit, `\`, `\134`) // fstab(5) takes escapes
			continue
		}
		s, state := e.look(value, "")
		switch state {
		case moves:
			name, ok := e.path(s)
			if !ok {
				e.note("etc/fstab line %d: option %s names a device without a UUID of its own; left", r.Line, opt)
				continue
			}
			list[i] = key + "=" + name
		case missing:
			e.note("etc/fstab line %d: option %s names a device that is on no disk that was given; left", r.Line, opt)
		}
	}
	return strings.Join(list, ",")
}

// cryptStates tells for each name that crypttab gives whether its device is
// there: other, or missing.
func cryptStates(p *planner, d devices) map[string]state {
	data, ok := p.read("etc/crypttab")
	if !ok {
		return nil
	}
	out := map[string]state{}
	for _, r := range table.Parse(data).Rows() {
		out[r.Field(0)] = other
		if _, state := d.look(r.Field(1), ""); state == missing {
			out[r.Field(0)] = missing
		}
	}
	return out
}

func hasOption(opts, name string) bool {
	return slices.ContainsFunc(strings.Split(opts, ","), func(o string) bool {
		key, _, _ := strings.Cut(o, "=")
		return key == name
	})
}

// withOptions adds the options that are not there yet, by key.
func withOptions(opts string, add ...string) string {
	for _, o := range add {
		key, _, _ := strings.Cut(o, "=")
		if hasOption(opts, key) {
			continue
		}
		if opts != "" {
			opts += ","
		}
		opts += o
	}
	return opts
}
