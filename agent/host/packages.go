package host

import (
	"os"
	"slices"
	"strings"
)

// The families of distributions that name packages alike.
const (
	debian = "debian"
	fedora = "fedora"
	rhel   = "rhel"
	suse   = "suse"
	arch   = "arch"
)

// What a package brings.
const (
	packageQEMU = "QEMU"
	packageUEFI = "UEFI"
)

// rhelQEMU is where RHEL 8 and later keep their only QEMU.
const rhelQEMU = "/usr/libexec/qemu-kvm"

// packages are the names of the packages by what they bring and by family.
func packages() map[string]map[string]string {
	return map[string]map[string]string{
		packageQEMU: {debian: "qemu-system-x86", fedora: "qemu-system-x86-core", rhel: "qemu-kvm", suse: "qemu-x86", arch: "qemu-system-x86"},
		packageUEFI: {debian: "ovmf", fedora: "edk2-ovmf", rhel: "edk2-ovmf", suse: "qemu-ovmf-x86_64", arch: "edk2-ovmf"},
	}
}

// installer knows how this distribution installs packages.
type installer struct {
	name   string // PRETTY_NAME
	family string // "" where it is none that we know
}

// readInstaller reads os-release; a file that is not there gives one that
// names things only.
func readInstaller(path string) installer {
	text, err := os.ReadFile(path)
	if err != nil {
		return installer{name: "unknown system"}
	}
	vars := map[string]string{}
	for l := range strings.Lines(string(text)) {
		if k, v, ok := strings.Cut(strings.TrimSpace(l), "="); ok {
			vars[k] = strings.Trim(v, `"'`)
		}
	}
	in := installer{name: vars["PRETTY_NAME"]}
	if in.name == "" {
		in.name = "unknown system"
	}
	// ID first: Fedora's derivatives are "like" both fedora and rhel.
	for _, id := range append([]string{vars["ID"]}, strings.Fields(vars["ID_LIKE"])...) {
		if f := familyOf(id); f != "" {
			in.family = f
			return in
		}
	}
	return in
}

func familyOf(id string) string {
	switch {
	case slices.Contains([]string{"debian", "ubuntu"}, id):
		return debian
	case slices.Contains([]string{"rhel", "centos", "rocky", "almalinux", "ol"}, id):
		return rhel
	case id == "fedora":
		return fedora
	case id == "arch":
		return arch
	case id == "suse", id == "sles", strings.HasPrefix(id, "opensuse"):
		return suse
	}
	return ""
}

// install is the command that installs what is missing.
func (in installer) install(what string) string {
	name := packages()[what][in.family]
	switch in.family {
	case debian:
		return "apt-get install --no-install-recommends " + name
	case fedora, rhel:
		return "dnf install " + name
	case suse:
		return "zypper install " + name
	case arch:
		return "pacman -S " + name
	}
	return "install " + what + " for x86-64 virtual machines with this system's package manager"
}
