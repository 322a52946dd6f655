package inspect

import (
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"hyper2kvm/fixes/guest"
)

// needs tells what the virtual machine must be like for the kernel that is going
// to run in it. Where nothing is known of the kernel's drivers, the bus is the
// one that the caller wants.
func (f *finder) needs() {
	n := &f.facts.Needs
	if f.facts.Arch == "x86_64" {
		n.CPU = f.level()
	}
	k := f.facts.KVMKernel()
	if k == nil {
		return
	}
	if age, ok := kernelAge(k.Version); ok && x86(f.facts.Arch) {
		// What is older than 2.6.16 (RHEL 4, SLES 9, Debian 3) was made before PCI
		// Express and its chip sets.
		if age < 2_06_16 {
			n.Machine = "pc"
		}
		if !knowsVirtio1(k.Version, age) {
			n.Virtio = "transitional"
		}
	}
	if len(k.Buses) > 0 && !slices.Contains(k.Buses, f.facts.TargetBus) {
		f.chooseBus(k)
	}
	if len(k.Buses) > 0 && !slices.Contains(k.NICs, "virtio") {
		n.NIC = "e1000"
		if len(k.NICs) > 0 {
			n.NIC = k.NICs[0]
		}
		f.warn("kernel %s has no driver for virtio network cards: they become %s", k.Version, n.NIC)
	}
}

// chooseBus takes the best bus that the kernel has a driver for.
func (f *finder) chooseBus(k *guest.Kernel) {
	wish := f.facts.TargetBus
	f.facts.TargetBus = k.Buses[0]
	if k.Buses[0] == "ide" {
		f.facts.Needs.Machine = "pc" // the other one has no IDE
	}
	if wish != "" {
		f.warn("kernel %s has no driver for a disk on %s: it boots from %s", k.Version, busName(wish), busName(k.Buses[0]))
	}
}

func busName(bus string) string {
	return map[string]string{"virtio": "virtio-blk", "scsi": "virtio-scsi", "sata": "SATA", "ide": "IDE"}[bus]
}

func x86(arch string) bool {
	return arch == "x86_64" || len(arch) == 4 && arch[0] == 'i' && arch[2:] == "86"
}

var upstream = regexp.MustCompile(`^(\d+)\.(\d+)(?:\.(\d+))?`)

// kernelAge is a version as a number: 2.6.18 is 20618.
func kernelAge(version string) (int, bool) {
	m := upstream.FindStringSubmatch(version)
	if m == nil {
		return 0, false
	}
	age := 0
	for _, part := range m[1:] {
		n, _ := strconv.Atoi(part)
		age = age*100 + min(n, 99)
	}
	return age, true
}

var rhel7 = regexp.MustCompile(`^3\.10\.0-(\d+)\..*el7`)

// knowsVirtio1 reports whether a kernel's drivers know version 1.0 of virtio,
// which is all that a device on PCI Express speaks by default: Linux has since
// 4.0, Red Hat's 3.10 since that of RHEL 7.2.
func knowsVirtio1(version string, age int) bool {
	if m := rhel7.FindStringSubmatch(version); m != nil {
		n, _ := strconv.Atoi(m[1])
		return n >= 327
	}
	return age >= 4_00_00
}

// level is the least x86-64 level (x86-64 psABI, "Micro-Architecture Levels")
// that the guest's programs need: what its dynamic linker says of itself, or
// what its distribution is known to be built for. "" is the first.
func (f *finder) level() string {
	n := max(f.libraryLevel(), f.distributionLevel())
	if n < 2 {
		return ""
	}
	return fmt.Sprintf("x86-64-v%d", n)
}

// distributionLevel is that of the release notes.
func (f *finder) distributionLevel() int {
	os := f.facts.OS
	text, _, _ := strings.Cut(os.Version, ".")
	major, _ := strconv.Atoi(text)
	is := func(ids ...string) bool { return slices.Contains(ids, os.ID) }
	switch {
	case is("amzn"):
		return levelFrom(major, 2023, 2)
	case is("rhel", "centos", "rocky", "almalinux", "ol") || slices.Contains(os.IDLike, "rhel"):
		if major >= 10 && !f.builtForV2() {
			return 3
		}
		return levelFrom(major, 9, 2)
	case is("sles", "sled", "sles_sap", "opensuse-leap"):
		return levelFrom(major, 16, 2)
	case is("sl-micro", "opensuse-tumbleweed", "opensuse-microos", "clear-linux-os"):
		return 2
	}
	return 1
}

func levelFrom(major, since, level int) int {
	if major >= since {
		return level
	}
	return 1
}

// builtForV2 knows the second build of AlmaLinux 10, for older processors: the
// architecture of its packages, kernels too, is x86_64_v2.
func (f *finder) builtForV2() bool {
	return slices.ContainsFunc(f.facts.Kernels, func(k guest.Kernel) bool { return strings.HasSuffix(k.Version, ".x86_64_v2") })
}
