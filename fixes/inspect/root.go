package inspect

import (
	"slices"
	"strconv"
	"strings"

	"hyper2kvm/fixes/guest"
)

// Fstab reads the lines of etc/fstab (fstab(5)) that have two fields at least.
func Fstab(data []byte) []guest.FstabEntry {
	var out []guest.FstabEntry
	for _, l := range lines(data) {
		w := strings.Fields(l)
		if len(w) < 2 {
			continue
		}
		w = append(w, "auto", "defaults")
		out = append(out, guest.FstabEntry{Spec: unescapeFstab(w[0]), Point: unescapeFstab(w[1]), Type: w[2], Options: strings.Split(w[3], ",")})
	}
	return out
}

// fstab lists the entries with what they mean.
func (f *finder) fstab() {
	data, _ := f.read("etc/fstab")
	f.facts.Fstab = Fstab(data)
	for i := range f.facts.Fstab {
		e := &f.facts.Fstab[i]
		if s, ok := f.facts.ResolveAs(e.Spec, e.Type); ok {
			e.UUID = s.UUID
		}
	}
}

// unescapeFstab undoes the \040 and its like (getmntent(3)).
func unescapeFstab(s string) string {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+3 < len(s) {
			if c, err := strconv.ParseUint(s[i+1:i+4], 8, 8); err == nil {
				b.WriteByte(byte(c))
				i += 3
				continue
			}
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

// IsRoot reports whether a tree is the root of an installed system, also when
// its /usr lies on another file system.
func IsRoot(tree guest.FS) bool {
	there := func(names ...string) bool {
		return slices.ContainsFunc(names, func(n string) bool {
			_, err := tree.Lstat(n)
			return err == nil
		})
	}
	return there("bin", "usr/bin", "sbin") &&
		there("etc/os-release", "etc/fstab", "etc/redhat-release", "etc/SuSE-release", "etc/debian_version", "usr/lib/os-release") &&
		there("etc/passwd", "etc/shadow", "etc/inittab", "etc/hostname", "etc/fstab", "etc/systemd")
}

// IsOSTree reports whether a tree is the store of an OSTree system, as Fedora
// CoreOS and Silverblue are: the roots are folders deep in it (ostree-admin(1)).
func IsOSTree(tree guest.FS) bool {
	for _, name := range []string{"ostree/repo", "ostree/deploy"} {
		if info, err := tree.Lstat(name); err != nil || !info.IsDir() {
			return false
		}
	}
	return true
}
