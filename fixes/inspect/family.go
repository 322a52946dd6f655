package inspect

import (
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
