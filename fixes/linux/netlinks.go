package linux

import (
	"path"
	"slices"
	"strings"

	"hyper2kvm/fixes/guest"
	"hyper2kvm/fixes/linux/ini"
)

// Of the .link files that match a card the first by name counts, and all others
// are ignored (systemd.link(5)). What the guest has set in one of its own goes
// into ours, which stands before it.
const (
	ourLink   = "10-hyper2kvm-"
	firstLink = "00-hyper2kvm-" // where one of the guest's own stands before ourLink
)

func isOurLink(name string) bool {
	base := path.Base(name)
	return strings.HasPrefix(base, ourLink) || strings.HasPrefix(base, firstLink)
}

// link writes a .link file that names the card that match matches.
func (n *naming) link(name, mac, match string) {
	file, settings := ourLink+name+".link", ""
	if own, data := n.ownLink(mac); own != "" {
		if path.Base(own) < file {
			file = firstLink + name + ".link"
		}
		if path.Base(own) < file {
			n.ruleInstead(own, name, mac)
			return
		}
		if settings = otherSettings(data); settings != "" {
			settings = "# From /" + own + ", which is not read for this card any more:\n" + settings
			n.note("%s: its settings for %s are in %s now, as of several .link files for a card one counts", own, name, path.Join(networkDir, file))
		}
	}
	n.create(path.Join(networkDir, file),
		"# The interface keeps the name that it had before the move to KVM.\n[Match]\n"+match+"\n\n[Link]\nName="+name+"\n"+settings)
}

// ruleInstead names a card by a rule of udev, which goes over every .link file,
// where one of the guest's own stands before any that could be written.
func (n *naming) ruleInstead(own, name, mac string) {
	if mac == "" || !n.readsAttr() {
		n.note("%s: matches the card that was %s, and no file that names it can stand before it; left", own, name)
		return
	}
	data, _ := n.pending(rulesFile)
	if !strings.Contains(string(data), `NAME="`+name+`"`) {
		n.amend(rulesFile, data, []byte(withRule(string(data), name, mac, "")))
	}
}

// ownLink finds the guest's own .link file that counts for a card: mac is "" for
// the only one.
func (n *naming) ownLink(mac string) (name string, data []byte) {
	for _, name := range n.networkd(".link") {
		if isOurLink(name) || strings.Contains(name, ".link.d/") || strings.HasSuffix(name, "/99-default.link") {
			continue
		}
		if data, ok := n.pending(name); ok && n.matchesCard(ini.Parse(data), mac) {
			return name, data
		}
	}
	return "", nil
}

// matchesCard reports whether a .link file matches a card of KVM's. What else it
// may ask for (a host, a kernel's argument) is taken not to.
func (n *naming) matchesCard(f *ini.File, mac string) bool {
	asked := false
	for _, e := range f.Entries() {
		if !strings.EqualFold(e.Section, "Match") {
			continue
		}
		asked = true
		values := strings.Fields(e.Value)
		some := func(ok func(string) bool) bool { return slices.ContainsFunc(values, ok) }
		fits := false
		switch strings.ToLower(e.Key) {
		case "macaddress", "permanentmacaddress":
			fits = some(func(v string) bool { m, ok := normalMAC(n.follow(v)); return ok && m == mac })
		case "originalname":
			fits = some(func(v string) bool { return matches(v, "eth0") })
		case "type":
			fits = some(func(v string) bool { return v == "ether" })
		case "driver":
			fits = some(func(v string) bool { return matches(v, "virtio_net") }) || withVirtio(values) != ""
		case "path":
			fits = some(func(v string) bool { return matches(v, "pci-0000:01:00.0") })
		}
		if !fits {
			return false
		}
	}
	return asked
}

// otherSettings gives what a .link file sets beside names.
func otherSettings(data []byte) string {
	var b strings.Builder
	for _, e := range ini.Parse(data).Entries() {
		switch strings.ToLower(e.Key) {
		case "name", "namepolicy", "alternativename", "alternativenamespolicy", "description":
			continue
		}
		if strings.EqualFold(e.Section, "Link") {
			b.WriteString(e.Key + "=" + e.Value + "\n")
		}
	}
	return b.String()
}

// linked reports whether a .link file of the guest's own names the card already.
func (n *naming) linked(card guest.NIC) bool {
	for _, name := range n.networkd(".link") {
		if isOurLink(name) {
			continue
		}
		data, ok := n.read(name)
		if !ok {
			continue
		}
		f := ini.Parse(data)
		if slices.Contains(f.Values("Link", "Name"), card.Name) && slices.ContainsFunc(matchedMACs(f), func(m string) bool { return n.follow(m) == card.MAC }) {
			return true
		}
	}
	return false
}
