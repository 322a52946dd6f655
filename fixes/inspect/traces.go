package inspect

import (
	"cmp"
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"strings"

	"hyper2kvm/fixes/guest"
)

// trace is something that the running guest left behind of a card: a lease, a
// line in a log. Any of mac, name and ip may be missing.
type trace struct {
	mac, name string
	ip        netip.Addr
	from      string
	at        int64 // seconds since 1970, 0 where not known
	source    source
}

// source is where a trace is from, the more telling first.
type source int

const (
	fromLease source = iota
	fromConfig
	fromLog
)

// left notes a trace. The name must be one that a card can have.
func (n *names) left(t trace) {
	t.mac = plainMAC(t.mac)
	if softName.MatchString(t.name) || !cardName.MatchString(t.name) || t.mac == "" && !t.ip.IsValid() || len(n.traces) >= maxTraces {
		return
	}
	n.traces = append(n.traces, t)
}

// cardName is a name that the kernel allows (IFNAMSIZ), without a dot.
var cardName = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9_-]{0,14}$`)

// maxTraces bounds what is remembered.
const maxTraces = 10000

// has notes the addresses that a file gives the interface name. They stand as
// whole words: 10.0.0.5 is not 10.0.0.50.
func (n *names) has(name, text, from string) {
	for _, word := range strings.FieldsFunc(text, func(r rune) bool { return strings.ContainsRune(" \t;,'\"", r) }) {
		word, _, _ = strings.Cut(word, "/")
		if ip, err := netip.ParseAddr(word); err == nil && !ip.IsLoopback() {
			n.left(trace{name: name, ip: ip.WithZone("").Unmap(), from: from, source: fromConfig})
		}
	}
}

// trace names the cards that no configuration names by address: by what the
// DHCP clients kept, by the IP addresses that the hypervisor knew, by the logs.
func (n *names) trace() {
	nics := n.facts.NICs
	open := func() bool {
		return slices.ContainsFunc(nics, func(c guest.NIC) bool { return c.Name == "" && c.MAC != "" })
	}
	if !open() {
		return
	}
	n.each(nics, func(c guest.NIC, t trace) bool { return t.source == fromLease && sameCard(c, t) })
	n.each(nics, func(c guest.NIC, t trace) bool { return t.source != fromLog && knows(c, t.ip) })
	if open() {
		n.logs()
		n.each(nics, func(c guest.NIC, t trace) bool { return t.source == fromLog && (sameCard(c, t) || knows(c, t.ip)) })
	}
	n.twice(nics)
}

func sameCard(c guest.NIC, t trace) bool { return t.mac != "" && t.mac == cmp.Or(c.Was, c.MAC) }

func knows(c guest.NIC, ip netip.Addr) bool {
	return ip.IsValid() && slices.ContainsFunc(c.Addresses, func(s string) bool {
		have, err := netip.ParseAddr(s)
		return err == nil && have.WithZone("").Unmap() == ip
	})
}

// each gives the cards without a name the one that the traces fit agrees on.
func (n *names) each(nics []guest.NIC, fit func(guest.NIC, trace) bool) {
	before := slices.Clone(nics)
	for i := range nics {
		if nics[i].Name != "" || nics[i].MAC == "" || nics[i].Unsure != "" {
			continue
		}
		var found []trace
		for _, t := range n.traces {
			if fit(nics[i], t) && n.free(before, t.name) {
				found = append(found, t)
			}
		}
		found = newest(found)
		switch {
		case len(found) == 0:
		case len(found) == 1:
			nics[i].Name, nics[i].From = found[0].name, found[0].from
		default:
			var said []string
			for _, t := range found {
				said = append(said, fmt.Sprintf("%s calls it %s", t.from, t.name))
			}
			nics[i].Unsure = strings.Join(said, ", ")
		}
	}
}

// free reports whether a card can have been called name: none that another card
// has, and where the configuration has a name for each card that lacks one, one
// of those: a lease may be from before the interface was renamed.
func (n *names) free(nics []guest.NIC, name string) bool {
	has := func(nics []guest.NIC, name string) bool {
		return slices.ContainsFunc(nics, func(k guest.NIC) bool { return k.Name == name })
	}
	if has(n.known, name) || has(nics, name) {
		return false
	}
	open := slices.DeleteFunc(slices.Clone(n.loose), func(l guest.NIC) bool { return has(nics, l.Name) })
	nameless := 0
	for _, c := range nics {
		if c.Name == "" {
			nameless++
		}
	}
	return len(open) < nameless || has(open, name)
}

// newest gives one trace for each name, of those with a time the newest alone.
// Several IP addresses of one card are one name.
func newest(found []trace) []trace {
	slices.SortStableFunc(found, func(a, b trace) int { return cmp.Compare(b.at, a.at) })
	var out []trace
	for _, t := range found {
		if slices.ContainsFunc(out, func(o trace) bool { return o.name == t.name }) {
			continue
		}
		if len(out) > 0 && t.at > 0 && t.at < out[0].at {
			continue
		}
		out = append(out, t)
	}
	return out
}

// twice takes a name back that two cards came to have.
func (n *names) twice(nics []guest.NIC) {
	for i := range nics {
		for j := range i {
			if nics[i].Name == "" || nics[i].Name != nics[j].Name {
				continue
			}
			text := fmt.Sprintf("%s and %s call two cards %s", nics[j].From, nics[i].From, nics[i].Name)
			for _, k := range []int{i, j} {
				nics[k].Name, nics[k].From, nics[k].Unsure = "", "", text
			}
		}
	}
}

// traced gives interfaces that are configured by name alone the address that
// their leases tell, so that the target machine can keep it.
func (n *names) traced(nics []guest.NIC) []guest.NIC {
	used := map[string]int{}
	for _, c := range nics {
		used[c.MAC]++
	}
	for i := range nics {
		if nics[i].MAC != "" {
			continue
		}
		var found []trace
		for _, t := range n.traces {
			if t.name == nics[i].Name && t.mac != "" {
				t.name = t.mac // what has to be one
				found = append(found, t)
			}
		}
		if found = newest(found); len(found) == 1 && used[found[0].mac] == 0 {
			nics[i].MAC, nics[i].From = found[0].mac, found[0].from
			used[found[0].mac]++
		}
	}
	return nics
}
