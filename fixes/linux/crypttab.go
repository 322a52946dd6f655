package linux

import (
	"slices"
	"strings"

	"hyper2kvm/fixes/guest"
	"hyper2kvm/fixes/linux/cmdline"
	"hyper2kvm/fixes/linux/table"
)

func crypttab(opts Options) fix {
	return fix{
		id:  "linux/crypttab",
		why: "Encrypted volumes named by disk order or bus address are not found on KVM, and the boot waits for them.",
		plan: func(p *planner) error {
			d := opts.devices(p.facts)
			p.cmdlines(func(pl place, a *cmdline.Args) { cryptArgs(p, d, pl, a) })
			boundVolumes(p)
			const name = "etc/crypttab"
			data, ok := p.read(name)
			if !ok {
				return nil
			}
			file := table.Parse(data)
			e := crypttabEditor{planner: p, devices: d}
			for _, row := range file.Rows() {
				if row.Len() >= 2 {
					e.device(row)
					e.keyFile(row)
					e.tpm(row)
					e.early(row)
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
	case other:
		if e.ambiguous(spec, "") {
			e.note("etc/crypttab line %d: %s stands for several devices; left", r.Line, spec)
		}
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
		return e.first(s, e.preferred("uuid", "partuuid", "label")...)
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

// tpm takes the options out that unlock by the old machine's TPM. systemd before
// 251 does not fall back to a passphrase by itself.
func (e crypttabEditor) tpm(r *table.Row) {
	list := strings.Split(r.Field(3), ",")
	if !slices.ContainsFunc(list, tpmOption) {
		return
	}
	uuid := ""
	if s, ok := e.devices.facts.Resolve(r.Field(1)); ok {
		uuid = s.UUID
	}
	if uuid == "" || !passphraseLeft(e.planner, "etc/crypttab", uuid) {
		return
	}
	if list = slices.DeleteFunc(list, tpmOption); len(list) == 0 {
		list = []string{"luks"}
	}
	r.Set(3, strings.Join(list, ","))
	e.note("etc/crypttab line %d: the key sealed by the old machine's TPM is not asked for any more, the passphrase is; it stays in the volume", r.Line)
}

// early marks a volume that the root, /usr or the swap to resume from lies in for
// Debian's initramfs: its hook finds them by what is mounted, which is not what
// the guest has where its initramfs is made anew outside of it. Older hooks do not
// know the word.
func (e crypttabEditor) early(r *table.Row) {
	if !e.exists("usr/share/initramfs-tools/hooks/cryptroot") || !e.exists("usr/lib/cryptsetup/functions") && !e.exists("lib/cryptsetup/functions") {
		return
	}
	s, ok := e.devices.facts.Resolve(r.Field(1))
	if !ok || s.LUKS == nil || !e.neededEarly(s.UUID) || hasOption(r.Field(3), "noearly") {
		return
	}
	for r.Len() < 3 {
		r.Set(r.Len(), "none")
	}
	r.Set(3, withOptions(r.Field(3), "initramfs"))
}

// neededEarly reports whether the root or /usr lies in an encrypted volume.
func (e crypttabEditor) neededEarly(uuid string) bool {
	for _, m := range e.devices.facts.Mounts {
		if m.Point != "/" && m.Point != "/usr" {
			continue
		}
		for _, s := range e.devices.facts.Filesystems {
			if s.UUID == m.UUID && slices.Contains(s.Within, uuid) {
				return true
			}
		}
	}
	return false
}

// boundVolumes says aloud which volumes are opened by what does not move along.
func boundVolumes(p *planner) {
	for i := range p.facts.Filesystems {
		s := &p.facts.Filesystems[i]
		if s.LUKS == nil {
			continue
		}
		for _, t := range s.LUKS.Tokens {
			switch {
			case t.Pin == "tang":
				p.note("%s opens by the Tang server %s: the guest must reach it when it boots on KVM, or its passphrase is asked for", luksName(s), t.Server)
			case t.Pin == "tpm2" || t.Type == "systemd-tpm2":
				p.note("%s opens by a key sealed in the old machine's TPM: on KVM %s; it can be bound anew there (clevis luks bind, systemd-cryptenroll)", luksName(s), withoutItsTPM(s.LUKS))
			case t.Type == "systemd-fido2" || t.Type == "systemd-pkcs11":
				p.note("%s opens by a token (%s) that has to be passed through to the guest", luksName(s), t.Type)
			}
		}
	}
}

func withoutItsTPM(l *guest.LUKS) string {
	if l.Passphrases == 0 {
		return "nothing that its header tells of opens it"
	}
	return "its passphrase is asked for"
}
