package packages

import (
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"hyper2kvm/fixes/guest/guesttest"
)

const status = `Package: open-vm-tools
Status: install ok installed
Depends: libc6 (>= 2.34), pciutils,
 iproute2
Recommends: ethtool

Package: open-vm-tools-desktop
Status: install ok installed
Pre-Depends: open-vm-tools (= 2:12.2.0-1)

Package: virtualbox-guest-utils
Status: deinstall ok config-files

Package: xe-guest-utilities
Status: install ok installed
Provides: xenstore-tools (= 1)

Package: appliance
Status: hold ok installed
Depends: nothing-here | xenstore-tools:any (>= 0)

Package: other
Status: install ok installed
Depends: open-vm-tools | libc6

Package: libc6
Status: install ok installed
Description: text
 Package: not-one
`

func TestRemovableDpkg(t *testing.T) {
	tree := guesttest.New(t, "-- var/lib/dpkg/status --\n"+status)
	installed, err := Dpkg(tree)
	if err != nil {
		t.Fatal(err)
	}
	names, kept := Removable(installed, func(n string) bool {
		return strings.HasPrefix(n, "open-vm-tools") || n == "xe-guest-utilities" || strings.HasPrefix(n, "virtualbox")
	})
	if d := cmp.Diff([]string{"open-vm-tools", "open-vm-tools-desktop"}, names); d != "" {
		t.Errorf("removable (-want +got):\n%s", d)
	}
	if d := cmp.Diff([]Kept{{"xe-guest-utilities", "appliance"}}, kept); d != "" {
		t.Errorf("kept (-want +got):\n%s", d)
	}
}

// TestRemovableChain keeps a package that only a kept one needs.
func TestRemovableChain(t *testing.T) {
	names, kept := Removable([]Package{
		{Name: "user", Needs: [][]string{{"a"}}}, {Name: "a", Needs: [][]string{{"b"}}}, {Name: "b"}, {Name: "c"},
	}, func(n string) bool { return n != "user" })
	if !slices.Equal(names, []string{"c"}) || len(kept) != 2 {
		t.Errorf("removable %v, kept %v", names, kept)
	}
}

func TestApkAndPacman(t *testing.T) {
	tree := guesttest.New(t, `
-- lib/apk/db/installed --
C:Q1abc=
P:open-vm-tools
V:12.3.5-r0
D:so:libc.musl-x86_64.so.1 procps>=4 !conflict
p:so:libvmtools.so.0=0.0.0 cmd:vmtoolsd=12.3.5-r0
F:usr/bin
R:vmtoolsd

P:open-vm-tools-guestinfo
D:so:libvmtools.so.0
-- var/lib/pacman/local/ALPM_DB_VERSION --
9
-- var/lib/pacman/local/open-vm-tools-6:12.4.0-1/desc --
%NAME%
open-vm-tools

%VERSION%
6:12.4.0-1

%DEPENDS%
glib2
libtirpc>=1

%PROVIDES%
vmtools=12
`)
	apk, err := Apk(tree)
	if err != nil {
		t.Fatal(err)
	}
	want := []Package{
		{Name: "open-vm-tools", Needs: [][]string{{"so:libc.musl-x86_64.so.1"}, {"procps"}}, Provides: []string{"so:libvmtools.so.0", "cmd:vmtoolsd"}},
		{Name: "open-vm-tools-guestinfo", Needs: [][]string{{"so:libvmtools.so.0"}}},
	}
	if d := cmp.Diff(want, apk); d != "" {
		t.Errorf("apk (-want +got):\n%s", d)
	}
	pacman, err := Pacman(tree)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff([]Package{{Name: "open-vm-tools", Needs: [][]string{{"glib2"}, {"libtirpc"}}, Provides: []string{"vmtools"}}}, pacman); d != "" {
		t.Errorf("pacman (-want +got):\n%s", d)
	}
}

// FuzzParse holds that nothing is removable which something that stays needs,
// whatever a database holds.
func FuzzParse(f *testing.F) {
	f.Add(status)
	f.Add("P:open-vm-tools\nD:a !b\n\nP:x\nD:open-vm-tools>1\n")
	f.Add("%NAME%\nopen\n%DEPENDS%\na|b\n")
	f.Fuzz(func(t *testing.T, data string) {
		all := append(parseDpkg([]byte(data)), parseApk([]byte(data))...)
		all = append(all, parsePacman([]byte(data)))
		names, _ := Removable(all, func(n string) bool { return strings.HasPrefix(n, "o") })
		for _, p := range all {
			if slices.Contains(names, p.Name) {
				continue
			}
			for _, need := range p.Needs {
				if len(need) == 1 && slices.Contains(names, need[0]) && !provided(all, names, need[0]) {
					t.Fatalf("%s goes, which %s needs", need[0], p.Name)
				}
			}
		}
	})
}

func provided(all []Package, gone []string, name string) bool {
	return slices.ContainsFunc(all, func(p Package) bool {
		return !slices.Contains(gone, p.Name) && (p.Name == name || slices.Contains(p.Provides, name))
	})
}
