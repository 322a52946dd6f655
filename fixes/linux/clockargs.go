package linux

import (
	"slices"
	"strings"

	"hyper2kvm/fixes/linux/cmdline"
)

// clockArgs takes arguments away that choose a clock which only the old
// hypervisor has.
func clockArgs() fix {
	return fix{
		id:  "linux/clock",
		why: "A kernel that is told to trust the old hypervisor's clock ignores that of KVM, and its time drifts.",
		plan: func(p *planner) error {
			p.cmdlines(func(pl place, a *cmdline.Args) { clockLine(p, pl, a) })
			return nil
		},
	}
}

// clockLine edits one command line. kvm-clock is chosen where nothing is said
// (Documentation/admin-guide/kernel-parameters.txt of Linux: clocksource, tsc).
func clockLine(p *planner, pl place, a *cmdline.Args) {
	for i := len(a.All()) - 1; i >= 0; i-- {
		arg := a.All()[i]
		key, value, _ := cmdline.Split(arg)
		switch {
		case key == "clocksource" && (strings.HasPrefix(value, "hyperv") || slices.Contains([]string{"xen", "vmi-timer", "vmware"}, value)):
			a.Remove(i)
		case arg == "tsc=reliable", arg == "notsc", arg == "divider=10", key == "clocksource" && value != "kvm-clock":
			p.note("%s: %s was set for the old hypervisor or by hand; left, KVM's own clock would be chosen without", pl.file, arg)
		}
	}
}
