package linux

import (
	"path"
	"regexp"
	"strings"

	"hyper2kvm/fixes/guest"
	"hyper2kvm/fixes/linux/shellvars"
	"hyper2kvm/fixes/linux/table"
)

func serviceDevices(opts Options) fix {
	return fix{
		id:  "linux/device-names",
		why: "Services that name disks by order or bus address (the automounter, raw devices, smartd) fail on KVM, where the names are others.",
		plan: func(p *planner) error {
			e := serviceEditor{planner: p, devices: opts.devices(p.facts)}
			e.autofs()
			e.rawDevices()
			e.smartd()
			e.uswsusp()
			e.storageRules()
			e.oracleASM()
			e.networkStorage()
			e.otherConfigs()
			return nil
		},
	}
}

type serviceEditor struct {
	*planner
	devices
}

// renamed is the stable path for a device named at a place, and false where the
// name stays, which a note explains where that matters.
func (e serviceEditor) renamed(place, spec, fstype string) (string, bool) {
	s, state := e.look(spec, fstype)
	switch state {
	case moves:
		if link, ok := e.path(s); ok {
			return link, true
		}
		e.note("%s: %s has no UUID of its own; left", place, spec)
	case missing:
		if guest.Unstable(spec) {
			e.note("%s: %s is on no disk that was given; left", place, spec)
		}
	}
	return "", false
}

// autofsPlace is a device in a map of autofs(5): a location that begins with a
// colon.
var autofsPlace = regexp.MustCompile(`(^|[ \t]):(/dev/[^ \t,#]+)`)

func (e serviceEditor) autofs() {
	names := append(e.list("etc", ""), e.list("etc/auto.master.d", "")...)
	names = append(names, e.list("etc/autofs", "")...)
	for _, name := range e.once(names) {
		base := path.Base(name)
		if !strings.HasPrefix(base, "auto.") && !strings.HasPrefix(base, "auto_") && path.Dir(name) == "etc" || base == "auto.net" || base == "auto.smb" {
			continue
		}
		data, ok := e.read(name)
		if !ok {
			continue
		}
		e.write(name, data, eachLine(data, func(l string) string {
			if strings.HasPrefix(strings.TrimSpace(l), "#") {
				return l
			}
			return autofsPlace.ReplaceAllStringFunc(l, func(m string) string {
				at := strings.IndexByte(m, ':') + 1
				if link, ok := e.renamed(name, m[at:], ""); ok {
					return m[:at] + link
				}
				return m
			})
		}))
	}
}

// rawDevices edits which devices are bound to raw ones: "/dev/raw/raw1 /dev/sdb1"
// in RHEL and Debian, "raw1:sdb1" in SUSE.
func (e serviceEditor) rawDevices() {
	for _, name := range e.once([]string{"etc/sysconfig/rawdevices", "etc/default/rawdevices", "etc/raw"}) {
		data, ok := e.read(name)
		if !ok {
			continue
		}
		file := table.Parse(data)
		for _, r := range file.Rows() {
			if left, right, ok := strings.Cut(r.Field(0), ":"); ok && r.Len() == 1 {
				if link, ok := e.renamed(name, "/dev/"+right, ""); ok {
					r.Set(0, left+":"+strings.TrimPrefix(link, "/dev/"))
				}
			} else if link, ok := e.renamed(name, r.Field(1), ""); ok {
				r.Set(1, link)
			}
		}
		e.write(name, data, file.Bytes())
	}
}

