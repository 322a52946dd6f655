package linux

import (
	"slices"
	"strings"

	"hyper2kvm/fixes/guest"
	"hyper2kvm/fixes/linux/cmdline"
)

// cryptArgs edits the arguments that name key devices, further members of a
// btrfs, and the TPM that stays behind.
func cryptArgs(p *planner, d devices, pl place, a *cmdline.Args) {
	for i := len(a.All()) - 1; i >= 0; i-- {
		arg := a.All()[i]
		key, value, _ := cmdline.Split(arg)
		now, gone := value, false
		switch key {
		case "rd.luks.key", "luks.key", "rd.luks.header", "luks.header":
			now = keyDevice(p, d, pl.file, value)
		case "cryptkey": // device:type:path of Arch's encrypt hook
			device, rest, ok := strings.Cut(value, ":")
			if ok {
				now = p.renamePart(d, pl.file, device) + ":" + rest
			}
		case "cryptopts": // of initramfs-tools: target=…,source=…,key=…
			now = memberOptions(p, d, pl.file, value, "source")
		case "rootflags":
			now = memberOptions(p, d, pl.file, value, "device")
		case "rd.luks.options", "luks.options":
			now, gone = withoutTPM(p, pl.file, value)
		case "root", "resume":
			tagTold(p, d, pl.file, value)
		}
		switch {
		case gone:
			a.Remove(i)
		case now != value:
			a.Set(i, strings.Replace(arg, key+"="+value, key+"="+now, 1))
		}
	}
}

// renamePart is the stable path of a device, or what was given.
func (p *planner) renamePart(d devices, file, spec string) string {
	s, state := d.look(spec, "")
	switch state {
	case moves:
		if link, ok := d.path(s); ok {
			return link
		}
		p.note("%s: %s has no UUID of its own; left", file, spec)
	case missing:
		p.note("%s: %s is on no disk that was given; left", file, spec)
	}
	return spec
}

// keyDevice edits "[UUID=]PATH:DEVICE" of systemd-cryptsetup-generator(8), where
// DEVICE may be a tag, and dracut's KEY:DEVICE:LUKSUUID.
func keyDevice(p *planner, d devices, file, value string) string {
	if strings.Contains(value, "/by-path/") {
		return value // holds colons of its own
	}
	parts := strings.Split(value, ":")
	for i := 1; i < len(parts); i++ {
		parts[i] = p.renamePart(d, file, parts[i])
	}
	return strings.Join(parts, ":")
}

// memberOptions edits the options that name a device: device= of btrfs(5).
func memberOptions(p *planner, d devices, file, value, option string) string {
	list := strings.Split(value, ",")
	for i, o := range list {
		if device, ok := strings.CutPrefix(o, option+"="); ok {
			list[i] = option + "=" + p.renamePart(d, file, device)
		}
	}
	return strings.Join(list, ",")
}

// tagTold tells of a tag that several file systems carry: which of them is taken
// is chance.
func tagTold(p *planner, d devices, file, value string) {
	if _, _, ok := tagged(value); ok && d.ambiguous(value, "") {
		if _, one := d.facts.Resolve(value); !one {
			p.note("%s: %s stands for several file systems; left", file, value)
		}
	}
}

// tpmOption reports whether an option of crypttab(5) unlocks by the TPM, which
// stays with the old machine.
func tpmOption(option string) bool { return strings.HasPrefix(option, "tpm2-") }

// withoutTPM takes the options of a TPM out of [UUID=]OPTIONS; gone where none is
// left. A passphrase is asked for instead.
func withoutTPM(p *planner, file, value string) (now string, gone bool) {
	uuid, options, ok := strings.Cut(value, "=")
	if !ok || !looksLikeUUID(uuid) {
		uuid, options = "", value
	}
	list := strings.Split(options, ",")
	if !slices.ContainsFunc(list, tpmOption) || !passphraseLeft(p, file, uuid) {
		return value, false
	}
	p.note("%s: the key sealed by the old machine's TPM is not asked for any more, the passphrase is; it stays in the volume", file)
	list = slices.DeleteFunc(list, tpmOption)
	if len(list) == 0 {
		return "", true
	}
	if uuid != "" {
		uuid += "="
	}
	return uuid + strings.Join(list, ","), false
}

func looksLikeUUID(s string) bool { return len(s) == 36 && strings.Count(s, "-") == 4 }

// passphraseLeft reports whether every encrypted volume meant is known to open
// with a passphrase, so that nothing is lost without its TPM; "" means all.
func passphraseLeft(p *planner, file, uuid string) bool {
	known := false
	for _, s := range p.facts.Filesystems {
		if s.LUKS == nil || uuid != "" && !strings.EqualFold(s.UUID, uuid) {
			continue
		}
		known = true
		if s.LUKS.Passphrases <= 0 {
			p.note("%s: %s is unlocked by the old machine's TPM and no passphrase of it is known; left: add one before the move (cryptsetup luksAddKey, systemd-cryptenroll --recovery-key)", file, luksName(&s))
			return false
		}
	}
	if !known {
		p.note("%s: unlocks by the old machine's TPM a volume that was not looked at; left: on KVM its passphrase is asked for", file)
	}
	return known
}

func luksName(s *guest.Filesystem) string { return "encrypted volume " + s.UUID }
