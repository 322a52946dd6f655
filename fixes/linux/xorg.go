package linux

import (
	"path"
	"regexp"
	"slices"
	"strings"
)

// xorg lets X find the new screen where its configuration names the old card.
func xorg() fix {
	return fix{
		id:  "linux/x11",
		why: "An X server that is told to use the old machine's graphics card does not start.",
		plan: func(p *planner) error {
			names := append([]string{"etc/X11/xorg.conf", "etc/X11/XF86Config", "etc/X11/XF86Config-4"}, p.list("etc/X11/xorg.conf.d", ".conf")...)
			for _, name := range p.once(names) {
				xorgFile(p, name)
			}
			return nil
		},
	}
}

var (
	xSection = regexp.MustCompile(`(?i)^[ \t]*Section[ \t]+"([^"]*)"`)
	xEnd     = regexp.MustCompile(`(?i)^[ \t]*EndSection\b`)
	xDriver  = regexp.MustCompile(`(?i)^([ \t]*Driver[ \t]+")([^"]*)(".*)$`)
	xBus     = regexp.MustCompile(`(?i)^[ \t]*BusID[ \t]+"`)
)

// gpuDrivers are those of cards that a virtual machine on KVM does not have.
func gpuDrivers() []string {
	return []string{"vmware", "vboxvideo", "prlvideo", "nvidia", "nv", "nouveau", "fglrx", "radeon", "ati", "amdgpu", "intel", "cirrus", "mga", "hyperv"}
}

// xorgFile gives graphics cards a driver that shows any screen, and mice the
// plain one (xorg.conf(5)).
func xorgFile(p *planner, name string) {
	data, ok := p.read(name)
	if !ok {
		return
	}
	section, replaced := "", false
	mine := xDevices(data)
	n := -1
	now := eachLine(data, func(l string) string {
		if m := xSection.FindStringSubmatch(l); m != nil {
			section = strings.ToLower(m[1])
			n++
		}
		if xEnd.MatchString(l) {
			section = ""
		}
		m := xDriver.FindStringSubmatch(l)
		switch {
		case section == "device" && m != nil && slices.Contains(gpuDrivers(), strings.ToLower(m[2])):
			replaced = true
			return m[1] + screenDriver(p) + m[3]
		case section == "device" && mine[n] && xBus.MatchString(l):
			return "#" + l
		case section == "inputdevice" && m != nil && (m[2] == "vmmouse" || m[2] == "vboxmouse"):
			return m[1] + "mouse" + m[3]
		}
		return l
	})
	if replaced {
		p.note("%s: the old graphics card's driver became %s", name, screenDriver(p))
	}
	p.write(name, data, now)
}

// xDevices tells which sections, counted from 0, are of a card that is gone: its
// address on the bus goes as well.
func xDevices(data []byte) map[int]bool {
	out := map[int]bool{}
	n := -1
	for l := range strings.Lines(string(data)) {
		if xSection.MatchString(l) {
			n++
		}
		if m := xDriver.FindStringSubmatch(strings.TrimRight(l, "\r\n")); m != nil && slices.Contains(gpuDrivers(), strings.ToLower(m[2])) {
			out[n] = true
		}
	}
	return out
}

// screenDriver is one that the guest has: of the kernel's screen, or of VESA's.
func screenDriver(p *planner) string {
	for _, dir := range []string{"usr/lib/xorg", "usr/lib64/xorg", "usr/lib/x86_64-linux-gnu/xorg"} {
		if p.exists(path.Join(dir, "modules/drivers/modesetting_drv.so")) {
			return "modesetting"
		}
	}
	return "vesa"
}
