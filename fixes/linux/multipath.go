package linux

import (
	"regexp"
	"strings"

	"hyper2kvm/fixes/linux/multipathconf"
)

func multipath() fix {
	return fix{
		id:  "linux/multipath",
		why: "A multipath daemon that claims every disk takes KVM's single ones from the guest's mounts.",
		plan: func(p *planner) error {
			const name = "etc/multipath.conf"
			data, ok := p.read(name)
			if !ok {
				return nil
			}
			file := multipathconf.Parse(data)
			if !file.Sound() {
				p.note("%s: not understood; left", name)
				return nil
			}
			multipathAliases(p, name, file)
			if !greedy(p, file) || !claims(file) {
				return nil
			}
			// Sections of one name are joined, multipath.conf(5).
			file.Append("blacklist", `devnode "^vd[a-z]"`)
			p.write(name, data, file.Bytes())
			return nil
		},
	}
}

// greedy reports whether single disks are claimed, too: find_multipaths is off,
// which it is by default outside Debian and before 0.8 (multipath.conf(5)).
func greedy(p *planner, f *multipathconf.File) bool {
	value := ""
	for _, s := range f.Settings() {
		if s.Path == "defaults/find_multipaths" {
			value = s.Value
		}
	}
	switch value {
	case "":
		return !p.like("debian", "ubuntu")
	case "no", "off", "greedy":
		return true
	}
	return false
}

// claims reports whether virtio's disks pass the blacklists. A pattern that is no
// regular expression here is not counted as matching.
func claims(f *multipathconf.File) bool {
	for _, s := range f.Settings() {
		if s.Path != "blacklist/devnode" {
			continue
		}
		pattern, inverted := strings.CutPrefix(s.Value, "!")
		re, err := regexp.Compile(pattern)
		if err == nil && re.MatchString("vda") != inverted {
			return false
		}
	}
	return true
}

// multipathAliases tells of names of the guest's own for multipath devices, which
// nothing makes on KVM.
func multipathAliases(p *planner, name string, f *multipathconf.File) {
	for _, s := range f.Settings() {
		if s.Path == "multipaths/multipath/alias" {
			p.note("%s: /dev/mapper/%s is a name for a multipath device, which KVM's disks are not; what uses it has to be told another name", name, s.Value)
		}
	}
}
