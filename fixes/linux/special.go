package linux

import (
	"path"
	"strings"

	"hyper2kvm/fixes"
	"hyper2kvm/fixes/linux/shellvars"
)

// special recognises guests and protections that change what the other fixes
// mean. It tells; what is generic is done by the others.
func special() fix {
	return fix{
		id:  "linux/special",
		why: "Systems that are no ordinary distribution, and watchers of files, need something of their owner after a move.",
		plan: func(p *planner) error {
			immutable(p)
			appliance(p)
			watchers(p)
			enforcers(p)
			watchdog(p)
			relabel(p)
			return nil
		},
	}
}

// immutable tells of systems whose /usr, or more, is an image.
func immutable(p *planner) {
	switch {
	case p.exists("run/ostree-booted"), p.exists("ostree/repo"), p.exists("sysroot/ostree"):
		p.note("an OSTree system: /usr is read-only and stays as it is; what is changed in /etc is that of the deployment that was opened")
	case p.any("etc/transactional-update.conf", "usr/sbin/transactional-update"):
		p.note("a transactional system: the snapshot that is the default was changed; older snapshots keep what they had")
	case p.facts.OS.ID == "ubuntu-core", p.exists("writable/system-data"):
		p.note("Ubuntu Core is signed as a whole; its kernel and boot loader stay as they are")
	case p.facts.OS.ID == "flatcar", p.facts.OS.ID == "coreos":
		p.note("a Container Linux: its kernel carries virtio, /usr is an image and stays as it is")
	case p.facts.OS.ID == "nixos", p.exists("etc/NIXOS"):
		p.note("NixOS makes /etc anew from its configuration: add hardware.enableAllHardware or boot.initrd.availableKernelModules for virtio there, too")
	case p.exists("etc/guix"), p.exists("run/current-system/configuration.scm"):
		p.note("Guix makes /etc anew from its configuration: add the virtio modules there, too")
	}
}

// appliance tells of systems whose maker does not expect changes.
func appliance(p *planner) {
	for _, m := range [][2]string{
		{"vyos", "VyOS keeps its configuration in /config and makes /etc anew"},
		{"openwrt", "OpenWrt keeps its configuration in UCI"},
		{"univention", "Univention makes configuration files from templates"},
	} {
		if p.facts.OS.ID == m[0] {
			p.note("%s: what was changed here may be written over", m[1])
		}
	}
	for _, a := range [][2]string{
		{"etc/applmgmt", "a VMware vCenter appliance, which its maker supports on VMware only"},
		{"opt/vmware/etc/vami", "a VMware appliance with its own management (VAMI)"},
		{"etc/vmware-release", "an ESX service console"},
		{"etc/turnkey_version", "a TurnKey appliance"},
		{"etc/xensource-inventory", "a XenServer host inside a virtual machine"},
	} {
		if p.exists(a[0]) {
			p.note("%s: %s; what is generic was done", a[0], a[1])
		}
	}
}

// watchers tells of programs that compare files with what they were.
func watchers(p *planner) {
	for _, w := range []struct{ file, name, next string }{
		{"usr/sbin/aide", "AIDE", "aide --update"},
		{"usr/bin/aide", "AIDE", "aide --update"},
		{"usr/sbin/tripwire", "Tripwire", "tripwire --update"},
		{"usr/bin/samhain", "Samhain", "samhain -t update"},
		{"usr/sbin/samhain", "Samhain", "samhain -t update"},
		{"var/ossec/bin/ossec-syscheckd", "OSSEC", "let syscheck learn anew"},
		{"var/ossec/bin/wazuh-syscheckd", "Wazuh", "let syscheck learn anew"},
	} {
		if p.exists(w.file) {
			p.note("%s will report the files that were changed: %s after the move", w.name, w.next)
		}
	}
}

// enforcers tells of what can forbid a changed file to be used.
func enforcers(p *planner) {
	if p.exists("usr/sbin/fapolicyd") {
		p.note("fapolicyd trusts programs by their digest: none was changed; where /etc/fapolicyd trusts configuration files, fapolicyd-cli --update")
	}
	for _, name := range p.once([]string{"etc/ima/ima-policy", "etc/sysconfig/ima-policy", "etc/integrity/config", "etc/keys/x509_ima.der"}) {
		p.note("%s: with IMA or EVM enforcing, a changed file is refused until it is signed anew", name)
	}
	if len(p.list("etc/apparmor.d", "")) > 0 && p.any("sbin/apparmor_parser", "usr/sbin/apparmor_parser") && p.facts.SELinux == "" {
		for _, name := range p.list("etc/apparmor.d", "usr.sbin.qemu-ga") {
			p.note("%s: AppArmor confines the guest agent", name)
		}
	}
	if p.exists("etc/selinux/config") && p.selinuxSpec() == "" && active(p.facts.SELinux) {
		p.note("SELinux is on but its list of labels (file_contexts) is missing: new files take the label of their folder")
	}
}

// watchdog tells of a daemon that waits for a device which the domain has only
// when it is told to.
func watchdog(p *planner) {
	for _, unit := range []string{"watchdog.service", "wd_keepalive.service"} {
		if startedByUnit(p, unit) {
			p.note("%s is on: the domain has no watchdog but the chipset's own (iTCO_wdt); it may need one of <watchdog model='i6300esb'/>", unit)
			return
		}
	}
}

func active(mode string) bool { return mode == "enforcing" || mode == "permissive" }

// selinuxSpec is the list of labels of the guest's policy, "" where it is missing.
func (p *planner) selinuxSpec() string {
	kind := "targeted"
	if data, ok := p.read("etc/selinux/config"); ok {
		if v := shellvars.Parse(data).Last("SELINUXTYPE"); v != nil && v.Value != "" && !strings.ContainsAny(v.Value, "/ ") {
			kind = v.Value
		}
	}
	name := path.Join("etc/selinux", kind, "contexts/files/file_contexts")
	if p.exists(name) {
		return name
	}
	return ""
}

// relabel has the guest label its files itself at the next boot, where no label
// can be made here: there is no list of them, and the folders have none either.
func relabel(p *planner) {
	const flag = ".autorelabel"
	if !active(p.facts.SELinux) || p.selinuxSpec() != "" {
		return
	}
	if attr, err := p.fs.Attr("etc"); err != nil || attr.Xattrs["security.selinux"] != nil {
		return
	}
	if !p.exists(flag) {
		p.changes = append(p.changes, fixes.WriteFile{Name: flag})
	}
	p.note("no label of SELinux can be made: the guest labels all of its files at its next boot (/%s), which takes some minutes and one more boot", flag)
}
