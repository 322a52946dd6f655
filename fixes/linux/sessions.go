package linux

import "strings"

// hideAutostart keeps desktops from starting programs at login, by the key that
// the Desktop Application Autostart Specification has for it. VirtualBox's client
// shows an error at each login where there is no VirtualBox.
func (p *planner) hideAutostart(names ...string) {
	const header = "[Desktop Entry]"
	for _, n := range names {
		name := "etc/xdg/autostart/" + n + ".desktop"
		data, ok := p.read(name)
		if !ok || strings.Contains(string(data), "\nHidden=") {
			continue
		}
		done := false
		p.write(name, data, eachLine(data, func(l string) string {
			if done || strings.TrimSpace(l) != header {
				return l
			}
			done = true
			return l + "\nHidden=true"
		}))
	}
}

// sharedFolders tells of folders of the old host, which KVM does not have.
func sharedFolders(p *planner) {
	for _, e := range p.facts.Fstab {
		switch e.Type {
		case "vboxsf":
			p.note("etc/fstab: %s on %s is a shared folder of VirtualBox, which KVM does not have", e.Spec, e.Point)
		case "prl_fs":
			p.note("etc/fstab: %s on %s is a shared folder of Parallels, which KVM does not have", e.Spec, e.Point)
		}
	}
}
