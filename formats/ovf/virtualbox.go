package ovf

import (
	"slices"
	"strconv"
	"strings"
)

// virtualBox adds what VirtualBox says in its own words beside the standard
// ones: its vbox:Machine is its settings file, less the paths of the host.
func virtualBox(m *Machine, e *element) {
	if e.name == "" {
		return
	}
	if t := e.attr("OSType"); t != "" {
		m.Guest = cut(t)
	}
	h := e.child("Hardware")
	if f := firmware(h.child("Firmware").attr("type")); f != "" {
		m.Firmware = f
	} else if m.Firmware == "" && h.name != "" {
		m.Firmware = "bios" // the element is only written for EFI
	}
	for _, nvram := range []*element{h.child("Firmware"), h.child("BIOS").child("NVRAM"), h.child("BIOS"), h} {
		if isTrue(nvram.child("SecureBoot").attr("enabled")) || isTrue(nvram.child("UefiSecureBoot").attr("enabled")) || isTrue(nvram.attr("uefiSecureBoot")) {
			m.SecureBoot = m.Firmware == "uefi"
		}
	}
	if n, err := strconv.Atoi(h.child("CPU").attr("count")); err == nil && m.CPUs == 0 && n > 0 && n <= maxCPUs {
		m.CPUs = n
	}
	if n, ok := bytesIn(h.child("Memory").attr("RAMSize"), "MB", ""); ok && m.Memory == 0 {
		m.Memory = n
	}
	virtualBoxNICs(m, h.child("Network"))
}

// virtualBoxNICs puts the addresses to the interfaces, which both lists have in
// the order of their slots. VirtualBox's kinds of connection ("NAT",
// "Bridged") are no networks that another host would have.
func virtualBoxNICs(m *Machine, network *element) {
	var adapters []*element
	for _, a := range network.all("Adapter") {
		if isTrue(a.attr("enabled")) && len(adapters) < maxDisks {
			adapters = append(adapters, a)
		}
	}
	slot := func(e *element) int { n, _ := strconv.Atoi(e.attr("slot")); return n }
	slices.SortStableFunc(adapters, func(a, b *element) int { return slot(a) - slot(b) })
	for i, a := range adapters {
		if i >= len(m.NICs) {
			m.NICs = append(m.NICs, NIC{Model: cut(a.attr("type"))})
		}
		if mac := macAddress(a.attr("MACAddress")); mac != "" {
			m.NICs[i].MAC = mac
		}
	}
	for i := range m.NICs {
		if slices.ContainsFunc([]string{"NAT", "Bridged", "HostOnly", "Internal", "Generic", "null", "none"}, func(s string) bool {
			return strings.EqualFold(s, m.NICs[i].Network)
		}) {
			m.NICs[i].Network = ""
		}
	}
}
