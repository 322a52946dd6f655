package linux

import (
	"regexp"
	"slices"
	"strings"

	"hyper2kvm/fixes"
	"hyper2kvm/fixes/linux/lvmconf"
)

func lvm() fix {
	return fix{
		id:  "linux/lvm",
		why: "LVM's list of devices and filters name the old machine's disks; with them the volume groups are not found on KVM.",
		plan: func(p *planner) error {
			lists := []string{"etc/lvm/devices/system.devices"}
			for _, name := range p.once([]string{"etc/lvm/lvm.conf", "etc/lvm/lvmlocal.conf"}) {
				lists = append(lists, lvmSettings(p, name)...)
			}
			// With no list all devices are looked at, lvmdevices(8). The copy in an
			// initramfs is why this stands before the initramfs is touched.
			var gone []fixes.Change
			for _, name := range append(lists, "etc/lvm/cache/.cache") {
				if p.exists(name) {
					gone = append(gone, fixes.Remove{Name: name})
				}
			}
			p.changes = append(gone, p.changes...)
			return nil
		},
	}
}

// accept lets every disk of KVM's buses through.
const accept = "a|^/dev/[sv]d[a-z]|"

// lvmSettings edits what in LVM's configuration keeps it from KVM's disks, and
// gives the further lists of devices that it names.
func lvmSettings(p *planner, name string) (lists []string) {
	data, ok := p.read(name)
	if !ok {
		return nil
	}
	file := lvmconf.Parse(data)
	if !file.Sound() {
		p.note("%s: not understood; left", name)
		return nil
	}
	for _, s := range file.Settings() {
		switch s.Path {
		case "devices/filter", "devices/global_filter":
			lvmFilter(p, name, s)
		case "devices/scan":
			// Folders of links that KVM's disks do not all have.
			if s.List && len(s.Values) > 0 && !slices.Contains(s.Values, "/dev") {
				p.note("%s: devices are looked for in %s alone, which KVM's disks have no links in; now in /dev, too", name, strings.Join(s.Values, ", "))
				s.Prepend("/dev")
			}
		case "devices/devicesfile":
			if v := s.Values[0]; v != "" && v != "system.devices" && !strings.Contains(v, "/") && v != "." && v != ".." {
				lists = append(lists, "etc/lvm/devices/"+v)
			}
		}
	}
	p.write(name, data, file.Bytes())
	return lists
}

// lvmFilter lets KVM's disks through a filter that rejects them.
func lvmFilter(p *planner, name string, s *lvmconf.Setting) {
	switch sees, ok := filterSees(s.Values); {
	case !s.List || !ok:
		p.note("%s: the %s %q is not understood; left", name, strings.TrimPrefix(s.Path, "devices/"), s.Values)
	case len(s.Values) > 0 && s.Values[0] == accept:
	case !sees:
		s.Prepend(accept)
	}
}

// filterSees reports whether a filter accepts the first disk and partition of
// either bus. The first pattern that matches a name decides; a name that none
// matches is accepted (lvm.conf(5), devices/filter).
func filterSees(items []string) (sees, ok bool) {
	for _, device := range []string{"/dev/vda", "/dev/vda2", "/dev/sda", "/dev/sda2", "/dev/vdb", "/dev/sdb"} {
		accepted := true
		for _, item := range items {
			if len(item) < 3 || item[0] != 'a' && item[0] != 'r' || !strings.HasSuffix(item, closer(item[1])) {
				return false, false
			}
			re, err := regexp.Compile(item[2 : len(item)-1])
			if err != nil {
				return false, false
			}
			if re.MatchString(device) {
				accepted = item[0] == 'a'
				break
			}
		}
		if !accepted {
			return false, true
		}
	}
	return true, true
}

// closer is the delimiter that ends a pattern begun with c.
func closer(c byte) string {
	switch c {
	case '(':
		return ")"
	case '[':
		return "]"
	case '{':
		return "}"
	}
	return string(rune(c))
}