// smartd keeps smartd.conf(5) from ending the daemon where a disk it names is not
// there. KVM's disks have no health to watch.
func (e serviceEditor) smartd() {
	for _, name := range e.once([]string{"etc/smartd.conf", "etc/smartmontools/smartd.conf"}) {
		data, ok := e.read(name)
		if !ok {
			continue
		}
		e.write(name, data, eachLine(data, func(l string) string {
			device, rest, _ := strings.Cut(strings.TrimRight(l, " \t"), " ")
			if !guest.Unstable(device) || strings.Contains(rest, "removable") || strings.HasSuffix(l, `\`) {
				return l
			}
			body, comment := l, ""
			if i := strings.IndexByte(l, '#'); i >= 0 {
				body, comment = l[:i], " "+l[i:]
			}
			return strings.TrimRight(body, " \t") + " -d removable" + comment
		}))
	}
}

// uswsusp edits the swap that Debian's uswsusp suspends to (suspend.conf(5)).
func (e serviceEditor) uswsusp() {
	const name, key = "etc/uswsusp.conf", "resume device"
	data, ok := e.read(name)
	if !ok {
		return
	}
	e.write(name, data, eachLine(data, func(l string) string {
		head, value, ok := strings.Cut(l, "=")
		if !ok || strings.TrimSpace(head) != key {
			return l
		}
		old := strings.TrimSpace(value)
		link, ok := e.renamed(name, old, "swap")
		if !ok || old == "" {
			return l
		}
		return head + "=" + strings.Replace(value, old, link, 1)
	}))
}

// bySerial finds what rules of udev tell disks by and that a new hypervisor
// changes: kernel names, serial numbers, buses, and programs that read them.
var bySerial = regexp.MustCompile(`KERNEL=="(?:sd|xvd|nvme|cciss)|ID_SERIAL|ID_PATH|ID_WWN|scsi_id|RESULT=="`)

// storageRules tells of rules of udev that find disks by what changes: of Oracle
// ASM, of raw devices, of the administrator.
func (e serviceEditor) storageRules() {
	for _, name := range e.once(e.list("etc/udev/rules.d", ".rules")) {
		data, ok := e.read(name)
		if !ok {
			continue
		}
		for i, l := range strings.Split(string(data), "\n") {
			if t := strings.TrimSpace(l); t == "" || t[0] == '#' || !bySerial.MatchString(l) || strings.Contains(l, `SUBSYSTEM=="net"`) {
				continue
			}
			e.note("%s line %d finds disks by kernel name, bus or serial number, which are others on KVM; left: it can match ENV{ID_FS_UUID} or ENV{ID_PART_ENTRY_UUID} instead", name, i+1)
		}
	}
}

// oracleASM tells of a scan that leaves out the disks as they are called now.
func (e serviceEditor) oracleASM() {
	for _, name := range e.once([]string{"etc/sysconfig/oracleasm", "etc/default/oracleasm"}) {
		data, ok := e.read(name)
		if !ok {
			continue
		}
		for _, v := range shellvars.Parse(data).Vars() {
			switch {
			case v.Name == "ORACLEASM_SCANEXCLUDE" && strings.Contains(v.Value, "sd") && e.planner.facts.TargetBus == "scsi":
				e.note("%s: %s leaves out sd, which all disks are called on this bus of KVM; left", name, v.Name)
			case v.Name == "ORACLEASM_SCANORDER" && v.Value != "" && !strings.Contains(v.Value, "vd"):
				e.note("%s: %s=%q does not name vd, which virtio disks are called; they are looked at last", name, v.Name, v.Value)
			}
		}
	}
}

// networkStorage tells of disks that come over a network: they do not move with
// the guest.
func (e serviceEditor) networkStorage() {
	for _, dir := range []string{"etc/iscsi/nodes", "var/lib/iscsi/nodes"} {
		if targets := e.list(dir, ""); len(targets) > 0 {
			e.note("the guest uses %d iSCSI targets (%s): it keeps its initiator name, and must reach them from where it runs now", len(targets), dir)
		}
	}
	for _, name := range []string{"etc/nvme/discovery.conf", "etc/nvme/config.json"} {
		if e.exists(name) {
			e.note("%s: the guest uses NVMe over a network, and must reach it from where it runs now", name)
		}
	}
}
