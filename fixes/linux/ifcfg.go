package linux

import (
	"path"
	"regexp"
	"strings"

	"hyper2kvm/fixes"
	"hyper2kvm/fixes/linux/shellvars"
)

const (
	redHatScripts = "etc/sysconfig/network-scripts"
	suseScripts   = "etc/sysconfig/network"
)

// notConfig matches names of copies that no script reads (initscripts:
// network-functions; sysconfig: functions.common).
var notConfig = regexp.MustCompile(`(?:~|\.bak|\.orig|\.rpm(?:new|orig|save)|\.swp|\.scpm.*|\.old)$`)

// ifcfgFiles lists the files of Red Hat's and SUSE's scripts, with the copies
// that Red Hat's old configuration program keeps.
func (p *planner) ifcfgFiles() []string {
	var out []string
	for _, dir := range []string{redHatScripts, suseScripts, "etc/sysconfig/networking/devices", "etc/sysconfig/networking/profiles/default"} {
		for _, name := range p.list(dir, "") {
			if strings.HasPrefix(path.Base(name), "ifcfg-") && !notConfig.MatchString(name) {
				out = append(out, name)
			}
		}
	}
	return out
}

// visitIfcfg goes through HWADDR, the address by which the scripts, and
// NetworkManager for them, find the card. MACADDR and LLADDR are addresses that
// the card is given, and stay.
func visitIfcfg(v *pinVisit, data []byte) []byte {
	f := shellvars.Parse(data)
	iface := strings.TrimPrefix(path.Base(v.file), "ifcfg-")
	switch d := f.Last("DEVICE"); {
	case d != nil:
		iface = d.Value
	case path.Dir(v.file) != suseScripts:
		iface = ""
	}
	if !cardName.MatchString(iface) || softName.MatchString(iface) || softIfcfg(f) {
		iface = ""
	}
	for _, x := range f.Vars() {
		switch {
		case x.Name == "HWADDR":
			x.Value = v.address(x.Value, iface, false)
		case x.Name == "HWADDR_BLACKLIST":
			x.Value = eachMAC(x.Value, "", v)
		case ifcfgPorts.MatchString(x.Name): // SUSE: eth-id-00:50:56:01:02:03
			x.Value = eachMAC(x.Value, "", v)
			if _, place, ok := strings.Cut(x.Value, "bus-pci-"); ok {
				v.note("%s: %s is the card at %s, a place on the old machine's bus; left", v.file, x.Name, place)
			}
		case x.Name == "MATCH_DRIVER": // NetworkManager's (nm-settings-ifcfg-rh(5))
			if more := v.driver(strings.Fields(x.Value)); more != "" {
				x.Value += " " + more
			}
		case x.Name == "MATCH_PATH":
			x.Value = v.path(x.Value, f.Last("HWADDR") != nil)
		}
	}
	if _, mac, ok := macInName(v.file); ok {
		v.address(mac, "", false)
	}
	return f.Bytes()
}

// softIfcfg reports whether an ifcfg file is of an interface that software
// makes.
func softIfcfg(f *shellvars.File) bool {
	if v := f.Last("TYPE"); v != nil && strings.EqualFold(v.Value, "OVSPort") {
		return false // a card, as Open vSwitch has it (README.RHEL of its package)
	}
	for _, key := range []string{"BONDING_MASTER", "ETHERDEVICE", "BRIDGE_PORTS", "BRIDGE", "TEAM_RUNNER", "VLAN_ID", "PHYSDEV", "TUNNEL", "DUMMY"} {
		if v := f.Last(key); v != nil && v.Value != "" && !strings.EqualFold(v.Value, "no") && key != "BRIDGE" {
			return true
		}
	}
	for _, key := range []string{"TYPE", "DEVICETYPE"} {
		if v := f.Last(key); v != nil && v.Value != "" && !strings.EqualFold(v.Value, "Ethernet") && !strings.EqualFold(v.Value, "eth") && !strings.EqualFold(v.Value, "TeamPort") {
			return true
		}
	}
	v := f.Last("VLAN")
	return v != nil && strings.EqualFold(v.Value, "yes")
}

// macInName gives the address that the name of one of SUSE's files holds, as
// it stands there and in normal form: ifcfg-eth-id-00:50:56:01:02:03.
func macInName(file string) (text, mac string, ok bool) {
	_, text, ok = strings.Cut(path.Base(file), "-id-")
	if !ok || path.Dir(file) != suseScripts {
		return "", "", false
	}
	mac, ok = normalMAC(text)
	return text, mac, ok
}

