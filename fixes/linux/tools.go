package linux

import (
	"slices"
	"strings"

	"hyper2kvm/fixes/linux/ini"
	"hyper2kvm/fixes/linux/table"
)

// tools switches VMware's guest tools off. They are not removed: that is the
// package manager's work, which --remove-tools asks for.
func tools() fix {
	return fix{
		id:  "linux/vmware-tools",
		why: "VMware's guest tools have no use on KVM, and modules of theirs that cannot be loaded make a failed unit.",
		plan: func(p *planner) error {
			maskTools(p)
			p.hideAutostart("vmware-user", "vmware-user-autostart")
			vmwareModules(p)
			vmwareRepos(p)
			missingDrivers(p)
			return nil
		},
	}
}

// openUnits is how many of toolUnits are open-vm-tools', not VMware's own.
const openUnits = 7

// toolUnits lists the units of open-vm-tools under the names that Debian, SUSE
// and Red Hat give them, and the jobs and scripts of VMware's own installers.
func toolUnits() []string {
	return []string{"open-vm-tools", "vmtoolsd", "vgauth", "vgauthd",
		"vmware-vmblock-fuse", `run-vmblock\x2dfuse.mount`, "run-vmblock-fuse.mount",
		"vmware-tools", "vmware-tools-services", "vmware-tools-thinprint"}
}

func maskTools(p *planner) {
	open := false
	for i, name := range toolUnits() {
		found := p.switchOff(name)
		open = open || found && i < openUnits
	}
	switch {
	case len(p.changes) > 0 && open:
		p.note("open-vm-tools is switched off; on KVM its package can go: %s", removeCommand(p, "open-vm-tools"))
	case len(p.changes) > 0:
		p.note("VMware Tools are switched off")
	}
	if p.any("usr/bin/vmware-uninstall-tools.pl", "etc/vmware-tools/locations") {
		p.note("VMware Tools were installed from VMware's archive; run vmware-uninstall-tools.pl in the guest")
	}
}

// removeCommand is the command that removes a package.
func removeCommand(p *planner, name string) string {
	switch {
	case p.like("debian", "ubuntu"):
		return "apt-get purge " + name
	case p.like("alpine"):
		return "apk del " + name
	case p.like("arch"):
		return "pacman -R " + name
	case p.like("photon"):
		return "tdnf remove " + name
	case slices.ContainsFunc(append([]string{p.facts.OS.ID}, p.facts.OS.IDLike...), func(s string) bool { return strings.Contains(s, "suse") || s == "sles" }):
		return "zypper remove " + name
	case p.like("rhel", "fedora", "amzn") && slices.Contains([]string{"5", "6", "7", "2"}, major(p.facts.OS.Version)):
		return "yum remove " + name // dnf came with RHEL 8
	case p.like("rhel", "fedora"):
		return "dnf remove " + name
	}
	return "remove " + name
}

// major is the first number of a version.
func major(version string) string {
	first, _, _ := strings.Cut(version, ".")
	return first
}

// vmwareModules comments modules out that load on VMware only, or that VMware's
// own installer brought: systemd-modules-load fails when one does not load.
// Drivers for VMware's devices (vmxnet3, vmw_pvscsi, vmwgfx) load anywhere and stay.
func vmwareModules(p *planner) {
	p.unlistModules("vmw_balloon", "vmmemctl", "vmhgfs", "vmblock", "vmsync", "vmxnet", "pvscsi",
		"vmci", "vsock", "vmw_vsock_vmci_transport", "vmw_vmci")
}

// unlistModules comments modules out that are to be loaded at boot.
func (p *planner) unlistModules(gone ...string) {
	for _, name := range p.once(append([]string{"etc/modules"}, p.list("etc/modules-load.d", ".conf")...)) {
		p.commentOut(name, func(l string) bool {
			rows := table.Parse([]byte(l)).Rows()
			return len(rows) > 0 && slices.Contains(gone, strings.ReplaceAll(rows[0].Field(0), "-", "_"))
		})
	}
}

// vmwareRepos switches off package repositories that VMware has taken down: an
// update of the guest stops at the first that does not answer.
func vmwareRepos(p *planner) {
	const host = "vmware.com"
	for _, name := range p.once(append(p.list("etc/yum.repos.d", ".repo"), p.list("etc/zypp/repos.d", ".repo")...)) {
		data, ok := p.read(name)
		if !ok || p.like("photon") { // Photon's own repositories are VMware's
			continue
		}
		p.write(name, data, disableRepos(data, func(url string) bool { return strings.Contains(url, host) }))
	}
	for _, name := range p.once(append([]string{"etc/apt/sources.list"}, p.list("etc/apt/sources.list.d", ".list")...)) {
		p.commentOut(name, func(l string) bool {
			return strings.HasPrefix(l, "deb") && strings.Contains(l, "packages."+host)
		})
	}
}

// disableRepos sets enabled=0 in the sections of a yum or zypper file whose
// address matches.
func disableRepos(data []byte, match func(url string) bool) []byte {
	gone := map[string]bool{}
	set := map[string]bool{}
	file := ini.Parse(data)
	for _, e := range file.Entries() {
		if e.Key == "baseurl" || e.Key == "mirrorlist" {
			gone[e.Section] = gone[e.Section] || match(e.Value)
		}
	}
	for _, e := range file.Entries() {
		if e.Key == "enabled" && gone[e.Section] {
			set[e.Section] = true
			e.Value = "0"
		}
	}
	return eachLine(file.Bytes(), func(l string) string {
		text := strings.TrimSpace(l)
		name, ok := strings.CutPrefix(text, "[")
		name, closed := strings.CutSuffix(name, "]")
		if !ok || !closed || !gone[name] || set[name] {
			return l
		}
		set[name] = true
		return l + "\nenabled=0"
	})
}
