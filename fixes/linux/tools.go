package linux

import (
	"errors"
	"io/fs"
	"path"
	"slices"
	"strings"

	"hyper2kvm/fixes"
	"hyper2kvm/fixes/linux/table"
)

// tools switches VMware's guest tools off. They are not removed: that is the
// package manager's work, and undo could not bring them back.
func tools() fix {
	return fix{
		id:  "linux/vmware-tools",
		why: "VMware's guest tools have no use on KVM, and modules of theirs that cannot be loaded make a failed unit.",
		plan: func(p *planner) error {
			maskTools(p)
			vmwareModules(p)
			return nil
		},
	}
}

// toolUnits lists the units of open-vm-tools under the names that Debian, SUSE
// and Red Hat give them, and those of VMware's own installer.
func toolUnits() []string {
	return []string{"open-vm-tools.service", "vmtoolsd.service", "vgauth.service", "vgauthd.service",
		"vmware-vmblock-fuse.service", `run-vmblock\x2dfuse.mount`, "run-vmblock-fuse.mount",
		"vmware-tools.service", "vmware-tools-thinprint.service"}
}

func maskTools(p *planner) {
	found := false
	for _, unit := range toolUnits() {
		if !p.isUnit(unit) {
			continue
		}
		found = true
		mask := path.Join("etc/systemd/system", unit)
		target, err := p.fs.ReadLink(mask)
		switch {
		case err == nil && (target == "/dev/null" || path.Base(target) != unit):
			continue // masked, or a second name for another unit
		case err != nil && !errors.Is(err, fs.ErrNotExist):
			p.note("%s: a unit of the guest's own; left", mask)
			continue
		}
		p.changes = append(p.changes, fixes.Symlink{Name: mask, To: "/dev/null"})
	}
	if found && len(p.changes) > 0 {
		p.note("open-vm-tools is switched off; on KVM its package can go: %s", removal(p))
	}
	for _, name := range []string{"usr/bin/vmware-uninstall-tools.pl", "etc/vmware-tools/locations"} {
		if p.exists(name) {
			p.note("VMware Tools were installed from VMware's archive; run vmware-uninstall-tools.pl in the guest")
			break
		}
	}
	for _, name := range append(p.list("etc/init.d", ""), p.list("etc/init", ".conf")...) {
		base := strings.TrimSuffix(path.Base(name), ".conf")
		if !found && slices.Contains([]string{"open-vm-tools", "vmware-tools", "vmtoolsd"}, base) {
			p.note("%s is left: on KVM it finds no VMware and stops by itself", name)
		}
	}
}

// isUnit reports whether a package brings the unit as a file of its own: an
// alias is a link.
func (p *planner) isUnit(unit string) bool {
	for _, dir := range []string{"usr/lib/systemd/system", "lib/systemd/system"} {
		if info, err := p.fs.Lstat(path.Join(dir, unit)); err == nil && info.Mode().IsRegular() {
			return true
		}
	}
	return false
}

// removal is the command that removes the package.
func removal(p *planner) string {
	family := append([]string{p.facts.OS.ID}, p.facts.OS.IDLike...)
	switch {
	case slices.Contains(family, "debian"):
		return "apt-get purge open-vm-tools"
	case slices.Contains(family, "rhel"), slices.Contains(family, "fedora"):
		return "dnf remove open-vm-tools"
	case slices.ContainsFunc(family, func(s string) bool { return strings.Contains(s, "suse") }):
		return "zypper remove open-vm-tools"
	}
	return "remove open-vm-tools"
}

// vmwareModules comments modules out that load on VMware only, or that VMware's
// own installer brought: systemd-modules-load fails when one does not load.
// Drivers for VMware's devices (vmxnet3, vmw_pvscsi, vmwgfx) load anywhere and stay.
func vmwareModules(p *planner) {
	gone := []string{"vmw_balloon", "vmmemctl", "vmhgfs", "vmblock", "vmsync", "vmxnet", "pvscsi",
		"vmci", "vsock", "vmw_vsock_vmci_transport", "vmw_vmci"}
	for _, name := range p.once(append([]string{"etc/modules"}, p.list("etc/modules-load.d", ".conf")...)) {
		data, ok := p.read(name)
		if !ok {
			continue
		}
		now := eachLine(data, func(l string) string {
			rows := table.Parse([]byte(l)).Rows()
			if len(rows) == 0 || !slices.Contains(gone, strings.ReplaceAll(rows[0].Field(0), "-", "_")) {
				return l
			}
			return "#" + l
		})
		p.write(name, data, now)
	}
}
