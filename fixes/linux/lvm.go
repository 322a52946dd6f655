package linux

import (
	"regexp"
	"strings"

	"hyper2kvm/fixes"
)

func lvm() fix {
	return fix{
		id:  "linux/lvm",
		why: "LVM's list of devices and filters name the old machine's disks; with them the volume groups are not found on KVM.",
		plan: func(p *planner) error {
			// With no list all devices are looked at, lvmdevices(8). The copy in an
			// initramfs is why this stands before the initramfs is touched.
			for _, name := range []string{"etc/lvm/devices/system.devices", "etc/lvm/cache/.cache"} {
				if p.exists(name) {
					p.changes = append(p.changes, fixes.Remove{Name: name})
				}
			}
			for _, name := range p.once([]string{"etc/lvm/lvm.conf", "etc/lvm/lvmlocal.conf"}) {
				lvmFilters(p, name)
			}
			return nil
		},
	}
}

var (
	filterLine  = regexp.MustCompile(`^([ \t]*(?:devices/)?(?:global_)?filter[ \t]*=[ \t]*\[[ \t]*)(".*"|'.*')([ \t]*\].*)$`)
	filterBegin = regexp.MustCompile(`^[ \t]*(?:devices/)?(?:global_)?filter[ \t]*=`)
	filterItem  = regexp.MustCompile(`"((?:[^"\\]|\\.)*)"|'([^']*)'`)
)

// accept lets every disk of KVM's buses through.
const accept = `"a|^/dev/[sv]d[a-z]|"`

// lvmFilters lets KVM's disks through the filters that reject them.
func lvmFilters(p *planner, name string) {
	data, ok := p.read(name)
	if !ok {
		return
	}
	now := eachLine(data, func(l string) string {
		m := filterLine.FindStringSubmatch(l)
		if m == nil && filterBegin.MatchString(l) {
			p.note("%s: a filter that is no list on one line is not understood; left", name)
		}
		if m == nil || strings.HasPrefix(m[2], accept) {
			return l
		}
		sees, ok := filterSees(m[2])
		switch {
		case !ok:
			p.note("%s: the filter %s is not understood; left", name, m[2])
			return l
		case sees:
			return l
		}
		return m[1] + accept + ", " + m[2] + m[3]
	})
	p.write(name, data, now)
}

// filterSees reports whether a filter accepts the first disk and partition of
// either bus. The first pattern that matches a name decides; a name that none
// matches is accepted (lvm.conf(5), devices/filter).
func filterSees(list string) (sees, ok bool) {
	for _, device := range []string{"/dev/vda", "/dev/vda2", "/dev/sda", "/dev/sda2", "/dev/vdb", "/dev/sdb"} {
		accepted := true
		for _, m := range filterItem.FindAllStringSubmatch(list, -1) {
			item := m[1] + m[2]
			if len(item) < 3 || item[0] != 'a' && item[0] != 'r' || !strings.HasSuffix(item, closer(item[1])) {
				return false, false
			}
			re, err := regexp.Compile(strings.ReplaceAll(item[2:len(item)-1], `\\`, `\`))
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
