package inspect

import (
	"bytes"
	"encoding/binary"
	"io"
	"path"
	"regexp"
	"strings"

	"hyper2kvm/fixes/guest"
)

func (f *finder) system() {
	f.facts.OS = f.os()
	f.facts.Arch = f.arch()
	f.facts.Hostname = f.hostname()
	f.facts.Init = f.initSystem()
	f.facts.SELinux = f.selinux()
}

// Identify tells the operating system of a tree; Family "unknown" is none that
// is known.
func Identify(tree guest.FS) guest.OS {
	return (&finder{tree: tree, facts: &guest.Facts{}}).os()
}

// os reads os-release (os-release(5)), or what distributions had before it.
func (f *finder) os() guest.OS {
	if data, _ := f.first("etc/os-release", "usr/lib/os-release"); data != nil {
		v := shellVars(data)
		id := v["ID"]
		if id == "" {
			id = "linux"
		}
		os := guest.OS{Family: family(id), ID: id, Version: v["VERSION_ID"], Name: v["PRETTY_NAME"]}
		if like := v["ID_LIKE"]; like != "" {
			os.IDLike = strings.Fields(like)
		}
		os.IDLike = append(os.IDLike, unsaid(os)...)
		return os
	}
	if os, ok := f.oldRelease(); ok {
		return os
	}
	if data, _ := f.first("etc/lsb-release"); data != nil {
		v := shellVars(data)
		if id := v["DISTRIB_ID"]; id != "" {
			return guest.OS{Family: "linux", ID: strings.ToLower(id), Version: v["DISTRIB_RELEASE"], Name: v["DISTRIB_DESCRIPTION"]}
		}
	}
	if f.isLinux() {
		f.warn("which distribution this is is not known: only what every Linux has in common is repaired")
		return guest.OS{Family: "linux", ID: "linux"} // as os-release(5) has it for a system without a name
	}
	return guest.OS{Family: "unknown"}
}

// family tells the BSDs from Linux: they have os-release as well.
func family(id string) string {
	switch id {
	case "freebsd", "ghostbsd", "midnightbsd", "dragonfly", "netbsd", "openbsd":
		return "bsd"
	}
	return "linux"
}

var releaseVersion = regexp.MustCompile(`(?:release|VERSION =|Linux) *v?([0-9]+(?:\.[0-9]+)*)`)

// oldRelease reads the one-line files of systems older than os-release.
func (f *finder) oldRelease() (guest.OS, bool) {
	for _, r := range []struct {
		file, id string
		like     []string
	}{
		{"etc/oracle-release", "ol", []string{"rhel", "fedora"}},
		{"etc/centos-release", "centos", []string{"rhel", "fedora"}},
		{"etc/fedora-release", "fedora", nil},
		{"etc/redhat-release", "rhel", []string{"fedora"}},
		{"etc/SuSE-release", "sles", []string{"suse"}},
		{"etc/alpine-release", "alpine", nil},
		{"etc/photon-release", "photon", nil},
		{"etc/gentoo-release", "gentoo", nil},
		{"etc/arch-release", "arch", nil},
		{"etc/debian_version", "debian", nil},
	} {
		data, ok := f.read(r.file)
		if !ok {
			continue
		}
		line, _, _ := strings.Cut(strings.TrimSpace(string(data)), "\n")
		os := guest.OS{Family: "linux", ID: r.id, IDLike: r.like, Name: line}
		switch {
		case r.id == "debian" || r.id == "alpine":
			os.Version, os.Name = line, strings.ToUpper(r.id[:1])+r.id[1:]+" "+line
		case r.id == "rhel" && strings.Contains(line, "CentOS"):
			os.ID, os.IDLike = "centos", []string{"rhel", "fedora"}
		case r.id == "sles" && strings.Contains(line, "openSUSE"):
			os.ID = "opensuse"
		}
		if m := releaseVersion.FindStringSubmatch(string(data)); m != nil {
			os.Version = m[1]
		}
		if m := patchLevel.FindSubmatch(data); m != nil && r.id == "sles" && !strings.Contains(os.Version, ".") {
			os.Version += "." + string(m[1]) // as os-release has it from SLES 12 on
		}
		return os, true
	}
	return guest.OS{}, false
}

