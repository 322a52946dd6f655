package inspect

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"hyper2kvm/fixes/guest"
	"hyper2kvm/fixes/guest/guesttest"
)

// TestFamily: fixes ask whether a guest is like Red Hat's or SUSE's systems, so
// that must not hang on who wrote ID_LIKE and who did not.
func TestFamily(t *testing.T) {
	for name, test := range map[string]struct {
		tree string
		want guest.OS
	}{
		"SLES 12 has no ID_LIKE": {
			"-- etc/os-release --\nID=\"sles\"\nVERSION_ID=\"12.5\"\n",
			guest.OS{Family: "linux", ID: "sles", Version: "12.5", IDLike: []string{"suse"}},
		},
		"SLES for SAP has an ID of its own": {
			"-- etc/os-release --\nID=\"sles_sap\"\nVERSION_ID=\"12.4\"\n",
			guest.OS{Family: "linux", ID: "sles_sap", Version: "12.4", IDLike: []string{"suse"}},
		},
		"Oracle Linux says fedora alone": {
			"-- etc/os-release --\nID=\"ol\"\nID_LIKE=\"fedora\"\nVERSION_ID=\"8.10\"\n",
			guest.OS{Family: "linux", ID: "ol", Version: "8.10", IDLike: []string{"fedora", "rhel"}},
		},
		"what is said stays": {
			"-- etc/os-release --\nID=rocky\nID_LIKE=\"rhel centos fedora\"\nVERSION_ID=8.10\n",
			guest.OS{Family: "linux", ID: "rocky", Version: "8.10", IDLike: []string{"rhel", "centos", "fedora"}},
		},
		"SLES 11 has its service pack on a line of its own": {
			"-- etc/SuSE-release --\nSUSE Linux Enterprise Server 11 (x86_64)\nVERSION = 11\nPATCHLEVEL = 4\n",
			guest.OS{Family: "linux", ID: "sles", Version: "11.4", IDLike: []string{"suse"}, Name: "SUSE Linux Enterprise Server 11 (x86_64)"},
		},
		"SLES 10 without a service pack": {
			"-- etc/SuSE-release --\nSUSE Linux Enterprise Server 10 (i586)\nVERSION = 10\n",
			guest.OS{Family: "linux", ID: "sles", Version: "10", IDLike: []string{"suse"}, Name: "SUSE Linux Enterprise Server 10 (i586)"},
		},
		"openSUSE of old": {
			"-- etc/SuSE-release --\nopenSUSE 11.4 (x86_64)\nVERSION = 11.4\nCODENAME = Celadon\n",
			guest.OS{Family: "linux", ID: "opensuse", Version: "11.4", IDLike: []string{"suse"}, Name: "openSUSE 11.4 (x86_64)"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			if d := cmp.Diff(test.want, Identify(guesttest.New(t, test.tree))); d != "" {
				t.Error(d)
			}
		})
	}
}

// TestNameless: a Linux without a release file is repaired in what all have in
// common; another system, or a disk of data, is none.
func TestNameless(t *testing.T) {
	for name, test := range map[string]struct{ tree, want string }{
		"own kernel":    {"-- bin/sh --\n-- boot/vmlinuz --\n-- etc/fstab --\n", "linux linux"},
		"own linker":    {"-- usr/bin/sh --\n-- usr/lib64/ld-linux-x86-64.so.2 --\n", "linux linux"},
		"musl":          {"-- bin/sh --\n-- lib/ld-musl-x86_64.so.1 --\n", "linux linux"},
		"modules":       {"-- bin/sh --\n-- lib/modules/6.1/modules.dep --\n", "linux linux"},
		"FreeBSD":       {"-- bin/sh --\n-- boot/kernel/kernel --\n-- libexec/ld-elf.so.1 --\n-- etc/fstab --\n", "unknown "},
		"data":          {"-- boot/vmlinuz --\n-- home/x --\n", "unknown "},
		"it has a name": {"-- bin/sh --\n-- boot/vmlinuz --\n-- etc/os-release --\nID=void\n", "linux void"},
	} {
		t.Run(name, func(t *testing.T) {
			os := Identify(guesttest.New(t, test.tree))
			if got := os.Family + " " + os.ID; got != test.want {
				t.Errorf("got %q, want %q", got, test.want)
			}
		})
	}
}