// suseNames gives SUSE's files whose name is an address, or a place on the bus,
// the name that fits the card now; the routes of the interface follow.
func (n *naming) suseNames() {
	for _, name := range n.list(suseScripts, "") {
		base := path.Base(name)
		if notConfig.MatchString(base) {
			continue
		}
		if text, _, ok := macInName(name); ok {
			if to := n.follow(text); to != text {
				n.rename(name, strings.TrimSuffix(name, text)+to)
			}
			continue
		}
		kind, place, ok := strings.Cut(base, "-bus-pci-")
		switch {
		case !ok:
		case len(n.nics) == 1 && n.blind == 0: // ifcfg-bus-pci-… or ifcfg-eth-bus-pci-…
			n.rename(name, path.Join(suseScripts, strings.TrimSuffix(kind, "-eth")+"-eth-id-"+n.nics[0].MAC))
		default:
			n.note("%s: is of the card at %s, a place on the old machine's bus; left", name, place)
		}
	}
}

func (n *naming) rename(from, to string) {
	data, ok := n.read(from)
	if !ok || from == to {
		return
	}
	if n.exists(to) {
		n.note("%s: %s is there already; left", from, to)
		return
	}
	attr, err := n.fs.Attr(from)
	if err != nil {
		n.note("%s: left as it is: %v", from, err)
		return
	}
	n.changes = append(n.changes, fixes.WriteFile{Name: to, Content: data, Attr: &attr}, fixes.Remove{Name: from})
}

// beforeAttr reports whether the guest's udev is older than ATTR{address}: Red
// Hat's releases up to 5, SUSE's up to 10.
func (n *naming) beforeAttr() bool {
	major, _, _ := strings.Cut(n.facts.OS.Version, ".")
	switch {
	case n.like("rhel", "redhat", "centos", "ol"):
		return major == "3" || major == "4" || major == "5"
	case n.like("suse", "sles", "sled", "opensuse"):
		return major == "9" || major == "10"
	}
	return false
}

// hwaddr adds HWADDR to Red Hat's files of cards that no rule of udev can name:
// there rename_device reads it (initscripts, 60-net.rules).
//
// It is needed too where cards have the kernel's names in another order than
// the kernel's: rename_device lets two cards exchange their names, which udev
// alone does not.
func (n *naming) hwaddr() {
	named := n.readsLinks() || n.readsAttr()
	if named && !n.swaps() || !n.exists(redHatScripts) {
		return
	}
	for _, nic := range n.nics {
		name := path.Join(redHatScripts, "ifcfg-"+nic.Name)
		if nic.Name == "" || n.disputed(nic.MAC) || named && !n.swapped(nic) {
			continue
		}
		data, ok := n.pending(name)
		if !ok {
			continue
		}
		f := shellvars.Parse(data)
		d := f.Last("DEVICE")
		if f.Last("HWADDR") != nil || d == nil || d.Value != nic.Name {
			continue
		}
		if !f.Add("HWADDR", strings.ToUpper(nic.MAC)) {
			n.note("%s: a quote in it is not closed; left", name)
			continue
		}
		n.amend(name, data, f.Bytes())
	}
}

// swaps reports whether the guest has the program of Red Hat's initscripts that
// lets cards exchange their names, by HWADDR (60-net.rules).
func (n *naming) swaps() bool {
	return n.exists("usr/lib/udev/rename_device") || n.exists("lib/udev/rename_device")
}

var ethAlias = regexp.MustCompile(`^([ \t]*alias[ \t]+eth[0-9]+[ \t]+)(vmxnet3?|pcnet32|e1000e?|xennet|xen-vnif|netfront|hv_netvsc|netvsc|8139cp|8139too|tulip)([ \t]*(?:#.*)?)$`)

// aliases gives cards whose driver an alias names (RHEL up to 5, SLES up to 10)
// the driver of KVM's card.
func (n *naming) aliases() {
	files := []string{"etc/modprobe.conf", "etc/modules.conf", "etc/modprobe.conf.local"}
	for _, name := range n.once(append(files, n.list("etc/modprobe.d", "")...)) {
		data, ok := n.read(name)
		if !ok {
			continue
		}
		n.write(name, data, eachLine(data, func(l string) string { return ethAlias.ReplaceAllString(l, "${1}virtio_net${3}") }))
	}
}