// arch reads the machine of a program that every system has from its ELF header
// (System V ABI, figure 4-3: class at 4, byte order at 5, machine at 18).
func (f *finder) arch() string {
	for _, name := range []string{"bin/sh", "usr/bin/sh", "sbin/init", "usr/lib/systemd/systemd", "bin/bash", "bin/busybox"} {
		h := make([]byte, 20)
		file, err := f.tree.Open(name)
		if err != nil {
			continue
		}
		_, err = io.ReadFull(file, h)
		_ = file.Close() // read only
		if err != nil || !bytes.HasPrefix(h, []byte("\x7fELF")) {
			continue
		}
		order := binary.ByteOrder(binary.LittleEndian)
		if h[5] == 2 {
			order = binary.BigEndian
		}
		if m := machine(order.Uint16(h[18:]), h[5] == 2); m != "" {
			return m
		}
	}
	f.warn("the machine that the guest's programs are for is not known")
	return ""
}

// machine gives GNU's name for an e_machine of the ELF registry.
func machine(e uint16, big bool) string {
	switch e {
	case 3:
		return "i686"
	case 8:
		return "mips"
	case 21:
		if big {
			return "ppc64"
		}
		return "ppc64le"
	case 22:
		return "s390x"
	case 40:
		return "armv7l"
	case 62:
		return "x86_64"
	case 183:
		return "aarch64"
	case 243:
		return "riscv64"
	case 258:
		return "loongarch64"
	}
	return ""
}

func (f *finder) hostname() string {
	if data, _ := f.first("etc/hostname", "etc/HOSTNAME"); data != nil {
		if l := lines(data); len(l) > 0 {
			return l[0]
		}
	}
	if f.isDir("etc/sysconfig/network") {
		return "" // SUSE's
	}
	if data, ok := f.read("etc/sysconfig/network"); ok {
		return shellVars(data)["HOSTNAME"]
	}
	return ""
}

// initSystem tells by what /sbin/init is.
func (f *finder) initSystem() string {
	target, err := guest.Resolve(f.tree, "sbin/init")
	switch {
	case err == nil && path.Base(target) == "systemd", err != nil && f.exists("usr/lib/systemd/systemd"):
		return "systemd"
	case f.exists("sbin/initctl") && f.isDir("etc/init"):
		return "upstart"
	case f.exists("sbin/openrc") || f.exists("usr/sbin/openrc") || f.isDir("etc/runlevels"):
		return "openrc"
	case f.exists("etc/inittab"):
		return "sysv"
	case f.isDir("etc/systemd/system"): // its programs lie elsewhere, as in NixOS
		return "systemd"
	}
	return ""
}

// selinux is what the guest's SELinux will do: there must be a configuration
// and the program that loads its policy.
func (f *finder) selinux() string {
	if !f.exists("usr/sbin/load_policy") && !f.exists("sbin/load_policy") {
		return ""
	}
	data, ok := f.read("etc/selinux/config")
	if !ok {
		return ""
	}
	return strings.ToLower(shellVars(data)["SELINUX"])
}

// tools looks for software that hypervisors and clouds bring, by a file of each.
func (f *finder) tools() {
	for _, t := range []struct {
		name  string
		files []string
	}{
		{"vmware-tools", []string{"usr/bin/vmware-uninstall-tools.pl", "etc/vmware-tools/locations"}},
		{"open-vm-tools", []string{"usr/bin/vmtoolsd"}},
		{"virtualbox-guest-additions", []string{"usr/sbin/VBoxService", "usr/bin/VBoxClient"}},
		{"hyperv-daemons", []string{"usr/sbin/hv_kvp_daemon", "usr/sbin/hypervkvpd", "usr/lib/linux-tools/hv_kvp_daemon"}},
		{"xe-guest-utilities", []string{"usr/sbin/xe-daemon", "usr/sbin/xe-linux-distribution"}},
		{"parallels-tools", []string{"usr/bin/prltoolsd"}},
		{"qemu-guest-agent", []string{"usr/sbin/qemu-ga", "usr/bin/qemu-ga"}},
		{"waagent", []string{"usr/sbin/waagent", "usr/bin/waagent"}},
		{"amazon-ssm-agent", []string{"usr/bin/amazon-ssm-agent"}},
		{"google-guest-agent", []string{"usr/bin/google_guest_agent"}},
		{"oracle-cloud-agent", []string{"usr/libexec/oracle-cloud-agent/agent"}},
		{"nutanix-guest-tools", []string{"usr/local/nutanix/ngt"}},
		{"spice-vdagent", []string{"usr/sbin/spice-vdagentd", "usr/bin/spice-vdagentd"}},
		{"cloud-init", []string{"usr/bin/cloud-init"}},
	} {
		for _, name := range t.files {
			if f.exists(name) {
				f.facts.Tools = append(f.facts.Tools, t.name)
				break
			}
		}
	}
}
