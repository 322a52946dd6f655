package linux

import (
	"slices"

	"hyper2kvm/fixes/linux/xmltext"
)

// wickedFiles lists wicked's configuration and the interfaces in XML.
func (p *planner) wickedFiles() []string {
	return append(p.list("etc/wicked", ".xml"), p.list("etc/wicked/ifconfig", ".xml")...)
}

// visitWicked goes through wicked's own configuration in XML: an interface may
// be told by its permanent address (wicked-config(5), ifconfig(5)). An address
// in link-layer outside of a match is one that the card is given, and stays.
func visitWicked(v *pinVisit, data []byte) []byte {
	f, err := xmltext.Parse(data)
	if err != nil {
		v.note("%s: left as it is: %v", v.file, err)
		return data
	}
	for _, t := range f.Texts() {
		last := t.Path[len(t.Path)-1]
		if last == "permanent-address" || slices.Contains(t.Path, "match") && (last == "address" || last == "hwaddr") {
			t.Text = v.address(t.Text, "", false)
		}
	}
	return f.Bytes()
}
