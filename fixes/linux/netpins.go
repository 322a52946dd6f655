package linux

import (
	"regexp"
	"slices"
	"strings"

	"hyper2kvm/fixes/guest"
	"hyper2kvm/fixes/linux/ini"
)

// pins makes networkd's [Match] sections fit the new cards: an address follows
// the plan's card, a driver may be virtio_net, a PCI path any.
func (n *naming) pins() {
	files := append(n.list(networkDir, ".network"), n.list(networkDir, ".link")...)
	old, new := n.replaced(files)
	for _, name := range n.once(files) {
		if strings.Contains(name, "/10-hyper2kvm-") {
			continue
		}
		data, ok := n.pending(name)
		if !ok {
			continue
		}
		f := ini.Parse(data)
		for _, e := range f.Entries() {
			if !strings.EqualFold(e.Section, "Match") {
				continue
			}
			switch strings.ToLower(e.Key) {
			case "macaddress", "permanentmacaddress":
				e.Value = replaceMAC(e.Value, old, new)
			case "driver":
				e.Value = withVirtio(e.Value)
			case "path":
				n.path(name, e)
			}
		}
		n.amend(name, data, f.Bytes())
	}
}

// replaced finds the address that the guest's files match and the plan's cards
// do not have, and the card that must be meant. It returns "" for none.
func (n *naming) replaced(files []string) (old, new string) {
	var strange []string
	matched := map[string]bool{}
	for _, name := range files {
		data, ok := n.read(name)
		if !ok || strings.Contains(name, "/10-hyper2kvm-") {
			continue
		}
		for _, mac := range matchedMACs(ini.Parse(data)) {
			known := slices.ContainsFunc(n.nics, func(nic guest.NIC) bool { return nic.MAC == mac })
			if !known && !slices.Contains(strange, mac) {
				strange = append(strange, mac)
			}
			matched[mac] = true
		}
	}
	var free []string
	for _, nic := range n.nics {
		if !matched[nic.MAC] {
			free = append(free, nic.MAC)
		}
	}
	switch {
	case len(strange) == 0 || len(n.nics) == 0:
		return "", ""
	case len(strange) != 1 || len(free) != 1:
		n.note("the network configuration matches addresses that no card has (%s), and which card is meant cannot be told; left", strings.Join(strange, ", "))
		return "", ""
	}
	n.note("the network configuration follows the card from address %s to %s", strange[0], free[0])
	return strange[0], free[0]
}

// matchedMACs lists the addresses in [Match], in normal form.
func matchedMACs(f *ini.File) []string {
	var out []string
	for _, v := range append(f.Values("Match", "MACAddress"), f.Values("Match", "PermanentMACAddress")...) {
		if mac, ok := normalMAC(v); ok {
			out = append(out, mac)
		}
	}
	return out
}

func replaceMAC(value, old, new string) string {
	fields := strings.Fields(value)
	found := false
	for i, v := range fields {
		if mac, ok := normalMAC(v); ok && old != "" && mac == old {
			fields[i], found = new, true
		}
	}
	if !found {
		return value
	}
	return strings.Join(fields, " ")
}

// withVirtio lets a match by the driver of a hypervisor's card match KVM's.
func withVirtio(value string) string {
	drivers := strings.Fields(value)
	if len(drivers) == 0 || strings.HasPrefix(drivers[0], "!") || slices.Contains(drivers, "virtio_net") {
		return value
	}
	for _, d := range []string{"vmxnet3", "vmxnet", "e1000", "e1000e", "pcnet32", "hv_netvsc", "xen_netfront", "vif", "ena"} {
		if slices.Contains(drivers, d) {
			return value + " virtio_net"
		}
	}
	return value
}

func (n *naming) path(name string, e *ini.Entry) {
	if !strings.HasPrefix(e.Value, "pci-") && !strings.HasPrefix(e.Value, "acpi-") || strings.ContainsAny(e.Value, "*") {
		return
	}
	if len(n.nics)+n.blind > 1 || strings.HasSuffix(name, ".link") {
		n.note("%s: matches %s, a place on the old machine's bus; left", name, e.Value)
		return
	}
	n.note("%s: matched %s, a place on the old machine's bus; it matches any card on PCI now", name, e.Value)
	e.Value = "pci-*"
}

const rulesFile = "etc/udev/rules.d/70-persistent-net.rules"

var (
	ruleName    = regexp.MustCompile(`(?:^|[\s,])NAME:?="([^"]+)"`)
	ruleAddress = regexp.MustCompile(`ATTR\{address\}=="([^"]*)"`)
	// ruleBus matches what ties a rule to the old machine's buses and drivers.
	ruleBus = regexp.MustCompile(`(?:KERNELS|ATTR\{dev_id\}|ATTR\{dev_port\}|DRIVERS)=="([^"]*)",[ \t]*`)
)

// rules edits the names that older udev remembers, and adds to them in a guest
// that has no .link files.
func (n *naming) rules() {
	n.ruled = map[string]bool{}
	data, ok := n.read(rulesFile)
	now := data
	if ok {
		now = eachLine(data, n.rule)
	}
	if !n.readsLinks() && (n.exists("lib/udev/rules.d") || n.exists("etc/udev/rules.d")) {
		now = n.addRules(now)
	}
	n.write(rulesFile, data, now)
}

func (n *naming) rule(l string) string {
	m := ruleName.FindStringSubmatch(l)
	if m == nil || strings.HasPrefix(strings.TrimSpace(l), "#") {
		return l
	}
	mac := ""
	for _, nic := range n.nics {
		if nic.Name == m[1] {
			mac = nic.MAC
		}
	}
	address := ruleAddress.FindStringSubmatch(l)
	switch {
	case address == nil && mac == "":
		n.note("%s: the rule for %s matches no address; left", rulesFile, m[1])
		return l
	case address == nil:
		l = strings.Replace(l, strings.TrimLeft(m[0], " \t,"), `ATTR{address}=="`+mac+`", `+strings.TrimLeft(m[0], " \t,"), 1)
	case mac != "" && !strings.EqualFold(address[1], mac):
		l = strings.Replace(l, address[0], `ATTR{address}=="`+mac+`"`, 1)
	}
	n.ruled[m[1]] = mac != ""
	return ruleBus.ReplaceAllStringFunc(l, func(s string) string {
		if strings.Contains(s, `"?*"`) {
			return s
		}
		return ""
	})
}

// addRules adds the cards that no rule names, in the form of udev's generator.
func (n *naming) addRules(data []byte) []byte {
	text := string(data)
	for _, nic := range n.nics {
		if nic.Name == "" || n.ruled[nic.Name] {
			continue
		}
		if text != "" && !strings.HasSuffix(text, "\n") {
			text += "\n"
		}
		kernel := ""
		if isKernelName(nic.Name) {
			kernel = `KERNEL=="eth*", ` // lets udev swap two names
		}
		text += `SUBSYSTEM=="net", ACTION=="add", DRIVERS=="?*", ATTR{address}=="` + nic.MAC + `", ATTR{type}=="1", ` + kernel + `NAME="` + nic.Name + "\"\n"
	}
	if text == "" {
		return data
	}
	return []byte(text)
}
