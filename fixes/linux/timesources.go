package linux

import (
	"path"
	"regexp"
	"slices"
	"strings"

	"hyper2kvm/fixes/linux/ini"
)

// timeSources takes clocks away that only the old platform has.
func timeSources() fix {
	return fix{
		id:  "linux/time-sources",
		why: "chronyd ends when a clock device of the old hypervisor is not there, and a time server of a cloud does not answer outside of it.",
		plan: func(p *planner) error {
			chrony(p)
			ntp(p)
			timesyncd(p)
			watchTime(p)
			return nil
		},
	}
}

// cloudTime matches servers that answer inside one cloud only: Amazon's, that of
// the metadata address (Oracle, Google), Google's by name, Alibaba's.
var cloudTime = regexp.MustCompile(`(?i)^(?:169\.254\.169\.(?:123|254)|fd00:ec2::123|metadata(?:\.google\.internal)?|ntp[0-9]*\.cloud\.aliyuncs\.com|100\.100\.[0-9.]+)$`)

// publicTime is asked where no other server is left.
const publicTime = "pool.ntp.org"

// chronyFiles lists chronyd's configuration as distributions lay it out; the
// first is where a server is added.
func chronyFiles(p *planner) []string {
	var out []string
	for _, dir := range []string{"etc", "etc/chrony"} {
		out = append(out, path.Join(dir, "chrony.conf"))
		out = append(out, p.list(path.Join(dir, "chrony.d"), "")...)
		out = append(out, p.list(path.Join(dir, "conf.d"), ".conf")...)
		out = append(out, p.list(path.Join(dir, "sources.d"), ".sources")...)
	}
	return p.once(out)
}

// chrony drops the clocks that Hyper-V and VMware offer as devices (chrony.conf(5):
// a refclock that cannot be opened is a fatal error) and servers of clouds.
func chrony(p *planner) {
	files := chronyFiles(p)
	dropped, left := false, false
	for _, name := range files {
		dropped = p.commentOut(name, func(l string) bool {
			f := strings.Fields(l)
			if f[0] == "refclock" && len(f) > 2 && f[1] == "PHC" && !keepsClock(p, f[2]) {
				return true
			}
			server := slices.Contains([]string{"server", "pool", "peer"}, f[0]) && len(f) > 1
			if server && cloudTime.MatchString(f[1]) {
				return true
			}
			left = left || server || f[0] == "refclock"
			return false
		}) || dropped
	}
	if dropped && !left {
		askPublic(p, files[0], "pool "+publicTime+" iburst")
	}
}

// keepsClock reports whether KVM has the device: its own clock is the one that
// the module ptp_kvm makes.
func keepsClock(p *planner, device string) bool {
	device, _, _ = strings.Cut(device, ":")
	if device == "/dev/ptp_kvm" || device == "/dev/ptp0" && loadsPTP(p) {
		return true
	}
	p.note("chronyd's clock %s is the old hypervisor's and ends chronyd where it is missing: switched off; KVM's is /dev/ptp0 of the module ptp_kvm", device)
	return false
}

// loadsPTP reports whether the guest loads KVM's clock already.
func loadsPTP(p *planner) bool {
	for _, name := range append([]string{"etc/modules"}, p.list("etc/modules-load.d", ".conf")...) {
		if data, ok := p.read(name); ok && strings.Contains(uncommented(data), "ptp_kvm") {
			return true
		}
	}
	return false
}

// askPublic adds a server to a file that has lost its last.
func askPublic(p *planner, name, line string) {
	data, ok := p.pending(name)
	if !ok {
		return
	}
	p.amend(name, data, append(ended(data), line+"\n"...))
	p.note("%s: no time server was left; %s is asked now", name, publicTime)
}

// ntp drops servers of clouds from ntpd's configuration.
func ntp(p *planner) {
	for _, name := range p.once([]string{"etc/ntp.conf", "etc/ntpsec/ntp.conf"}) {
		left := false
		dropped := p.commentOut(name, func(l string) bool {
			f := strings.Fields(l)
			if len(f) < 2 || !slices.Contains([]string{"server", "pool", "peer"}, f[0]) {
				return false
			}
			if cloudTime.MatchString(f[1]) {
				return true
			}
			left = left || !strings.HasPrefix(f[1], "127.127.") // a clock of this machine
			return false
		})
		if dropped && !left {
			askPublic(p, name, "server "+publicTime+" iburst")
		}
	}
}

// timesyncd drops servers of clouds; with none, it asks those it was built with
// (timesyncd.conf(5)).
func timesyncd(p *planner) {
	for _, name := range p.once(append([]string{"etc/systemd/timesyncd.conf"}, p.list("etc/systemd/timesyncd.conf.d", ".conf")...)) {
		data, ok := p.read(name)
		if !ok {
			continue
		}
		file := ini.Parse(data)
		for _, e := range file.Entries() {
			if e.Key != "NTP" && e.Key != "FallbackNTP" {
				continue
			}
			servers := strings.Fields(e.Value)
			kept := slices.DeleteFunc(slices.Clone(servers), cloudTime.MatchString)
			if len(kept) < len(servers) {
				e.Value = strings.Join(kept, " ")
			}
		}
		p.write(name, data, file.Bytes())
	}
}

// watchTime tells of a guest whose clock only VMware's tools have set.
func watchTime(p *planner) {
	tools := p.any("usr/bin/vmtoolsd", "usr/sbin/vmware-guestd", "usr/sbin/VBoxService")
	if tools && !p.any("usr/sbin/chronyd", "usr/sbin/ntpd", "usr/lib/systemd/systemd-timesyncd", "lib/systemd/systemd-timesyncd") {
		p.note("no program keeps this guest's clock right once the hypervisor's tools do not: install chrony")
	}
}
