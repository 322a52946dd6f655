package linux

import (
	"path"
	"regexp"
	"strings"
)

const ruleBusKeys = `(?:KERNELS|\bBUS|\bID|ATTRS?\{dev_id\}|ATTRS?\{dev_port\}|DRIVERS|ENV\{ID_PATH\}|ENV\{ID_NET_DRIVER\})[ \t]*==[ \t]*"([^"]*)"`

const rulesFile = "etc/udev/rules.d/70-persistent-net.rules"

var (
	// ruleName matches what names the card: NAME, or the program that SLES 10's
	// rules call.
	ruleName    = regexp.MustCompile(`(?:^|[\s,])(?:NAME[ \t]*:?=[ \t]*"([^"]+)"|IMPORT(?:\{program\})?="\S*rename_netiface %k ([^"\s]+)")`)
	ruleAddress = regexp.MustCompile(`((?:ATTRS?|SYSFS)\{address\}[ \t]*)==[ \t]*"([^"]*)"`)
	ruleIsNet   = regexp.MustCompile(`SUBSYSTEMS?[ \t]*==[ \t]*"net"`)
	// ruleBus matches what ties a rule to the old machine's buses and drivers.
	ruleBus     = regexp.MustCompile(ruleBusKeys + `,[ \t]*`)
	ruleBusLast = regexp.MustCompile(`,[ \t]*` + ruleBusKeys + `[ \t]*$`)
)

func (p *planner) ruleFiles() []string {
	files := p.list("etc/udev/rules.d", ".rules")
	return append(files, p.list("etc/udev", ".rules")...)
}

// ruleOf takes a line of a rules file apart: the name that it gives a card, and
// the address by which it knows it; name is "" for any other line.
func ruleOf(file, l string) (name, mac string) {
	m := ruleName.FindStringSubmatch(l)
	if m == nil || strings.HasPrefix(strings.TrimSpace(l), "#") || file != rulesFile && !ruleIsNet.MatchString(l) {
		return "", ""
	}
	if name = m[1] + m[2]; !cardName.MatchString(name) {
		return "", ""
	}
	if a := ruleAddress.FindStringSubmatch(l); a != nil {
		mac = a[2]
	}
	return name, mac
}

// visitRules only reads; rules are edited by rule.
func visitRules(v *pinVisit, data []byte) []byte {
	for l := range strings.Lines(string(data)) {
		if name, mac := ruleOf(v.file, l); mac != "" {
			v.address(mac, name, true)
		}
	}
	return data
}

// rules edits the names that udev's rules give, and adds to them in a guest
// that has no .link files.
func (n *naming) rules() {
	n.ruled = map[string]bool{}
	for _, name := range n.once(n.ruleFiles()) {
		if name == rulesFile {
			continue
		}
		if data, ok := n.read(name); ok {
			n.write(name, data, eachLine(data, func(l string) string { return n.rule(name, l) }))
		}
	}
	data, ok := n.read(rulesFile)
	now := data
	if ok {
		now = eachLine(data, func(l string) string { return n.rule(rulesFile, l) })
	}
	if n.needsRules() {
		now = n.addRules(now)
	}
	n.write(rulesFile, data, now)
}

// needsRules reports whether names have to stand in udev's rules. Beside .link
// files they have to where
//   - a generator of rules is at work (up to Debian 8, SLES 12): it names each
//     card that no rule does, and what a rule has named no .link file renames;
//   - udev is older than 240: a card that was renamed once, in the initramfs,
//     is not renamed by a .link file any more (systemd's NEWS; a rule does it);
//   - the guest is Red Hat's: there both are needed in practice.
func (n *naming) needsRules() bool {
	if !n.readsAttr() {
		return false
	}
	return !n.readsLinks() || n.redHat() || n.hasRule("75-persistent-net-generator.rules") || n.renamesOnce()
}

