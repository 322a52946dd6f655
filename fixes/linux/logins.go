package linux

import (
	"path"
	"regexp"
	"slices"
	"strings"

	"hyper2kvm/fixes"
	"hyper2kvm/fixes/linux/table"
)

// xenTTYs are the consoles of Xen's guests, which no other hypervisor has.
func xenTTYs() []string { return []string{"hvc0", "xvc0"} }

// logins moves logins on Xen's console to the serial port, wherever init is
// told of them, and opens one there where it was only commented out.
func logins(p *planner) {
	inittab(p)
	upstartGettys(p)
	systemdGettys(p)
	openrcGettys(p)
}

// serialGetty matches the line for the serial port that distributions put into
// inittab as a comment: of Alpine and Photon, of Debian.
var serialGetty = regexp.MustCompile(`^#[ \t]*((?:ttyS0|T0|S0|s0):[0-9]*:respawn:\S*getty\b.*\bttyS0\b.*)$`)

// inittab edits the logins of sysvinit (inittab(5)) and of busybox.
func inittab(p *planner) {
	const name = "etc/inittab"
	data, ok := p.read(name)
	if !ok {
		return
	}
	has := slices.ContainsFunc(strings.Split(uncommented(data), "\n"), func(l string) bool {
		_, xen := xenTTY(l)
		return !xen && slices.Contains(words(l), "ttyS0")
	})
	now := eachLine(data, func(l string) string {
		if strings.HasPrefix(strings.TrimSpace(l), "#") {
			return l
		}
		tty, ok := xenTTY(l)
		switch {
		case !ok:
			return l
		case has:
			return "#" + l // busybox and init would start it again and again
		}
		has = true
		return strings.ReplaceAll(l, tty, "ttyS0")
	})
	if !has && (p.facts.Init == "sysv" || p.facts.Init == "openrc") {
		now = eachLine(now, func(l string) string {
			if m := serialGetty.FindStringSubmatch(l); m != nil && !has {
				has = true
				return m[1]
			}
			return l
		})
	}
	if !has && p.facts.Init == "sysv" {
		p.note("%s: no login on the serial port; the boot can be read there, a login needs a line of its own", name)
	}
	p.write(name, data, now)
}

// words are the fields of a line of inittab, and those of its command.
func words(l string) []string {
	return strings.FieldsFunc(l, func(r rune) bool { return strings.ContainsRune(" \t:/", r) })
}

// xenTTY gives Xen's console that a line of inittab speaks of.
func xenTTY(l string) (string, bool) {
	for _, tty := range xenTTYs() {
		if slices.Contains(words(l), tty) {
			return tty, true
		}
	}
	return "", false
}

// upstartGettys turns jobs for Xen's console into one for the serial port. Red
// Hat's serial.conf starts by itself where udev sees a serial console.
func upstartGettys(p *planner) {
	if p.facts.Init != "upstart" {
		return
	}
	has := p.any("etc/init/serial.conf", "etc/init/ttyS0.conf")
	for _, tty := range xenTTYs() {
		data, _ := p.read(path.Join("etc/init", tty+".conf"))
		has = has || strings.Contains(uncommented(data), "ttyS0")
	}
	for _, tty := range xenTTYs() {
		name := path.Join("etc/init", tty+".conf")
		data, ok := p.read(name)
		if !ok {
			continue
		}
		if has {
			if strings.Contains(uncommented(data), tty) {
				p.write(name, data, withoutStart(data))
			}
			continue
		}
		has = true
		p.write(name, data, eachLine(data, func(l string) string {
			if strings.HasPrefix(strings.TrimSpace(l), "#") {
				return l
			}
			return strings.ReplaceAll(l, tty, "ttyS0")
		}))
	}
}

// systemdGettys removes logins on Xen's console, for whose device systemd would
// wait a minute and a half. It starts one on each console of the kernel by
// itself, the serial port's among them (systemd-getty-generator(8)).
func systemdGettys(p *planner) {
	for _, dir := range p.list("etc/systemd/system", ".wants") {
		for _, tty := range xenTTYs() {
			for _, unit := range []string{"getty@", "serial-getty@"} {
				if link := path.Join(dir, unit+tty+".service"); p.exists(link) {
					p.changes = append(p.changes, fixes.Remove{Name: link})
				}
			}
		}
	}
}

// openrcGettys does so for OpenRC's script agetty, whose links carry the name of
// the terminal.
func openrcGettys(p *planner) {
	for _, level := range p.list("etc/runlevels", "") {
		for _, tty := range xenTTYs() {
			link := path.Join(level, "agetty."+tty)
			if !p.exists(link) {
				continue
			}
			p.changes = append(p.changes, fixes.Remove{Name: link})
			p.link("etc/init.d/agetty.ttyS0", "agetty")
			p.link(path.Join(level, "agetty.ttyS0"), "/etc/init.d/agetty.ttyS0")
		}
	}
}

// securetty lets root log in on the serial port, where the guest restricts root
// to a list of terminals (securetty(5)).
func securetty(p *planner) {
	const name = "etc/securetty"
	data, ok := p.read(name)
	if !ok || len(data) == 0 {
		return
	}
	rows := table.Parse(data).Rows()
	if !slices.ContainsFunc(rows, func(r *table.Row) bool { return r.Field(0) == "ttyS0" }) {
		p.write(name, data, append(ended(data), "ttyS0\n"...))
	}
}

// serialUnit is a serial port of GRUB's other than the first.
var serialUnit = regexp.MustCompile(`^[ \t]*(?:serial|GRUB_SERIAL_COMMAND=["']?serial)[ \t].*--unit=([1-9])`)

// grubSerial tells of a boot loader that speaks on a port which the domain does
// not have: its menu is not seen there, but times out as ever.
func grubSerial(p *planner) {
	names := append(grubDefaults(p), "boot/grub/grub.conf", "boot/grub/menu.lst", "boot/grub/grub.cfg", "boot/grub2/grub.cfg")
	for _, name := range p.once(names) {
		data, ok := p.pending(name)
		if !ok {
			continue
		}
		for l := range strings.Lines(string(data)) {
			if m := serialUnit.FindStringSubmatch(l); m != nil {
				p.note("%s: GRUB's menu is on serial port %s, which the domain does not have; left, and the kernel speaks on the first", name, m[1])
				break
			}
		}
	}
}
