package linux

import (
	"slices"
	"strconv"
	"strings"

	"hyper2kvm/fixes/guest"
	"hyper2kvm/fixes/linux/cmdline"
	"hyper2kvm/fixes/linux/shellvars"
)

// serialPort is the first serial port of the domain, at the speed that QEMU's
// users and cloud images agree on.
const serialPort = "console=ttyS0,115200"

// serialConsole lets the kernel speak on the domain's serial port too.
//
// The last console= becomes /dev/console, where init, an emergency shell and a
// passphrase prompt speak; that stays tty0, the screen that the guest's users
// had and that the domain has too. Kernel messages go to every console, and
// systemd starts a login on each one listed (systemd-getty-generator(8)). A port
// that is not there is ignored by the kernel.
func serialConsole() fix {
	return fix{
		id:      "linux/serial-console",
		why:     "Without a console on the serial port `virsh console` shows nothing, and a boot that stops cannot be read.",
		applies: func(f *guest.Facts) bool { return f.Arch == "x86_64" || isX86(f.Arch) },
		plan: func(p *planner) error {
			set := consoleIsSet(p)
			p.cmdlines(func(pl place, a *cmdline.Args) {
				replaceXen(a)
				dropVideoMode(a)
				// grub.cfg's kernelopts and the like are whole command lines as well.
				if (pl.entry || a.Has("root") && pl.name != "rootpartition" && pl.name != "root") && !speaksSerial(a) {
					addConsole(a)
				}
			})
			if !set {
				consoleForUpdates(p)
			}
			logins(p)
			securetty(p)
			grubSerial(p)
			return nil
		},
	}
}

func isX86(arch string) bool {
	return len(arch) == 4 && arch[0] == 'i' && arch[2:] == "86"
}

// speaksSerial reports whether a command line has a console on the domain's
// serial port, or takes its arguments from elsewhere. The domain has no second
// port: a console on that, as for the management board of a physical machine,
// speaks to nobody.
func speaksSerial(a *cmdline.Args) bool {
	return a.Has("$kernelopts") || a.Has("$photon_cmdline") || slices.ContainsFunc(a.Values("console"), func(v string) bool {
		name, _, _ := strings.Cut(v, ",")
		return name == "ttyS0" || name == "ttyS" || strings.HasPrefix(v, "ttyAMA") || v == "null" || v == ""
	})
}

// addConsole puts the serial port before the consoles that are there, so that
// /dev/console stays what it was; with none, the default is the screen.
func addConsole(a *cmdline.Args) {
	for i, text := range a.All() {
		if strings.HasPrefix(text, "console=") {
			a.Insert(i, serialPort)
			return
		}
	}
	a.Add(serialPort, "console=tty0")
}

// replaceXen turns the consoles of Xen guests into the serial port: it is where
// they spoke, as text. The screen, which they did not have, is told as well.
func replaceXen(a *cmdline.Args) {
	for i := len(a.All()) - 1; i >= 0; i-- {
		key, value, _ := cmdline.Split(a.All()[i])
		name, _, _ := strings.Cut(value, ",")
		if key != "console" || name != "hvc0" && name != "xvc0" {
			continue
		}
		if speaksSerial(a) {
			a.Remove(i)
			continue
		}
		a.Set(i, serialPort)
		if len(a.Values("console")) == 1 {
			a.Insert(i, "console=tty0")
		}
	}
}

// dropVideoMode takes a VESA mode by number away: where the card does not have
// it, the kernel waits half a minute for a key (Documentation/admin-guide/svga.rst
// of Linux). What is not a number, as "normal", is on every card.
func dropVideoMode(a *cmdline.Args) {
	for i := len(a.All()) - 1; i >= 0; i-- {
		key, value, _ := cmdline.Split(a.All()[i])
		if _, err := strconv.ParseUint(value, 0, 16); key == "vga" && err == nil {
			a.Remove(i)
		}
	}
}

func grubDefaults(p *planner) []string {
	return p.once(append([]string{"etc/default/grub"}, p.list("etc/default/grub.d", ".cfg")...))
}

// consoleIsSet reports whether grub-mkconfig already gives entries a serial
// console.
func consoleIsSet(p *planner) bool {
	for _, name := range grubDefaults(p) {
		data, _ := p.read(name)
		for _, v := range shellvars.Parse(data).Vars() {
			if strings.HasPrefix(v.Name, "GRUB_CMDLINE_LINUX") && speaksSerial(cmdline.Parse(v.Value)) && v.Value != "" {
				return true
			}
		}
	}
	return false
}

// consoleForUpdates gives the consoles to entries that are made later.
func consoleForUpdates(p *planner) {
	const name = "etc/default/grub"
	data, ok := p.pending(name)
	if !ok {
		return
	}
	file := shellvars.Parse(data)
	v := file.Last("GRUB_CMDLINE_LINUX")
	switch {
	case v == nil:
		if !file.Add("GRUB_CMDLINE_LINUX", serialPort+" console=tty0") {
			p.note("%s: a quote in it is not closed; left", name)
		}
	case !speaksSerial(cmdline.Parse(v.Value)) && !cmdline.Parse(v.Value).Open():
		args := cmdline.Parse(v.Value)
		addConsole(args)
		v.Value = args.String()
	}
	p.amend(name, data, file.Bytes())
}

func uncommented(data []byte) string {
	var b strings.Builder
	for l := range strings.Lines(string(data)) {
		if !strings.HasPrefix(strings.TrimSpace(l), "#") {
			b.WriteString(l)
		}
	}
	return b.String()
}