// renamesOnce reports whether udev is known to be older than 240. Its library
// has the version in its name, from 230 on.
func (n *naming) renamesOnce() bool {
	dirs := []string{"usr/lib/systemd", "lib/systemd"}
	for _, lib := range []string{"usr/lib", "lib"} {
		for _, triplet := range n.list(lib, "-linux-gnu") {
			dirs = append(dirs, path.Join(triplet, "systemd"))
		}
	}
	for _, dir := range dirs {
		for _, name := range n.list(dir, "") {
			if m := systemdLibrary.FindStringSubmatch(name); m != nil {
				return m[1] < "240"
			}
		}
	}
	return n.exists("usr/lib/systemd/network/99-default.link") || n.exists("lib/systemd/network/99-default.link")
}

var systemdLibrary = regexp.MustCompile(`/libsystemd-shared-([0-9]{3})[^/]*\.so$`)

// readsAttr reports whether the guest's udev is one that knows ATTR{address}:
// those before have their rules in etc alone (udev 098 renamed SYSFS, 136 moved
// its own rules to lib).
func (n *naming) readsAttr() bool {
	if n.exists("lib/udev/rules.d") || n.exists("usr/lib/udev/rules.d") {
		return true
	}
	return n.exists("etc/udev/rules.d") && !n.beforeAttr()
}

func (n *naming) rule(file, l string) string {
	name, _ := ruleOf(file, l)
	if name == "" {
		return l
	}
	mac := ""
	for _, nic := range n.nics {
		if nic.Name == name {
			mac = nic.MAC
		}
	}
	address := ruleAddress.FindStringSubmatch(l)
	switch {
	case address == nil && mac == "":
		n.note("%s: the rule for %s matches no address; left", file, name)
		return l
	case address == nil:
		key := "ATTR{address}"
		if strings.Contains(l, "SYSFS{") || n.beforeAttr() {
			key = "SYSFS{address}"
		}
		m := strings.TrimLeft(ruleName.FindString(l), " \t,")
		l = strings.Replace(l, m, key+`=="`+mac+`", `+m, 1)
	case mac != "" && !strings.EqualFold(address[2], mac):
		l = strings.Replace(l, address[0], address[1]+`=="`+mac+`"`, 1)
	case mac == "" && n.follow(address[2]) != address[2]:
		l = strings.Replace(l, address[0], address[1]+`=="`+n.follow(address[2])+`"`, 1)
	}
	n.ruled[name] = mac != ""
	drop := func(s string) string {
		if strings.Contains(s, `"?*"`) {
			return s
		}
		return ""
	}
	return ruleBusLast.ReplaceAllStringFunc(ruleBus.ReplaceAllStringFunc(l, drop), drop)
}

// addRules adds the cards that no rule names, in the form of udev's generator.
func (n *naming) addRules(data []byte) []byte {
	text := string(data)
	natural := n.readsLinks() && n.kernelNames() && !n.hasRule("75-persistent-net-generator.rules")
	for _, nic := range n.nics {
		if nic.Name == "" || n.ruled[nic.Name] || n.disputed(nic.MAC) || natural && n.inPlace(nic) {
			continue
		}
		kernel := ""
		if isKernelName(nic.Name) && !n.readsLinks() { // there the initramfs may have renamed it
			kernel = `KERNEL=="eth*", ` // as the generator writes it
		}
		text = withRule(text, nic.Name, nic.MAC, kernel)
	}
	if text == "" {
		return data
	}
	return []byte(text)
}

// withRule adds a rule in the form of udev's generator; kernel is one more match.
func withRule(text, name, mac, kernel string) string {
	if text != "" && !strings.HasSuffix(text, "\n") {
		text += "\n"
	}
	return text + `SUBSYSTEM=="net", ACTION=="add", DRIVERS=="?*", ATTR{address}=="` + mac + `", ATTR{type}=="1", ` + kernel + `NAME="` + name + "\"\n"
}
