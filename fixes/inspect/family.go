package inspect

import (
	"path"
	"regexp"
	"slices"
	"strings"

	"hyper2kvm/fixes/guest"
)

// unsaid gives the families of systems whose os-release does not name them:
// SLES 12, and SLES for SAP Applications of that time, have no ID_LIKE, Oracle
// Linux names Fedora alone.
func unsaid(os guest.OS) []string {
	family := ""
	switch {
	case os.ID == "ol" || os.ID == "oracle":
		family = "rhel"
	case strings.HasPrefix(os.ID, "sle") || strings.HasPrefix(os.ID, "opensuse"):
		family = "suse"
	}
	if family == "" || slices.Contains(os.IDLike, family) {
		return nil
	}
	return []string{family}
}

// patchLevel matches the service pack in SLES's old release file.
var patchLevel = regexp.MustCompile(`(?m)^PATCHLEVEL *= *([1-9][0-9]*)`)

// isLinux reports whether a tree without a name is a Linux system's: it has a
// shell, and modules, a kernel or the dynamic linker of Linux.
func (f *finder) isLinux() bool {
	if !f.exists("bin/sh") && !f.exists("usr/bin/sh") {
		return false
	}
	if f.isDir("lib/modules") || f.isDir("usr/lib/modules") {
		return true
	}
	for _, dir := range []string{"boot", "lib", "lib64", "usr/lib", "usr/lib64"} {
		if slices.ContainsFunc(f.list(dir, ""), func(name string) bool { return ofLinux.MatchString(path.Base(name)) }) {
			return true
		}
	}
	return false
}

// ofLinux matches a kernel's image, and the linkers of the C libraries of Linux.
var ofLinux = regexp.MustCompile(`^(?:vmlinu[xz]|bzImage|ld-linux|ld-musl-)`)
