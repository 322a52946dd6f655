package linux

import (
	"strings"

	"hyper2kvm/fixes/guest"
	"hyper2kvm/fixes/linux/table"
)

func crypttab(opts Options) fix {
	return fix{
		id:  "linux/crypttab",
		why: "Encrypted volumes named by disk order or bus address are not found on KVM, and the boot waits for them.",
		plan: func(p *planner) error {
			const name = "etc/crypttab"
			data, ok := p.read(name)
			if !ok {
				return nil
			}
			file := table.Parse(data)
			e := crypttabEditor{planner: p, devices: opts.devices(p.facts)}
			for _, row := range file.Rows() {
				if row.Len() >= 2 {
					e.device(row)
					e.keyFile(row)
				}
			}
			p.write(name, data, file.Bytes())
			return nil
		},
	}
}

type crypttabEditor struct {
	*planner
	devices
}

// device edits field 2 of crypttab(5).
func (e crypttabEditor) device(r *table.Row) {
	spec := r.Field(1)
	s, state := e.look(spec, "")
	switch state {
	case moves:
		name, ok := e.name(r, s)
		if !ok {
			e.note("etc/crypttab line %d: %s has no UUID of its own; left", r.Line, spec)
			return
		}
		r.Set(1, name)
	case missing:
		old := r.Field(3)
		if hasOption(old, "noauto") {
			return
		}
		for r.Len() < 3 {
			r.Set(r.Len(), "none")
		}
		r.Set(3, withOptions(old, "nofail", deviceTimeout))
		if r.Field(3) != old {
			e.note("etc/crypttab line %d: %s is on no disk that was given; the boot goes on without it (nofail)", r.Line, spec)
		}
	}
}

// name is UUID= of a LUKS header, which the volume keeps whatever is in it.
// Without a header every opening with a fresh key makes new content, so only
// the partition itself has a name.
func (e crypttabEditor) name(r *table.Row, s *guest.Filesystem) (string, bool) {
	if s.Type == "crypto_LUKS" {
		return e.first(s, "uuid", "partuuid")
	}
	name, ok := e.first(s, "partuuid")
	if !ok {
		return "", false
	}
	// Debian's own cryptsetup scripts took PARTUUID= long after udev had the link.
	return "/dev/disk/by-partuuid/" + strings.TrimPrefix(name, "PARTUUID="), true
}

// keyFile edits field 3 where the key lies on a device: the device itself,
// "device:path" (Debian's passdev) or "path:device" (systemd).
func (e crypttabEditor) keyFile(r *table.Row) {
	parts := strings.Split(r.Field(2), ":")
	// A by-path name holds colons of its own: then only the whole is tried.
	if strings.Contains(r.Field(2), "/by-path/") {
		parts = []string{r.Field(2)}
	}
	for i, part := range parts {
		s, state := e.look(part, "")
		switch state {
		case moves:
			name, ok := e.path(s)
			if !ok {
				e.note("etc/crypttab line %d: the key device %s has no UUID of its own; left", r.Line, part)
				continue
			}
			parts[i] = name
		case missing:
			e.note("etc/crypttab line %d: the key device %s is on no disk that was given; left", r.Line, part)
		}
	}
	r.Set(2, strings.Join(parts, ":"))
}
