package initramfs

import (
	"bytes"
	"regexp"
	"slices"
	"strings"

	"hyper2kvm/fixes/guest"
	"hyper2kvm/fixes/linux/lvmconf"
	"hyper2kvm/fixes/linux/table"
	"hyper2kvm/formats/cpio"
)

// storageConfigs are the files by which an image finds the root's volumes, and
// the guest's own that they were made of.
func storageConfigs() map[string]string {
	return map[string]string{
		"etc/crypttab":          "etc/crypttab", // dracut, systemd
		"cryptroot/crypttab":    "etc/crypttab", // initramfs-tools
		"etc/mdadm.conf":        "etc/mdadm.conf",
		"etc/mdadm/mdadm.conf":  "etc/mdadm/mdadm.conf",
		"etc/lvm/lvm.conf":      "etc/lvm/lvm.conf",
		"etc/lvm/lvmlocal.conf": "etc/lvm/lvmlocal.conf",
	}
}

// staleConfigs brings the image's copies in line with what was repaired in the
// guest's: only what names the old machine's disks, since a generator writes
// things of its own into its copies.
func (c *checked) staleConfigs(tree guest.FS, name string, m member) error {
	from, ok := storageConfigs()[name]
	if !ok {
		return nil
	}
	own, err := optional(tree, from)
	if err != nil || own == nil {
		return err
	}
	now := m.data
	switch {
	case strings.HasSuffix(name, "crypttab"):
		now = staleCrypttab(m.data, own)
	case strings.Contains(name, "lvm"):
		now = staleLVM(m.data, own)
	case namesDisks(m.data) && !namesDisks(own):
		now = own
	}
	if !bytes.Equal(now, m.data) {
		c.replace(cpio.File(name, now), "it names disks of the old machine")
	}
	return nil
}

var (
	diskName = regexp.MustCompile(`(?m)^[^#\n]*(/dev/[^\s",;=]+)`)
	pattern  = regexp.MustCompile(`[*?\[].*$`)
)

// namesDisks reports whether a configuration names devices that have other names
// after the move, patterns of them among them.
func namesDisks(data []byte) bool {
	for l := range strings.Lines(string(data)) {
		l, _, _ = strings.Cut(l, "#")
		for _, m := range diskName.FindAllStringSubmatch(l, -1) {
			// A pattern ends where it begins to match: /dev/sd* as /dev/sda.
			if unstable(m[1]) || pattern.MatchString(m[1]) && unstable(pattern.ReplaceAllString(m[1], "a")) {
				return true
			}
		}
	}
	return false
}

// staleCrypttab gives the rows that name a disk by what changes, or ask the old
// machine's TPM, what the guest's row of that name has.
func staleCrypttab(have, own []byte) []byte {
	rows := map[string]*table.Row{}
	for _, r := range table.Parse(own).Rows() {
		rows[r.Field(0)] = r
	}
	file := table.Parse(have)
	for _, r := range file.Rows() {
		o := rows[r.Field(0)]
		if o == nil || o.Len() < 2 || r.Len() < 2 {
			continue
		}
		if unstable(r.Field(1)) {
			r.Set(1, o.Field(1))
		}
		if r.Len() > 3 && strings.Contains(r.Field(3), "tpm2-") && !strings.Contains(o.Field(3), "tpm2-") {
			list := slices.DeleteFunc(strings.Split(r.Field(3), ","), func(s string) bool { return strings.HasPrefix(s, "tpm2-") })
			if len(list) == 0 {
				list = []string{"luks"}
			}
			r.Set(3, strings.Join(list, ","))
		}
	}
	return file.Bytes()
}

// staleLVM puts in front of a filter what was put in front of the guest's.
func staleLVM(have, own []byte) []byte {
	file, now := lvmconf.Parse(have), lvmconf.Parse(own)
	if !file.Sound() || !now.Sound() {
		return have
	}
	for _, s := range file.Settings() {
		for _, o := range now.Settings() {
			if s.List && o.List && s.Path == o.Path && len(o.Values) == len(s.Values)+1 && slices.Equal(o.Values[1:], s.Values) {
				s.Prepend(o.Values[0])
			}
		}
	}
	return file.Bytes()
}
