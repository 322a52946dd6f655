package linux

import (
	"slices"
	"strings"

	"hyper2kvm/fixes/linux/netplan"
)

// netplanDevices gives what all of netplan's files say together.
func (p *planner) netplanDevices() []netplan.Device {
	var files []*netplan.File
	for _, name := range p.netplanFiles() {
		data, ok := p.read(name)
		if !ok {
			continue
		}
		if f, err := netplan.Parse(data); err == nil {
			files = append(files, f)
		}
	}
	return netplan.Merge(files)
}

// visitNetplan goes through the match: of each card. The name that goes with
// its address may stand in another file.
func visitNetplan(p *planner) func(*pinVisit, []byte) []byte {
	all := p.netplanDevices()
	return func(v *pinVisit, data []byte) []byte {
		f, err := netplan.Parse(data)
		if err != nil {
			v.note("%s: left as it is: %v", v.file, err)
			return data
		}
		for _, d := range f.Devices() {
			if d.Kind != "ethernets" {
				continue
			}
			if d.MAC != nil {
				i := slices.IndexFunc(all, func(o netplan.Device) bool { return o.Kind == d.Kind && o.ID == d.ID })
				iface := ""
				if i >= 0 {
					iface = all[i].Interface()
				}
				d.MAC.Text = v.address(d.MAC.Text, only([]string{iface}), i >= 0 && all[i].SetName != nil)
			}
			var have []string
			for _, x := range d.Drivers {
				have = append(have, strings.Fields(x.Text)...)
			}
			if more := v.driver(have); more != "" {
				addDriver(v, d.Drivers, more)
			}
		}
		now, err := f.Bytes()
		if err != nil {
			v.note("%s: left as it is: %v", v.file, err)
			return data
		}
		return now
	}
}

// netplanNames lists the cards below ethernets:. One with a match: of its own
// is an identifier unless set-name gives it the name.
func netplanNames(p *planner, add func(...string)) {
	for _, d := range p.netplanDevices() {
		if d.Kind == "ethernets" {
			add(d.Interface())
		}
	}
}

// addDriver lets a match by driver take one more. A list of drivers is known to
// netplan from 0.104 on, a blank is refused by it, and a list with set-name makes
// a rule for udev that matches nothing (0.106); a pattern works in all.
func addDriver(v *pinVisit, drivers []*netplan.Value, more string) {
	have, alone := drivers[len(drivers)-1], drivers[0]
	if len(drivers) > 1 {
		alone = nil
	}
	pattern := map[string]string{
		"vmxnet": "v[im][rx]*net*", "vmxnet3": "v[im][rx]*net*", "hv_netvsc": "[hv][iv][_r]*net*", "xen_netfront": "[vx][ei][nr]*net*",
		"e1000": "[ev][1i][0r]*", "e1000e": "[ev][1i][0r]*", "pcnet32": "[pv][ci][nr]*", "ena": "[ev][in][ar]*", "vif": "vi[fr]*",
	}[have.Text]
	switch {
	case have.InList() && (alone == nil || pattern == ""):
		have.After(more)
	case pattern == "":
		v.note("%s: matches the driver %s; left", v.file, have.Text)
	default:
		have.Text = pattern
	}
}
