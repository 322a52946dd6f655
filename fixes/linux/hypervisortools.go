package linux

import (
	"regexp"
	"strings"

	"hyper2kvm/fixes"
)

// toolset is what a hypervisor or a cloud puts into its guests.
type toolset struct {
	name string
	// services are switched off.
	services []string
	// files tell that it is there although none of its services is.
	files []string
	// modules load on that hypervisor only.
	modules []string
	// advice is what is left to do, or what was left.
	advice string
}

// hypervisorTools switches off the tools of hypervisors other than VMware.
func hypervisorTools() fix {
	return fix{
		id:  "linux/hypervisor-tools",
		why: "The tools of another hypervisor have no use on KVM: their services fail or wait, and modules of theirs do not load.",
		plan: func(p *planner) error {
			for _, t := range hypervisorSets() {
				p.leave(t)
			}
			p.hideAutostart("vboxclient", "prlcc")
			sharedFolders(p)
			xenTerminals(p)
			kudzu(p)
			return nil
		},
	}
}

// leave switches a toolset off.
func (p *planner) leave(t toolset) {
	before := len(p.changes)
	found := p.switchOff(t.services...)
	p.unlistModules(t.modules...)
	switch {
	case len(p.changes) > before && t.advice != "":
		p.note("%s: switched off; %s", t.name, t.advice)
	case len(p.changes) > before:
		p.note("%s: switched off", t.name)
	case !found && p.any(t.files...) && t.advice != "":
		p.note("%s: no service of it starts; %s", t.name, t.advice)
	}
}

// hypervisorSets lists what the installers and packages of each hypervisor are
// known to bring.
func hypervisorSets() []toolset {
	return []toolset{
		{
			name: "VirtualBox Guest Additions",
			services: []string{"vboxadd", "vboxadd-service", "vboxadd-x11", "vboxadd-timesync", "vboxservice", "vboxclient",
				"virtualbox-guest-utils", "virtualbox-guest-additions", "vboxdrmclient"},
			files:   []string{"var/lib/VBoxGuestAdditions/config", "usr/sbin/VBoxService"},
			modules: []string{"vboxguest", "vboxsf", "vboxvideo"},
			advice:  "where Oracle's installer put it there, uninstall.sh of its folder (INSTALL_DIR in /var/lib/VBoxGuestAdditions/config) removes it",
		},
		{
			name: "XenServer's guest utilities",
			services: []string{"xe-linux-distribution", "xe-daemon", "xen-guest-agent", "xe-guest-utilities",
				"xendriverdomain", "proc-xen.mount", "var-lib-xenstored.mount"},
			modules: []string{"xen_blkfront", "xen_netfront", "xen_evtchn", "xen_gntdev", "xenfs", "xen_privcmd", "xen_kbdfront", "xen_fbfront"},
		},
		{
			name:     "Parallels Tools",
			services: []string{"prltoolsd", "prl-x11", "prltools_updater", "prlsvc", "prl_vzagent"},
			files:    []string{"usr/lib/parallels-tools/install", "usr/bin/prltoolsd"},
			modules:  []string{"prl_tg", "prl_eth", "prl_fs", "prl_fs_freeze", "prl_vid"},
			advice:   "/usr/lib/parallels-tools/install -r removes it",
		},
		{
			name: "Hyper-V's daemons",
			services: []string{"hypervkvpd", "hypervvssd", "hypervfcopyd", "hv-kvp-daemon", "hv-vss-daemon", "hv-fcopy-daemon",
				"hv_kvp_daemon", "hv_vss_daemon", "hv_fcopy_daemon", "hv_fcopy_uio_daemon"},
			modules: []string{"hv_vmbus", "hv_storvsc", "hv_netvsc", "hv_utils", "hv_balloon", "hv_sock", "hyperv_keyboard", "hyperv_fb"},
		},
		{
			name:     "Nutanix Guest Tools",
			services: []string{"ngt_guest_agent", "ngt_self_service_restore", "nutanix-guest-agent"},
			files:    []string{"usr/local/nutanix/ngt"},
			advice:   "/usr/local/nutanix/ngt/python/bin/uninstall_ngt.py removes it",
		},
	}
}

var quietGetty = regexp.MustCompile(`^#([1-6]:[0-9]*:respawn:\S*getty\b.*\btty[1-6]\b.*)$`)

// xenTerminals gives the screen its logins back: XenServer's utilities comment
// them out, since its guests have none.
func xenTerminals(p *planner) {
	const inittab = "etc/inittab"
	if !p.any("usr/sbin/xe-linux-distribution", "etc/init.d/xe-linux-distribution", "usr/sbin/xe-daemon") {
		return
	}
	data, ok := p.read(inittab)
	if !ok || strings.Contains(uncommented(data), "tty1") {
		return
	}
	p.write(inittab, data, eachLine(data, func(l string) string {
		if m := quietGetty.FindStringSubmatch(l); m != nil {
			return m[1]
		}
		return l
	}))
}

// kudzu asks at boot what to do about hardware that went and came (kudzu(8)):
// for the old machine's, which its list holds, it would wait for a key.
func kudzu(p *planner) {
	before := len(p.changes)
	p.switchOff("kudzu")
	if len(p.changes) > before {
		p.note("kudzu is switched off: it would ask at boot about every device that is gone")
	}
	if name := "etc/sysconfig/hwconf"; p.exists(name) {
		p.changes = append(p.changes, fixes.Remove{Name: name})
	}
}
